"""Tables of the book, as pandas Stylers: rounded, legible, nothing typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib.paper.panels import scroll
from samlib.paper.style import dataset_title


def table(frame: pd.DataFrame, *, digits: int = 3, name: str = "SAM", forms: tuple[str, str] | None = None):
    """A frame of sgd, sam, difference, low, high as a table. Differences with an interval that excludes 0 are bold.

    forms: how a value and a difference are written; by default with `digits` decimals, and one more for a difference.
    """
    value, gap = forms or (f"{{:.{digits}f}}", f"{{:+.{digits + 1}f}}")
    shown = pd.DataFrame(index=frame.index)
    if "examples" in frame:
        shown["examples"] = frame["examples"].map("{:,.0f}".format)
    for column, title in (("sgd", "SGD"), ("sam", name)):
        shown[title] = frame[column].map(value.format)
    shown["difference"] = frame["difference"].map(gap.format)
    shown["interval"] = _intervals(frame, gap)
    bold = np.where((frame["low"] > 0) | (frame["high"] < 0), "font-weight: bold", "")
    return shown.style.apply(lambda column: bold, subset=["difference", "interval"])


def across_table(found: pd.DataFrame):
    """What `claims.across_datasets` returns, as a table to read."""
    shown = pd.DataFrame({"data sets": found["datasets"]})
    shown["random-effects mean"] = found["estimate"].map("{:+.4f}".format)
    shown["95 % interval"] = _intervals(found, "{:+.4f}")
    shown["spread beyond chance"] = found["tau"].map("{:.4f}".format)
    shown["do they agree"] = found["agree"]
    return shown[found["datasets"] > 1].style


def provenance(about: Mapping[str, Any], counts: pd.DataFrame | None = None):
    """What was trained, where, and how long it took: a column for each experiment.

    about: what `Study.about` returns. counts: a section's frame "counts".
    """
    columns = {}
    runs = zip(*(about[each] for each in ("experiments", "keys", "models", "diverged")), strict=True)
    for fields, key, n, diverged in runs:
        given = fields | {"models": n, "models that diverged": len(diverged), "store": key}
        name = fields["optimizer"].upper()
        own = {field: str(value) for field, value in given.items() if value is not None}
        columns[name if name not in columns else f"{name} {key[:4]}"] = own
    shown = pd.DataFrame(columns)
    rows = {"machine": ", ".join(about["machine"]), "samlib": about["samlib"]}
    rows |= {"core seconds, both together": about["seconds"], "data checksum": about["data_checksum"][:16]}
    rows |= {} if counts is None else dict(counts.get("number", {}))
    rows |= {"record": about["record"]} if "record" in about else {}
    for title, value in rows.items():
        shown.loc[title] = str(value)
    return shown.style


def runs_table(about: Mapping[str, Mapping[str, Any]]):
    """What the runs of a page were and what they cost: a row for each optimizer of each, by what `Study.sources` returns."""
    rows = {}
    for name, each in about.items():
        for fields, n in zip(each["experiments"], each["models"], strict=True):
            rows[dataset_title(name), fields["optimizer"].upper()] = {
                "models": n, "network": fields["model"], "epochs": fields["epochs"], "rho": f"{fields['rho']:g}",
                "trained": "live" if each["live"] else each["date"], "seconds of both, all cores": f"{each['seconds']:.0f}",
                "machine": ", ".join(each["machine"]),
            }  # fmt: skip
    return scroll(pd.DataFrame.from_dict(rows, orient="index").style, "A row for each run and optimizer.")


def origins(about: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]) -> Markdown:
    """The data sets of a book: those live, those recorded, and those left out, with the reason and what to do."""
    live, kept = [], []
    for name, each in about.items():
        if each["live"]:
            live.append(dataset_title(name))
        else:
            models = " + ".join(map(str, each["models"]))
            kept.append(f"{dataset_title(name.partition(',')[0])} ({models} models, {each['date']})")
    lines = [f"- **Live**, smaller runs that this build or an earlier one trained: {', '.join(live)}."] if live else []
    lines += [f"- **Recorded**, from longer runs: {', '.join(kept)}."] if kept else []
    lines += [f"- **Left out**, {what}: {reason}".replace("$", r"\$") for what, reason in missing.items()]
    return Markdown("\n".join(lines))


def _intervals(frame: pd.DataFrame, form: str) -> pd.Series:
    return frame["low"].map(f"{form} to ".format) + frame["high"].map(form.format)
