"""The confirmatory runs, which `study.toml` fixed beforehand: trained over several calls, and recorded when they are whole."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from samlib.audit import Pair, align
from samlib.checks import as_choice
from samlib.experiment import Experiment, pair
from samlib.paper import claims, records
from samlib.paper.frames import Frames, effects
from samlib.paper.notebook import measure
from samlib.paper.study import CONFIRM
from samlib.paper.style import dataset_title
from samlib.runs import NothingWhole, run_pairs

SECTIONS = (*claims.SECTIONS, "subclasses", "shadows")
# The section that runs of other lengths, and of other seeds, add to a record.
ADDED = {"epochs": "lengths", "seed": "seeds"}
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


def make(dataset: str, folder: str | os.PathLike, minutes: float | None = None) -> Path | None:
    """Train the fixed runs of a data set, and record them once they are whole. A run with a record is not trained again.

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
    Path or None
        The record; None if models are missing. Those that were trained are in the cache, and the next call goes on from there.
    """
    wanted = experiments(dataset)
    if path := recorded(wanted, folder):
        return path
    try:
        found = run_pairs(wanted, minutes=minutes)
    except NothingWhole:
        return None
    every = [runs.attrs for two in found.values() for runs in two.values()]
    if len(found) < len(wanted) or any(each.get("whole") != each.get("asked") for each in every):
        return None
    return keep({key: align(two) for key, two in found.items()}, folder, CONFIRM[dataset].get("decides"))


def recorded(wanted: Mapping[Key, Mapping[str, Experiment]], folder: str | os.PathLike | None) -> Path | None:
    """The record of what `experiments` returned, or None if there is none or it lacks runs of other lengths or seeds."""
    path = records.find(folder, _main(wanted).values())
    needed = {ADDED[kind] for kind, _ in wanted if kind in ADDED}
    return path if path and needed <= records.sections(records.read_about(path)) else None


def incomplete(folder: str | os.PathLike | None) -> Markdown:
    """List the fixed runs without a whole record."""
    missing = [dataset_title(dataset) for dataset in CONFIRM if not recorded(experiments(dataset), folder)]
    return Markdown("\n".join(f"- {each}" for each in missing or ["none"]))


def keep(pairs: Mapping[Key, Pair], folder: str | os.PathLike, decides: Container[str] | None = None) -> Path:
    """Measure the pairs of fixed runs, and keep their frames as a record.

    The main run has the frames of SECTIONS and the boolean signals. Other lengths have those of "lengths", and other seeds
    "seeds" (seed, claim): their effects. If the run was fixed to decide some claims alone, `decides`, the main run has the
    frames of their sections, with no other claim's effect.
    """
    main, kinds = _main(pairs), {kind for kind, _ in pairs}
    frames = _of_main(main, decides)
    if "epochs" in kinds:
        frames["lengths"] = measure("lengths", pairs)
    if "seed" in kinds:
        others = {seed: effects(claims.measured(two)) for (kind, seed), two in pairs.items() if kind == "seed"}
        frames["seeds"] = {"effects": pd.concat(others, names=["seed"])}
    seconds = sum(runs.attrs["seconds"] for two in pairs.values() for runs in two[:2])
    about = records.provenance(main[:2]) | {"fixed": True, "all_seconds": round(seconds, 1)}
    return records.save(folder, frames, about, main)


def _main(runs: Mapping[Key, Any]) -> Any:
    return next(two for (kind, _), two in runs.items() if kind == "main")


def _of_main(pair: Pair, decides: Container[str] | None) -> dict[str, Frames]:
    if decides is None:
        return {section: measure(section, pair) for section in SECTIONS}
    sections = [*{claim.section for claim in claims.CLAIMS if claim.id in decides}, "subclasses", "shadows"]
    found = {section: measure(section, pair) for section in sections}
    for parts in found.values():
        if "effects" in parts:
            parts["effects"] = parts["effects"].loc[[claim in decides for claim in parts["effects"].index]]
        parts.pop("moments", None)  # of each example: of no use for few models, and large
    return found
