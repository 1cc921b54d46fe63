"""One pass over a file of signals: check everything, and keep as much as fits into memory for the attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import xarray as xr
from scipy.special import logit

from samlib import attacks
from samlib.checks import as_labels, shown
from samlib.report.files import ARRAYS, SIGNALS, BadFile, release

ATTACKED = 1 << 24  # signals of the examples that are kept; of a larger file, a random sample
TESTS = 2000  # points that no model saw, at most
BLOCK = 1 << 22  # signals that are read at a time
MOST = 10  # examples that are shown one by one
SINGULAR = {"labels": "class", "groups": "group", "test_labels": "test_class"}
RANGES = {  # with a little room for rounding
    "logit": (-math.inf, math.inf, "any number"),
    "loss": (-1e-5, math.inf, "0 or more"),
    "probability": (-1e-5, 1 + 1e-5, "from 0 to 1"),
}


def given(arrays: Mapping[str, np.ndarray], unused: Sequence[str] = ()) -> xr.Dataset:
    """Check that arrays fit together. If not, raises ValueError in one sentence that names an array.

    unused: names in the file that mean nothing.

    Returns
    -------
    Dataset
        With dims models, examples and tests; `class`, `group` and `test_class` instead of labels, groups and test_labels; and
        `target`. Matrices are not checked yet. Attributes: `signal`, which is logit, loss or probability, and `unused`.
    """
    signals = [name for name in SIGNALS if name in arrays]
    if len(signals) > 1:
        raise BadFile(f"The file holds {' and '.join(signals)}; keep one of them.")
    if not signals or "member" not in arrays:
        has, meant = ", ".join([*arrays, *map(shown, unused[:9])]) or "none of these", near(unused, arrays)
        raise BadFile(f"The file must hold member and one of {', '.join(SIGNALS)}, and it holds {has}{meant}.")
    first: dict[str, tuple[int, str]] = {}
    found: dict[str, tuple] = {}
    for name in sorted(arrays, key=lambda name: name not in (*signals, "member")):
        dims, array = ARRAYS[name]["dims"], arrays[name]
        if len(dims) == 2 and array.ndim == 1:
            array = array[None]  # of one model
        if array.ndim != len(dims) or array.size == 0:
            raise BadFile(f"{name} must be ({', '.join(dims)}), but its shape is {array.shape}.")
        for dim, size in zip(dims, array.shape, strict=True):
            if (known := first.setdefault(dim, (size, name)))[0] != size:
                turned = f"; perhaps {'one of them is' if len(dims) == 2 else 'all others are'} transposed"
                turned *= size == first[{"models": "examples", "examples": "models"}.get(dim, dim)][0]
                raise BadFile(f"{name} holds {size} {dim}, but {known[1]} holds {known[0]}{turned}.")
        if len(dims) == 1:
            array = CHECKS[ARRAYS[name]["kind"]](name, array)
        found[SINGULAR.get(name, name)] = dims, array
    found.setdefault("target", ("models", np.ones(first["models"][0], bool)))
    if not found["target"][1].any():
        raise BadFile("target must be True for at least one model.")
    return xr.Dataset(found, attrs={"signal": signals[0], "unused": unused, "read": [*arrays]})


def near(unused: Iterable[str], arrays: Iterable[str]) -> str:
    """The end of a sentence, if unknown names are like known ones that are not there."""
    free = [name for name in ARRAYS if name not in set(arrays)]
    meant = [name for key in [*unused][:9] for name in get_close_matches(key, free, 1, 0.8)]
    return f"; perhaps {' and '.join(dict.fromkeys(meant))} is meant" if meant else ""


def columns(data: xr.Dataset, which, side: str = "") -> list[np.ndarray]:
    """Logits, correctness and membership of some examples, each (models, some). The side "test_" has no membership."""
    signal, *masks = [side + data.signal, side + "correct"] + ["member"] * (not side)
    found = {}
    for name in (signal, *masks):
        if name in data:
            found[name] = np.array(data[name].values[:, which], order="C")
            release(data[name].values)
    x = _as_logit(signal, found.get(signal, np.zeros((data.sizes["models"], 0))), which)
    return [x, *(_mask(name, found[name]) if name in found else x > 0 for name in masks)]


def _mask(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype != bool and not np.isin(values, (0, 1)).all():  # nor is NaN
        raise BadFile(f"{name} must hold only True and False (or 1 and 0).")
    return values.astype(bool, copy=False)


def _texts(name: str, values: np.ndarray) -> np.ndarray:
    """Names of groups, which a page can show. Text that is not Unicode would end the process in another library."""
    if values.dtype == object and all(isinstance(each, str) for each in values.flat):
        values = values.astype(str)
    if values.dtype.kind not in "iuU":
        raise BadFile(f"{name} must hold whole numbers or texts, not {values.dtype}.")
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


def scan(data: xr.Dataset) -> xr.Dataset:
    """Read the file once, and return a sample of its examples.

    The sample has logit (float32), member and correct, test_logit and test_correct if given, and what else `given` knows. `drawn`
    are the examples that were drawn by chance, and `top` the most exposed of all. The even-numbered models choose these. Raises
    ValueError for NaN, a signal out of range, a model with a constant signal, and a target without members or non-members.
    """
    models, n, tests = (data.sizes.get(dim, 0) for dim in ("models", "examples", "tests"))
    rng, size, step = np.random.default_rng(0), max(ATTACKED // models, 100), max(1, BLOCK // models)
    drawn = np.isin(np.arange(n), np.arange(n) if n <= size else rng.choice(n, size, replace=False))
    low, high, n_in = np.full(models, np.inf), np.full(models, -np.inf), np.zeros(models, int)
    parts, apart = [], np.empty(n)
    for start in range(0, n, step):
        which = slice(start, start + step)
        x, _, member = block = columns(data, which)
        low, high, n_in = np.minimum(low, x.min(1)), np.maximum(high, x.max(1)), n_in + member.sum(1)
        parts.append([each[:, drawn[which]] for each in block])
        apart[which] = _separation(x[::2], member[::2])
    if (same := low == high).any():
        raise BadFile(f"{data.signal} of model {np.argmax(same)} is the same on all examples; leave that model out.")
    if (alone := data.target.values & ((n_in == 0) | (n_in == n))).any():
        model = np.argmax(alone)
        lacks = "not trained on" if n_in[model] else "trained on"
        more = f"add examples that it was {lacks}, or attack other models, by target"
        raise BadFile(f"member of model {model} must hold members and others; {more}.")
    top = np.argsort(-apart, kind="stable")[:MOST]
    top = np.sort(top[apart[top] > 0])
    extra = top[~drawn[top]]
    parts.append(columns(data, extra))
    x, correct, member = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    numbers, chosen = np.r_[np.flatnonzero(drawn), extra], np.sort(rng.permutation(tests)[:TESTS])
    test_x, test_correct = columns(data, chosen, "test_")
    s = data.drop_vars([name for name in data if data[name].ndim == 2])
    s = s.isel(examples=numbers, tests=chosen, missing_dims="ignore").assign_coords(examples=numbers, tests=chosen)
    theirs = {"test_logit": _finite(test_x), "test_correct": test_correct}
    s = s.assign({name: (("models", "tests"), each) for name, each in theirs.items() if each.size})
    ours = {"logit": _finite(x), "member": member, "correct": correct}
    s = s.assign({name: (("models", "examples"), each) for name, each in ours.items()})
    s = s.assign(drawn=("examples", drawn[numbers]), top=s.examples.isin(top))
    never = np.flatnonzero(~member.any(0))
    if not tests and len(never) >= 100:  # of the examples that no model saw, half stand outside and are not attacked
        never = np.sort(rng.permutation(never)[: min(TESTS, len(never) // 2)])
        outside = s[[name for name in ("logit", "correct", "class") if name in s]].isel(examples=never)
        outside = outside.rename({name: f"test_{name}" for name in outside}).rename(examples="tests")
        s = s.drop_isel(examples=never).drop_dims("tests").merge(outside)
    return s


def _finite(x: np.ndarray) -> np.ndarray:
    """Replace infinite logits by the next number beyond the largest finite one, but at least 1; those below 0 alike."""
    some, far = x[np.isfinite(x)], np.float32(np.inf)
    low, high = np.nextafter(some.min(initial=0), -far), np.nextafter(some.max(initial=0), far)
    return x.clip(min(low, -1), max(high, 1)) if len(some) < x.size else x


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
