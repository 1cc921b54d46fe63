"""What a section's `measure` returns: tidy frames, the same whether they were measured now or read from a record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd

from samlib.inference import LEVEL, Effect, Reliability
from samlib.paper.style import dataset_title

FAMILY = 23  # rows that each data set has in the ledger; one without a statistic counts too
EACH = LEVEL / FAMILY  # the level of each interval on a page; then all intervals of a data set hold at once

Frames = dict[str, pd.DataFrame]


class Section(dict[str, Frames]):
    """The frames of one section, for each data set.

    Parameters
    ----------
    frames : mapping
        From a data set to its frames.
    titles : mapping, optional
        The titles over each data set's panels; by default the data sets' names.
    name : str
        The name of the optimizer that is compared with SGD, as people write it.

    Examples
    --------
    >>> Section({"digits": {}}).titles
    {'digits': 'Digits'}
    """

    def __init__(self, frames: Mapping[str, Frames], titles: Mapping[str, str] | None = None, name: str = "SAM"):
        super().__init__(frames)
        self.titles, self.name = dict(titles or {dataset: dataset_title(dataset) for dataset in frames}), name

    def but(self, frames: Mapping[str, Frames]) -> Section:
        """A section of other frames, with the same titles and optimizer."""
        return Section(frames, self.titles, self.name)

    def titled(self) -> dict[str, Frames]:
        """The frames of each data set by its name, as people write it."""
        return {dataset_title(dataset): frames for dataset, frames in self.items()}

    def stacked(self, name: str) -> pd.DataFrame:
        """One frame, concatenated over data sets. The first level of the index names the data set."""
        parts = {title: frames[name] for title, frames in self.titled().items() if len(frames[name])}
        return pd.concat(parts) if parts else pd.DataFrame()

    def joined(self, other: Mapping[str, Frames]) -> Section:
        """The frames of this section and of another one. Both have a frame "effects", whose rows stand together."""
        parts = {dataset: (frames, other.get(dataset, {})) for dataset, frames in self.items()}
        effects = {d: pd.concat([own["effects"] for own in two if "effects" in own]) for d, two in parts.items()}
        rows = {dataset: {**one, **two, "effects": effects[dataset]} for dataset, (one, two) in parts.items()}
        return self.but(rows)


@contextmanager
def counted() -> Iterator[None]:
    """Ignore warnings of examples that have no estimate or are left out: the pages count these. Also a decorator."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(no estimate|are left out)")
        yield


class Found(NamedTuple):
    """What decides a claim: an effect and, if it is computed from scores of examples, the reliability of these scores."""

    effect: Effect
    reliability: Reliability = Reliability(1.0, 0.0)


def effects(found: Mapping[str, Found | None]) -> pd.DataFrame:
    """The frame "effects" of a section, a row for each claim; NaN where the runs are too small for its statistic.

    Columns estimate, stderr, df, by_models (as `inference.Effect`), reliability (1 where none is needed).
    """
    none = [*[np.nan] * len(Effect._fields), 1.0]
    rows = {
        claim: [*map(float, each.effect), each.reliability.value] if each else none for claim, each in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*Effect._fields, "reliability"]).rename_axis("claim")


def ends(effect: Effect, name: str) -> dict[str, np.ndarray]:
    """An effect as columns: its estimate under a name, and the ends low, high of its simultaneous interval."""
    low, high = effect.interval(EACH)
    return {name: effect.estimate, "low": low, "high": high}


def contrast(sgd: Effect, sam: Effect, gap: Effect) -> dict[str, np.ndarray]:
    """Two optimizers as columns: sgd, sam, difference, and the ends low, high of its simultaneous interval.

    For means of terms (models, examples) `audit.compared(sgd, sam, EACH)` makes the same numbers.
    """
    return {"sgd": sgd.estimate, "sam": sam.estimate, **ends(gap, "difference")}


def one(effect: Effect, *at) -> Effect:
    """The part of an `Effect` of arrays that lies at an index."""
    return Effect(*(part[at] for part in effect))


def table(rows: Mapping, *names: str) -> pd.DataFrame:
    """A frame from rows keyed by tuples, or by single values. `names` are those of the index levels."""
    keys = list(rows)
    index = pd.MultiIndex.from_tuples(keys, names=names) if len(names) > 1 else pd.Index(keys, name=names[0])
    return pd.DataFrame(list(rows.values()), index)
