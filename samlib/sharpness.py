"""How sharp minima are: the loss around trained models, along the direction of SAM's first pass and random ones.

A store of runs keeps no weights, so a few of its models are trained again from the same streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from samlib.checks import as_number
from samlib.data import load_dataset
from samlib.experiment import RADIUS, Experiment
from samlib.optim import SAM
from samlib.training.common import EVALUATED, Inputs, Streams, drive, subset_size
from samlib.training.each import OneModel

GRID = np.linspace(0, 3, 7)  # distances from the weights, in units of rho; GRID[AT_RHO] is 1
AT_RHO = 2
N_RANDOM = 2  # random directions, each taken both ways; in thousands of dimensions they are much alike
TOLERANCE, LANCZOS = 1e-4, 10  # the relative tolerance of the eigenvalue; the number of vectors kept


class Effort(NamedTuple):
    """Limits on the models, the examples of each, and the epochs. Within them, a measurement takes seconds on one core."""

    models: int
    examples: int
    epochs: int


EFFORT = {"mlp": Effort(6, 3000, 100)}  # six pairs are the fewest that can show a difference at 5 %: 2 / 2**6
LESS = Effort(2, 200, 5)  # for any other architecture


class Loss:
    """The mean cross-entropy of a model on examples, as a function of all its weights as one vector (p,).

    It has no weight decay and no label smoothing. The model is not changed. Attribute `weights` (p,) holds its weights.

    Parameters
    ----------
    model : nn.Module
        From inputs to logits (n, classes), in evaluation mode, so that the loss is a mean over examples.
    x, y : (n, ...) tensor and (n,) int64 tensor
        The examples, on the model's device.
    batch_size : int
        The number of examples to evaluate at once.

    Raises
    ------
    ValueError
        If the model is in training mode, x and y differ in length, or they are empty.

    Examples
    --------
    >>> loss = Loss(nn.Linear(3, 2).eval(), torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))
    >>> loss.gradient(loss.weights).shape
    torch.Size([8])
    >>> round(loss(torch.zeros(8)), 3)
    0.693
    """

    def __init__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, batch_size: int = EVALUATED["cpu"]):
        if model.training:
            raise ValueError("model must be in evaluation mode: call model.eval().")
        if not len(y) or len(x) != len(y):
            raise ValueError(f"x and y must hold the same examples, at least one, but have {len(x)} and {len(y)}.")
        self.model, self.n = model, len(y)
        self.batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        named = dict(model.named_parameters())
        self.shapes = {name: p.shape for name, p in named.items()}
        self.weights = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def _parts(self, w: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield each batch's share of the mean."""
        for x, y in self.batches:
            cut = w.split([shape.numel() for shape in self.shapes.values()])
            named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), cut, strict=True)}
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
                logits = torch.func.functional_call(self.model, named, x)
            yield nn.functional.cross_entropy(logits, y, reduction="sum") / self.n

    @torch.no_grad()
    def __call__(self, w: torch.Tensor) -> float:
        return float(sum(self._parts(w)))

    def gradient(self, w: torch.Tensor) -> torch.Tensor:
        """The gradient (p,) at weights w (p,)."""
        w = w.detach().requires_grad_()
        return sum((torch.autograd.grad(part, w)[0] for part in self._parts(w)), torch.zeros_like(w))

    def hessian_product(self, v: torch.Tensor) -> torch.Tensor:
        """The product (p,) of the Hessian at the model's weights and v (p,), by two backward passes (Pearlmutter 1994)."""
        w, total = self.weights.clone().requires_grad_(), torch.zeros_like(v)
        for part in self._parts(w):
            (g,) = torch.autograd.grad(part, w, create_graph=True)
            total += torch.autograd.grad(g @ v, w)[0]
        return total

    def largest_eigenvalue(self, *, tolerance: float = TOLERANCE, seed: int = 0) -> float:
        """The largest eigenvalue of the Hessian at the model's weights, by Lanczos iteration (ARPACK).

        It restarts until the relative error is below `tolerance`. `seed` fixes the start. Trained MLPs take 11 products.
        Raises RuntimeError if it does not converge.
        """
        p = len(self.weights)
        start = np.random.default_rng(seed).standard_normal(p)

        def product(v):
            return self.hessian_product(torch.as_tensor(v.ravel()).to(self.weights)).double().cpu().numpy()

        if not product(start).any():
            return 0.0  # ARPACK fails on a Hessian of zeros
        options = {"tol": tolerance, "ncv": min(p, LANCZOS), "return_eigenvectors": False}
        return float(eigsh(LinearOperator((p, p), product, dtype=float), 1, which="LA", v0=start, **options)[0])


