"""The page of theory checks: its parameters, its ledger of checks, figures and tables."""

import html
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from pydantic import Field
from scipy.stats import norm

from samlib import theory
from samlib.paper.draw import THREE, curves, panels
from samlib.paper.parameters import Page
from samlib.paper.style import GREEN, REFERENCE, SAM, SGD, drawn


class Parameters(Page):
    """The page's parameters: `trials` is a factor on the number of random problems, `runs` the samples of an experiment."""

    profiles: ClassVar = {"smoke": {"runs": 2, "trials": 0.1}, "paper": {"runs": 20, "trials": 20.0}}
    trials: Annotated[float, Field(gt=0, le=1000)] = 1.0
    runs: Annotated[int, Field(ge=2, le=1000)] = 6

    def problems(self) -> theory.Problems:
        """Random problems of the page's seed, as many as its profile asks for."""
        return theory.Problems(self.seed, self.trials)


class Ledger:
    """Runs checks, shows each one with its source, and counts those that hold.

    Parameters
    ----------
    make : callable
        Makes the random problems; it is called anew for each check.

    Examples
    --------
    >>> ledger = Ledger(Parameters(profile="smoke").problems)
    >>> page = ledger(theory.check_lemma2)
    >>> ledger.verdict()
    '**4 of 4 checks of 1 statements hold.**'
    """

    def __init__(self, make: Callable):
        self.make = make
        self.checks: dict[str, pd.DataFrame] = {}

    def __call__(self, check: Callable, given=None) -> HTML:
        """Run `check` on random problems, or on `given`. Returns its claims and its source, folded unless a claim fails."""
        found = pd.DataFrame(theory.run(check, self.make() if given is None else given)).set_index("claim")
        self.checks[(check.__doc__ or "").partition(":")[0]] = found
        looks = {"worst": theory.number, "holds": {True: "yes", False: "NO"}.get}
        table = found.drop(columns="slack").to_html(formatters=looks, index_names=False)
        said = f"Checked on {found['values'].sum():,} values: {found['holds'].sum()} of {len(found)} claims hold"
        source = html.escape(inspect.getsource(check))
        return HTML(
            f"<details{'' if found['holds'].all() else ' open'}><summary>{said}</summary>\n{table}\n"
            f"<details><summary>How it is checked</summary><pre>{source}</pre></details></details>"
        )

    def summary(self, *kinds: str) -> pd.DataFrame:
        """A row for each statement: the numbers of checks, of values tried, and of checks that hold.

        kinds: beginnings of statements' names; without any, all statements.
        """
        rows = {name: (len(one), one["values"].sum(), one["holds"].sum()) for name, one in self.checks.items()}
        counts = pd.DataFrame(rows, ["checks", "values", "hold"]).T
        return counts.loc[[name.startswith(kinds or "") for name in counts.index]]

    def verdict(self) -> str:
        """One sentence on all checks. It names each statement for which a check does not hold."""
        counts = self.summary()
        broken = counts.index[counts["hold"] < counts["checks"]]
        said = f"{counts['hold'].sum()} of {counts['checks'].sum()} checks of {len(counts)} statements hold"
        return f"**{said}; violated: {', '.join(broken)}.**" if len(broken) else f"**{said}.**"


@drawn
def margins(less=(0.9, -0.2), more=(0.75, 0.15), s: float = 0.3) -> Figure:
    """Theorems 1 and 2 in a picture: densities of fresh margins, of the majority and of the minority, under two models.

    Parameters
    ----------
    less, more : pair of float
        (M, A) of the model less aligned with the minority, and of the model more aligned with it.
    s : float
        Nuisance scale of both models.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, both = panels(2, 2.9, sharey=True)
    margin, names = np.linspace(-1.3, 2.1, 400), ("$w_2$, less aligned", "$w_1$, more aligned")
    for axes, title, means in zip(both, ("majority", "minority"), zip(less, more, strict=True), strict=True):
        laws = [norm.pdf(margin, mean, s) for mean in means]
        curves(axes, margin, dict(zip(names, laws, strict=True)), THREE[:0:-1], title=title, ylim=(0, 1.7), yticks=[])
        for law, colour in zip(laws, (SGD, SAM), strict=True):
            axes.fill_between(margin, law, where=margin <= 0, color=colour, alpha=0.35, lw=0)
        for at, text, side in ((0, "wrong ", "right"), (1, " level of\n members", "left")):
            axes.axvline(at, color=REFERENCE, lw=1, ls=":")
            axes.annotate(text, (at, 1.65), ha=side, va="top", fontsize=9)
        axes.set(xlabel="margin of a fresh point", ylabel="density")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@drawn
def window(M: float = 0.9) -> Figure:
    """Corollary 1: whether error and advantage rise or fall along a path, by A and the price of the exchange, at fixed M.

    Parameters
    ----------
    M : float
        Majority alignment.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (axes,) = panels(1, 4.4)
    A = np.linspace(-1, 1.8, 400)
    low, high = theory.window(M, A)
    axes.fill_between(A, low, high, where=low < high, color=SAM, alpha=0.3, lw=0)
    axes.fill_between(A, high, low, where=low >= high, color=REFERENCE, alpha=0.12, lw=0)
    ends = {"above: error rises, below: it falls": high, "above: advantage rises, below: it falls": low}
    curves(axes, A, ends, ((REFERENCE, "-"), (SGD, "--")), xlim=(A[0], A[-1]), ylim=(-2, 1.2))
    for at, text in (
        ((-0.35, -0.35), "error falls,\nadvantage rises"), ((0.55, 0.65), "both rise"), ((0.1, -1.2), "both fall"),
        ((M + 0.13, 1.1), "A = M"),
    ):  # fmt: skip
        axes.annotate(text, at, ha="center", va="center", fontsize=10)
    arrow: dict[str, Any] = {"arrowstyle": "-", "lw": 0.8, "color": REFERENCE}
    axes.annotate("error rises,\nadvantage falls", (1.5, -0.4), (1.5, 0.45), ha="center", fontsize=10, arrowprops=arrow)
    axes.axvline(M, color=REFERENCE, lw=0.8, ls=":")
    axes.set(xlabel="minority alignment $A$", ylabel=r"price $s^2 \log((1-\pi)\kappa/\pi)$")
    axes.legend(loc="upper left", fontsize=9)
    return figure


