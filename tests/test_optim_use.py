"""The SAM family as people use optimizers: scheduled, hooked, scaled, by hand, and what it refuses."""

import copy
import warnings

import pytest
import torch
from test_optim_state import ALL, BASES, SGD, closure_of, equal, make, problem, train
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from samlib import LookSAM
from samlib.optim import buffers_kept

pytestmark = pytest.mark.slow  # many, and `make quick` has others of these rooms

# Scaled gradients


def scaled_closure(model, optimizer, scaler, batch, scale=1.0):
    def closure():
        loss, before = scale * nn.functional.cross_entropy(model(batch[0]), batch[1]), scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.update()
        if scaler.get_scale() < before:
            raise FloatingPointError("The gradient overflows.")
        return loss

    return closure


@ALL
@BASES
def test_the_documented_way_with_a_scaler_is_exact_and_skips_an_overflow(cls, base):
    model, batches = problem(dtype=torch.float32)
    twin = copy.deepcopy(model)
    optimizer, other = make(cls, model.parameters(), base), make(cls, twin.parameters(), base)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for i, batch in enumerate(batches):
        if i % 3 == 1:
            with pytest.raises(FloatingPointError):
                optimizer.step(scaled_closure(model, optimizer, scaler, batch, scale=1e38))
        optimizer.step(scaled_closure(model, optimizer, scaler, batch))
        other.step(closure_of(twin, batch))
        equal(model, twin)


@ALL
def test_a_scalers_step_is_refused_and_moves_nothing(cls):
    model, batches = problem()
    before = copy.deepcopy(model)
    optimizer, scaler = make(cls, model.parameters()), torch.amp.GradScaler("cpu")
    closure = closure_of(model, batches[0])
    scaler.scale(torch.ones(()))
    with pytest.raises(TypeError, match=f"{cls.__name__} takes no GradScaler.step: unscale in the closure"):
        scaler.step(optimizer, closure)
    closure()
    optimizer.first_step()
    with pytest.raises(TypeError, match="takes no GradScaler.step"):
        scaler.step(optimizer)
    optimizer.second_step()
    torch.amp.GradScaler("cpu", enabled=False).step(optimizer, closure)
    twin = before
    other = make(cls, twin.parameters())
    closure_of(twin, batches[0])()
    other.first_step()
    other.second_step()
    train(twin, other, batches[:1])
    equal(model, twin)


# Schedulers and hooks


@ALL
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: StepLR(o, 2, 0.5),
        lambda o: OneCycleLR(o, max_lr=0.1, total_steps=20),
        lambda o: LambdaLR(o, lambda t: t / 10),
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=3), StepLR(o, 1, 0.9)], [3]),
        lambda o: ReduceLROnPlateau(o, patience=0),
    ],
    ids=["step", "onecycle", "lambda", "sequential", "plateau"],
)
def test_schedulers(cls, scheduler, by_hand):
    model, batches = problem()
    plain = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.05, momentum=0.9)
    optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    schedulers = [scheduler(o) for o in (optimizer, plain)]
    for batch in batches:
        if by_hand:
            closure_of(model, batch)()
            optimizer.first_step(zero_grad=True)
            closure_of(model, batch)()
            optimizer.second_step(zero_grad=True)
        else:
            optimizer.step(closure_of(model, batch))
        plain.step()
        for one in schedulers:
            one.step(*[1.0] * isinstance(one, ReduceLROnPlateau))
        for name in ("lr", "momentum"):
            assert optimizer.base_optimizer.param_groups[0][name] == plain.param_groups[0][name]


@ALL
@pytest.mark.parametrize("by_hand", [False, True])
def test_hooks_run_once_a_step(cls, by_hand):
    model, batches = problem()
    optimizer, calls = make(cls, model.parameters()), []
    for o, name in ((optimizer, "ours"), (optimizer.base_optimizer, "base")):
        o.register_step_pre_hook(lambda *_, name=name: calls.append(f"{name} before"))
        o.register_step_post_hook(lambda *_, name=name: calls.append(f"{name} after"))
    for batch in batches[:3]:
        if by_hand:
            closure_of(model, batch)()
            optimizer.first_step(zero_grad=True)
            closure_of(model, batch)()
            optimizer.second_step(zero_grad=True)
        else:
            optimizer.step(closure_of(model, batch))
    assert calls == ["ours before", "base before", "base after", "ours after"] * 3


@ALL
def test_settings_that_the_user_changes_count(cls):
    model, batches = problem()
    twin = copy.deepcopy(model)
    optimizer, other = make(cls, model.parameters()), cls(twin.parameters(), SGD[0], rho=0.4, lr=0.05, **SGD[1])
    optimizer.param_groups[0]["rho"] = 0.4
    train(model, optimizer, batches)
    train(twin, other, batches)
    equal(model, twin)


