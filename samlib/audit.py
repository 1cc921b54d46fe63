"""From runs to an audit's tables. Each model is the target once, with the others as its shadows. SGD and SAM are paired."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import expit
from scipy.stats import rankdata

from samlib import attacks
from samlib.checks import as_array, same_shape, shown
from samlib.estimators import memorization, memorization_terms
from samlib.evaluation import Comparison, compare, rate_terms
from samlib.inference import LEVEL, mean

FPR = (0.001, 0.01, 0.1)
THRESHOLD_SHADOWS = 8  # models that the thresholds of one target come from; 8 whole pools of examples are plenty


class Pair(NamedTuple):
    """Two paired runs, aligned: model k of each shares the subset, the initial weights and the batch order."""

    sgd: xr.Dataset
    sam: xr.Dataset
    name: str  # of the second optimizer, as people write it


def align(runs: Mapping[str, xr.Dataset]) -> Pair:
    """Make a Pair of `{"sgd": runs, other: runs}`, with the models that both hold. A model that diverged in one leaves both.

    Raises ValueError if the two are not paired: other data, other subsets, or fewer than 2 models in common.
    """
    if not isinstance(runs, Mapping) or len(runs) != 2 or "sgd" not in runs:
        given = ", ".join(map(repr, runs)) if isinstance(runs, Mapping) else f"a {type(runs).__name__}"
        raise ValueError(f"runs must hold 'sgd' and one other optimizer, not {given}.")
    other = next(name for name in runs if name != "sgd")
    runs = {name: _whole(name, each) for name, each in runs.items()}
    if runs["sgd"].attrs.get("data_checksum") != runs[other].attrs.get("data_checksum"):
        raise ValueError(f"sgd and {other} were trained on different data, so their models are not paired.")
    common = np.intersect1d(runs["sgd"].model, runs[other].model)
    if len(common) < 2:
        raise ValueError(f"sgd and {other} have {len(common)} models in common, and at least 2 are needed.")
    sgd, sam = (runs[name].sel(model=common) for name in ("sgd", other))
    if not np.array_equal(sgd.member, sam.member):
        raise ValueError(f"Model k of sgd and of {other} were trained on different subsets, so they are not paired.")
    # Each example keeps its number when it is moved: intervals group examples by it.
    unnumbered = {"example", "test"} - sgd.coords.keys()
    numbers = {side: np.arange(n) for side, n in sgd.sizes.items() if side in unnumbered}
    return Pair(sgd.assign_coords(numbers), sam.assign_coords(numbers), other.upper())


def _whole(name: str, runs, *variables: str) -> xr.Dataset:
    """`runs`, models first, `member` as bool; raises ValueError unless it is a Dataset with `member` and the variables."""
    lacking = [v for v in ("member", *variables) if not isinstance(runs, xr.Dataset) or v not in runs]
    if lacking:
        raise ValueError(f"{name} must be the xarray.Dataset that run returns, but it has no {lacking[0]!r}.")
    runs = runs.transpose("model", ...)
    return runs.assign(member=runs["member"].astype(bool, copy=False))


def _both(pair, *variables: str) -> tuple[xr.Dataset, xr.Dataset]:
    """The two runs of a `Pair`, SGD's first."""
    if not isinstance(pair, Pair):
        raise ValueError(f"pair must be what align returns, not a {type(pair).__name__}.")
    return _whole("pair.sgd", pair.sgd, *variables), _whole("pair.sam", pair.sam, *variables)


class Fold(NamedTuple):
    """One target and its shadows: target(name) gives its signal (n,), shadow(name) the `Moments` of the others' signal.

    Names are those of signals; "probability" is that of the label. Signals with the prefix `test_` are on test points.
    """

    target: Callable[[str], np.ndarray]
    shadow: Callable[[str], attacks.Moments]
    labels: np.ndarray | None
    test_labels: np.ndarray | None


def _lira(f: Fold, mode: str):
    variance = "residual" if mode == "online" else "example"  # with few models, the in deviations need pooling most
    return attacks.lira(f.target("logit"), f.shadow("logit"), mode=mode, variance=variance)


