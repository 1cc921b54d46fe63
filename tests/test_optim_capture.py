"""A step as a CUDA graph would replay it: the same steps, the same memory, no value read by the host."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from samlib import ASAM, GSAM, SAM, FriendlySAM, LookSAM

FAMILY = [SAM, ASAM, GSAM, LookSAM, FriendlySAM]
SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def problem(device="cpu"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).to(device)
    return model, torch.randn(12, 16, 5, device=device), torch.randint(0, 3, (12, 16), device=device)


def closure_of(model, x, y):
    def closure():
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def make(cls, model, device="cpu", **more):
    more |= {"k": 3} if cls is LookSAM else {}
    optimizer = cls(model.parameters(), torch.optim.SGD, rho=0.1, **SETTINGS, **more)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.1, device=device)
    return optimizer


class ValuesRead(TorchDispatchMode):
    """Count how often the host reads a tensor's value."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("cls", FAMILY)
def test_no_step_reads_a_value_and_states_stay_where_they_are(cls, adaptive):
    model, x, y = problem()
    optimizer = make(cls, model, adaptive=adaptive, fused=True)
    optimizer.step(closure_of(model, x[0], y[0]))
    before = {(p, name): value.data_ptr() for p, state in optimizer.state.items() for name, value in state.items()}
    with ValuesRead() as values:
        for i in range(1, 5):
            optimizer.step(closure_of(model, x[i], y[i]))
    assert values.n == 0
    after = {(p, name): value.data_ptr() for p, state in optimizer.state.items() for name, value in state.items()}
    assert after == before
    assert len(after) == len(list(model.parameters())) * (1 + len(cls.kept_state))


@pytest.mark.parametrize("cls", FAMILY)
def test_a_learning_rate_may_be_a_tensor(cls):
    model, x, y = problem()
    twin = copy.deepcopy(model)
    optimizer, other = make(cls, model), make(cls, twin)
    for i in range(6):
        for group, plain in zip(optimizer.param_groups, other.param_groups, strict=True):
            group["lr"].fill_(0.1 / (i + 1))
            plain["lr"] = 0.1 / (i + 1)
        optimizer.step(closure_of(model, x[i], y[i]))
        other.step(closure_of(twin, x[i], y[i]))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("cls", FAMILY)
def test_a_replayed_graph_takes_the_same_steps(cls, adaptive):
    model, x, y = problem("cuda")
    twin = copy.deepcopy(model)
    optimizer, eager = (make(cls, m, "cuda", adaptive=adaptive, fused=True) for m in (model, twin))
    closure = closure_of(model, inputs := x[0].clone(), labels := y[0].clone())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(3):
            inputs.copy_(x[i]), labels.copy_(y[i])
            optimizer.step(closure)
            eager.step(closure_of(twin, x[i], y[i]))
    torch.cuda.current_stream().wait_stream(side)
    graphs = []
    for t in range(3 if cls is LookSAM else 1):  # LookSAM's first looks, the others do not
        for group in optimizer.param_groups:
            group["t"] = t
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1]):
            optimizer.step(closure)
    for i in range(3, 12):
        for group in (*optimizer.param_groups, *eager.param_groups):
            group["lr"].fill_(0.1 / i)
        inputs.copy_(x[i]), labels.copy_(y[i])
        graphs[i % len(graphs)].replay()
        eager.step(closure_of(twin, x[i], y[i]))
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
