"""Arithmetic on lists of tensors, by torch's functions that take a whole list at once."""

from collections.abc import Iterable, Mapping, Sequence

import torch

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]
Lists = Sequence[Tensors]  # lists that form one vector; each list has one device and dtype


def alike(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Group tensors by device and dtype, since torch's functions on lists are fast on such groups."""
    found: dict[tuple, list[torch.Tensor]] = {}
    for t in tensors:
        found.setdefault((t.device, t.dtype), []).append(t)
    return list(found.values())


def copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy tensors, at least one; the oldest torch that we support has no `torch._foreach_clone`."""
    made = [torch.empty_like(t) for t in tensors]
    torch._foreach_copy_(made, list(tensors))
    return made


def norm_of(lists: Lists) -> torch.Tensor:
    """The Euclidean norm of a vector, in at least float32; 0 for none."""
    norms = [norm for ts in lists for norm in torch._foreach_norm(ts, 2, at_least_float32(ts[0]))]
    if not norms:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def dot(left: Lists, right: Lists) -> torch.Tensor:
    """The inner product of two vectors, in at least float32."""
    device, products = left[0][0].device, list[torch.Tensor]()
    for a, b in zip(left, right, strict=True):
        dtype = at_least_float32(a[0])
        products += torch._foreach_mul([t.to(dtype) for t in a], [t.to(dtype) for t in b])
    return torch.stack([product.sum().to(device) for product in products]).sum()


def at_least_float32(t: torch.Tensor) -> torch.dtype:
    """The dtype for norms and products of a tensor."""
    return torch.promote_types(t.dtype, torch.float32)


def ratio(a: float | torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b; 0 if b is 0 or either is NaN."""
    return (a / b).nan_to_num(0, 0, 0)


def add_(to: Tensors, tensors: Tensors, factor: torch.Tensor) -> None:
    """Add a multiple of tensors to others, in place. factor: without dimensions."""
    factor = factor.to(to[0])
    if to[0].is_cuda:  # the second way rounds once, not twice, but on a GPU it takes a kernel for each tensor
        torch._foreach_add_(to, torch._foreach_mul(tensors, factor))
    else:
        torch._foreach_addcmul_(to, tensors, [factor] * len(to))


def filled(params: Tensors, values: Mapping[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """The values of parameters; zeros where one is missing."""
    return [values[p] if p in values else torch.zeros_like(p) for p in params]


def has_gradient(p: torch.Tensor) -> bool:
    """Whether a parameter has a gradient."""
    return p.grad is not None


def gradients(params: Tensors) -> list[torch.Tensor]:
    """The gradients of parameters; zeros where one is missing."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]


def perpendicular(of: Lists, along: Lists) -> list[Tensors]:
    """The part of a vector that is perpendicular to another: exactly 0 if they are equal, all of it if the other is 0."""
    if not of:
        return []
    share = ratio(dot(of, along), dot(along, along))
    return [torch._foreach_sub(a, torch._foreach_mul(b, share.to(a[0]))) for a, b in zip(of, along, strict=True)]
