"""Every attack of `samlib.audit` that the signals allow, on each target by the other models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from samlib import attacks
from samlib.audit import ATTACKS, Fold, folds, scored
from samlib.report.sample import TESTS

SCORES, TARGETS = 1 << 21, (16, 128)  # scores of an attack; the number of targets follows from it, from 16 to 128
BEST = ("LiRA online", "LiRA offline", "population", "confidence")  # the first possible one measures the parts
CONTROL = "control"  # a score by the other models alone
FEW = 10  # points that no model saw, the fewest for a regression


def attack(s: xr.Dataset, names: tuple[str, ...] = ()) -> xr.Dataset:
    """Every attack that the signals allow, or only those named; on each target, by the other models.

    Returns the scores of each attack (targets, examples) by its name. Coordinates are `member`, the numbers of the targets, and
    what the sample says of the examples. The attribute `shadows` is online, offline or empty.

    Examples are kept if, for each target, two other models saw them and two did not. If these are fewer than half, it is enough
    that two others did not see them. If these are fewer than half too, all are kept, and there are no shadow models.
    """
    targets, member = np.flatnonzero(s.target), s.member.values
    most = min(len(targets), int(np.clip(SCORES // s.sizes["examples"], *TARGETS)))
    targets = targets[np.argsort(targets % 2, kind="stable")]  # as many of odd number as of even
    targets = np.sort(targets[np.linspace(0, len(targets) - 1, most).astype(int)])
    n_in = member.sum(0) - member[targets].any(0)
    n_out = (~member).sum(0) - (~member[targets]).any(0)
    judged = {"online": (n_out >= 2) & (n_in >= 2), "offline": n_out >= 2, "": n_out >= 0}
    shadows = next(name for name, each in judged.items() if each.mean() >= 0.5)
    if not sided(member[np.ix_(targets, judged[shadows])]):
        shadows = ""
    kept = np.flatnonzero(judged[shadows])
    s = s.isel(examples=kept)
    logit, member, tests = s.logit.values, s.member.values, s.sizes["tests"] if "test_logit" in s else 0
    labels = test_labels = None
    if {"class", "test_class"} <= s.keys() and s["class"].isin(s.test_class).all():
        labels, test_labels = s["class"].values, s.test_class.values
    online = shadows == "online"
    possible = {
        "correctness": True, "confidence": True, "population": tests > 0,
        "quantile regression": tests >= FEW and (shadows or labels is not None),
        "difficulty calibration": shadows, "LiRA offline": shadows, "RMIA offline": shadows,
        "LiRA online": online, "RMIA online": online, "BASE": online, CONTROL: shadows,
    }  # fmt: skip
    # Without test points, RMIA compares with examples.
    some = np.unique(np.linspace(0, len(kept) - 1, TESTS).astype(int))
    test, test_member = (s.test_logit.values, None) if tests else (logit[:, some], member[:, some])
    signals = {"logit": logit, "correct": s.correct.values.astype(float), "test_logit": test}
    fold = folds(signals, member, labels, test_labels, test_member)
    wanted = [name for name, able in possible.items() if able and name in (names or possible)]
    ways = ATTACKS | {CONTROL: lambda f: f.shadow("logit").mean_out}
    if not shadows:
        ways["quantile regression"] = _by_class
    scores = scored({name: ways[name] for name in wanted}, map(fold, targets.tolist()))
    about = s.drop_dims("tests", errors="ignore").drop_vars(["logit", "correct", "target"]).isel(models=targets)
    found = about.set_coords(list(about)).rename(models="targets").assign_coords(targets=targets)
    made = {name: (("targets", "examples"), each) for name, each in scores.items()}
    return found.assign(made).assign_attrs(shadows=shadows)


def _by_class(f: Fold) -> np.ndarray:
    """Quantile regression without shadow models. Features: the signal's mean and deviation over the class's test points."""
    from sklearn.linear_model import LinearRegression

    test = f.target("test_logit")
    classes = pd.Series(test, dtype=float).groupby(f.test_labels)
    features = pd.DataFrame({"mean": classes.mean(), "std": classes.std(ddof=0)})
    public, own = (features.loc[labels].to_numpy() for labels in (f.test_labels, f.labels))
    return attacks.quantile_regression(public, test, own, f.target("logit"), regressor=LinearRegression())


def sided(member: np.ndarray) -> bool:
    """Whether each model of (models, examples) has members and others."""
    return bool((member.any(1) & ~member.all(1)).all())
