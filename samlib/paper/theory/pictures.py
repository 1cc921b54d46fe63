"""Figures and tables of the page of theory checks."""

from __future__ import annotations

from typing import Annotated, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from samlib import theory
from samlib.paper.style import GREEN, REFERENCE, SAM, SGD

RUNS = {"smoke": 2, "quick": 6, "full": 20}  # training samples of experiments E1 and E2
TRIALS = {"smoke": 0.1, "quick": 1.0, "full": 20.0}  # scales the number of random parameters


class Parameters(BaseModel):
    """The page's parameters; what is None takes the profile's value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: Literal[tuple(RUNS)] = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    trials: Annotated[float, Field(gt=0, le=1000)] | None = None
    runs: Annotated[int, Field(ge=2, le=1000)] | None = None

    def model_post_init(self, _) -> None:
        for name, table in (("trials", TRIALS), ("runs", RUNS)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, table[self.profile])

    def scaled(self, number: int) -> int:
        """`number` of trials, scaled by the profile, and at least 4."""
        return max(4, round(number * self.trials))


def window(M: float = 0.9) -> Figure:
    """Corollary 1: which of error and advantage improve along a path, over A and the price of the exchange, M fixed."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    A = np.linspace(-1, 1.8, 400)
    low, high = theory.window(M, A)
    bottom, top = -2.0, 1.2
    both = low < high
    axes.fill_between(A, low, high, where=both, color=SAM, alpha=0.3, lw=0)
    axes.fill_between(A, high, low, where=~both, color=REFERENCE, alpha=0.12, lw=0)
    axes.plot(A, high, color=REFERENCE, lw=2, label="above: error rises, below: it falls")
    axes.plot(A, low, color=SGD, lw=2, ls="--", label="above: advantage rises, below: it falls")
    for at, text in (
        ((-0.35, -0.35), "error falls,\nadvantage rises"),
        ((0.4, 0.85), "both rise"),
        ((0.1, -1.2), "both fall"),
        ((1.5, -0.38), "error rises,\nadvantage falls"),
    ):
        axes.annotate(text, at, ha="center", va="center", fontsize=10)
    axes.axvline(M, color=REFERENCE, lw=0.8, ls=":")
    axes.annotate("A = M", (M, bottom), xytext=(4, 6), textcoords="offset points", fontsize=9)
    axes.set(xlim=(A[0], A[-1]), ylim=(bottom, top), xlabel="minority alignment $A$")
    axes.set_ylabel(r"price $s^2 \log((1-\pi)\kappa/\pi)$")
    axes.legend(loc="lower right", fontsize=9)
    return _closed(figure)


def exchange(pi: float = 0.1, s: float = 0.4, M: float = 0.9, kappas=(0.0, 0.2, 2.0)) -> Figure:
    """Changes of error and of Adv* as A rises from 0 at three exchange rates: free, inside the window, too dear."""
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.3), layout="constrained")
    gain = np.linspace(0, 0.5, 60)
    for kappa, colour, style in zip(kappas, (GREEN, SAM, SGD), (":", "-", "--"), strict=True):
        for axes, f in zip(panels, (theory.error, theory.advantage), strict=True):
            change = f(M - kappa * gain, gain, s, pi) - f(M, 0, s, pi)
            axes.plot(gain, change, color=colour, ls=style, lw=2, label=rf"$\kappa$ = {kappa:g}")
    for axes, name in zip(panels, ("test error", "advantage Adv*"), strict=True):
        axes.axhline(0, color=REFERENCE, lw=0.8)
        axes.set(xlabel="gain in minority alignment", ylabel=f"change of {name}", ylim=(-0.05, 0.1))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="upper right")
    return _closed(figure)


def contraction(model: theory.DataModel | None = None, seed: int = 0) -> Figure:
    """Theorem 3 and its warning: v(eta) / v(0) with population curvature, the training Gram matrix, and the identity."""
    model = model or theory.DataModel()
    z, etas = model.sample(seed).z, np.concatenate([[0], np.logspace(-2, 2, 25)])
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for name, Sigma, colour, style, width in (
        (r"population: $\Sigma = E[x x^\top]$", model.second_moment, SAM, "-", 2.2),
        (r"training Gram matrix: $\Sigma = X^\top X / n$", z.T @ z / len(z), SGD, "--", 4),
        (r"identity: $\Sigma = I$", np.eye(model.d), REFERENCE, ":", 1.8),
    ):
        v = theory.contraction(z, np.ones(model.n), Sigma, etas).v
        axes.plot(etas, v / v[0], color=colour, ls=style, lw=width, label=name)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(xlabel=r"$\eta$", ylabel=r"output variance $v(\eta) / v(0)$", ylim=(0, 1.08))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _closed(figure)


