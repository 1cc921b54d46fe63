"""Audit models from a file of their signals: make every attack that the signals allow, with intervals.

`audit_file` reads any file once, in blocks of examples. It attacks a random sample that fits into memory, and returns tables.
`Report.page` draws them. All intervals of a table, but those of `more`, hold at once with 95 %.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from samlib import __version__
from samlib.checks import FAR, as_choice, as_number, as_path, shown
from samlib.evaluation import evaluate
from samlib.report import tables
from samlib.report.attacking import BEST, CONTROL, attack
from samlib.report.files import read
from samlib.report.sample import given, near, scan

_TEXT = Path(__file__).with_name("sentences.toml").read_text(encoding="utf-8")
SENTENCES: dict[str, dict[str, str]] = tomllib.loads(_TEXT)


class Report(NamedTuple):
    """What an audit finds.

    Attributes
    ----------
    tables : dict of DataFrame
        risk, curves, parts, own_rates, exposed, memorization, memorization_bins, influence, more.
    said : dict of list of str
        Sentences on what was "given" and what is "assumed".
    lacking : dict of str
        Why a table, or some attacks, are missing, and what would make them possible.
    best : str
        The attack that measures parts, single examples and the growth with data.
    """

    tables: dict[str, pd.DataFrame]
    said: dict[str, list[str]]
    lacking: dict[str, str]
    best: str

    def json(self) -> str:
        """All of it as JSON; a number that is NaN or infinite is null."""
        rows = {name: frame.to_dict("records") for name, frame in self.tables.items()}
        plain = json.loads(json.dumps(rows, default=np.generic.item), parse_constant=lambda _: None)
        return json.dumps(self._asdict() | {"tables": plain, "samlib": __version__}, indent=1)

    def __repr__(self) -> str:
        return " ".join(self.headline())

    @property
    def guessed(self) -> bool:
        """Whether a model counts as right where its probability is above one half, for want of `correct`."""
        return SENTENCES["assumed"]["correct"] in self.said["assumed"]

    def headline(self) -> list[str]:
        """What matters most, in sentences: the attack `best`, another that succeeds where it fails, the bound on epsilon."""
        rows = self.tables["risk"].query("attack != @CONTROL").set_index(["measure", "attack"])
        auc, bound, tpr = rows.loc["auc"], rows.loc["epsilon", "value"], rows.loc[("tpr@0.01", self.best)]
        which = self.best if auc.loc[self.best, "low"] > 0.5 else auc["low"].idxmax()
        sure = auc.loc[which, "low"] > 0.5
        facts = {
            "best": self.best, "auc": auc.loc[self.best], "which": which, "its": auc.loc[which], "nothing": not sure,
            "more": sure and which == self.best, "other": sure and which != self.best, "tpr": 100 * tpr[:3].astype(float),
            "most": bound.idxmax(), "epsilon": bound.max(), "bound": bound.max() > 0, "none": bound.max() == 0,
        } | {note: tpr["note"] == note for note in ("", "ties", "too few")}  # fmt: skip
        return _sentences("headline", facts)

    def above(self, limits: Mapping[str, float]) -> list[str]:
        """A sentence for each limit that an attack exceeds. limits: from one of `tables.MEASURES` to a number.

        A measure that no attack could be measured by has a sentence too: nobody knows that it is below. One more says if the
        signal is surely lower on members than on the others: then no limit can be held against it.
        """
        rows, said = self.tables["risk"].query("attack != @CONTROL"), []
        plain = rows[(rows["attack"] == "confidence") & (rows["measure"] == "auc")].iloc[0]
        if plain["high"] < 0.5:
            said.append(f"auc of confidence is {plain['value']:.3g}, below one half: a loss must be named loss.")
        for measure, limit in limits.items():
            every = rows[rows["measure"] == as_choice("limit", measure, tables.MEASURES)]
            mine = every[every["note"] == ""]
            if mine.empty:
                said.append(f"{measure} cannot be measured: {SENTENCES['unmeasured'][every['note'].iloc[0]]}.")
                continue
            worst = mine.loc[mine["value"].idxmax()]
            if worst["value"] > limit:
                ends = f"its interval begins at {worst['low']:.3g}"
                said.append(f"{measure} of {worst['attack']} is {worst['value']:.3g}, above {limit:g}; {ends}.")
        return said

    def page(self, path) -> Path:
        """Draw the tables: write one HTML file that needs no network, the executed notebook and the JSON."""
        from samlib.report.page import write

        return write(self.json(), path)


def limits_of(texts: Iterable[str]) -> dict[str, float]:
    """The limits for `Report.above`, from texts such as "auc=0.6". Raises ValueError for anything else."""
    limits, known = {}, ", ".join(tables.MEASURES)
    for text in texts:
        measure, _, limit = text.partition("=")
        try:
            as_choice("limit", measure, tables.MEASURES)
            limits[measure] = as_number("limit", float(limit), 0, FAR if measure == "epsilon" else 1)
        except ValueError:
            wanted = f"must be a measure and a number; measures are {known}, and all but epsilon lie in 0 to 1."
            raise ValueError(f"limit {shown(text)} {wanted}") from None
    return limits


def _sentences(part: str, facts: Mapping) -> list[str]:
    """The sentences of a part. One stands there unless the fact of its name is false, 0 or empty."""
    return [said.format(**facts) for name, said in SENTENCES[part].items() if facts.get(name, True)]


def opened(path) -> Report:
    """The report that `Report.json` wrote, or that of a file of signals."""
    path = as_path("path", path)
    if path.suffix != ".json":
        return audit_file(path)
    kept = json.loads(path.read_text(encoding="utf-8"))
    # null becomes NaN, so that a column without a number stays a column of numbers
    tables = {name: pd.DataFrame(rows).fillna(np.nan).infer_objects() for name, rows in kept["tables"].items()}
    return Report(tables, kept["said"], kept["lacking"], kept["best"])


def audit_file(path, *, max_gb: float = 64) -> Report:
    """Audit models from their signals.

    Parameters
    ----------
    path : path, mapping of arrays, or xarray.Dataset
        An npz file, a parquet file, a zarr folder, or the arrays themselves, such as what `samlib.run` returns. Their
        names and shapes are in `samlib.report.files.SCHEMA`: `member` (models, examples) bool, one of `logit`, `loss`
        and `probability` (models, examples), and optional arrays.
    max_gb : float
        The largest array that is read, in GB.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the file is of another kind or damaged, or arrays do not fit; one sentence that names the array.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> member = rng.random((16, 200)) < 0.5
    >>> found = audit_file({"logit": rng.normal(size=(16, 200)) + member, "member": member})
    >>> found.best
    'LiRA online'
    """
    data = given(*read(path, max_gb=as_number("max_gb", max_gb, 0, strict=True)))
    s = scan(data)
    every, s = attack(s), s.isel(examples=s.drawn.values)
    found, best = every.isel(examples=every.drawn.values), next(name for name in BEST if name in every)
    made = {"risk": tables.risk(found), "curves": tables.curves(found, best)}
    if tables.known(found):
        made["parts"] = tables.parts(found, best)
    if found.shadows and found.sizes["targets"] >= 8:
        made["own_rates"] = tables.own_rates(found[best].values, found.member.values)
        made["exposed"] = tables.exposed(every, best)
    if found.shadows and s.sizes["models"] >= 8:
        made |= tables.memorized(s)
        if "test_correct" in s:
            made["influence"] = tables.influential(s)
    made["more"] = tables.more(s, best)
    able = {name: len(frame) for name, frame in made.items()} | {"shadows": len(found.shadows)}
    able |= {"online": found.shadows == "online", "population": "test_logit" in s}
    lacking = {name: why for name, why in SENTENCES["lacking"].items() if not able.get(name)}
    return Report(made, _said(data, s, found, best), lacking, best)


def _said(data: xr.Dataset, s: xr.Dataset, found: xr.Dataset, best: str) -> dict[str, list[str]]:
    """Sentences on what was given, and on what is assumed."""
    sizes, drawn, tests = data.sizes, s.sizes["examples"], s.sizes["tests"] if "test_logit" in s else 0
    outside = 0 if "tests" in sizes else tests  # taken from the examples
    told = [name for name in ("confidence", CONTROL) if name in found]
    auc = {name: evaluate(found[name].values, found.member.values, fpr=()).auc for name in told}
    control, targets = auc.get(CONTROL), found.sizes["targets"]
    parts = [len(np.unique(each)) for each in tables.known(found).values()]
    agrees = control is not None and control.low <= 0.5 <= control.high
    facts = {
        "signal": data.signal, "read": ", ".join(data.read), "models": sizes["models"],
        "examples": sizes["examples"], "tests": tests - outside,
        "lower": auc["confidence"].high < 0.5, "outside": outside, "spare": outside,
        "drawn": drawn if drawn + outside < sizes["examples"] else 0, "out": drawn - found.sizes["examples"],
        "targets": targets if targets < s.target.values.sum() else 0,
        "parts": sum(parts) if max(parts, default=0) > tables.MOST_PARTS else 0,
        "unused": ", ".join(map(shown, data.unused[:9])), "like": near(data.unused, data.read),
        "agrees": agrees, "control": control is None, "differs": not agrees and control is not None, "shadows": found.shadows,
        "deviations": found.shadows, "correct": "correct" not in data, "best": best, "order": ", ".join(BEST),
    }  # fmt: skip
    return {part: _sentences(part, facts) for part in ("given", "assumed")}
