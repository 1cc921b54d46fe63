"""The paper's own settings: its profiles, its ablations, and the experiments that a notebook's parameters ask for.

The values are in `study.toml`, beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import PurePath
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from samlib.checks import as_choice, shown
from samlib.experiment import RADIUS, WITHOUT_RADIUS, Experiment, ParameterError, in_words, pair
from samlib.models import MODELS, WITHOUT_NORM
from samlib.paper import values

_VALUES = values("study")
FEW_MODELS: dict[str, int] = _VALUES["few_models"]
ABLATIONS: dict[str, list] = _VALUES["ablations"]
TITLES: dict[str, str] = _VALUES["titles"]
CONFIRM: dict[str, dict[str, Any]] = _VALUES["confirm"]
FIXED: list[dict[str, Any]] = _VALUES["fixed"]
# for each profile, the changed fields of each data set; the empty name stands for every other data set
PROFILES: dict[str, dict[str, dict[str, Any]]] = _VALUES["profiles"]
NO_PART = {"norm": WITHOUT_NORM, "augment": ("mlp",)}  # models without the field; an mlp's data need not be images
SHARPNESS_AWARE = ("sam", "asam", "gsam", "looksam", "friendlysam")
Model = TypeVar("Model", bound=BaseModel)


def optimizer_pairs(
    optimizers: Sequence[str] | None = None, architectures: Sequence[str] | None = None, **fields
) -> dict[str, dict[str, Experiment]]:
    """Pair SGD with each other optimizer, and with SAM on other architectures, for Table 3.

    Parameters
    ----------
    optimizers : list of str, optional
        The optimizers to compare with SGD; all of them if None.
    architectures : list of str, optional
        Other models, on which SGD is compared with SAM.
    **fields
        Fields of `Experiment`. `rho` is SAM's radius. An optimizer with another scale of radius takes rho times its factor in
        `RADIUS`.

    Returns
    -------
    dict
        A `pair` for each optimizer, keyed by its name, and for each architecture, keyed as "sam, cnn".

    Raises
    ------
    ValueError
        If an argument is not a list of known names, and as `pair` does.

    Examples
    --------
    >>> pairs = optimizer_pairs(["asam"], ["cnn"], dataset="digits", rho=0.1)
    >>> [(name, two["asam" if name == "asam" else "sam"].rho) for name, two in pairs.items()]
    [('asam', 1.0), ('sam, cnn', 0.1)]
    """
    others = (*SHARPNESS_AWARE, *WITHOUT_RADIUS[1:])
    optimizers = others if optimizers is None else _some("optimizers", optimizers, others)
    architectures = () if architectures is None else _some("architectures", architectures, MODELS, empty=True)
    fields = {"n_models": FEW_MODELS["optimizers"]} | _given(fields)
    rho = Experiment(**fields | {"optimizer": "sam"}).rho
    radii = {name: _rounded(rho * RADIUS.get(name, 1)) for name in optimizers}
    pairs = {name: pair(**fields | {"optimizer": name, "rho": radius}) for name, radius in radii.items()}
    return pairs | {f"sam, {model}": pair(**fields | {"model": model}) for model in architectures}


def ablation_pairs(changed: Sequence[str] | None = None, **fields) -> dict[tuple[str, Any], dict[str, Experiment]]:
    """Pair SGD with another optimizer, once for each value of each ablated field.

    Parameters
    ----------
    changed : list of str, optional
        The fields of `ABLATIONS` to change; if None, all that the model has.
    **fields
        Fields of `Experiment`, which all pairs share.

    Returns
    -------
    dict
        A `pair` for each (field, value): the values of `ABLATIONS` and the recipe's own.

    Raises
    ------
    ValueError
        If `changed` holds an unknown field or one that the model does not have, and as `pair` does.

    Examples
    --------
    >>> list(ablation_pairs(["epochs"], dataset="digits", epochs=4))
    [('epochs', 1), ('epochs', 2), ('epochs', 3), ('epochs', 4), ('epochs', 6), ('epochs', 8)]
    """
    changed = None if changed is None else _some("changed", changed, ABLATIONS)
    base = pair(**{"n_models": FEW_MODELS["ablations"]} | _given(fields))
    other = next(e for e in base.values() if e.optimizer != "sgd")
    without = [name for name, models in NO_PART.items() if other.model in models]
    if refused := [name for name in changed or () if name in without]:
        which = " or ".join(refused)
        raise ValueError(f"changed cannot hold {which} where model is {other.model!r}; give another model.")
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


def in_profile(profile: str, dataset: str = "location30") -> dict[str, Any]:
    """Return what a profile changes in a data set's recipe.

    Parameters
    ----------
    profile : str
        A key of `PROFILES`.
    dataset : str
        A data set's name, or the path of your own data. Only the last part of a path counts.

    Returns
    -------
    dict
        The changed fields. A list holds several values.

    Raises
    ------
    ValueError
        If there is no such profile.

    Examples
    --------
    >>> in_profile("standard", "cifar10")
    {'pool': 10000, 'n_models': 128}
    """
    sets = PROFILES[as_choice("profile", profile, tuple(PROFILES))]
    return sets.get(PurePath(str(dataset)).name, sets.get("", {}))


def planned(profile: str = "quick", **fields) -> list[dict[str, Experiment]]:
    """Return every pair of a profile, one for each of its several values of a field.

    Parameters
    ----------
    profile : str
        A key of `PROFILES`.
    **fields
        Fields of `Experiment`, which replace the profile's. With `dataset`, only that data set is planned.

    Returns
    -------
    list of dict
        What `pair` returns, for each data set and each combination of values.

    Raises
    ------
    ValueError
        As `in_profile` and `pair` do.

    Examples
    --------
    >>> [two["sam"].subset_fraction for two in planned("paper", dataset="cifar10")]
    [0.5, 0.7]
    """
    in_profile(profile)  # refuses an unknown name
    given = _given(fields)
    names = [given["dataset"]] if "dataset" in given else [name for name in PROFILES[profile] if name]
    return [pair(**settings) for name in names for settings in _settings(profile, given | {"dataset": name})]


def from_parameters(namespace: Mapping[str, Any], *, make: Callable[..., dict[Any, Any]] = pair) -> dict[Any, Any]:
    """Turn a notebook's parameters into experiments: call it first, as `from_parameters(globals())`.

    papermill only warns of a parameter that a notebook does not have, and passes any type. Here every public variable must
    be a field of an experiment, or `profile`. So a misspelt parameter fails at once.

    Parameters
    ----------
    namespace : mapping
        The notebook's `globals()`. A variable that is None counts as left out.
    make : callable
        What makes the experiments of the parameters: `pair`, `optimizer_pairs` or `ablation_pairs`.

    Returns
    -------
    dict
        What `make` returns. Fields that are left out take the profile's value, the first of several.

    Raises
    ------
    ParameterError
        If a parameter is unknown or has a wrong value; the message is one sentence.

    Examples
    --------
    >>> two = from_parameters({"dataset": "digits", "rho": 0.2, "n_models": None})
    >>> two["sam"].rho, two["sam"].n_models
    (0.2, 64)
    """
    given = _given(public_parameters(namespace))
    try:
        return make(**_settings(given.pop("profile", "quick"), given)[0])
    except ValueError as error:
        raise ParameterError(str(error)) from None


def check_parameters(namespace: Mapping[str, Any], model: type[Model]) -> Model:
    """Check the parameters of a notebook that trains nothing, such as the explorer's.

    Parameters
    ----------
    namespace : mapping
        The notebook's `globals()`.
    model : type
        The pydantic model of its parameters, with `extra="forbid"`.

    Returns
    -------
    BaseModel
        The parameters, as `model` has validated them.

    Raises
    ------
    ParameterError
        If a parameter is unknown or has a wrong value; the message is one sentence.

    Examples
    --------
    >>> from samlib.paper.explore import Parameters
    >>> check_parameters({"seed": 3, "_hidden": 1}, Parameters)
    Parameters(profile='quick', seed=3)
    """
    try:
        return model(**public_parameters(namespace))
    except ValidationError as error:
        raise ParameterError(in_words(error, model)) from None


def flat(found: Mapping[Any, Any]) -> list[Experiment]:
    """Return the experiments of a pair, or of pairs by setting, as one list.

    Parameters
    ----------
    found : dict
        What `pair`, `optimizer_pairs`, `ablation_pairs` or `from_parameters` returns.

    Returns
    -------
    list of Experiment
        In their order. SGD's comes once for each setting.

    Examples
    --------
    >>> [e.optimizer for e in flat(optimizer_pairs(["asam", "gsam"]))]
    ['sgd', 'asam', 'sgd', 'gsam']
    """
    pairs = [found] if "sgd" in found else found.values()
    return [e for two in pairs for e in two.values()]


def public_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public variables of a notebook's `globals()` that can be parameters.

    Parameters
    ----------
    namespace : mapping
        The notebook's `globals()`.

    Returns
    -------
    dict
        All variables but functions, classes, modules, and names that begin with an underscore.

    Examples
    --------
    >>> public_parameters({"rho": 0.1, "_": 3, "print": print})
    {'rho': 0.1}
    """
    given = {name: value for name, value in namespace.items() if not (name.startswith("_") or name in ("In", "Out"))}
    return {name: value for name, value in given.items() if not (callable(value) or isinstance(value, ModuleType))}


def was_fixed(parameters: Mapping[str, Any]) -> bool:
    """Whether these parameters of `optimizer_pairs` or `ablation_pairs` were fixed beforehand, as `FIXED` has them."""
    return _given(parameters) in FIXED


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _settings(profile: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of each experiment that a profile plans on one data set. The given fields replace the profile's."""
    dataset = given.get("dataset", Experiment.model_fields["dataset"].default)
    own = {name: value for name, value in in_profile(profile, dataset).items() if name not in given}
    several = [value if isinstance(value, list) else [value] for value in own.values()]
    return [dict(zip(own, values, strict=True)) | given for values in product(*several)]


def _some(name: str, value: Any, allowed: Iterable[str], *, empty: bool = False) -> Sequence[str]:
    """A list of some of the allowed names. Raises ValueError for anything else."""
    allowed = tuple(allowed)
    if not isinstance(value, list | tuple) or not (value or empty) or any(one not in allowed for one in value):
        raise ValueError(f"{name} must be a list of some of {', '.join(allowed)}, not {shown(value)}.")
    return value


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