def path(table: dict[str, np.ndarray], etas) -> Figure:
    """The G-path: test error, Adv* and 1 - v over eta; thin lines are draws."""
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.3), layout="constrained")
    for axes, name, colour, label in (
        (panels[0], table["error"], SGD, "test error"),
        (panels[1], table["advantage"], SAM, "Adv*"),
        (panels[1], 1 - table["v"], GREEN, "guarantee 1 - v"),
    ):
        axes.plot(etas, name.T, color=colour, lw=0.6, alpha=0.5)
        axes.plot(etas, name.mean(0), color=colour, lw=2.4, label=label, ls="--" if label.startswith("g") else "-")
    for axes in panels:
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set(xlabel=r"$\eta$", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test error")
    panels[1].set_ylabel("advantage")
    panels[1].legend(frameon=False)
    return _closed(figure)


def sign_flip(nus=(0.3, 0.1, 0.01), m: float = 0.0) -> Figure:
    """Theorem 5(c): the likelihood-ratio attacker's advantage over the deviation of non-members; Theorem 4's beside it."""
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    sd = np.logspace(-1, 1, 300)
    for nu, colour, style in zip(nus, (GREEN, SAM, SGD), (":", "-", "--"), strict=True):
        axes.plot(
            sd, theory.lr_advantage(m, np.hypot(sd, nu), nu), color=colour, ls=style, lw=2, label=rf"$\nu$ = {nu}"
        )
    axes.plot(sd, theory.threshold_advantage(m, sd), color=REFERENCE, lw=1.2, label="one threshold, Theorem 4")
    axes.axvline(1 - m, color=REFERENCE, lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set(
        xlabel=r"deviation $\varsigma$ of non-members (contraction goes left)", ylabel="advantage", ylim=(0.4, 1.02)
    )
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return _closed(figure)


def follows(runs: dict[float, dict[str, np.ndarray]], seeds, model: theory.DataModel | None = None) -> Figure:
    """E2: SAM's (M, A) and (M, s) per rho and draw as points, and the exact G-paths of the same draws as lines."""
    model = model or theory.DataModel()
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
    gs = np.logspace(-0.2, 1.1, 30)
    for k, seed in enumerate(seeds):
        sample = model.sample(seed)
        exact = [theory.diagonal_alignments(sample, model, g) for g in gs]
        for axes, name in zip(panels, ("A", "s"), strict=True):
            label = "exact G-path" if k == 0 else None
            axes.plot([e.M for e in exact], [getattr(e, name) for e in exact], color=REFERENCE, lw=0.8, label=label)
    for (rho, run), marker in zip(runs.items(), "os^vDP*X", strict=False):
        for axes, name in zip(panels, ("A", "s"), strict=True):
            colour = SGD if rho == 0 else SAM
            axes.plot(run["M"], run[name], marker, color=colour, ms=5, label=rf"SAM $\rho$ = {rho:g}" if rho else "GD")
    for axes, name in zip(panels, ("minority alignment $A$", "nuisance scale $s$"), strict=True):
        axes.set(xlabel="majority alignment $M$", ylabel=name)
        axes.invert_xaxis()
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, fontsize=8.5)
    return _closed(figure)


def means(runs: dict, columns=("M", "A", "s", "error", "advantage", "v", "residual")) -> pd.DataFrame:
    """Means over draws, one row per run; `runs` maps a label to {measure: (draws,)}."""
    rows = {str(label): {c: f"{np.mean(run[c]):.4f}" for c in columns} for label, run in runs.items()}
    return pd.DataFrame(rows).T


def path_means(table: dict[str, np.ndarray], etas) -> pd.DataFrame:
    """The G-path's table: means over draws, one row per eta."""
    return means({f"eta = {eta:g}": {k: v[:, i] for k, v in table.items()} for i, eta in enumerate(etas)}, tuple(table))


def counterexamples() -> pd.DataFrame:
    """Changes of error and of advantage, first minus second model, in CE1, CE2 and CE4."""
    dear, unsaturated = theory.ce2()
    pairs = {"CE1 free": theory.ce1(), "CE2 dear": dear, "CE2 unsaturated": unsaturated}
    pairs |= {f"CE4 ({'abc'[k]})": one for k, one in enumerate(theory.ce4())}
    rows = {
        name: {field: f"{getattr(pair, field):.3g}" for field in ("M1", "A1", "s1", "M2", "A2", "s2", "pi")}
        | {"change of error": f"{pair.error:+.4f}", "change of advantage": f"{pair.advantage:+.4f}"}
        for name, pair in pairs.items()
    }
    return pd.DataFrame(rows).T


def _closed(figure: Figure) -> Figure:
    plt.close(figure)  # shown where it is returned to, and not a second time by pyplot
    return figure
