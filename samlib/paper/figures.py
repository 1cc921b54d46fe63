"""Every figure and table of the book, by its name: `samlib.figures.roc_curves` is `samlib.paper.membership.roc_curves`."""

from __future__ import annotations

from importlib import import_module

_ROOMS = (
    "membership", "shadows", "memorization", "influence", "entropy", "sharpness", "optimizers", "ablations", "lengths",
    "subclasses", "seeds", "tables", "mixture_page", "theory_page", "style",
)  # fmt: skip


def __getattr__(name: str):
    for room in _ROOMS if not name.startswith("_") else ():
        found = vars(import_module(f"samlib.paper.{room}")).get(name)
        if getattr(found, "__module__", "").startswith("samlib.paper."):
            return found
    raise AttributeError(f"module 'samlib.figures' has no attribute {name!r}")
