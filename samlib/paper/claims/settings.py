"""Many pairs of runs beside each other: other optimizers (Table 3, C14), ablations, and comparisons at equal loss or accuracy."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samlib.audit import Pair, attack_scores, compared
from samlib.estimators import memorization_terms
from samlib.evaluation import auc_terms, resampled
from samlib.paper.claims.ledger import CLAIMS, CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, SUPPORTED, decide, verdict
from samlib.paper.study import SHARPNESS_AWARE

PATTERN = ("C1", "C2 confidence", "C2 LiRA")  # what C14 says of every sharpness-aware optimizer
SMALLEST = 0.005  # difference in AUC that counts, as in the ledger
ACCURACY, AUC, AUC_LIRA, MEMORIZATION = "test accuracy", "AUC, confidence", "AUC, LiRA online", "mean memorization"


def terms(pair: Pair, measure: str) -> list[np.ndarray]:
    """First-order terms (models, points) of a measure, of SGD and of the other optimizer."""
    if measure == ACCURACY:
        return [runs.test_correct.values.astype(float) for runs in pair[:2]]
    if measure == AUC:  # of all examples: this attack needs no other models
        return [auc_terms(runs.logit.values, runs.member.values) for runs in pair[:2]]
    if measure == AUC_LIRA:
        found = [attack_scores(runs, ("LiRA online",)) for runs in pair[:2]]
        return [auc_terms(each.scores["LiRA online"], each.member) for each in found]
    both = [memorization_terms(runs.correct.values, runs.member.values) for runs in pair[:2]]
    return [each[:, ~np.isnan(each[0])] for each in both]


def measured(pairs: Mapping[Hashable, Pair], measures: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Measures of many pairs: index (*names, measure); columns sgd, sam, difference, low, high (95 %)."""
    rows = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(no estimate|are left out)")  # few models; the pages say how many
        for key, pair in pairs.items():
            for measure in measures:
                rows[(*key, measure) if isinstance(key, tuple) else (key, measure)] = compared(*terms(pair, measure))
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=[*names, "measure"])
    return frame


