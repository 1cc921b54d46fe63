"""Fits for the mixture: logistic regression on polynomial features and small networks, each by SGD and by SAM.

The mini-batch solver runs SGD and SAM as an optimizer does. The Newton solver minimizes the objective that batch-1 SAM
descends for a linear score (Proposition 5, eq. 13 of the book); it is convex, so the answer is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from samlib.checks import as_array
from samlib.paper.mixture.model import BLUE, RED, as_mean, as_points, as_signs, whole


@dataclass(frozen=True)
class Predictor:
    """A linear score on `features`: weights (p,), constant first. `decision` is positive on the red side."""

    weights: np.ndarray
    degree: int
    origin: tuple[float, float]
    scale: float

    def decision(self, x) -> np.ndarray:
        """The score of each point, x (n, 2) to (n,)."""
        return features(x, self.degree, self.origin, self.scale) @ self.weights

    def predict(self, x) -> np.ndarray:
        """The label of each point, (n,) in {-1, 1}."""
        return as_signs(self.decision(x))


def features(x, degree: int = 2, origin=(0.0, 0.0), scale: float = 2.0) -> np.ndarray:
    """Monomials of u = (x - origin) / scale up to `degree`: (n, 2) to (n, (degree + 1)(degree + 2) / 2).

    The order is 1, u1, u2, u1^2, u1 u2, u2^2, and so on. Where the origin lies matters to SAM, whose offset
    rho ||phi|| grows away from it: see `failure_map`.
    """
    degree = whole("degree", degree, 1)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, but it is {scale}.")
    u, v = ((as_points(x) - as_mean("origin", origin)) / scale).T
    return np.stack([u ** (total - k) * v**k for total in range(degree + 1) for k in range(total + 1)], axis=1)


def objective(weights, phi, y, rho: float, l2: float) -> float:
    """Eq. (13) with its penalty: mean softplus(-(y <w, phi> - rho ||phi||)) + l2 ||w||^2 / 2, the norm and the penalty
    with the constant feature in both."""
    margin = y * (phi @ weights) - rho * np.linalg.norm(phi, axis=1)
    return np.logaddexp(0, -margin).mean() + 0.5 * l2 * weights @ weights


def newton(phi, y, rho: float, l2: float, max_steps: int = 500) -> np.ndarray:
    """The minimizer of `objective` by damped Newton steps, to rounding; phi (n, p), y (n,) in {-1, 1}, to (p,).

    From w = 0 repeat: s_i = 1 / (1 + exp(margin_i)), g = -mean_i s_i y_i phi_i + l2 w, H = mean_i s_i (1 - s_i) phi_i
    phi_i' + l2 I, step = H^-1 g, decrement = <g, step>, t = 1; while objective(w - t step) > objective(w) - 1e-4 t
    decrement + 1e-14, halve t; w = w - t step; stop once decrement < 1e-16. The objective is l2-strongly convex, so this
    converges from anywhere and the last step leaves an error far below 1e-8 in w. Raises RuntimeError after `max_steps`.
    """
    signed, offset = phi * y[:, None], rho * np.linalg.norm(phi, axis=1)
    n, p = phi.shape

    def value(w):
        return np.logaddexp(0, offset - signed @ w).mean() + 0.5 * l2 * (w @ w)

    w = np.zeros(p)
    current = value(w)
    for _ in range(max_steps):
        s = expit(offset - signed @ w)
        gradient = -(s @ signed) / n + l2 * w
        hessian = (signed * (s * (1 - s))[:, None]).T @ signed / n + l2 * np.eye(p)
        step = np.linalg.solve(hessian, gradient)
        decrement, t = gradient @ step, 1.0
        while (proposed := value(w - t * step)) > current - 1e-4 * t * decrement + 1e-14:
            t /= 2
        w, current = w - t * step, proposed
        if decrement < 1e-16:
            return w
    raise RuntimeError(f"Newton's method did not converge in {max_steps} steps.")


def descend(gradient: Callable, w, batches, *, rho: float, lr: float, momentum: float, l2: float) -> np.ndarray:
    """SGD (rho = 0) or SAM with heavy-ball momentum, weight decay `l2` and a cosine learning rate.

    `gradient(w, batch)` is the mean loss gradient on one batch of indices; `batches` is (steps, batch size). As in SAM
    (Foret et al. 2021, eq. 2-3) the perturbation rho g / ||g|| sees the batch loss alone; the penalty acts at w.
    """
    velocity = np.zeros_like(w)
    for step, batch in enumerate(batches):
        g = gradient(w, batch)
        if rho > 0 and (norm := math.sqrt(g @ g)) > 0:
            g = gradient(w + (rho / norm) * g, batch)
        velocity = momentum * velocity + g + l2 * w
        w = w - (lr * 0.5 * (1 + math.cos(math.pi * step / len(batches)))) * velocity
    return w


def fit(
    x,
    y,
    *,
    rho: float = 0.0,
    degree: int = 2,
    solver: str = "newton",
    origin=(0.0, 0.0),
    scale: float = 2.0,
    l2: float = 1e-4,
    batch_size: int = 4,
    steps: int = 1000,
    lr: float = 1.0,
    momentum: float = 0.9,
    seed: int = 0,
) -> Predictor:
    """Logistic regression on polynomial `features` by SGD (rho = 0) or SAM: x (n, 2), y (n,) in {-1, 1}.

    `solver` "newton" solves eq. (13) exactly and ignores the five mini-batch options; "minibatch" runs the optimizer,
    batches drawn with replacement from `seed` (so SGD and SAM of one seed share them; `batch_size` >= n is full batch).
    One class may be missing: l2 > 0 keeps the answer finite. Raises ValueError for bad input.
    """
    x, y = as_data(x, y)
    _check(rho=(rho, 0), l2=(l2, 0), lr=(lr, 0), momentum=(momentum, 0))
    if l2 == 0 and solver == "newton":
        raise ValueError("l2 must be positive for the Newton solver: separable data have no minimizer without it.")
    phi = features(x, degree, origin, scale)
    if solver == "newton":
        weights = newton(phi, y, rho, l2)
    elif solver == "minibatch":
        signed = phi * y[:, None]

        def gradient(w, batch):
            rows = signed[batch]
            return expit(-(rows @ w)) @ rows / -len(batch)

        batches = _batches(len(x), batch_size, steps, seed)
        weights = descend(gradient, np.zeros(phi.shape[1]), batches, rho=rho, lr=lr, momentum=momentum, l2=l2)
    else:
        raise ValueError(f'solver must be "newton" or "minibatch", not {solver!r}.')
    return Predictor(weights, int(degree), tuple(float(v) for v in origin), float(scale))


@dataclass(frozen=True)
class MLP:
    """A fitted one-hidden-layer network; `parameters` (4 width + 1,) as `fit_mlp` lays them out."""

    parameters: np.ndarray
    activation: str
    scale: float

    def decision(self, x) -> np.ndarray:
        """The score of each point, x (n, 2) to (n,)."""
        u, scores = as_points(x) / self.scale, []
        for start in range(0, len(u), 4096):  # blocks that fit a cache
            hidden, output, bias = _hidden(self.parameters, u[start : start + 4096], self.activation)
            scores.append(hidden @ output + bias)
        return np.concatenate(scores)

    def predict(self, x) -> np.ndarray:
        """The label of each point, (n,) in {-1, 1}."""
        return as_signs(self.decision(x))


def fit_mlp(
    x,
    y,
    *,
    rho: float = 0.0,
    width: int = 32,
    activation: str = "tanh",
    scale: float = 2.0,
    l2: float = 1e-4,
    batch_size: int = 4,
    steps: int = 1000,
    lr: float = 0.3,
    momentum: float = 0.9,
    seed: int = 0,
) -> MLP:
    """A network of one hidden layer ("tanh" or "relu") on x / scale, logistic loss, by SGD (rho = 0) or SAM.

    Part of the map of where Figure 5 fails. Initial weights, uniform on +-1 / sqrt(fan-in), and batches come from `seed`.
    """
    x, y = as_data(x, y)
    _check(rho=(rho, 0), l2=(l2, 0), lr=(lr, 0), momentum=(momentum, 0))
    if activation not in ("tanh", "relu"):
        raise ValueError(f'activation must be "tanh" or "relu", not {activation!r}.')
    width, u, rng = whole("width", width, 1), x / scale, np.random.default_rng(seed)
    start = np.empty(4 * width + 1)
    start[: 3 * width] = rng.uniform(-1, 1, 3 * width) / math.sqrt(2)
    start[3 * width :] = rng.uniform(-1, 1, width + 1) / math.sqrt(width)

    def gradient(w, batch):
        inputs, labels = u[batch], y[batch]
        hidden, output, bias = _hidden(w, inputs, activation)
        slope = -labels * expit(-labels * (hidden @ output + bias)) / len(batch)
        back = slope[:, None] * output * (1 - hidden * hidden if activation == "tanh" else hidden > 0)
        return np.concatenate([(inputs.T @ back).ravel(), back.sum(0), slope @ hidden, [slope.sum()]])

    batches = _batches(len(x), batch_size, steps, rng)
    return MLP(descend(gradient, start, batches, rho=rho, lr=lr, momentum=momentum, l2=l2), activation, float(scale))


def _hidden(parameters, u, activation):
    """Hidden units (n, width), output weights (width,) and output bias of a network laid out as W1 (2, width), b1, W2, b2."""
    width = len(parameters) // 4
    z = u @ parameters[: 2 * width].reshape(2, width) + parameters[2 * width : 3 * width]
    return (np.tanh(z) if activation == "tanh" else np.maximum(z, 0)), parameters[3 * width : -1], parameters[-1]


def as_data(x, y) -> tuple[np.ndarray, np.ndarray]:
    """x as (n, 2) and y as (n,) floats in {-1, 1}; raises ValueError otherwise."""
    x, y = as_points(x), as_array("y", y, ndim=1)
    if len(x) != len(y):
        raise ValueError(f"y holds {len(y)} labels, but x holds {len(x)} points.")
    if not np.isin(y, (RED, BLUE)).all():
        raise ValueError("y must hold only 1 (red) and -1 (blue).")
    return x, y.astype(float)


def _check(**bounds) -> None:
    for name, (value, low) in bounds.items():
        if isinstance(value, str) or not low <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of at least {low}, but it is {value!r}.")


def _batches(n: int, batch_size: int, steps: int, seed) -> np.ndarray:
    batch_size, steps = whole("batch_size", batch_size, 1), whole("steps", steps, 1)
    if batch_size >= n:
        return np.broadcast_to(np.arange(n), (steps, n))
    return np.random.default_rng(seed).integers(0, n, (steps, batch_size))
