"""The loss around a model, its Hessian and the sentence on both, against closed forms, naive twins and what must not change."""

import copy
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call

from samlib import SAM, build_model, sharpness
from samlib.experiment import RADIUS, pair
from samlib.paper import sharpness as pictures
from samlib.paper.frames import EACH
from samlib.sharpness import AT_RHO, GRID, Landscape, Landscapes, Loss, measure
from samlib.training import train_group

RHO = 0.1


def problem(name="mlp", shape=(4,), n=11, classes=3, hidden=(5,), seed=0):
    """A model in float64 and evaluation mode, with random examples."""
    torch.manual_seed(seed)
    model = build_model(name, shape, classes, hidden=hidden).double().eval()
    return model, torch.randn(n, *shape, dtype=torch.float64), torch.arange(n) % classes


def test_a_linear_models_loss_gradient_and_hessian_are_the_closed_forms():
    model, x, y = problem(hidden=())
    loss, w, n = Loss(model, x, y, batch_size=4), Loss(model, x, y).weights, len(y)
    p, ones = torch.softmax(model(x), 1).detach(), torch.cat([x, torch.ones(n, 1)], 1)
    assert loss(w) == pytest.approx(-p[range(n), y].log().mean().item(), abs=1e-14)

    def flat(of_class_and_feature):  # the weights (3, 4), then the biases (3,)
        return torch.cat([of_class_and_feature[:, :-1].reshape(-1), of_class_and_feature[:, -1]])

    np.testing.assert_allclose(loss.gradient(w), flat((p - nn.functional.one_hot(y, 3)).T @ ones / n), atol=1e-14)
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("ncd,ni,nj->cidj", spread, ones, ones) / n
    entries = [(c, i) for c in range(3) for i in range(4)] + [(c, 4) for c in range(3)]
    rows = torch.stack([flat(hessian[entry]) for entry in entries])
    found = torch.stack([loss.hessian_product(v) for v in torch.eye(15, dtype=torch.float64)])
    np.testing.assert_allclose(found, rows, atol=1e-14)
    assert loss.largest_eigenvalue() == pytest.approx(torch.linalg.eigvalsh(rows)[-1].item(), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_eigenvalue_is_that_of_the_full_hessian_of_a_tiny_mlp(seed):
    model, x, y = problem(n=20, hidden=(6, 5), seed=seed)
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def naive(w):
        parts = w.split([shape.numel() for shape in shapes])
        return nn.functional.cross_entropy(
            functional_call(model, {k: v.view(s) for k, v, s in zip(names, parts, shapes, strict=True)}, x), y
        )

    loss = Loss(model, x, y)
    full = torch.linalg.eigvalsh(torch.autograd.functional.hessian(naive, loss.weights))
    assert loss.largest_eigenvalue(seed=seed) == pytest.approx(full[-1].item(), rel=1e-6)


class Saddle(nn.Module):
    """Logits (w'Dw, 0): with label 0 and w = 0, the loss has no gradient and the Hessian -D."""

    def __init__(self, d):
        super().__init__()
        self.d, self.w = torch.tensor(d, dtype=torch.float64), nn.Parameter(torch.zeros(len(d), dtype=torch.float64))

    def forward(self, x):
        return torch.stack([self.d @ self.w**2, torch.zeros((), dtype=torch.float64)]).expand(len(x), 2)


@pytest.mark.parametrize(("d", "largest"), [((3.0, -1.0, 0.5), 1.0), ((0.0, 0.0, 0.0), 0.0), ((1.0, 2.0, 4.0), -1.0)])
def test_the_largest_eigenvalue_is_not_that_of_largest_size_and_a_zero_gradient_moves_nothing(d, largest):
    found = measure(Saddle(d).eval(), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), RHO)
    assert found.eigenvalue == pytest.approx(largest, abs=1e-9)
    assert found.gradient_norm == 0
    assert not found.ascent.any()
    assert found.adaptive == 0


def test_the_ascent_is_the_optimizers_own_first_pass():
    model, x, y = problem()
    found = measure(model, x, y, RHO, batch_size=4)

    def rise(rho, adaptive, rows=slice(None)):
        moved = copy.deepcopy(model)
        optimizer = SAM(moved.parameters(), torch.optim.SGD, rho, adaptive, lr=1)
        before = nn.functional.cross_entropy(moved(x[rows]), y[rows])
        before.backward()
        optimizer.first_step()
        return (nn.functional.cross_entropy(moved(x[rows]), y[rows]) - before).item()

    np.testing.assert_allclose(found.ascent, [rise(t * RHO, False) for t in GRID], atol=1e-13)
    assert GRID[AT_RHO] == 1
    assert found.adaptive == pytest.approx(rise(RADIUS["asam"] * RHO, True), abs=1e-13)
    parts = [rise(RHO, False, slice(i, i + 4)) for i in (0, 4, 8)]
    assert found.batches[AT_RHO] == pytest.approx(np.average(parts, weights=[4, 4, 3]), abs=1e-13)


