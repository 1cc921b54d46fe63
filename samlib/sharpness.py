"""How sharp the minima are: the loss around trained models, in the direction of SAM's first pass and in random ones.

A store of runs keeps no weights, so a few of its models are trained again, from the same streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from samlib.data import load_dataset
from samlib.experiment import RADIUS, Experiment
from samlib.optim import SAM
from samlib.training.common import EVALUATED, Inputs, Streams, drive
from samlib.training.each import OneModel

GRID = np.linspace(0, 3, 7)  # steps from the weights, in units of rho; GRID[AT_RHO] is 1
AT_RHO = 2
N_RANDOM = 2  # random directions, each both ways: in thousands of dimensions one is much like the next
TOLERANCE, LANCZOS = 1e-4, 10  # of the largest eigenvalue, relative; vectors that are kept


class Effort(NamedTuple):
    """At most how many models, examples of each, and epochs: seconds on one core."""

    models: int
    examples: int
    epochs: int


EFFORT = {"mlp": Effort(6, 3000, 100)}  # six pairs are the fewest that can all agree at 5 %: 2 / 2**6
LESS = Effort(2, 200, 5)  # of any other architecture


class Loss:
    """The mean cross-entropy of a model on examples, as a function of all its weights as one vector (p,).

    model: a module from inputs to logits (n, classes), in evaluation mode, so that the loss is a mean over examples;
    it is left as it is. x (n, ...), y (n,) int64, on its device. `weights` (p,) are the model's own. Plain cross-entropy:
    neither weight decay nor label smoothing is part of it. Raises ValueError where these do not fit.
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
        """Each batch's share of the mean."""
        for x, y in self.batches:
            cut = w.split([shape.numel() for shape in self.shapes.values()])
            named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), cut, strict=True)}
            with sdpa_kernel(SDPBackend.MATH):  # attention's fused kernels have no second derivative
                logits = torch.func.functional_call(self.model, named, x)
            yield nn.functional.cross_entropy(logits, y, reduction="sum") / self.n

    @torch.no_grad()
    def __call__(self, w: torch.Tensor) -> float:
        return float(sum(self._parts(w)))

    def gradient(self, w: torch.Tensor) -> torch.Tensor:
        w = w.detach().requires_grad_()
        return sum(torch.autograd.grad(part, w)[0] for part in self._parts(w))

    def hessian_product(self, v: torch.Tensor) -> torch.Tensor:
        """The Hessian at the model's weights times v (p,), by two backward passes (Pearlmutter 1994)."""
        w, total = self.weights.clone().requires_grad_(), torch.zeros_like(v)
        for part in self._parts(w):
            (g,) = torch.autograd.grad(part, w, create_graph=True)
            total += torch.autograd.grad(g @ v, w)[0]
        return total

    def largest_eigenvalue(self, *, tolerance: float = TOLERANCE, seed: int = 0) -> float:
        """The largest eigenvalue of that Hessian: power iteration that keeps its latest vectors (Lanczos, by ARPACK).

        It restarts until the relative error is below `tolerance`, from a start that `seed` fixes; trained MLPs take 11
        products. Raises RuntimeError where it does not converge.
        """
        p, like = len(self.weights), {"dtype": self.weights.dtype, "device": self.weights.device}
        start = np.random.default_rng(seed).standard_normal(p)
        if not self.hessian_product(torch.as_tensor(start, **like)).any():
            return 0.0  # ARPACK has no name for a Hessian of zeros

        def product(v):
            return self.hessian_product(torch.as_tensor(v.ravel(), **like)).double().cpu().numpy()

        found = eigsh(LinearOperator((p, p), product, dtype=float), 1, which="LA", v0=start, tol=tolerance,
                      ncv=min(p, LANCZOS), return_eigenvectors=False)  # fmt: skip
        return float(found[0])


class Landscape(NamedTuple):
    """What `measure` finds; of several models, each with a leading axis over models.

    `loss` and `gradient_norm` at the weights. How far the loss rises GRID * rho away from them, each (7,): `ascent`, along the
    gradient (at rho, Foret et al. 2021, eq. 1 to first order); `batches`, the mean over batches of the rise of each one's
    loss along its own gradient, as in training (m-sharpness, section 4.1); `random`, the mean over random directions.
    `adaptive`, the rise after ASAM's step (Kwon et al. 2021, eq. 5) of 10 rho, which no rescaling of the weights that keeps
    the function changes; `eigenvalue`, the largest of the Hessian.
    """

    loss: float | np.ndarray
    gradient_norm: float | np.ndarray
    ascent: np.ndarray
    batches: np.ndarray
    random: np.ndarray
    adaptive: float | np.ndarray
    eigenvalue: float | np.ndarray


