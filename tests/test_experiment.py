"""An experiment is validated whole, and its key names what would be trained, nothing else."""

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samlib import Experiment, experiment
from samlib.experiment import ParameterError, pair
from samlib.models import MODELS, NORMS
from samlib.paper import study
from samlib.paper.records import records
from samlib.paper.study import PROFILES, from_parameters, in_profile, planned


def test_recipes_fill_in_what_is_left_out_or_none():
    assert Experiment(dataset="digits").hidden == (128, 128)
    assert Experiment(dataset="location30", hidden=None).hidden == (256,)
    assert Experiment(dataset="location30", hidden=[32]).hidden == (32,)
    assert Experiment(dataset="digits") == Experiment(dataset="digits", epochs=40, weight_decay=5e-4)


def test_the_key_leaves_out_the_number_of_models_only():
    base = Experiment(dataset="digits")
    assert base.but(n_models=512).key == base.key
    changes = {
        "dataset": "location30", "pool": 100, "hidden": (8,), "optimizer": "sam", "lr": 0.2, "momentum": 0.5,
        "weight_decay": 0.1, "epochs": 3, "batch_size": 7, "subset_fraction": 0.4, "seed": 1, "precision": "bf16",
        "image_size": 32, "augment": True, "label_smoothing": 0.1, "model": "cnn",
    }  # fmt: skip
    assert {"n_models", "rho", "norm", "m_sharpness", "alpha", *changes} == set(Experiment.model_fields)
    keys = {base.but(**{name: value}).key for name, value in changes.items()} | {base.key}
    assert len(keys) == len(changes) + 1
    sam = base.but(optimizer="sam", rho=0.1)
    others = [{"rho": 0.2}, {"optimizer": "asam"}, {"optimizer": "gsam"}, {"m_sharpness": 16}]
    assert len({sam.key, *(sam.but(**other).key for other in others)}) == 5
    cnn = base.but(model="cnn")
    assert len({cnn.key, cnn.but(norm="group").key, cnn.but(norm="none").key}) == 3


def test_settings_that_play_no_part_do_not_part_equal_stores():
    base = Experiment(dataset="digits")
    assert base.but(norm="group") == base
    assert base.but(m_sharpness=8) == base
    cnn = base.but(model="cnn", norm="batch")
    assert cnn.but(hidden=(3, 3)) == cnn
    assert base.but(model="vit_tiny", norm="group") == base.but(model="vit_tiny")
    sam = base.but(optimizer="sam", rho=0.1)
    assert sam.but(m_sharpness=sam.batch_size) == sam
    assert sam.but(alpha=0.3) == sam
    assert sam.but(optimizer="gsam").alpha == 0.4
    looksam = sam.but(optimizer="looksam", alpha=0.2)
    assert looksam.but(alpha=0.7) == sam.but(optimizer="looksam") != looksam
    for optimizer in ("swa", "ema"):
        assert base.but(optimizer=optimizer, rho=0.3).rho == 0


def test_one_sgd_serves_every_rho():
    assert Experiment(dataset="digits", rho=0.3) == Experiment(dataset="digits", rho=0.0)
    assert Experiment(dataset="digits", rho=0.3).rho == 0


@pytest.mark.slow
def test_the_key_is_the_same_in_another_process():
    base = Experiment(dataset="digits", optimizer="sam", rho=0.1)
    fields = json.dumps(base.model_dump(mode="json"))
    code = f"import json, samlib; print(samlib.Experiment(**json.loads({fields!r})).key)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == base.key
    )


NUMBERS = {
    "pool": 100, "image_size": 8, "hidden": (8, 16), "rho": 0.1, "alpha": 0.3, "m_sharpness": 16, "lr": 0.2,
    "momentum": 0.7, "weight_decay": 5e-4, "label_smoothing": 0.1, "epochs": 3, "batch_size": 32, "subset_fraction": 0.7,
    "n_models": 4, "seed": 7, "augment": True,
}  # fmt: skip


