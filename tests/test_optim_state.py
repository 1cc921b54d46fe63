"""The SAM family copied, saved, loaded and interrupted, and with gradients missing in a pass."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from samlib import ASAM, GSAM, SAM, FriendlySAM, LookSAM

pytestmark = pytest.mark.slow  # many, and `make quick` has others of these rooms

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
