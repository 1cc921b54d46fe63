"""The page of theory checks: its parameters, its ledger of checks, figures and tables."""

import html
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from samlib import theory
from samlib.paper.style import GREEN, REFERENCE, SAM, SGD, drawn

# a profile's training samples of experiments E1 and E2, and the factor on the number of random problems
PROFILES = {"smoke": (2, 0.1), "quick": (6, 1.0), "standard": (6, 1.0), "paper": (20, 20.0)}


class Parameters(BaseModel):
    """The page's parameters; one that is None takes the profile's value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: Literal["smoke", "quick", "standard", "paper"] = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    trials: Annotated[float, Field(gt=0, le=1000)] | None = None
    runs: Annotated[int, Field(ge=2, le=1000)] | None = None

    def model_post_init(self, _) -> None:
        for name, value in zip(("runs", "trials"), PROFILES[self.profile], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def problems(self) -> theory.Problems:
        """Random problems of the page's seed, as many as its profile asks for."""
        return theory.Problems(self.seed, self.trials)


class Ledger:
    """Runs checks, shows each one with its source, and counts those that hold.

    Parameters
    ----------
    make : callable
        Makes the random problems for a check, anew for each.

    Examples
    --------
    >>> ledger = Ledger(Parameters(profile="smoke").problems)
    >>> page = ledger(theory.check_lemma2)
    >>> ledger.verdict()
    '**4 of 4 checks of 1 statements hold.**'
    """

    def __init__(self, make: Callable):
        self.make = make
        self.checks: dict[str, list[theory.Check]] = {}

    def __call__(self, check: Callable, given=None) -> HTML:
        """Run `check` on random problems, or on what is `given`; the result shows its source, folded, and a table."""
        name = (check.__doc__ or "").partition(":")[0]
        self.checks[name] = found = theory.run(check, self.make() if given is None else given)
        rows = pd.DataFrame([vars(one) for one in found]).set_index("claim").rename_axis(None).drop(columns="slack")
        rows = rows.assign(worst=rows["worst"].map(theory.number), holds=rows["holds"].map({True: "yes", False: "NO"}))
        source = html.escape(inspect.getsource(check))
        return HTML(f"<details><summary>How it is checked</summary><pre>{source}</pre></details>\n{rows.to_html()}")

    def summary(self) -> pd.DataFrame:
        """The number of checks, of values tried and of checks that hold, a row for each statement."""
        counts = {
            name: (len(checks), sum(one.values for one in checks), sum(one.holds for one in checks))
            for name, checks in self.checks.items()
        }
        return pd.DataFrame(counts, ["checks", "values", "hold"]).T

    def verdict(self) -> str:
        """One sentence on all checks, which names the statements that one violates."""
        counts = self.summary()
        broken = counts.index[counts["hold"] < counts["checks"]]
        said = f"{counts['hold'].sum()} of {counts['checks'].sum()} checks of {len(counts)} statements hold"
        return f"**{said}; violated: {', '.join(broken)}.**" if len(broken) else f"**{said}.**"