@drawn
def exchange(pi: float = 0.1, s: float = 0.4, M: float = 0.9, kappas=(0.0, 0.2, 2.0)) -> Figure:
    """Changes of error and of Adv* as A rises from 0 at three exchange rates: free, inside the window, too expensive.

    Parameters
    ----------
    pi, s, M : float
        Minority share, nuisance scale, and M where A is 0.
    kappas : sequence of float
        Three exchange rates.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, both = panels(2)
    gain = np.linspace(0, 0.5, 60)
    for axes, name, f in zip(both, ("test error", "advantage Adv*"), (theory.error, theory.advantage), strict=True):
        change = {rf"$\kappa$ = {k:g}": f(M - k * gain, gain, s, pi) - f(M, 0, s, pi) for k in kappas}
        curves(axes, gain, change, xlabel="gain in minority alignment", ylabel=f"change of {name}", ylim=(-0.05, 0.1))
        axes.axhline(0, color=REFERENCE, lw=0.8)
    both[0].legend(loc="upper right")
    return figure


@drawn
def contraction(seed: int = 0) -> Figure:
    """Theorem 3 and its warning: v(eta) / v(0) with population curvature, the training Gram matrix, and the identity.

    Parameters
    ----------
    seed : int
        Seed of the training sample.

    Returns
    -------
    matplotlib.figure.Figure
    """
    model = theory.DataModel()
    z, etas = model.sample(seed).z, np.concatenate([[0], np.logspace(-2, 2, 25)])
    curvatures = {
        r"identity: $\Sigma = I$": np.eye(model.d),
        r"population: $\Sigma = E[x x^\top]$": model.second_moment,
        r"training Gram matrix: $\Sigma = X^\top X / n$": z.T @ z / len(z),
    }
    v = {name: theory.contraction(z, np.ones(model.n), Sigma, etas).v for name, Sigma in curvatures.items()}
    figure, (axes,) = panels(1, 3.6)
    curves(axes, etas, {name: each / each[0] for name, each in v.items()}, xlabel=r"$\eta$", ylim=(0, 1.08))
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(0, etas[-1])
    axes.set_ylabel(r"output variance $v(\eta) / v(0)$")
    axes.legend()
    return figure


@drawn
def path(table: dict[str, np.ndarray], etas) -> Figure:
    """The G-path: test error, Adv* and 1 - v over eta; thin lines are draws.

    Parameters
    ----------
    table : dict of str to (draws, etas) array
        What `theory.g_path` returns.
    etas : sequence of float

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, both = panels(2)
    looks = ((SAM, "-"), (GREEN, "--"))
    shown = {"test error": table["error"]}, {"Adv*": table["advantage"], "guarantee 1 - v": 1 - table["v"]}
    for axes, named, label in zip(both, shown, ("test error", "advantage"), strict=True):
        for values, (colour, _) in zip(named.values(), looks, strict=False):
            axes.plot(etas, values.T, color=colour, lw=0.6, alpha=0.5)
        means = {name: values.mean(0) for name, values in named.items()}
        curves(axes, etas, means, looks[: len(means)], xlabel=r"$\eta$", ylim=(0, None), ylabel=label)
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(0, etas[-1])
    both[1].legend()
    return figure


