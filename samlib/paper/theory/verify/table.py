"""`Check`: one claim measured on many trials, how far it is from violated, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

DEVIATIONS = 4.5  # standard errors allowed to a Monte Carlo estimate
LEAST_P = 1e-3  # p-value below which a distributional claim counts as violated


@dataclass(frozen=True)
class Check:
    """`worst` is the most unfavourable of `trials` values; the claim holds if it is at most, or at least, `bound`."""

    claim: str
    measured: str
    trials: int
    worst: float
    bound: float
    at_most: bool

    @property
    def holds(self) -> bool:
        return bool(self.worst <= self.bound if self.at_most else self.worst >= self.bound)


def equal(claim: str, difference, tolerance: float) -> Check:
    """An identity: the largest absolute difference of its two sides is at most `tolerance`."""
    difference = np.abs(np.atleast_1d(difference))
    return Check(claim, "largest difference", difference.size, float(difference.max()), tolerance, True)


def at_least(claim: str, slack, bound: float = 0.0, measured: str = "least slack") -> Check:
    """An inequality: the least of the `slack`s is at least `bound`. A strict one takes the smallest positive bound."""
    slack = np.atleast_1d(slack)
    return Check(claim, measured, slack.size, float(slack.min()), bound, False)


def above(claim: str, slack, measured: str = "least slack") -> Check:
    """A strict inequality: every slack is positive."""
    return at_least(claim, slack, np.nextafter(0, 1), measured)


def estimated(claim: str, found, exact, standard_error) -> Check:
    """A Monte Carlo estimate: within `DEVIATIONS` standard errors of the exact value."""
    z = np.abs(np.atleast_1d((np.asarray(found) - exact) / standard_error))
    return Check(claim, "standard errors", z.size, float(z.max()), DEVIATIONS, True)


def likely(claim: str, p, trials: int) -> Check:
    """A law: a test's p-value is at least `LEAST_P`."""
    return Check(claim, "p-value", trials, float(np.min(p)), LEAST_P, False)


class Table(pd.DataFrame):
    """A data frame that shows its claims whole, where pandas would cut them at 50 characters."""

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return super()._repr_html_()


def as_table(checks: Iterable[Check]) -> Table:
    """One row per check, numbers in three digits, for display."""
    rows = [
        {
            "claim": check.claim,
            "trials": check.trials,
            "measured": check.measured,
            "worst": _number(check.worst),
            "allowed": ("at most " if check.at_most else "at least ") + _number(check.bound)
            if check.bound != np.nextafter(0, 1)
            else "above 0",
            "holds": "yes" if check.holds else "NO",
        }
        for check in checks
    ]
    return Table(pd.DataFrame(rows).set_index("claim").rename_axis(None))


def _number(value: float) -> str:
    """Three digits, with a minus sign at which a narrow column does not break the line."""
    return f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")


class Ledger:
    """Collects checks by statement: calling it shows them, `summary` and `verdict` say what became of all."""

    def __init__(self):
        self.checks: dict[str, list[Check]] = {}

    def __call__(self, statement: str, checks: Iterable[Check]) -> Table:
        self.checks[statement] = list(checks)
        return as_table(self.checks[statement])

    def summary(self) -> pd.DataFrame:
        """One row per statement: checks, values tried, checks that hold."""
        rows = {
            statement: {
                "checks": len(checks),
                "values": sum(check.trials for check in checks),
                "hold": sum(check.holds for check in checks),
            }
            for statement, checks in self.checks.items()
        }
        return pd.DataFrame(rows).T

    def verdict(self) -> str:
        """One sentence of all checks, naming the statements of which one fails."""
        counts = self.summary()
        broken = [name for name, row in counts.iterrows() if row["hold"] < row["checks"]]
        said = f"{counts['hold'].sum()} of {counts['checks'].sum()} checks of {len(counts)} statements hold"
        return f"**{said}.**" if not broken else f"**{said}; violated: {', '.join(broken)}.**"
