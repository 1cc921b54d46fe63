"""SAM and ASAM, and the parts that the whole family shares: two passes, the move and its undoing, the state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch

from samlib.checks import as_number, shown
from samlib.optim.buffers import buffers_kept
from samlib.optim.lists import Tensors, add_, alike, copies, filled, gradients, has_gradient, norm_of, ratio

Part = tuple[dict, list[torch.Tensor]]  # a group, and its parameters of one device and dtype


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, Algorithm 1); with `adaptive=True`, ASAM (Kwon et al. 2021, eq. 5).

    A step takes the gradient g of the loss at the weights w. It moves the weights to w + rho g / ||g|| and takes the
    gradient there. Then `base_optimizer` applies that gradient to the unmoved weights. ASAM moves to
    w + rho T^2 g / ||T g|| with T = abs(w).

    Parameters
    ----------
    params : parameters or parameter groups
        Each group may have its own `rho` and `adaptive`. The norm is over all groups.
    base_optimizer : class
        A `torch.optim.Optimizer`, made with `**base_kwargs`. It shares its groups and its state with this optimizer.
    rho : float
        The radius, at least 0.
    adaptive : bool
        Whether the weights scale the move.
    **base_kwargs
        Settings of `base_optimizer`, such as `lr`.

    Raises
    ------
    ValueError
        If rho is negative or infinite, or `differentiable` is True. Also if a loaded state is of another base optimizer.
    TypeError
        If `step` gets no closure, if `GradScaler.step` calls it, or if a gradient is sparse or complex.

    Notes
    -----
    `step(closure)` calls the closure exactly twice. The closure computes the loss, calls `backward` and returns the loss.
    Gradients are cleared before each call. Buffers, such as BatchNorm's running statistics, move on the first call only.
    A gradient that is missing in one pass counts as zero. A parameter without any gradient stays as it is. If a closure
    raises an error, the weights are put back and the step leaves no trace.

    `step` also takes a sequence of closures, one for each micro-batch (m-sharpness, Foret et al. 2021, section 4.1). Each
    is called twice and has its own perturbation. The gradients are added, so each loss must be its share of the batch's
    mean.

    Without a closure, call `first_step()`, make a second backward pass inside `with buffers_kept():`, and call
    `second_step()`. Between the two, `state_dict` holds the unmoved weights too.

    `load_state_dict` also takes the state of the base optimizer alone, or of another class of the family. Settings that
    this state lacks stay as they are.

    To clip the gradient of each pass, clip in the closure. To clip the gradient that is applied, use
    `base_optimizer.register_step_pre_hook`. Parameters may be bfloat16; norms and products are then taken in float32.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    >>> def closure():
    ...     loss = model(torch.ones(4, 3)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> before = optimizer.step(closure)
    >>> bool(closure() < before)
    True

    With float16 products, scale and unscale within the closure, and skip a step that overflows. This is exact for the
    whole family. `scaler.step` is refused, since it sees neither pass.

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

    # A CUDA graph can replay a step: it waits for no device, branches on no tensor, and keeps its state in place.
    noted: tuple[str, ...] = ("unmoved",)  # kept in a parameter's state from the first pass to the second
    kept_state: tuple[str, ...] = ()  # kept there from step to step, beside the base optimizer's own
    ours = ("unmoved", "gradient", "kept", "average")  # all such names in the family
    limits: ClassVar[Mapping[str, dict]] = {"rho": {}}  # of settings, as `as_number` takes them
    micro_batches = True

    def __init__(self, params, base_optimizer, rho: float = 0.05, adaptive: bool = False, **base_kwargs):
        self._build(params, base_optimizer, base_kwargs, rho=rho, adaptive=adaptive)

    def _build(self, params, base_optimizer, base_kwargs: dict, **own) -> None:
        """Initialize. own: this class's settings, which each parameter group may override."""
        if not callable(base_optimizer) or base_optimizer is torch.optim.LBFGS:
            said = shown(base_optimizer)
            raise TypeError(f"base_optimizer must be a class that steps without a closure, as SGD does, not {said}.")
        super().__init__(params, {**own, **base_kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        both = own.keys() & self.base_optimizer.defaults.keys()
        if both:
            raise ValueError(f"{base_optimizer.__name__} has {both.pop()} too: give another base optimizer.")
        # both optimizers have one list of groups and one state, so schedulers, state_dict and the base agree
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}

    def add_param_group(self, param_group: dict) -> None:
        """Add a group, as `torch.optim.Optimizer` does. Raises ValueError for a wrong setting."""
        settings = {**self.defaults, **param_group}
        for name, limits in self.limits.items():
            as_number(name, settings[name], **limits)
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
        with self._ours_hidden():  # this also drops state that only other classes of the family use
            self.base_optimizer.__setstate__(shared)

    def _complete(self, groups: list[dict]) -> None:
        """Add this optimizer's settings where a state_dict's groups lack them. The base optimizer's must be there."""
        base = self.base_optimizer
        for group, own in zip(groups, self.param_groups, strict=True):
            # its switches may be missing: torch adds new ones from time to time
            numbers = [name for name in base.defaults if type(own[name]) in (int, float, tuple)]
            lacking = " and no ".join(name for name in numbers if name not in group)
            if lacking:
                name = type(base).__name__
                raise ValueError(f"The state_dict has no {lacking}: load one of {name}, the base optimizer.")
            group.update({name: value for name, value in own.items() if name not in group})

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # GradScaler.step reads this first
        name = type(self).__name__
        raise TypeError(f"{name} takes no GradScaler.step: unscale in the closure, as the docstring of SAM shows.")

    def parts(self, chosen: Callable[[torch.Tensor], bool]) -> list[Part]:
        """The chosen parameters, by group, device and dtype."""
        return [(group, params) for group in self.param_groups for params in alike(filter(chosen, group["params"]))]

    def has(self, p: torch.Tensor, name: str) -> bool:
        """Whether the state of a parameter holds a name."""
        return name in self.state.get(p, ())

    def moves(self, p: torch.Tensor) -> bool:
        """Whether the first step moves a parameter."""
        return has_gradient(p)

    def direction(self, params: list[torch.Tensor], group: dict) -> Tensors:
        """The direction of the move."""
        return gradients(params)

    def combine(self, first: Mapping[torch.Tensor, torch.Tensor]) -> None:
        """Turn the gradients of the moved point, in `p.grad`, into those that the base optimizer applies.

        The weights are back already. first: for each parameter with a gradient in the first pass, the last of `noted`.
        """

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to the point of highest loss within rho, to first order (Foret et al. 2021, eq. 2).

        Make the next pass inside `with buffers_kept():`. Raises RuntimeError if the weights are moved already.
        """
        if self._begun():
            raise RuntimeError("first_step has moved the weights already: call second_step before you call it again.")
        self._check()
        parts = self.parts(self.moves)
        scaled = [_stretched(self.direction(params, group), params, group) for group, params in parts]
        norm = norm_of(scaled)
        if "gradient" in self.noted:
            for _, params in self.parts(has_gradient):
                self._note("gradient", params, gradients(params))
        for (group, params), s in zip(parts, scaled, strict=True):
            self._note("unmoved", params, params)
            move = ratio(-group["rho"] if group.get("maximize") else group["rho"], norm)
            add_(params, _stretched(s, params, group), move)
        if zero_grad:
            self.zero_grad()

    @torch.optim.Optimizer.profile_hook_step  # runs the hooks on a step, since `step` is not called
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back exactly and let the base optimizer apply the gradient of the moved point."""
        self._settle()
        self._base_step()
        self._opt_called = True  # torch's schedulers check this
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

    def _note(self, name: str, params: Tensors, values: Tensors) -> None:
        for p, value in zip(params, copies(values), strict=True):
            self.state[p][name] = value

    def lasting(self, name: str, params: Tensors) -> list[torch.Tensor]:
        """The tensors that the states of parameters hold under a name, zeros at first. Write to them in place."""
        for p in params:
            if not self.has(p, name):
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]

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
        """Put the weights back, and combine the gradients of both passes into those that the base optimizer applies."""
        first = self._put_back()
        self._check()
        for p in first:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.combine(first)

    @contextmanager
    def _ours_hidden(self) -> Iterator[None]:
        # torch.optim initializes an empty state only, so ours must not be in it when the base optimizer steps
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
    def step(self, closure: Callable | Sequence[Callable] | None = None) -> torch.Tensor:  # type: ignore[override]
        """Take one step. Returns the loss at the unmoved weights, summed over micro-batches."""
        name = type(self).__name__
        if closure is None:
            raise TypeError(f"{name}.step needs a closure that computes the loss, calls backward and returns the loss.")
        closures = [torch.enable_grad()(one) for one in ([closure] if callable(closure) else closure)]
        if len(closures) != 1 and not (self.micro_batches and closures):
            raise TypeError(f"{name}.step takes one closure, not {len(closures)}.")
        if self._begun():  # by first_step
            self._put_back()
        loss = self._passes(closures[0]) if len(closures) == 1 else self._sum_of_passes(closures)
        self._base_step()
        return loss

    def _sum_of_passes(self, closures: Sequence[Callable]) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        sums: dict[torch.Tensor, torch.Tensor] = {}
        for one in closures:
            losses.append(self._passes(one))
            for _, params in self.parts(has_gradient):
                torch._foreach_add_(sum_ := filled(params, sums), gradients(params))
                sums |= zip(params, sum_, strict=True)
        for p, gradient in sums.items():
            p.grad = gradient
        return torch.stack([torch.as_tensor(loss).detach() for loss in losses]).sum()

    def _passes(self, closure: Callable) -> torch.Tensor:
        """Make both passes; leave in `p.grad` the gradients to apply. Returns the loss at the unmoved weights."""
        self.zero_grad()
        loss = closure()
        try:
            self.first_step()
            self.zero_grad()
            with buffers_kept():
                closure()
        except BaseException:
            self._put_back()
            raise
        self._settle()
        return loss


def _stretched(vector: Tensors, params: Tensors, group: dict) -> Tensors:
    """A vector times abs(w) if its group is adaptive."""
    return torch._foreach_mul(vector, torch._foreach_abs(params)) if group["adaptive"] else vector


class ASAM(SAM):
    """Adaptive SAM (Kwon et al. 2021, Algorithm 1): `SAM` with `adaptive=True` and the paper's rho.

    T = abs(w), without the paper's eta. Errors and notes are as in `SAM`.

    Parameters
    ----------
    params, base_optimizer, rho, adaptive, **base_kwargs
        As in `SAM`.

    Examples
    --------
    >>> optimizer = ASAM(torch.nn.Linear(3, 2).parameters(), torch.optim.SGD, lr=0.1)
    >>> optimizer.param_groups[0]["rho"], optimizer.param_groups[0]["adaptive"]
    (0.5, True)
    """

    def __init__(self, params, base_optimizer, rho: float = 0.5, adaptive: bool = True, **base_kwargs):
        super().__init__(params, base_optimizer, rho, adaptive, **base_kwargs)