def measure(model: nn.Module, x: torch.Tensor, y: torch.Tensor, rho: float, *, batch_size=64, seed=0) -> Landscape:
    """How the loss of a trained model on examples rises as its weights move away; arguments as `Loss`.

    batch_size: of `batches`, cut in the order of the examples. Random directions are Gaussian over all weights, scaled to rho
    as a whole, so that both contrast at equal distance; scaled filter by filter (Li et al. 2018) they would leave the
    sphere that SAM searches. They are taken both ways, which leaves curvature alone.
    Raises ValueError as `Loss`, for a rho that is negative or infinite, and for a loss that is not finite.
    """
    if not 0 <= rho < float("inf"):
        raise ValueError(f"rho must be a finite number of at least 0, not {rho}.")
    loss = Loss(model, x, y)
    w, here = loss.weights, loss(loss.weights)
    if not np.isfinite(here):
        raise ValueError(f"The loss of the model is {here}: it diverged.")

    def rise(of: Loss, direction: torch.Tensor) -> np.ndarray:
        losses = np.array([of(w + t * direction) for t in rho * GRID])
        return losses - losses[0]

    g, batches = loss.gradient(w), zip(x.split(batch_size), y.split(batch_size), strict=True)
    parts = [Loss(model, *batch) for batch in batches]
    drawn = torch.as_tensor(np.random.default_rng(seed).standard_normal((N_RANDOM, len(w)))).to(w)
    return Landscape(
        here,
        float(g.norm()),
        rise(loss, _unit(g)),
        sum(part.n / loss.n * rise(part, _unit(part.gradient(w))) for part in parts),
        np.mean([rise(loss, sign * _unit(d)) for d in drawn for sign in (1, -1)], 0),
        loss(w + RADIUS["asam"] * rho * w.abs() * _unit(w.abs() * g)) - here,
        loss.largest_eigenvalue(seed=seed),
    )


def _unit(v: torch.Tensor) -> torch.Tensor:
    """v scaled to length 1; as in SAM, zeros where it is zero."""
    norm = v.norm()
    return torch.where(norm > 0, v / norm, 0)


class Landscapes(NamedTuple):
    """Paired models of SGD and of another optimizer: a `Landscape` of arrays of each, and what was trained."""

    sgd: Landscape
    sam: Landscape
    name: str  # of the other, as people write it
    dataset: str
    rho: float
    examples: int  # of each model's subset, on which it is measured
    epochs: int
    shortened: bool  # whether that is less than the experiment's recipe


def landscapes(experiments: Mapping[str, Experiment], models: Sequence[int], *, device: str = "cpu") -> Landscapes:
    """Train the first few of `models` (indices) of both experiments of a `pair` again and `measure` each on its own subset.

    These are the models of the runs, to rounding. Where a recipe costs more than EFFORT (of an mlp) or LESS (of another
    architecture) allows, its subsets and epochs are cut to that. rho is the other optimizer's, or SAM's own recipe's where
    that has none. Raises ValueError as `measure`.
    """
    sgd, other = experiments["sgd"], next(e for name, e in experiments.items() if name != "sgd")
    effort, dataset = EFFORT.get(sgd.model, LESS), load_dataset(sgd.dataset, pool=sgd.pool, image_size=sgd.image_size)
    fraction = min(sgd.subset_fraction, effort.examples / len(dataset.y_train))
    cut = {"subset_fraction": fraction, "epochs": min(sgd.epochs, effort.epochs)}
    rho = other.rho or Experiment(dataset=sgd.dataset, optimizer="sam").rho
    inputs, y = Inputs(dataset.arrays(), "train", device), torch.tensor(np.asarray(dataset.y_train), device=device)
    found = {e.optimizer: [] for e in (sgd, other)}
    for experiment in (sgd, other):
        recipe = experiment.model_dump() | cut
        for k in models[: effort.models]:
            stream = Streams(recipe["seed"], int(k))
            member = stream.member(len(y), fraction)
            examples = np.flatnonzero(member)
            one = OneModel(recipe, inputs, y, len(examples), len(dataset.classes))
            one.begin([stream], [member])
            drive([one], recipe["epochs"])
            x = inputs.prepared(inputs.stored[examples])
            found[experiment.optimizer].append(
                measure(one.model.eval(), x, y[examples], rho, batch_size=recipe["batch_size"])
            )
    both = (Landscape(*map(np.array, zip(*one, strict=True))) for one in found.values())
    shortened = any(getattr(sgd, name) != value for name, value in cut.items())
    return Landscapes(*both, other.optimizer.upper(), dataset.name, rho, len(examples), cut["epochs"], shortened)


def valley(a, b):
    """The loss (ab - 1)^2 / 2 of the smallest deep net, x to abx, that is to map 1 to 1; all of ab = 1 is one function."""
    return (a * b - 1) ** 2 / 2


def valley_eigenvalue(a: float, b: float) -> float:
    """The largest eigenvalue of the Hessian of `valley`; a^2 + b^2 on ab = 1, so (1, 1) is its flattest minimum."""
    off = 2 * a * b - 1
    return float(np.linalg.eigvalsh([[b * b, off], [off, a * a]])[-1])


def descent(start: Sequence[float], *, rho: float, lr: float, steps: int) -> np.ndarray:
    """The path (steps + 1, 2) of the library's SAM on `valley`; of gradient descent where rho is 0."""
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
