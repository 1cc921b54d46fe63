"""Checks of arguments, shared by all functions of arrays: what can be converted is; the rest is one sentence that names it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

FAR = 1e100  # what lies further from zero counts as infinite: its square would overflow


class OneSentence(ValueError):
    """An error that says all in one sentence; a notebook shows that alone, without the path through the library."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def as_array(
    name: str,
    value,
    *,
    ndim: int | tuple[int, ...] | None = None,
    infinite: bool = False,
    missing: bool = False,
    empty: bool = False,
) -> np.ndarray:
    """`value` as a numpy array of real numbers, of native byte order and of at most 64 bits a number.

    Takes what numpy takes, and tensors of any kind and lists of them, nullable tables, masked arrays and lists of Decimal
    or Fraction. Integers, bool and float16 keep their type; bfloat16 becomes float32, and objects become float64.
    A column (n, 1) becomes (n,) where `ndim` allows 1 dimension and not 2. What a table or a mask leaves out is NaN.

    Raises ValueError where `value` is none of these, has another number of dimensions than `ndim` allows, is empty
    (unless `empty`), holds NaN (unless `missing`), or holds numbers beyond 1e100 (unless `infinite`).
    """
    array = _real(name, value, "a number, not" if ndim == 0 else "an array of numbers, not of")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and array.ndim not in allowed:
        if array.ndim == 2 and array.shape[1] == 1 and 1 in allowed:
            array = array[:, 0]
        else:
            wanted = " or ".join(str(n) for n in allowed)
            raise ValueError(f"{name} must have {wanted} dimension(s), but its shape is {array.shape}.")
    if array.size == 0:
        if empty:
            return array
        raise ValueError(f"{name} is empty: its shape is {array.shape}.")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())  # NaN where there is one
        if math.isnan(low) and not missing:
            raise ValueError(f"{name} holds {int(np.isnan(array).sum())} NaN value(s).")
        if not infinite and not (low >= -FAR and high <= FAR):
            for far, what in (
                (np.isinf(array), "infinite value(s)"),
                (np.abs(array, dtype=np.float64) > FAR, f"value(s) beyond {FAR:g}"),
            ):
                if far.any():
                    raise ValueError(f"{name} holds {int(far.sum())} {what}.")
    return array


def _real(name: str, value, wanted: str) -> np.ndarray:
    """`value` as an array of bool, integers or floats; `wanted` begins what else is said of it."""
    if value is None:
        raise ValueError(f"{name} must be {wanted.removesuffix(' of')} None.")
    try:
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(first, np.ma.MaskedArray) and (value := np.ma.array(value)).mask.any():
            value = value.astype(np.float64).filled(np.nan)
        try:
            array = np.asarray(untensored(value) if hasattr(value, "detach") else value)
        except (TypeError, RuntimeError):  # a list of tensors that numpy cannot read
            array = np.asarray(untensored(value))
    except Exception:  # whatever the object's own conversion raises
        raise ValueError(
            f"{name} must be an array of numbers with rows of equal length, and this {type(value).__name__} is not one."
        ) from None
    if array.dtype == object:
        try:
            array = np.array([_number(v) for v in array.flat], np.float64).reshape(array.shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name} must be {wanted} {error}.") from None
    if array.dtype.kind not in "biuf":
        kind = "text" if array.dtype.kind in "US" else array.dtype
        raise ValueError(f"{name} must be {wanted} {kind}.")
    if array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def untensored(value):
    """Tensors as arrays, also inside lists."""
    if isinstance(value, (list, tuple)):
        return [untensored(v) for v in value]
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    value = value.to_dense() if "sparse" in str(value.layout) else value
    try:
        return value.numpy(force=True)
    except TypeError:  # a type that numpy lacks
        return value.float().numpy(force=True)


