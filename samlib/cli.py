"""`samlib` on the command line. The options of its commands are the fields of `Experiment`."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer

from samlib.experiment import RECIPES, Experiment, pair
from samlib.paper.study import PROFILES, planned

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help are brackets
    help="Train models with SGD and SAM on random subsets, attack them, and estimate what they memorize. Models are kept in "
    "the cache folder (SAMLIB_CACHE), and what exists is never trained again.",
)


DESCRIBED = dict(re.findall(r"^    (\w+) : .*\n        (.*)", Experiment.__doc__ or "", re.MULTILINE))
CLUSTER = Annotated[str, typer.Option(help="address of a Dask scheduler [this machine]", show_default=False)]

FOLDER = Annotated[Path, typer.Option(help="folder of the records")]


def command(function):
    """Register a function whose first argument is a pair of experiments; options are their fields.

    Its other arguments are the command's own options. If the first is named `given`, it is empty where no field is given.
    If it is named `pairs`, it is all pairs of `profile`, another argument. Errors become one line and status 1.
    """
    first, *own = inspect.signature(function, eval_str=True).parameters.values()
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _plain(name, field.annotation), typer.Option(help=_help(name, field), show_default=False)
            ],
        )
        for name, field in Experiment.model_fields.items()
    ]

    def run_command(**given):
        others = {parameter.name: given.pop(parameter.name) for parameter in own}
        fields = {name: value for name, value in given.items() if value is not None}
        try:
            if "hidden" in fields:
                fields["hidden"] = _widths(fields["hidden"])
            make = {"given": _given, "pairs": partial(planned, others.get("profile"))}.get(first.name, pair)
            function(make(**fields), **others)
        except (ValueError, OSError, RuntimeError) as error:
            print(f"samlib: {error}", file=sys.stderr)
            raise typer.Exit(1) from None

    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run_command.__signature__ = inspect.Signature([*named, *options])
    run_command.__name__, run_command.__doc__ = function.__name__, function.__doc__
    return app.command()(run_command)


def _given(**fields) -> list[Experiment]:
    """Those that options may mean: SGD alone, or with another optimizer; none without options."""
    if fields.get("optimizer") == "sgd":
        return [Experiment(**fields)]
    return list(pair(**fields).values()) if fields else []


def _widths(text: str) -> list[int]:
    try:
        return [int(width) for width in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"hidden must be widths, such as 128,128, not {text!r}.") from None


def _plain(name: str, annotation):
    """The type that the command line reads; what a string may hold, `Experiment` checks."""
    if name == "hidden" or get_origin(annotation) is Literal:
        return str
    return next((kind for kind in (bool, int, float) if kind.__name__ in str(annotation)), str)


def _help(name: str, field) -> str:
    """What a field is, what it may be, and what it is if left out."""
    choices = f", one of {', '.join(get_args(field.annotation))}" if get_origin(field.annotation) is Literal else ""
    default = f" [{field.default}]" if field.default is not None else ""
    if name == "optimizer":
        default = " [sam, beside sgd]"
    elif any(name in recipe for recipe in RECIPES.values()):
        default = " [the data set's recipe]"
    return DESCRIBED[name] + choices + default


def _runs(experiments, cluster):
    from samlib.runs import run

    return {name: run(experiment, cluster=cluster) for name, experiment in experiments.items()}


@command
def train(
    experiments,
    minutes: Annotated[
        float | None,
        typer.Option(help="stop before so many minutes are over, whole pairs first [no limit]", show_default=False),
    ] = None,
    cluster: CLUSTER = None,
):
    """Train SGD and a paired SAM (or load them) and print accuracy and where the signals are."""
    if minutes is None:
        found = _runs(experiments, cluster)
    else:
        from samlib.runs import NothingWhole, run_pairs

        try:
            found = run_pairs({"": experiments}, cluster=cluster, minutes=minutes)[""]
            whole, asked = (next(iter(found.values())).attrs[name] for name in ("whole", "asked"))
        except NothingWhole:
            found, whole, asked = {}, 0, experiments["sgd"].n_models
        print(f"{whole} of {asked} pairs are there.")
        if whole < asked:
            print(f"To go on: samlib {shlex.join(sys.argv[1:])}")
    for name, runs in found.items():
        print(
            f"{name}: {runs.sizes['model']} models, train accuracy {runs.train_accuracy.mean():.3f}, "
            f"test accuracy {runs.test_accuracy.mean():.3f}, {runs.attrs['seconds']:.0f} s, {runs.attrs['store']}"
        )


@command
def plan(
    pairs,
    profile: Annotated[str, typer.Option(help=f"what to plan: {', '.join(PROFILES)}")] = "quick",
):
    """Print what training a profile, or one data set by it, would take: models to train and there, time, disk. Trains nothing.

    Time is measured on this machine, in up to a minute, with a few steps on random data; nothing is fetched or written. With
    options, `samlib plan --profile paper --dataset cifar10 --n-models 64` plans just that; a data set that the profile does not
    name takes its own recipe.
    """
    from samlib import planning

    print(planning.in_words(planning.plan(e for pair in pairs for e in pair.values())))


@command
def attack(experiments, cluster: CLUSTER = None):
    """Attack both optimizers' models, each once the target, and print Table 1."""
    from samlib import audit

    pair = audit.align(_runs(experiments, cluster))
    comparisons = audit.compare_attacks(*(audit.attack_scores(runs) for runs in (pair.sgd, pair.sam)))
    for table in (audit.accuracy_table(pair), audit.membership_table(comparisons)):
        print(table.round(4).to_string(), end="\n\n")


