"""GSAM, LookSAM and FriendlySAM: each changes one line of SAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from samlib.optim.sam import SAM, Lists, add_, dot, filled, gradients, has_gradient, norm_of, ratio


class GSAM(SAM):
    """Surrogate gap guided SAM (Zhuang et al. 2022, Algorithm 1): also let the loss at w fall where that costs SAM nothing.

    With g the gradient at w and g_p that at the moved point, the base optimizer applies g_p - alpha g_perp, where g_perp
    is the part of g perpendicular to g_p.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive
        As in `SAM`.
    alpha : float
        The weight of the second term (the paper's range: 0.01 to 0.4).
    rho_min : float or None
        Where given, rho follows the learning rate as in the paper's Algorithm 1: from `rho` at the group's first learning
        rate (or its `lr_max`) to `rho_min` at 0. With None it is constant.

    Notes
    -----
    Each step calls its one closure twice. The rest, and what is raised, is as in `SAM`.
    """

    noted = ("unmoved", "gradient")
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
                lr = group["lr"]
                group["lr_max"] = lr.clone() if isinstance(lr, torch.Tensor) else lr

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        if hasattr(self, "base_optimizer"):
            self._share()

    def radius(self, group: dict) -> float:
        if group["rho_min"] is None:
            return group["rho"]
        return group["rho_min"] + (group["rho"] - group["rho_min"]) * group["lr"] / group["lr_max"]

    def combine(self, first) -> None:
        parts = self.parts(has_gradient)
        if not parts:
            return
        at_w = [filled(params, first) for _, params in parts]
        at_moved = [gradients(params) for _, params in parts]
        c = share(at_w, at_moved)
        for (group, _), g, g_p in zip(parts, at_w, at_moved, strict=True):
            perpendicular = torch._foreach_sub(g, torch._foreach_mul(g_p, c.to(g[0])))
            torch._foreach_sub_(g_p, perpendicular, alpha=group["alpha"])


class LookSAM(SAM):
    """LookSAM (Liu et al. 2022, Algorithm 1): SAM on every k-th step, whose direction the steps between reuse.

    Every k-th step, from the first, is a SAM step that keeps g_v, the part of the moved point's gradient g_s perpendicular
    to g. The k - 1 steps between apply g + alpha ||g|| / ||g_v|| g_v. So k steps call the closure k + 1 times, where SAM
    calls it 2 k times.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive
        As in `SAM`.
    alpha : float
        The weight of the kept direction.
    k : int
        The length of the cycle, at least 1 (the paper's: 5).

    Raises
    ------
    ValueError
        Where k is below 1, and as in `SAM`.

    Notes
    -----
    The groups' `t` counts the steps: the next one looks where t is a multiple of k, or where no direction is kept.
    `first_step` and `second_step` make a step that looks, and leave t as it is. `state_dict` holds t and the direction.
    `step` takes one closure. The rest is as in `SAM`.
    """

    # The vectors are the whole model's, as in the paper's Algorithm 1. pytorch_optimizer 4 projects and scales each tensor
    # by itself, and makes both passes at every step.
    noted = ("unmoved", "gradient")
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

    def combine(self, first) -> None:
        parts = self.parts(lambda p: has_gradient(p) or self.has(p, "kept"))
        if not parts:
            return
        g = [filled(params, first) for _, params in parts]
        g_s = [gradients(params) for _, params in parts]
        c = share(g_s, g)
        for (_, params), a, b in zip(parts, g, g_s, strict=True):
            g_v = torch._foreach_sub(b, torch._foreach_mul(a, c.to(a[0])))
            torch._foreach_copy_(self.lasting("kept", params), g_v)

    def _passes(self, closure: Callable) -> torch.Tensor:
        t, k = self.param_groups[0]["t"], self.param_groups[0]["k"]
        looks = t % k == 0 or not self.parts(lambda p: self.has(p, "kept"))
        loss = super()._passes(closure) if looks else self._one_pass(closure)
        for group in self.param_groups:
            group["t"] = t + 1
        return loss

    def _one_pass(self, closure: Callable) -> torch.Tensor:
        self._clear()
        loss = closure()
        self._check()
        parts = self.parts(has_gradient)
        if parts:
            g_v = self.parts(lambda p: self.has(p, "kept"))
            g_norm = norm_of([gradients(params) for _, params in parts])
            scale = ratio(g_norm, norm_of([self.lasting("kept", params) for _, params in g_v]))
            for group, params in parts:
                reused = [p for p in params if self.has(p, "kept")]
                if reused:
                    add_(gradients(reused), self.lasting("kept", reused), group["alpha"] * scale)
        return loss


class FriendlySAM(SAM):
    """Friendly SAM (Li et al. 2024, Algorithm 1): move along what is particular to the batch.

    m <- lmbda m + (1 - lmbda) g, from m = 0, estimates the full gradient; the move follows g - sigma m instead of g.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive
        As in `SAM`.
    sigma : float
        How much of the full gradient is taken out.
    lmbda : float
        The memory of its estimate.

    Notes
    -----
    Each step calls its one closure twice. `state_dict` holds m. The rest, and what is raised, is as in `SAM`.
    """

    # The published script starts at m = g and subtracts m before it updates it; for sigma = 1 the direction is the same.
    noted = ("unmoved", "gradient")
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

    def moves(self, p: torch.Tensor) -> bool:
        return has_gradient(p) or (p.requires_grad and self.has(p, "average"))

    def direction(self, params: list[torch.Tensor], group: dict) -> Sequence[torch.Tensor]:
        g = gradients(params)
        m = filled(params, {p: self.state[p]["average"] for p in params if self.has(p, "average")})
        m = torch._foreach_lerp(m, g, 1 - group["lmbda"])
        return torch._foreach_sub(g, torch._foreach_mul(m, group["sigma"]))

    def combine(self, first) -> None:
        # only now, so that a step that fails leaves no trace
        for group, params in self.parts(lambda p: p in first or self.has(p, "average")):
            torch._foreach_lerp_(self.lasting("average", params), filled(params, first), 1 - group["lmbda"])


def share(of: Lists, along: Lists) -> torch.Tensor:
    """The factor c for which c `along` is the projection of `of` on `along`; exactly 1 where they are equal, 0 on zero."""
    return ratio(dot(of, along), dot(along, along))