def test_random_directions_show_the_mean_curvature():
    model, x, y = problem(hidden=())
    loss = Loss(model, x, y)
    d = torch.as_tensor(np.random.default_rng(7).standard_normal((sharpness.N_RANDOM, 15)))
    curvature = np.mean([(v @ loss.hessian_product(v) / (v @ v)).item() for v in d])
    rho = 1e-3
    np.testing.assert_allclose(measure(model, x, y, rho, seed=7).random, curvature * (rho * GRID) ** 2 / 2, rtol=1e-5)


def test_at_rho_0_nothing_rises_and_a_permutation_of_the_examples_changes_nothing():
    model, x, y = problem()
    still = measure(model, x, y, 0.0)
    assert not np.any([still.ascent, still.batches, still.random])
    assert still.adaptive == 0
    order = torch.randperm(len(y))
    for a, b in zip(measure(model, x, y, RHO), measure(model, x[order], y[order], RHO), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-13)


def test_a_rescaling_that_keeps_the_function_changes_sharpness_but_not_asams():
    model, x, y = problem()
    first, second = (module for module in model.modules() if isinstance(module, nn.Linear))
    before, logits = measure(model, x, y, RHO), model(x)
    with torch.no_grad():
        first.weight *= 3
        first.bias *= 3
        second.weight /= 3
    np.testing.assert_allclose(model(x).detach(), logits.detach(), atol=1e-13)
    after = measure(model, x, y, RHO)
    assert after.adaptive == pytest.approx(before.adaptive, abs=1e-13)
    assert abs(after.eigenvalue / before.eigenvalue - 1) > 0.5
    assert abs(after.ascent[AT_RHO] / before.ascent[AT_RHO] - 1) > 0.1


@pytest.mark.parametrize("name", ["cnn", "vit_tiny"])
def test_hessian_products_of_convolutions_and_attention(name):
    model, x, y = problem(name, shape=(8, 8), n=3)
    loss, h = Loss(model, x, y, batch_size=2), 1e-6
    before = copy.deepcopy(model.state_dict())
    v = torch.randn_like(loss.weights)
    numeric = (loss.gradient(loss.weights + h * v) - loss.gradient(loss.weights - h * v)) / (2 * h)
    product = loss.hessian_product(v)
    assert (product - numeric).norm() < 1e-4 * product.norm()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("rho", [-0.1, float("inf"), float("nan")])
def test_a_bad_rho_is_refused(rho):
    with pytest.raises(ValueError, match="rho must be a finite number of at least 0"):
        measure(*problem(), rho)


def test_bad_models_and_examples_are_refused():
    model, x, y = problem()
    with pytest.raises(ValueError, match="at least one, but have 11 and 10"):
        Loss(model, x, y[1:])
    with pytest.raises(ValueError, match="at least one, but have 0 and 0"):
        Loss(model, x[:0], y[:0])
    with pytest.raises(ValueError, match=re.escape("call model.eval()")):
        Loss(model.train(), x, y)
    model.eval()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="it diverged"):
        measure(model, x, y, RHO)


def test_the_models_are_those_of_the_runs(small_npz):
    experiments = pair(dataset=str(small_npz), epochs=3, hidden=(8,), rho=0.2)
    found = sharpness.landscapes(experiments, [4, 1])
    dataset = np.load(small_npz)
    for one, experiment in zip(found[:2], experiments.values(), strict=True):
        group = train_group(experiment.model_dump(), {**dataset, "n_classes": 3}, [4, 1])
        np.testing.assert_allclose(one.loss, group["train_loss"], rtol=1e-4)
    assert (found.sgd.loss != found.sam.loss).all()
    assert found[2:] == ("SAM", str(small_npz), 0.2, 60, 3, False)