@drawn
def window(M: float = 0.9) -> Figure:
    """Corollary 1: which of error and advantage improve along a path, over A and the price of the exchange, M fixed.

    Parameters
    ----------
    M : float
        Majority alignment.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    A = np.linspace(-1, 1.8, 400)
    low, high = theory.window(M, A)
    axes.fill_between(A, low, high, where=low < high, color=SAM, alpha=0.3, lw=0)
    axes.fill_between(A, high, low, where=low >= high, color=REFERENCE, alpha=0.12, lw=0)
    axes.plot(A, high, color=REFERENCE, lw=2, label="above: error rises, below: it falls")
    axes.plot(A, low, color=SGD, lw=2, ls="--", label="above: advantage rises, below: it falls")
    for at, text in (
        ((-0.35, -0.35), "error falls,\nadvantage rises"), ((0.4, 0.85), "both rise"), ((0.1, -1.2), "both fall"),
        ((1.5, -0.38), "error rises,\nadvantage falls"), ((M + 0.13, 1.1), "A = M"),
    ):  # fmt: skip
        axes.annotate(text, at, ha="center", va="center", fontsize=10)
    axes.axvline(M, color=REFERENCE, lw=0.8, ls=":")
    axes.set(xlim=(A[0], A[-1]), ylim=(-2, 1.2), xlabel="minority alignment $A$")
    axes.set_ylabel(r"price $s^2 \log((1-\pi)\kappa/\pi)$")
    axes.legend(loc="lower right", fontsize=9)
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
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.3))
    gain = np.linspace(0, 0.5, 60)
    for axes, name, f in zip(panels, ("test error", "advantage Adv*"), (theory.error, theory.advantage), strict=True):
        for kappa, colour, style in zip(kappas, (GREEN, SAM, SGD), (":", "-", "--"), strict=True):
            change = f(M - kappa * gain, gain, s, pi) - f(M, 0, s, pi)
            axes.plot(gain, change, color=colour, ls=style, lw=2, label=rf"$\kappa$ = {kappa:g}")
        axes.axhline(0, color=REFERENCE, lw=0.8)
        axes.set(xlabel="gain in minority alignment", ylabel=f"change of {name}", ylim=(-0.05, 0.1))
    panels[0].legend(loc="upper right")
    return figure


@drawn
def contraction(model: theory.DataModel | None = None, seed: int = 0) -> Figure:
    """Theorem 3 and its warning: v(eta) / v(0) with population curvature, the training Gram matrix, and the identity.

    Parameters
    ----------
    model : DataModel, optional
    seed : int
        Of the training sample.

    Returns
    -------
    matplotlib.figure.Figure
    """
    model = model or theory.DataModel()
    z, etas = model.sample(seed).z, np.concatenate([[0], np.logspace(-2, 2, 25)])
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    for name, Sigma, colour, style, width in (
        (r"population: $\Sigma = E[x x^\top]$", model.second_moment, SAM, "-", 2.2),
        (r"training Gram matrix: $\Sigma = X^\top X / n$", z.T @ z / len(z), SGD, "--", 4),
        (r"identity: $\Sigma = I$", np.eye(model.d), REFERENCE, ":", 1.8),
    ):
        v = theory.contraction(z, np.ones(model.n), Sigma, etas).v
        axes.plot(etas, v / v[0], color=colour, ls=style, lw=width, label=name)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(xlabel=r"$\eta$", ylabel=r"output variance $v(\eta) / v(0)$", ylim=(0, 1.08))
    axes.legend()
    return figure


@drawn
def path(table: dict[str, np.ndarray], etas) -> Figure:
    """The G-path: test error, Adv* and 1 - v over eta; thin lines are draws.

    Parameters
    ----------
    table : dict of str to (draws, etas) array
        As of `theory.g_path`.
    etas : sequence of float

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3))
    for axes, values, colour, style, label in (
        (left, table["error"], SGD, "-", "test error"), (right, table["advantage"], SAM, "-", "Adv*"),
        (right, 1 - table["v"], GREEN, "--", "guarantee 1 - v"),
    ):  # fmt: skip
        axes.plot(etas, values.T, color=colour, lw=0.6, alpha=0.5)
        axes.plot(etas, values.mean(0), color=colour, lw=2.4, label=label, ls=style)
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set(xlabel=r"$\eta$", ylim=(0, None), ylabel="test error" if axes is left else "advantage")
    right.legend()
    return figure


