"""GSAM, LookSAM and FriendlySAM: each changes one line of SAM."""

from __future__ import annotations

from collections.abc import Callable

import torch

from samlib.optim.sam import SAM, dot, norm_of


class GSAM(SAM):
    """Surrogate gap guided SAM (Zhuang et al. 2022, Algorithm 1): also let the loss at w fall where that costs SAM nothing.

    With g the gradient at w and g_p that at the moved point, the base optimizer applies g_p - alpha g_perp, where g_perp
    is the part of g perpendicular to g_p. Calls the closure twice.

    alpha: the weight of the second term (the paper's range: 0.01 to 0.4). rho_min: where given, rho follows the learning
    rate as in the paper's Algorithm 1, from `rho` at the group's first (or its `lr_max`) to `rho_min` at 0; constant if None.
    The rest, and what is raised, as in `SAM`; one closure a step.
    """

    needs_gradient = True
    micro_batches = False

    def __init__(
        self,
        params,
        base_optimizer,
        rho: float = 0.05,
        alpha: float = 0.4,
        rho_min: float | None = None,
        adaptive: bool = False,
        **base_kwargs,
    ):
        own = {"rho": rho, "alpha": alpha, "rho_min": rho_min, "adaptive": adaptive, "lr_max": None}
        self._build(params, base_optimizer, own, base_kwargs)

    def _share(self) -> None:
        super()._share()
        for group in self.param_groups:
            if group["lr_max"] is None:
                group["lr_max"] = group["lr"]

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        if hasattr(self, "base_optimizer"):
            self._share()

    def radius(self, group: dict) -> float:
        if group["rho_min"] is None:
            return group["rho"]
        return group["rho_min"] + (group["rho"] - group["rho_min"]) * group["lr"] / group["lr_max"]

    def combine(self) -> None:
        moved = self.with_gradient()
        if not moved:
            return
        at_w, at_moved = [self.state[p].pop("gradient") for p, _ in moved], [p.grad for p, _ in moved]
        parallel = share(at_w, at_moved)
        for (_, group), g, g_p in zip(moved, at_w, at_moved, strict=True):
            perpendicular = g - parallel.to(g) * g_p
            g_p.sub_(perpendicular, alpha=group["alpha"])


class LookSAM(SAM):
    """LookSAM (Liu et al. 2022, Algorithm 1): SAM on every k-th step, whose direction the steps between reuse.

    Every k-th step, from the first, is a SAM step that keeps g_v, the part of the moved point's gradient g_s perpendicular
    to g. The k - 1 steps between apply g + alpha ||g|| / ||g_v|| g_v. So k steps call the closure k + 1 times, where SAM
    calls it 2 k times.

    alpha: the weight of the kept direction; k: the paper's 5. `first_step` and `second_step` make a SAM step and keep its
    direction. `state_dict` holds the direction and the place in the cycle.
    The rest, and what is raised, as in `SAM`; ValueError too for k below 1; one closure a step.
    """

    # The vectors are the whole model's, as in the paper's Algorithm 1. pytorch_optimizer 4 projects and scales each tensor
    # by itself, and makes both passes at every step.
    needs_gradient = True
    kept_state = ("kept",)
    micro_batches = False

    def __init__(
        self,
        params,
        base_optimizer,
        rho: float = 0.05,
        alpha: float = 0.7,
        k: int = 5,
        adaptive: bool = False,
        **base_kwargs,
    ):
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}.")
        own = {"rho": rho, "alpha": alpha, "k": k, "adaptive": adaptive, "t": 0}
        self._build(params, base_optimizer, own, base_kwargs)

    def combine(self) -> None:
        moved = self.with_gradient()
        if not moved:
            return
        g, g_s = [self.state[p].pop("gradient") for p, _ in moved], [p.grad for p, _ in moved]
        parallel = share(g_s, g)
        for (p, _), a, b in zip(moved, g, g_s, strict=True):
            self.state[p]["kept"] = b - parallel.to(a) * a

    def _two_passes(self, closure: Callable, apply: bool = True) -> torch.Tensor:
        first = self.param_groups[0]
        looks = first["t"] % first["k"] == 0
        loss = super()._two_passes(closure) if looks else self._one_pass(closure)
        for group in self.param_groups:
            group["t"] = first["t"] + 1 if group is not first else group["t"]
        first["t"] += 1
        return loss

    def _one_pass(self, closure: Callable) -> torch.Tensor:
        self._clear()
        loss = closure()
        with torch.no_grad():
            moved = [(p, group) for p, group in self.with_gradient() if "kept" in self.state.get(p, ())]
            if moved:
                kept = [self.state[p]["kept"] for p, _ in moved]
                g_norm, v_norm = norm_of([p.grad for p, _ in moved]), norm_of(kept)
                scale = torch.where(v_norm > 0, g_norm / v_norm, 0)
                for (p, group), v in zip(moved, kept, strict=True):
                    p.grad.addcmul_(v, (group["alpha"] * scale).to(v))
            self._base_step()
        return loss


class FriendlySAM(SAM):
    """Friendly SAM (Li et al. 2024, Algorithm 1): move along what is particular to the batch.

    m <- lmbda m + (1 - lmbda) g, from m = 0, estimates the full gradient; the move follows g - sigma m instead of g.
    Calls the closure twice. `state_dict` holds m.

    sigma: how much of the full gradient is taken out; lmbda: the memory of its estimate.
    The rest, and what is raised, as in `SAM`; one closure a step.
    """

    # The published script starts at m = g and subtracts m before it updates it; for sigma = 1 the direction is the same.
    kept_state = ("average",)
    micro_batches = False

    def __init__(
        self,
        params,
        base_optimizer,
        rho: float = 0.05,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        adaptive: bool = False,
        **base_kwargs,
    ):
        own = {"rho": rho, "sigma": sigma, "lmbda": lmbda, "adaptive": adaptive}
        self._build(params, base_optimizer, own, base_kwargs)

    def direction(self, p: torch.Tensor, group: dict) -> torch.Tensor:
        state = self.state[p]
        if "average" not in state:
            state["average"] = torch.zeros_like(p.grad)
        state["average"].lerp_(p.grad, 1 - group["lmbda"])
        return p.grad - group["sigma"] * state["average"]


def share(of, along) -> torch.Tensor:
    """The factor c for which c `along` is the projection of `of` on `along`; exactly 1 where they are equal, 0 on zero."""
    square = dot(along, along)
    return torch.where(square > 0, dot(of, along) / square, 0)
