"""Image models, trained one at a time: inputs, augmentation, compiled passes, what a device has no memory for."""

import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from samlib import Experiment, training
from samlib.training import Streams, cosine, each, group_size, train_group
from samlib.training.common import Inputs, drive
from samlib.training.each import OneModel, make_optimizer


@pytest.fixture(scope="module")
def images():
    """Two kinds of noisy 8x8 colour images, stored as uint8, with their channels' moments."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 90)
    x = rng.normal(128, 40, (90, 8, 8, 3))
    x[y == 1, :4] += 60
    x = np.clip(x, 0, 255).astype(np.uint8)
    moments = {"mean": np.float32([0.5, 0.5, 0.5]), "std": np.float32([0.2, 0.2, 0.2])}
    return {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:], "y_test": y[60:], "n_classes": 2, **moments}


def image_recipe(**changes):
    fields = {"dataset": "any", "model": "cnn", "epochs": 4, "batch_size": 8, "lr": 0.05}
    return Experiment(**fields | changes).model_dump()


OPTIMIZERS = ["sgd", "sam", "asam", "gsam", "looksam", "friendlysam", "swa", "ema"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_optimizer_trains_a_cnn_the_same_in_any_group(images, optimizer, precision):
    r = image_recipe(optimizer=optimizer, precision=precision)
    assert group_size(r) == 1
    alone, both = train_group(r, images, [1]), train_group(r, images, [0, 1])
    for name, values in alone.items():
        assert np.array_equal(values[0], both[name][1]), name
    assert not alone["diverged"].any()
    assert alone["strategy"].tolist() == [f"one at a time, channels-last, {precision}"]
    assert alone["train_accuracy"] > 0.8


def test_alpha_reaches_the_optimizer(images):
    for optimizer in ("gsam", "looksam"):
        recipes = [image_recipe(optimizer=optimizer, alpha=alpha) for alpha in (None, 0.15)]
        made = [make_optimizer(r, [torch.nn.Parameter(torch.zeros(1))], torch.tensor(0.1)) for r in recipes]
        assert [o.param_groups[0]["alpha"] for o in made] == [
            type(made[0])([torch.zeros(1)], torch.optim.SGD, lr=1).defaults["alpha"],
            0.15,
        ]


def test_a_cnn_is_trained_as_a_plain_loop_would(images):
    """The twin: float32, contiguous tensors, torch's own data pipeline and optimizer, statistics written out."""
    r = image_recipe(epochs=2, label_smoothing=0.1, weight_decay=1e-3, norm="group")
    result = train_group(r, images, [3])
    stream = Streams(0, 3)
    member = stream.member(60, 0.5)
    model = stream.build(r, (8, 8, 3), 2).train()
    x = ((torch.tensor(images["x_train"]) / 255) - torch.tensor(images["mean"])) / torch.tensor(images["std"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for epoch in range(2):
        order = stream.epoch(np.flatnonzero(member))
        for i, batch in enumerate(np.split(order, [8, 16, 23])):
            optimizer.param_groups[0]["lr"] = 0.05 * cosine(4 * epoch + i, 8)
            optimizer.zero_grad()
            y = torch.tensor(images["y_train"][batch])
            torch.nn.functional.cross_entropy(model(x[batch]), y, label_smoothing=0.1).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(x)
    expected = (logits[range(60), images["y_train"]] - logits[range(60), 1 - images["y_train"]]).numpy()
    np.testing.assert_allclose(result["logit"][0], expected, atol=1e-4)
    assert np.array_equal(result["member"][0], member)


def test_an_averaged_models_batchnorm_statistics_are_its_own(images):
    r = image_recipe(optimizer="swa", epochs=4)
    train, y = Inputs(images, "train", "cpu"), torch.tensor(images["y_train"])
    stream = Streams(0, 0)
    member = stream.member(60, 0.5)
    members, one = np.flatnonzero(member), OneModel(r, train, y, 30, 2)
    one.begin([stream], [member])
    drive([one], 4)
    model, conv, norm = one.model, one.model[1], one.model[2]
    with torch.no_grad():
        batches = [conv(model[0](train.prepared(train.stored[b]))) for b in torch.tensor(members).split([8, 8, 7, 7])]
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected, atol=1e-5, rtol=1e-4)


def naive_crop(image, down, right, mirrored):
    """Pad by reflection, cut, mirror."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((4, 4), (4, 4), *((0, 0),) * (image.ndim - 2)), mode="reflect")
    cut = padded[4 + down : 4 + down + height, 4 + right : 4 + right + width]
    return cut[:, ::-1] if mirrored else cut


def test_augmentation_shifts_and_mirrors_by_the_models_own_stream():
    stored = torch.arange(9 * 32 * 32 * 3, dtype=torch.float32).reshape(9, 32, 32, 3)
    inputs = Inputs({"x_train": stored.numpy()}, "train", "cpu")
    shifts = Streams(0, 5).shifts(9, 32, 32)
    out = inputs.augmented(stored, torch.tensor(shifts))
    for image, shift, found in zip(stored.numpy(), shifts, out.numpy(), strict=True):
        assert np.array_equal(found, naive_crop(image, *shift))
    first = Inputs({"x_train": stored.permute(0, 3, 1, 2).numpy()}, "train", "cpu")
    assert torch.equal(first.augmented(first.stored, torch.tensor(shifts)).permute(0, 2, 3, 1), out)
    grey = Inputs({"x_train": stored[..., 0].numpy()}, "train", "cpu")
    assert torch.equal(grey.augmented(grey.stored, torch.tensor(shifts)), out[..., 0])


def test_shifts_go_up_to_an_eighth_and_half_are_mirrored():
    down, right, mirrored = Streams(0, 0).shifts(4000, 32, 16).T
    assert set(down) == set(range(-4, 5))
    assert set(right) == set(range(-2, 3))
    assert abs(np.mean(mirrored) - 0.5) < 0.04


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_models_side_by_side_are_those_one_after_another(images, optimizer):
    """And a training that begins again keeps nothing of its last model."""
    r = image_recipe(optimizer=optimizer, augment=True, weight_decay=1e-3)
    train, test = (Inputs(images, side, "cpu") for side in ("train", "test"))
    y = torch.tensor(images["y_train"])
    lanes = [OneModel(r, train, y, 30, 2) for _ in range(2)]
    for wave in ((4, 5), (0, 1)):
        streams = [Streams(0, k) for k in wave]
        for lane, stream in zip(lanes, streams, strict=True):
            lane.begin([stream], [stream.member(60, 0.5)])
        drive(lanes, 4)
    together = train_group(r, images, range(2))
    for k, lane in enumerate(lanes):
        found = training._signals(lane.logits(test, 7), images["y_test"])
        np.testing.assert_allclose(found["logit"][0], together["test_logit"][k], atol=1e-5)


def test_augmentation_changes_training_alone_and_makes_an_mlp_go_one_by_one(images):
    plain, augmented = (train_group(image_recipe(augment=a, epochs=2), images, [0]) for a in (False, True))
    assert np.array_equal(plain["member"], augmented["member"])
    assert not np.array_equal(plain["logit"], augmented["logit"])
    assert group_size(image_recipe(model="mlp")) == 8
    assert (
        group_size(image_recipe(model="mlp", augment=True))
        == group_size(image_recipe(model="mlp", optimizer="gsam"))
        == 1
    )


def test_uint8_images_reach_the_mlp_normalized(images):
    r = image_recipe(model="mlp", epochs=2)
    as_float = {
        **images,
        "x_train": (images["x_train"] / 255 - 0.5) / 0.2,
        "x_test": (images["x_test"] / 255 - 0.5) / 0.2,
    }
    as_float = {n: v.astype(np.float32) if n[0] == "x" else v for n, v in as_float.items() if n not in ("mean", "std")}
    a, b = train_group(r, images, [0]), train_group(r, as_float, [0])
    np.testing.assert_allclose(a["logit"], b["logit"], atol=1e-4)


def test_out_of_memory_halves_the_evaluation_and_says_so(images, monkeypatch):
    r = image_recipe(epochs=1)
    whole = train_group(r, images, [0])
    real = Inputs.prepared

    def small(self, stored):
        if len(stored) > 20:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, stored)

    monkeypatch.setattr(Inputs, "prepared", small)
    result = train_group(r, images, [0])
    assert (
        result["strategy"][0] == "one at a time, channels-last, 16 evaluated at once: out of memory with more, float32"
    )
    np.testing.assert_allclose(result["logit"], whole["logit"], atol=1e-4)


# --- compiled passes; a GPU has them, and here a CPU ---

EAGER = "aot_eager"  # torch's compiler up to the kernels, which are the usual ones: the same to the bit


@pytest.fixture
def compiler(monkeypatch):
    """Sets the compiler of the CPU; none has been used when the test starts."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    each._compiler.cache_clear()
    yield lambda backend: monkeypatch.setitem(each.COMPILERS, "cpu", backend)
    torch.compiler.reset()


def compiled_forms():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


COMPILED = [
    ({"optimizer": "sgd"}, 2),  # 30 members in batches of 8 and of 7
    ({"optimizer": "sam"}, 2),
    ({"optimizer": "sam", "m_sharpness": 4}, 2),  # in parts of 4 and 3
    ({"optimizer": "looksam", "precision": "bf16"}, 2),
    ({"optimizer": "swa", "augment": True}, 2),
    ({"optimizer": "sam", "norm": "group"}, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "forms"), COMPILED, ids=str)
def test_compiled_models_are_the_same_and_share_what_is_compiled(images, compiler, changes, forms):
    r = image_recipe(epochs=2, **changes)
    plain = train_group(r, images, range(2))
    compiler(EAGER)
    for k in range(2):
        compiled = train_group(r, images, [k])
        assert compiled["strategy"] == f"one at a time, channels-last, compiled, {r['precision']}"
        for name in ("logit", "test_logit", "train_loss"):
            assert np.array_equal(plain[name][k], compiled[name][0])
        assert compiled_forms() == forms


@pytest.mark.slow
def test_architectures_do_not_take_each_others_place_in_the_compilers_cache(images, compiler):
    compiler(EAGER)
    for norm in ("batch", "group", "none"):
        for batch_size in (4, 8):  # of 2 sizes each: more in all than the 8 that torch keeps of one code object
            r = image_recipe(epochs=1, norm=norm, batch_size=batch_size)
            assert ", compiled, " in train_group(r, images, [0])["strategy"][0]
    assert compiled_forms() == 12


@pytest.mark.slow
@pytest.mark.parametrize("half", ["forward", "backward"])
def test_where_the_compiler_fails_models_are_trained_as_they_are_which_is_said(images, compiler, half):
    def fails(graph, _):
        raise RuntimeError("no kernels\nfor this device")

    plain = train_group(image_recipe(), images, [0])
    works = {"fw_compiler": lambda graph, _: graph}
    backend = fails if half == "forward" else aot_autograd(**works, bw_compiler=fails)
    compiler(backend)
    result = train_group(image_recipe(), images, [0])
    assert result["strategy"][0] == "one at a time, channels-last, compiler failed (no kernels), float32"
    assert np.array_equal(plain["logit"], result["logit"])


@pytest.mark.slow
@pytest.mark.parametrize("form", range(1, 3))
def test_a_compiler_that_fails_at_any_form_is_left_for_good(images, compiler, form):
    """Each of two batch sizes is tried before training, by the first model alone."""
    r, tried = image_recipe(optimizer="sam"), []

    def fails(graph, _):
        tried.append(graph)
        if len(tried) == form:
            raise RuntimeError("no kernels")
        return graph

    plain = train_group(r, images, range(2))
    compiler(fails)
    for k in range(2):
        result = train_group(r, images, [k])
        assert result["strategy"][0] == "one at a time, channels-last, compiler failed (no kernels), float32"
        assert np.array_equal(plain["logit"][k], result["logit"][0])
    assert len(tried) == form


def test_memory_that_the_compiled_pass_lacks_is_no_fault_of_the_compiler(images, compiler):
    def full(graph, _):
        def run(*_):
            raise torch.OutOfMemoryError("out of memory")

        return run

    compiler(full)
    with pytest.raises(RuntimeError, match="One cnn does not fit into the memory of cpu at batch_size 8"):
        train_group(image_recipe(), images, [0])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler for a CPU")
def test_compiled_kernels_give_the_same_model_to_rounding(images, compiler):
    r = image_recipe(batch_size=15, epochs=2)
    plain = train_group(r, images, [0])
    compiler("inductor")
    result = train_group(r, images, [0])
    assert result["strategy"][0] == "one at a time, channels-last, compiled, float32"
    np.testing.assert_allclose(plain["logit"], result["logit"], atol=1e-3)
