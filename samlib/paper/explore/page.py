"""JavaScript and style of the explorers, put together: an ES module for a kernel's page, plain HTML for a page without one."""

from __future__ import annotations

import json
import math
import tempfile
import webbrowser
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from types import MappingProxyType

import traitlets

from samlib.checks import as_path

HERE = Path(__file__).parent
PARTS = {
    "mixture": ("panel.js", "contour.js", "mixture.js", "mixture_view.js"),
    "theory": ("panel.js", "normal.js", "theory.js", "theory_view.js"),
    "memory": ("panel.js", "contour.js", "mixture.js", "normal.js", "memory.js", "memory_view.js"),
    "examples": ("panel.js", "examples_view.js"),
    "threshold": ("panel.js", "threshold.js", "threshold_view.js"),
}


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


STYLE = _part("explorers.css")


class Finite(traitlets.Float):
    """A float in a range; unlike traitlets's own it refuses NaN, which is neither below nor above a bound."""

    def validate(self, owner, value):
        value = super().validate(owner, value)
        if not math.isfinite(value):
            raise traitlets.TraitError(f"The value of the {self.name!r} trait must be a finite number, not {value}.")
        return value


class Kept(traitlets.TraitType):
    """Settings kept to compare, oldest first: a tuple of read-only settings, each checked by the owner's sliders.

    Not a list, since what is appended to a list would be seen neither by the checks nor by the page.
    """

    default_value = ()

    def validate(self, owner, value):
        if not isinstance(value, (list, tuple)) or not all(isinstance(setting, Mapping) for setting in value):
            raise traitlets.TraitError(f"{self.name} must be a list of settings; assign a new one to change it.")
        known = owner.sliders
        if any(setting.keys() != known.keys() for setting in value):
            raise traitlets.TraitError(f"A kept setting must name each of {', '.join(known)}, and nothing else.")
        checked = ({name: known[name].validate(owner, setting[name]) for name in known} for setting in value)
        return tuple(map(MappingProxyType, checked))


def plain(kept, _=None) -> list[dict]:
    """The settings of `Kept` as JSON takes them."""
    return [dict(setting) for setting in kept]


def slider(kind, default, low, high, step, label: str):
    """A synced trait in [low, high] that an explorer shows as a slider of this `step` and `label`; `kind` a trait class."""
    return kind(default, min=low, max=high, help=label).tag(sync=True, step=step)


def sliders(traits: dict) -> dict[str, traitlets.TraitType]:
    """The traits in a class's namespace that `slider` made, in their order."""
    return {
        name: trait
        for name, trait in traits.items()
        if isinstance(trait, traitlets.TraitType) and "step" in trait.metadata
    }


def script(name: str, traits: dict) -> str:
    """The plain script that defines `render` for the explorer `name`, with `traits` as its sliders."""
    controls = [
        {"name": trait_name, "label": trait.help, "min": trait.min, "max": trait.max, "step": trait.metadata["step"],
         "default": trait.default_value}
        for trait_name, trait in traits.items()
    ]  # fmt: skip
    last = f"const controls = {json.dumps(controls)}, render = {name}Explorer(controls);\n"
    return "\n".join([*map(_part, PARTS[name]), last])


def module(name: str, traits: dict) -> str:
    """`script` as the ES module that anywidget loads."""
    return script(name, traits) + "export default { render };\n"


def fragment(name: str, traits: dict, values: dict, still: str) -> str:
    """A self-contained piece of HTML: the explorer at `values`, with a stand-in for the widget model, no kernel, no network.

    `still` is the HTML that a reader without JavaScript sees.
    """
    state = json.dumps(values).replace("</", "<\\/")
    return (
        f"<div><style>{STYLE}</style><script>(() => {{\nconst el = document.currentScript.parentElement;\n"
        f"{script(name, traits)}\n{_part('stand_in.js')}\n"
        f"render({{ model: standIn('{name}', controls, {state}, el), el }});\n}})();</script>"
        f"<noscript>{still}</noscript></div>"
    )


def write_page(path: str | Path, explorers: Iterable | None = None) -> Path:
    """Write one HTML file that works from disk, offline.

    Parameters
    ----------
    path : str or Path
    explorers : iterable of Explorer, optional
        Shown as they stand now; by default one of each kind.

    Returns
    -------
    Path

    Examples
    --------
    >>> write_page("explorer.html")  # doctest: +SKIP
    """
    if explorers is None:
        from samlib.paper.explore import MemorizationExplorer, MixtureExplorer, TheoryExplorer

        explorers = MixtureExplorer(), MemorizationExplorer(), TheoryExplorer()
    parts = [f"<h2>{explorer.title}</h2>\n<p>{explorer.hint}</p>\n{explorer.html()}" for explorer in explorers]
    path = as_path("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(_part("page.html")).substitute(body="\n".join(parts)), encoding="utf-8")
    return path


def open_app(path: str | Path | None = None, *, show: bool = True) -> Path:
    """`write_page`, print where the page is, and open it in the browser.

    Parameters
    ----------
    path : str or Path, optional
        By default a temporary file.
    show : bool
        Whether to open it.

    Returns
    -------
    Path

    Examples
    --------
    >>> open_app("explorer.html", show=False)  # doctest: +SKIP
    """
    path = write_page(path or Path(tempfile.mkdtemp(prefix="samlib-")) / "explorer.html")
    print(path)
    if show:
        webbrowser.open(path.as_uri())
    return path
