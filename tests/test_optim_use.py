"""The SAM family as people use optimizers: copied, saved, scheduled, scaled, interrupted, with gradients missing."""

import copy
import doctest
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from samlib import ASAM, GSAM, SAM, FriendlySAM, LookSAM
from samlib.optim import buffers, buffers_kept, sam

FAMILY = [SAM, ASAM, GSAM, LookSAM, FriendlySAM]
SGD, ADAM = (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}), (torch.optim.Adam, {})
BASES = pytest.mark.parametrize("base", [SGD, (torch.optim.AdamW, {})], ids=["sgd", "adamw"])
ALL = pytest.mark.parametrize("cls", FAMILY)


def problem(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)
    return model, [(torch.randn(16, 5).to(dtype), torch.randint(0, 3, (16,))) for _ in range(12)]


def closure_of(model, batch):
    def closure():
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    return closure


def make(cls, params, base=SGD, **more):
    return cls(params, base[0], rho=0.1, lr=0.05, **base[1], **more)


def train(model, optimizer, batches):
    for batch in batches:
        optimizer.step(closure_of(model, batch))


def equal(model, twin):
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def snapshot(optimizer):
    state = optimizer.state_dict()
    named = {(i, name): value for i, of_one in state["state"].items() for name, value in of_one.items()}
    return {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in named.items()}, [
        {name: value for name, value in group.items() if name != "params"} for group in state["param_groups"]
    ]


def pickled(pair):
    return pickle.loads(pickle.dumps(pair))


def saved(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


# Copies and states


@ALL
@BASES
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize(("steps", "half"), [(2, False), (0, True), (2, True)])
def test_a_copy_takes_the_same_steps(cls, base, copied, steps, half):
    model, batches = problem()
    optimizer = make(cls, model.parameters(), base)
    train(model, optimizer, batches[:steps])
    if half:
        optimizer.zero_grad()
        closure_of(model, batches[2])()
        optimizer.first_step(zero_grad=True)
    twin, other = copied((model, optimizer))
    for m, o in ((model, optimizer), (twin, other)):
        if half:
            closure_of(m, batches[2])()
            o.second_step()
        train(m, o, batches[3:6])
    equal(model, twin)
    assert other.base_optimizer.param_groups is other.param_groups
    assert other.base_optimizer.state is other.state
    assert {*other.state} == {*twin.parameters()}
    assert repr(other) == repr(optimizer)
    with pytest.raises(ValueError, match="rho must be"):
        other.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho": -1.0})


@ALL
@BASES
def test_the_base_optimizers_state_is_taken_up(cls, base):
    model, batches = problem()
    plain = base[0](model.parameters(), lr=0.01, **base[1])
    for batch in batches[:3]:
        plain.zero_grad()
        closure_of(model, batch)()
        plain.step()
    twin = copy.deepcopy(model)
    optimizer, fresh = (make(cls, m.parameters(), base, adaptive=True) for m in (model, twin))
    own = {name: value for name, value in optimizer.param_groups[0].items() if name not in plain.defaults}
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert own.items() <= optimizer.param_groups[0].items()
    fresh.param_groups[0]["lr"] = 0.01
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        fresh.state[q].update(copy.deepcopy(plain.state[p]))
    train(model, optimizer, batches)
    train(twin, fresh, batches)
    equal(model, twin)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1, dtype=torch.float64))]})
    assert optimizer.param_groups[1]["rho"] == 0.1
    train(model, optimizer, batches[:1])


