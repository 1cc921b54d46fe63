"""Checks of statements: what a check of many values finds, and how to run the checks of a statement."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

DEVIATIONS = 4.5  # standard errors that a Monte Carlo estimate may be off
LEAST_P = 1e-3  # a law counts as violated below this p-value


@dataclass(frozen=True)
class Check:
    """One claim measured on many values.

    Parameters
    ----------
    claim : str
        What is claimed.
    values : int
        How many values were tried.
    measured, allowed : str
        What `worst` is, and what it may be.
    worst, slack : float
        The least favourable value, and its distance from the bound, negative on the wrong side.
    holds : bool
        Whether `worst` is allowed. NaN never is.
    """

    claim: str
    values: int
    measured: str
    worst: float
    allowed: str
    slack: float
    holds: bool


def least(claim: str, values, bound: float = 0.0, measured: str = "least slack", *, strict: bool = False) -> Check:
    """Check an inequality: each value is at least `bound`.

    Parameters
    ----------
    claim, measured : str
        What is claimed, and what the values are.
    values : array_like
        May be empty, since a later problem may have values; `run` needs at least one in all.
    bound : float
        The least value allowed.
    strict : bool
        Whether the bound itself is not allowed.

    Returns
    -------
    Check

    Examples
    --------
    >>> least("squares are not negative", [4.0, 0.0]).holds
    True
    """
    values = np.ravel(values).astype(float)
    worst = float(values.min(initial=math.inf))
    allowed, slack = f"{'above' if strict else 'at least'} {number(bound)}", worst - bound
    return Check(claim, values.size, measured, worst, allowed, slack, slack > 0 if strict else slack >= 0)


def most(claim: str, values, bound: float, measured: str) -> Check:
    """Check an inequality: each value is at most `bound`. Parameters and result are those of `least`.

    Examples
    --------
    >>> most("sines are at most 1", np.sin([1.0, 2.0]), 1.0, "sine").allowed
    'at most 1'
    """
    found = least(claim, -np.asarray(values), -bound, measured)
    return replace(found, worst=-found.worst, allowed=f"at most {number(bound)}")


def equal(claim: str, difference, tolerance: float) -> Check:
    """Check an identity: the `difference` of its two sides is at most `tolerance`, everywhere.

    Examples
    --------
    >>> equal("1 + 1 = 2", [1 + 1 - 2], 1e-12).holds
    True
    """
    return most(claim, np.abs(difference), tolerance, "largest difference")


def above(claim: str, values, measured: str = "least slack") -> Check:
    """Check a strict inequality: each value is above 0. Parameters and result are those of `least`.

    Examples
    --------
    >>> above("squares are positive", [4.0, 0.0]).holds
    False
    """
    return least(claim, values, 0.0, measured, strict=True)


def always(claim: str, right) -> Check:
    """Check that something is so in every case: `right` holds truth values.

    Examples
    --------
    >>> always("squares are even", [True, False]).holds
    False
    """
    return least(claim, right, 1, "right (1) or not (0)")


def directions(label: str, change: dict[str, np.ndarray], **signs: int) -> Iterator[Check]:
    """Check that measures move as they should: one `above` for each.

    Parameters
    ----------
    label : str
        The beginning of each claim: where the measures move.
    change : dict of str to array_like
        How each measure changes.
    **signs : int
        1 for each measure that rises, -1 for each that falls.

    Yields
    ------
    Check

    Examples
    --------
    >>> [check.claim for check in directions("E1", {"A": [0.1], "M": [-0.2]}, A=1, M=-1)]
    ['E1: A rises on every draw', 'E1: M falls on every draw']
    """
    for name, sign in signs.items():
        claim = f"{label}: {name} {'rises' if sign > 0 else 'falls'} on every draw"
        yield above(claim, sign * np.asarray(change[name]), "least change")


def estimated(claim: str, sample, exact) -> Check:
    """Check a mean by simulation: within `DEVIATIONS` standard errors.

    Parameters
    ----------
    claim : str
        What is claimed.
    sample : array_like, (draws,) or (draws, k)
        Independent draws, of k quantities.
    exact : float or array_like, (k,)
        The claimed means.

    Returns
    -------
    Check

    Examples
    --------
    >>> estimated("a fair coin", [0, 1] * 50, 0.5).worst
    0.0
    """
    sample = np.asarray(sample, float)
    deviation = np.maximum(sample.std(0), len(sample) ** -0.5)  # an event that was never seen has deviation 0
    return most(claim, np.abs(sample.mean(0) - exact) / deviation * len(sample) ** 0.5, DEVIATIONS, "standard errors")


def likely(claim: str, p: float) -> Check:
    """Check a law: `p`, a test's p-value, is at least `LEAST_P`.

    Examples
    --------
    >>> likely("a fair coin", 0.2).holds
    True
    """
    return least(claim, p, LEAST_P, "p-value")


def run(check: Callable, given) -> list[Check]:
    """Run a check, and join its results on the same claim over several problems.

    Parameters
    ----------
    check : callable
        A function ``check_...``, which yields checks.
    given : object
        What it checks: `Problems`, or an experiment's runs.

    Returns
    -------
    list of Check
        One for each claim. A claim without any value does not hold.

    Examples
    --------
    >>> [found.values for found in run(lambda given: (above("given", one) for one in given), [[1.0, 2.0], [3.0]])]
    [3]
    """
    parts: dict[str, list[Check]] = {}
    for one in check(given):
        parts.setdefault(one.claim, []).append(one)
    joined = []
    for found in parts.values():
        worst, values = min(found, key=lambda one: (one.holds, one.slack)), sum(one.values for one in found)
        joined.append(replace(worst, values=values, holds=worst.holds and values > 0))
    return joined


def number(value: float) -> str:
    """A number as text with three digits. Its minus sign does not break the line in a narrow column.

    Examples
    --------
    >>> number(0.12345)
    '0.123'
    """
    return f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")