def optimizer_table(pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """Table 3: index (optimizer, measure), columns as `measured`."""
    return measured(pairs, (ACCURACY, MEMORIZATION, AUC, AUC_LIRA), ("optimizer",))


def optimizer_ledger(pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """C14: the claims of PATTERN for each optimizer, Holm-corrected over all of them; index (optimizer, claim)."""
    wanted = [claim for claim in CLAIMS if claim.id in PATTERN]
    claims, effects = [], {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*are left out")
        for name, pair in pairs.items():
            for claim in wanted:
                claims.append(dataclasses.replace(claim, id=f"{name} {claim.id}"))
                effects[claims[-1].id] = claim.measure(pair)
    n_models = min(pair.sgd.sizes["model"] for pair in pairs.values())
    frame = pd.DataFrame(decide(effects, tuple(claims), n_models))
    frame.index = pd.MultiIndex.from_product([pairs, [claim.id for claim in wanted]], names=["optimizer", "claim"])
    return frame


def pattern(rows: pd.DataFrame) -> str:
    """The verdict of "better accuracy and easier to attack": supported where every part is, contradicted where any part is."""
    found = set(rows["verdict"])
    if found == {SUPPORTED}:
        return SUPPORTED
    return next(said for said in (CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE) if said in found)


def pattern_sentence(ledger: pd.DataFrame, optimizer: str) -> str:
    """One optimizer's rows of `optimizer_ledger` in a sentence."""
    rows = ledger.loc[optimizer]
    kind = "" if optimizer.partition(",")[0] in SHARPNESS_AWARE else ", which averages weights and seeks no sharpness,"
    parts = "; ".join(
        f"{row.statistic.removesuffix(', SAM - SGD')} {row.estimate:+.4f} ({row.low:+.4f} to {row.high:+.4f}): {row.verdict}"
        for row in rows.itertuples()
    )
    start = f"**{pattern(rows).capitalize()}, by its weakest part.** {optimizer.upper()}{kind}"
    return f"{start} tests better than SGD and is easier to attack. {parts}."


def ablation_table(pairs: Mapping[tuple[str, Any], Pair]) -> pd.DataFrame:
    """Gains in each setting of `study.ablation_pairs`: index (field, value, measure), columns as `measured`.

    A value that is no number stands as `category` names it.
    """
    named = {(field, category(value)): pair for (field, value), pair in pairs.items()}
    return measured(named, (ACCURACY, AUC), ("field", "value"))


def category(value: Any) -> Any:
    """A setting that is no number, in a word; numbers as they are. pandas would take True and 1 for the same setting."""
    return ("on" if value else "off") if isinstance(value, bool) else value


class Explained(NamedTuple):
    """The gain in AUC over the gain in accuracy, across settings: `slope`, and `intercept` (at equal accuracy) with its interval.

    `share` of the variance between settings that accuracy explains.
    """

    slope: float
    intercept: float
    low: float
    high: float
    share: float
    settings: int


def explained(pairs: Mapping[tuple[str, Any], Pair], *, n_resamples: int = 2000) -> Explained:
    """Does test accuracy alone explain attack success? A line through AUC gains over accuracy gains, one point a setting.

    Both gains are noisy, and the noise that few models leave in accuracy would bend the least-squares line away from the
    origin: so the moments are corrected for it; NaN where the accuracies differ by no more than noise. The interval resamples
    the models, the same ones in each setting (model k has the same seed everywhere). A setting that several fields share (the
    recipe) counts once; the number of models is no setting of training.
    """
    alone = {
        (pair.sgd.attrs["key"], pair.sam.attrs["key"]): pair
        for (field, _), pair in pairs.items()
        if field != "n_models"
    }
    each = [gains[:, 1] - gains[:, 0] for gains in (_per_model(alone.values(), measure) for measure in (ACCURACY, AUC))]
    (gain_x, gain_y), draws = _replicates(each, n_resamples)
    noise = _noise(*each)
    slope, intercept = _line(gain_x, gain_y, noise)
    again = [_line(*draw, 2 * noise)[1] for draw in draws]  # a resample has its own noise beside that of the models
    low, high = np.nanquantile(again, [0.025, 0.975]) if np.isfinite(again).any() else (math.nan, math.nan)
    share = float(np.corrcoef(gain_x, gain_y)[0, 1] ** 2) if gain_y.var() > 0 and gain_x.var() > 0 else math.nan
    return Explained(slope, intercept, float(low), float(high), share, len(alone))


def explained_sentence(found: Explained) -> str:
    if math.isnan(found.low):
        return "**Inconclusive.** The settings differ in accuracy by no more than noise, so they cannot say what it explains."
    start = (
        f"Across {found.settings} settings, the gain in test accuracy explains {found.share:.0%} of the differences in the "
        f"gain of the attack's AUC (slope {found.slope:+.2f}). At equal test accuracy the fitted difference in AUC is "
        f"{found.intercept:+.4f} (95 % interval {found.low:+.4f} to {found.high:+.4f}; {SMALLEST:g} counts)."
    )
    said = verdict(found.intercept, found.low, found.high, 1, SMALLEST)
    no = "No, test accuracy alone does not explain it."
    head = {SUPPORTED: no, CONTRADICTED: no, NO_DIFFERENCE: "At equal test accuracy, no difference that counts."}
    return f"**{head.get(said, 'Inconclusive.')}** {start}"


class Matched(NamedTuple):
    """AUC of the confidence attack over a coordinate that training moves. `x`, `auc` (epochs, 2: SGD and the other), `epochs`.

    `difference`, the other's AUC minus SGD's where both curves reach the same x, averaged over the common range, with a
    95 % interval; NaN where the ranges do not overlap.
    """

    x: np.ndarray
    auc: np.ndarray
    epochs: np.ndarray
    difference: float
    low: float
    high: float


TRAIN_LOSS = "train loss"


def matched(pairs: Mapping[tuple[str, Any], Pair], by: str, *, n_resamples: int = 1000) -> Matched:
    """The two optimizers at equal train loss (`by` TRAIN_LOSS) or equal test accuracy (ACCURACY), interpolating over epochs."""
    over = {value: pair for (field, value), pair in pairs.items() if field == "epochs"}
    auc = _per_model(over.values(), AUC)
    x = _per_model(over.values(), by)
    if by == TRAIN_LOSS:
        x = np.log10(x)  # mean over models of the logarithm: losses span decades
    (at, success), draws = _replicates([x, auc], n_resamples)
    low, high = at.min(0).max(), at.max(0).min()
    result = [math.nan] * 3
    if low < high:
        grid = np.linspace(low, high, 50)
        again = [_gap(*draw, grid) for draw in draws]
        result = [_gap(at, success, grid), *(float(v) for v in np.quantile(again, [0.025, 0.975]))]
    return Matched(10**at if by == TRAIN_LOSS else at, success, np.array(list(over)), *result)


def matched_sentence(found: Matched, by: str, name: str = "SAM") -> str:
    if math.isnan(found.difference):
        return f"SGD and {name} never reach the same {by} in these runs, so they cannot be compared at an equal one."
    head = {
        SUPPORTED: f"{name} leaks more at equal {by}.",
        CONTRADICTED: f"{name} leaks less at equal {by}.",
        NO_DIFFERENCE: f"No difference that counts at equal {by}.",
    }.get(verdict(found.difference, found.low, found.high, 1, SMALLEST), "Inconclusive.")
    return (
        f"**{head}** At equal {by}, {name}'s AUC differs from SGD's by {found.difference:+.4f} "
        f"(95 % interval {found.low:+.4f} to {found.high:+.4f}; {SMALLEST:g} counts)."
    )


def _per_model(pairs, measure: str) -> np.ndarray:
    """A measure of each model that all settings have: (settings, 2, models)."""
    pairs = list(pairs)
    common = sorted(set.intersection(*(set(pair.sgd.model.values.tolist()) for pair in pairs)))
    rows = []
    for pair in pairs:
        pair = Pair(*(runs.sel(model=common) for runs in pair[:2]), pair.name)
        if measure == TRAIN_LOSS:
            rows.append([runs.train_loss.values for runs in pair[:2]])
        else:
            rows.append([each.mean(1) for each in terms(pair, measure)])
    return np.array(rows)


def _replicates(many: list[np.ndarray], n_resamples: int) -> tuple[list[np.ndarray], list[tuple[np.ndarray, ...]]]:
    """Means over the last axis (models), and the same with models resampled, all arrays by the same draws."""
    n_models = many[0].shape[-1]
    weights = resampled((n_models, 1), lambda rows, columns: rows / n_models, n_resamples=n_resamples)
    return [each.mean(-1) for each in many], list(
        zip(*(np.moveaxis(each @ weights.T, -1, 0) for each in many), strict=True)
    )


def _noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What few models add to the variance between settings of x, and to the covariance with y; x, y (settings, models)."""
    n = x.shape[1]
    x, y = (each - each.mean(0) for each in (x, y))  # what settings share, through model k's subset, moves no line
    x, y = (each - each.mean(1, keepdims=True) for each in (x, y))
    return np.array([(x * x).sum(1).mean(), (x * y).sum(1).mean()]) / (n * max(n - 1, 1))


def _line(x: np.ndarray, y: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of y over x, moments less `noise`; NaN where nothing is left of the variance of x."""
    away = x - x.mean()
    spread, together = (away**2).mean() - noise[0], (away * y).mean() - noise[1]
    if spread <= 0:
        return math.nan, math.nan
    return float(together / spread), float(y.mean() - together / spread * x.mean())


def _gap(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> float:
    """The mean height of the second curve over the first on a grid; curves are columns, sorted here by x."""
    curves = []
    for column in (0, 1):
        order = np.argsort(x[:, column], kind="stable")
        curves.append(np.interp(grid, x[order, column], y[order, column]))
    return float((curves[1] - curves[0]).mean())