@pytest.mark.parametrize("base", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(("steps", "half"), [(2, False), (0, True), (2, True)])
@pytest.mark.parametrize("other", FAMILY)
@ALL
def test_the_state_of_any_of_the_family_is_taken_up(cls, other, base, half, steps):
    model, batches = problem()
    first = make(other, model.parameters(), base)
    train(model, first, batches[:steps])
    before = copy.deepcopy(model)
    if half:
        closure_of(model, batches[2])()
        first.first_step()
    optimizer = make(cls, model.parameters(), base)
    optimizer.load_state_dict(copy.deepcopy(first.state_dict()))
    assert {*optimizer.param_groups[0]} >= {*make(cls, model.parameters(), base).param_groups[0]}
    optimizer.step(lambda: torch.tensor(0.0))  # without any gradient; it ends what was begun by hand
    equal(model, before)
    train(model, optimizer, batches[3:5])
    assert all(p.isfinite().all() for p in model.parameters())
    named = {name for state in optimizer.state.values() for name in state}
    assert not named & {"unmoved", "gradient", "kept", "average"} - {*optimizer.kept_state}


@ALL
def test_the_state_of_another_base_optimizer_is_refused_and_changes_nothing(cls):
    model, batches = problem()
    optimizer = make(cls, model.parameters(), ADAM)
    train(model, optimizer, batches[:2])
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="has no betas and no eps: load one of Adam,"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    with pytest.raises(ValueError, match="number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    assert snapshot(optimizer) == before


@ALL
def test_hooks_on_loading_run(cls):
    model, _ = problem()
    optimizer, calls = make(cls, model.parameters()), []
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(o.param_groups[0]["rho"]))
    optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    assert calls == ["before", 0.1]


def test_looksam_goes_on_in_the_middle_of_its_cycle():
    model, batches = problem()
    optimizer = make(LookSAM, model.parameters(), k=4)
    train(model, optimizer, batches[:2])
    twin = copy.deepcopy(model)
    other = make(LookSAM, twin.parameters(), k=7)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    calls = []
    for m, o in ((model, optimizer), (twin, other)):
        for batch in batches[2:6]:
            closure = closure_of(m, batch)
            o.step(lambda closure=closure: calls.append(1) or closure())
    equal(model, twin)
    assert len(calls) == 2 * 5
    optimizer.load_state_dict(torch.optim.SGD(model.parameters(), **SGD[1], lr=0.1).state_dict())
    calls.clear()
    optimizer.step(lambda: calls.append(1) or closure_of(model, batches[0])())
    assert len(calls) == 2  # no direction is kept, so it looks


# Missing gradients


class Two:
    """Two parameters, of which a call of the closure uses those that `uses` says for it; then both, where it ends."""

    def __init__(self, uses):
        torch.manual_seed(1)
        self.a, self.b = (nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(2))
        self.uses, self.calls = uses, 0

    def closure(self, zeros=False):
        used = self.uses[self.calls] if self.calls < len(self.uses) else "ab"
        self.calls += 1
        loss = sum(getattr(self, name).cos().square().sum() for name in used)
        loss = loss + 0 * (self.a.sum() + self.b.sum()) if zeros else loss + 0.0
        if loss.requires_grad:
            loss.backward()
        return loss


@ALL
@BASES
@pytest.mark.parametrize(
    "uses",
    [["ab", "a"], ["a", "ab"], ["a", "b"], ["ab", "ab", "a", "ab"], ["ab", "ab", "ab", "a", "ab"], ["a", "ab", "b"]],
    ids="-".join,
)
def test_a_gradient_that_is_missing_in_one_pass_counts_as_zero(cls, base, uses):
    missing, zeros = Two(uses), Two(uses)
    k = {"k": 1} if cls is LookSAM else {}
    optimizer, other = (make(cls, [two.a, two.b], base, **k) for two in (missing, zeros))
    for _ in range(5):
        optimizer.step(missing.closure)
        other.step(lambda: zeros.closure(zeros=True))
        assert torch.equal(missing.a, zeros.a)
        assert torch.equal(missing.b, zeros.b)
        assert not any({"unmoved", "gradient"} & state.keys() for state in optimizer.state.values())


@ALL
@BASES
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_parameter_without_any_gradient_is_left_alone(cls, base, by_hand):
    two = Two(["a"] * 20)
    base = base[0], base[1] | {"weight_decay": 0.1}
    optimizer = make(cls, [two.a, two.b], base)
    before = two.b.detach().clone()
    for _ in range(7):
        if by_hand:
            two.closure()
            optimizer.first_step(zero_grad=True)
            two.closure()
            optimizer.second_step(zero_grad=True)
        else:
            optimizer.step(two.closure)
    assert torch.equal(two.b, before)
    assert two.b not in optimizer.state
    assert two.b.grad is None


def test_looksam_reuses_no_direction_of_a_step_before_the_last_look():
    """b has a part in the first look, none in the second, and a gradient afterwards: only that gradient is applied."""
    two = Two(["ab", "ab", "ab", "a", "a", "ab"])
    optimizer = LookSAM([two.a, two.b], torch.optim.SGD, rho=0.1, k=2, lr=0.1)
    for _ in range(3):
        optimizer.step(two.closure)
    before = two.b.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(before.cos().square().sum(), before)
    optimizer.step(two.closure)
    torch.testing.assert_close(two.b.detach(), before - 0.1 * gradient)


def test_friendlysams_average_forgets_while_a_gradient_is_missing():
    two = Two(["ab", "ab", "a", "a"])
    optimizer = FriendlySAM([two.a, two.b], torch.optim.SGD, lmbda=0.5, lr=0.1)
    optimizer.step(two.closure)
    before = optimizer.state[two.b]["average"].clone()
    optimizer.step(two.closure)
    assert torch.equal(optimizer.state[two.b]["average"], before / 2)


@ALL
@BASES
def test_frozen_and_tied_parameters(cls, base):
    model, batches = problem()
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3)).double()
    model[2].weight = model[0].weight
    optimizer = make(cls, model.parameters(), base)
    train(model, optimizer, batches[:3])
    for p in model[0].parameters():
        p.requires_grad_(False)
    before = copy.deepcopy(model[0])
    train(model, optimizer, batches[3:])
    equal(model[0], before)