def _number(v) -> float:
    """One element of an array of objects; a TypeError's text is what it is instead."""
    if v is None or type(v).__name__ == "NAType":
        return math.nan
    if isinstance(v, (str, bytes, complex, np.datetime64, np.timedelta64)) or not hasattr(v, "__float__"):
        raise TypeError(type(v).__name__)
    try:
        return float(v)
    except Exception:
        raise TypeError(f"such {type(v).__name__}s") from None


def as_member(name: str, value, *, ndim: int | tuple[int, ...] | None = None) -> np.ndarray:
    """A membership mask as bool; 0/1 numbers are accepted. Raises ValueError for anything else."""
    array = as_array(name, value, ndim=ndim)
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"{name} must hold only True and False (or 1 and 0).")
        array = array.astype(bool)
    return array


def as_labels(name: str, value, n_classes: int | None = None, *, ndim: int | None = None) -> np.ndarray:
    """Class labels as int64 in 0 .. n_classes - 1. Raises ValueError if they are anything else."""
    array = as_array(name, value, ndim=ndim)
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise ValueError(f"{name} must hold whole numbers.")
    low, high = array.min().item(), array.max().item()
    if low < 0 or high >= (2**63 if n_classes is None else n_classes):
        top = "2^63 - 1" if n_classes is None else n_classes - 1
        raise ValueError(f"{name} must lie in 0 to {top}, but it spans {low} to {high}.")
    return array.astype(np.int64)


def together(name_a: str, a, name_b: str, b) -> bool:
    """Whether two optional arguments are given. Raises ValueError if only one of them is."""
    if (a is None) != (b is None):
        raise ValueError(f"{name_a} and {name_b} must be given together or not at all.")
    return a is not None


def as_number(name: str, value, low=0, high=math.inf, *, strict=False, whole=False, why: str = ""):
    """One number from `low` to `high`, both included unless `strict`; an int if `whole`, else a float.

    `why` says after the range where it comes from. Raises ValueError for anything else.
    """
    array = as_array(name, value, ndim=0, infinite=True, missing=True)
    # A float32 of 0.1 means 0.1, and not 0.10000000149.
    number = float(str(array)) if array.dtype.kind == "f" and array.dtype.itemsize < 8 else array.item()
    if not (low < number < high if strict else low <= number <= high) or abs(number) > FAR:
        if high < math.inf:
            wanted = f"lie strictly between {low} and {high}" if strict else f"lie in {low} to {high}"
        else:
            wanted = f"be a finite number {'above' if strict else 'of at least'} {low}"
        raise ValueError(f"{name} must {wanted}{why}, but it is {number}.")
    if whole and number != int(number):
        raise ValueError(f"{name} must be a whole number, not {number}.")
    return int(number) if whole else float(number)


def as_rates(name: str, value) -> tuple[float, ...]:
    """One number or several, each strictly between 0 and 1, as a tuple. Raises ValueError for anything else."""
    return tuple(as_number(name, v, 0, 1, strict=True) for v in as_array(name, value, ndim=(0, 1), empty=True).flat)


def as_choice(name: str, value, allowed: tuple[str, ...]) -> str:
    """`value`, one of some words. Raises ValueError for anything else."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {shown(value)}.")
    return value


def as_generator(seed) -> np.random.Generator:
    """`numpy.random.default_rng(seed)`. Raises ValueError for what is no seed."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be a whole number of at least 0 or a generator, not {shown(seed)}.") from None


def as_path(name: str, value) -> Path:
    """A path from the root: `~` is the user's folder, and a relative one starts in the present folder.

    Raises ValueError for what is no path.
    """
    try:
        return Path(value).expanduser().absolute()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be a path, not {shown(value)} ({error}).") from None


def shown(value) -> str:
    """`repr`, on one line of at most 61 characters, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def same_shape(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray) -> None:
    """Raises ValueError unless the two shapes are equal."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} has shape {a.shape}, but {name_b} has shape {b.shape}: they must agree.")