class Landscape(NamedTuple):
    """The results of `measure`. For several models, each has a leading axis over models.

    Attributes
    ----------
    loss, gradient_norm : float
        At the weights.
    ascent : (7,)
        The rise of the loss at distances GRID * rho along the gradient. At rho this is the sharpness of Foret et al. 2021,
        eq. 1, to first order.
    batches : (7,)
        The rise of a batch's loss along its own gradient, as in training (m-sharpness, section 4.1). The mean over batches.
    random : (7,)
        The mean rise along random directions.
    adaptive : float
        The rise after ASAM's step (Kwon et al. 2021, eq. 5) of 10 rho. A rescaling of the weights that keeps the function
        does not change it.
    eigenvalue : float
        The largest eigenvalue of the Hessian.
    """

    loss: float | np.ndarray
    gradient_norm: float | np.ndarray
    ascent: np.ndarray
    batches: np.ndarray
    random: np.ndarray
    adaptive: float | np.ndarray
    eigenvalue: float | np.ndarray


def measure(model: nn.Module, x: torch.Tensor, y: torch.Tensor, rho: float, *, batch_size=64, seed=0) -> Landscape:
    """Measure how the loss of a trained model rises as its weights move away.

    Parameters
    ----------
    model, x, y
        As in `Loss`.
    rho : float
        The unit of distance: SAM's radius, at least 0.
    batch_size : int
        The size of the batches in `Landscape.batches`, which are cut in the order of the examples.
    seed : int
        Seed of the random directions.

    Returns
    -------
    Landscape

    Raises
    ------
    ValueError
        As `Loss`; also if rho is negative or infinite, or the loss is not finite.

    Notes
    -----
    Random directions are Gaussian over all weights. They are scaled as a whole, to compare with the gradient at equal
    distance. If they were scaled filter by filter (Li et al. 2018), they would leave the sphere that SAM searches. Each is
    taken both ways, which cancels the slope and leaves the curvature.

    Examples
    --------
    >>> model = nn.Linear(3, 2).eval()
    >>> found = measure(model, torch.ones(4, 3), torch.tensor([0, 1, 0, 0]), rho=0.1)
    >>> found.ascent.shape, bool(found.ascent[AT_RHO] > 0)
    ((7,), True)
    """
    rho, loss = as_number("rho", rho), Loss(model, x, y)
    w, here = loss.weights, loss(loss.weights)
    if not np.isfinite(here):
        raise ValueError(f"The loss of the model is {here}: it diverged.")

    def rise(of: Loss, direction: torch.Tensor) -> np.ndarray:
        losses = np.array([of(w + t * direction) for t in rho * GRID])
        return losses - losses[0]

    g = loss.gradient(w)
    parts = [Loss(model, *batch) for batch in zip(x.split(batch_size), y.split(batch_size), strict=True)]
    drawn = torch.as_tensor(np.random.default_rng(seed).standard_normal((N_RANDOM, len(w)))).to(w)
    return Landscape(
        here,
        float(g.norm()),
        rise(loss, _unit(g)),
        sum((part.n / loss.n * rise(part, _unit(part.gradient(w))) for part in parts), np.zeros(len(GRID))),
        np.mean([rise(loss, sign * _unit(d)) for d in drawn for sign in (1, -1)], 0),
        loss(w + RADIUS["asam"] * rho * w.abs() * _unit(w.abs() * g)) - here,
        loss.largest_eigenvalue(seed=seed),
    )


def _unit(v: torch.Tensor) -> torch.Tensor:
    """v scaled to length 1. As in SAM, zeros stay zeros."""
    norm = v.norm()
    return torch.where(norm > 0, v / norm, 0)


class Landscapes(NamedTuple):
    """Landscapes of paired models of SGD and of another optimizer, and how the models were trained."""

    sgd: Landscape
    sam: Landscape
    name: str  # of the other optimizer, as people write it
    dataset: str
    rho: float
    examples: int  # in each model's subset, on which it is measured
    epochs: int
    shortened: bool  # whether the examples or epochs are fewer than in the experiment's recipe


