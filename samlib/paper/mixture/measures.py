"""What fits to the mixture do: exact errors, paired comparisons (claim C11), the failure map, memorization and exposure."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr

from samlib import inference
from samlib.checks import as_member, as_number, same_shape
from samlib.paper.mixture.fitting import as_data, fit, fit_mlp
from samlib.paper.mixture.model import BLUE, RED, Mixture, as_signs, quadrature

LEVEL = 0.05 / 2  # of every interval, so that the ledger's two rows on the mixture (few and many samples) hold at once


def errors(predictor, mixture: Mixture, x=None, y=None, atypical=None) -> dict[str, float]:
    """A predictor's errors on the population, by `quadrature`. All are shares, from 0 to 1.

    Parameters
    ----------
    predictor : Predictor or Mixture
        Anything with `decision`. A mixture is its own Bayes rule.
    mixture : Mixture
        The population.
    x, y, atypical : array_like, optional
        The training draw, as `Mixture.sample` returns it.

    Returns
    -------
    dict of str to float
        "error"; "atypical_accuracy", of the atypical cluster; "disagreement", the mass where it differs from the Bayes
        rule. With a training draw also "advantage": the best advantage of the confidence attacker, who calls a point a
        member where its margin y f(x) reaches a threshold. Non-members have the draw's own cluster proportions, so that
        a difference in composition does not pass for leakage.

    Raises
    ------
    ValueError
        If the draw's parts do not agree.

    Examples
    --------
    >>> errors(Mixture(), Mixture())["disagreement"]
    0.0
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
        atypical = as_member("atypical", atypical, ndim=1)
        same_shape("atypical", atypical, "y", y)
        counts = np.bincount(np.where(y == BLUE, 2, atypical), minlength=3)
        tau = np.sort(y * predictor.decision(x))  # the best threshold is a member's margin
        reached = np.searchsorted(tau, label * score, side="right")  # by each fresh point: how many of the thresholds
        fresh_below = np.bincount(reached, weight * (counts / len(y))[cluster], len(tau) + 1).cumsum()[:-1]
        result["advantage"] = float(max(0, (fresh_below - np.arange(len(tau)) / len(tau)).max()))
    return result


@functools.lru_cache(maxsize=8)
def _bayes_on_grid(mixture: Mixture) -> np.ndarray:
    return mixture.bayes(quadrature(mixture)[0])


def mass_apart(first, second, mixture: Mixture) -> float:
    """The share of the population on which two predictors differ, by `quadrature`.

    Examples
    --------
    >>> mass_apart(Mixture(), Mixture(), Mixture())
    0.0
    """
    points, cluster, weight = quadrature(mixture)
    differ = as_signs(first.decision(points)) != as_signs(second.decision(points))
    return float((weight * mixture.shares[cluster])[differ].sum())


def population_fit(mixture: Mixture, **options) -> float:
    """The excess error over the Bayes rule of `fit` to the whole population. No number of samples removes it.

    Parameters
    ----------
    mixture : Mixture
    **options
        Options of `fit`.

    Returns
    -------
    float

    Examples
    --------
    >>> 0 < population_fit(Mixture()) < 0.005
    True
    """
    x, cluster, weight = quadrature(mixture)
    fitted = fit(x, np.where(cluster < 2, RED, BLUE), mass=weight * mixture.shares[cluster], **options)
    return errors(fitted, mixture)["error"] - errors(mixture, mixture)["error"]