@drawn
def sign_flip(nus=(0.3, 0.1, 0.01), m: float = 0.0) -> Figure:
    """Theorem 5(c): the likelihood-ratio attacker's advantage over the deviation of non-members; Theorem 4's beside it.

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
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    sd = np.logspace(-1, 1, 300)
    for nu, colour, style in zip(nus, (GREEN, SAM, SGD), (":", "-", "--"), strict=True):
        advantage = theory.lr_advantage(m, np.hypot(sd, nu), nu)
        axes.plot(sd, advantage, color=colour, ls=style, lw=2, label=rf"$\nu$ = {nu}")
    axes.plot(sd, theory.threshold_advantage(m, sd), color=REFERENCE, lw=1.2, label="one threshold, Theorem 4")
    axes.axvline(1 - m, color=REFERENCE, lw=0.8, ls=":")
    axes.set(xscale="log", ylabel="advantage", ylim=(0.4, 1.02))
    axes.set_xlabel(r"deviation $\varsigma$ of non-members (contraction goes left)")
    axes.legend(fontsize=9)
    return figure


@drawn
def follows(runs: dict[float, dict[str, np.ndarray]], seeds, model: theory.DataModel | None = None) -> Figure:
    """E2: SAM's (M, A) and (M, s), by rho and draw, as points, and the exact G-paths of the same draws as lines.

    Parameters
    ----------
    runs : dict of float to dict
        {rho: measures}, as of `theory.e2`.
    seeds : iterable of int
        Of the training samples.
    model : DataModel, optional

    Returns
    -------
    matplotlib.figure.Figure
    """
    model = model or theory.DataModel()
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.4))
    gs, samples = np.logspace(-0.2, 1.1, 30), [model.sample(seed) for seed in seeds]
    exact = np.array([[theory.diagonal_alignments(sample, model, g) for g in gs] for sample in samples])
    names = {"A": "minority alignment $A$", "s": "nuisance scale $s$"}
    for axes, k, (name, label) in zip(panels, (1, 2), names.items(), strict=True):
        lines = axes.plot(exact[:, :, 0].T, exact[:, :, k].T, color=REFERENCE, lw=0.8)
        lines[0].set_label("exact G-path")
        for (rho, run), marker in zip(runs.items(), "os^vDP*X", strict=False):
            text, colour = (rf"SAM $\rho$ = {rho:g}", SAM) if rho else ("GD", SGD)
            axes.plot(run["M"], run[name], marker, color=colour, ms=5, label=text)
        axes.set(xlabel="majority alignment $M$", ylabel=label)
        axes.invert_xaxis()
    panels[1].legend(fontsize=8.5)
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
        {(q, row): measures}, as of `theory.experiment1`.

    Returns
    -------
    pandas.DataFrame
    """
    rows = {}
    for (q, row), run in runs.items():
        if row in theory.BASELINES:
            base = runs[q, theory.BASELINES[row]]
            residual, ratio = np.maximum(run["residual"], base["residual"]), run["s"] / base["s"]
            met = {"(C1)": residual <= 1e-6, "(C2)": np.abs(ratio - 1) <= 1e-6,
                   "(C3)": run["A"] >= base["A"], "(C4)": run["M"] <= base["M"]}  # fmt: skip
            rows[f"q = {q}, {row}"] = {
                "largest residual, 0 in (C1)": _range(residual),
                "s of SAM over s of SGD, 1 in (C2)": _range(ratio),
                "draws that meet (C1) to (C4)": f"{np.all(list(met.values()), axis=0).sum()} of {len(ratio)}",
            }
    return pd.DataFrame(rows).T


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3f} to {values.max():.3f}"


def counterexamples() -> pd.DataFrame:
    """Changes of error and of advantage, first minus second model, in CE1, CE2 and CE4."""
    names = ("CE1 free", "CE2 expensive", "CE2 unsaturated", "CE4 (a)", "CE4 (b)", "CE4 (c)")
    rows: dict[str, dict[str, Any]] = {}
    for name, pair in zip(names, (theory.ce1(), *theory.ce2(), *theory.ce4()), strict=True):
        both = zip(("M1", "A1", "s1", "M2", "A2", "s2"), (*pair.first, *pair.second), strict=True)
        rows[name] = {field: f"{value:.3g}" for field, value in both} | {"pi": f"{pair.pi:.3g}"}
        rows[name] |= {f"change of {what}": f"{getattr(pair, what):+.4f}" for what in ("error", "advantage")}
    return pd.DataFrame(rows).T
