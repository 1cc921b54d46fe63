"""Sharpness-aware minimization as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, Algorithm 1); with `adaptive=True`, ASAM (Kwon et al. 2021, eq. 5).

    A step takes the gradient g of the loss, moves the weights to w + rho g / ||g|| (ASAM: w + rho T^2 g / ||T g|| with
    T = |w|), takes the gradient there, and lets `base_optimizer` apply it to the unmoved weights.

    params: parameters or parameter groups; each group may have its own `rho` and `adaptive`; the norm is over all groups.
    base_optimizer: a `torch.optim.Optimizer` class, made with `**base_kwargs`.

    `step(closure)` calls the closure exactly twice; it computes the loss, calls `backward` and returns the loss.
    Gradients are cleared for it, and BatchNorm's running statistics move on the first call only. Without a closure,
    call `first_step()`, a second backward pass, and `second_step()`. `state_dict` holds the base optimizer's state and,
    between the two half steps, the unmoved weights.

    Raises ValueError for a negative or infinite rho, TypeError where step has no closure.
    """

    def __init__(self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, **base_kwargs):
        super().__init__(params, {"rho": rho, "adaptive": adaptive, **base_kwargs})
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

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to the point of highest loss within rho, to first order (Foret et al. 2021, eq. 2)."""
        moved = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not moved:
            return
        scaled = [p.abs() * p.grad if group["adaptive"] else p.grad for p, group in moved]
        device = moved[0][0].device
        norm = torch.stack(
            [s.norm(dtype=torch.promote_types(s.dtype, torch.float32)).to(device) for s in scaled]
        ).norm()
        for (p, group), s in zip(moved, scaled, strict=True):
            self.state[p]["unmoved"] = p.detach().clone()
            # a zero gradient moves nothing
            move = torch.where(norm > 0, group["rho"] / norm, 0).to(p)
            p.addcmul_(s * p.abs() if group["adaptive"] else s, move)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back exactly and let the base optimizer apply the gradient of the moved point."""
        for group in self.param_groups:
            for p in group["params"]:
                if "unmoved" in self.state.get(p, ()):
                    p.copy_(self.state[p].pop("unmoved"))
                    if not self.state[p]:  # torch.optim takes an empty state for an uninitialized one
                        del self.state[p]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:
        """One SAM step; returns the loss of the first pass, at the unmoved weights."""
        if closure is None:
            raise TypeError("SAM.step needs a closure that computes the loss, calls backward and returns the loss.")
        closure = torch.enable_grad()(closure)
        self.zero_grad()
        loss = closure()
        self.first_step(zero_grad=True)
        with batchnorm_statistics_frozen():
            closure()
        self.second_step()
        return loss


@contextmanager
def batchnorm_statistics_frozen():
    """While open, BatchNorm in training mode normalizes with batch statistics but leaves its running ones as they are."""
    frozen = []

    def before(module, _):
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            module.track_running_stats = False
            frozen.append(module)

    def after(module, *_):
        if module in frozen:
            module.track_running_stats = True
            frozen.remove(module)

    hooks = [
        torch_module.register_module_forward_pre_hook(before),
        torch_module.register_module_forward_hook(after),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in frozen:
            module.track_running_stats = True
