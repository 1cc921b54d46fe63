"""The stacked trainer against the one-by-one trainer, and what a group of models may not depend on."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from samlib import Experiment, load_dataset, training
from samlib.models import build_model
from samlib.training import Stack, Streams, cosine, train_each, train_group, train_stacked
from samlib.training.common import Average, rate, sizes


@pytest.fixture(scope="module")
def data():
    digits = load_dataset("digits", pool=203)
    arrays = {name: getattr(digits, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    return {**arrays, "n_classes": 10}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(**changes):
    fields = {"dataset": "digits", "hidden": (24, 16), "epochs": 6, "batch_size": 16, "lr": 0.1}
    return Experiment(**fields | changes).model_dump()


def start(recipe, data, models=range(3)):
    streams = [Streams(recipe["seed"], k) for k in models]
    return streams, np.stack([s.member(len(data["y_train"]), recipe["subset_fraction"]) for s in streams])


@pytest.mark.parametrize("optimizer", ["sgd", "sam", "asam"])
@pytest.mark.parametrize(
    "change", [{}, {"momentum": 0.0, "weight_decay": 0.01}, {"hidden": ()}, {"batch_size": 1000, "lr": 1.0}], ids=str
)
def test_stacked_and_one_by_one_give_the_same_models(data, optimizer, change):
    r = recipe(optimizer=optimizer, rho=0.2, **change)
    for stacked, each in zip(
        train_stacked(r, data, *start(r, data), "cpu")[:2],
        train_each(r, data, *start(r, data), "cpu")[:2],
        strict=True,
    ):
        np.testing.assert_allclose(stacked, each, atol=2e-4)


def test_the_written_out_gradient_is_autograds_in_float64():
    torch.manual_seed(0)
    models = [build_model("mlp", (5,), 4, hidden=(7, 6)) for _ in range(3)]
    x, y = torch.randn(3, 9, 5, dtype=torch.float64), torch.randint(0, 4, (3, 9))
    stack = Stack(models[0], 3, "cpu")
    weights = stack.rows(models).double()
    out = torch.zeros_like(weights)
    # the softmax is in float32 by design, so the products are exact and it is not
    stack.gradient(weights, x, y, out)
    for k, model in enumerate(models):
        model.double()
        torch.nn.functional.cross_entropy(model(x[k]), y[k]).backward()
        for (matrix, bias), layer in zip(stack.layers(out), [model[1], model[3], model[5]], strict=True):
            torch.testing.assert_close(matrix[k], layer.weight.grad.T, atol=1e-7, rtol=1e-5)
            torch.testing.assert_close(bias[k, 0], layer.bias.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_model_depends_on_its_group_by_rounding_at_most(data, precision):
    r = recipe(optimizer="sam", rho=0.1, precision=precision)
    together = train_group(r, data, range(5))
    for group in ([3], [3, 4], [4, 3, 0]):
        apart = train_group(r, data, group)
        assert np.array_equal(apart["member"], together["member"][group])
        np.testing.assert_allclose(
            apart["logit"], together["logit"][group], atol=1e-4 if precision == "float32" else 0.05
        )
    again = train_group(r, data, range(5))
    for name, values in again.items():
        assert np.array_equal(values, together[name]), name


def test_rho_zero_is_sgd_bit_for_bit(data):
    sam, sgd = (train_group(recipe(optimizer=o, rho=0.0), data, [0, 1]) for o in ("sam", "sgd"))
    for name, values in sam.items():
        assert np.array_equal(values, sgd[name]), name
    each = [train_each(r, data, *start(r, data, [0]), "cpu")[0] for r in (recipe(optimizer="sam", rho=0), recipe())]
    assert np.array_equal(*each)


def test_models_of_two_optimizers_are_paired(data):
    a, b = recipe(), recipe(optimizer="sam", rho=0.3)
    for left, right in zip(start(a, data)[0], start(b, data)[0], strict=True):
        assert np.array_equal(left.member(203, 0.5), right.member(203, 0.5))
        assert np.array_equal(left.epoch(np.arange(50)), right.epoch(np.arange(50)))
        for p, q in zip(left.build(a, (8, 8), 10).parameters(), right.build(b, (8, 8), 10).parameters(), strict=True):
            assert torch.equal(p, q)


def test_streams_differ_between_models_and_seeds_and_leave_torchs_state_alone():
    r = recipe()
    before = torch.get_rng_state()
    first = [next(Streams(seed, k).build(r, (8, 8), 10).parameters()) for seed, k in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    masks = [Streams(seed, k).member(500, 0.5) for seed, k in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize(("fraction", "size"), [(0.5, 50), (0.001, 1), (0.999, 99), (0.334, 33)])
def test_subset_sizes(fraction, size):
    assert Streams(0, 7).member(100, fraction).sum() == size


def test_masks_are_uniform_and_independent_between_models():
    masks = np.stack([Streams(0, k).member(60, 0.5) for k in range(2000)])
    share = masks.mean(0)
    assert abs(share - 0.5).max() < 4.5 * np.sqrt(0.25 / 2000)
    both = (masks[:, :1] & masks[:, 1:]).mean(0)
    assert abs(both - 0.5 * 29 / 59).max() < 4.5 * np.sqrt(0.25 * 0.75 / 2000)


def test_cosine_runs_from_one_towards_zero():
    assert cosine(0, 10) == 1
    assert cosine(5, 10) == pytest.approx(0.5)
    assert 0 < cosine(9, 10) < 0.03


def test_signals_and_summaries_follow_from_the_trained_models(data):
    r = recipe(optimizer="sam", epochs=5)
    result = train_group(r, data, [0, 1])
    streams, members = start(r, data, [0, 1])
    logits, test_logits, _ = train_each(r, data, streams, members, "cpu")
    p = torch.softmax(logits, -1).numpy()
    true = p[:, np.arange(203), data["y_train"]]
    assert np.array_equal(result["member"], members)
    np.testing.assert_allclose(result["logit"], np.log(true / (1 - true)), atol=1e-3)
    np.testing.assert_allclose(result["train_loss"], [-np.log(true[k][members[k]]).mean() for k in range(2)], rtol=1e-3)
    np.testing.assert_allclose(
        result["test_accuracy"], (test_logits.argmax(-1).numpy() == data["y_test"]).mean(1), atol=0.01
    )


def test_models_that_diverge_are_flagged_and_hold_nan(data):
    result = train_group(recipe(lr=1e6), data, [0, 1])
    assert result["diverged"].all()
    lost = train_group(recipe(lr=1e30, momentum=0), data, [0])
    assert lost["diverged"].all()
    assert np.isnan(lost["logit"]).all()
    assert not lost["correct"].any()
    assert not train_group(recipe(), data, [0])["diverged"].any()


def test_a_model_that_only_guesses_is_flagged(data):
    assert train_group(recipe(lr=1e-9), data, [0, 1, 2])["diverged"].any()


def test_bf16_reaches_the_accuracy_of_float32(data):
    accuracy = [
        train_group(recipe(epochs=20, precision=p), data, range(4))["test_accuracy"].mean() for p in ("float32", "bf16")
    ]
    assert accuracy[0] > 0.8
    assert abs(accuracy[0] - accuracy[1]) < 0.02


@pytest.mark.slow
def test_training_needs_torch_and_numpy_alone():
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'xarray', 'zarr', 'dask', 'distributed', 'pydantic', 'pooch', 'scipy',\n"
        "                                  'sklearn', 'pandas', 'tqdm', 'filelock'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import samlib.training, numpy as np\n"
        "x, y = np.random.default_rng(0).normal(size=(40, 3)).astype('float32'), np.arange(40) % 2\n"
        "data = dict(x_train=x, y_train=y, x_test=x, y_test=y, n_classes=2)\n"
        "recipe = dict(model='mlp', hidden=(4,), optimizer='sam', rho=.05, lr=.1, momentum=.9, weight_decay=0.,\n"
        "              epochs=1, batch_size=8, subset_fraction=.5, seed=0, precision='float32', norm='none',\n"
        "              augment=False, m_sharpness=None, label_smoothing=0., alpha=None)\n"
        "print(samlib.training.train_group(recipe, data, [0])['logit'].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 40)", done.stderr


@pytest.mark.parametrize("optimizer", ["swa", "ema"])
@pytest.mark.parametrize("precision", ["float32"])
def test_weight_averages_are_the_same_stacked_and_one_by_one(data, optimizer, precision):
    r = recipe(optimizer=optimizer, precision=precision, label_smoothing=0.2)
    for stacked, each in zip(
        train_stacked(r, data, *start(r, data), "cpu")[:2], train_each(r, data, *start(r, data), "cpu")[:2], strict=True
    ):
        np.testing.assert_allclose(stacked, each, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 5, 16])
@pytest.mark.parametrize("optimizer", ["sam", "asam"])
def test_m_sharpness_is_the_same_stacked_and_one_by_one(data, m, optimizer):
    r = recipe(optimizer=optimizer, m_sharpness=m, rho=0.2, label_smoothing=0.1, epochs=3)
    for stacked, each in zip(
        train_stacked(r, data, *start(r, data), "cpu")[:2], train_each(r, data, *start(r, data), "cpu")[:2], strict=True
    ):
        np.testing.assert_allclose(stacked, each, atol=1e-3)


def test_swa_is_the_mean_of_the_last_quarters_epochs_and_ema_its_recursion():
    weights = [torch.tensor([float(w)]) for w in np.random.default_rng(0).normal(size=40)]
    swa, ema = Average({"optimizer": "swa"}, 40, 4), Average({"optimizer": "ema"}, 40, 4)
    for step, w in enumerate(weights):
        swa.update(step, [w])
        ema.update(step, [w])
    # epochs end after steps 3, 7, ..., 39; the last quarter begins with the 30th step
    assert swa.values[0].item() == pytest.approx(np.mean([weights[i].item() for i in (31, 35, 39)]), rel=1e-5)
    expected = weights[0].item()
    for count, w in enumerate(weights[1:], 2):
        keep = min(0.99, count / (9 + count))
        expected = keep * expected + (1 - keep) * w.item()
    assert ema.values[0].item() == pytest.approx(expected, rel=1e-5)
    one = Average({"optimizer": "swa"}, 3, 3)  # a single epoch: the weights after it
    for step in range(3):
        one.update(step, [weights[step]])
    assert one.values[0].item() == weights[2].item()


def test_swas_rate_is_held_where_its_average_starts():
    r = {"lr": 0.2, "optimizer": "swa"}
    assert rate(r, 30, 100) == 0.2 * cosine(30, 100)
    assert rate(r, 75, 100) == rate(r, 99, 100) == 0.2 * cosine(75, 100)
    assert rate(r | {"optimizer": "ema"}, 99, 100) == 0.2 * cosine(99, 100)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 17, 1000])
def test_batches_are_equal_to_within_one(n):
    found = sizes(n, {"batch_size": 8})
    assert sum(found) == n
    assert len(found) == -(-n // 8)
    assert max(found) <= 8
    assert max(found) - min(found) <= 1


def test_out_of_memory_halves_the_group_and_says_so(data, monkeypatch):
    r = recipe(epochs=2)
    whole = train_group(r, data, range(8))
    real = training.train_stacked

    def small(recipe, data, streams, *rest):
        if len(streams) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(recipe, data, streams, *rest)

    monkeypatch.setattr(training, "train_stacked", small)
    result = train_group(r, data, range(8))
    assert set(result["strategy"]) == {"stacked 2, float32: out of memory with 4: out of memory with 8"}
    np.testing.assert_allclose(result["logit"], whole["logit"], atol=1e-4)
    monkeypatch.setattr(training, "train_stacked", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(RuntimeError, match="One mlp does not fit into the memory of cpu at batch_size 16; lower that"):
        train_group(r, data, range(8))
