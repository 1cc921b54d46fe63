"""`samlib.study(globals())`, a notebook's one line: it checks the parameters and gives frames, measured or recorded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    asked = {name: value for name, value in given.items() if name not in ("profile", "n_models")}
    experiments, recipes = (
        {name: from_parameters({**each, "dataset": name}, make=make) for name in names} for each in (given, asked)
    )
    return Study(experiments, recipes, results, missing or {})


@dataclass(eq=False)
class Study:
    """Data sets, their experiments, and the frames of each section.

    Attributes
    ----------
    experiments : dict
        For each data set, SGD's experiment and another one; with several settings, such a pair for each setting.
    recipes : dict
        The same without what the profile changes.
    results : str or None
        The folder of the records.
    missing : dict
        Data sets that could not be obtained, and why.
    """

    experiments: dict[str, dict]
    recipes: dict[str, dict]
    results: str | None
    missing: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the optimizer that is compared with SGD, as people write it."""
        first = flat(next(iter(self.experiments.values())))
        return optimizer_title(next(e.optimizer for e in first if e.optimizer != "sgd"))

    @property
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
        path = records.largest(self.results, flat(self.recipes[dataset])) or self.record(dataset)
        asked = max(e.n_models for e in flat(self.experiments[dataset]))
        if path and min(records.read_about(path)["models"]) < asked:
            with contextlib.suppress(NotAtHand):
                self._runs(dataset)
                return None
        return path

    def about(self, dataset: str) -> dict[str, Any]:
        """Where a page's numbers on a data set come from: `records.provenance`, and `live`.

        That is False for a record, whose name is `record`.
        """
        return self._about(dataset, self.shown(dataset))

    @functools.cache  # noqa: B019
    def _about(self, dataset: str, path: Path | None) -> dict[str, Any]:
        if path:
            return {**records.read_about(path), "live": False, "record": path.name}
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
        runs, own = self._runs(dataset), flat(self.experiments[dataset])
        if section == "lengths" and optional and isinstance(runs, Pair):
            return {}  # one length alone
        folder, mine = cache_folder() / "frames" / _code(), records.identity(own)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{mine}-{section}.lock"):  # other sections are measured at the same time
            with FileLock(folder / f"{mine}.lock"):  # while another section is saved, the record's folder is away
                path = records.find(folder, own)
                kept = records.load(path, section) if path else {}
            if not kept:
                kept = measure(section, runs)
                with FileLock(folder / f"{mine}.lock"):
                    records.save(folder, {section: kept}, self._about(dataset, None))
        return kept

    def _ledger(self, paths: Mapping[str, Path | None], asked: Sequence[claims.Claim], *sections: str) -> pd.DataFrame:
        """The ledger of columns (data sets or records), from the frames "effects" of some sections."""
        effects = {column: self._effects(column, path, *sections) for column, path in paths.items()}
        about = {column: claims.cost(self._about(column, path)) for column, path in paths.items()}
        return claims.ledger_of(effects, about, asked)

    def _effects(self, column: str, path: Path | None, *sections: str) -> pd.DataFrame:
        """The effects of a column, of all sections if none is named: read from its record, or measured."""
        each = [self._from(column, one, path, optional=True) for one in sections or (*claims.SECTIONS, "lengths")]
        return pd.concat([frames["effects"] for frames in each if "effects" in frames])

    def ledger(self) -> pd.DataFrame:
        """The ledger (`claims.ledger_of`) of these data sets. Each is followed by its other records in `results`."""
        return self._ledger(self._columns(), claims.CLAIMS)

    def verdict(self, *wanted: str) -> cards.Shown:
        """A card for each wanted claim, with a row for each data set. The claims' sections give the effects."""
        asked = [claim for claim in claims.EVERY if claim.id in wanted]
        paths = {dataset: self.shown(dataset) for dataset in self.experiments}
        return cards.cards(self._ledger(paths, asked, *{claim.section for claim in asked}), name=self.name)

    @functools.cache  # noqa: B019
    def _columns(self) -> dict[str, Path | None]:
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

    def sources(self) -> dict[str, dict[str, Any]]:
        """For each column of the ledger, where its numbers come from: as `about`."""
        return {column: self._about(column, path) for column, path in self._columns().items()}

    def fits(self) -> pd.Series:
        """The other optimizer's mean train loss over SGD's, for each column of `ledger`."""
        found = {column: self._from(column, "membership", path) for column, path in self._columns().items()}
        loss = pd.DataFrame({column: frames["accuracy"].loc["train loss"] for column, frames in found.items()})
        return loss.loc["sam"] / loss.loc["sgd"]

    def largest(self, of: Callable[[str], str] = cards.dataset_in) -> list[str]:
        """Columns of `ledger`: for each data set, the one with the most models. of: other groups of columns, by a name."""
        models = pd.Series({column: sum(about["models"]) for column, about in self.sources().items()}, dtype=int)
        return list(models.groupby(of, sort=False).idxmax())

    def independent(self) -> list[str]:
        """The largest columns of different real data: known by name, not generated, and no two with the same images."""
        largest = self.largest(lambda column: PUBLISHED.get(name := cards.dataset_in(column), {}).get("of", name))
        return [each for each in largest if cards.dataset_in(each) in {*NAMES} - {*claims.GENERATED}]

    def repeated(self) -> Section:
        """For each run of `largest` that was repeated with other base seeds: its frame "effects", and theirs, "seeds"."""
        found, titles = {}, {}
        for column in self.largest():
            dataset, path = cards.dataset_in(column), self._columns()[column]
            if path and (kept := records.load(path, "seeds")):
                found[dataset] = {"effects": self._effects(column, path), "seeds": kept["effects"]}
                titles[dataset] = _title(dataset, self._about(column, path))
        return Section(found, titles, self.name)

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
        kinds: dict[str, list[tuple[str, dict]]] = {}
        shown: dict[str, dict] = {"runs": {}, "models": {}, "pair": {}}
        for dataset in self.experiments:
            about, title = self.about(dataset), dataset_title(dataset)
            every = pd.DataFrame(about["experiments"]).assign(models=about["models"]).fillna({"pool": "all"})
            models, epochs, pool = (_several(every[name].unique()) for name in ("models", "epochs", "pool"))
            how = f"{' or '.join(map(model_title, every['model'].unique()))}, pool {pool}, {epochs} epochs"
            kind, total = "Live" if about["live"] else "Recorded", sum(about["models"])
            on = " or ".join(dict.fromkeys(name.partition(", torch")[0] for name in about["machine"]))
            shown["runs"][title] = f"{title} ({how}, {kind.lower()}: {models} of each)"
            shown["models"][title] = total
            shown["pair"][title] = f"{2 * about['seconds'] / total:.1f} s on {title} ({on})"
            of_each = "" if kind in kinds else " models of each optimizer"
            kinds.setdefault(kind, []).append((f"{models}{of_each} on {title} ({how})", about))
        lines = []
        for kind, each in kinds.items():
            runs, same = zip(*each, strict=True)
            earlier = f"earlier runs, kept on {listed(sorted({about['date'] for about in same}))}"
            by = "this run or an earlier one" if kind == "Live" else earlier
            machines = ", ".join(dict.fromkeys(name for about in same for name in about["machine"]))
            lines.append(f"*{kind}: {'; '.join(runs)}. Trained by {by}, on {machines}.*")
        return Markdown("\n\n".join(lines), metadata=shown)

    def provenance(self, found: Section) -> Markdown:
        """What was trained for a page, where, and how long it took: the columns of each data set beside each other."""
        counts = {dataset: frames.get("counts") for dataset, frames in found.items()}
        columns = {dataset_title(d): tables.provenance(self.about(d), each).data for d, each in counts.items()}
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
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    return hashlib.sha256(code).hexdigest()[:12]
