"""The confirmatory runs, which `study.toml` fixed beforehand: trained in blocks, each part recorded as soon as it is whole."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from samlib.audit import Pair, align
from samlib.checks import as_choice, as_number
from samlib.experiment import Experiment, pair
from samlib.paper import claims, records
from samlib.paper.frames import Frames, effects
from samlib.paper.notebook import measure
from samlib.paper.panels import listed
from samlib.paper.study import CONFIRM
from samlib.paper.style import dataset_title
from samlib.runs import NothingWhole, run_pairs

SECTIONS = (*claims.SECTIONS, "subclasses", "shadows")
PARTS = {  # from the kind of a key to what its part is called, and a section that it adds to a record
    "main": ("the main run", "membership"),
    "epochs": ("the runs of other lengths", "lengths"),
    "seed": ("the runs of other seeds", "seeds"),
}
Key = Any  # (kind, value)


def experiments(dataset: str) -> dict[Key, dict[str, Experiment]]:
    """Return the pairs of experiments that were fixed for a data set.

    Parameters
    ----------
    dataset : str
        A key of `CONFIRM`.

    Returns
    -------
    dict
        A `pair` for ("main", seed), each ("seed", base seed) and each ("epochs", length), in the order of training.

    Raises
    ------
    ValueError
        If no run was fixed for the data set.

    Examples
    --------
    >>> experiments("cifar10")["main", 1]["sam"].n_models
    96
    """
    fixed = dict(CONFIRM[as_choice("dataset", dataset, tuple(CONFIRM))])
    fixed.pop("decides", None)
    over, others = fixed.pop("lengths", {"epochs": ()}), fixed.pop("others", {"seeds": ()})
    changed: dict[Key, dict[str, int]] = {("main", fixed["seed"]): {}}
    changed |= {("epochs", e): {"epochs": e, "n_models": over["n_models"]} for e in over["epochs"]}
    changed |= {("seed", s): {"seed": s, "n_models": others["n_models"]} for s in others["seeds"]}
    return {key: pair(dataset=dataset, **fixed | own) for key, own in changed.items()}


def make(dataset: str, folder: str | os.PathLike, minutes: float | None = None) -> tuple[Path | None, list[str]]:
    """Train the fixed runs of a data set part by part, and keep each part as soon as it is whole.

    A part that the record has is not trained again. So another machine goes on from the record alone.

    Parameters
    ----------
    dataset : str
        As for `experiments`.
    folder : path
        The folder of the records.
    minutes : float, optional
        A time box, as for `samlib.runs.run_pairs`.

    Returns
    -------
    path : Path or None
        The record; None as long as the main run is not whole.
    missing : list of str
        The keys of `PARTS` that are not whole.
    """
    minutes = None if minutes is None else as_number("minutes", minutes, 0, strict=True)
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    wanted = experiments(dataset)
    while True:
        path, missing = recorded(wanted, folder)
        if not missing or (left := (end - time.monotonic()) / 60) <= 0:
            return path, missing
        part = {key: two for key, two in wanted.items() if key[0] == missing[0]}
        if not (pairs := _trained(part, None if minutes is None else left)):
            return path, missing
        keep(pairs, folder, records.read_about(path) if path else None, CONFIRM[dataset].get("decides"))


def recorded(
    wanted: Mapping[Key, Mapping[str, Experiment]], folder: str | os.PathLike | None
) -> tuple[Path | None, list[str]]:
    """The record of what `experiments` returned, or None, and the keys of `PARTS` that it lacks."""
    (main,) = (two for (kind, _), two in wanted.items() if kind == "main")
    path = records.find(folder, main.values())
    kept, kinds = records.sections(path) if path else set(), {kind for kind, _ in wanted}
    return path, [kind for kind, (_, section) in PARTS.items() if kind in kinds and section not in kept]


def incomplete(folder: str | os.PathLike | None) -> Markdown:
    """List the fixed runs that are not whole: parts that no record in the folder has, and packs that lack models."""
    missing = {dataset_title(dataset): recorded(experiments(dataset), folder)[1] for dataset in CONFIRM}
    said = [f"{title}: {listed([PARTS[kind][0] for kind in kinds])}" for title, kinds in missing.items() if kinds]
    return Markdown("\n".join(f"- {each}" for each in [*said, *records.lacking(folder)] or ["none"]))


def _of_main(pair: Pair, decides: Container[str] | None) -> dict[str, Frames]:
    if decides is None:
        return {section: measure(section, pair) for section in SECTIONS}
    found = {section: measure(section, pair) for section in {c.section for c in claims.CLAIMS if c.id in decides}}
    for parts in found.values():
        parts["effects"] = parts["effects"].loc[[claim in decides for claim in parts["effects"].index]]
        parts.pop("moments", None)  # of each example: of no use for few models, and large
    return found


def _trained(part: Mapping[Key, Mapping[str, Experiment]], minutes: float | None) -> dict[Key, Pair]:
    """The pairs of a part; empty if some are not whole when the time is up."""
    try:
        found = run_pairs(part, minutes=minutes)
    except NothingWhole:
        return {}
    short = (
        runs for two in found.values() for runs in two.values() if runs.attrs.get("whole") != runs.attrs.get("asked")
    )
    return {} if len(found) < len(part) or any(short) else {key: align(two) for key, two in found.items()}


def keep(
    pairs: Mapping[Key, Pair],
    folder: str | os.PathLike,
    about: Mapping[str, Any] | None = None,
    decides: Container[str] | None = None,
) -> Path:
    """Measure pairs, and keep their frames in a record: of the main run among them, or the one that `about` describes.

    The main run has the frames of SECTIONS and the boolean signals. Other lengths have those of "lengths", and other seeds
    "seeds" (seed, claim): their effects. If the run was fixed to decide some claims alone, `decides`, the main run has the
    frames of their sections, with no other claim's effect.
    """
    main = next((two for (kind, _), two in pairs.items() if kind == "main"), None)
    known, frames = {**(about or {})}, {}
    if main is not None:
        known = records.provenance(main[:2]) | {"fixed": True}
        frames = _of_main(main, decides)
    if any(kind == "epochs" for kind, _ in pairs):
        frames["lengths"] = measure("lengths", pairs)
    others = {seed: effects(claims.measured(two)) for (kind, seed), two in pairs.items() if kind == "seed"}
    if others:
        frames["seeds"] = {"effects": pd.concat(others, names=["seed"])}
    seconds = known.get("all_seconds", 0) + sum(runs.attrs["seconds"] for two in pairs.values() for runs in two[:2])
    return records.save(folder, frames, known | {"all_seconds": round(seconds, 1)}, main)
