"""The SAM family against twins written from the papers, and what each must have in common with SAM."""

import copy
import math
from types import SimpleNamespace

import pytest
import pytorch_optimizer
import torch
from torch import nn

from samlib import ASAM, GSAM, SAM, FriendlySAM, LookSAM

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
FAMILY = [SAM, ASAM, GSAM, LookSAM, FriendlySAM]


def problem(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)
    batches = [(torch.randn(16, 5).to(dtype), torch.randint(0, 3, (16,))) for _ in range(12)]
    return model, batches


def closure_of(model, x, y, calls=None, scale=1.0):
    def closure():
        loss = scale * nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if calls is not None:
            calls.append(1)
        return loss

    return closure


class Twin:
    """The weights as one flat vector, the loss and its gradient as functions of it, and SGD with momentum written out."""

    def __init__(self, model):
        self.model = copy.deepcopy(model)
        self.w = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        self.v = torch.zeros_like(self.w)

    def gradient(self, w, batch):
        x, y = batch
        nn.utils.vector_to_parameters(w, self.model.parameters())
        grads = torch.autograd.grad(nn.functional.cross_entropy(self.model(x), y), list(self.model.parameters()))
        return torch.cat([g.flatten() for g in grads])

    def apply(self, g):
        self.v = 0.9 * self.v + g + 0.01 * self.w
        self.w = self.w - 0.1 * self.v


def gsam(twin, batches, rho=0.3, alpha=0.4):
    for batch in batches:
        g = twin.gradient(twin.w, batch)
        g_p = twin.gradient(twin.w + rho * g / g.norm(), batch)
        unit = g_p / g_p.norm()
        g_perp = g - (g @ unit) * unit
        twin.apply(g_p - alpha * g_perp)


def looksam(twin, batches, rho=0.3, alpha=0.7, k=3):
    for t, batch in enumerate(batches):
        g = twin.gradient(twin.w, batch)
        if t % k == 0:
            g_s = twin.gradient(twin.w + rho * g / g.norm(), batch)
            cosine = (g_s @ g) / (g_s.norm() * g.norm())
            g_v = g_s - g_s.norm() * cosine * g / g.norm()
        else:
            g_s = g + alpha * g.norm() / g_v.norm() * g_v
        twin.apply(g_s)


def friendlysam(twin, batches, rho=0.3, sigma=0.8, lmbda=0.6):
    m = torch.zeros_like(twin.w)
    for batch in batches:
        g = twin.gradient(twin.w, batch)
        m = lmbda * m + (1 - lmbda) * g
        d = g - sigma * m
        twin.apply(twin.gradient(twin.w + rho * d / d.norm(), batch))


def asam(twin, batches, rho=0.3):
    for batch in batches:
        t = twin.w.abs()
        g = twin.gradient(twin.w, batch)
        twin.apply(twin.gradient(twin.w + rho * t**2 * g / (t * g).norm(), batch))


@pytest.mark.parametrize(
    ("make", "paper"),
    [
        (lambda p: GSAM(p, torch.optim.SGD, 0.3, **SGD), gsam),
        (lambda p: LookSAM(p, torch.optim.SGD, 0.3, k=3, **SGD), looksam),
        (lambda p: FriendlySAM(p, torch.optim.SGD, 0.3, sigma=0.8, lmbda=0.6, **SGD), friendlysam),
        (lambda p: ASAM(p, torch.optim.SGD, 0.3, **SGD), asam),
    ],
    ids=["gsam", "looksam", "friendlysam", "asam"],
)
def test_steps_equal_the_papers_formulas(make, paper):
    model, batches = problem()
    twin = Twin(model)
    optimizer = make(model.parameters())
    for x, y in batches:
        optimizer.step(closure_of(model, x, y))
    paper(twin, batches)
    torch.testing.assert_close(nn.utils.parameters_to_vector(model.parameters()), twin.w, rtol=1e-9, atol=1e-12)


def test_friendlysam_with_sigma_1_moves_along_the_published_scripts_direction():
    """The script subtracts the average of the steps before; with sigma = 1 both are along g - m of the step before."""
    model, batches = problem()
    optimizer = FriendlySAM(model.parameters(), torch.optim.SGD, 0.3, lr=0.1)
    m = None
    for x, y in batches:
        optimizer.zero_grad()
        closure_of(model, x, y)()
        g = torch.cat([p.grad.flatten() for p in model.parameters()])
        before = nn.utils.parameters_to_vector(model.parameters()).clone()
        optimizer.first_step(zero_grad=True)
        moved = nn.utils.parameters_to_vector(model.parameters()) - before
        d = g if m is None else g - m
        if m is not None:
            torch.testing.assert_close(moved, 0.3 * d / d.norm())
        m = 0.1 * g if m is None else 0.9 * m + 0.1 * g
        closure_of(model, x, y)()
        optimizer.second_step()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_looksam_really_saves_passes(k):
    model, batches = problem()
    optimizer = LookSAM(model.parameters(), torch.optim.SGD, k=k, lr=0.1)
    counts = []
    for x, y in batches[:10]:
        calls = []
        optimizer.step(closure_of(model, x, y, calls))
        counts.append(len(calls))
    assert counts == [2 if t % k == 0 else 1 for t in range(10)]
    assert sum(counts) == 10 * (k + 1) / k
    with pytest.raises(ValueError, match="k must be a finite number of at least 1"):
        LookSAM(model.parameters(), torch.optim.SGD, k=0, lr=0.1)