@ALL
def test_a_reward_is_maximized_as_its_negative_is_minimized(cls):
    model, batches = problem()
    twin = copy.deepcopy(model)
    optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9, maximize=True)
    other = cls(twin.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    for batch in batches:
        optimizer.step(lambda batch=batch: (-closure_loss(model, batch)).backward())
        other.step(lambda batch=batch: closure_loss(twin, batch).backward())
    equal(model, twin)


def closure_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@ALL
def test_what_a_closure_returns_is_returned(cls):
    model, batches = problem()
    optimizer, closure = make(cls, model.parameters()), closure_of(model, batches[0])
    assert isinstance(optimizer.step(lambda: float(closure().detach())), float)
    assert not optimizer.step(lambda: closure().detach()).requires_grad
    if cls.micro_batches:
        losses = iter([1.0, 0.0, 2.0, 0.0])
        assert optimizer.step([lambda: closure() * 0 + next(losses), lambda: float(closure().detach() * 0) + 2.0]) == 3


@ALL
@BASES
def test_gradients_that_are_set_to_zero_in_place(cls, base):
    model, batches = problem()
    twin = copy.deepcopy(model)
    optimizer, other = make(cls, model.parameters(), base), make(cls, twin.parameters(), base)
    for batch in batches:
        for m, o, to_none in ((model, optimizer, True), (twin, other, False)):
            o.zero_grad(set_to_none=to_none)
            closure_of(m, batch)()
            o.first_step()
            o.zero_grad(set_to_none=to_none)
            closure_of(m, batch)()
            o.second_step()
    equal(model, twin)


@ALL
def test_groups_of_several_kinds(cls):
    """One group of bfloat16, one adaptive, one of both: the norm is over all of them."""
    model, batches = problem(dtype=torch.float32)
    extra = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    groups = [
        {"params": [model[0].weight, extra], "rho": 0.3},
        {"params": [model[0].bias, model[2].bias], "adaptive": True},
        {"params": [model[2].weight], "rho": 0.0},
    ]
    optimizer = make(cls, groups)

    def closure(batch):
        loss = closure_loss(model, batch) + extra.float().square().sum()
        loss.backward()
        return loss

    for batch in batches:
        optimizer.step(lambda batch=batch: closure(batch))
    optimizer.zero_grad()
    closure(batches[0])
    before = [p.detach().clone() for group in groups for p in group["params"]]
    kinds = [group for group in optimizer.param_groups for _ in group["params"]]
    directions = [
        optimizer.direction([p], group)[0].double() for group in optimizer.param_groups for p in group["params"]
    ]
    scales = [b.double().abs() if kind["adaptive"] else 1.0 for b, kind in zip(before, kinds, strict=True)]
    norm = torch.cat([(s * d).flatten() for s, d in zip(scales, directions, strict=True)]).norm()
    optimizer.first_step()
    now = [p for group in groups for p in group["params"]]
    for p, b, d, s, kind in zip(now, before, directions, scales, kinds, strict=True):
        tolerance = 2e-2 if p is extra else 1e-3  # bfloat16 products are in the norm
        torch.testing.assert_close(p.double(), b.double() + kind["rho"] * s * s * d / norm, rtol=tolerance, atol=1e-6)


# What is refused


@ALL
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("passes", [0, 1])
def test_sparse_gradients_are_refused_by_name(cls, by_hand, passes):
    dense, embedding = nn.Linear(2, 2), nn.Embedding(4, 2, sparse=True)
    optimizer = make(cls, [{"params": dense.parameters()}, {"params": embedding.parameters()}], (torch.optim.SGD, {}))
    before, calls = copy.deepcopy((dense, embedding)), []

    def closure():
        loss = dense(torch.ones(1, 2)).sum()
        if len(calls) >= passes:
            loss = loss + embedding(torch.tensor([1])).sum()
        calls.append(1)
        loss.backward()
        return loss

    def run():
        if by_hand:
            closure()
            optimizer.first_step(zero_grad=True)
            closure()
            optimizer.second_step()
        else:
            optimizer.step(closure)

    with pytest.raises(TypeError, match="Parameter 0 of group 1 has a sparse gradient"):
        run()
    equal(dense, before[0])
    equal(embedding, before[1])
    assert not optimizer.state


@ALL
def test_complex_parameters_are_refused_by_name(cls):
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = make(cls, [a, b])
    with pytest.raises(TypeError, match="Parameter 1 of group 0 has a complex gradient"):
        optimizer.step(lambda: (a.sum() + b.abs().sum()).backward())
    assert torch.equal(a, torch.ones(2))


@ALL
def test_settings_that_cannot_be_kept_are_refused(cls):
    model, _ = problem()
    with pytest.raises(ValueError, match="differentiable must be False"):
        make(cls, model.parameters(), (torch.optim.SGD, {"differentiable": True}))
    with pytest.raises(ValueError, match="Adadelta has rho too"):
        cls(model.parameters(), torch.optim.Adadelta)


@ALL
@pytest.mark.slow
def test_a_compiled_step_takes_the_same_steps(cls):
    model, batches = problem()
    twin = copy.deepcopy(model)
    optimizer, other = make(cls, model.parameters()), make(cls, twin.parameters())
    step = torch.compile(optimizer.step, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches[:6]:
            step(closure_of(model, batch))
            other.step(closure_of(twin, batch))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# Running buffers, by hand


@ALL
def test_half_steps_with_buffers_kept_are_a_step(cls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)).double()
    twin, batches = copy.deepcopy(model), problem()[1]
    optimizer, other = (make(cls, m.parameters(), **{"k": 1} if cls is LookSAM else {}) for m in (model, twin))
    for batch in batches:
        optimizer.step(closure_of(model, batch))
        other.zero_grad()
        closure_of(twin, batch)()
        other.first_step(zero_grad=True)
        with buffers_kept():
            closure_of(twin, batch)()
        other.second_step()
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert model[1].num_batches_tracked == len(batches)