def _rmia(f: Fold, mode: str):
    # The test set, which no model saw, is the population.
    population = {"population": f.target("test_probability"), "population_shadow": f.shadow("test_probability")}
    return attacks.rmia(f.target("probability"), f.shadow("probability"), mode=mode, **population)


def _population(f: Fold):
    # The rank of an example among the test points of its class, which no model saw.
    labels = {"target_labels": f.labels, "population_labels": f.test_labels}
    return attacks.population(f.target("logit"), f.target("test_logit"), **labels)


def _quantile_regression(f: Fold):
    # Regress the target's logit on the test points on the shadows' out mean and deviation: a point's difficulty and its spread.
    from sklearn.linear_model import LinearRegression

    public, features = (np.stack([m.mean_out, m.std_out], 1) for m in (f.shadow("test_logit"), f.shadow("logit")))
    given = public, f.target("test_logit"), features, f.target("logit")
    return attacks.quantile_regression(*given, regressor=LinearRegression())


ATTACKS: dict[str, Callable[[Fold], np.ndarray]] = {
    "correctness": lambda f: f.target("correct"),
    "confidence": lambda f: f.target("logit"),
    "entropy": lambda f: -f.target("entropy"),
    "modified entropy": lambda f: -f.target("modified_entropy"),
    "population": _population,
    "quantile regression": _quantile_regression,
    "difficulty calibration": lambda f: attacks.difficulty_calibration(f.target("logit"), f.shadow("logit")),
    "LiRA offline": lambda f: _lira(f, "offline"),
    "LiRA online": lambda f: _lira(f, "online"),
    "RMIA offline": lambda f: _rmia(f, "offline"),
    "RMIA online": lambda f: _rmia(f, "online"),
    "BASE": lambda f: attacks.base(f.target("probability"), f.shadow("probability")),
}
THRESHOLDED = {"confidence": ("logit", 1), "entropy": ("entropy", -1), "modified entropy": ("modified_entropy", -1)}


class Attacked(NamedTuple):
    """`scores[attack]` and `member`, (targets, examples), on the examples that every target's shadows can judge."""

    scores: dict[str, np.ndarray]
    member: np.ndarray


def attack_scores(runs: xr.Dataset, names=tuple(ATTACKS)) -> Attacked:
    """Make every attack on every model. A target is never among its own shadows.

    Examples with fewer than 3 models in or out are left out, and a warning counts them. So each target has at least 2 shadows
    on either side. Raises ValueError for an unknown attack, or if no example is left.
    """
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"names must be a list of attacks, not a {type(names).__name__}.")
    if unknown := [name for name in names if not isinstance(name, str) or name not in ATTACKS]:
        raise ValueError(f"attack {shown(unknown[0])} is not one of {', '.join(ATTACKS)}.")
    runs = _whole("runs", runs, "label", "test_label")
    (member, kept), n = usable(runs), runs.sizes["example"]
    if len(kept) < n:
        said = f"{n - len(kept)} of {n} examples have too few models in or out and are left out."
        warnings.warn(said, stacklevel=2)
    signals = {str(name): v.values for name, v in runs.isel(example=kept).items() if v.ndim == 2}
    labels = runs.label.values[kept], runs.test_label.values

    fold = folds(signals, member, *labels)
    return Attacked(scored({name: ATTACKS[name] for name in names}, map(fold, range(len(member)))), member)


def scored(ways: Mapping[str, Callable[[Fold], np.ndarray]], targets: Iterable[Fold]) -> dict[str, np.ndarray]:
    """Make the attacks `ways` on targets. Returns the scores (targets, examples) of each attack, by its name."""
    found = [[way(each) for way in ways.values()] for each in targets]
    return dict(zip(ways, map(np.stack, zip(*found, strict=True)), strict=True))


def folds(signals: Mapping[str, np.ndarray], member, labels, test_labels, test_member=None) -> Callable[[int], Fold]:
    """A function from the number of a model to its `Fold`, with the model as the target and all others as shadows.

    signals: from a name to an array (models, n). test_member: (models, tests), True where a model was trained on a test point;
    None if none was.
    """

    @functools.cache
    def signal(name: str) -> np.ndarray:
        if name.endswith("probability"):
            return expit(signal(name.replace("probability", "logit")))
        if name not in signals:
            raise ValueError(f"runs must hold {name!r} for these attacks.")
        return signals[name]

    @functools.cache
    def shadows(name: str) -> Callable[[int], attacks.Moments]:
        seen = member if not name.startswith("test_") else test_member
        return attacks.leave_one_out(signal(name), np.zeros(signal(name).shape, bool) if seen is None else seen)

    def fold(k: int) -> Fold:
        return Fold(lambda name: signal(name)[k], functools.cache(lambda name: shadows(name)(k)), labels, test_labels)

    return fold


