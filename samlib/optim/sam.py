"""SAM and ASAM, and what every optimizer of the family shares: two passes, a move and its undoing, one state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from samlib.optim.buffers import alike, buffers_kept, copies

Part = tuple[dict, list[torch.Tensor]]  # a group, and those of its parameters that share a device and a dtype


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, Algorithm 1); with `adaptive=True`, ASAM (Kwon et al. 2021, eq. 5).

    A step takes the gradient g of the loss, moves the weights to w + rho g / ||g|| (ASAM: w + rho T^2 g / ||T g|| with
    T = abs(w)), takes the gradient there, and lets `base_optimizer` apply it to the unmoved weights.

    params: parameters or parameter groups; each group may have its own `rho` and `adaptive`; the norm is over all groups.
    base_optimizer: a `torch.optim.Optimizer` class, made with `**base_kwargs`.

    `step(closure)` calls the closure exactly twice; it computes the loss, calls `backward` and returns the loss.
    Gradients are cleared for it, and buffers such as BatchNorm's running statistics move on the first call only
    (`buffers_kept`). `step` also takes a
    sequence of closures, one for each micro-batch (m-sharpness, Foret et al. 2021, section 4.1): each is called twice, has
    a perturbation of its own, and their gradients are added, so let each loss be its share of the batch's mean.
    Without a closure, call `first_step()`, a second backward pass, and `second_step()`. `state_dict` holds the base
    optimizer's state and, between the two half steps, the unmoved weights.

    To clip each pass's gradient, clip in the closure; to clip what is applied, `register_step_pre_hook` on the attribute
    `base_optimizer`. Parameters may be bfloat16: norms and products are then taken in float32.

    Raises ValueError for a negative or infinite rho, TypeError where step has no closure.
    """

    # A step neither waits for a device nor branches on a tensor, and what is kept from step to step stays where it is in
    # memory, so that a CUDA graph can replay it.
    noted: tuple[str, ...] = ("unmoved",)  # what a parameter's state keeps from the first pass to the second
    kept_state: tuple[str, ...] = ()  # and from step to step, beside the base optimizer's
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

    def parts(self, chosen: Callable[[torch.Tensor], bool]) -> list[Part]:
        """The chosen parameters."""
        return [
            (group, params) for group in self.param_groups for params in alike(p for p in group["params"] if chosen(p))
        ]

    def has(self, p: torch.Tensor, name: str) -> bool:
        """Whether a parameter's state holds this."""
        return name in self.state.get(p, ())

    def moves(self, p: torch.Tensor) -> bool:
        return p.grad is not None

    def direction(self, params: list[torch.Tensor], group: dict) -> Sequence[torch.Tensor]:
        """What the move of parameters follows."""
        return [p.grad for p in params]

    def radius(self, group: dict) -> float | torch.Tensor:
        return group["rho"]

    def combine(self, first: Mapping[torch.Tensor, torch.Tensor]) -> None:
        """Turn the moved point's gradients, in `p.grad`, into what the base optimizer applies; the weights are back.

        first: what `noted` names last, of each parameter that had a gradient in the first pass.
        """

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to the point of highest loss within rho, to first order (Foret et al. 2021, eq. 2)."""
        parts = self.parts(self.moves)
        if not parts:
            return
        sizes = [torch._foreach_abs(params) if group["adaptive"] else None for group, params in parts]
        scaled = [self.direction(params, group) for group, params in parts]
        scaled = [s if size is None else torch._foreach_mul(size, s) for s, size in zip(scaled, sizes, strict=True)]
        norm = norm_of(scaled)
        for (group, params), s, size in zip(parts, scaled, sizes, strict=True):
            self._note("unmoved", params, params)
            if "gradient" in self.noted:
                had = [p for p in params if p.grad is not None]
                self._note("gradient", had, [p.grad for p in had])
            add_(params, s if size is None else torch._foreach_mul(s, size), ratio(self.radius(group), norm))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back exactly and let the base optimizer apply the gradient of the moved point."""
        self.combine(self._put_back())
        self._base_step()
        if zero_grad:
            self.zero_grad()

    def _note(self, name: str, params: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        for p, value in zip(params, copies(values) if values else (), strict=True):
            self.state[p][name] = value.detach()

    def lasting(self, name: str, params: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the states of parameters keep under a name; zeros at first, and then only written to in place."""
        for p in params:
            if not self.has(p, name):
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]

    def _clear(self) -> None:
        # as zero_grad, without its profiler's record, which a small model feels
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def _put_back(self) -> dict[torch.Tensor, torch.Tensor]:
        first = {}
        for _, params in self.parts(lambda p: self.has(p, "unmoved")):
            torch._foreach_copy_(params, [self.state[p]["unmoved"] for p in params])
            for p in params:
                noted = [self.state[p].pop(name, None) for name in self.noted]
                if noted[-1] is not None:
                    first[p] = noted[-1]
        return first

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

    @torch.no_grad()
    def step(self, closure: Callable | Sequence[Callable] | None = None) -> torch.Tensor:
        """One step; returns the loss of the first pass, at the unmoved weights (the sum over micro-batches)."""
        name = type(self).__name__
        if closure is None:
            raise TypeError(f"{name}.step needs a closure that computes the loss, calls backward and returns the loss.")
        closures = [torch.enable_grad()(one) for one in ([closure] if callable(closure) else closure)]
        if len(closures) != 1 and not (self.micro_batches and closures):
            raise TypeError(f"{name}.step takes one closure, not {len(closures)}.")
        if len(closures) == 1:
            loss = self._passes(closures[0])
        else:
            losses, sums = [], {}
            for one in closures:
                losses.append(self._passes(one))
                for _, params in self.parts(lambda p: p.grad is not None):
                    for p in params:
                        sums[p] = sums[p].add_(p.grad) if p in sums else p.grad.clone()
            for p, gradient in sums.items():
                p.grad = gradient
            loss = torch.stack([loss.detach() for loss in losses]).sum()
        self._base_step()
        return loss

    def _passes(self, closure: Callable) -> torch.Tensor:
        """Leave in `p.grad` what the base optimizer applies, and the weights where they are; returns the loss there."""
        self._clear()
        loss = closure()
        self.first_step()
        self._clear()
        with buffers_kept():
            closure()
        self.combine(self._put_back())
        return loss


class ASAM(SAM):
    """Adaptive SAM (Kwon et al. 2021, Algorithm 1): `SAM` with `adaptive=True`, T = abs(w) without eta, and the paper's rho."""

    def __init__(self, params, base_optimizer, rho: float = 0.5, adaptive: bool = True, **base_kwargs):
        super().__init__(params, base_optimizer, rho, adaptive, **base_kwargs)


Lists = Sequence[Sequence[torch.Tensor]]  # together one vector; each list of one device and dtype


def norm_of(lists: Lists) -> torch.Tensor:
    """The Euclidean norm of a vector, in float32 at least."""
    device = lists[0][0].device
    norms = [norm for ts in lists for norm in torch._foreach_norm(ts, 2, at_least_float32(ts[0]))]
    return torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]))


def dot(left: Lists, right: Lists) -> torch.Tensor:
    """The inner product of two vectors, in float32 at least."""
    device, products = left[0][0].device, []
    for a, b in zip(left, right, strict=True):
        dtype = at_least_float32(a[0])
        products += torch._foreach_mul([t.to(dtype) for t in a], [t.to(dtype) for t in b])
    return torch.stack([product.sum().to(device) for product in products]).sum()


def at_least_float32(t: torch.Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def ratio(a: float | torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b, and 0 where b is 0 or either is not a number."""
    return (a / b).nan_to_num(0, 0, 0)


def add_(to: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor], factor: torch.Tensor) -> None:
    """Add a multiple of tensors to others, in place. factor: of no dimension."""
    factor = factor.to(to[0])
    if to[0].is_cuda:  # where the second way takes a kernel for each tensor; it rounds once, the first one twice
        torch._foreach_add_(to, torch._foreach_mul(tensors, factor))
    else:
        torch._foreach_addcmul_(to, tensors, [factor] * len(to))


def filled(params: Sequence[torch.Tensor], values: Mapping[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """The values of parameters; a missing one counts as zero."""
    return [values[p] if p in values else torch.zeros_like(p) for p in params]
