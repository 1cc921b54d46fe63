"""Tables of the book from frames, as pandas Stylers."""

from __future__ import annotations

import numpy as np
import pandas as pd

INTERVAL = "simultaneous interval"


def table(frame: pd.DataFrame, *, digits: int = 3, name: str = "SAM"):
    """A frame of sgd, sam, difference, low, high: differences whose interval lies beyond 0 are bold."""
    shown = frame[["examples"]].copy() if "examples" in frame else pd.DataFrame(index=frame.index)
    for column, title in (("sgd", "SGD"), ("sam", name)):
        shown[title] = frame[column].map(f"{{:.{digits}f}}".format)
    shown["difference"] = frame["difference"].map(f"{{:+.{digits + 1}f}}".format)
    shown[INTERVAL] = intervals(frame, f"{{:+.{digits + 1}f}}")
    if "too_few" in frame:
        shown.loc[frame["too_few"]] = "too few non-members"
    beyond = (frame["low"] > 0) | (frame["high"] < 0)
    return shown.style.apply(lambda column: np.where(beyond, "font-weight: bold", ""), subset=["difference", INTERVAL])


def intervals(frame: pd.DataFrame, form: str = "{:+.4f}") -> pd.Series:
    """The ends of each row's interval as text."""
    return frame["low"].map(form.format) + " to " + frame["high"].map(form.format)
