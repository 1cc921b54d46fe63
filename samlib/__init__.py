"""samlib: train with SAM and SGD, measure what leaks and what is memorized.

Names load on first use, so that `import samlib.training` needs torch and numpy alone.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

__version__ = "0.1.0"

_NAMES = {
    "data": ("Dataset", "load_dataset"),
    "estimators": ("entropy_buckets", "influence", "influence_entropy", "memorization", "top_influences"),
    "evaluation": ("compare", "evaluate"),
    "experiment": ("Experiment",),
    "models": ("build_model",),
    "optim": ("ASAM", "GSAM", "SAM", "FriendlySAM", "LookSAM"),
    "report": ("audit_file",),
    "runs": ("run", "run_pairs"),
}
_HOME = {"from_parameters": "paper.study", "study": "paper.notebook"}
_HOME |= {name: room for room, names in _NAMES.items() for name in names}
_ROOMS = (*_NAMES, "attacks", "audit", "inference", "sharpness", "signals", "training")
_PAPER = {name: f"samlib.paper.{name}" for name in ("claims", "figures", "mixture", "theory")}
_PAPER["widgets"] = "samlib.paper.explore"
__all__ = sorted([*_HOME, *_ROOMS, *_PAPER])


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"samlib.{_HOME[name]}"), name)
    if name in _ROOMS or name in _PAPER:
        return import_module(f"samlib.{name}")
    raise AttributeError(f"module 'samlib' has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]


class _PaperRooms(MetaPathFinder, Loader):
    """Let `import samlib.claims` find `samlib.paper.claims`, the same module. So the paper's modules keep short names."""

    def find_spec(self, name, path=None, target=None):
        first, _, rest = name.removeprefix("samlib.").partition(".")
        if not name.startswith("samlib.") or first not in _PAPER:
            return None
        return ModuleSpec(name, self, loader_state=f"{_PAPER[first]}.{rest}".rstrip("."))

    def exec_module(self, module):
        sys.modules[module.__name__] = import_module(module.__spec__.loader_state)


sys.meta_path.insert(0, _PaperRooms())
