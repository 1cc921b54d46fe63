"""SAM's step, and the loss that batch-1 SAM descends, in numpy. The mixture's fits and the theory use them.

A test compares the step with `samlib.SAM`. These models have few weights and take thousands of steps. In torch, most of the
time would be overhead.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import expit


def sam_gradient(gradient: Callable, w, rho: float) -> np.ndarray:
    """SAM's gradient (Foret et al. 2021, eq. 3): `gradient` at w + rho g / ||g||, g = gradient(w).

    Parameters
    ----------
    gradient : callable
        Function from weights to an array of their shape.
    w : (..., p) array
        Weights, of one model or of many.
    rho : float
        The radius.

    Returns
    -------
    (..., p) ndarray

    Examples
    --------
    >>> sam_gradient(lambda w: 2 * w, np.array([3.0, 4.0]), 5.0)
    array([12., 16.])
    """
    g = gradient(w)
    if rho == 0:
        return g
    norm = np.sqrt((g * g).sum(-1, keepdims=True))
    return gradient(w + rho / np.maximum(norm, 1e-300) * g)  # where g is 0, at w itself


def descend(gradient: Callable, w, batches, *, rho: float, lr: float, momentum=0.0, l2=0.0, cosine=False) -> np.ndarray:
    """SGD (rho = 0) or SAM, as `samlib.SAM` over `torch.optim.SGD` would step.

    Parameters
    ----------
    gradient : callable
        Function from (w, batch) to the gradient of the batch's mean loss, of w's shape.
    w : (..., p) array_like
        Initial weights, of one model or of many.
    batches : sequence
        A batch for each step.
    rho, lr, momentum, l2 : float
        Radius, learning rate, heavy-ball momentum and weight decay. The decay is taken at w; SAM's move leaves it out.
    cosine : bool
        Whether the learning rate falls to 0 along a cosine.

    Returns
    -------
    (..., p) ndarray

    Examples
    --------
    >>> descend(lambda w, batch: w - batch, [0.0], [4.0, 6.0], rho=0.0, lr=1.0)
    array([6.])
    """
    w = np.array(w, float)
    velocity = np.zeros_like(w)
    for step, batch in enumerate(batches):
        g = sam_gradient(lambda v, batch=batch: gradient(v, batch), w, rho)
        velocity = momentum * velocity + g + l2 * w
        w -= (lr * (0.5 * (1 + math.cos(math.pi * step / len(batches))) if cosine else 1)) * velocity
    return w


def offset_loss(w, phi, y, rho: float, l2: float = 0.0, mass=None) -> float:
    """Eq. (13) with the logistic loss and a penalty: mean log(1 + exp(rho ||phi|| - y <w, phi>)) + l2 ||w||^2 / 2.

    The norm and the penalty include the constant feature.

    Parameters
    ----------
    w : (p,) array
        Weights.
    phi : (n, p) array
        Features.
    y : (n,) array
        Labels in {-1, 1}.
    rho, l2 : float
        SAM's radius, and the penalty.
    mass : (n,) array, optional
        Weights of the examples, which sum to 1; equal by default.

    Returns
    -------
    float

    Examples
    --------
    >>> round(offset_loss(np.zeros(2), np.ones((3, 2)), np.ones(3), 0.0), 4)
    0.6931
    """
    return float(np.average(np.logaddexp(0, offset(w, phi, y, rho)), weights=mass) + 0.5 * l2 * w @ w)


def offset_gradient(w, phi, y, rho: float, l2: float = 0.0, mass=None) -> np.ndarray:
    """Gradient of `offset_loss`, (p,). Arguments as there.

    Examples
    --------
    >>> offset_gradient(np.zeros(2), np.ones((3, 2)), np.ones(3), 0.0)
    array([-0.5, -0.5])
    """
    slope = expit(offset(w, phi, y, rho)) * (1 / len(y) if mass is None else mass)
    return l2 * w - (slope * y) @ phi


def offset(w, phi, y, rho: float) -> np.ndarray:
    """How far each example's margin lies below what eq. (13) asks for, (n,). Arguments as `offset_loss`.

    Examples
    --------
    >>> offset(np.zeros(2), np.array([[3.0, 4.0]]), np.ones(1), 2.0)
    array([10.])
    """
    return (rho * np.linalg.norm(phi, axis=1) if rho else 0.0) - y * (phi @ w)
