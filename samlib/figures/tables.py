"""Tables of the book, as pandas Stylers: rounded, legible, nothing typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from samlib.audit import Pair, left_out
from samlib.claims import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, SUPPORTED
from samlib.data import Dataset
from samlib.figures.memorization import agreement
from samlib.figures.style import dataset_title
from samlib.runs import seconds

# Light and dark pages both: colours with their own text colour.
TONES = {
    SUPPORTED: "background-color: #cfe8d5; color: #10341c",
    CONTRADICTED: "background-color: #f6cfc4; color: #4d1508",
    NO_DIFFERENCE: "background-color: #e3e3e3; color: #222222",
    INCONCLUSIVE: "background-color: #f7edc4; color: #3d3307",
}


def table(frame: pd.DataFrame, *, digits: int = 3, name: str = "SAM"):
    """A frame of sgd, sam, difference, low, high: the interval in one column, differences whose interval is beyond 0 in bold."""
    shown = frame[["examples"]].copy() if "examples" in frame else pd.DataFrame(index=frame.index)
    for column, title in (("sgd", "SGD"), ("sam", name)):
        shown[title] = frame[column].map(f"{{:.{digits}f}}".format)
    shown["difference"] = frame["difference"].map(f"{{:+.{digits + 1}f}}".format)
    shown["95 % interval"] = _intervals(frame, digits + 1)
    if "too_few" in frame:
        shown.loc[frame["too_few"]] = "too few non-members"
    beyond = (frame["low"] > 0) | (frame["high"] < 0)
    return shown.style.apply(
        lambda column: np.where(beyond, "font-weight: bold", ""), subset=["difference", "95 % interval"]
    )


def overview(ledger: pd.DataFrame):
    """The first page's table: what is claimed, and the verdict on each data set."""
    verdicts = ledger["verdict"].unstack("dataset")[list(dict.fromkeys(ledger.index.get_level_values("dataset")))]
    verdicts = verdicts.loc[list(dict.fromkeys(ledger.index.get_level_values("claim")))].rename(columns=dataset_title)
    verdicts.insert(0, "the paper claims", ledger["text"].groupby("claim").first())
    names = verdicts.columns[1:]
    return verdicts.rename_axis(index=None, columns=None).style.map(TONES.get, subset=list(names))


def ledger_table(ledger: pd.DataFrame):
    """Every claim and data set: the statistic, its estimate, the Holm-adjusted interval, the smallest effect that counts."""
    shown = pd.DataFrame(index=ledger.index)
    shown["statistic"] = ledger["statistic"]
    shown["estimate"] = ledger["estimate"].map("{:+.4f}".format)
    shown["interval"] = _intervals(ledger, 4)
    shown["counts from"] = (ledger["direction"] * ledger["smallest"]).map("{:+g}".format)
    shown["verdict"] = ledger["verdict"]
    shown.loc[ledger["estimate"].isna(), ["estimate", "interval"]] = ""
    return shown.rename(index=dataset_title, level="dataset").style.map(TONES.get, subset=["verdict"])


def agreement_table(pair: Pair):
    """Figure 1b's numbers, with the names that people know them by."""
    found = agreement(pair)
    rows = {
        "Pearson correlation": found.pearson,
        "Spearman correlation": found.spearman,
        "correlation corrected for noise": found.corrected,
        "split-half reliability, SGD": found.reliability_sgd,
        f"split-half reliability, {pair.name}": found.reliability_sam,
        "slope, least squares": found.slope,
        "slope, orthogonal": found.orthogonal_slope,
    }
    return pd.DataFrame({"value": rows}).map("{:.3f}".format).style


def differ_most_table(frame: pd.DataFrame, dataset: Dataset, *, name: str = "SAM"):
    """`differ_most` with class names, scores and atypicality."""
    shown = pd.DataFrame({"class": [dataset.classes[int(label)] for label in frame["label"]]}, index=frame.index)
    for column, title in (("chosen by", "difference that it was chosen by"), ("sgd", "SGD"), ("sam", name),
                          ("difference", "difference"), ("atypicality", "atypicality")):  # fmt: skip
        signed = "difference" in title
        shown[title] = frame[column].map(("{:+.3f}" if signed else "{:.3f}").format)
    shown.loc["mean"] = ["", *(f"{v:+.3f}" if i in (0, 3) else f"{v:.3f}" for i, v in enumerate(
        frame[["chosen by", "sgd", "sam", "difference", "atypicality"]].mean()))]  # fmt: skip
    return shown.style


def provenance(pair: Pair):
    """What was trained, where, and how long it took: the fields of both experiments that matter, seconds, machine, versions."""
    columns = {}
    for name, runs in (("SGD", pair.sgd), (pair.name, pair.sam)):
        fields = json.loads(runs.attrs["experiment"])
        fields = {k: v for k, v in fields.items() if v is not None}
        columns[name] = {name: str(value) for name, value in fields.items()} | {
            "models that diverged": str(len(runs.attrs["diverged"])),
            "examples that the attacks leave out": str(left_out(runs)),
            "core seconds": f"{seconds(runs):.0f}",
            "machine": ", ".join(runs.attrs["machine"]),
            "samlib": ", ".join(runs.attrs["samlib"]),
            "data (sha256)": runs.attrs["data_checksum"][:12],
            "store": runs.attrs["key"],
        }
    return pd.DataFrame(columns).style


def training_cost(pairs: Mapping[str, Pair]):
    """What the models of this run are and cost: a row for each data set and optimizer."""
    rows = {}
    for pair in pairs.values():
        for name, runs in (("SGD", pair.sgd), (pair.name, pair.sam)):
            rows[dataset_title(json.loads(runs.attrs["experiment"])["dataset"]), name] = {
                "models": runs.sizes["model"],
                "rho": f"{json.loads(runs.attrs['experiment'])['rho']:g}",
                "train accuracy": f"{float(runs.train_accuracy.mean()):.3f}",
                "test accuracy": f"{float(runs.test_accuracy.mean()):.3f}",
                "core seconds": f"{seconds(runs):.0f}",
                "machine": ", ".join(runs.attrs["machine"]),
            }
    return pd.DataFrame.from_dict(rows, orient="index").style


def _intervals(frame: pd.DataFrame, digits: int) -> list[str]:
    return [f"{low:+.{digits}f} to {high:+.{digits}f}" for low, high in zip(frame["low"], frame["high"], strict=True)]
