"""Input checks shared by the array rooms (signals, memorization, attacks, evaluation): one sentence, naming the argument."""

from __future__ import annotations

import numpy as np


class OneSentence(ValueError):
    """An error that says all in one sentence; a notebook shows that alone, without the path through the library."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def as_array(name: str, value, *, ndim: int | tuple[int, ...] | None = None, infinite: bool = False) -> np.ndarray:
    """`value` as a numpy array of numbers (torch tensors and xarray objects accepted; float16 and integers keep their kind).

    Raises ValueError where it is empty, has another number of dimensions than `ndim` allows, holds NaN, or, unless
    `infinite`, holds an infinity.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(f"{name} must be an array of numbers, not of {array.dtype}.")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and array.ndim not in allowed:
        wanted = " or ".join(str(n) for n in allowed)
        raise ValueError(f"{name} must have {wanted} dimension(s), but its shape is {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty: its shape is {array.shape}.")
    if np.issubdtype(array.dtype, np.floating):
        if np.isnan(array).any():
            raise ValueError(f"{name} holds {int(np.isnan(array).sum())} NaN value(s).")
        if not infinite and np.isinf(array).any():
            raise ValueError(f"{name} holds {int(np.isinf(array).sum())} infinite value(s).")
    return array


def as_member(name: str, value, *, ndim: int | tuple[int, ...] | None = None) -> np.ndarray:
    """A membership mask as bool; 0/1 numbers are accepted. Raises ValueError for anything else."""
    array = as_array(name, value, ndim=ndim)
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"{name} must hold only True and False (or 1 and 0).")
        array = array.astype(bool)
    return array


def as_labels(name: str, value, n_classes: int | None = None, *, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Class labels as int64 in 0 .. n_classes - 1. Raises ValueError where they are not."""
    array = as_array(name, value)
    if np.issubdtype(array.dtype, np.floating) and (array != np.floor(array)).any():
        raise ValueError(f"{name} must hold whole numbers.")
    array = array.astype(np.int64)
    if array.min() < 0 or (n_classes is not None and array.max() >= n_classes):
        top = "" if n_classes is None else f" to {n_classes - 1}"
        raise ValueError(f"{name} must lie in 0{top}, but it spans {array.min()} to {array.max()}.")
    if shape is not None:
        same_shape(name, array, "the signals", np.empty(shape, np.int8))
    return array


def same_shape(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray) -> None:
    """Raises ValueError unless the two shapes are equal."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} has shape {a.shape}, but {name_b} has shape {b.shape}: they must agree.")