def test_a_costly_recipe_is_cut_and_says_so(small_npz, monkeypatch):
    monkeypatch.setattr(sharpness, "EFFORT", {"mlp": sharpness.Effort(2, 20, 2)})
    found = sharpness.landscapes(pair("swa", dataset=str(small_npz), epochs=3, hidden=(8,)), range(5))
    assert found[2:] == ("SWA", str(small_npz), 0.05, 20, 2, True)  # SWA has no radius: SAM's
    assert found.sgd.ascent.shape == (2, len(GRID))
    said = pictures.sharpness_sentence(found)
    assert "2 pairs of models are too few" in said
    assert "fewer epochs or examples" in said


def made(factors, pairs=6):
    """The other's rise on a batch and on all, its eigenvalue, and its rise by ASAM's step are `factors` times SGD's."""
    level, both = 1 + 0.01 * np.arange(pairs), []
    # reversed for the other, so that pairs do not agree where the means do
    for f, of in (((1, 1, 1, 1), level), (factors, level[::-1])):
        rise = of[:, None] * GRID
        both.append(Landscape(of, of, f[1] * rise, f[0] * rise, rise, f[3] * of, f[2] * of))
    return Landscapes(*both, "SAM", "digits", 0.05, 100, 40, False)


@pytest.mark.parametrize(
    ("factors", "pairs", "said"),
    [
        ((0.5, 0.5, 0.5, 0.5), 6, "By all four measures, SAM's models are flatter than SGD's."),
        ((2, 2, 2, 2), 6, "By all four measures, SAM's models are not flatter but sharper than SGD's."),
        ((1, 1, 1, 1), 6, "By all four measures, SAM's models are not shown to be flatter than SGD's."),
        (
            (0.5, 1, 2, 1),
            6,
            "flatter; rise along the whole gradient: no difference shown; largest eigenvalue: sharper.",
        ),
        ((0.5, 0.5, 0.5, 0.5), 5, "5 pairs of models are too few to decide"),
    ],
)
def test_the_sentence_says_what_was_found(factors, pairs, said):
    assert said in pictures.sharpness_sentence(made(factors, pairs))


def test_the_frame_is_what_the_landscapes_say_and_the_figures_show_them(tmp_path):
    found = made((0.5, 1, 2, 1))
    frame = pictures.measure(found)
    row = frame.loc["largest eigenvalue"]
    assert (row.sgd, row.sam) == pytest.approx((found.sgd.eigenvalue.mean(), found.sam.eigenvalue.mean()))
    gap = found.sam.eigenvalue - found.sgd.eigenvalue
    reach = stats.t.isf(EACH / 2, 5) * gap.std(ddof=1) / 6**0.5
    assert (row.low, row.high) == pytest.approx((gap.mean() - reach, gap.mean() + reach))
    there = pictures.measure(found._replace(sgd=found.sam, sam=found.sgd))
    np.testing.assert_array_equal(frame["low"], -there["high"])
    axes = pictures.loss_around(found).axes
    drawn = [line.get_ydata() for line in axes[0].lines if len(line.get_xdata()) == len(GRID)]
    np.testing.assert_allclose(drawn[0], found.sgd.batches.mean(0))
    np.testing.assert_allclose(axes[3].lines[-1].get_ydata(), found.sam.eigenvalue)
    assert f"{row.difference:+.2g}" in pictures.sharpness_table(found).to_html()
    frame.to_parquet(tmp_path / "sharpness")


def test_sam_follows_the_valley_to_where_it_is_flat_and_gradient_descent_does_not():
    step = sharpness.descent((2.0, 1.0), rho=0, lr=0.1, steps=1)[1]
    np.testing.assert_allclose(step, [2 - 0.1, 1 - 0.2], atol=1e-15)  # the gradient is (ab - 1)(b, a)
    g = np.array([1, 2]) / 5**0.5
    a, b = np.array([2.0, 1.0]) + 0.3 * g
    step = sharpness.descent((2.0, 1.0), rho=0.3, lr=0.1, steps=1)[1]
    np.testing.assert_allclose(step, [2 - 0.1 * (a * b - 1) * b, 1 - 0.1 * (a * b - 1) * a], atol=1e-15)
    sgd, sam = (sharpness.descent((2.4, 0.8), rho=rho, lr=0.05, steps=200)[-1] for rho in (0, 0.3))
    assert sharpness.valley_eigenvalue(*sgd) == pytest.approx(sgd @ sgd, abs=1e-6)
    assert sharpness.valley_eigenvalue(*sam) < 0.5 * sharpness.valley_eigenvalue(*sgd)
    assert f"{sharpness.valley_eigenvalue(*sam):.2f}" in pictures.two_passes_sentence()