def report(source, *, max_gb: float = 64):
    """Call `samlib.audit_file` on a file, on arrays by name, or on what `run` returns."""
    return import_module("samlib.report").audit_file(source, max_gb=max_gb)  # here, since that module imports this one


def usable(runs: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Membership (models, kept examples), and the indices of the examples that at least 3 models saw and 3 did not."""
    member = _whole("runs", runs).member.values
    n_in = member.sum(0)
    kept = np.flatnonzero((n_in >= 3) & (len(member) - n_in >= 3))
    if not len(kept):
        raise ValueError(f"n_models must be larger: with {len(member)} no example has 3 models in and 3 out.")
    return member[:, kept], kept


def left_out(runs: xr.Dataset) -> int:
    """How many examples `usable` leaves out."""
    return len(_whole("runs", runs).member.T) - len(usable(runs)[1])


def compare_attacks(sgd: Attacked, sam: Attacked, fpr=FPR, confidence: float = 0.95) -> dict[str, Comparison]:
    """`evaluation.compare` of each attack, SAM minus SGD, with both reports (`.a` is SAM's, `.b` SGD's).

    Raises ValueError if the two do not hold the same attacks, and as `compare`.
    """
    if not (isinstance(sgd, Attacked) and isinstance(sam, Attacked) and sgd.scores.keys() == sam.scores.keys()):
        raise ValueError("sgd and sam must be what attack_scores returns, with the same attacks.")
    asked = {"fpr": fpr, "confidence": confidence}
    return {name: compare(scores, sgd.scores[name], sam.member, **asked) for name, scores in sam.scores.items()}


def membership_table(comparisons: Mapping[str, Comparison], *, ends: bool = False) -> pd.DataFrame:
    """Table 1: a row for each attack and measure; columns sgd, sam, difference, low, high, `too_few` (bool).

    low and high are the ends of the difference's interval. ends: whether to add those of both optimizers, as sgd_low, sgd_high,
    sam_low and sam_high.
    """
    tables = {}
    for attack, found in comparisons.items():
        sgd, sam, gap = (each.frame().drop("advantage") for each in (found.b, found.a, found))
        columns = {"sgd": sgd.value, "sam": sam.value, "difference": gap.value, "low": gap.low, "high": gap.high}
        if ends:
            columns |= {"sgd_low": sgd.low, "sgd_high": sgd.high, "sam_low": sam.low, "sam_high": sam.high}
        few = [False, False, *(rate in found.too_few for rate in found.tpr_at_fpr)]
        rates = [f"{rate:.1%}" if rate >= 0.001 else f"{100 * rate:g}%" for rate in found.tpr_at_fpr]
        names = ["AUC", "balanced accuracy", *(f"TPR at {rate} FPR" for rate in rates)]
        tables[attack] = pd.DataFrame(columns | {"too_few": few}).set_axis(names)
    return pd.concat(tables, names=["attack", "measure"])


def threshold_table(pair: Pair, level: float = LEVEL) -> pd.DataFrame:
    """Balanced accuracy of the threshold attacks (Song and Mittal 2021), with global and with class-dependent thresholds.

    Thresholds come from shadow models. Rows (attack, thresholds); columns sgd, sam, difference, low, high.
    """
    rows, both = {}, _both(pair, "label", *(signal for signal, _ in THRESHOLDED.values()))
    for attack, (signal, sign) in THRESHOLDED.items():
        for kind in ("global", "class-dependent"):
            sgd, sam = (_balanced_hits(runs, signal, sign, kind) for runs in both)
            rows[attack, kind] = compared(sgd, sam, level)
    return pd.DataFrame(rows).T.rename_axis(["attack", "thresholds"])


def _balanced_hits(runs: xr.Dataset, signal: str, sign: int, kind: str) -> np.ndarray:
    """First-order terms (targets, examples) of the balanced accuracy. A target's thresholds come from the next few models."""
    runs = runs.sortby("model")
    scores, member = sign * runs[signal].values, runs.member.values
    labels = runs.label.values if kind == "class-dependent" else None
    if member.all(1).any() or not member.any(1).all():
        raise ValueError("member must hold both members and non-members of each model.")
    terms = np.empty(scores.shape)
    for k, m in enumerate(member):
        shadows = (k + 1 + np.arange(min(THRESHOLD_SHADOWS, len(member) - 1))) % len(member)
        of = {"shadow_labels": labels, "target_labels": labels}
        hit = attacks.threshold(scores[shadows], member[shadows], scores[k], **of) == m
        terms[k] = (rate_terms(hit, m) + rate_terms(hit, ~m)) / 2
    return terms


def accuracy_table(pair: Pair, level: float = LEVEL) -> pd.DataFrame:
    """Train accuracy, train loss and test accuracy: rows; columns sgd, sam, difference, low, high."""
    sgd, sam = _both(pair, "test_correct", "train_accuracy", "train_loss")
    rows = {"test accuracy": compared(sgd.test_correct.values, sam.test_correct.values, level)}
    for name in ("train_accuracy", "train_loss"):
        rows[name.replace("_", " ")] = compared(sgd[name].values[:, None], sam[name].values[:, None], level)
    return pd.DataFrame.from_dict(rows, orient="index")


def memorization_table(pair: Pair, level: float = LEVEL) -> pd.DataFrame:
    """The mean memorization score: columns sgd, sam, difference, low, high."""
    sgd, sam = (memorization_terms(runs.correct.values, runs.member.values) for runs in _both(pair, "correct"))
    return pd.DataFrame.from_dict({"mean memorization": compared(sgd, sam, level)}, orient="index")


def compared(sgd: np.ndarray, sam: np.ndarray, level: float = LEVEL) -> dict[str, float]:
    """Means of two matrices of terms (models, examples), and their difference with the interval of `inference.mean`.

    A column with NaN in either matrix is left out of both. Raises ValueError if the shapes disagree or no column is left.
    """
    sgd = as_array("sgd", sgd, ndim=2, missing=True).astype(float, copy=False)
    sam = as_array("sam", sam, ndim=2, missing=True).astype(float, copy=False)
    same_shape("sgd", sgd, "sam", sam)
    known = ~(np.isnan(sgd) | np.isnan(sam)).any(0)
    if not known.any():
        raise ValueError("sgd and sam must have a column without NaN in common.")
    sgd, sam = sgd[:, known], sam[:, known]
    low, high = (float(end) for end in mean(sam - sgd).interval(level))
    return {"sgd": sgd.mean(), "sam": sam.mean(), "difference": sam.mean() - sgd.mean(), "low": low, "high": high}


class Link(NamedTuple):
    """Memorization of each example, by even-numbered models, and an attack's success on it, by odd-numbered models.

    `success` is an AUC over the odd targets: how well the attack tells those trained on the example from the others. Arrays are
    (examples,); `example` holds the examples' numbers.
    """

    memorization: np.ndarray
    success: np.ndarray
    example: np.ndarray


def link(runs: xr.Dataset, attack: str = "LiRA online") -> Link:
    """Does an attack find the examples that are memorized? Different models measure memorization and the attack's success.

    With the same models, an accident of training would show in both. Raises as `attack_scores`.
    """
    _whole("runs", runs, "correct")
    even, odd = (runs.isel(model=runs.model.values % 2 == part) for part in (0, 1))
    kept = usable(odd)[1]
    found = attack_scores(odd, (attack,))
    score = memorization(even.correct.values, even.member.values, empty="zero").value[kept]
    success = _example_auc(found.scores[attack], found.member)
    return Link(score, success, runs.example.values[kept])


def _example_auc(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Per example: the share of (in, out) pairs of targets in which the in target's score is higher, ties one half."""
    n_in, n_out = member.sum(0), (~member).sum(0)
    return ((rankdata(scores, axis=0) * member).sum(0) - n_in * (n_in + 1) / 2) / (n_in * n_out)