@pytest.mark.parametrize(
    ("cls", "name", "wrong"),
    [
        (GSAM, "alpha", math.nan),
        (FriendlySAM, "lmbda", 7),
        (LookSAM, "k", 2.5),
        (LookSAM, "k", "5"),
    ],
)
def test_settings_out_of_range_are_refused_of_optimizers_and_groups(cls, name, wrong):
    first, second = ([*nn.Linear(2, 2).parameters()] for _ in range(2))
    with pytest.raises(ValueError, match=f"^{name} must"):
        cls(first, torch.optim.SGD, lr=0.1, **{name: wrong})
    optimizer = cls(first, torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=f"^{name} must"):
        optimizer.add_param_group({"params": second, name: wrong})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("cls", [SAM, ASAM, GSAM, FriendlySAM])
def test_the_others_call_the_closure_twice(cls):
    model, batches = problem()
    optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.1)
    for x, y in batches[:3]:
        calls = []
        loss = nn.functional.cross_entropy(model(x), y)
        assert optimizer.step(closure_of(model, x, y, calls)).item() == loss.item()
        assert len(calls) == 2


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_rho_zero_is_the_base_optimizer_bit_for_bit(cls, base):
    settings = {"lr": 0.05} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    model, batches = problem(dtype=torch.float32)
    twin = copy.deepcopy(model)
    optimizer, plain = cls(model.parameters(), base, rho=0, **settings), base(twin.parameters(), **settings)
    for x, y in batches:
        optimizer.step(closure_of(model, x, y))
        plain.zero_grad()
        plain.step(closure_of(twin, x, y))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_state_round_trip_in_mid_cycle_is_exact(cls, base, steps, tmp_path):
    settings = {"lr": 0.05} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    model, batches = problem(dtype=torch.float32)
    optimizer = cls(model.parameters(), base, rho=0.1, **settings)
    for x, y in batches[:steps]:
        optimizer.step(closure_of(model, x, y))
    twin = copy.deepcopy(model)
    other = cls(twin.parameters(), base, rho=0.3, lr=1.0)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for x, y in batches[steps:]:
        optimizer.step(closure_of(model, x, y))
        other.step(closure_of(twin, x, y))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_state_round_trip_between_the_half_steps_is_exact(cls, base):
    model, batches = problem(dtype=torch.float32)
    optimizer = cls(model.parameters(), base, rho=0.1, lr=0.05)
    optimizer.step(closure_of(model, *batches[0]))
    optimizer.zero_grad()
    closure_of(model, *batches[1])()
    optimizer.first_step(zero_grad=True)
    twin = copy.deepcopy(model)
    other = cls(twin.parameters(), base, lr=0.05)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, other)):
        closure_of(m, *batches[1])()
        o.second_step()
        o.step(closure_of(m, *batches[2]))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not any({"unmoved", "gradient"} & state.keys() for state in optimizer.state.values())


@pytest.mark.parametrize("cls", FAMILY)
def test_groups_have_their_own_rho(cls):
    model, batches = problem()
    first, second = list(model[0].parameters()), list(model[-1].parameters())
    optimizer = cls([{"params": first, "rho": 0.0}, {"params": second}], torch.optim.SGD, rho=0.2, lr=0.1)
    before = [p.detach().clone() for p in first]
    closure_of(model, *batches[0])()
    optimizer.first_step()
    assert all(torch.equal(p, b) for p, b in zip(first, before, strict=True))
    assert all("unmoved" in optimizer.state[p] and not torch.equal(p, optimizer.state[p]["unmoved"]) for p in second)


@pytest.mark.parametrize("cls", FAMILY)
def test_what_is_applied_can_be_clipped(cls):
    model, batches = problem()
    optimizer = cls(model.parameters(), torch.optim.SGD, rho=0.1, lr=1.0)

    def clip(base, *_):
        nn.utils.clip_grad_norm_([p for g in base.param_groups for p in g["params"]], 1e-3)

    optimizer.base_optimizer.register_step_pre_hook(clip)
    for x, y in batches[:4]:
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        optimizer.step(closure_of(model, x, y))
        moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
        assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("cls", FAMILY)
