"""Fits for the mixture: logistic regression on polynomial features and small networks, each by SGD and by SAM.

The mini-batch solver runs SGD and SAM as an optimizer does. The Newton solver minimizes the objective that batch-1 SAM
descends for a linear score (Proposition 5, eq. 13 of the book); it is convex, so the answer is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from samlib.checks import as_array, as_choice, as_number
from samlib.paper.descent import descend, offset, offset_gradient, offset_loss
from samlib.paper.mixture.model import BLUE, RED, as_points, as_signs


@dataclass(frozen=True)
class Predictor:
    """A fitted score, positive on the red side.

    Parameters
    ----------
    weights : (p,) array
        Of a linear score, one for each of its `features`, the constant's first. Of a network, see `hidden_units`.
    score : callable
        Function from weights and points (n, 2) to scores (n,).

    Examples
    --------
    >>> Predictor(np.array([1.0, 0.0, 0.0]), lambda w, x: features(x, 1) @ w).predict([[5.0, 5.0]])
    array([1])
    """

    weights: np.ndarray
    score: Callable

    def decision(self, x) -> np.ndarray:
        """The score of each point, x (n, 2) to (n,)."""
        return self.score(self.weights, as_points("x", x))

    def predict(self, x) -> np.ndarray:
        """The label of each point, (n,) in {-1, 1}."""
        return as_signs(self.decision(x))


def features(x, degree: int = 2, origin=(0.0, 0.0), scale: float = 2.0) -> np.ndarray:
    """Monomials of u = (x - origin) / scale, in the order 1, u1, u2, u1^2, u1 u2, u2^2, and so on.

    Parameters
    ----------
    x : (n, 2) array_like
        Points.
    degree : int
        The highest degree.
    origin : pair of float
        The point u = 0. It matters to SAM, since the offset rho ||phi|| grows with the distance from it: see `failure_map`.
    scale : float
        Positive.

    Returns
    -------
    (n, (degree + 1)(degree + 2) / 2) ndarray

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> features([[2.0, 4.0]])
    array([[1., 1., 2., 1., 2., 4.]])
    """
    degree, scale = as_number("degree", degree, 1, whole=True), as_number("scale", scale, strict=True)
    u, v = ((as_points("x", x) - as_points("origin", origin, ndim=1)) / scale).T
    return np.stack([u ** (total - k) * v**k for total in range(degree + 1) for k in range(total + 1)], axis=1)


def newton(phi, y, rho: float, l2: float, mass=None) -> np.ndarray:
    """The minimizer of `offset_loss`, to rounding, by a trust region and three Newton steps. Arguments as there.

    Returns
    -------
    (p,) ndarray

    Examples
    --------
    >>> newton(np.array([[1.0], [1.0]]), np.array([1, -1]), 0.0, 0.1).round(9) + 0.0
    array([0.])
    """
    mass = np.full(len(phi), 1 / len(phi)) if mass is None else mass
    given = (phi, y, rho, l2, mass)

    def hessian(w, *_):
        s = expit(offset(w, phi, y, rho))
        return (phi * (mass * s * (1 - s))[:, None]).T @ phi + l2 * np.eye(len(w))

    w = minimize(offset_loss, np.zeros(phi.shape[1]), given, method="dogleg",
                 jac=offset_gradient, hess=hessian, options={"gtol": 1e-6, "maxiter": 1000}).x  # fmt: skip
    for _ in range(3):
        w = w - np.linalg.solve(hessian(w), offset_gradient(w, *given))
    return w


def fit(x, y, *, rho: float = 0.0, degree: int = 2, solver: str = "newton", origin=(0.0, 0.0), scale: float = 2.0,
        l2: float = 1e-4, batch_size: int = 4, steps: int = 1000, lr: float = 1.0, momentum: float = 0.9, seed=0,
        mass=None) -> Predictor:  # fmt: skip
    """Logistic regression on polynomial `features` by SGD (rho = 0) or SAM. One class may be missing.

    Parameters
    ----------
    x : (n, 2) array_like
        Points.
    y : (n,) array_like
        Labels in {-1, 1}.
    rho : float
        SAM's radius.
    degree, origin, scale
        As for `features`.
    solver : {"newton", "minibatch"}
        "newton" solves eq. (13) exactly and ignores the mini-batch options; "minibatch" runs the optimizer.
    l2 : float
        The penalty, which keeps the answer finite; positive for "newton".
    batch_size, steps, lr, momentum, seed
        Mini-batch options. Batches are drawn with replacement, so SGD and SAM of one seed share them. A `batch_size` of n
        or more is the full batch.
    mass : (n,) array, optional
        For "newton", weights of the examples, which sum to 1. Those of `quadrature` give the fit to the whole population.

    Returns
    -------
    Predictor

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from samlib.mixture import Mixture
    >>> x, y, _ = Mixture().sample(40, 2, 40)
    >>> fit(x, y, rho=1.0).weights.shape
    (6,)
    """
    x, y = as_data(x, y, rho=rho, l2=l2, lr=lr, momentum=momentum)
    phi, solver = features(x, degree, origin, scale), as_choice("solver", solver, ("newton", "minibatch"))
    if mass is not None and (np.shape(mass) != y.shape or solver != "newton"):
        raise ValueError(
            f"mass must hold a weight for each of the {len(y)} points, and is for the Newton solver alone."
        )
    if solver == "newton":
        if l2 == 0:
            raise ValueError("l2 must be positive for the Newton solver: separable data have no minimizer without it.")
        weights = newton(phi, y, rho, l2, mass)
    else:

        def gradient(w, batch):
            return offset_gradient(w, phi[batch], y[batch], 0.0)

        batches, start = draw_batches(len(x), batch_size, steps, seed), np.zeros(phi.shape[1])
        weights = descend(gradient, start, batches, rho=rho, lr=lr, momentum=momentum, l2=l2, cosine=True)
    return Predictor(weights, lambda w, points: features(points, degree, origin, scale) @ w)


def fit_mlp(x, y, *, rho: float = 0.0, width: int = 32, activation: str = "tanh", scale: float = 2.0, l2: float = 1e-4,
            batch_size: int = 4, steps: int = 1000, lr: float = 0.3, momentum: float = 0.9, seed=0) -> Predictor:  # fmt: skip
    """A network of one hidden layer on x / scale, with the logistic loss, by SGD (rho = 0) or SAM.

    `failure_map` uses it.

    Parameters
    ----------
    x, y, rho, scale, l2, batch_size, steps, lr, momentum
        As for `fit`.
    width : int
        Hidden units.
    activation : {"tanh", "relu"}
    seed : int
        Seed of the initial weights, uniform on +-1 / sqrt(fan-in), and of the batches.

    Returns
    -------
    Predictor

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> fit_mlp([[1.0, 2.0], [0.0, 1.0]], [1, -1], width=3, steps=5).weights.shape
    (13,)
    """
    x, y = as_data(x, y, rho=rho, l2=l2, lr=lr, momentum=momentum)
    as_choice("activation", activation, ("tanh", "relu"))
    width, u, rng = as_number("width", width, 1, whole=True), x / scale, np.random.default_rng(seed)
    start = rng.uniform(-1, 1, 4 * width + 1) / np.sqrt(np.repeat([2, width], [3 * width, width + 1]))

    def gradient(w, batch):
        hidden, score = hidden_units(w, u[batch], activation)
        slope = -y[batch] * expit(-y[batch] * score) / len(batch)
        back = slope[:, None] * w[3 * width : -1] * (1 - hidden * hidden if activation == "tanh" else hidden > 0)
        return np.concatenate([(u[batch].T @ back).ravel(), back.sum(0), slope @ hidden, [slope.sum()]])

    batches = draw_batches(len(x), batch_size, steps, rng)
    weights = descend(gradient, start, batches, rho=rho, lr=lr, momentum=momentum, l2=l2, cosine=True)
    return Predictor(weights, lambda w, points: hidden_units(w, points / scale, activation)[1])


def hidden_units(weights: np.ndarray, u: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Hidden units (n, width) and scores (n,) of a network; `weights` (4 width + 1,) hold W1 (2, width), b1, W2 and b2.

    Examples
    --------
    >>> hidden_units(np.array([1.0, 0.0, 0.0, 2.0, 0.5]), np.array([[3.0, 0.0]]), "relu")[1]
    array([6.5])
    """
    width = len(weights) // 4
    z = u @ weights[: 2 * width].reshape(2, width) + weights[2 * width : 3 * width]
    hidden = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
    return hidden, hidden @ weights[3 * width : -1] + weights[-1]


