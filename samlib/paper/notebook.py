"""`samlib.study(globals())`, a notebook's one line: it checks the parameters and gives frames, measured or recorded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from filelock import FileLock
from IPython.display import Markdown

from samlib.audit import Pair, align
from samlib.data import NAMES, Dataset, NotAtHand, cache_folder
from samlib.data.files import PUBLISHED
from samlib.experiment import Experiment, ParameterError, pair
from samlib.paper import cards, claims, records, tables
from samlib.paper.distances import dataset_of
from samlib.paper.frames import Frames, Section
from samlib.paper.panels import listed, scroll
from samlib.paper.study import ablation_pairs, flat, from_parameters, optimizer_pairs, public_parameters, was_fixed
from samlib.paper.style import dataset_title, model_title, optimizer_title
from samlib.runs import run_pairs

# Keyed by the parameter that only such a notebook has.
MAKERS: dict[str, Callable[..., dict]] = {"changed": ablation_pairs, "optimizers": optimizer_pairs}
SHOWN_BY = {"changed": ("ablations", "lengths"), "optimizers": ("optimizers",)}  # the sections of their pages


def study(namespace: Mapping[str, Any]) -> Study:
    """Check a notebook's parameters, and give what its sections measure.

    Parameters
    ----------
    namespace : mapping
        The notebook's `globals()`, which hold its parameters: `dataset` or `datasets`, `results`, and fields of an experiment.
        `results` is a folder of records; a page shows a record if it has at least as many models. `changed` asks for ablations,
        `optimizers` for many optimizers. Any other public variable is an error, so a misspelt parameter is found.

    Returns
    -------
    Study
        Nothing is trained yet.

    Raises
    ------
    ParameterError
        If a parameter is unknown or its value is refused; the message is one sentence.

    Examples
    --------
    >>> found = study({"dataset": "digits", "n_models": 8})
    >>> found.experiments["digits"]["sam"].n_models
    8
    """
    given = public_parameters(namespace)
    results, missing = given.pop("results", None), given.pop("missing", None)
    given.pop("others", None)  # the ledger's page makes another study of these
    names = given.pop("datasets", None) or [Experiment.model_fields["dataset"].default]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ParameterError("datasets must be a list of names of data sets.")
    names = [one] if (one := given.pop("dataset", None)) else names
    make: Callable[..., dict] = next((maker for name, maker in MAKERS.items() if name in given), pair)
    experiments = {name: from_parameters({**given, "dataset": name}, make=make) for name in names}
    asked = {name: value for name, value in given.items() if name not in ("profile", "n_models")}
    recipes = {name: from_parameters({**asked, "dataset": name}, make=make) for name in names}
    return Study(experiments, results, missing, recipes)


class Study:
    """Data sets, their experiments, and the frames of each section.

    Attributes
    ----------
    experiments : dict
        For each data set, SGD's experiment and another one; with several settings, such a pair for each setting.
    name : str
        The name of the optimizer that is compared with SGD, as people write it.
    missing : dict
        Data sets that could not be obtained, and why.
    """

    def __init__(
        self, experiments: dict[str, dict], results: str | None, missing: Mapping | None, recipes: dict[str, dict]
    ):
        self.experiments, self.results, self.missing = experiments, results, dict(missing or {})
        self._recipes = recipes
        first = flat(next(iter(experiments.values())))
        self.name = optimizer_title(next(e.optimizer for e in first if e.optimizer != "sgd"))

    @functools.cached_property
    def pairs(self) -> dict[str, Any]:
        """The aligned runs of each data set, trained or loaded now: a Pair, or one for each setting."""
        return {dataset: self._runs(dataset) for dataset in self.experiments}

    @functools.cache  # noqa: B019
    def _runs(self, dataset: str) -> Pair | dict[Any, Pair]:
        own = self.experiments[dataset]
        found = {key: align(runs) for key, runs in run_pairs({None: own} if "sgd" in own else own).items()}
        return found.get(None, found)

    def record(self, dataset: str) -> Path | None:
        """The record of a data set's experiments, in the folder `results`."""
        return records.find(self.results, flat(self.experiments[dataset]))

    @functools.cache  # noqa: B019
    def shown(self, dataset: str) -> Path | None:
        """The record that a page shows, of any seed. None if there is none, or if the live runs have more models."""
        # A recipe is what was asked for without its profile: a record may be of that.
        path = records.largest(self.results, flat(self._recipes[dataset])) or self.record(dataset)
        asked = max(e.n_models for e in flat(self.experiments[dataset]))
        if path and min(records.read_about(path)["models"]) < asked:
            with contextlib.suppress(NotAtHand):
                self._runs(dataset)
                return None
        return path

    def about(self, dataset: str) -> dict[str, Any]:
        """Where a page's numbers on a data set come from: `records.provenance`, and `live`, False for a record."""
        return self._about(dataset, self.shown(dataset))

    @functools.cache  # noqa: B019
    def _about(self, dataset: str, path: Path | None) -> dict[str, Any]:
        if path:
            return {**records.read_about(path), "live": False}
        found = self._runs(dataset)
        several = [found] if isinstance(found, Pair) else found.values()
        return {**records.provenance(runs for two in several for runs in two[:2]), "live": True}

    def frames(self, section: str, *, optional: bool = False) -> Section:
        """The frames of a section for each data set, from its record or its live runs, whichever has more models.

        optional: if a record or the live runs lack the section, give no frames for its data set; else raise ValueError.
        """
        shown = {each: self._from(each, section, self.shown(each), optional) for each in self.experiments}
        return Section(shown, {dataset: _title(dataset, self.about(dataset)) for dataset in shown}, self.name)

    def _from(self, dataset: str, section: str, path: Path | None, optional: bool = False) -> Frames:
        """The frames in a record. Without a record, the frames of the live runs: those measured before, or measured now."""
        if path:
            if (kept := records.load(path, section)) or optional:
                return kept
            raise ValueError(f"{path} holds nothing of the section {section}; record it again.")
        if section == "lengths" and optional and isinstance(self._runs(dataset), Pair):
            return {}  # one length alone
        own = flat(self.experiments[dataset])
        folder, mine = cache_folder() / "frames" / _code(), records.identity(own)
        folder.mkdir(parents=True, exist_ok=True)
        runs, about = self._runs(dataset), self._about(dataset, None)
        with FileLock(folder / f"{mine}-{section}.lock"):
            with FileLock(folder / f"{mine}.lock"):  # while another section is saved, the record's folder is away
                path = records.find(folder, own)
                kept = records.load(path, section) if path else {}
            if not kept:
                kept = measure(section, runs)
                with FileLock(folder / f"{mine}.lock"):
                    records.save(folder, {section: kept}, {k: v for k, v in about.items() if k != "live"})
        return kept

    def ledger(self) -> pd.DataFrame:
        """The ledger (`claims.ledger_of`) of these data sets. Each is followed by its other records in `results`."""
        effects = {column: self._effects(column, path) for column, path in self._paths().items()}
        about = {column: claims.cost(each) for column, each in self.sources().items()}
        return claims.ledger_of(effects, about)

    def _effects(self, column: str, path: Path | None) -> pd.DataFrame:
        """The effects that decide the claims of a column (a data set or a record): read from its record, or measured."""
        parts = [self._from(column, section, path, optional=True) for section in (*claims.SECTIONS, "lengths")]
        return pd.concat([part["effects"] for part in parts if "effects" in part])

    def sources(self) -> dict[str, dict[str, Any]]:
        """For each column of the ledger, where its numbers come from: as `about`."""
        return {column: self._about(column, path) for column, path in self._paths().items()}

    def fits(self) -> pd.Series:
        """The other optimizer's mean train loss over SGD's, for each column of `ledger`."""
        rows = {
            column: self._from(column, "membership", path)["accuracy"].loc["train loss"]
            for column, path in self._paths().items()
        }
        return pd.Series({column: row["sam"] / row["sgd"] for column, row in rows.items()}, dtype=float)

    def largest(self) -> list[str]:
        """Columns of `ledger`: for each data set, the one with the most models."""
        return self._largest({column: cards.dataset_in(column) for column in self.sources()})

    def independent(self) -> list[str]:
        """Those of `largest` with different real data: known by name, not generated, and no two with the same images."""
        names = {column: cards.dataset_in(column) for column in self.largest()}
        real = {column: name for column, name in names.items() if name in NAMES and name not in claims.GENERATED}
        return self._largest({column: PUBLISHED[name].get("of", name) for column, name in real.items()})

    def _largest(self, groups: Mapping[str, str]) -> list[str]:
        """The column with the most models in each group. groups: from a column to its group."""
        models = pd.Series({column: sum(self.sources()[column]["models"]) for column in groups}, dtype=int)
        return list(models.groupby(groups, sort=False).idxmax())

    def repeated(self) -> Section:
        """For each run of `largest` that was repeated with other base seeds: its frame "effects", and theirs, "seeds"."""
        paths, found, titles = self._paths(), {}, {}
        for column in self.largest():
            dataset, path = cards.dataset_in(column), paths[column]
            if path and (kept := records.load(path, "seeds")):
                found[dataset] = {"effects": self._effects(column, path), "seeds": kept["effects"]}
                titles[dataset] = _title(dataset, self._about(column, path))
        return Section(found, titles, self.name)

    @functools.cache  # noqa: B019
    def _paths(self) -> dict[str, Path | None]:
        """The record of each column of the ledger; None where its runs are live.

        Each data set's own column is followed by its other records in `results` of the same two optimizers.
        """
        found = {dataset: self.record(dataset) for dataset in self.experiments}
        own = set(found.values())
        for path, about in records.records(self.results).items():
            optimizers = {optimizer_title(fields["optimizer"]) for fields in about["experiments"]}
            if path not in own and len(about["experiments"]) == 2 and optimizers == {"SGD", self.name}:
                name = f"{about['experiments'][0]['dataset']}, recorded"
                found[name if name not in found else f"{name}, {path.name}"] = path
        names = list(dict.fromkeys(map(cards.dataset_in, found)))
        return {column: found[column] for column in sorted(found, key=lambda each: names.index(cards.dataset_in(each)))}

    def verdict(self, *wanted: str) -> cards.Shown:
        """A card for each wanted claim, with a row for each data set. The claims' sections give the effects."""
        asked = [claim for claim in claims.EVERY if claim.id in wanted]
        found = [self.frames(section) for section in sorted({claim.section for claim in asked})]
        effects = {dataset: pd.concat([each[dataset]["effects"] for each in found]) for dataset in self.experiments}
        about = {dataset: claims.cost(self.about(dataset)) for dataset in self.experiments}
        return cards.cards(claims.ledger_of(effects, about, asked), name=self.name)

    def data(self, dataset: str) -> Dataset | None:
        """The data that the models were trained on, or None where they are not at hand."""
        about = self.about(dataset)
        experiment = json.dumps(about["experiments"][0])
        return dataset_of(xr.Dataset(attrs={"experiment": experiment, "data_checksum": about["data_checksum"]}))

    def origin(self) -> Markdown:
        """Say which runs are live and which recorded.

        The metadata say of each data set, by its title: `runs`, what they are, for captions; `models`, how many there are;
        `pair`, how long two models took to train, and on what.
        """
        rows, short, lines = [], {}, []
        totals: dict[str, int] = {}
        pair: dict[str, str] = {}
        for dataset in self.experiments:
            about, title = self.about(dataset), dataset_title(dataset)
            every = pd.DataFrame(about["experiments"]).assign(models=about["models"]).fillna({"pool": "all"})
            each = {name: _several(every[name].unique()) for name in ("models", "epochs", "pool")}
            how = f"{' or '.join(map(model_title, every['model'].unique()))}, pool {each['pool']}, {each['epochs']} epochs"
            kind = "Live" if about["live"] else "Recorded"
            totals[title] = sum(about["models"])
            on = " or ".join(dict.fromkeys(name.partition(", torch")[0] for name in about["machine"]))
            pair[title] = f"{2 * about['seconds'] / totals[title]:.1f} s on {title} ({on})"
            short[title] = f"{title} ({how}, {kind.lower()}: {each['models']} of each)"
            rows.append((kind, each["models"], f"{title} ({how})", about["date"], about["machine"]))
        table = pd.DataFrame(rows, columns=["kind", "models", "runs", "date", "machines"])
        for kind, same in table.groupby("kind", sort=False):
            (models, run), *rest = zip(same["models"], same["runs"], strict=True)
            runs = [f"{models} models of each optimizer on {run}", *(f"{models} on {run}" for models, run in rest)]
            earlier = f"earlier runs, kept on {listed(sorted(set(same['date'])))}"
            by = "this run or an earlier one" if kind == "Live" else earlier
            machines = ", ".join(same["machines"].explode().unique())
            lines.append(f"*{kind}: {'; '.join(runs)}. Trained by {by}, on {machines}.*")
        return Markdown("\n\n".join(lines), metadata={"runs": short, "models": totals, "pair": pair})

    def provenance(self, found: Section) -> Markdown:
        """What was trained for a page, where, and how long it took: the columns of each data set beside each other."""
        columns = {}
        for dataset, frames in found.items():
            columns[dataset_title(dataset)] = tables.provenance(self.about(dataset), frames.get("counts")).data
            if path := self.shown(dataset):
                columns[dataset_title(dataset)].loc["record"] = path.name
        return scroll(pd.concat(columns, axis=1).fillna("").style, "A column for each experiment.")