def alike(value):
    """Other ways to write a value, as numpy, pandas and papermill do."""
    if isinstance(value, tuple):
        return [
            ",".join(map(str, value)),
            list(value),
            np.array(value),
            np.array(value, np.uint16),
            [np.int64(v) for v in value],
            list(map(str, value)),
        ]
    text = [str(value), np.str_(value)]
    if isinstance(value, bool):
        return [np.bool_(value), np.array(value), int(value), np.int8(value), *text]
    if isinstance(value, int):
        kinds = (np.int64, np.uint8, np.int32, np.float64, np.float32)
        return [*text, float(value), torch.tensor(value), *(kind(value) for kind in kinds), np.array(value)]
    kinds = (np.float64, np.float32, np.float16, np.longdouble)
    return [*text, f"{value:e}", torch.tensor(value), np.array(value, np.float32), *(kind(value) for kind in kinds)]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_one_key_however_it_is_written(name):
    optimizer = {"alpha": "gsam", "m_sharpness": "sam", "rho": "sam"}.get(name, "sgd")
    plain = Experiment(dataset="digits", optimizer=optimizer, **{name: NUMBERS[name]})
    for value in alike(NUMBERS[name]):
        other = Experiment(dataset="digits", optimizer=optimizer, **{name: value})
        assert (other.key, other) == (plain.key, plain), repr(value)
        assert type(getattr(other, name)) is type(NUMBERS[name])


def test_a_tensor_that_numpy_cannot_read_is_a_number():
    assert Experiment(dataset="digits", optimizer="sam", rho=torch.tensor(0.5, dtype=torch.bfloat16)).rho == 0.5


def test_sgd_has_one_key_whatever_the_radius():
    for rho in (0.1, "0.1", np.float32(0.1), 1, np.array(0.3), -0.0):
        assert Experiment(dataset="digits", rho=rho).key == Experiment(dataset="digits").key
    sam = Experiment(dataset="digits", optimizer="sam", rho=0.0)
    assert sam.but(rho=-0.0).key == sam.key
    with pytest.raises(ValueError, match="'rho' = -1"):
        Experiment(dataset="digits", rho=np.float32(-1))
    of_objects = np.array(np.float32(0.1), object)
    assert Experiment(dataset="digits", optimizer="sam", rho=of_objects).key == sam.but(rho=0.1).key


def test_the_key_has_a_path_by_its_file_name_and_touches_no_data(tmp_path):
    key = Experiment(dataset="mine.npz").key
    for path in ("/a/mine.npz", "b/mine.npz", "./mine.npz", Path("/c/d/mine.npz"), np.str_("mine.npz")):
        assert Experiment(dataset=path).key == key
    assert Experiment(dataset="/a/eyepacs/").key == Experiment(dataset="eyepacs").key != key
    assert Experiment(dataset="/a/mine.npz").dataset == "/a/mine.npz"
    assert (
        Experiment(dataset=tmp_path / "cifar10").key != Experiment(dataset="cifar10").key
    )  # else its records were found


def test_keys_of_data_sets_known_by_name_are_those_of_the_records():
    found = pair(dataset="cifar100-coarse")
    assert (found["sam"].key, found["sgd"].key) == ("4b53929b830b81d9", "388ecf12b542b273")
    kept = records(Path(__file__).parents[1] / "book" / "results")
    assert len(kept) >= 2
    keys = [
        (fields, key)
        for about in kept.values()
        for fields, key in zip(about["experiments"], about["keys"], strict=True)
    ]
    assert len(keys) > 20
    assert all(Experiment(**fields).key == key for fields, key in keys)
    assert Experiment(dataset="eyepacs").key == "ee6d67c5a5a063ef"


PINNED = (
    ({"dataset": "digits"}, "dcdcfb19020b48fb"),
    ({"dataset": "digits", "optimizer": "sam"}, "71bdd68f328fede0"),
    ({}, "cde86aa13dc911f1"),
    ({"optimizer": "asam", "rho": 1}, "3dc94adf2f67a98b"),
    ({"dataset": "subclasses", "optimizer": "gsam"}, "4317aab3447ac87b"),
    ({"dataset": "cifar100", "optimizer": "looksam"}, "6af071c639191aa1"),
    (
        {
            "dataset": "cifar100",
            "optimizer": "looksam",
            "model": "cnn",
            "epochs": 30,
            "batch_size": 64,
            "augment": False,
        },
        "955481b6a3267466",
    ),
    ({"dataset": "cifar10", "optimizer": "friendlysam", "augment": True}, "4b5dd71934f46bf1"),
    ({"dataset": "fashion_mnist", "optimizer": "swa"}, "067ded2d2fc34be0"),
    ({"dataset": "purchase100", "optimizer": "ema", "hidden": [512, 256], "pool": 40000}, "6c8ec15028201cce"),
    ({"dataset": "texas100", "precision": "bf16", "label_smoothing": 0.1}, "b5c0a21fba640e40"),
    ({"dataset": "mine/eyepacs", "image_size": 64, "model": "resnet18", "norm": "group"}, "2ee24180de9cdb40"),
    ({"dataset": "mine.npz", "optimizer": "sam", "m_sharpness": 16, "seed": 7}, "3dc7c5f2fc7aa0c7"),
)