def as_data(x, y, **options) -> tuple[np.ndarray, np.ndarray]:
    """x as (n, 2) and y as (n,) floats in {-1, 1}. Raises ValueError for anything else.

    Raises it also for an option that is not a finite number of at least 0.

    Examples
    --------
    >>> as_data([[0, 1]], [1], rho=1.0)[1]
    array([1.])
    """
    for name, value in options.items():
        as_number(name, value)
    x, y = as_points("x", x), as_array("y", y, ndim=1)
    if len(x) != len(y):
        raise ValueError(f"y holds {len(y)} labels, but x holds {len(x)} points.")
    if not np.isin(y, (RED, BLUE)).all():
        raise ValueError("y must hold only 1 (red) and -1 (blue).")
    return x, y.astype(float)


def draw_batches(n: int, batch_size: int, steps: int, seed) -> np.ndarray:
    """Indices (steps, batch_size) drawn with replacement; all n in each step where `batch_size` is n or more.

    Examples
    --------
    >>> draw_batches(3, 5, 2, seed=0).tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    batch_size, steps = as_number("batch_size", batch_size, 1, whole=True), as_number("steps", steps, 1, whole=True)
    if batch_size >= n:
        return np.broadcast_to(np.arange(n), (steps, n))
    return np.random.default_rng(seed).integers(0, n, (steps, batch_size))
