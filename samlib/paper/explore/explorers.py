"""The explorers of the mixture and the theory as widgets: a slider is a trait; the reader's browser fits and draws."""

import base64
import io
import os
from collections.abc import Callable
from typing import Annotated, ClassVar

import anywidget
import numpy as np
import pandas as pd
import traitlets
from IPython import get_ipython
from matplotlib.figure import Figure
from pydantic import Field

from samlib.paper.explore import page
from samlib.paper.explore.draw import draw, uniforms
from samlib.paper.mixture import CLUSTERS, RED, Mixture, errors, exposure, fit, memorization
from samlib.paper.parameters import Page
from samlib.paper.theory import model as theory
from samlib.paper.theory import order


class Parameters(Page):
    """The parameters of the explorers' page, which does the same in every profile."""

    seed: Annotated[int, Field(ge=0, le=999)] = 1


class Explorer(anywidget.AnyWidget):
    """A widget of ipywidgets that also shows itself, with no kernel, as plain HTML, whose address then holds what is moved.

    Subclasses set `name`, `title`, `hint`, `sliders` (traits by name) and `others` (names of further synced traits), and draw
    `figure` for where there is no JavaScript. Each slider is a synced trait: ipywidgets' layouts hold an explorer, and its
    links and controls drive one.
    """

    name = title = hint = ""
    figure: Callable[[], Figure]
    sliders: ClassVar[dict[str, traitlets.TraitType]] = {}
    others: tuple[str, ...] = ()
    _css = page.STYLE

    def __init__(self, **setting):
        known = [*self.sliders, *self.others]
        if unknown := sorted(setting.keys() - set(known)):
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}, only {', '.join(known)}.")
        super().__init__(**setting)

    @property
    def setting(self) -> dict:
        """The value of every slider."""
        return {name: getattr(self, name) for name in self.sliders}

    def html(self) -> str:
        """A self-contained piece of HTML at the present setting."""
        ways = {name: self.trait_metadata(name, "to_json", lambda value, _: value) for name in self.others}
        others = {name: as_json(getattr(self, name), self) for name, as_json in ways.items()}
        self.figure().savefig(drawn := io.BytesIO(), dpi=80)
        picture = base64.b64encode(drawn.getvalue()).decode()
        still = f'<img alt="{self.title}, at its first setting" src="data:image/png;base64,{picture}" style="max-width: 100%">'
        return page.fragment(self.name, self.sliders, self.setting | others, still)

    def open(self):
        # An executed notebook would keep a live widget's state, which nbconvert then prefers and loads scripts for.
        if not executed_by_a_program():
            super().open()

    def _repr_mimebundle_(self, **kwargs):
        # Where there is a kernel the widget is preferred; the static book, and any page without one, has the HTML.
        live = None if self.comm is None else super()._repr_mimebundle_(**kwargs)
        data, metadata = live or ({"text/plain": repr(self)}, {})
        return data | {"text/html": self.html()}, metadata


def executed_by_a_program() -> bool:
    """Whether this cell was sent by papermill, nbconvert or the like, which say that nobody can answer a prompt.

    Voila says so too, and shows live widgets all the same.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell").get("content", {}) if kernel else {}
    return request.get("allow_stdin") is False and not os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


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
    title = "The mixture of Figure 5"
    hint = (
        "Red has a rare, atypical cluster on the far side of blue. Drag its ring, or move a slider; both fits and their "
        "measures are computed as you do."
    )
    rho = page.slider(page.Finite, 1.0, 0.0, 4.0, 0.05, "ρ, SAM’s radius")
    degree = page.slider(traitlets.Int, 2, 1, 4, 1, "Degree of features")
    n_typical = page.slider(traitlets.Int, 40, 1, 200, 1, "Typical red")
    n_atypical = page.slider(traitlets.Int, 2, 0, 100, 1, "Atypical red")
    n_blue = page.slider(traitlets.Int, 40, 1, 200, 1, "Blue")
    # Of forty draws at the other defaults, 1 lies nearest to their mean: an ordinary one.
    seed = page.slider(traitlets.Int, 1, 0, 999, 1, "Seed")
    atypical_x = page.slider(page.Finite, 2.2, -3.5, 4.5, 0.05, "Across, x₁")
    atypical_y = page.slider(page.Finite, 0.6, -2.5, 2.5, 0.05, "Up, x₂")
    spread = page.slider(page.Finite, 0.35, 0.1, 1.0, 0.05, "Spread")
    kept = page.Kept(help="settings kept to compare, oldest first").tag(sync=True, to_json=page.plain)
    sliders, others = page.sliders(vars()), ("kept",)
    _esm = page.module(name, sliders)

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
        from samlib.paper.mixture_page import boundaries

        fits, mixture, sample = _fits(self.setting)
        return boundaries(mixture, sample, fits)

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
    title = "What is memorized, and what is found"
    hint = (
        "Each point is left out once and the fit made again: a dark point's label is known only from itself. A large point is "
        "told by LiRA from fits to random halves of the draw."
    )
    rho = page.slider(page.Finite, 1.0, 0.0, 4.0, 0.05, "ρ, SAM’s radius")
    n_atypical = page.slider(traitlets.Int, 2, 0, 40, 1, "Atypical red")
    seed = page.slider(traitlets.Int, 1, 0, 999, 1, "Seed")
    sliders = page.sliders(vars())
    _esm = page.module(name, sliders)

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
        from samlib.paper.mixture_page import remembered

        return remembered(self.frame())


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
    title = "The window of Corollary 1"
    hint = (
        "A point is a model: how well it is aligned with the majority (M) and the minority (A). SAM trades M for A along "
        "the arrow. In the green window that trade lowers the error and raises the attacker’s advantage."
    )
    M = page.slider(page.Finite, 0.9, -0.5, 1.5, 0.01, "M, majority")
    A = page.slider(page.Finite, -0.2, -1.0, 1.25, 0.01, "A, minority")
    s = page.slider(page.Finite, 0.2, 0.05, 1.0, 0.01, "s, noise")
    pi = page.slider(page.Finite, 0.1, 0.01, 0.49, 0.01, "π, minority share")
    kappa = page.slider(page.Finite, 2.3, 0.0, 10.0, 0.05, "κ, M paid per A")
    sliders = page.sliders(vars())
    _esm = page.module(name, sliders)

    def figure(self) -> Figure:
        """The window at the present M, drawn by Python, for where there is no JavaScript."""
        from samlib.paper.theory_page import window

        return window(self.M)

    def frame(self) -> pd.DataFrame:
        """One column "value": error, advantage, their slopes per unit of A, the window's ends low and high, the price
        s^2 log((1 - pi) kappa / pi), and whether error falls and advantage rises (the price lies inside)."""
        M, A, s, pi, kappa = self.setting.values()
        slopes, (low, high) = order.slopes(M, A, s, kappa, pi), order.window(M, A)
        # kappa is by definition the M paid per unit of A: the pair one unit of A apart has exactly this exchange rate.
        price = s**2 * order.log_price(M - kappa, A + 1, M, A, pi)
        rows = {
            "error": theory.error(M, A, s, pi),
            "advantage": theory.advantage(M, A, s, pi),
            "error_slope": slopes.error,
            "advantage_slope": slopes.advantage,
            "low": low,
            "price": price,
            "high": high,
            "error_falls": price < high,
            "advantage_rises": price > low,
        }
        return pd.DataFrame({"value": rows})
