"""SAM and ASAM, and what every optimizer of the family shares: two passes, a move and its undoing, one state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from samlib.checks import as_number, shown
from samlib.optim.buffers import alike, buffers_kept, copies

Part = tuple[dict, list[torch.Tensor]]  # a group, and those of its parameters that share a device and a dtype


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, Algorithm 1); with `adaptive=True`, ASAM (Kwon et al. 2021, eq. 5).

    A step takes the gradient g of the loss, moves the weights to w + rho g / ||g|| (ASAM: w + rho T^2 g / ||T g|| with
    T = abs(w)), takes the gradient there, and lets `base_optimizer` apply it to the unmoved weights.

    Parameters
    ----------
    params : parameters or parameter groups
        Each group may have its own `rho` and `adaptive`; the norm is over all groups.
    base_optimizer : class
        A `torch.optim.Optimizer`, made with `**base_kwargs`. It shares its groups and its state with this optimizer.
    rho : float
        The radius, at least 0.
    adaptive : bool
        Whether to scale the move by the weights.

    Raises
    ------
    ValueError
        For a negative or infinite rho, for `differentiable=True`, and for a state of another base optimizer.
    TypeError
        Where `step` has no closure, is called by `GradScaler.step`, or meets a sparse or a complex gradient.

    Notes
    -----
    `step(closure)` calls the closure exactly twice. The closure computes the loss, calls `backward` and returns the loss.
    Gradients are cleared before each call. Buffers, such as BatchNorm's running statistics, move on the first call only.
    A gradient that is missing in one pass counts as zero; a parameter without any stays as it is. Where a closure raises
    an error, the weights are put back and the step leaves no trace.

    `step` also takes a sequence of closures, one for each micro-batch (m-sharpness, Foret et al. 2021, section 4.1). Each
    is called twice and has its own perturbation. The gradients are added: let each loss be its share of the batch's mean.

    Without a closure: call `first_step()`, make a second backward pass inside `with buffers_kept():`, call `second_step()`.
    Between the two, `state_dict` holds the unmoved weights too.

    `load_state_dict` also takes the state of the base optimizer alone, or of another class of the family. Settings which
    that lacks stay as they are.

    To clip each pass's gradient, clip in the closure. To clip what is applied, use `register_step_pre_hook` of the
    attribute `base_optimizer`. Parameters may be bfloat16: norms and products are then taken in float32.

    Examples
    --------
    With float16 products, scale and unscale within the closure, and skip a step that overflows. This is exact for the
    whole family. `scaler.step` sees neither pass, and is refused.

    >>> model, scaler = torch.nn.Linear(3, 2), torch.amp.GradScaler("cpu")
    >>> optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    >>> def closure():
    ...     loss, scale = model(torch.ones(4, 3)).square().mean(), scaler.get_scale()
    ...     scaler.scale(loss).backward()
    ...     scaler.unscale_(optimizer)
    ...     scaler.update()
    ...     if scaler.get_scale() < scale:
    ...         raise FloatingPointError("The gradient overflows.")
    ...     return loss
    >>> try:
    ...     loss = optimizer.step(closure)
    ... except FloatingPointError:
    ...     pass
    """

    # A step neither waits for a device nor branches on a tensor, and what is kept from step to step stays where it is in
    # memory, so that a CUDA graph can replay it.
    noted: tuple[str, ...] = ("unmoved",)  # what a parameter's state keeps from the first pass to the second
    kept_state: tuple[str, ...] = ()  # and from step to step, beside the base optimizer's
    ours = ("unmoved", "gradient", "kept", "average")  # either, in the whole family
    micro_batches = True

    def __init__(self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, **base_kwargs):
        self._build(params, base_optimizer, {"rho": rho, "adaptive": adaptive}, base_kwargs)

    def _build(self, params, base_optimizer, own: dict, base_kwargs: dict) -> None:
        """own: the settings of this class, which each parameter group may override."""
        if not callable(base_optimizer) or base_optimizer is torch.optim.LBFGS:
            said = shown(base_optimizer)
            raise TypeError(f"base_optimizer must be a class that steps without a closure, as SGD does, not {said}.")
        super().__init__(params, {**own, **base_kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        both = own.keys() & self.base_optimizer.defaults.keys()
        if both:
            raise ValueError(f"{base_optimizer.__name__} has {both.pop()} too: take another base optimizer.")
        self._share()

    def _share(self) -> None:
        # One list of groups and one state for both, so that schedulers, state_dict and the base optimizer agree.
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}

    def add_param_group(self, param_group: dict) -> None:
        settings = {**self.defaults, **param_group}
        as_number("rho", settings["rho"])
        if settings.get("differentiable"):
            raise ValueError("differentiable must be False: no gradient flows through SAM's move.")
        super().add_param_group(param_group)

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "base": (type(self.base_optimizer), self.base_optimizer.defaults)}

    def __setstate__(self, state: dict) -> None:
        shared = {name: state[name] for name in ("state", "param_groups")}
        if "base" in state:  # of a copy
            base, defaults = state.pop("base")
            self.base_optimizer = base.__new__(base)
            shared["defaults"] = defaults
        else:  # of a state_dict
            self._complete(state["param_groups"])
        super().__setstate__(state)
        with self._ours_hidden():  # and what only others of the family use is dropped
            self.base_optimizer.__setstate__(shared)

    def _complete(self, groups: list[dict]) -> None:
        """Settings that a state_dict's groups lack stay as they are, but for those of the base optimizer."""
        base = self.base_optimizer
        for group, own in zip(groups, self.param_groups, strict=True):
            # not the switches, which torch adds from time to time
            numbers = [name for name in base.defaults if type(own[name]) in (int, float, tuple)]
            lacking = " and no ".join(name for name in numbers if name not in group)
            if lacking:
                raise ValueError(
                    f"The state_dict has no {lacking}: load one of {type(base).__name__}, the base optimizer."
                )
            group.update({name: value for name, value in own.items() if name not in group})

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # the first that GradScaler.step asks for
        raise TypeError(
            f"{type(self).__name__} takes no GradScaler.step: unscale in the closure, as the docstring of SAM shows."
        )

    def parts(self, chosen: Callable[[torch.Tensor], bool]) -> list[Part]:
        """The chosen parameters."""
        return [
            (group, params) for group in self.param_groups for params in alike(p for p in group["params"] if chosen(p))
        ]

    def has(self, p: torch.Tensor, name: str) -> bool:
        """Whether a parameter's state holds this."""
        return name in self.state.get(p, ())

    def moves(self, p: torch.Tensor) -> bool:
        return has_gradient(p)

    def direction(self, params: list[torch.Tensor], group: dict) -> Sequence[torch.Tensor]:
        """What the move of parameters follows."""
        return gradients(params)

    def radius(self, group: dict) -> float | torch.Tensor:
        return group["rho"]

    def combine(self, first: Mapping[torch.Tensor, torch.Tensor]) -> None:
        """Turn the moved point's gradients, in `p.grad`, into what the base optimizer applies; the weights are back.

        first: what `noted` names last, of each parameter that had a gradient in the first pass.
        """

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to the point of highest loss within rho, to first order (Foret et al. 2021, eq. 2).

        Raises RuntimeError where they are moved already. Make the pass that follows inside `with buffers_kept():`.
        """
        if self._begun():
            raise RuntimeError("first_step has moved the weights already: call second_step before it.")
        self._check()
        parts = self.parts(self.moves)
        if not parts:
            return
        sizes = [torch._foreach_abs(params) if group["adaptive"] else None for group, params in parts]
        scaled = [self.direction(params, group) for group, params in parts]
        scaled = [s if size is None else torch._foreach_mul(size, s) for s, size in zip(scaled, sizes, strict=True)]
        norm = norm_of(scaled)
        if "gradient" in self.noted:
            for _, params in self.parts(has_gradient):
                self._note("gradient", params, gradients(params))
        for (group, params), s, size in zip(parts, scaled, sizes, strict=True):
            self._note("unmoved", params, params)
            move = ratio(-self.radius(group) if group.get("maximize") else self.radius(group), norm)
            add_(params, s if size is None else torch._foreach_mul(s, size), move)
        if zero_grad:
            self.zero_grad()

    @torch.optim.Optimizer.profile_hook_step  # so that hooks on a step run here, where `step` does not
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back exactly and let the base optimizer apply the gradient of the moved point."""
        self._settle()
        self._base_step()
        self._opt_called = True  # torch's schedulers ask for it
        if zero_grad:
            self.zero_grad()

    def _begun(self) -> bool:
        return any("unmoved" in state for state in self.state.values())

    def _check(self) -> None:
        for i, group in enumerate(self.param_groups):
            for j, p in enumerate(group["params"]):
                if p.grad is not None and (p.grad.layout != torch.strided or p.is_complex()):
                    kind = "complex" if p.is_complex() else "sparse"
                    raise TypeError(f"Parameter {j} of group {i} has a {kind} gradient: make it real and dense.")

    def _note(self, name: str, params: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        for p, value in zip(params, copies(values), strict=True):
            self.state[p][name] = value

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
                if not self.state[p]:
                    del self.state[p]
        return first

    def _settle(self) -> None:
        """Put the weights back, and turn the gradients of both passes into what the base optimizer applies."""
        first = self._put_back()
        self._check()
        for p in first:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.combine(first)

    @contextmanager
    def _ours_hidden(self) -> Iterator[None]:
        # torch.optim takes an empty state for an uninitialized one, and any other for one of its own
        ours = {}
        for p, state in list(self.state.items()):
            ours[p] = {name: state.pop(name) for name in self.ours if name in state}
            if not state:
                del self.state[p]
        try:
            yield
        finally:
            for p, hidden in ours.items():
                for name in (*self.noted, *self.kept_state):
                    if name in hidden:
                        self.state[p][name] = hidden[name]

    def _base_step(self) -> None:
        with self._ours_hidden():
            self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure: Callable | Sequence[Callable] | None = None) -> torch.Tensor:
        """One step; returns the loss of the first pass, at the unmoved weights (the sum over micro-batches)."""
        name = type(self).__name__
        if closure is None:
            raise TypeError(f"{name}.step needs a closure that computes the loss, calls backward and returns the loss.")
        closures = [torch.enable_grad()(one) for one in ([closure] if callable(closure) else closure)]
        if len(closures) != 1 and not (self.micro_batches and closures):
            raise TypeError(f"{name}.step takes one closure, not {len(closures)}.")
        if self._begun():  # by hand
            self._put_back()
        loss = self._passes(closures[0]) if len(closures) == 1 else self._sum_of_passes(closures)
        self._base_step()
        return loss

    def _sum_of_passes(self, closures: Sequence[Callable]) -> torch.Tensor:
        losses, sums = [], {}
        for one in closures:
            losses.append(self._passes(one))
            for _, params in self.parts(has_gradient):
                torch._foreach_add_(sum_ := filled(params, sums), gradients(params))
                sums |= zip(params, sum_, strict=True)
        for p, gradient in sums.items():
            p.grad = gradient
        return torch.stack([torch.as_tensor(loss).detach() for loss in losses]).sum()

    def _passes(self, closure: Callable) -> torch.Tensor:
        """Leave in `p.grad` what the base optimizer applies, and the weights where they are; returns the loss there."""
        self._clear()
        loss = closure()
        try:
            self.first_step()
            self._clear()
            with buffers_kept():
                closure()
        except BaseException:
            self._put_back()
            raise
        self._settle()
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


def has_gradient(p: torch.Tensor) -> bool:
    return p.grad is not None


def gradients(params: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of parameters; a missing one counts as zero."""
    return filled(params, {p: p.grad for p in params if has_gradient(p)})
