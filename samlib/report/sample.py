"""One pass over a file of signals: check everything, and keep as much as fits into memory for the attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logit

from samlib import attacks
from samlib.checks import as_labels, shown
from samlib.report.files import ARRAYS, SIGNALS, BadFile, release

ATTACKED = 1 << 24  # signals of the examples that are kept; of a larger file, a random sample
TESTS = 2000  # points that no model saw, at most
BLOCK = 1 << 22  # signals that are read at a time
MOST = 10  # examples that are shown one by one
SINGULAR = {"labels": "class", "groups": "group", "test_labels": "class"}
RANGES = {  # with a little room for rounding
    "logit": (-math.inf, math.inf, "any number"),
    "loss": (-1e-5, math.inf, "0 or more"),
    "probability": (-1e-5, 1 + 1e-5, "from 0 to 1"),
}


class Sample(NamedTuple):
    """The signals that are attacked: models on the first axis, examples on the last."""

    logit: np.ndarray  # (models, examples) float32
    member: np.ndarray  # bool
    correct: np.ndarray  # bool
    target: np.ndarray  # (models,) bool
    about: dict[str, np.ndarray]  # "example", the numbers in the file, and "class" and "group" if given: (examples,)
    test_logit: np.ndarray  # (models, tests), of points that no model saw; maybe none
    test_correct: np.ndarray
    test_about: dict[str, np.ndarray]  # as about

    def examples(self, which) -> Sample:
        """The sample with only these examples."""
        cut: dict[str, Any] = {name: getattr(self, name)[:, which] for name in ("logit", "member", "correct")}
        return self._replace(**cut, about=self.known(which))

    def known(self, which) -> dict[str, np.ndarray]:
        """What is known about these examples."""
        return {name: each[which] for name, each in self.about.items()}

    def models(self, which) -> Sample:
        """The sample with only these models, in this order."""
        fields = ("logit", "member", "correct", "target", "test_logit", "test_correct")
        cut: dict[str, Any] = {name: getattr(self, name)[which] for name in fields}
        return self._replace(**cut)


class Given(NamedTuple):
    """What a file holds, checked against the schema: matrices, and what is known about models, examples and tests."""

    signal: str
    matrices: dict[str, np.ndarray]
    about: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, int]  # of models, examples and tests

    def columns(self, which, side: str = "") -> list[np.ndarray]:
        """Logits, correctness and membership of some examples, each (models, some). The side "test_" has no membership."""
        names = [side + self.signal, side + "correct"] + ["member"] * (not side)
        found = {name: np.array(self.matrices[name][:, which], order="C") for name in names if name in self.matrices}
        for name in found:
            release(self.matrices[name])
        x = _as_logit(names[0], found.pop(names[0], np.zeros((self.sizes["models"], 0))), which)
        masks = (_mask(name, found[name]) if name in found else x > 0 for name in names[1:])
        return [x, *masks]

    def known(self, dim: str, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The numbers of some examples or tests, and what is known about them."""
        return {"example": numbers} | {name: each[numbers] for name, each in sorted(self.about[dim].items())}


def given(arrays: Mapping[str, np.ndarray], unused: Sequence[str] = ()) -> Given:
    """Check that arrays fit together. If not, raises ValueError in one sentence that names an array.

    unused: names in the file that mean nothing, for the message.
    """
    signals = [name for name in SIGNALS if name in arrays]
    if len(signals) > 1:
        raise BadFile(f"The file holds {' and '.join(signals)}; keep one of them.")
    if not signals or "member" not in arrays:
        has = ", ".join([*arrays, *map(shown, unused[:9])]) or "none of these"
        raise BadFile(f"The file must hold member and one of {', '.join(SIGNALS)}, and it holds {has}.")
    first: dict[str, tuple[int, str]] = {}
    matrices, about = {}, {"models": {"target": np.ones(1, bool)}, "examples": {}, "tests": {}}
    for name in sorted(arrays, key=lambda name: name not in (*signals, "member")):
        dims, array = ARRAYS[name]["dims"], arrays[name]
        if len(dims) == 2 and array.ndim == 1:
            array = array[None]  # of one model
        if array.ndim != len(dims) or array.size == 0:
            raise BadFile(f"{name} must be ({', '.join(dims)}), but its shape is {array.shape}.")
        for dim, size in zip(dims, array.shape, strict=True):
            if first.setdefault(dim, (size, name))[0] != size:
                raise BadFile(f"{name} holds {size} {dim}, but {first[dim][1]} holds {first[dim][0]}.")
        if len(dims) == 2:
            matrices[name] = array
        else:
            about[dims[0]][SINGULAR.get(name, name)] = CHECKS[ARRAYS[name]["kind"]](name, array)
    sizes = {"tests": 0} | {dim: size for dim, (size, _) in first.items()}
    target = about["models"]["target"]
    if not target.any():
        raise BadFile("target must be True for at least one model.")
    about["models"]["target"] = np.broadcast_to(target, sizes["models"])
    return Given(signals[0], matrices, about, sizes)


