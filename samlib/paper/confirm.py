"""The confirmatory runs, which `study.toml` fixed beforehand. They are trained in blocks and kept as records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from samlib.audit import Pair, align
from samlib.checks import as_choice
from samlib.experiment import Experiment, pair
from samlib.paper import claims, records
from samlib.paper.frames import effects
from samlib.paper.notebook import measure
from samlib.paper.study import CONFIRM
from samlib.runs import NothingWhole, run_pairs

SECTIONS = (*claims.SECTIONS, "subclasses", "shadows")
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
    >>> {key: two["sam"].n_models for key, two in experiments("cifar10").items()}
    {('main', 1): 96}
    """
    fixed = dict(CONFIRM[as_choice("dataset", dataset, tuple(CONFIRM))])
    over, others = fixed.pop("lengths", {"epochs": ()}), fixed.pop("others", {"seeds": ()})
    changed: dict[Key, dict[str, int]] = {("main", fixed["seed"]): {}}
    changed |= {("epochs", e): {"epochs": e, "n_models": over["n_models"]} for e in over["epochs"]}
    changed |= {("seed", s): {"seed": s, "n_models": others["n_models"]} for s in others["seeds"]}
    return {key: pair(dataset=dataset, **fixed | own) for key, own in changed.items()}


def train(dataset: str, minutes: float | None = None) -> dict[Key, Pair] | None:
    """Train the fixed runs of a data set, over as many calls as it takes. Returns None as long as models are missing.

    Parameters
    ----------
    dataset : str
        As for `experiments`.
    minutes : float, optional
        A time box, as for `samlib.runs.run_pairs`.
    """
    wanted = experiments(dataset)
    try:
        found = run_pairs(wanted, minutes=minutes)
    except NothingWhole:
        return None
    there = {key: min(runs.sizes["model"] for runs in two.values()) for key, two in found.items()}
    if any(there.get(key, 0) < two["sgd"].n_models for key, two in wanted.items()):
        return None
    return {key: align(two) for key, two in found.items()}


def keep(pairs: Mapping[Key, Pair], folder: str | os.PathLike) -> Path:
    """Measure what `train` returned, and keep the frames and the boolean signals as a record in a folder.

    The record has the frames of SECTIONS. If they were trained, it also has those of "lengths", and "seeds" (seed, claim): the
    effects of other base seeds.
    """
    main = next(two for (kind, _), two in pairs.items() if kind == "main")
    frames = {section: measure(section, main) for section in SECTIONS}
    if any(kind == "epochs" for kind, _ in pairs):
        frames["lengths"] = measure("lengths", pairs)
    others = {seed: effects(claims.measured(two)) for (kind, seed), two in pairs.items() if kind == "seed"}
    if others:
        frames["seeds"] = {"effects": pd.concat(others, names=["seed"])}
    about: dict[str, Any] = records.provenance(main[:2])
    about["all_seconds"] = round(sum(runs.attrs["seconds"] for two in pairs.values() for runs in two[:2]), 1)
    return records.save(folder, frames, about | {"fixed": True}, main)
