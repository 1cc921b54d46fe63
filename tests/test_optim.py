"""SAM against closed forms, a naive twin, and itself after a save and load."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from samlib import SAM


def problem(seed=0, batchnorm=False, dtype=torch.float64):
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(7)] if batchnorm else []
    model = nn.Sequential(nn.Linear(5, 7), *middle, nn.Tanh(), nn.Linear(7, 3)).to(dtype)
    x, y = torch.randn(16, 5, dtype=dtype), torch.randint(0, 3, (16,))
    return model, x, y


def closure_of(model, x, y, optimizer=None, calls=None):
    def closure():
        if optimizer is not None:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if calls is not None:
            calls.append(float(loss.detach()))
        return loss

    return closure


def gradient(model, weights, x, y):
    for p, w in zip(model.parameters(), weights, strict=True):
        p.data = w.clone()
    return torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [0.01, 0.5])
def test_step_equals_the_papers_formula(adaptive, rho):
    model, x, y = problem()
    twin = copy.deepcopy(model)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho, adaptive, lr=0.1, momentum=0.9, weight_decay=0.01)
    weights = [p.detach().clone() for p in twin.parameters()]
    velocity = [torch.zeros_like(w) for w in weights]
    for _ in range(4):
        optimizer.step(closure_of(model, x, y))
        g = gradient(twin, weights, x, y)
        t = [w.abs() if adaptive else torch.ones_like(w) for w in weights]
        norm = torch.cat([(a * b).flatten() for a, b in zip(t, g, strict=True)]).norm()
        g = gradient(twin, [w + rho * a**2 * b / norm for w, a, b in zip(weights, t, g, strict=True)], x, y)
        velocity = [0.9 * v + b + 0.01 * w for v, b, w in zip(velocity, g, weights, strict=True)]
        weights = [w - 0.1 * v for w, v in zip(weights, velocity, strict=True)]
        for p, w in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(p.data, w, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_rho_zero_is_the_base_optimizer_bit_for_bit(base):
    settings_ = {"lr": 0.05} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    model, x, y = problem(dtype=torch.float32)
    twin = copy.deepcopy(model)
    sam, plain = SAM(model.parameters(), base, rho=0, **settings_), base(twin.parameters(), **settings_)
    for _ in range(5):
        sam.step(closure_of(model, x, y))
        plain.step(closure_of(twin, x, y, plain))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_closure_is_called_exactly_twice_and_the_first_loss_is_returned():
    model, x, y = problem()
    calls = []
    before = nn.functional.cross_entropy(model(x), y).item()
    loss = SAM(model.parameters(), torch.optim.SGD, lr=0.1).step(closure_of(model, x, y, calls=calls))
    assert len(calls) == 2
    assert loss.item() == calls[0] == pytest.approx(before)
    assert calls[1] > calls[0]  # the moved point is uphill


def test_zero_gradient_and_unused_parameters_move_nothing():
    w, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = SAM([w, unused], torch.optim.SGD, lr=0.1)

    def closure():
        loss = (w * 0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(w, torch.ones(3))
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_state_round_trip_is_exact(base):
    settings_ = {"lr": 0.05} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    model, x, y = problem(dtype=torch.float32)
    optimizer = SAM(model.parameters(), base, rho=0.1, **settings_)
    for _ in range(3):
        optimizer.step(closure_of(model, x, y))
    twin = copy.deepcopy(model)
    other = SAM(twin.parameters(), base, rho=0.3, lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        optimizer.step(closure_of(model, x, y))
        other.step(closure_of(twin, x, y))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_state_round_trip_between_the_two_half_steps():
    model, x, y = problem(dtype=torch.float32)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)
    optimizer.step(closure_of(model, x, y))
    closure_of(model, x, y, optimizer)()
    optimizer.first_step(zero_grad=True)
    twin = copy.deepcopy(model)
    other = SAM(twin.parameters(), torch.optim.SGD, lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, other)):
        closure_of(m, x, y, o)()
        o.second_step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert all("unmoved" not in state for state in optimizer.state.values())


def test_groups_have_their_own_rho_and_share_the_norm():
    model, x, y = problem()
    first, second = list(model[0].parameters()), list(model[-1].parameters())
    optimizer = SAM([{"params": first, "rho": 0.0}, {"params": second, "rho": 0.2}], torch.optim.SGD, lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    closure_of(model, x, y)()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    expected = [p.detach() + 0.2 * p.grad / norm for p in second]
    optimizer.first_step()
    for p, b in zip(first, before, strict=False):
        assert torch.equal(p.detach(), b)
    for p, e in zip(second, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-6, atol=1e-9)


def test_learning_rate_schedulers_reach_the_base_optimizer():
    model, x, y = problem()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.0)
    optimizer.step(closure_of(model, x, y))
    scheduler.step()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(closure_of(model, x, y))
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batchnorm_statistics_move_on_the_first_pass_only(momentum):
    model, x, y = problem(batchnorm=True)
    model[1].momentum = momentum
    twin = copy.deepcopy(model)
    SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1).step(closure_of(model, x, y))
    twin(x)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model[1], name), getattr(twin[1], name))
    model(x)  # and the hooks are gone
    assert model[1].num_batches_tracked == 2


def test_batchnorm_statistics_of_every_module_that_a_closure_calls_move_once():
    model, x, y = problem(batchnorm=True)
    body, head = model[:2], nn.Sequential(nn.BatchNorm1d(7), *model[2:]).double()
    optimizer = SAM([*body.parameters(), *head.parameters()], torch.optim.SGD, lr=0.1)
    optimizer.step(closure_of(lambda x: head(body(x)), x, y))
    assert body[1].num_batches_tracked == head[0].num_batches_tracked == 1
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not body._forward_hooks
    assert not head._forward_hooks


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_compiled_model_takes_the_same_steps():
    model, x, y = problem(batchnorm=True)
    twin, compilations = copy.deepcopy(model), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=compilations)
    for called, of in ((compiled, model), (twin, twin)):
        optimizer = SAM(of.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.step(closure_of(called, x, y))
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    assert compilations.frame_count == 1  # one form for both passes


def test_a_closure_that_fails_leaves_no_trace_in_batchnorm():
    model, x, y = problem(batchnorm=True)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    calls = []

    def closure():
        loss = closure_of(model, x, y, calls=calls)()
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert model[1].num_batches_tracked == 1
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_an_interrupt_within_the_second_pass_leaves_no_hook():
    model, x, y = problem(batchnorm=True)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    model[0].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure_of(model, x, y))
    assert not model._forward_hooks
    for _ in range(3):
        model(x)
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert model[1].num_batches_tracked == 4


@settings(max_examples=30, deadline=None)
@given(rho=st.floats(1e-3, 10), scale=st.floats(1e-3, 1e3))
def test_the_perturbation_has_length_rho_whatever_the_scale_of_the_loss(rho, scale):
    model, x, y = problem()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=rho, lr=0.1)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    (scale * nn.functional.cross_entropy(model(x), y)).backward()
    optimizer.first_step()
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert moved.norm().item() == pytest.approx(rho, rel=1e-5)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "a", None])
def test_bad_rho_is_refused(rho):
    with pytest.raises(ValueError, match="rho must be"):
        SAM(nn.Linear(2, 2).parameters(), torch.optim.SGD, rho=rho, lr=0.1)


def test_a_base_optimizer_that_is_no_class_or_asks_for_a_closure_is_refused():
    parameters = [*nn.Linear(2, 2).parameters()]
    for base in (torch.optim.SGD(parameters, lr=0.1), "SGD", None, torch.optim.LBFGS):
        with pytest.raises(TypeError, match="base_optimizer must be a class that steps without a closure"):
            SAM(parameters, base, lr=0.1)


def test_step_without_closure_is_refused():
    with pytest.raises(TypeError, match="closure"):
        SAM(nn.Linear(2, 2).parameters(), torch.optim.SGD, lr=0.1).step()