@pytest.mark.parametrize(("fields", "key"), PINNED)
def test_keys_never_change(fields, key):
    """Records and stores are found by their keys: a changed recipe or default would train everything again."""
    assert Experiment(**fields).key == key


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimiser": "sam"}, "There is no parameter 'optimiser', only dataset"),
        ({"optimizer": "adam"}, "Parameter 'optimizer' = 'adam': input should be 'sgd', 'sam', 'asam'"),
        ({"rho": -1}, "'rho' = -1"),
        ({"rho": -1, "optimizer": "sam"}, "'rho' = -1: input should be greater than or equal to 0"),
        ({"rho": "big"}, "'rho' = 'big'"),
        ({"rho": float("nan")}, "'rho' = nan"),
        ({"lr": 0}, "'lr' = 0"),
        ({"lr": float("inf")}, "'lr' = inf"),
        ({"momentum": 1}, "'momentum' = 1"),
        ({"weight_decay": -1e-4}, "'weight_decay' = -0.0001"),
        ({"epochs": 0}, "'epochs' = 0"),
        ({"epochs": 1.5}, "'epochs' = 1.5"),
        ({"batch_size": 0}, "'batch_size' = 0"),
        ({"n_models": 1}, "'n_models' = 1"),
        ({"subset_fraction": 1.0}, "'subset_fraction' = 1.0"),
        ({"subset_fraction": 0}, "'subset_fraction' = 0"),
        ({"seed": -1}, "'seed' = -1"),
        ({"hidden": [0]}, "'hidden.0' = 0"),
        ({"model": "resnet"}, "'model' = 'resnet'"),
        ({"precision": "fp16"}, "'precision' = 'fp16'"),
        ({"pool": 1}, "'pool' = 1"),
        ({"alpha": -1, "optimizer": "gsam"}, "'alpha' = -1"),
        ({"norm": "layer"}, "'norm' = 'layer': input should be 'batch', 'group' or 'none'"),
        ({"image_size": 0}, "'image_size' = 0"),
        ({"augment": "maybe"}, "'augment' = 'maybe'"),
        ({"label_smoothing": 1}, "'label_smoothing' = 1"),
        ({"m_sharpness": 0}, "'m_sharpness' = 0"),
        ({"m_sharpness": 8, "optimizer": "gsam"}, "Parameter 'm_sharpness' is defined for sam and asam, not for gsam"),
        ({"model": "cnn", "hidden": [-1]}, "'hidden.0' = -1"),
    ],
)
def test_bad_parameters_are_one_sentence_that_names_them(fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Experiment(**fields)
    said = str(error.value)
    assert message in said
    assert "\n" not in said
    assert said.endswith(".")


def test_it_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Experiment().rho = 1


@given(rho=st.floats(0, 1e6), n=st.integers(2, 10**6), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**32 - 1))
def test_json_round_trip(rho, n, fraction, seed):
    made = Experiment(optimizer="sam", rho=rho, n_models=n, subset_fraction=fraction, seed=seed)
    again = Experiment(**json.loads(made.model_dump_json()))
    assert again == made
    assert again.key == made.key


def test_models_and_norms_are_those_that_can_be_built():
    fields = Experiment.model_fields
    assert get_args(fields["model"].annotation) == MODELS
    assert get_args(fields["norm"].annotation) == NORMS


def test_the_docstring_has_every_field():
    described = re.findall(r"^    (\w+) : ", Experiment.__doc__.partition("Attributes")[0], re.MULTILINE)
    assert described == list(Experiment.model_fields)