# Errors leave no trace


@ALL
@BASES
@pytest.mark.parametrize("fails", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_closure_that_fails_leaves_no_trace(cls, base, fails, error):
    model, batches = problem()
    optimizer = make(cls, model.parameters(), base)
    twin, other = copy.deepcopy((model, optimizer))
    for i, batch in enumerate(batches[:6]):
        before = snapshot(optimizer)
        calls = []

        def closure(batch=batch, calls=calls):
            loss = closure_of(model, batch)()
            calls.append(1)
            if len(calls) == fails:
                raise error
            return loss

        looks = cls is not LookSAM or i % 5 == 0
        if fails == 1 or looks:
            with pytest.raises(error):
                optimizer.step(closure)
            equal(model, twin)
            assert snapshot(optimizer) == before
        optimizer.step(closure_of(model, batch))
        other.step(closure_of(twin, batch))
    equal(model, twin)


@ALL
def test_a_base_optimizer_that_fails_loses_no_state(cls):
    model, batches = problem()
    optimizer = make(cls, model.parameters())
    train(model, optimizer, batches[:1])
    before = {(p, *state) for p, state in optimizer.state.items()}

    def fail(*_):
        raise RuntimeError("no")

    handle = optimizer.base_optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        optimizer.step(closure_of(model, batches[1]))
    handle.remove()
    assert {(p, *state) for p, state in optimizer.state.items()} == before
    train(model, optimizer, batches)


@ALL
def test_half_steps_out_of_order(cls):
    model, batches = problem()
    twin = copy.deepcopy(model)
    optimizer, other = make(cls, model.parameters()), make(cls, twin.parameters())
    closure_of(model, batches[0])()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="call second_step"):
        optimizer.first_step()
    train(model, optimizer, batches)  # starts from the weights before the half step
    train(twin, other, batches)
    equal(model, twin)


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


@pytest.mark.parametrize("module", [sam, buffers])
def test_the_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


def test_micro_batches_may_use_different_parameters_and_fail():
    """The sum counts a gradient that a micro-batch lacks as zero; one that fails leaves no trace of those before it."""
    two, twin = Two([]), Two([])
    optimizer, other = (SAM([t.a, t.b], torch.optim.SGD, rho=0.1, **SGD[1], lr=0.1) for t in (two, twin))
    before = two.a.detach().clone(), two.b.detach().clone()

    def fail():
        if not torch.equal(two.b, before[1]):
            raise RuntimeError("at the moved point")
        (two.a.sum() * two.b.sum()).backward()

    parts = [lambda t=t, name=name: part(t, name) for t in (two, twin) for name in "ab"]
    with pytest.raises(RuntimeError, match="at the moved point"):
        optimizer.step([parts[0], fail])
    assert torch.equal(two.a, before[0])
    assert torch.equal(two.b, before[1])
    assert not optimizer.state
    for _ in range(4):
        optimizer.step(parts[:2])
        for p, closure in zip((twin.a, twin.b), parts[2:], strict=True):
            alone = SAM([p], torch.optim.SGD, rho=0.1, **SGD[1], lr=0.1)
            alone.load_state_dict(
                {"state": {0: dict(other.state[p])}, "param_groups": alone.state_dict()["param_groups"]}
            )
            alone.step(closure)
            other.state[p].update(alone.state[p])
        assert torch.equal(two.a, twin.a)
        assert torch.equal(two.b, twin.b)


def part(two, name):
    loss = getattr(two, name).cos().square().sum()
    loss.backward()
    return loss
