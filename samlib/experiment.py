"""`Experiment` describes many training runs on random subsets of a data set; its key names the store of their results."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.types import NonNegativeFloat, PositiveFloat, PositiveInt

from samlib.checks import OneSentence, untensored
from samlib.data import NAMES
from samlib.models import WITHOUT_NORM

FORMAT = 2  # version of the store's layout and of the random streams; a change makes old stores invisible
RECIPES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())
ALPHA = {"gsam": 0.4, "looksam": 0.7}  # the papers' own weights
RADIUS = {"asam": 10}  # times SAM's: ASAM's radius scales with the weights; its paper uses 0.5 where SAM's uses 0.05
WITHOUT_RADIUS = ("sgd", "swa", "ema")
_Share = Annotated[float, Field(ge=0, lt=1)]
_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Several = Annotated[int, Field(ge=2)]


class Experiment(BaseModel):
    """Many models trained by one recipe, each on its own random subset of a data set's training pool.

    Model k's subset, initial weights and batch order follow from `seed` and k alone. So models k of two experiments are a
    pair if these differ only in how they optimize. A larger `n_models` keeps the models that exist.

    A field that is left out or None takes the data set's own recipe, as in `recipes.toml`, or else its default.
    An experiment is frozen; `but` makes a changed copy.

    Parameters
    ----------
    dataset : str
        name of a data set, or path of an .npz file or of a folder of images
    pool : int of at least 2, optional
        use only so many training examples, the first; all if left out
    image_size : int, optional
        crop a folder's images to squares of so many pixels a side
    augment : bool
        shift and mirror the training images at random
    model : str
        architecture
    hidden : sequence of int
        widths of the mlp's hidden layers, also as text such as 128,128
    norm : str
        normalization in convolutional models; mlp and vit_tiny ignore it
    optimizer : str
        how to train; swa and ema average the weights of SGD
    rho : float of at least 0
        radius of SAM's perturbation; sgd, swa and ema have none and record 0
    alpha : float of at least 0, optional
        weight of the extra term of gsam or looksam; its paper's if left out (try 0.2 for looksam with small batches)
    m_sharpness : int, optional
        how many examples share a perturbation of sam or asam; the whole batch if left out
    lr : float above 0
        initial learning rate; it falls to 0 by a cosine over all steps
    momentum : float from 0 to 1
        momentum of SGD, also under SAM
    weight_decay : float of at least 0
        L2 penalty on all parameters
    label_smoothing : float from 0 to 1
        share of the label that is spread over all classes
    epochs : int
        passes over the subset
    batch_size : int
        most examples of a step; all batches of an epoch have equal size
    subset_fraction : float between 0 and 1
        share of the pool that each model trains on
    n_models : int of at least 2
        number of models; not part of the key
    seed : int from 0 to 2^32 - 1
        source of all randomness, with the model's index
    precision : str
        type of the matrix products; weights, updates and evaluation are float32

    Attributes
    ----------
    key : str
        16 hexadecimal digits that stand for all fields but `n_models`.

    Raises
    ------
    ValueError
        If a name is unknown or a value is out of range. The message names each wrong field, in one sentence.

    Examples
    --------
    >>> experiment = Experiment(dataset="digits", optimizer="sam", rho=0.1)
    >>> experiment.epochs, experiment.subset_fraction
    (40, 0.7)
    >>> experiment.but(n_models=512).key == experiment.key
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = "location30"
    pool: _Several | None = None
    image_size: PositiveInt | None = None
    augment: bool = False
    model: Literal["mlp", "cnn", "resnet9", "resnet18", "wrn28_2", "vgg11", "vit_tiny"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (128, 128)
    norm: Literal["batch", "group", "none"] = "batch"
    optimizer: Literal["sgd", "sam", "asam", "gsam", "looksam", "friendlysam", "swa", "ema"] = "sgd"
    rho: NonNegativeFloat = 0.05
    alpha: NonNegativeFloat | None = None
    m_sharpness: PositiveInt | None = None
    lr: PositiveFloat = 0.1
    momentum: _Share = 0.9
    weight_decay: NonNegativeFloat = 0.0
    label_smoothing: _Share = 0.0
    epochs: PositiveInt = 50
    batch_size: PositiveInt = 64
    subset_fraction: _Fraction = 0.5
    n_models: _Several = 64
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["float32", "bf16"] = "float32"

    def __init__(self, **fields: Any):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(in_words(error, type(self))) from None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: dict) -> dict:
        given = {name: _plain(value) for name, value in fields.items() if value is not None}
        if isinstance(widths := given.get("hidden"), str):
            given["hidden"] = widths.replace(",", " ").split()
        name = given.get("dataset", cls.model_fields["dataset"].default)
        return RECIPES.get(str(name), {}) | given

    @model_validator(mode="after")
    def _without_unused_settings(self) -> Experiment:
        """Give settings that the model or optimizer ignores their default, so that equal trainings share one key."""
        fields = self.__dict__  # frozen for the user, not yet for us
        fields |= {name: value + 0.0 for name, value in fields.items() if isinstance(value, float)}  # -0.0 is 0.0
        if self.optimizer in WITHOUT_RADIUS:
            fields |= {"rho": 0.0, "m_sharpness": None}  # one SGD store serves every rho that SAM is compared at
        if self.model != "mlp":
            fields["hidden"] = type(self).model_fields["hidden"].default
        if self.model in WITHOUT_NORM:
            fields["norm"] = type(self).model_fields["norm"].default
        if (self.m_sharpness or 0) >= self.batch_size:
            fields["m_sharpness"] = None
        fields["alpha"] = ALPHA.get(self.optimizer) if self.alpha is None or self.optimizer not in ALPHA else self.alpha
        if self.m_sharpness is not None and self.optimizer not in ("sam", "asam"):
            raise ValueError(f"parameter 'm_sharpness' is defined for sam and asam, not for {self.optimizer}")
        return self

    @property
    def key(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of `hashed` and the format's version."""
        return hashlib.sha256(json.dumps([FORMAT, self.hashed], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def hashed(self) -> dict[str, Any]:
        """The fields that the key stands for: all but `n_models`, and a path by its file name. No data are read.

        A path such as "mine/cifar10" counts as "./cifar10", because it is not the public data set of that name.
        """
        name = os.path.basename(os.path.abspath(self.dataset))
        if name != self.dataset and name in NAMES:
            name = f"./{name}"
        return self.model_dump(mode="json", exclude={"n_models"}) | {"dataset": name}

    def but(self, **changes: Any) -> Experiment:
        """Return the same experiment with some fields changed, validated again."""
        return Experiment(**{**self.model_dump(), **changes})

    def __str__(self) -> str:
        rho = "" if self.optimizer in WITHOUT_RADIUS else f" rho {self.rho:g}"
        return f"{self.dataset} {self.model} {self.optimizer}{rho}"


class ParameterError(OneSentence):
    """A parameter that no experiment has, or a value that the parameter cannot take."""


def pair(optimizer: str | None = "sam", **fields: Any) -> dict[str, Experiment]:
    """Describe SGD and another optimizer, alike in everything else, so that their models are paired.

    Parameters
    ----------
    optimizer : str, optional
        The optimizer that SGD is compared with; "sam" if None.
    **fields
        Other fields of `Experiment`.

    Returns
    -------
    dict
        `{"sgd": ..., optimizer: ...}`.

    Raises
    ------
    ValueError
        If `optimizer` is "sgd", and as `Experiment` does.

    Examples
    --------
    >>> {name: e.rho for name, e in pair("sam", dataset="digits", rho=0.1).items()}
    {'sgd': 0.0, 'sam': 0.1}
    """
    other = Experiment(optimizer=optimizer or "sam", **fields)
    if other.optimizer == "sgd":
        raise ValueError("optimizer must be one to compare SGD with, not 'sgd' itself.")
    return {"sgd": other.but(optimizer="sgd"), other.optimizer: other}


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy or torch as Python's, and a path as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "__array__"):
        array = np.asarray(untensored(value))
        if array.dtype.kind == "O":
            return _plain(array.tolist())
        # the shortest text that reads the same: a float32 of 0.1 is 0.1
        return (array.astype(str).astype(float) if array.dtype.kind == "f" else array).tolist()
    return value


def in_words(error: ValidationError, model: type[BaseModel]) -> str:
    """Everything that is wrong with a pydantic model's fields, in a sentence for each error."""
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