def test_bfloat16_parameters_follow_the_float32_ones(cls):
    model, batches = problem(dtype=torch.float32)
    low = copy.deepcopy(model).bfloat16()
    optimizers = [cls(m.parameters(), torch.optim.SGD, rho=0.1, lr=0.1) for m in (model, low)]
    for x, y in batches[:6]:
        optimizers[0].step(closure_of(model, x, y))
        optimizers[1].step(closure_of(low, x.bfloat16(), y))
    assert all(p.dtype == torch.bfloat16 for p in low.parameters())
    for p, q in zip(model.parameters(), low.parameters(), strict=True):
        torch.testing.assert_close(p, q.float(), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("cls", FAMILY)
def test_zero_gradients_and_idle_parameters_move_nothing(cls):
    w, idle = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = cls([w, idle], torch.optim.Adam, lr=0.1)

    def closure():
        loss = (w * 0).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert torch.equal(w, torch.ones(3))
    assert torch.equal(idle, torch.ones(2))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("m", [3, 8, 16])
def test_m_sharpness_equals_its_definition(adaptive, m):
    """The mean over micro-batches of each one's own SAM gradient, weighted by their sizes (Foret et al. 2021, section 4.1)."""
    model, batches = problem()
    twin = Twin(model)
    optimizer = SAM(model.parameters(), torch.optim.SGD, 0.3, adaptive, **SGD)
    for x, y in batches[:4]:
        parts = list(zip(x.split(m), y.split(m), strict=True))
        calls = []
        closures = [closure_of(model, *part, calls, scale=len(part[1]) / len(y)) for part in parts]
        before = nn.functional.cross_entropy(model(x), y).item()
        assert optimizer.step(closures).item() == pytest.approx(before)
        assert len(calls) == 2 * len(parts)
        total = torch.zeros_like(twin.w)
        for part in parts:
            g, t = twin.gradient(twin.w, part), twin.w.abs() if adaptive else torch.ones_like(twin.w)
            total += len(part[1]) / len(y) * twin.gradient(twin.w + 0.3 * t**2 * g / (t * g).norm(), part)
        twin.apply(total)
    torch.testing.assert_close(nn.utils.parameters_to_vector(model.parameters()), twin.w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", FAMILY)
def test_bad_closures_are_refused(cls):
    model, batches = problem()
    optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(TypeError, match=rf"{cls.__name__}\.step needs a closure"):
        optimizer.step()
    if cls not in (SAM, ASAM):
        with pytest.raises(TypeError, match=rf"{cls.__name__}\.step takes one closure, not 2"):
            optimizer.step([closure_of(model, *batches[0])] * 2)
    with pytest.raises(ValueError, match="rho must be a finite number"):
        cls(model.parameters(), torch.optim.SGD, rho=-1, lr=0.1)


@pytest.mark.parametrize("cls", FAMILY)
def test_schedulers_and_late_groups(cls):
    model, batches = problem()
    optimizer = cls(model[0].parameters(), torch.optim.SGD, lr=0.1)
    optimizer.add_param_group({"params": list(model[-1].parameters()), "rho": 0.01})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for x, y in batches[:3]:
        optimizer.step(closure_of(model, x, y))
        scheduler.step()
    assert [g["lr"] for g in optimizer.base_optimizer.param_groups] == [0.0125, 0.0125]
    assert [g["rho"] for g in optimizer.param_groups][1] == 0.01


# Of the family's others in pytorch_optimizer, FriendlySAM follows the published script, and LookSAM is not the paper's.


@pytest.mark.parametrize("kind", [SAM, ASAM])
def test_sam_and_asam_take_the_steps_of_another_library(kind):
    model, batches = problem()
    twin = copy.deepcopy(model)
    ours = kind(model.parameters(), torch.optim.SGD, rho=0.3, **SGD)
    peer = pytorch_optimizer.SAM(twin.parameters(), torch.optim.SGD, rho=0.3, adaptive=kind is ASAM, **SGD)
    for x, y in batches:
        ours.step(closure_of(model, x, y))
        peer.zero_grad()
        closure_of(twin, x, y)()  # its first pass is the caller's
        peer.step(closure_of(twin, x, y))
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_gsam_takes_the_steps_of_another_library():
    model, batches = problem()
    twin = copy.deepcopy(model)
    ours = GSAM(model.parameters(), torch.optim.SGD, rho=0.3, alpha=0.4, **SGD)
    constant = SimpleNamespace(step=lambda: 0.3)
    base = torch.optim.SGD(twin.parameters(), **SGD)
    peer = pytorch_optimizer.GSAM(twin.parameters(), base, twin, constant, alpha=0.4)
    for x, y in batches:
        ours.step(closure_of(model, x, y))
        peer.set_closure(nn.functional.cross_entropy, x, y)
        peer.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
