"""Checks of arguments, for all functions that take arrays. They convert what they can.

Anything else raises a ValueError of one sentence that names the argument.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

FAR = 1e100  # a number further from zero counts as infinite, since its square would overflow
Dims = int | tuple[int, ...] | None  # the numbers of dimensions that are allowed; None allows any


class OneSentence(ValueError):
    """An error of one sentence. A notebook shows it alone, without the traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def as_array(
    name: str, value, *, ndim: Dims = None, infinite: bool = False, missing: bool = False, empty: bool = False
) -> np.ndarray:
    """Convert `value` to a numpy array of real numbers, in native byte order, with at most 64 bits a number.

    It may be all that numpy takes, a tensor of any kind, or a list of tensors. It may be a nullable table, a masked
    array, or a list of Decimal or Fraction. Integers, bool and float16 keep their type. bfloat16 becomes float32, objects
    become float64.
    A column (n, 1) becomes (n,) if `ndim` allows 1 dimension and not 2. A missing entry of a table or mask becomes NaN.

    Raises ValueError if `value` is anything else, or has a number of dimensions that `ndim` does not allow. Also if it is
    empty (unless `empty`), holds NaN (unless `missing`), or numbers beyond 1e100 (unless `infinite`).

    Examples
    --------
    >>> as_array("scores", [[1], [2]], ndim=1)
    array([1, 2])
    """
    array = _real(name, value, "a number, not" if ndim == 0 else "an array of numbers, not of")
    allowed = (array.ndim,) if ndim is None else (ndim,) if isinstance(ndim, int) else ndim
    if 1 in allowed and 2 not in allowed and array.shape[1:] == (1,):
        array = array[:, 0]
    if array.ndim not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"{name} must have {wanted} dimension(s), but its shape is {array.shape}.")
    if array.size == 0 and not empty:
        raise ValueError(f"{name} is empty: its shape is {array.shape}.")
    if array.dtype.kind == "f" and array.size:
        low, high = float(array.min()), float(array.max())  # both NaN if there is a NaN
        if math.isnan(low) and not missing:
            raise ValueError(f"{name} holds {int(np.isnan(array).sum())} NaN value(s).")
        if not infinite and not (low >= -FAR and high <= FAR):
            infinities, far = np.isinf(array).sum(), (np.abs(array, dtype=np.float64) > FAR).sum()
            if far:
                found = f"{infinities} infinite value(s)" if infinities else f"{far} value(s) beyond {FAR:g}"
                raise ValueError(f"{name} holds {found}.")
    return array


def _real(name: str, value, wanted: str) -> np.ndarray:
    """Convert `value` to an array of bool, integers or floats. wanted: how an error begins."""
    if value is None:
        raise ValueError(f"{name} must be {wanted.removesuffix(' of')} None.")
    try:
        value = untensored(value)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, np.ma.MaskedArray) and (value := np.ma.array(value)).mask.any():
            value = value.astype(np.float64).filled(np.nan)
        array = np.asarray(value)
    except Exception:  # an object's own conversion may raise anything
        given = type(value).__name__
        raise ValueError(f"{name} must be an array of numbers with rows of equal length, not this {given}.") from None
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
    """Convert tensors to arrays, also inside lists."""
    if isinstance(value, (list, tuple)):
        return [untensored(v) for v in value]
    if not hasattr(value, "detach"):
        return value
    value = value.to_dense()
    try:
        return value.numpy(force=True)
    except TypeError:  # a type that numpy lacks
        return value.float().numpy(force=True)


def _number(v) -> float:
    """Convert one element of an array of objects. A TypeError says which type it is."""
    if v is None or type(v).__name__ == "NAType":
        return math.nan
    if isinstance(v, (str, bytes, complex, np.datetime64, np.timedelta64)) or not hasattr(v, "__float__"):
        raise TypeError(type(v).__name__)
    try:
        return float(v)
    except Exception:
        raise TypeError(f"such {type(v).__name__}s") from None


def as_member(name: str, value, *, ndim: Dims = None) -> np.ndarray:
    """Convert a membership mask of bool, or of numbers 0 and 1, to bool. Raises ValueError for anything else."""
    array = as_array(name, value, ndim=ndim)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must hold only True and False (or 1 and 0).")
    return array.astype(bool, copy=False)


def as_labels(name: str, value, n_classes: int | None = None, *, ndim: int | None = None) -> np.ndarray:
    """Convert class labels, in 0 .. n_classes - 1, to int64. Raises ValueError for anything else.

    Examples
    --------
    >>> as_labels("labels", [0.0, 2.0], n_classes=3)
    array([0, 2])
    """
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
    """Convert a number from `low` to `high` to a float, or to an int if `whole`. `strict` excludes both ends.

    `why` follows the range in the error and explains it. Raises ValueError for anything else.

    Examples
    --------
    >>> as_number("epochs", "7", 1, whole=True)
    Traceback (most recent call last):
    ValueError: epochs must be a number, not text.
    """
    array = as_array(name, value, ndim=0, infinite=True, missing=True)
    # a float32 of 0.1 means 0.1, not 0.10000000149
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
    """Convert one or more numbers strictly between 0 and 1 to a tuple. Raises ValueError for anything else."""
    return tuple(as_number(name, v, 0, 1, strict=True) for v in as_array(name, value, ndim=(0, 1), empty=True).flat)


def as_choice(name: str, value, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is one of the allowed words. Raises ValueError for anything else."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {shown(value)}.")
    return value


def as_path(name: str, value) -> Path:
    """Convert to an absolute path; `~` is the user's folder. Raises ValueError for anything else."""
    try:
        return Path(value).expanduser().absolute()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be a path, not {shown(value)} ({error}).") from None


def shown(value) -> str:
    """`repr` for a message, on one line of at most 61 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def same_shape(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray, axes: slice = slice(None)) -> None:
    """Raise ValueError unless the two shapes are equal, along some axes."""
    if a.shape[axes] != b.shape[axes]:
        they = "they" if axes == slice(None) else f"{a.shape[axes]} and {b.shape[axes]}"
        raise ValueError(f"{name_a} has shape {a.shape}, but {name_b} has shape {b.shape}: {they} must agree.")