def test_an_unhashable_parameter_is_refused_in_one_sentence():
    for wrong in ({"profile": ["quick"]}, {"dataset": ["digits"]}, {"rho": {}}):
        with pytest.raises(ParameterError, match=f"{next(iter(wrong))}.*\\.$"):
            from_parameters(wrong)
    for optimizers in (5, {"sam": 1}, [["sam"]]):
        with pytest.raises(ParameterError, match="optimizers must be a list of some of sam, asam"):
            from_parameters({"optimizers": optimizers}, make=study.optimizer_pairs)


def test_a_pair_differs_in_the_optimizer_alone():
    two = pair(dataset="digits", rho=0.2, n_models=4)
    assert list(two) == ["sgd", "sam"]
    assert two["sam"].but(optimizer="sgd") == two["sgd"]
    assert two["sam"].rho == 0.2
    assert list(pair("asam")) == ["sgd", "asam"]
    with pytest.raises(ValueError, match="optimizer must be one to compare SGD with"):
        pair("sgd")


def test_a_notebooks_globals_become_experiments_and_a_misspelt_one_is_refused():
    namespace = {
        "dataset": "digits",
        "rho": None,
        "n_models": 8,
        "In": [],
        "_": 3,
        "json": json,
        "exit": exit,
        "kind": int,
    }
    assert from_parameters(namespace) == pair(dataset="digits", n_models=8)
    with pytest.raises(ParameterError, match="There is no parameter 'rhoo', only dataset") as error:
        from_parameters({**namespace, "rhoo": 0.1})
    assert error.value._render_traceback_() == [f"ParameterError: {error.value}"]
    with pytest.raises(ParameterError, match="'rho' = -1"):
        from_parameters({**namespace, "rho": -1})
    with pytest.raises(ParameterError, match="'rho' = -1"):
        from_parameters({**namespace, "rho": -1, "optimizer": "sgd"})


def test_a_profile_stands_in_for_parameters_that_are_none():
    namespace = {"dataset": "cifar100", "profile": "paper", "model": None, "n_models": None, "rho": None}
    sam = from_parameters(namespace)["sam"]
    assert (sam.model, sam.n_models, sam.subset_fraction, sam.rho) == ("resnet18", 256, 0.5, 0.1)
    assert from_parameters(namespace | {"model": "cnn", "n_models": 8})["sam"].model == "cnn"
    assert from_parameters(namespace | {"dataset": "/my/eyepacs"})["sam"].image_size == 64
    assert from_parameters({"profile": "quick", "dataset": "digits"}) == pair(dataset="digits")
    with pytest.raises(
        ParameterError, match="profile must be one of 'quick', 'standard', 'paper', 'smoke', not 'papers'"
    ):
        from_parameters({"profile": "papers"})


@pytest.mark.parametrize("profile", PROFILES)
def test_a_plan_has_every_data_set_and_every_value_of_a_profile(profile):
    pairs = planned(profile)
    wanted = [
        (name, fraction)
        for name in PROFILES[profile]
        if name
        for fraction in in_profile(profile, name).get("subset_fraction", [pair(dataset=name)["sgd"].subset_fraction])
    ]
    assert [(two["sam"].dataset, two["sam"].subset_fraction) for two in pairs] == wanted
    assert len({e.key for two in pairs for e in two.values()}) == 2 * len(pairs)


def test_a_plan_takes_what_is_given_instead_of_the_profiles():
    pairs = planned("paper", dataset="cifar10", n_models=64, rho=None)
    assert [two["sam"].subset_fraction for two in pairs] == [0.5, 0.7]
    assert {two["sam"].n_models for two in pairs} == {64}
    assert {two["sam"].pool for two in pairs} == {50_000}  # all of it, where the recipe has a part
    assert len(planned("paper", dataset="cifar10", subset_fraction=0.6)) == 1
    assert planned("paper", dataset="digits") == [pair(dataset="digits", n_models=256)]
    with pytest.raises(ValueError, match="profile must be one of"):
        planned("evening")


@pytest.mark.parametrize("module", [experiment, study])
def test_the_examples_of_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted > 2
    assert not results.failed