@dataclass(frozen=True)
class PairedDraws:
    """The measures of `errors` on paired fits: `sgd[measure]` and `sam[measure]` are (n_draws,)."""

    sgd: dict[str, np.ndarray]
    sam: dict[str, np.ndarray]

    def summary(self) -> pd.DataFrame:
        """A paired t-test of each measure, one to a column.

        Rows: both means, "sgd" and "sam"; their "difference", SAM - SGD; "t" and "p"; "low" and "high", the ends of its
        interval at `LEVEL`. Equal measures have t = 0 and p = 1.
        """
        sgd, sam = pd.DataFrame(self.sgd), pd.DataFrame(self.sam)
        found = inference.mean((sam - sgd).T.to_numpy()[..., None])
        low, high = found.interval(LEVEL)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(found.estimate == 0, 0.0, found.estimate / found.stderr)
        rows = {"difference": found.estimate, "t": t, "p": found.p(), "low": low, "high": high}
        return pd.DataFrame({"sgd": sgd.mean(), "sam": sam.mean()} | rows).T

    def excess(self, mixture: Mixture) -> tuple[float, float, float]:
        """The larger of both optimizers' mean excess of error over the Bayes rule, with its interval at `LEVEL`.

        Each of the two has an interval at half that level; the larger excess lies between the larger lower and the larger
        upper end.
        """
        both = np.stack([self.sgd["error"], self.sam["error"]]) - errors(mixture, mixture)["error"]
        found = inference.mean(both[..., None])
        low, high = found.interval(LEVEL / 2)
        return float(found.estimate.max()), float(low.max()), float(high.max())


def paired_draws(n_draws: int = 60, *, n_typical: int = 40, n_atypical: int = 2, n_blue: int = 40, rho: float = 1.0,
                 mixture: Mixture | None = None, fitter: Callable = fit, seed: int = 0, **options) -> PairedDraws:  # fmt: skip
    """Fit SGD and SAM to the same draws (claim C11).

    Parameters
    ----------
    n_draws : int
        At least 2. Draw k is `mixture.sample(..., seed=(seed, k))`.
    n_typical, n_atypical, n_blue : int
        Samples of each cluster in a draw.
    rho : float
        SAM's radius.
    mixture : Mixture, optional
    fitter : callable
        `fit` or `fit_mlp`, called with `options`. Both optimizers share batches and initial weights, by seed k.
    seed : int

    Returns
    -------
    PairedDraws

    Examples
    --------
    >>> draws = paired_draws(2)
    >>> draws.sam["error"].shape
    (2,)
    """
    mixture = mixture or Mixture()
    rows: tuple[list, list] = [], []
    for k in range(as_number("n_draws", n_draws, 2, whole=True)):
        draw = mixture.sample(n_typical, n_atypical, n_blue, seed=(seed, k))
        for radius, into in zip((0.0, rho), rows, strict=True):
            into.append(errors(fitter(*draw[:2], rho=radius, seed=k, **options), mixture, *draw))
    return PairedDraws(*({name: np.array([row[name] for row in part]) for name in part[0]} for part in rows))