def _mask(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype != bool and not np.isin(values, (0, 1)).all():  # nor is NaN
        raise BadFile(f"{name} must hold only True and False (or 1 and 0).")
    return values.astype(bool, copy=False)


def _texts(name: str, values: np.ndarray) -> np.ndarray:
    """Names of groups, which a page can show. Text that is not Unicode would end the process in another library."""
    if values.dtype.kind == "U" and values.dtype.itemsize:
        codes = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
            raise BadFile(f"{name} holds text that is not Unicode.")
    return values


CHECKS: dict[str, Callable[..., np.ndarray]] = {"mask": _mask, "labels": as_labels, "names": _texts}


@np.errstate(all="ignore")  # a signalling NaN, and the ends of a range
def _as_logit(name: str, values: np.ndarray, which) -> np.ndarray:
    """Signals (models, examples) as logits, float32. `which`: the numbers of these examples."""
    values, kind = values.astype(np.float64), name.removeprefix("test_")
    low, high, allowed = RANGES[kind]
    if (bad := ~((values >= low) & (values <= high))).any():  # NaN too
        k, i = np.argwhere(bad)[0]
        number = which.start + i if isinstance(which, slice) else which[i]
        raise BadFile(f"{name} is {values[k, i]:g} for model {k} on example {number}; it must be {allowed}.")
    if kind == "loss":
        values = np.maximum(values, 0)
        values = -values - np.log(-np.expm1(-values))  # log of e^-loss / (1 - e^-loss), of any size
    elif kind == "probability":
        values = logit(np.clip(values, 0, 1))
    return values.astype(np.float32)


def scan(data: Given) -> tuple[Sample, int, np.ndarray]:
    """Read the file once. Returns the sample, how many of its examples were drawn, and where in it the most exposed are.

    The even-numbered models choose the most exposed, among all examples. These follow the drawn ones in the sample. Raises
    ValueError for NaN, a signal out of range, a model with a constant signal, and a target without members or non-members.
    """
    models, n, tests = (data.sizes[dim] for dim in ("models", "examples", "tests"))
    rng, size, step = np.random.default_rng(0), max(ATTACKED // models, 100), max(1, BLOCK // models)
    sampled = np.arange(n) if n <= size else np.sort(rng.choice(n, size, replace=False))
    low, high, n_in = np.full(models, np.inf), np.full(models, -np.inf), np.zeros(models, int)
    parts, top, apart = [], np.zeros(0, int), np.zeros(0)
    for start in range(0, n, step):
        numbers = np.arange(start, min(start + step, n))
        x, correct, member = columns = data.columns(slice(start, start + step))
        low, high, n_in = np.minimum(low, x.min(1)), np.maximum(high, x.max(1)), n_in + member.sum(1)
        parts.append([each[:, np.isin(numbers, sampled)] for each in columns])
        numbers, both = np.r_[top, numbers], np.r_[apart, _separation(x[::2], member[::2])]
        best = np.argsort(-both, kind="stable")[:MOST]
        top, apart = numbers[best], both[best]
    if (same := low == high).any():
        raise BadFile(f"{data.signal} of model {np.argmax(same)} is the same on all examples; leave that model out.")
    target = data.about["models"]["target"]
    if (alone := target & ((n_in == 0) | (n_in == n))).any():
        model = np.argmax(alone)
        raise BadFile(f"member of model {model} must hold members and others; attack other models, by target.")
    top = np.sort(top[apart > 0])
    extra = np.setdiff1d(top, sampled)
    parts.append(data.columns(extra))
    x, correct, member = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    chosen = np.sort(rng.permutation(tests)[:TESTS])
    test_x, test_correct = data.columns(chosen, "test_")
    outside = _finite(test_x), test_correct, data.known("tests", chosen)
    s = Sample(_finite(x), member, correct, target, data.known("examples", np.r_[sampled, extra]), *outside)
    never = np.flatnonzero(~member.any(0))
    if not tests and len(never) >= 100:  # of the examples that no model saw, half stand outside and are not attacked
        never = np.sort(rng.permutation(never)[: min(TESTS, len(never) // 2)])
        rest, stay = s.examples(never), np.setdiff1d(np.arange(len(member.T)), never)
        s = Sample(*s.examples(stay)[:5], rest.logit, rest.correct, rest.about)
    return s, len(s.member.T) - len(extra), np.flatnonzero(np.isin(s.about["example"], top))


def _finite(x: np.ndarray) -> np.ndarray:
    """Replace infinite logits by the largest and the smallest finite one, or by 0 if that is further out."""
    some = x[np.isfinite(x)]
    return x.clip(some.min(initial=0), some.max(initial=0)) if len(some) < x.size else x


def _separation(x: np.ndarray, member: np.ndarray) -> np.ndarray:
    """How much higher an example's logit is in models that saw it: a t statistic, its variance shrunk to the common one."""
    if len(x) < 4:
        return np.full(x.shape[1], -np.inf)
    m = attacks.moments(x, member)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = m.n_in * m.std_in**2 + m.n_out * m.std_out**2
        common = np.nan_to_num(squares).mean() / len(x)
        shrunk = (squares + 4 * common) / (len(x) + 4)
        apart = (m.mean_in - m.mean_out) / np.sqrt(shrunk * (1 / m.n_in + 1 / m.n_out))
    return np.where(np.isfinite(apart), apart, -np.inf)
