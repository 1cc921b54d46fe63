"""`Experiment`: one frozen, validated description of many training runs on random subsets, and the key that names its store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import product
from pathlib import PurePath
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from samlib.checks import OneSentence, untensored
from samlib.data import NAMES
from samlib.models import MODELS, NORMS, WITHOUT_NORM

FORMAT = 2  # the version of the store's layout and of the random streams; a change makes old stores invisible
_SMALL_IMAGES = {"model": "cnn", "epochs": 30, "weight_decay": 5e-4, "precision": "bf16"}
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"hidden": (128, 128), "epochs": 40, "weight_decay": 5e-4, "subset_fraction": 0.7},
    "location30": {"hidden": (256,), "epochs": 50, "rho": 0.1},
    "subclasses": {"hidden": (256,), "epochs": 30, "rho": 0.1},
    # 15 s a model with SGD and 30 s with SAM on a CPU core with bfloat16: 64 + 64 models in 25 minutes on two
    "cifar100-coarse": _SMALL_IMAGES | {"pool": 5000, "rho": 0.1},
    "cifar100": _SMALL_IMAGES,
    "cifar10": _SMALL_IMAGES,
    "fashion_mnist": _SMALL_IMAGES,
}
_LAPTOP = {"pool": 10_000, "n_models": 128}
_GPU = {"subset_fraction": [0.5, 0.7], "n_models": 256}
_GPU_IMAGES = _GPU | {"model": "resnet18", "batch_size": 128, "augment": True}
_GPU_TABLES = _GPU | {"hidden": (512, 256), "rho": 0.1, "precision": "bf16"}
# The data sets of each profile, and what it changes in their recipes; None: in any other data set's. A list holds several
# values, each an experiment of the plan, of which a notebook takes the first. The paper's own settings are not known to us:
# these are ours, with SAM's published radii for CIFAR (Foret et al. 2021).
PROFILES: dict[str, dict[str | None, dict[str, Any]]] = {
    "quick": {"location30": {}, "subclasses": {}, "digits": {}, "cifar100-coarse": {}},
    "standard": {
        "location30": {"n_models": 256},
        "subclasses": {"n_models": 256},
        "digits": {"n_models": 256},
        "cifar100-coarse": _LAPTOP,
        "cifar10": _LAPTOP,
    },
    "paper": {
        "cifar100": _GPU_IMAGES | {"epochs": 50, "rho": 0.1},
        "cifar10": _GPU_IMAGES | {"epochs": 50, "rho": 0.05},
        # as many rows for each model as others train on, 20,000 and 10,000, at half
        "purchase100": _GPU_TABLES | {"pool": 40_000},
        "texas100": _GPU_TABLES | {"pool": 20_000},
        "eyepacs": _GPU_IMAGES | {"image_size": 64, "epochs": 30, "weight_decay": 5e-4, "precision": "bf16"},
        None: {"n_models": 256},
    },
    # for tests of the book itself; its numbers mean little
    "smoke": {name: {"n_models": 16, "epochs": 8} for name in ("location30", "subclasses", "digits", None)},
}
ALPHA = {"gsam": 0.4, "looksam": 0.7}  # the papers'
WITHOUT_RADIUS = ("sgd", "swa", "ema")
SHARPNESS_AWARE = ("sam", "asam", "gsam", "looksam", "friendlysam")
RADIUS = {
    "asam": 10
}  # times SAM's: ASAM's radius is of the weights' own scale, and its paper uses .5 where SAM's uses .05
FEW_MODELS = {"optimizers": 24, "ablations": 16}  # where an experiment is one of many, enough to see what counts
# What is changed one at a time; rho and epochs as multiples of the recipe's.
ABLATIONS = {
    "rho": (0.2, 0.5, 1, 2, 4, 8),
    "subset_fraction": (0.3, 0.5, 0.7, 0.85),
    "weight_decay": (0.0, 5e-4, 5e-3),
    "epochs": (0.125, 0.25, 0.5, 1, 2),
    "n_models": (8, 16, 32, 64),  # the first of one store
    "norm": NORMS,
    "augment": (False, True),
}
NO_PART = {
    "norm": WITHOUT_NORM,
    "augment": ("mlp",),
}  # models that such an ablation is not for; an mlp's data may be no images
_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


class Experiment(BaseModel):
    """K models trained by one recipe, each on its own random subset of a data set's training pool.

    A field that is left out or None takes the data set's own recipe (`samlib.experiment.RECIPES`), else the default.
    Raises ValueError, one clear sentence, for an unknown name or a value out of range.

    Model k's subset, initial weights and batch order derive from (seed, k) alone, so model k of two experiments that
    differ only in how they optimize is a pair, and asking for more models keeps those that exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field("location30", description="name of a data set, or path of an .npz file or image folder")
    pool: Annotated[int, Field(ge=2)] | None = Field(
        None, description="use only the first training examples; all if None"
    )
    image_size: _Count | None = Field(None, description="crop a folder's images to squares of so many pixels a side")
    augment: bool = Field(False, description="shift and mirror the training images at random")
    model: Literal[MODELS] = Field("mlp", description="architecture")
    hidden: tuple[_Count, ...] = Field((128, 128), description="widths of the mlp's hidden layers")
    norm: Literal[NORMS] = Field(
        "batch", description="normalization in convolutional models; no part of mlp and vit_tiny"
    )
    optimizer: Literal["sgd", "sam", "asam", "gsam", "looksam", "friendlysam", "swa", "ema"] = Field(
        "sgd", description="how to train; swa and ema average the weights of SGD"
    )
    rho: _NotNegative = Field(0.05, description="radius of SAM's perturbation; SGD has none, and records 0")
    alpha: _NotNegative | None = Field(
        None,
        description="weight of the extra term of gsam or looksam; its paper's if None (looksam at small batches: try 0.2)",
    )
    m_sharpness: _Count | None = Field(
        None, description="examples that share a perturbation of sam or asam; the whole batch if None"
    )
    lr: _Positive = Field(0.1, description="initial learning rate; falls to 0 by a cosine over all steps")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of SGD, also under SAM")
    weight_decay: _NotNegative = Field(0.0, description="L2 penalty, on all parameters")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the label spread over all classes"
    )
    epochs: _Count = Field(50, description="passes over the subset")
    batch_size: _Count = Field(64, description="examples a step at most; an epoch has equal batches")
    subset_fraction: _Fraction = Field(0.5, description="share of the pool that each model trains on")
    n_models: Annotated[int, Field(ge=2)] = Field(64, description="number of models; not part of the key")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="with the model's index, the source of all randomness"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of the matrix products; weights, updates and evaluation are float32"
    )

    def __init__(self, **fields):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(_sentence(error, type(self))) from None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: dict) -> dict:
        given = {name: _plain(value) for name, value in fields.items() if value is not None}
        name = given.get("dataset", cls.model_fields["dataset"].default)
        return (RECIPES.get(name, {}) if isinstance(name, str) else {}) | given

    @model_validator(mode="after")
    def _leave_out_what_plays_no_part(self) -> Experiment:
        """Settings that the model or optimizer does not have go back to the default, so that they do not part equal stores."""
        fields = self.__dict__  # frozen for the user, not yet for us
        fields |= {name: value + 0.0 for name, value in fields.items() if isinstance(value, float)}  # -0.0 is 0.0
        if self.optimizer in WITHOUT_RADIUS:
            fields["rho"] = 0.0  # one SGD store serves every rho that SAM is compared at
        if self.model != "mlp":
            fields["hidden"] = type(self).model_fields["hidden"].default
        if self.model in WITHOUT_NORM:
            fields["norm"] = type(self).model_fields["norm"].default
        if self.optimizer in WITHOUT_RADIUS or (self.m_sharpness or 0) >= self.batch_size:
            fields["m_sharpness"] = None
        fields["alpha"] = ALPHA.get(self.optimizer) if self.alpha is None or self.optimizer not in ALPHA else self.alpha
        if self.m_sharpness is not None and self.optimizer not in ("sam", "asam"):
            raise ValueError(f"parameter 'm_sharpness' is defined for sam and asam, not for {self.optimizer}")
        return self

    @property
    def key(self) -> str:
        """16 hex digits of the sha256 of the canonical JSON of `hashed`, and the format version."""
        return hashlib.sha256(json.dumps([FORMAT, self.hashed], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def hashed(self) -> dict[str, Any]:
        """The validated fields that the key stands for: without `n_models`, and with a data set's path as its file name.

        No data are read: the name of a store has the data's checksum beside the key. A path such as "mine/cifar10" counts as
        "./cifar10", for it is not the public data set of that name.
        """
        name = os.path.basename(os.path.abspath(self.dataset))
        if name != self.dataset and name in NAMES:
            name = f"./{name}"
        return self.model_dump(mode="json", exclude={"n_models"}) | {"dataset": name}

    def but(self, **changes) -> Experiment:
        """The same experiment with some fields changed, validated again."""
        return Experiment(**{**self.model_dump(), **changes})

    def __str__(self) -> str:
        rho = "" if self.optimizer in WITHOUT_RADIUS else f" rho {self.rho:g}"
        return f"{self.dataset} {self.model} {self.optimizer}{rho}"


class ParameterError(OneSentence):
    """A parameter that no experiment has, or a value that it refuses."""


def pair(optimizer: str | None = "sam", **fields) -> dict[str, Experiment]:
    """SGD and another optimizer, alike in all else, so that their models are paired: {"sgd": ..., optimizer: ...}.

    Raises ValueError as `Experiment` does.
    """
    other = Experiment(optimizer=optimizer or "sam", **fields)
    if other.optimizer == "sgd":
        raise ValueError("optimizer names what SGD is compared with, so it cannot be 'sgd' itself.")
    return {"sgd": other.but(optimizer="sgd"), other.optimizer: other}


def optimizer_pairs(
    optimizers: Sequence[str] | None = None, architectures: Sequence[str] | None = None, **fields
) -> dict[str, dict[str, Experiment]]:
    """Table 3: `pair` of SGD with each other optimizer, keyed by its name; all if `optimizers` is None.

    architectures: other models, on which SGD is compared with SAM, keyed as "sam, cnn". The radius is the recipe's, or `rho`;
    RADIUS times it where an optimizer measures it otherwise. Raises ValueError as `pair`, and where a list is none.
    """
    names = (*SHARPNESS_AWARE, *WITHOUT_RADIUS[1:]) if optimizers is None else optimizers
    if isinstance(names, str) or not names:
        raise ValueError("optimizers must be a list of names of optimizers.")
    if isinstance(architectures, str):
        raise ValueError("architectures must be a list of names of models.")
    fields = {"n_models": FEW_MODELS["optimizers"]} | {k: v for k, v in fields.items() if v is not None}
    rho = Experiment(**fields | {"optimizer": "sam"}).rho
    pairs = {name: pair(**fields | {"optimizer": name, "rho": _rounded(rho * RADIUS.get(name, 1))}) for name in names}
    return pairs | {f"sam, {model}": pair(**fields | {"model": model}) for model in architectures or ()}


def ablation_pairs(changed: Sequence[str] | None = None, **fields) -> dict[tuple[str, Any], dict[str, Experiment]]:
    """`pair`, and the same with one field changed, keyed by (field, value) for each of ABLATIONS and the recipe's own value.

    changed: names of the fields of ABLATIONS to change; if None, all that the model has. Raises ValueError for another
    name, for one that plays no part in the model, and as `pair`.
    """
    if changed is not None and (isinstance(changed, str) or not changed or set(changed) - ABLATIONS.keys()):
        raise ValueError(f"changed must be a list of some of {', '.join(ABLATIONS)}, not {changed!r}.")
    fields = {"n_models": FEW_MODELS["ablations"]} | {k: v for k, v in fields.items() if v is not None}
    base = pair(**fields)
    other = next(e for e in base.values() if e.optimizer != "sgd")
    without = [name for name, models in NO_PART.items() if other.model in models]
    if refused := [name for name in changed or () if name in without]:
        raise ValueError(
            f"changed cannot hold {' or '.join(refused)} where model is {other.model!r}; give another model."
        )
    pairs = {}
    for name in changed or [name for name in ABLATIONS if name not in without]:
        values, own = ABLATIONS[name], getattr(other, name)
        if name == "rho":
            values = [_rounded(own * factor) for factor in values]
        elif name == "epochs":
            values = [max(1, round(own * factor)) for factor in values]
        for value in sorted({own, *values}):
            pairs[name, value] = {key: e.but(**{name: value}) for key, e in base.items()}
    return pairs


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def public_parameters(namespace: Mapping[str, Any], *, ignore: Container[str] = ()) -> dict[str, Any]:
    """The public variables of a notebook's `globals()` that can be parameters: no function, no class, no module."""
    hidden = {"In", "Out", *ignore}
    return {
        name: value
        for name, value in namespace.items()
        if not (name.startswith("_") or name in hidden or callable(value) or isinstance(value, ModuleType))
    }


def check_parameters(namespace: Mapping[str, Any], model: type[BaseModel], *, ignore: Container[str] = ()) -> BaseModel:
    """A notebook's own parameters as a pydantic `model` with extra="forbid", for notebooks that `from_parameters` does not fit.

    Raises ParameterError, one sentence, for a parameter that the model does not have or refuses.
    """
    try:
        return model(**public_parameters(namespace, ignore=ignore))
    except ValidationError as error:
        raise ParameterError(_sentence(error, model)) from None


def in_profile(profile: str, dataset: str = "location30") -> dict[str, Any]:
    """What a profile changes in a data set's recipe, a folder of one's own known by its name. A list holds several values.

    Raises ValueError for another name than those of PROFILES.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}.")
    sets = PROFILES[profile]
    return sets.get(PurePath(dataset).name, sets.get(None, {}))


def planned(profile: str = "quick", **fields) -> list[dict[str, Experiment]]:
    """`pair` for each data set of a profile, or for `dataset`, and for each of the profile's several values of a field.

    A field that is given replaces the profile's. Raises ValueError as `in_profile` and `pair`.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    in_profile(profile)  # refuses an unknown name
    names = [given["dataset"]] if "dataset" in given else [name for name in PROFILES[profile] if name]
    pairs = []
    for name in names:
        changed = in_profile(profile, name) | given
        several = {
            field: values for field, values in changed.items() if isinstance(values, list) and field not in given
        }
        for values in product(*several.values()):
            pairs.append(pair(**changed | {"dataset": name} | dict(zip(several, values, strict=True))))
    return pairs


def from_parameters(namespace: Mapping[str, Any], *, ignore: Container[str] = (), make: Callable = pair) -> dict:
    """`pair`, or another `make`, of a notebook's parameters: call it first, as `from_parameters(globals())`.

    papermill only warns of a parameter that a notebook does not have, and passes any type; here every public variable
    must be a parameter of an experiment, or `profile`, a key of PROFILES, whose values stand in for parameters that are None
    (the first of several). So a misspelt one fails at once. Raises ParameterError, one sentence.
    """
    fields = public_parameters(namespace, ignore=ignore)
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        dataset = given.get("dataset", Experiment.model_fields["dataset"].default)
        changed = in_profile(given.pop("profile", "quick"), str(dataset))
        return make(**{name: value[0] if isinstance(value, list) else value for name, value in changed.items()} | given)
    except ValueError as error:
        raise ParameterError(str(error)) from None


def _plain(value: Any) -> Any:
    """Numpy's numbers and arrays as Python's, and a path as text. A float32 of .1 is .1: the shortest that reads the same."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "__array__"):
        array = np.asarray(untensored(value))
        if array.ndim:
            return [_plain(one) for one in array]
        value = array[()]
    return (
        float(str(value))
        if isinstance(value, np.floating)
        else value.item()
        if isinstance(value, np.generic)
        else value
    )


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """All that is wrong with a model's fields, each in one sentence that names the field."""
    said = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            said.append(f"There is no parameter {name!r}, only {', '.join(model.model_fields)}.")
        elif not problem["loc"]:
            reason = problem["msg"].removeprefix("Value error, ")
            said.append(f"{reason[0].upper()}{reason[1:]}.")
        else:
            reason = problem["msg"][0].lower() + problem["msg"][1:]
            said.append(f"Parameter {name!r} = {problem['input']!r}: {reason}.")
    return " ".join(said)
