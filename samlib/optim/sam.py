"""SAM and ASAM, and what every optimizer of the family shares: two passes, a move and its undoing, one state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, Algorithm 1); with `adaptive=True`, ASAM (Kwon et al. 2021, eq. 5).

    A step takes the gradient g of the loss, moves the weights to w + rho g / ||g|| (ASAM: w + rho T^2 g / ||T g|| with
    T = abs(w)), takes the gradient there, and lets `base_optimizer` apply it to the unmoved weights.

    params: parameters or parameter groups; each group may have its own `rho` and `adaptive`; the norm is over all groups.
    base_optimizer: a `torch.optim.Optimizer` class, made with `**base_kwargs`.

    `step(closure)` calls the closure exactly twice; it computes the loss, calls `backward` and returns the loss.
    Gradients are cleared for it, and BatchNorm's running statistics move on the first call only. `step` also takes a
    sequence of closures, one for each micro-batch (m-sharpness, Foret et al. 2021, section 4.1): each is called twice, has
    a perturbation of its own, and their gradients are added, so let each loss be its share of the batch's mean.
    Without a closure, call `first_step()`, a second backward pass, and `second_step()`. `state_dict` holds the base
    optimizer's state and, between the two half steps, the unmoved weights.

    To clip each pass's gradient, clip in the closure; to clip what is applied, `register_step_pre_hook` on the attribute
    `base_optimizer`. Parameters may be bfloat16: norms and products are then taken in float32.

    Raises ValueError for a negative or infinite rho, TypeError where step has no closure.
    """

    kept_state: tuple[str, ...] = ()  # what a class keeps from step to step, beside the base optimizer's state
    needs_gradient = False  # of the first pass, when the two are combined
    micro_batches = True

    def __init__(self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, **base_kwargs):
        self._build(params, base_optimizer, {"rho": rho, "adaptive": adaptive}, base_kwargs)

    def _build(self, params, base_optimizer, own: dict, base_kwargs: dict) -> None:
        """own: the settings of this class, which each parameter group may override."""
        super().__init__(params, {**own, **base_kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        self._share()

    def _share(self) -> None:
        # One list of groups and one state for both, so that schedulers, state_dict and the base optimizer agree.
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}

    def add_param_group(self, param_group: dict) -> None:
        rho = param_group.get("rho", self.defaults["rho"])
        if not 0 <= rho < float("inf"):
            raise ValueError(f"rho must be a finite number of at least 0, not {rho}.")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict) -> None:
        self.base_optimizer.load_state_dict(state_dict)
        self._share()

    def with_gradient(self) -> list[tuple[torch.nn.Parameter, dict]]:
        """The parameters that have a gradient now, each with its group."""
        return [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]

    def direction(self, p: torch.Tensor, group: dict) -> torch.Tensor:
        """What the move of a parameter follows."""
        return p.grad

    def radius(self, group: dict) -> float:
        return group["rho"]

    def combine(self) -> None:
        """Turn the moved point's gradients, in `p.grad`, into what the base optimizer applies; the weights are back."""

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to the point of highest loss within rho, to first order (Foret et al. 2021, eq. 2)."""
        moved = self.with_gradient()
        if not moved:
            return
        directions = [self.direction(p, group) for p, group in moved]
        scaled = [p.abs() * d if group["adaptive"] else d for (p, group), d in zip(moved, directions, strict=True)]
        norm = norm_of(scaled)
        # a zero gradient moves nothing
        moves = {rho: torch.where(norm > 0, rho / norm, 0) for rho in {self.radius(group) for _, group in moved}}
        for (p, group), s in zip(moved, scaled, strict=True):
            self.state[p]["unmoved"] = p.detach().clone()
            if self.needs_gradient:
                self.state[p]["gradient"] = p.grad.clone()
            p.addcmul_(s * p.abs() if group["adaptive"] else s, moves[self.radius(group)].to(p))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back exactly and let the base optimizer apply the gradient of the moved point."""
        self._put_back()
        self.combine()
        self._base_step()
        if zero_grad:
            self.zero_grad()

    def _clear(self) -> None:
        # as zero_grad, without its profiler's record, which a small model feels
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def _put_back(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if "unmoved" in self.state.get(p, ()):
                    p.copy_(self.state[p].pop("unmoved"))

    def _base_step(self) -> None:
        # torch.optim takes an empty state for an uninitialized one, so what is ours is out of its sight meanwhile.
        ours = {}
        for p, state in list(self.state.items()):
            if self.kept_state:
                ours[p] = {name: state.pop(name) for name in self.kept_state if name in state}
            if not state:
                del self.state[p]
        self.base_optimizer.step()
        for p, kept in ours.items():
            if kept:
                self.state[p].update(kept)

    def step(self, closure: Callable | Sequence[Callable] | None = None) -> torch.Tensor:
        """One step; returns the loss of the first pass, at the unmoved weights (the sum over micro-batches)."""
        name = type(self).__name__
        if closure is None:
            raise TypeError(f"{name}.step needs a closure that computes the loss, calls backward and returns the loss.")
        closures = [torch.enable_grad()(one) for one in ([closure] if callable(closure) else closure)]
        if len(closures) == 1:
            return self._two_passes(closures[0])
        if not self.micro_batches or not closures:
            raise TypeError(f"{name}.step takes one closure, not {len(closures)}.")
        losses, sums = [], {}
        for one in closures:
            losses.append(self._two_passes(one, apply=False))
            for p, _ in self.with_gradient():
                sums[p] = sums[p].add_(p.grad) if p in sums else p.grad.clone()
        for p, gradient in sums.items():
            p.grad = gradient
        with torch.no_grad():
            self._base_step()
        return torch.stack([loss.detach() for loss in losses]).sum()

    def _two_passes(self, closure: Callable, apply: bool = True) -> torch.Tensor:
        self._clear()
        loss = closure()
        self.first_step()
        self._clear()
        with batchnorm_statistics_frozen():
            closure()
        if apply:
            self.second_step()
        else:
            with torch.no_grad():
                self._put_back()
        return loss


class ASAM(SAM):
    """Adaptive SAM (Kwon et al. 2021, Algorithm 1): `SAM` with `adaptive=True`, T = abs(w) without eta, and the paper's rho."""

    def __init__(self, params, base_optimizer, rho: float = 0.5, adaptive: bool = True, **base_kwargs):
        super().__init__(params, base_optimizer, rho, adaptive, **base_kwargs)


def norm_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Euclidean norm of all of them as one vector, in float32 at least."""
    device = tensors[0].device
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]))


def dot(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> torch.Tensor:
    """The inner product of two lists of tensors, each as one vector, in float32 at least."""
    device, dtype = left[0].device, torch.promote_types(left[0].dtype, torch.float32)
    return torch.stack([(a.to(dtype) * b.to(dtype)).sum().to(device) for a, b in zip(left, right, strict=True)]).sum()


@contextmanager
def batchnorm_statistics_frozen():
    """While open, BatchNorm in training mode normalizes with batch statistics but leaves its running ones as they are.

    Those of a model that is compiled as `torch.compile(model)` too, whatever torch warns of global hooks; but not where no call
    of a module is seen: after `model.compile()`, in a compiled function that calls the model, or below a module that does not
    have it among its `modules()`. One thread at a time: the hook sees those of all.
    """
    frozen, watching, called = [], [], []

    def before(module, _):
        # From the outermost call on all below it, so that no hook is there when torch.compile traces the layers: it would
        # compile them again in each step.
        for below in module.modules():
            if isinstance(below, _BatchNorm) and below.training and below.track_running_stats:
                below.track_running_stats = False
                frozen.append(below)
        watching.pop().remove()
        called.append(module.register_forward_hook(after, always_call=True))

    def after(*_):
        called.pop().remove()
        watch()

    def watch():
        watching.append(torch_module.register_module_forward_pre_hook(before))

    watch()
    try:
        yield
    finally:
        for hook in watching + called:  # a KeyboardInterrupt inside the call leaves the second
            hook.remove()
        for module in frozen:
            module.track_running_stats = True
