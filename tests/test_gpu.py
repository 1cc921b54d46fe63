"""What a GPU promises: the models of the CPU within a tolerance, whatever is captured, compiled or trained side by side.

Convolutions in float32 take TF32 on a GPU, unless that is off: inputs of products are rounded to 10 bits. Over two epochs that
alone moves logits by up to about .5 on these small nets (measured on an H100), so these tests compare without it.
"""

import numpy as np
import pytest
import torch
from test_training_images import OPTIMIZERS, image_recipe, images  # noqa: F401

from samlib import Experiment, planning, run_pairs, training
from samlib.data import shape_of
from samlib.experiment import pair
from samlib.training import Streams, at_once, captured, train_group
from samlib.training.common import drive

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),  # compilers warn of what a GPU has and is not used
]
CLOSE = 0.01  # of logits after two epochs, between any two ways in float32


@pytest.fixture(autouse=True)
def _no_tf32_and_nothing_kept(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for kept in (captured._strategies, captured._engines, captured._took):
        kept.clear()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("changes", [{}, {"augment": True, "weight_decay": 1e-3}], ids=str)
def test_a_gpu_trains_what_the_cpu_trains(images, kind, optimizer, changes, monkeypatch):  # noqa: F811
    monkeypatch.setattr(captured, "WORTH", 0)  # two at once, however busy the GPU is
    r = image_recipe(model=kind, optimizer=optimizer, epochs=2, **changes)
    cpu, gpu = (train_group(r, images, range(2), device) for device in ("cpu", "cuda"))
    assert gpu["strategy"][0].startswith("2 at once, ")
    assert ", captured" in gpu["strategy"][0]
    assert np.array_equal(cpu["member"], gpu["member"])
    np.testing.assert_allclose(cpu["logit"], gpu["logit"], atol=CLOSE)


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("m_sharpness", [None, 4])
def test_other_norms_and_micro_batches(images, norm, m_sharpness):  # noqa: F811
    r = image_recipe(optimizer="sam", epochs=2, norm=norm, m_sharpness=m_sharpness, label_smoothing=0.1)
    cpu, gpu = (train_group(r, images, range(2), device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cpu["logit"], gpu["logit"], atol=CLOSE)


@pytest.mark.parametrize("optimizer", ["sgd", "looksam"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_model_does_not_depend_on_its_wave(images, kind, optimizer):  # noqa: F811
    r = image_recipe(model=kind, optimizer=optimizer, epochs=3)
    together, alone = train_group(r, images, range(5), "cuda"), train_group(r, images, [3], "cuda")
    again = train_group(r, images, range(5), "cuda")  # by trainings that have trained before
    np.testing.assert_allclose(together["logit"], again["logit"], atol=CLOSE)
    np.testing.assert_allclose(together["logit"][3], alone["logit"][0], atol=CLOSE)


def test_more_models_than_fit_at_once_are_trained_in_waves(images, monkeypatch):  # noqa: F811
    monkeypatch.setattr(captured, "SIDE_BY_SIDE", (1, 2))
    monkeypatch.setattr(captured, "WORTH", 0)
    r = image_recipe(epochs=2)
    whole = train_group(r, images, range(5), "cuda")
    assert whole["strategy"][0].startswith("2 at once, ")
    np.testing.assert_allclose(whole["logit"], train_group(r, images, range(5))["logit"], atol=CLOSE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replayed_step_is_the_step(images, optimizer):  # noqa: F811
    r, n = image_recipe(optimizer=optimizer, augment=True), 30
    engine = captured.Engine(r, images, n, "cuda")
    engine.resize(2)
    replayed, plain = engine.trainings
    plain.run, plain.stream = plain.step, None
    for one in (replayed, plain):
        with one.on_stream():
            one.begin([Streams(0, 1)], [Streams(0, 1).member(60, 0.5)])
    drive([replayed, plain], 4)
    for a, b in zip(replayed.weights(), plain.weights(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_rho_zero_is_sgd(images):  # noqa: F811
    sgd, sam = (train_group(image_recipe(optimizer=o, rho=0.0), images, range(2), "cuda") for o in ("sgd", "sam"))
    np.testing.assert_allclose(sgd["logit"], sam["logit"], atol=CLOSE)


def test_the_compiler_is_used_where_it_pays_by_both_of_a_pair(images, monkeypatch):  # noqa: F811
    plain = train_group(image_recipe(epochs=2), images, range(2), "cuda")
    assert "not compiled: too little is left to train" in plain["strategy"][0]
    captured._strategies.clear()
    monkeypatch.setattr(captured, "COMPILER_TAKES", 0)
    monkeypatch.setattr(captured.Engine, "speed", lambda self: 2.0 if self.compiled else 1.0)
    for optimizer in ("sgd", "sam"):
        r = image_recipe(epochs=2, optimizer=optimizer)
        cpu, gpu = train_group(r, images, range(2)), train_group(r, images, range(2), "cuda")
        assert gpu["strategy"][0].endswith("captured, compiled, float32"), gpu["strategy"][0]
        np.testing.assert_allclose(cpu["logit"], gpu["logit"], atol=CLOSE)


def test_a_step_that_cannot_be_captured_is_taken_as_it_is(images, monkeypatch):  # noqa: F811
    real = training.each.OneModel.step

    def waits(self, size):
        real(self, size)
        self.at.item()

    monkeypatch.setattr(training.each.OneModel, "step", waits)
    r = image_recipe(epochs=2)
    gpu = train_group(r, images, range(2), "cuda")
    assert ", not captured (" in gpu["strategy"][0]
    np.testing.assert_allclose(train_group(r, images, range(2))["logit"], gpu["logit"], atol=CLOSE)


def test_at_once_is_whole_groups_and_no_more_than_wanted(images):  # noqa: F811
    for kind, size in (("mlp", 8), ("cnn", 1)):
        take = at_once(image_recipe(model=kind), images, "cuda", 21)
        assert take % size == 0
        assert size <= take <= 24
    assert at_once(image_recipe(model="mlp"), images, "cpu", 21) == 8


def test_out_of_memory_is_one_sentence(images):  # noqa: F811
    big = {**images, "x_train": np.zeros((60, 256, 256, 3), np.uint8)}
    # one layer's output has .5 GB; all of an H200's memory was not used up in 58 s
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(RuntimeError, match="One resnet18 does not fit into the memory of cuda at batch_size 30; "):
            train_group(image_recipe(model="resnet18", batch_size=30), big, [0], "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_plan_measures_what_a_gpu_does(small_npz):
    e = Experiment(dataset=str(small_npz), hidden=(8,), epochs=2, batch_size=16, n_models=20)
    speed = planning.probe(e, shape_of(e.dataset))
    assert min(speed) >= 0
    assert speed.step + speed.evaluated > 0


def test_runs_of_a_pair_by_a_gpus_worker(small_npz, tmp_path):
    experiments = pair(dataset=str(small_npz), hidden=(8,), epochs=2, batch_size=16, n_models=20)
    runs = run_pairs({"one": experiments}, cache_dir=tmp_path, progress=False)["one"]
    assert [r.sizes["model"] for r in runs.values()] == [20, 20]
    assert len({r.attrs["strategy"][0] for r in runs.values()}) == 1
    assert isinstance(experiments["sgd"], Experiment)
    for name, r in runs.items():
        cpu = train_group(experiments[name].model_dump(), _arrays(small_npz), range(8))
        np.testing.assert_allclose(r["logit"].values[:8], cpu["logit"], atol=CLOSE)


def _arrays(path):
    from samlib import load_dataset

    return load_dataset(path).arrays()
