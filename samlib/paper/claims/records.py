"""Recorded results: ledgers of runs that take too long for a reader's machine, as small files with their provenance.

A record says which experiments it came from; one whose experiment this version of the library would not train again (its key
differs), or whose numbers were changed by hand, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pandas as pd

from samlib import __version__
from samlib.audit import Pair, accuracy_table, memorization_table
from samlib.checks import as_path
from samlib.experiment import Experiment
from samlib.paper.claims.ledger import ledger
from samlib.paper.study import ablation_pairs
from samlib.runs import run_pairs, save_runs
from samlib.runs.recorded import record_name

SUFFIX = ", recorded"


def record(pair: Pair, folder: str | os.PathLike) -> Path:
    """Decide every claim on a pair of runs and write the ledger, with provenance, as one parquet file in `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    experiment = Experiment(**json.loads(pair.sgd.attrs["experiment"]))
    frame = ledger({experiment.dataset: pair}).reset_index()
    means = pd.concat([accuracy_table(pair), memorization_table(pair)])
    about = {
        "experiments": [json.loads(runs.attrs["experiment"]) for runs in pair[:2]],
        "keys": [runs.attrs["key"] for runs in pair[:2]],
        "models": [runs.sizes["model"] for runs in pair[:2]],
        "data_checksum": pair.sgd.attrs["data_checksum"],
        "samlib": __version__,
        "machine": sorted({*pair.sgd.attrs["machine"], *pair.sam.attrs["machine"]}),
        "seconds": round(pair.sgd.attrs["seconds"] + pair.sam.attrs["seconds"], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "means": means.to_dict("index"),
    }
    about["digest"] = _digest(frame, about)
    name = f"{_file_name(experiment.dataset)}-{pair.name.lower()}-{record_name(pair.sam.attrs)}"
    path = as_path("folder", folder) / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(frame).replace_schema_metadata({"samlib": json.dumps(about)}), path)
    return path


def record_ablations(folder: str | os.PathLike, **parameters) -> Path:
    """Run `study.ablation_pairs(**parameters)` and keep what the page of ablations reads; returns the list of parameters.

    That is a small `ablations-*.json`, by which the book knows the page, beside a file for each run.
    """
    pairs = run_pairs(ablation_pairs(**parameters))
    for pair in pairs.values():
        for runs in pair.values():
            save_runs(runs, folder, ("logit",))
    first = next(iter(next(iter(pairs.values())).values()))
    path = as_path("folder", folder) / f"ablations-{_file_name(json.loads(first.attrs['experiment'])['dataset'])}.json"
    path.write_text(json.dumps(parameters, indent=1) + "\n")
    return path


def _file_name(dataset: str) -> str:
    return dataset.replace("/", "_")


def read(path: str | os.PathLike) -> tuple[pd.DataFrame, dict]:
    """A record's ledger, its data set's name with `SUFFIX`, and its provenance. Raises ValueError where it is refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"samlib"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a record: {' '.join(str(error).split())}.") from None
    frame = table.to_pandas()
    if about.pop("digest", None) != _digest(frame, about):
        raise ValueError(f"{path} was changed after it was recorded; record it again.")
    for fields, key in zip(about["experiments"], about["keys"], strict=True):
        try:
            now = Experiment(**fields).key
        except ValueError as error:
            now = str(error)
        if now != key:
            raise ValueError(
                f"{path} was recorded from an experiment that this version would not train; record it again."
            )
    frame["dataset"] += SUFFIX
    return frame.set_index(["claim", "dataset"]), about


def verdicts(pair: Pair, folder: str | os.PathLike | None = None) -> pd.DataFrame:
    """The `ledger` of one pair of runs, a row for each claim: as recorded in `folder` of just these models, or computed."""
    keys, models = [runs.attrs["key"] for runs in pair[:2]], [runs.sizes["model"] for runs in pair[:2]]
    for path in sorted(as_path("folder", folder).glob("*.parquet")) if folder else []:
        frame, about = read(path)
        same_data = about["data_checksum"] == pair.sgd.attrs["data_checksum"]
        if same_data and about["keys"] == keys and about["models"] == models:
            return frame.droplevel("dataset")
    return ledger({"": pair}).droplevel("dataset")


def with_recorded(live: pd.DataFrame, folder: str | os.PathLike | None) -> pd.DataFrame:
    """A ledger with those of the records in `folder`, each below its data set's own; None or an empty folder adds nothing."""
    paths = sorted(as_path("folder", folder).glob("*.parquet")) if folder else []
    both = pd.concat([live, *(read(path)[0] for path in paths)])
    names = list(dict.fromkeys(both.index.get_level_values("dataset")))
    order = sorted(
        names, key=lambda name: (names.index(next(n for n in names if n.split(",")[0] == name.split(",")[0])), name)
    )
    return pd.concat([both.xs(name, level="dataset", drop_level=False) for name in order])


def provenance_of(folder: str | os.PathLike | None) -> pd.DataFrame:
    """What the records in `folder` came from: a row each, with both accuracies, models, seconds, machine, date."""
    rows = []
    for path in sorted(as_path("folder", folder).glob("*.parquet")) if folder else []:
        about = read(path)[1]
        first, second = about["experiments"]
        accuracy, memorized = about["means"]["test accuracy"], about["means"]["mean memorization"]
        rows.append(
            {
                "data set": first["dataset"],
                "model": first["model"],
                "optimizers": f"sgd, {second['optimizer']} (rho {second['rho']:g})",
                "models": "{} + {}".format(*about["models"]),
                "test accuracy": f"{accuracy['sgd']:.3f}, {accuracy['sam']:.3f}",
                "mean memorization": f"{memorized['sgd']:.3f}, {memorized['sam']:.3f}",
                "core seconds": f"{about['seconds']:.0f}",
                "machine": ", ".join(about["machine"]),
                "recorded": about["date"],
            }
        )
    return pd.DataFrame(rows)


def _digest(frame: pd.DataFrame, about: dict) -> str:
    text = frame.to_json(orient="split", double_precision=15) + json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
