"""Running buffers of every kind move in the first pass of a step only, and come back in place."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, spectral_norm

from samlib import SAM
from samlib.optim import buffers_kept


class Running(nn.Module):
    """Buffers as users have them: replaced, written through `.data`, of integers, expanded, shared, None and made late."""

    def __init__(self):
        super().__init__()
        self.register_buffer("replaced", torch.zeros(7))
        self.register_buffer("data", torch.zeros(7))
        self.register_buffer("n", torch.zeros((), dtype=torch.int64))
        self.register_buffer("expanded", torch.zeros(1).expand(4))
        self.register_buffer("late", None)

    def forward(self, x):
        mean = x.detach().mean(0)
        self.replaced = 0.9 * self.replaced + 0.1 * mean
        self.data.data.lerp_(mean, 0.1)
        self.n += 1
        self.late = mean if self.late is None else self.late + mean
        return x - self.replaced


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(7)
        self.same = nn.BatchNorm1d(7)
        self.same.running_mean = self.norm.running_mean

    def forward(self, x):
        return self.same(self.norm(self.norm(x)))


LAYERS = {
    "batchnorm": lambda: nn.BatchNorm1d(7),
    "cumulative": lambda: nn.BatchNorm1d(7, momentum=None),
    "instancenorm": lambda: nn.Sequential(
        nn.Unflatten(1, (7, 1)),
        nn.Conv1d(7, 7, 3, padding=3),
        nn.InstanceNorm1d(7, track_running_stats=True),
        nn.Flatten(),
    ),
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(7, 7)),
    "spectral, by a hook": lambda: spectral_norm(nn.Linear(7, 7)),
    "running": Running,
    "twice": Twice,
}


def network(layer, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), LAYERS[layer](), nn.Tanh(), nn.LazyLinear(3)).eval()


def problem(layer):
    model = network(layer)
    with torch.no_grad():
        model(torch.randn(16, 5))
    return model.train(), torch.randn(4, 16, 5), torch.randint(0, 3, (4, 16))


def closure_of(called, x, y):
    def closure():
        loss = nn.functional.cross_entropy(called(x), y)
        loss.backward()
        return loss

    return closure


def clean():
    return not torch_module._global_forward_pre_hooks and not torch_module._global_forward_hooks


@pytest.mark.parametrize("layer", LAYERS)
def test_buffers_move_in_the_first_pass_only_and_stay_where_they_are(layer):
    model, x, y = problem(layer)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.0)
    twin = copy.deepcopy(model)
    for i in range(4):
        optimizer.step(closure_of(model, x[i], y[i]))
        closure_of(twin, x[i], y[i])()
        assert {*dict(model.named_buffers())} == {*dict(twin.named_buffers())}
        for a, b in zip(model.buffers(), twin.buffers(), strict=True):
            assert torch.equal(a, b)
    before = {name: buffer for name, buffer in model.named_buffers()}
    values = {name: buffer.clone() for name, buffer in before.items()}
    with buffers_kept():
        closure_of(model, x[0], y[0])()
        assert any(not torch.equal(b, values[name]) for name, b in model.named_buffers())
    for name, buffer in model.named_buffers():
        assert buffer is before[name]
        assert torch.equal(buffer, values[name])
    assert clean()
    assert not model._forward_hooks


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_are_those_of_a_pass_that_moves_them(layer):
    model, x, y = problem(layer)
    twin = copy.deepcopy(model)
    with buffers_kept():
        closure_of(model, x[0], y[0])()
    closure_of(twin, x[0], y[0])()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_several_models_and_parts_of_one_in_one_closure():
    body, head = (problem(layer)[0] for layer in ("batchnorm", "running"))
    x = torch.randn(16, 5)
    before = [buffer.clone() for model in (body, head) for buffer in model.buffers()]
    with buffers_kept():
        for layer in (*body, body, head):
            (layer(torch.randn(16, 7)) if layer is not body[0] and layer not in (body, head) else layer(x)).sum()
        head[1](torch.randn(16, 7))
    for a, b in zip([buffer for model in (body, head) for buffer in model.buffers()], before, strict=True):
        assert torch.equal(a, b)


def test_inside_another():
    norm, other = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    with buffers_kept():
        norm(torch.randn(4, 5))
        with buffers_kept():
            norm(torch.randn(4, 5))
            other(torch.randn(4, 5))
        assert norm.num_batches_tracked == 1
        assert other.num_batches_tracked == 0
        other(torch.randn(4, 5))
    assert norm.num_batches_tracked == other.num_batches_tracked == 0
    assert clean()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_puts_them_back_too(error):
    model, x, _ = problem("batchnorm")
    before = [buffer.clone() for buffer in model.buffers()]

    def fail(*_):
        raise error

    handle = model[2].register_forward_hook(fail)
    with pytest.raises(error), buffers_kept():
        model(x[0])
    handle.remove()
    for a, b in zip(model.buffers(), before, strict=True):
        assert torch.equal(a, b)
    assert clean()
    assert not model._forward_hooks
    model(x[0])
    assert model[1].num_batches_tracked == 1


def test_calls_in_another_thread_move_theirs():
    norm, other = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    with buffers_kept():
        thread = threading.Thread(target=other, args=(torch.randn(4, 5),))
        thread.start()
        thread.join()
        norm(torch.randn(4, 5))
    assert other.num_batches_tracked == 1
    assert norm.num_batches_tracked == 0


def test_a_lazy_module_may_begin_inside():
    model = nn.Sequential(nn.LazyLinear(7), nn.LazyBatchNorm1d())
    with buffers_kept():
        model(torch.randn(16, 5))
    before = [buffer.clone() for buffer in model.buffers()]
    with buffers_kept():
        model(torch.randn(16, 5))
    for a, b in zip(model.buffers(), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model():
    model, x, y = problem("batchnorm")
    twin, scripted = copy.deepcopy(model), torch.jit.script(model)
    optimizer, other = (SAM(m.parameters(), torch.optim.SGD, rho=0.5, lr=0.1) for m in (scripted, twin))
    for i in range(4):
        optimizer.step(closure_of(scripted, x[i], y[i]))
        other.step(closure_of(twin, x[i], y[i]))
    for a, b in zip(scripted.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert scripted.state_dict()["1.num_batches_tracked"] == 4


def test_dropout_is_as_always():
    drop = nn.Dropout()
    x = torch.ones(100)
    torch.manual_seed(0)
    with buffers_kept():
        inside = drop(x)
    after = drop(x)
    torch.manual_seed(0)
    assert torch.equal(inside, drop(x))
    assert torch.equal(after, drop(x))


def in_place(model):
    model.compile(backend="aot_eager")
    return model


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.call = model, torch.compile(lambda model, x: model(x), backend="aot_eager")

    def forward(self, x):
        return self.call(self.model, x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using `torch.compile", "ignore:.*torch.jit.script_method")
@pytest.mark.parametrize("layer", ["batchnorm", "instancenorm", "spectral"])
@pytest.mark.parametrize("compiled", [lambda model: torch.compile(model, backend="aot_eager"), Wrapped, in_place])
def test_a_compiled_model_takes_the_same_steps_in_one_form(layer, compiled):
    torch.compiler.reset()
    model, x, y = problem(layer)
    twin, called = copy.deepcopy(model), compiled(model)
    optimizer, other = (SAM(m.parameters(), torch.optim.SGD, rho=0.5, lr=0.1) for m in (model, twin))
    called(x[0]), twin(x[0])
    with torch.compiler.set_stance("default" if compiled is in_place else "fail_on_recompile"):
        for i in range(4):
            optimizer.step(closure_of(called, x[i], y[i]))
            other.step(closure_of(twin, x[i], y[i]))
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
