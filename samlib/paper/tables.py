"""Tables of the book, as pandas Stylers: rounded, legible, nothing typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib.inference import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, NOT_MEASURABLE, SUPPORTED
from samlib.paper.style import dataset_title

# Light and dark pages both: colours with their own text colour.
TONES = {
    SUPPORTED: "background-color: #cfe8d5; color: #10341c",
    CONTRADICTED: "background-color: #f6cfc4; color: #4d1508",
    NO_DIFFERENCE: "background-color: #e3e3e3; color: #222222",
    INCONCLUSIVE: "background-color: #f7edc4; color: #3d3307",
    NOT_MEASURABLE: "background-color: #dfe3f3; color: #1c2444",
}
WIDE = {"min-width": "9em"}  # a column of sentences


def table(frame: pd.DataFrame, *, digits: int = 3, name: str = "SAM"):
    """A frame of sgd, sam, difference, low, high: the interval in one column, differences whose interval is beyond 0 in bold."""
    shown = frame[["examples"]].copy() if "examples" in frame else pd.DataFrame(index=frame.index)
    for column, title in (("sgd", "SGD"), ("sam", name)):
        shown[title] = frame[column].map(f"{{:.{digits}f}}".format)
    shown["difference"] = frame["difference"].map(f"{{:+.{digits + 1}f}}".format)
    shown["interval"] = _intervals(frame, digits + 1)
    if "too_few" in frame:
        shown.loc[frame["too_few"]] = "too few non-members"
    beyond = (frame["low"] > 0) | (frame["high"] < 0)
    return shown.style.apply(
        lambda column: np.where(beyond, "font-weight: bold", ""), subset=["difference", "interval"]
    )


def overview(ledger: pd.DataFrame):
    """The first page's table: what is claimed, and the verdict on each data set, of rows with a statistic on any of them."""
    ledger = _measured(ledger)
    verdicts = _by_dataset(ledger, ledger["verdict"])
    names = verdicts.columns
    verdicts.insert(0, "the paper claims", ledger["text"].groupby("claim").first())
    return verdicts.style.map(TONES.get, subset=list(names)).set_properties(["the paper claims"], **WIDE)


def ledger_table(ledger: pd.DataFrame):
    """Every claim's statistic, from where an effect counts, the estimate on each data set with its simultaneous interval, in
    the verdict's colour, and what the paper reports; of rows with a statistic on any of them."""
    ledger = _measured(ledger)
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
    return shown.style.map(lambda said: TONES.get(said, ""), subset=["verdict"]).set_properties(["statistic"], **WIDE)


def across_table(found: pd.DataFrame):
    """`claims.across_datasets` as people read it."""
    shown = pd.DataFrame(
        {"data sets": found["datasets"], "mean": found["estimate"].map("{:+.4f}".format)}, index=found.index
    )
    shown["95 % interval"] = _intervals(found, 4)
    shown["deviation between data sets"] = found["tau"].map("{:.4f}".format)
    shown["do they agree"] = found["agree"]
    return shown[found["datasets"] > 1].style


def provenance(about: Mapping[str, Any], counts: pd.DataFrame | None = None):
    """What was trained, where, and how long it took: a column for each experiment, from `Study.about`; `counts` of a section."""
    columns: dict[str, dict[str, str]] = {}
    for fields, key, n, diverged in zip(
        *(about[k] for k in ("experiments", "keys", "models", "diverged")), strict=True
    ):
        name = fields["optimizer"].upper()
        columns[name if name not in columns else f"{name} {key[:4]}"] = {
            **{k: str(v) for k, v in fields.items() if v is not None},
            "models": str(n),
            "models that diverged": str(len(diverged)),
            "store": key,
        }
    shown = pd.DataFrame(columns)
    for name in ("machine", "samlib", "seconds", "data_checksum"):
        value = about[name]
        shown.loc[name.replace("_", " ")] = ", ".join(value) if isinstance(value, list) else str(value)[:16]
    for name, number in () if counts is None else counts["number"].items():
        shown.loc[name] = str(number)
    return shown.style


def runs_table(about: Mapping[str, Mapping[str, Any]], models: Mapping[str, pd.DataFrame]):
    """What the models of a page are and cost: a row for each data set and optimizer; `models`: frames of each model."""
    rows = {}
    for dataset, each in about.items():
        means = models[dataset].groupby("optimizer")[["train_accuracy", "test_accuracy", "train_loss"]].mean()
        for fields, n in zip(each["experiments"], each["models"], strict=True):
            who = "sgd" if fields["optimizer"] == "sgd" else "sam"
            rows[dataset_title(dataset), fields["optimizer"].upper()] = {
                "models": n, "network": fields["model"], "epochs": fields["epochs"], "rho": f"{fields['rho']:g}",
                **{name.replace("_", " "): f"{means.loc[who, name]:.3f}" for name in means},
                "core seconds of both": f"{each['seconds']:.0f}", "machine": ", ".join(each["machine"]),
            }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").style


def origins(about: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str] | None) -> Markdown:
    """What a book shows: data sets that are live, those recorded, and those left out with the reason and what to do."""
    live = [dataset_title(name) for name, each in about.items() if each["live"]]
    kept = [
        f"{dataset_title(name.partition(',')[0])} ({' + '.join(map(str, each['models']))} models, {each['date']})"
        for name, each in about.items()
        if not each["live"]
    ]
    lines = ["- **Live**, trained by this build or an earlier one: " + ", ".join(live) + "."] if live else []
    lines += ["- **Recorded**, from longer runs: " + ", ".join(kept) + "."] if kept else []
    lines += [f"- **Left out**, {what}: {reason}".replace("$", r"\$") for what, reason in (missing or {}).items()]
    return Markdown("\n".join(lines))


def unmeasured(ledger: pd.DataFrame) -> Markdown:
    """Which rows of the ledger have a statistic on none of its data sets; they count in its family all the same."""
    known = set(_measured(ledger).index.get_level_values("claim"))
    missing = [claim for claim in dict.fromkeys(ledger.index.get_level_values("claim")) if claim not in known]
    return Markdown(f"*No statistic on any of these data sets: {'; '.join(missing)}.*" if missing else "")


def _measured(ledger: pd.DataFrame) -> pd.DataFrame:
    return ledger[ledger["estimate"].notna().groupby("claim").transform("any")]


def _by_dataset(ledger: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Claims x data sets, both in the order of the ledger; empty where a claim has no row."""
    claims, datasets = (list(dict.fromkeys(ledger.index.get_level_values(level))) for level in ("claim", "dataset"))
    frame = values.unstack("dataset").loc[claims, datasets].fillna("")
    return frame.rename(columns=dataset_title).rename_axis(index=None, columns=None)


def _estimates(ledger: pd.DataFrame) -> pd.Series:
    return ledger["estimate"].map("{:+.4f}".format)


def _intervals(frame: pd.DataFrame, digits: int) -> list[str]:
    return [f"{low:+.{digits}f} to {high:+.{digits}f}" for low, high in zip(frame["low"], frame["high"], strict=True)]
