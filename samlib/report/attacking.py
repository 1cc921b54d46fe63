"""Every attack of `samlib.audit` that the signals allow, on each target by the other models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samlib import attacks
from samlib.audit import ATTACKS, Fold, folds, scored
from samlib.report.sample import TESTS, Sample

SCORES, TARGETS = 1 << 21, (16, 128)  # scores of an attack; the number of targets follows from it, from 16 to 128
BEST = ("LiRA online", "LiRA offline", "population", "confidence")  # the first possible one measures the parts
CONTROL = "control"  # a score by the other models alone
FEW = 10  # points that no model saw, the fewest for a regression


class Attacked(NamedTuple):
    """What `attack` finds: scores of each attack and membership (targets, examples), and which examples of the sample."""

    scores: dict[str, np.ndarray]
    member: np.ndarray
    kept: np.ndarray  # (examples,) in the sample
    targets: np.ndarray  # (targets,) models
    shadows: str  # online, offline or none

    def only(self, which) -> Attacked:
        """The same with only these of the kept examples."""
        scores = {name: each[:, which] for name, each in self.scores.items()}
        return self._replace(scores=scores, member=self.member[:, which], kept=self.kept[which])


def attack(s: Sample, names: tuple[str, ...] = ()) -> Attacked:
    """Every attack that the signals allow, or only those named; on each target, by the other models.

    Examples are kept if, for each target, two other models saw them and two did not. If these are fewer than half, it is enough
    that two others did not see them. If these are fewer than half too, all are kept, and there are no shadow models.
    """
    targets = np.flatnonzero(s.target)
    most = min(len(targets), int(np.clip(SCORES // s.logit.shape[1], *TARGETS)))
    targets = targets[np.argsort(targets % 2, kind="stable")]  # as many of odd number as of even
    targets = np.sort(targets[np.linspace(0, len(targets) - 1, most).astype(int)])
    n_in = s.member.sum(0) - s.member[targets].any(0)
    n_out = (~s.member).sum(0) - (~s.member[targets]).any(0)
    offline, online = n_out >= 2, (n_out >= 2) & (n_in >= 2)
    shadows = "online" if online.mean() >= 0.5 else "offline" if offline.mean() >= 0.5 else ""
    kept = np.flatnonzero(online if shadows == "online" else offline)
    if not shadows or not sided(s.member[np.ix_(targets, kept)]):
        shadows, kept = "", np.arange(len(n_in))
    s, test = s.examples(kept), s.test_logit
    possible = ["correctness", "confidence"] + ["population"] * bool(test.size)
    if shadows:
        possible += ["quantile regression"] * (test.shape[1] >= FEW)
        possible += ["difficulty calibration", "LiRA offline", "RMIA offline"]
        possible += ["LiRA online", "RMIA online", "BASE"] * (shadows == "online") + [CONTROL]
    labels, test_labels, test_member = s.labels, s.test_labels, None
    if labels is None or test_labels is None or not np.isin(labels, test_labels).all():
        labels = test_labels = None
    elif not shadows and test.shape[1] >= FEW:
        possible.append("quantile regression")
    if not test.size:  # RMIA compares with examples then
        some = np.unique(np.linspace(0, len(kept) - 1, TESTS).astype(int))
        test, test_member = s.logit[:, some], s.member[:, some]
    signals = {"logit": s.logit, "correct": s.correct.astype(float), "test_logit": test}
    fold = folds(signals, s.member, labels, test_labels, test_member)
    wanted = [name for name in possible if name in (names or possible)]
    ways = ATTACKS | {CONTROL: lambda f: f.shadow("logit").mean_out}
    if not shadows:
        ways["quantile regression"] = _by_class
    scores = scored({name: ways[name] for name in wanted}, map(fold, targets.tolist()))
    return Attacked(scores, s.member[targets], kept, targets, shadows)


def _by_class(f: Fold) -> np.ndarray:
    """Quantile regression without shadow models. Features: the signal's mean and deviation over the class's test points."""
    from sklearn.linear_model import LinearRegression

    test = f.target("test_logit")
    classes, which, count = np.unique(np.asarray(f.test_labels), return_inverse=True, return_counts=True)
    centre = np.bincount(which, test) / count
    known = np.stack([centre, np.sqrt(np.bincount(which, (test - centre[which]) ** 2) / count)], 1)
    own = known[np.searchsorted(classes, np.asarray(f.labels))]
    return attacks.quantile_regression(known[which], test, own, f.target("logit"), regressor=LinearRegression())


def sided(member: np.ndarray) -> bool:
    """Whether each model of (models, examples) has members and others."""
    return bool((member.any(1) & ~member.all(1)).all())
