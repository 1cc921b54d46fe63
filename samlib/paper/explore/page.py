"""What all explorers share: their traits, an ES module for a kernel's page, and plain HTML for a page without one."""

import base64
import io
import json
import math
import os
import tempfile
import tomllib
import webbrowser
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import anywidget
import traitlets
from IPython import get_ipython
from matplotlib.figure import Figure

from samlib.checks import as_path

HERE = Path(__file__).parent


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


STYLE = _part("explorers.css")
_KINDS = tomllib.loads(_part("explorers.toml"))


class Finite(traitlets.Float):
    """A float in a range; unlike traitlets's own it refuses NaN, which is neither below nor above a bound."""

    def validate(self, owner, value):
        value = super().validate(owner, value)
        if not math.isfinite(value):
            raise traitlets.TraitError(f"The value of the {self.name!r} trait must be a finite number, not {value}.")
        return value


def slider(kind, default, low, high, step, label: str):
    """A synced trait in [low, high] that an explorer shows as a slider of this `step` and `label`; `kind` a trait class."""
    control = {"label": label, "min": low, "max": high, "step": step, "default": default}  # as the page is told
    return kind(default, min=low, max=high, help=label).tag(sync=True, step=step, control=control)


def executed_by_a_program() -> bool:
    """Whether this cell was sent by papermill, nbconvert or the like, which say that nobody can answer a prompt.

    Voila says so too, and shows live widgets all the same.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell").get("content", {}) if kernel else {}
    return request.get("allow_stdin") is False and not os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


class Explorer(anywidget.AnyWidget):
    """A widget of ipywidgets that also shows itself, with no kernel, as plain HTML, whose address then holds what is moved.

    Subclasses set `name`, which `explorers.toml` knows, have traits that `slider` made, and draw `figure` for where there is
    no JavaScript. Each slider is a synced trait: ipywidgets' layouts hold an explorer, and its links and controls drive one.
    `sliders` holds these traits by name, and `settings` the names of all that can be set.
    """

    name = title = hint = ""
    figure: Callable[[], Figure]
    sliders: ClassVar[dict[str, Any]] = {}
    settings: tuple[str, ...] = ()
    _script = ""
    _css = STYLE

    def __init_subclass__(cls, **options):
        """Find the words and the traits of a new kind of explorer, and put its JavaScript together."""
        if "name" in vars(cls):  # anywidget also makes a class for each instance, which has no name of its own
            known = _KINDS[cls.name]
            cls.title, cls.hint = known["title"], known["hint"]
            own = {name: trait for name, trait in vars(cls).items() if isinstance(trait, traitlets.TraitType)}
            cls.sliders = {name: trait for name, trait in own.items() if "control" in trait.metadata}
            cls.settings = tuple(own)
            controls = [{"name": name} | trait.metadata["control"] for name, trait in cls.sliders.items()]
            last = f"const controls = {json.dumps(controls)}, render = {cls.name}Explorer(controls);\n"
            cls._script = "\n".join([*map(_part, known["files"]), last])
            cls._esm = cls._script + "export default { render };\n"
        super().__init_subclass__(**options)

    def __init__(self, **setting):
        if unknown := sorted(setting.keys() - set(self.settings)):
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}, only {', '.join(self.settings)}.")
        super().__init__(**setting)

    @property
    def setting(self) -> dict:
        """The value of every slider."""
        return {name: getattr(self, name) for name in self.sliders}

    def html(self) -> str:
        """A self-contained piece of HTML at the present setting: no kernel, no network, and a picture without JavaScript."""
        state = json.dumps(self.get_state(self.settings)).replace("</", "<\\/")
        self.figure().savefig(drawn := io.BytesIO(), dpi=80)
        picture = f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"
        return (
            f"<div><style>{STYLE}</style><script>(() => {{\nconst el = document.currentScript.parentElement;\n"
            f"{self._script}\n{_part('stand_in.js')}\n"
            f"render({{ model: standIn('{self.name}', controls, {state}, el), el }});\n}})();</script>"
            f'<noscript><img alt="{self.title}, at its first setting" src="{picture}" style="max-width: 100%"></noscript></div>'
        )

    def open(self):
        # An executed notebook would keep a live widget's state, which nbconvert then prefers and loads scripts for.
        if not executed_by_a_program():
            super().open()

    def _repr_mimebundle_(self, **kwargs):
        # Where there is a kernel the widget is preferred; the static book, and any page without one, has the HTML.
        live = None if self.comm is None else super()._repr_mimebundle_(**kwargs)
        data, metadata = live or ({"text/plain": repr(self)}, {})
        return data | {"text/html": self.html()}, metadata


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
