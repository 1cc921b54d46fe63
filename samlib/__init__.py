"""samlib: train with SAM and SGD, measure what leaks and what is memorized.

Names load on first use, so that `import samlib.training` needs torch and numpy alone.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_dataset": "data",
    "Dataset": "data",
    "build_model": "models",
    "SAM": "optim",
    "ASAM": "optim",
    "GSAM": "optim",
    "LookSAM": "optim",
    "FriendlySAM": "optim",
    "Experiment": "experiment",
    "from_parameters": "experiment",
    "run": "runs",
    "run_pairs": "runs",
    "memorization": "estimators",
    "influence": "estimators",
    "top_influences": "estimators",
    "influence_entropy": "estimators",
    "entropy_buckets": "estimators",
    "evaluate": "evaluation",
    "compare": "evaluation",
}
_ROOMS = (
    "attacks",
    "audit",
    "claims",
    "data",
    "estimators",
    "experiment",
    "figures",
    "mixture",
    "models",
    "optim",
    "runs",
)
_ROOMS += ("sharpness", "signals", "theory", "training", "widgets")
__all__ = sorted([*_HOME, *_ROOMS])


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"samlib.{_HOME[name]}"), name)
    if name in _ROOMS:
        return import_module(f"samlib.{name}")
    raise AttributeError(f"module 'samlib' has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
