"""What fits of the mixture get wrong and what they leak: exact errors, paired comparisons (claim C11), the failure map."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_rel

from samlib.checks import as_array, same_shape
from samlib.paper.mixture.fitting import as_data, fit, fit_mlp
from samlib.paper.mixture.model import BLUE, RED, Mixture, as_signs, quadrature, whole


@functools.lru_cache(maxsize=8)
def _bayes_on_grid(mixture: Mixture) -> np.ndarray:
    return mixture.bayes(quadrature(mixture)[0])


def errors(predictor, mixture: Mixture, x=None, y=None, atypical=None) -> dict[str, float]:
    """What a predictor (anything with `.decision`) gets wrong on the population, by `quadrature`; all are shares in [0, 1].

    "error"; "atypical_accuracy" (of the atypical cluster); "disagreement" (mass where it differs from the Bayes rule);
    and, given its training draw, "advantage": the best advantage of the confidence attacker, who calls a point a
    member where its signed margin y f(x) reaches a threshold. Non-members there have the draw's own cluster
    proportions, so that a difference in composition does not pass for leakage.
    """
    points, cluster, weight = quadrature(mixture)
    score = predictor.decision(points)
    label, predicted = np.where(cluster < 2, RED, BLUE), as_signs(score)
    mass = weight * mixture.shares[cluster]
    result = {
        "error": float(mass[predicted != label].sum()),
        "atypical_accuracy": float(weight[(cluster == 1) & (predicted == RED)].sum()),
        "disagreement": float(mass[predicted != _bayes_on_grid(mixture)].sum()),
    }
    if x is not None:
        x, y = as_data(x, y)
        atypical = as_array("atypical", atypical, ndim=1).astype(bool)
        same_shape("atypical", atypical, "y", y)
        counts = np.array([((y == RED) & ~atypical).sum(), ((y == RED) & atypical).sum(), (y == BLUE).sum()])
        fresh_weight = weight * (counts / len(y))[cluster]
        result["advantage"] = _advantage(y * predictor.decision(x), label * score, fresh_weight)
    return result


def mass_apart(first, second, mixture: Mixture) -> float:
    """The share of the population on which two predictors differ, by `quadrature`."""
    points, cluster, weight = quadrature(mixture)
    differ = as_signs(first.decision(points)) != as_signs(second.decision(points))
    return float((weight * mixture.shares[cluster])[differ].sum())


def _advantage(member: np.ndarray, fresh: np.ndarray, weight: np.ndarray) -> float:
    """max over tau of P(member margin >= tau) - P(fresh margin >= tau); the maximum sits at a member's margin."""
    tau = np.unique(member)
    members_below = np.searchsorted(np.sort(member), tau) / len(member)
    # bin k holds the fresh points that lie at or above exactly k of the thresholds
    bins = np.bincount(np.searchsorted(tau, fresh, side="right"), weight, len(tau) + 1)
    fresh_above = np.cumsum(bins[::-1])[::-1][1:]
    return float(max(0.0, (1 - members_below - fresh_above).max()))


class PairedTest(NamedTuple):
    """Means of both, their mean difference (SAM - SGD), paired t and its p-value, bootstrap 95 % interval of the difference."""

    sgd: float
    sam: float
    difference: float
    t: float
    p: float
    low: float
    high: float


def paired_test(sgd, sam, *, n_resamples: int = 2000, seed: int = 0) -> PairedTest:
    """Paired t-test and percentile bootstrap over draws: sgd (n,), sam (n,). Equal inputs give t = 0, p = 1."""
    sgd, sam = as_array("sgd", sgd, ndim=1), as_array("sam", sam, ndim=1)
    same_shape("sgd", sgd, "sam", sam)
    if len(sgd) < 2:
        raise ValueError("sgd must hold at least 2 draws for a paired test.")
    difference = sam - sgd
    picks = np.random.default_rng(seed).integers(0, len(sgd), (n_resamples, len(sgd)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    if np.ptp(difference) > 0:
        t, p = ttest_rel(sam, sgd)
    else:  # no spread: nothing to test, or no doubt
        t, p = (0.0, 1.0) if difference[0] == 0 else (math.copysign(math.inf, difference[0]), 0.0)
    values = (sgd.mean(), sam.mean(), difference.mean(), t, p, low, high)
    return PairedTest(*(float(v) for v in values))


@dataclass(frozen=True)
class PairedDraws:
    """What `errors` measures on paired fits, measure by measure: `sgd[measure]` and `sam[measure]` are (n_draws,)."""

    sgd: dict[str, np.ndarray]
    sam: dict[str, np.ndarray]

    def summary(self) -> dict[str, PairedTest]:
        """A `PairedTest` per measure."""
        return {name: paired_test(self.sgd[name], self.sam[name]) for name in self.sgd}


def paired_draws(
    n_draws: int = 60,
    *,
    n_typical: int = 40,
    n_atypical: int = 2,
    n_blue: int = 40,
    rho: float = 1.0,
    mixture: Mixture | None = None,
    fitter: Callable = fit,
    seed: int = 0,
    **options,
) -> PairedDraws:
    """Fit SGD and SAM to the same draws (claim C11): draw k is `mixture.sample(..., seed=(seed, k))`.

    `fitter` is `fit` or `fit_mlp`, called with `options`; SGD and SAM share the draw and, where there are any, the
    batches and the initial weights (seed k).
    """
    mixture = mixture or Mixture()
    n_draws = whole("n_draws", n_draws, 1)
    rows: dict[float, list] = {0: [], 1: []}
    for k in range(n_draws):
        draw = mixture.sample(n_typical, n_atypical, n_blue, seed=(seed, k))
        for sam in rows:
            rows[sam].append(errors(fitter(*draw[:2], rho=rho * sam, seed=k, **options), mixture, *draw))
    sgd, sam = ({name: np.array([row[name] for row in part]) for name in part[0]} for part in rows.values())
    return PairedDraws(sgd, sam)


def failure_map(n_draws: int = 20, *, seed: int = 0) -> list[dict]:
    """Where Figure 5's effect holds and where it fails: one row per setting, with the paired tests of `paired_draws`.

    Rows hold "group", "setting" and one `PairedTest` per measure. Groups: rho; number of atypical samples; degree; the
    feature origin along the line through both red clusters (0 = typical, 1 = atypical mean); batch size; networks, the
    slowest, on half of the draws.
    """
    mixture = Mixture()
    typical, atypical = np.array(mixture.typical_mean), np.array(mixture.atypical_mean)
    network = {"fitter": fit_mlp, "rho": 0.2}
    settings = [
        *(("rho", rho, {"rho": rho}) for rho in (0.25, 0.5, 1.0, 2.0, 4.0)),
        *(("n_atypical", n, {"n_atypical": n}) for n in (1, 2, 5, 20, 80)),
        *(("degree", degree, {"degree": degree}) for degree in (2, 3, 4)),
        *(("origin", t, {"origin": typical + t * (atypical - typical)}) for t in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)),
        *(("batch size", size, {"solver": "minibatch", "batch_size": size}) for size in (1, 4, 16, 40, 82)),
        *(("tanh network, width", width, network | {"width": width}) for width in (8, 32, 128)),
        ("relu network, width", 32, network | {"width": 32, "activation": "relu"}),
        ("tanh network, steps", 4000, network | {"steps": 4000}),
    ]
    return [
        {"group": group, "setting": setting}
        | paired_draws(max(n_draws // (2 if "fitter" in options else 1), 2), seed=seed, **options).summary()
        for group, setting, options in settings
    ]
