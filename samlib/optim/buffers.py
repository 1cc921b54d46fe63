"""Keep running statistics, and all other buffers, as they were before a pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from samlib.optim.lists import alike, copies


@contextmanager
def buffers_kept() -> Iterator[None]:
    """Restore, at the end of the block, the buffers of every module that the block calls.

    SAM makes its second pass inside this block, so that running statistics move in the first pass only. It serves
    BatchNorm, InstanceNorm, spectral norm and your own modules, even those that replace or add a buffer. Modules run as
    they always do, so a compiled model needs no second form. Call `backward` inside: it may need the buffers of the pass.

    Notes
    -----
    The first call of a module clones the buffers of all its `modules()`. The end of the block copies the clones back, in
    place. There are four limits:

    - Only calls in this thread count.
    - Calls inside a compiled function are not seen, nor modules that the parent's `modules()` does not list.
    - Buffers that a lazy module makes at its first call stay.
    - With `torch.compile(model)`, torch warns about a global hook; the warning is harmless. After `model.compile()` there
      is no warning, but the model is compiled once more.

    Examples
    --------
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with buffers_kept():
    ...     norm(torch.randn(8, 2)).sum().backward()
    >>> norm.num_batches_tracked
    tensor(0)
    """
    thread = get_ident()
    registered: dict[nn.Module, dict[str, torch.Tensor | None]] = {}
    clones: dict[torch.Tensor, torch.Tensor] = {}  # by buffer, since modules may share one

    @torch._disable_dynamo  # otherwise torch traces it after `model.compile()`
    @torch.no_grad()
    def before(module, _):
        if get_ident() != thread:
            return
        if not isinstance(module, torch.jit.ScriptModule):  # a ScriptModule takes no hook, and its layers call none
            # During the outermost call no global hook may be there. If torch.compile met one while it traces the layers,
            # it would compile them again in each step.
            hooks.pop().remove()
            hooks.append(module.register_forward_hook(after, always_call=True))
        called = {below: dict(below._buffers) for below in module.modules() if below not in registered}
        registered.update(called)
        found = dict.fromkeys(b for buffers in called.values() for b in buffers.values() if b is not None)
        # torch cannot write to an expanded tensor, nor to one that a lazy module has yet to make
        moving = (b for b in found if not is_lazy(b) and torch._debug_has_internal_overlap(b) != 1)
        for buffers in alike(b for b in moving if b not in clones):
            clones.update(zip(buffers, copies(buffers), strict=True))

    def after(*_):
        hooks.pop().remove()
        hooks.append(register_module_forward_pre_hook(before))

    hooks: list[RemovableHandle] = [register_module_forward_pre_hook(before)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, before_call in registered.items():
            if [*map(id, module._buffers.values())] != [*map(id, before_call.values())]:
                module._buffers.clear()
                module._buffers.update(before_call)
        with torch.no_grad():
            for buffers in alike(clones):
                torch._foreach_copy_(buffers, [clones[b] for b in buffers])
