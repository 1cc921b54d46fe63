"""GSAM, LookSAM and FriendlySAM. Each changes one line of SAM."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch

from samlib.checks import FAR
from samlib.optim.lists import Tensors, add_, filled, gradients, has_gradient, norm_of, perpendicular, ratio
from samlib.optim.sam import SAM


class GSAM(SAM):
    """Surrogate gap guided SAM (Zhuang et al. 2022, Algorithm 1): SAM that also narrows the gap between its two losses.

    Let g be the gradient at w, and g_p the gradient at the moved point. The base optimizer applies g_p - alpha g_perp.
    Here g_perp is the part of g perpendicular to g_p.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive, **base_kwargs
        As in `SAM`.
    alpha : float
        The weight of the second term (the paper's range: 0.01 to 0.4).

    Notes
    -----
    `step` takes one closure and calls it twice. The paper lets rho follow the learning rate. Here it is constant; for such a
    schedule, set the groups' `rho` before each step. All else, errors too, is as in `SAM`.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.05, alpha=0.1, lr=0.1)
    >>> def closure():
    ...     loss = model(torch.ones(4, 3)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> before = optimizer.step(closure)
    >>> bool(closure() < before)
    True
    """

    noted = ("unmoved", "gradient")
    limits: ClassVar[Mapping[str, dict]] = {"rho": {}, "alpha": {}}
    micro_batches = False

    def __init__(self, params, base_optimizer, rho=0.05, alpha=0.4, adaptive=False, **base_kwargs):
        self._build(params, base_optimizer, base_kwargs, rho=rho, alpha=alpha, adaptive=adaptive)

    def combine(self, first) -> None:
        parts = self.parts(has_gradient)
        g = [filled(params, first) for _, params in parts]
        g_p = [gradients(params) for _, params in parts]
        for (group, _), at_moved, g_perp in zip(parts, g_p, perpendicular(g, g_p), strict=True):
            torch._foreach_sub_(at_moved, g_perp, alpha=group["alpha"])


class LookSAM(SAM):
    """LookSAM (Liu et al. 2022, Algorithm 1): a SAM step every k steps; the steps between reuse its direction.

    The first step and every k-th after it is a SAM step. It keeps g_v, the part of the moved point's gradient that is
    perpendicular to g. The k - 1 steps between apply g + alpha ||g|| / ||g_v|| g_v. So k steps call the closure k + 1
    times; SAM calls it 2 k times.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive, **base_kwargs
        As in `SAM`.
    alpha : float
        The weight of the kept direction.
    k : int
        The length of the cycle, at least 1 (the paper's: 5).

    Raises
    ------
    ValueError
        If k is below 1. Other errors as in `SAM`.

    Notes
    -----
    The groups' `t` counts the steps. The next step is a SAM step if t is a multiple of k, or if no direction is kept.
    `first_step` and `second_step` make a SAM step and leave t as it is. `state_dict` holds t and the direction.
    `step` takes one closure. All else is as in `SAM`.

    Examples
    --------
    >>> model, calls = torch.nn.Linear(3, 2), []
    >>> optimizer = LookSAM(model.parameters(), torch.optim.SGD, k=3, lr=0.1)
    >>> def closure():
    ...     calls.append(1)
    ...     loss = model(torch.ones(4, 3)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(3):
    ...     loss = optimizer.step(closure)
    >>> len(calls)
    4
    """

    # Vectors span the whole model, as in the paper's Algorithm 1. pytorch_optimizer 4 projects and scales each tensor
    # by itself, and makes both passes in every step.
    noted = ("unmoved", "gradient")
    kept_state = ("kept",)
    limits: ClassVar[Mapping[str, dict]] = {"rho": {}, "alpha": {}, "k": {"low": 1, "whole": True}}
    micro_batches = False

    def __init__(self, params, base_optimizer, rho=0.05, alpha=0.7, k=5, adaptive=False, **base_kwargs):
        self._build(params, base_optimizer, base_kwargs, rho=rho, alpha=alpha, k=k, adaptive=adaptive, t=0)

    def combine(self, first) -> None:
        parts = self.parts(lambda p: has_gradient(p) or self.has(p, "kept"))
        g = [filled(params, first) for _, params in parts]
        g_s = [gradients(params) for _, params in parts]
        for (_, params), g_v in zip(parts, perpendicular(g_s, g), strict=True):
            torch._foreach_copy_(self.lasting("kept", params), g_v)

    def _passes(self, closure: Callable) -> torch.Tensor:
        t, k = self.param_groups[0]["t"], self.param_groups[0]["k"]
        looks = t % k == 0 or not self.parts(lambda p: self.has(p, "kept"))
        loss = super()._passes(closure) if looks else self._one_pass(closure)
        for group in self.param_groups:
            group["t"] = t + 1
        return loss

    def _one_pass(self, closure: Callable) -> torch.Tensor:
        self.zero_grad()
        loss = closure()
        self._check()
        kept = self.parts(lambda p: self.has(p, "kept"))
        g_norm = norm_of([gradients(params) for _, params in self.parts(has_gradient)])
        scale = ratio(g_norm, norm_of([self.lasting("kept", params) for _, params in kept]))
        for group, params in self.parts(lambda p: has_gradient(p) and self.has(p, "kept")):
            add_(gradients(params), self.lasting("kept", params), group["alpha"] * scale)
        return loss


class FriendlySAM(SAM):
    """Friendly SAM (Li et al. 2024, Algorithm 1): move along the part of the gradient that is the batch's own.

    m estimates the full gradient: it starts at 0, and each step sets m <- lmbda m + (1 - lmbda) g. The move follows
    g - sigma m, not g.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive, **base_kwargs
        As in `SAM`.
    sigma : float
        The share of the full gradient to take out.
    lmbda : float
        The weight of the old m, from 0 (no memory) to 1.

    Notes
    -----
    `step` takes one closure and calls it twice. `state_dict` holds m. All else, errors too, is as in `SAM`.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = FriendlySAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)
    >>> def closure():
    ...     loss = model(torch.ones(4, 3)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> before = optimizer.step(closure)
    >>> bool(closure() < before)
    True
    """

    # The published script starts at m = g and subtracts m before it updates m; for sigma = 1 the direction is the same.
    noted = ("unmoved", "gradient")
    kept_state = ("average",)
    limits: ClassVar[Mapping[str, dict]] = {"rho": {}, "sigma": {"low": -FAR}, "lmbda": {"high": 1}}
    micro_batches = False

    def __init__(self, params, base_optimizer, rho=0.05, sigma=1.0, lmbda=0.9, adaptive=False, **base_kwargs):
        self._build(params, base_optimizer, base_kwargs, rho=rho, sigma=sigma, lmbda=lmbda, adaptive=adaptive)

    def moves(self, p: torch.Tensor) -> bool:
        return has_gradient(p) or (p.requires_grad and self.has(p, "average"))

    def direction(self, params: list[torch.Tensor], group: dict) -> Tensors:
        g = gradients(params)
        old = filled(params, {p: self.state[p]["average"] for p in params if self.has(p, "average")})
        m = torch._foreach_lerp(old, g, 1 - group["lmbda"])
        return torch._foreach_sub(g, torch._foreach_mul(m, group["sigma"]))

    def combine(self, first) -> None:
        # not in `direction`, so that a step that fails leaves no trace
        for group, params in self.parts(lambda p: p in first or self.has(p, "average")):
            torch._foreach_lerp_(self.lasting("average", params), filled(params, first), 1 - group["lmbda"])
