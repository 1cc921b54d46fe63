"""The explorers of the mixture and the theory as widgets: a slider is a trait; the reader's browser fits and draws.

Their draws come from a small generator that Python and JavaScript share bit for bit, so that both fit the same points.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure
from pydantic import Field

from samlib.paper import mixture_page, theory, theory_page
from samlib.paper.explore.page import Explorer, Finite, slider
from samlib.paper.mixture import BLUE, CLUSTERS, RED, Mixture, errors, exposure, fit, memorization
from samlib.paper.parameters import Page


class Parameters(Page):
    """The parameters of the explorers' page, which does the same in every profile."""

    seed: Annotated[int, Field(ge=0, le=999)] = 1


def mix(h: np.ndarray) -> np.ndarray:
    """A bijection of 32-bit words that flips every output bit with probability near 1/2: two multiply-xorshift rounds.

    The multipliers are Wellons's "lowbias32" (hash prospector, 2018).

    Parameters
    ----------
    h : (n,) uint32 array

    Returns
    -------
    (n,) uint32 ndarray

    Examples
    --------
    >>> mix(np.array([0], np.uint32))
    array([0], dtype=uint32)
    """
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def uniforms(seed: int, stream: int, n: int) -> np.ndarray:
    """Uniform numbers in (0, 1), multiples of 2^-33: `mix` of a counter (steps of the golden ratio) from a key.

    Parameters
    ----------
    seed, stream : int
        Each pair of them has its own sequence.
    n : int
        How many. A longer sequence begins with the shorter one.

    Returns
    -------
    (n,) ndarray

    Examples
    --------
    >>> uniforms(0, 0, 2).tolist() == uniforms(0, 0, 3)[:2].tolist()
    True
    """
    key = mix(mix(np.array([seed], np.uint32)) + np.uint32(stream))
    counter = np.arange(1, n + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    return (mix(key + counter) + 0.5) / 2.0**32


def normals(seed: int, stream: int, n: int) -> np.ndarray:
    """Independent standard normal points, by Box and Muller. Arguments as `uniforms`.

    Returns
    -------
    (n, 2) ndarray

    Examples
    --------
    >>> normals(0, 0, 3).shape
    (3, 2)
    """
    first, second = uniforms(seed, stream, 2 * n).reshape(n, 2).T
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def draw(n_typical: int, n_atypical: int, n_blue: int, seed: int = 0, mixture: Mixture | None = None):
    """As `Mixture.sample`, but from `normals`: more points move none of the others, and a browser draws the same.

    Parameters
    ----------
    n_typical, n_atypical, n_blue : int
        Counts of each cluster.
    seed : int
    mixture : Mixture, optional

    Returns
    -------
    x : (n, 2) ndarray
    y : (n,) ndarray of int
        Labels in {-1, 1}.
    atypical : (n,) ndarray of bool

    Examples
    --------
    >>> x, y, atypical = draw(5, 2, 3)
    >>> int(atypical.sum())
    2
    """
    mixture, counts = mixture or Mixture(), (n_typical, n_atypical, n_blue)
    x = [mean + spread * normals(seed, c, counts[c]) for c, (mean, spread) in enumerate(mixture.clusters)]
    return np.concatenate(x), np.repeat([RED, RED, BLUE], counts), np.repeat([False, True, False], counts)


class MixtureExplorer(Explorer):
    """Figure 5 to play with: SGD, SAM (eq. 13, solved exactly) and Bayes on one draw of the mixture.

    Every slider is a trait: read it, set it, or give it here by name. The page computes the numbers that it shows; `frame`
    and `history` compute the same in Python.

    Parameters
    ----------
    **setting
        The value of any slider, and `kept`, the settings that the reader keeps to compare. To add one, assign
        `explorer.kept = [*explorer.kept, setting]`: what is kept is read-only.

    Raises
    ------
    TypeError
        For an unknown setting.
    traitlets.TraitError
        For an impossible value.

    Examples
    --------
    >>> explorer = MixtureExplorer(rho=0.5)
    >>> explorer.rho = 0.0
    >>> frame = explorer.frame()
    >>> bool((frame["SGD"] == frame["SAM"]).all())
    True
    """

    name = "mixture"
    rho = slider(Finite, 1.0, 0.0, 4.0, 0.05, "ρ, SAM’s radius")
    degree = slider(traitlets.Int, 2, 1, 4, 1, "Degree of features")
    n_typical = slider(traitlets.Int, 40, 1, 200, 1, "Typical red")
    n_atypical = slider(traitlets.Int, 2, 0, 100, 1, "Atypical red")
    n_blue = slider(traitlets.Int, 40, 1, 200, 1, "Blue")
    # Of forty draws at the other defaults, 1 lies nearest to their mean: an ordinary one.
    seed = slider(traitlets.Int, 1, 0, 999, 1, "Seed")
    atypical_x = slider(Finite, 2.2, -3.5, 4.5, 0.05, "Across, x₁")
    atypical_y = slider(Finite, 0.6, -2.5, 2.5, 0.05, "Up, x₂")
    spread = slider(Finite, 0.35, 0.1, 1.0, 0.05, "Spread")
    # Not a list, since what is appended to a list would be seen neither by the checks nor by the page.
    kept = traitlets.Tuple(help="settings kept to compare, oldest first").tag(
        sync=True, to_json=lambda kept, _: [dict(setting) for setting in kept]
    )

    @traitlets.validate("kept")
    def _check_kept(self, proposal):
        known = self.sliders
        if any(not isinstance(setting, Mapping) or setting.keys() != known.keys() for setting in proposal.value):
            raise traitlets.TraitError(f"A kept setting must name each of {', '.join(known)}, and nothing else.")
        checked = ({name: known[name].validate(self, setting[name]) for name in known} for setting in proposal.value)
        return tuple(map(MappingProxyType, checked))

    def frame(self) -> pd.DataFrame:
        """Error, atypical accuracy, disagreement with Bayes and attacker's advantage of SGD, SAM and Bayes at this setting.

        The Bayes rule never saw the draw: its advantage is the luck of sampling.
        """
        return _measures(self.setting)

    def history(self) -> pd.DataFrame:
        """A row for each kept setting: the setting, then "SGD error", "SAM error" and so on."""
        rows = []
        for setting in self.kept:
            numbers = _measures(setting).stack()
            rows.append(setting | {f"{fitted} {measure}": value for (measure, fitted), value in numbers.items()})
        return pd.DataFrame(rows)

    def figure(self) -> Figure:
        """The picture at the present setting, drawn by Python, for where there is no JavaScript."""
        fits, mixture, sample = _fits(self.setting)
        return mixture_page.boundaries(mixture, sample, fits)

    def fits(self):
        """The two predictors, {"SGD": ..., "SAM": ...}, fitted by Python at the present setting."""
        return _fits(self.setting)[0]


def _fits(setting: dict):
    """Both predictors by name, the mixture and the draw (x, y, atypical) of a setting."""
    mixture = Mixture(atypical_mean=(setting["atypical_x"], setting["atypical_y"]), atypical_spread=setting["spread"])
    typical, atypical, blue = (setting[f"n_{cluster}"] for cluster in CLUSTERS)
    sample = draw(typical, atypical, blue, setting["seed"], mixture)
    rhos = {"SGD": 0.0, "SAM": setting["rho"]}
    return {name: fit(*sample[:2], rho=rho, degree=setting["degree"]) for name, rho in rhos.items()}, mixture, sample


def _measures(setting: dict) -> pd.DataFrame:
    predictors, mixture, sample = _fits(setting)
    rules = predictors | {"Bayes": mixture}
    return pd.DataFrame({name: errors(rule, mixture, *sample) for name, rule in rules.items()})


class MemorizationExplorer(Explorer):
    """Which points of a draw SGD and SAM remember, and which LiRA finds, side by side, on the mixture of Figure 5.

    Every slider is a trait, as in `MixtureExplorer`; `frame` computes the numbers by `samlib.mixture`.

    Parameters
    ----------
    **setting
        The value of any slider.

    Raises
    ------
    TypeError, traitlets.TraitError
        As for `MixtureExplorer`.

    Examples
    --------
    >>> found = MemorizationExplorer(rho=0.0, n_atypical=1).frame()
    >>> bool((found.loc["SGD"].to_numpy() == found.loc["SAM"].to_numpy()).all())
    True
    """

    name = "memory"
    rho = slider(Finite, 1.0, 0.0, 4.0, 0.05, "ρ, SAM’s radius")
    n_atypical = slider(traitlets.Int, 2, 0, 40, 1, "Atypical red")
    seed = slider(traitlets.Int, 1, 0, 999, 1, "Seed")

    def frame(self) -> pd.DataFrame:
        """Memorization and exposure of each point: a row for each optimizer and point, and the name of its cluster."""
        x, y, atypical = draw(40, self.n_atypical, 40, self.seed)
        member = np.stack([uniforms(self.seed, 16 + k, len(x)) < 0.5 for k in range(128)])
        cluster = np.where(atypical, "atypical", np.where(y == RED, "typical", "blue"))
        parts = {}
        for name, rho in (("SGD", 0.0), ("SAM", self.rho)):
            known = {"memorization": memorization(x, y, rho=rho), "exposure": exposure(x, y, member, rho=rho)}
            parts[name] = pd.DataFrame({"x1": x[:, 0], "x2": x[:, 1], "cluster": cluster} | known)
        return pd.concat(parts, names=["optimizer", "point"])

    def figure(self) -> Figure:
        """The picture at the present setting, drawn by Python, for where there is no JavaScript."""
        return mixture_page.remembered(self.frame())


class TheoryExplorer(Explorer):
    """Corollary 1 to play with: a point (M, A), noise s, minority share pi, and a path that pays kappa of M per unit of A.

    Every slider is a trait, as in `MixtureExplorer`; `frame` computes the numbers by `samlib.theory`.

    Parameters
    ----------
    **setting
        The value of any slider.

    Raises
    ------
    TypeError, traitlets.TraitError
        As for `MixtureExplorer`.

    Examples
    --------
    >>> bool(TheoryExplorer(kappa=0).frame().loc["advantage_rises", "value"])
    False
    """

    name = "theory"
    M = slider(Finite, 0.9, -0.5, 1.5, 0.01, "M, majority")
    A = slider(Finite, -0.2, -1.0, 1.25, 0.01, "A, minority")
    s = slider(Finite, 0.2, 0.05, 1.0, 0.01, "s, noise")
    pi = slider(Finite, 0.1, 0.01, 0.49, 0.01, "π, minority share")
    kappa = slider(Finite, 2.3, 0.0, 10.0, 0.05, "κ, M paid per A")

    def figure(self) -> Figure:
        """The window at the present M, drawn by Python, for where there is no JavaScript."""
        return theory_page.window(self.M)

    def frame(self) -> pd.DataFrame:
        """One column "value": error, advantage, their slopes per unit of A, the window's ends low and high, the price
        s^2 log((1 - pi) kappa / pi), and whether error falls and advantage rises (the price lies inside)."""
        M, A, s, pi, kappa = self.setting.values()
        error_slope, advantage_slope = theory.slopes(M, A, s, kappa, pi)
        low, high = theory.window(M, A)
        # kappa is by definition the M paid per unit of A: the pair one unit of A apart has exactly this exchange rate.
        price = s**2 * theory.log_price(M - kappa, A + 1, M, A, pi)
        rows = {
            "error": theory.error(M, A, s, pi),
            "advantage": theory.advantage(M, A, s, pi),
            "error_slope": error_slope,
            "advantage_slope": advantage_slope,
            "low": low,
            "price": price,
            "high": high,
            "error_falls": price < high,
            "advantage_rises": price > low,
        }
        return pd.DataFrame({"value": rows})
