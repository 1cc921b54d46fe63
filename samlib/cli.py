"""`samlib` on the command line: train, attack, memorize. The options are the fields of `Experiment`."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Annotated

import typer

from samlib.experiment import Experiment, pair

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train models with SGD and SAM on random subsets, attack them, and estimate what they memorize. Models are kept in "
    "the cache folder (SAMLIB_CACHE), and what exists is never trained again.",
)


def command(function):
    """Register `function(experiments, cluster)`, its options made from the fields of Experiment, its errors one line."""
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str if name == "hidden" else _plain(field.annotation),
                typer.Option(help=f"{field.description} [{_default(name, field)}]", show_default=False),
            ],
        )
        for name, field in Experiment.model_fields.items()
    ]
    cluster = inspect.Parameter(
        "cluster",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str, typer.Option(help="address of a Dask scheduler [this machine]", show_default=False)],
    )

    def run_command(**given):
        address = given.pop("cluster")
        fields = {name: value for name, value in given.items() if value is not None}
        try:
            if "hidden" in fields:
                fields["hidden"] = [int(width) for width in fields["hidden"].replace(",", " ").split()]
            function(pair(**fields), address)
        except (ValueError, OSError, RuntimeError) as error:
            print(f"samlib: {error}", file=sys.stderr)
            raise typer.Exit(1) from None

    run_command.__signature__ = inspect.Signature([*options, cluster])
    run_command.__name__, run_command.__doc__ = function.__name__, function.__doc__
    return app.command()(run_command)


def _plain(annotation):
    kinds = {int: int, float: float}
    names = str(annotation)
    return next((kind for kind in kinds if kind.__name__ in names), str)


def _default(name: str, field) -> str:
    if name == "optimizer":
        return "sam, beside sgd"
    return (
        "the data set's recipe"
        if name in ("hidden", "epochs", "weight_decay", "subset_fraction", "rho")
        else str(field.default)
    )


def _runs(experiments, cluster):
    from samlib.runs import run

    return {name: run(experiment, cluster=cluster) for name, experiment in experiments.items()}


@command
def train(experiments, cluster):
    """Train SGD and a paired SAM (or load them) and print accuracy and where the signals are."""
    for name, runs in _runs(experiments, cluster).items():
        print(
            f"{name}: {runs.sizes['model']} models, train accuracy {runs.train_accuracy.mean():.3f}, "
            f"test accuracy {runs.test_accuracy.mean():.3f}, {runs.attrs['seconds']:.0f} s, {runs.attrs['store']}"
        )


@command
def attack(experiments, cluster):
    """Attack both optimizers' models, each once the target, and print Table 1."""
    from samlib import audit

    print(audit.membership_table(_runs(experiments, cluster)).round(4).to_string())


@command
def memorize(experiments, cluster):
    """Estimate memorization and print, as JSON, the mean score of each optimizer and the difference with its interval."""
    from samlib import audit

    print(json.dumps(audit.memorization_summary(_runs(experiments, cluster)), indent=2))


if __name__ == "__main__":
    app()