def record(pair: Pair, folder: str | os.PathLike, *, signals: bool = False) -> Path:
    """Measure every section of a pair of runs, and keep the frames as a record in a folder; returns its path.

    signals: whether to keep also which model was right on which example.
    """
    frames = {section: measure(section, pair) for section in (*claims.SECTIONS, "subclasses")}
    return records.save(folder, frames, records.provenance(pair[:2]), pair if signals else None)


def record_settings(folder: str | os.PathLike, of: str, **parameters) -> Path:
    """Run pairs of many settings, and keep the frames of their page as a record in a folder.

    of: "changed" for `ablation_pairs`, "optimizers" for `optimizer_pairs`. parameters: those of the function.
    """
    pairs = {key: align(runs) for key, runs in run_pairs(MAKERS[of](**parameters)).items()}
    frames = {section: measure(section, pairs) for section in SHOWN_BY[of]}
    about = records.provenance(runs for pair in pairs.values() for runs in pair[:2])
    return records.save(folder, frames, about | {"parameters": parameters, "fixed": was_fixed(parameters)})


def _several(values: Iterable) -> str:
    """Different values in their order: all of a few, the ends of many."""
    said = [str(value) for value in sorted(values, key=lambda value: (isinstance(value, str), value))]
    return " or ".join(said) if len(said) < 4 else f"{said[0]} to {said[-1]}"


def _title(dataset: str, about: Mapping[str, Any]) -> str:
    """The title over a panel: data set, network and numbers of models."""
    network, models = model_title(about["experiments"][0]["model"]), " + ".join(map(str, about["models"][:2]))
    return f"{dataset_title(dataset)}: {network}, {models}"


def measure(section: str, runs: Any) -> Frames:
    """Call a section's `measure` on a pair, or on pairs by (kind, value)."""
    return import_module(f"samlib.paper.{section}").measure(runs)


@functools.cache
def _code() -> str:
    """A digest of the library's code. Frames that other code measured are not used again."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