def landscapes(experiments: Mapping[str, Experiment], models: Sequence[int], *, device: str = "cpu") -> Landscapes:
    """Train a few models of both experiments of a pair again, and `measure` each on its own subset.

    To rounding, these are the models of the runs. EFFORT (for an mlp) and LESS (for any other architecture) limit the
    subsets and the epochs.

    Parameters
    ----------
    experiments : mapping
        "sgd" and one other name to an `Experiment`, as `pair` makes it.
    models : sequence of int
        The indices of the models. The first few are trained.
    device : str
        "cpu", "cuda" or "cuda:1".

    Returns
    -------
    Landscapes
        Measured at the other optimizer's rho. If it has none, that of SAM's own recipe is taken.

    Raises
    ------
    ValueError
        As `measure`.

    Examples
    --------
    >>> from samlib.experiment import pair
    >>> experiments = pair("sam", dataset="digits", pool=60, hidden=(4,), epochs=1, batch_size=16)
    >>> found = landscapes(experiments, models=[0, 1])
    >>> found.sam.ascent.shape, found.name
    ((2, 7), 'SAM')
    """
    sgd, other = experiments["sgd"], next(e for name, e in experiments.items() if name != "sgd")
    effort, dataset = EFFORT.get(sgd.model, LESS), load_dataset(sgd.dataset, pool=sgd.pool, image_size=sgd.image_size)
    fraction = min(sgd.subset_fraction, effort.examples / len(dataset.y_train))
    epochs = min(sgd.epochs, effort.epochs)
    rho = other.rho or Experiment(dataset=sgd.dataset, optimizer="sam").rho
    inputs, y = Inputs(dataset.arrays(), "train", device), torch.tensor(np.asarray(dataset.y_train), device=device)
    examples = subset_size(len(y), fraction)

    def landscape(experiment: Experiment) -> Landscape:
        recipe, found = experiment.model_dump() | {"subset_fraction": fraction, "epochs": epochs}, []
        for k in models[: effort.models]:
            stream = Streams(recipe["seed"], int(k))
            member = stream.member(len(y), fraction)
            one = OneModel(recipe, inputs, y, examples, len(dataset.classes))
            one.begin([stream], [member])
            drive([one], epochs)
            x = inputs.prepared(inputs.stored[member])
            found.append(measure(one.model.eval(), x, y[member], rho, batch_size=recipe["batch_size"]))
        return Landscape(*map(np.array, zip(*found, strict=True)))

    shortened, name = (fraction, epochs) != (sgd.subset_fraction, sgd.epochs), other.optimizer.upper()
    return Landscapes(landscape(sgd), landscape(other), name, dataset.name, rho, examples, epochs, shortened)


def valley(a, b):
    """The loss (ab - 1)^2 / 2 of the smallest deep net, x to abx, which should map 1 to 1.

    It is 0 where ab = 1; all these weights give the same function.

    Parameters
    ----------
    a, b : float or tensor
        The weights.

    Returns
    -------
    float or tensor

    Examples
    --------
    >>> valley(2.0, 0.5), valley(1.0, 2.0)
    (0.0, 0.5)
    """
    return (a * b - 1) ** 2 / 2


def valley_eigenvalue(a: float, b: float) -> float:
    """The largest eigenvalue of the Hessian of `valley`.

    On ab = 1 it is a^2 + b^2, so (1, 1) is the flattest minimum.

    Parameters
    ----------
    a, b : float
        The weights.

    Returns
    -------
    float

    Examples
    --------
    >>> round(valley_eigenvalue(1.0, 1.0), 6), round(valley_eigenvalue(2.0, 0.5), 6)
    (2.0, 4.25)
    """
    off = 2 * a * b - 1
    return float(np.linalg.eigvalsh([[b * b, off], [off, a * a]])[-1])


def descent(start: Sequence[float], *, rho: float, lr: float, steps: int) -> np.ndarray:
    """The path of the library's SAM on `valley`; with rho = 0, that of gradient descent.

    Parameters
    ----------
    start : (2,)
        The first point, (a, b).
    rho, lr : float
        SAM's radius and the learning rate.
    steps : int

    Returns
    -------
    (steps + 1, 2) float64 array

    Examples
    --------
    >>> path = descent((2.0, 0.4), rho=0.0, lr=0.1, steps=50)
    >>> path.shape, round(float(path[-1].prod()), 4)
    ((51, 2), 1.0)
    """
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = SAM([w], torch.optim.SGD, rho, lr=lr)

    def closure():
        loss = valley(*w)
        loss.backward()
        return loss

    path = [w.detach().numpy().copy()]
    for _ in range(steps):
        optimizer.step(closure)
        path.append(w.detach().numpy().copy())
    return np.array(path)
