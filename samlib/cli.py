"""Audit models of your own, from a file of their signals: `samlib audit signals.npz`.

Or train models with SGD and SAM on random subsets, attack them, and estimate what they memorize. These models are kept in the
cache folder (SAMLIB_CACHE), and none is trained twice. Start with `samlib plan`, then `samlib train`; the other commands train
what they need. An option that is left out takes the data set's recipe.
"""

import inspect
import re
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from samlib import __version__
from samlib.disk import in_a_sentence
from samlib.experiment import RECIPES, Experiment, pair
from samlib.paper.study import CONFIRM, PROFILES, planned


class OneLine(typer.core.TyperGroup):
    """Commands that print an error as one line, and end with status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):  # kinds of RuntimeError and OSError, which click takes
            raise
        except (ValueError, OSError, RuntimeError) as error:
            print(f"samlib: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=OneLine,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help are plain text
)


@app.callback(help=__doc__, invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="print the version")] = False):
    if version:
        print(__version__)
        raise typer.Exit


DESCRIBED = dict(re.findall(r"^    (\w+) : .*\n        (.*)", Experiment.__doc__ or "", re.MULTILINE))
Cluster = Annotated[str | None, typer.Option(help="address of a Dask scheduler [this machine]")]
Folder = Annotated[Path, typer.Option(help="folder of the records")]
Minutes = Annotated[
    float | None, typer.Option(help="stop before so many minutes are over, whole pairs first [no limit]")
]
Pair = dict[str, Experiment]


def command(function: Callable[..., None], make: Callable[..., Any] = pair) -> Callable[..., None]:
    """Register a command. Its options are the fields of an experiment; `make` turns them into the function's first argument.

    The function's other arguments are the command's own options.
    """
    own = [*inspect.signature(function).parameters.values()][1:]

    def run_command(**given: Any) -> None:
        others = {parameter.name: given.pop(parameter.name) for parameter in own}
        function(make(**{name: value for name, value in given.items() if value is not None}), **others)

    kind = inspect.Parameter.KEYWORD_ONLY
    options = [parameter.replace(kind=kind) for parameter in own]
    for name, field in Experiment.model_fields.items():
        option: Any = Annotated[_plain(field.annotation), typer.Option(help=_help(name, field))]
        options.append(inspect.Parameter(name, kind, default=None, annotation=option))
    setattr(run_command, "__signature__", inspect.Signature(options))  # noqa: B010
    run_command.__name__, run_command.__doc__ = function.__name__, function.__doc__
    return app.command()(run_command)


def _given(**fields: Any) -> list[Experiment]:
    """The experiments that options describe: SGD alone, or SGD and another optimizer; none without options."""
    if fields.get("optimizer") == "sgd":
        return [Experiment(**fields)]
    return list(pair(**fields).values()) if fields else []


def _plain(annotation: Any) -> type:
    """The type that the command line reads. `Experiment` checks the content of a string."""
    if get_origin(annotation) in (tuple, Literal):
        return str
    return next((kind for kind in (bool, int, float) if kind.__name__ in str(annotation)), str)


def _help(name: str, field: Any) -> str:
    """What a field is, which values it may have, and its value if left out."""
    choices = f": {', '.join(get_args(field.annotation))}" if get_origin(field.annotation) is Literal else ""
    default = f" [{field.default}]" if field.default is not None else ""
    if name == "optimizer":
        default = " [sam, beside sgd]"
    elif any(name in recipe for recipe in RECIPES.values()):
        default = " [the data set's recipe]"
    return DESCRIBED[name] + choices + default


def _again() -> str:
    """How to call the same command once more."""
    return f"To go on: samlib {shlex.join(sys.argv[1:])}"


def _aligned(experiments: Pair, cluster: str | None) -> Any:
    """The runs of both experiments, as `samlib.audit` takes them."""
    from samlib import audit, runs

    return audit.align(runs.run_pairs({"": experiments}, cluster=cluster)[""])


@command
def train(experiments: Pair, minutes: Minutes = None, cluster: Cluster = None):
    """Train SGD and a paired SAM (or load them), and print their accuracy and where their signals are."""
    from samlib.runs import NothingWhole, run_pairs

    try:
        found = run_pairs({"": experiments}, cluster=cluster, minutes=minutes)[""]
    except NothingWhole:
        found = {}
    if minutes is not None:
        whole = max((runs.attrs["whole"] for runs in found.values()), default=0)
        print(f"{whole} of {experiments['sgd'].n_models} pairs are there.")
        if whole < experiments["sgd"].n_models:
            print(_again())
    for name, runs in found.items():
        said = f"train accuracy {runs.train_accuracy.mean():.3f}, test accuracy {runs.test_accuracy.mean():.3f}"
        print(f"{name}: {runs.sizes['model']} models, {said}, {runs.attrs['seconds']:.0f} s, {runs.attrs['store']}")


@partial(command, make=dict)
def plan(fields: dict, profile: Annotated[str, typer.Option(help=f"what to plan: {', '.join(PROFILES)}")] = "quick"):
    """Print what training a profile, or one data set of it, would take: models, time and disk. Nothing is trained.

    Time is measured on this machine, in up to a minute, with a few steps on random data. Nothing is downloaded or written.
    With options, `samlib plan --profile paper --dataset cifar10 --n-models 64` plans just that. A data set that the profile
    does not name takes its own recipe.
    """
    from samlib import planning

    print(planning.in_words(planning.plan(e for pair in planned(profile, **fields) for e in pair.values())))


@command
def attack(experiments: Pair, cluster: Cluster = None):
    """Attack both optimizers' models, each once the target, and print Table 1."""
    from samlib import audit

    pair = _aligned(experiments, cluster)
    comparisons = audit.compare_attacks(audit.attack_scores(pair.sgd), audit.attack_scores(pair.sam))
    for table in (audit.accuracy_table(pair), audit.membership_table(comparisons)):
        print(table.round(4).to_string(), end="\n\n")