def failure_map(n_draws: int = 20, *, seed: int = 0) -> pd.DataFrame:
    """Where Figure 5's effect holds and where it fails, setting by setting.

    Each group changes one thing: rho, the number of atypical samples, the degree, the feature origin, the batch size, or the
    model, which is then a network. The origin moves along the line through both red clusters; 0 is the typical mean, 1 the
    atypical one. Two origins far away have a hundredth of the penalty as well. One row has batches of one sample and ten times
    the steps. Networks are slow, so they get half of the draws; one of them has the whole draw as its batch.

    Parameters
    ----------
    n_draws, seed : int
        As for `paired_draws`.

    Returns
    -------
    pandas.DataFrame
        A row for each "group" and "setting". For each measure, the columns are what `PairedDraws.summary` says of it.

    Examples
    --------
    >>> rows = failure_map(2)  # doctest: +SKIP
    """
    mixture = Mixture()
    typical, atypical = np.array(mixture.typical_mean), np.array(mixture.atypical_mean)
    network: dict = {"fitter": fit_mlp, "rho": 0.2}
    relu = network | {"activation": "relu"}

    def origin(t: float) -> dict:
        return {"origin": typical + t * (atypical - typical)}

    settings: list[tuple[str, float, dict]] = [
        *(("ρ", rho, {"rho": rho}) for rho in (0.25, 0.5, 1.0, 2.0, 4.0)),
        *(("atypical samples", n, {"n_atypical": n}) for n in (1, 2, 5, 20, 80)),
        *(("degree", degree, {"degree": degree}) for degree in (2, 3, 4)),
        *(("origin", t, origin(t)) for t in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)),
        *(("origin, small penalty", t, origin(t) | {"l2": 1e-6}) for t in (-0.5, 1.5)),
        *(("batch size", size, {"solver": "minibatch", "batch_size": size}) for size in (1, 4, 16, 40, 82)),
        ("batch size 1, steps", 10_000, {"solver": "minibatch", "batch_size": 1, "steps": 10_000}),
        *(("tanh units", width, network | {"width": width}) for width in (8, 32, 128)),
        ("32 tanh units, steps", 4_000, network | {"steps": 4_000}),
        *(("32 ReLU units, batch size", size, relu | {"batch_size": size}) for size in (4, 82)),
    ]
    rows = {}
    for group, setting, options in settings:
        number = max(n_draws // (2 if "fitter" in options else 1), 2)
        rows[group, setting] = paired_draws(number, seed=seed, **options).summary().unstack()
    return pd.DataFrame(rows).T.rename_axis(["group", "setting"])


def memorization(x, y, **options) -> np.ndarray:
    """How much more probable each point's label becomes by training on it: the exact leave-one-out difference.

    Parameters
    ----------
    x : (n, 2) array_like
        Points.
    y : (n,) array_like
        Labels in {-1, 1}.
    **options
        Options of `fit`.

    Returns
    -------
    (n,) ndarray
        P(label | x) under the fit to all points, less that under the fit to all others.

    References
    ----------
    Feldman and Zhang (2020), "What neural networks memorize and why". Here a label is drawn with its predicted probability.

    Examples
    --------
    >>> bool(memorization([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]], [1, 1, -1])[2] > 0.9)
    True
    """
    x, y = as_data(x, y)
    others = ~np.eye(len(x), dtype=bool)
    outside = [fit(x[kept], y[kept], **options).decision(x[~kept])[0] for kept in others]
    return expit(y * fit(x, y, **options).decision(x)) - expit(y * outside)


def exposure(x, y, member, **options) -> np.ndarray:
    """How well LiRA tells fits that saw a point from fits that did not: the AUC of two Gaussians, fitted to its logits.

    Parameters
    ----------
    x, y
        As for `memorization`.
    member : (fits, n) array_like of bool
        Which points each shadow fit sees.
    **options
        Options of `fit`.

    Returns
    -------
    (n,) ndarray
        Phi((mean in - mean out) / sqrt(variance in + variance out)) of the label's logit.

    Raises
    ------
    ValueError
        If `member` has another number of points, or all shadow fits saw a point, or none did.

    References
    ----------
    Carlini et al. (2022), "Membership inference attacks from first principles".

    Examples
    --------
    >>> member = [[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 0]]
    >>> bool(exposure([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]], [1, 1, -1], member)[2] > 0.9)
    True
    """
    x, y = as_data(x, y)
    member = as_member("member", member, ndim=2)
    if member.shape[1] != len(x):
        raise ValueError(f"member must have a column for each of the {len(x)} points, but its shape is {member.shape}.")
    if member.all(0).any() or not member.any(0).all():
        raise ValueError("member must have, for each point, a fit that saw it and one that did not.")
    logits = np.stack([y * fit(x[seen], y[seen], **options).decision(x) for seen in member])
    inside, outside = np.where(member, logits, np.nan), np.where(member, np.nan, logits)
    distance = np.nanmean(inside, axis=0) - np.nanmean(outside, axis=0)
    return ndtr(distance / np.sqrt(np.nanvar(inside, axis=0) + np.nanvar(outside, axis=0)))
