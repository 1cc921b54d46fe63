"""A pass that leaves running statistics as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy


@contextmanager
def buffers_kept() -> Iterator[None]:
    """At the end, put back the buffers of every module that is called inside, so that they move in other passes only.

    Modules run as they always do, so a compiled model needs no second form. The first call of a module clones the buffers
    of all its `modules()`; the end copies the clones back, in place. This serves BatchNorm, InstanceNorm, spectral norm
    and your own modules, even those that replace or add a buffer. Call `backward` inside: it may need what the pass left.

    Only calls in this thread count. Calls inside a compiled function are not seen, nor are modules that their parent's
    `modules()` does not list. Buffers that a lazy module makes at its first call stay. With `torch.compile(model)`, torch
    warns of a global hook; the warning is harmless here. After `model.compile()` it does not warn, but compiles once more.

    Examples
    --------
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with buffers_kept():
    ...     norm(torch.randn(8, 2)).sum().backward()
    >>> norm.num_batches_tracked
    tensor(0)
    """
    thread, armed, called = get_ident(), [], []
    registered, clones = {}, []  # of each module its buffers by name; pairs of lists: buffers and their clones
    seen = {}  # by id, since modules may share a buffer

    @torch._disable_dynamo  # after `model.compile()` torch would trace it
    @torch.no_grad()
    def before(module, _):
        if get_ident() != thread:
            return
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hook, and whose layers see none
            # From the outermost call on all below it, so that no hook is there when torch.compile traces the layers: it
            # would compile them again in each step.
            armed.pop().remove()
            called.append(module.register_forward_hook(after, always_call=True))
        new = {}
        for below in module.modules():
            if below not in registered:
                registered[below] = dict(below._buffers)
                new |= {id(b): b for b in registered[below].values() if b is not None and id(b) not in seen}
        seen.update(new)
        for buffers in alike(b for b in new.values() if _can_move(b)):
            clones.append((buffers, copies(buffers)))

    def after(*_):
        called.pop().remove()
        arm()

    def arm():
        armed.append(register_module_forward_pre_hook(before))

    arm()
    try:
        yield
    finally:
        for hook in armed + called:  # a KeyboardInterrupt inside the call leaves the second
            hook.remove()
        for module, buffers in registered.items():
            if [*map(id, module._buffers.values())] != [*map(id, buffers.values())]:
                module._buffers.clear()
                module._buffers.update(buffers)
        with torch.no_grad():
            for buffers, kept in clones:
                torch._foreach_copy_(buffers, kept)


def _can_move(buffer: torch.Tensor) -> bool:
    # torch writes neither to an expanded tensor nor to one that a lazy module has yet to make
    return not is_lazy(buffer) and torch._debug_has_internal_overlap(buffer) != 1


def alike(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Lists of tensors of one device and dtype: torch's functions over lists are fast on these."""
    found = {}
    for t in tensors:
        found.setdefault((t.device, t.dtype), []).append(t)
    return list(found.values())


def copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A copy of each of at least one tensor; `torch._foreach_clone` is younger than the torch that we support."""
    made = [torch.empty_like(t) for t in tensors]
    torch._foreach_copy_(made, list(tensors))
    return made