@command
def memorize(experiments: Pair, cluster: Cluster = None):
    """Estimate memorization; print the mean scores, their difference, and the examples that differ most."""
    from samlib.paper import memorization

    frames = memorization.measure(_aligned(experiments, cluster))
    print(frames["means"].round(4).to_string(), frames["most"].round(3).to_string(), sep="\n\n")


@command
def verdicts(experiments: Pair, cluster: Cluster = None):
    """Decide every claim of the paper on these models, and print a card for each."""
    from samlib.paper import cards, claims

    print(cards.cards(claims.ledger({experiments["sgd"].dataset: _aligned(experiments, cluster)})))


@command
def record(
    experiments: Pair,
    folder: Folder = Path("book/results"),
    signals: Annotated[bool, typer.Option("--signals", help="keep which models were right on what, too")] = False,
    cluster: Cluster = None,
):
    """Measure these models for every page of the paper, and keep the results and their provenance for the book to show."""
    from samlib.paper import notebook

    print(notebook.record(_aligned(experiments, cluster), folder, signals=signals))


@partial(command, make=dict)
def record_ablations(
    fields: dict,
    changed: Annotated[list[str] | None, typer.Option(help="a field to change; may be repeated [all]")] = None,
    folder: Folder = Path("book/results"),
):
    """Run these models with one field changed at a time, and keep the results for the book's page of ablations."""
    _record_settings(folder, "changed", fields, changed=changed)


@partial(command, make=dict)
def record_optimizers(
    fields: dict,
    optimizers: Annotated[list[str] | None, typer.Option(help="one to compare; may be repeated [all]")] = None,
    architectures: Annotated[list[str] | None, typer.Option(help="a model for SAM as well; may be repeated")] = None,
    folder: Folder = Path("book/results"),
):
    """Run these models with SGD and each other optimizer, and keep the results for the book's page of other optimizers."""
    _record_settings(folder, "optimizers", fields, optimizers=optimizers, architectures=architectures)


def _record_settings(folder: Path, of: str, fields: dict, **given) -> None:
    from samlib.paper import notebook

    defaults = {name: Experiment.model_fields[name].default for name in ("dataset", "n_models")}
    print(notebook.record_settings(folder, of, **given, **defaults | fields))


@command
def export_job(
    experiments: Pair,
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


@partial(command, make=_given)
def import_group(
    given: list[Experiment], paths: Annotated[list[Path], typer.Argument(help="the files that came back")]
):
    """Put models that were trained elsewhere into the cache. A pack says what it holds; a file of one group needs options."""
    from samlib.runs import transfer

    for experiment, models in transfer.import_groups(paths, given):
        print(f"{experiment}: {len(models)} models from {models.start} on")


@app.command()
def audit(
    path: Annotated[Path, typer.Argument(help="file of signals: npz, parquet, or a zarr folder")],
    output: Annotated[Path | None, typer.Option(help="page to write [beside the file]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print all tables as JSON; no page without --output")] = False,
    fail_above: Annotated[
        list[str] | None, typer.Option(help="end with status 3 above a limit, such as auc=0.6; may be repeated")
    ] = None,
    max_gb: Annotated[float, typer.Option(help="the largest array to read, in GB")] = 64,
):
    """Audit models of any framework from a file of their signals, and write one HTML page.

    The file holds member and one of logit, loss and probability, each (models, examples). The executed notebook behind the page
    and its numbers as JSON are written beside it.
    """
    from samlib.report import audit_file, limits_of, page

    with in_a_sentence("", ".", ValueError, typer.BadParameter):
        limits, output = limits_of(fail_above or ()), output and page.named(output)
    found, written = audit_file(path, max_gb=max_gb), None
    if output or not as_json:  # before anything is printed, since the reader of a pipe may leave
        written = found.page(output or path.absolute().with_name(f"{path.stem}-audit.html"))
    above = found.above(limits)
    for said in above:
        print(f"samlib: {said}", file=sys.stderr)
    table = page.risk(found.tables["risk"], found.guessed).to_string(index=False)
    print(*([found.json()] if as_json else [table, page.BALANCED, *found.headline()]), sep="\n", flush=True)
    if written:
        print(written, file=sys.stderr if as_json else sys.stdout)
    raise typer.Exit(3 if limits and above else 0)


@app.command()
def explore(
    output: Annotated[Path | None, typer.Option(help="HTML file to write [a temporary one]")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="only write the file and print where it is")] = False,
):
    """Write the explorers as one HTML file that works offline, print where it is, and open it in the browser."""
    from samlib.paper.explore import open_app

    open_app(output, show=not no_open)


@app.command()
def confirm(
    dataset: Annotated[str, typer.Argument(help=f"one of {', '.join(CONFIRM)}")],
    minutes: Minutes = None,
    folder: Folder = Path("book/results"),
):
    """Train the runs that were fixed beforehand for a data set, over as many calls as it takes, and keep their record."""
    from samlib.paper import confirm

    print(confirm.make(dataset, folder, minutes) or f"Not all models are there yet. {_again()}")