@command
def memorize(experiments, cluster: CLUSTER = None):
    """Estimate memorization; print the mean scores and their difference, and the examples that SAM memorizes more by most."""
    from samlib import audit
    from samlib.paper import memorization

    frames = memorization.measure(audit.align(_runs(experiments, cluster)))
    print(frames["means"].round(4).to_string(), frames["most"].round(3).to_string(), sep="\n\n")


@command
def verdicts(experiments, cluster: CLUSTER = None):
    """Decide every claim of the paper on these models, and print a sentence on each."""
    from samlib import audit, claims

    ledger = claims.ledger({experiments["sgd"].dataset: audit.align(_runs(experiments, cluster))})
    for (claim, _), row in ledger.iterrows():
        print(f"{claim}: {claims.sentence(row).replace('**', '')}")


@command
def record(
    experiments,
    folder: FOLDER = Path("book/results"),
    signals: Annotated[bool, typer.Option("--signals", help="keep which models were right on what, too")] = False,
    cluster: CLUSTER = None,
):
    """Measure what every page of the paper shows of these models, and keep it with its provenance for the book to show."""
    from samlib import audit
    from samlib.paper import notebook

    print(notebook.record(audit.align(_runs(experiments, cluster)), folder, signals=signals))


@command
def record_ablations(
    experiments,
    changed: Annotated[list[str] | None, typer.Option(help="a field to change; may be repeated [all]")] = None,
    folder: FOLDER = Path("book/results"),
):
    """Run these models with one field changed at a time, and keep what the book's page of ablations reads."""
    from samlib.paper import notebook

    other = next(e for e in experiments.values() if e.optimizer != "sgd")
    fields, recipe = other.model_dump(mode="json"), Experiment(dataset=other.dataset).model_dump(mode="json")
    own = {name: v for name, v in fields.items() if v != recipe[name] or name in ("dataset", "n_models")}
    print(notebook.record_ablations(folder, changed=changed, **own))


@command
def export_job(
    experiments,
    path: Annotated[Path, typer.Argument(help="the file to write, such as job.npz")],
    max_mb: Annotated[float, typer.Option(help="size of a file, in MB; more data go into job.2.npz and so on")] = 60,
):
    """Write SGD and a paired SAM, with their data, as files to train from where only torch and numpy are installed."""
    from samlib.runs import transfer

    paths = transfer.write_parts(experiments, path, max_mb)
    for written in paths:
        print(f"{written}: {written.stat().st_size / 1e6:.1f} MB")
    print(f"Copy them there with the folder {Path(__file__).parent}, and run:")
    print(f"python -m samlib.training {shlex.join(written.name for written in paths)} --minutes 12 --out groups")


@command
def import_group(given, paths: Annotated[list[Path], typer.Argument(help="the files that came back")]):
    """Put models that were trained elsewhere into the cache. The files say which; a file of one group needs the options, too."""
    from samlib.runs import transfer

    for experiment, models in transfer.import_groups(paths, given):
        print(f"{experiment}: {len(models)} models from {models.start} on")


@app.command()
def explore(
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write [a temporary one]", show_default=False)
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="only write the file and print where it is")] = False,
):
    """Write both explorers as one HTML file that works offline, print where it is, and open it in the browser."""
    from samlib.paper.explore import open_app

    try:
        open_app(output, show=not no_open)
    except (OSError, ValueError) as error:
        print(f"samlib: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