@drawn
def sign_flip(nus=(0.3, 0.1, 0.01), m: float = 0.0) -> Figure:
    """Theorem 5(c): the likelihood-ratio attacker's advantage by the deviation of non-members, beside that of Theorem 4.

    Parameters
    ----------
    nus : sequence of float
        Three deviations of the attacker's noise.
    m : float
        Mean of a non-member's score.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (axes,) = panels(1, 3.8)
    sd = np.logspace(-1, 1, 300)
    advantages = {rf"$\nu$ = {nu}": theory.lr_advantage(m, np.hypot(sd, nu), nu) for nu in nus}
    advantages["one threshold, Theorem 4"] = theory.threshold_advantage(m, sd)
    curves(axes, sd, advantages, (*THREE, (REFERENCE, "-.")), xscale="log", ylabel="advantage", ylim=(0.4, 1.02))
    axes.axvline(1 - m, color=REFERENCE, lw=0.8, ls=":")
    axes.set_xlabel(r"deviation $\varsigma$ of non-members (contraction goes left)")
    axes.legend(fontsize=9)
    return figure


@drawn
def follows(runs: dict[float, dict[str, np.ndarray]], seeds) -> Figure:
    """E2: SAM's (M, A) and (M, s), by rho and draw, as points, and the exact G-paths of the same draws as lines.

    Parameters
    ----------
    runs : dict of float to dict
        {rho: measures}, with measures as `theory.e2` returns them.
    seeds : iterable of int
        Seeds of the training samples.

    Returns
    -------
    matplotlib.figure.Figure
    """
    model = theory.DataModel()
    figure, both = panels(2, 3.4)
    gs, samples = np.logspace(-0.2, 1.1, 30), [model.sample(seed) for seed in seeds]
    exact = np.array([[theory.diagonal_alignments(sample, model, g) for g in gs] for sample in samples])
    names = {"A": "minority alignment $A$", "s": "nuisance scale $s$"}
    for axes, k, (name, label) in zip(both, (1, 2), names.items(), strict=True):
        lines = axes.plot(exact[:, :, 0].T, exact[:, :, k].T, color=REFERENCE, lw=0.8)
        lines[0].set_label("exact G-path")
        for (rho, run), marker in zip(runs.items(), "os^vDP*X", strict=False):
            text, colour = (rf"SAM $\rho$ = {rho:g}", SAM) if rho else ("GD", SGD)
            axes.plot(run["M"], run[name], marker, color=colour, ms=5, label=text)
        axes.set(xlabel="majority alignment $M$", ylabel=label)
        axes.invert_xaxis()
    both[1].legend(fontsize=8.5)
    return figure


def means(runs: dict, columns: Iterable = ("M", "A", "s", "error", "advantage", "v", "residual")) -> pd.DataFrame:
    """Means over draws, a row for each run; `runs` maps a label to {measure: (draws,)}.

    Parameters
    ----------
    runs : dict
        {label: {measure: (draws,) array}}.
    columns : iterable of str
        The measures to show.

    Returns
    -------
    pandas.DataFrame
    """
    rows = {str(label): {c: f"{np.mean(run[c]):.4f}" for c in columns} for label, run in runs.items()}
    return pd.DataFrame(rows).T


def path_means(table: dict[str, np.ndarray], etas) -> pd.DataFrame:
    """The G-path's table: means over draws, a row for each eta.

    Parameters
    ----------
    table, etas
        As for `path`.

    Returns
    -------
    pandas.DataFrame
    """
    return means({f"eta = {eta:g}": {k: v[:, i] for k, v in table.items()} for i, eta in enumerate(etas)}, table)


def definition2(runs: dict[tuple[int, str], dict[str, np.ndarray]]) -> pd.DataFrame:
    """Whether E1's pairs of SAM and its baseline meet Definition 2: least and largest value over draws of each condition.

    Parameters
    ----------
    runs : dict
        {(q, row): measures}, as `theory.experiment1` returns them.

    Returns
    -------
    pandas.DataFrame
    """
    rows = {}
    for (q, row), run in runs.items():
        if row in theory.BASELINES:
            base = runs[q, theory.BASELINES[row]]
            residual, ratio = np.maximum(run["residual"], base["residual"]), run["s"] / base["s"]
            met = (residual <= 1e-6, np.abs(ratio - 1) <= 1e-6, run["A"] >= base["A"], run["M"] <= base["M"])
            rows[f"q = {q}, {row}"] = {
                "largest residual, 0 where both interpolate": f"{residual.min():.3f} to {residual.max():.3f}",
                "s of SAM over s of SGD, 1 where the noise is the same": f"{ratio.min():.3f} to {ratio.max():.3f}",
                "draws that meet all four conditions": f"{np.all(met, axis=0).sum()} of {len(ratio)}",
            }
    return pd.DataFrame(rows).T


def counterexamples() -> pd.DataFrame:
    """Changes of error and of advantage, first minus second model, in CE1, CE2 and CE4."""
    names, rows = ["M1", "A1", "s1", "M2", "A2", "s2", "pi", "change of error", "change of advantage"], {}
    for name, given in theory.COUNTEREXAMPLES.items():
        rows[name] = [*map("{:.3g}".format, given), *map("{:+.4f}".format, theory.changes(*given))]
    return pd.DataFrame.from_dict(rows, "index", columns=names)
