"""Tables of the book, as pandas Stylers: rounded, legible, nothing typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib.audit import Pair, left_out
from samlib.data import Dataset
from samlib.paper.claims import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, SUPPORTED, provenance_of
from samlib.paper.figures.memorization import agreement
from samlib.paper.style import dataset_title, needs_data

# Light and dark pages both: colours with their own text colour.
TONES = {
    SUPPORTED: "background-color: #cfe8d5; color: #10341c",
    CONTRADICTED: "background-color: #f6cfc4; color: #4d1508",
    NO_DIFFERENCE: "background-color: #e3e3e3; color: #222222",
    INCONCLUSIVE: "background-color: #f7edc4; color: #3d3307",
}
WIDE = {"min-width": "9em"}  # a column of sentences


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
    verdicts = _by_dataset(ledger, ledger["verdict"])
    names = verdicts.columns
    verdicts.insert(0, "the paper claims", ledger["text"].groupby("claim").first())
    return verdicts.style.map(TONES.get, subset=list(names)).set_properties(["the paper claims"], **WIDE)


def ledger_table(ledger: pd.DataFrame):
    """Every claim's statistic, from where an effect counts, the estimate on each data set with its Holm-adjusted interval, in
    the verdict's colour, and what the paper reports."""
    cells = _estimates(ledger) + " (" + pd.Series(_intervals(ledger, 4), ledger.index) + ")"
    shown = _by_dataset(ledger, cells.mask(ledger["estimate"].isna(), "too few"))
    tones = _by_dataset(ledger, ledger["verdict"].map(TONES))
    names = shown.columns
    first = ledger.groupby("claim", sort=False).first()
    shown.insert(0, "statistic", first["statistic"])
    shown.insert(1, "counts from", (first["direction"] * first["smallest"]).map("{:+g}".format))
    shown["the paper reports"] = first["reported"]
    return shown.style.apply(lambda _: tones, axis=None, subset=list(names)).set_properties(
        ["statistic", "the paper reports"], **WIDE
    )


def claims_table(ledger: pd.DataFrame):
    """The same for claims that each stand on one data set: a column for each part."""
    shown = ledger[["statistic"]].assign(
        estimate=_estimates(ledger), interval=_intervals(ledger, 4), verdict=ledger["verdict"]
    )
    shown = shown.rename(index=dataset_title, level="dataset").rename_axis([None, None])
    return shown.style.map(TONES.get, subset=["verdict"]).set_properties(["statistic"], **WIDE)


def _by_dataset(ledger: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Claims x data sets, both in the order of the ledger; empty where a claim has no row."""
    claims, datasets = (list(dict.fromkeys(ledger.index.get_level_values(level))) for level in ("claim", "dataset"))
    frame = values.unstack("dataset").loc[claims, datasets].fillna("")
    return frame.rename(columns=dataset_title).rename_axis(index=None, columns=None)


def _estimates(ledger: pd.DataFrame) -> pd.Series:
    return ledger["estimate"].map("{:+.4f}".format)


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


@needs_data
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
            "core seconds": f"{runs.attrs['seconds']:.0f}",
            "machine": ", ".join(runs.attrs["machine"]),
            "samlib": ", ".join(runs.attrs["samlib"]),
            "data (sha256)": runs.attrs["data_checksum"][:12],
            "store": runs.attrs["key"],
        }
    return pd.DataFrame(columns).style


def origin(pair: Pair) -> Markdown:
    """One sentence on where a page's models come from: live, or recorded and when."""
    names, date = f"SGD and {pair.name}", pair.sgd.attrs.get("date")
    what = f"{pair.sgd.sizes['model']} models each of {names} on {_title(pair)}"
    machines = ", ".join(sorted({*pair.sgd.attrs["machine"], *pair.sam.attrs["machine"]}))
    if date:
        return Markdown(
            f"*Recorded: {what}, trained on {machines} and kept on {date}; nothing was trained for this page.*"
        )
    return Markdown(f"*Live: {what}, trained by this run or an earlier one on {machines}.*")


def origins(pairs: Mapping[str, Pair], results: str | None, missing: Mapping[str, str] | None) -> Markdown:
    """What a book shows: data sets that are live, those recorded, and those left out with the reason and what to do."""
    kept = provenance_of(results)
    recorded = [
        f"{dataset_title(row['data set'])} ({row['models']} models, {row['recorded']})" for _, row in kept.iterrows()
    ]
    lines = ["- **Live**, trained by this build or an earlier one: " + ", ".join(map(_title, pairs.values())) + "."]
    lines += ["- **Recorded**, from longer runs: " + ", ".join(recorded) + "."] if recorded else []
    lines += [f"- **Left out**, {what}: {reason}".replace("$", r"\$") for what, reason in (missing or {}).items()]
    return Markdown("\n".join(lines))


def _title(pair: Pair) -> str:
    return dataset_title(json.loads(pair.sgd.attrs["experiment"])["dataset"])


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
                "core seconds": f"{runs.attrs['seconds']:.0f}",
                "machine": ", ".join(runs.attrs["machine"]),
            }
    return pd.DataFrame.from_dict(rows, orient="index").style


def _intervals(frame: pd.DataFrame, digits: int) -> list[str]:
    return [f"{low:+.{digits}f} to {high:+.{digits}f}" for low, high in zip(frame["low"], frame["high"], strict=True)]
