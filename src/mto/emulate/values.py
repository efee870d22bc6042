"""Numbers on the emulated GPU: each operator on its tensors runs on the CPU, in these tensors' own memory."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

#: Operators that only allocate, or look at a tensor without its values: left to torch.
SPARED = {
    f"aten::{name}"
    for name in (
        *("detach", "set_", "resize_", "record_stream", "is_pinned", "_unsafe_view", "_reshape_alias", "lift_fresh"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    )
}
#: Operators after which a GPU's caller has waited for it.
WAITS = {
    *(f"aten::{name}" for name in ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "bincount")),
    *("aten::_linalg_eigh", "aten::repeat_interleave", "torchvision::nms"),
}
#: Matrix products, and which of their arguments are multiplied.
PRODUCTS = {
    **dict.fromkeys(("aten::mm", "aten::bmm"), slice(0, 2)),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm"), slice(1, 3)),
}


class Values(TorchDispatchMode):
    """Computes what the emulated runtime does not. Random numbers are those of the CPU's generator.

    Where the process allows TF32, a GPU rounds what float32 products multiply, and so does this.

    Attributes:
        waits: where a GPU's caller would have waited, by operator.
        products: matrix products, by the type of their numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.products: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_gpu = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda]
        wanted = next((torch.device(leaf) for leaf in leaves if isinstance(leaf, torch.device)), None)
        if not on_gpu and (wanted is None or wanted.type != "cuda"):
            return func(*args, **kwargs)
        name = func._schema.name
        if func.is_view or name in SPARED:
            return func(*args, **kwargs)
        if func.namespace == "mto":  # made of torch's operators, each of which comes here
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        self._count(name, func, args, kwargs, on_gpu, wanted)
        aliases: list[Tensor] = []

        def here(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                aliases.append(on_host(leaf))
                return aliases[-1]
            if isinstance(leaf, torch.device):
                return torch.device("cpu")
            return None if isinstance(leaf, torch.Generator) and leaf.device.type == "cuda" else leaf

        host_args, host_kwargs = tree_map(here, (args, kwargs))
        for option in ("pin_memory", "non_blocking"):
            if option in host_kwargs:
                host_kwargs[option] = False
        if name in PRODUCTS and torch.get_float32_matmul_precision() != "highest":
            host_args = list(host_args)
            host_args[PRODUCTS[name]] = [tf32(each) for each in host_args[PRODUCTS[name]]]
        out = SYNCHRONISED.get(name, func)(*host_args, **host_kwargs)
        device = wanted or (on_gpu[0].device if on_gpu else None)
        if device is not None and device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        memory = {alias.untyped_storage().data_ptr() for alias in aliases}

        def back(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if device is None or device.type == "cpu":
                return leaf.clone() if leaf.untyped_storage().data_ptr() in memory else leaf
            moved = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device)
            if leaf.numel():
                on_host(moved).copy_(leaf)
            return moved

        written = _written(func, args, kwargs)
        if not written:
            return tree_map(back, out)
        if len(func._schema.returns) == 1:
            return written[0]
        return tuple(written.get(i) if i in written else tree_map(back, each) for i, each in enumerate(out))

    def _count(
        self, name: str, func: Any, args: Any, kwargs: Any, on_gpu: list[Tensor], wanted: torch.device | None
    ) -> None:
        waits = name in WAITS
        if name == "aten::_to_copy":
            waits = bool(on_gpu) and wanted is not None and wanted.type == "cpu" and not kwargs.get("non_blocking")
        elif name == "aten::copy_":
            waits = not args[0].is_cuda and not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        elif name in ("aten::index", "aten::index_put_", "aten::_index_put_impl_"):  # a mask becomes indices first
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if waits:
            self.waits[name] += 1
        if name in PRODUCTS or name == "aten::convolution":
            self.products[args[-1].dtype if isinstance(args[-1], Tensor) else args[0].dtype] += 1


def on_host(tensor: Tensor) -> Tensor:
    """Returns a CPU tensor in the memory of an emulated GPU's tensor, with its shape and strides."""
    storage = tensor.untyped_storage()
    if not storage.nbytes() or not storage.data_ptr():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    raw = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    alias = torch.empty(0, dtype=tensor.dtype)
    alias.set_(
        torch.frombuffer(raw, dtype=torch.uint8).untyped_storage(),
        tensor.storage_offset(),
        tensor.shape,
        tensor.stride(),
    )
    return alias.conj() if tensor.is_conj() else alias


def tf32(x: Tensor) -> Tensor:
    """Returns float32 numbers rounded to TF32's 10 bits, halves to even; numbers of other types as they are."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[int, Any]:
    """Returns the arguments that an operator writes to and returns, by their place among what it returns."""
    given = {}
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            given[frozenset(argument.alias_info.before_set)] = value
    returned = {}
    for place, result in enumerate(func._schema.returns):
        if result.alias_info is not None and result.alias_info.is_write:
            returned[place] = given[frozenset(result.alias_info.before_set)]
    return returned


# ----------------------------------------------------- SyncBatchNorm's five operators, which torch has on GPUs alone
def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), _all_but_channels(x), correction=0)
    return mean, (variance + eps).rsqrt()


def _gather(
    x: Tensor,
    means: Tensor,
    inverses: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation over all processes, from each one's (R, C) and its number of values (R)."""
    weights = counts.view(-1, 1).float()
    total = weights.sum()
    mean = (means * weights).sum(0) / total
    variance = ((1 / inverses.square() - eps + (means - mean).square()) * weights).sum(0) / total
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
    if running_var is not None:
        running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def _element(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float
) -> Tensor:
    y = (x.float() - _per_channel(mean, x)) * _per_channel(inverse, x)
    if weight is not None:
        y = y * _per_channel(weight, x)
    return (y if bias is None else y + _per_channel(bias, x)).to(x.dtype)


def _reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor | None, *wanted: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    gradient = gradient.float()
    total = gradient.sum(_all_but_channels(x))
    product = (gradient * (x.float() - _per_channel(mean, x))).sum(_all_but_channels(x))
    return total, product, product * inverse if wanted[1] else None, total if wanted[2] else None


def _element_backward(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    total: Tensor,
    product: Tensor,
    counts: Tensor,
) -> Tensor:
    number = counts.sum()
    centred = (x.float() - _per_channel(mean, x)) * _per_channel(inverse.square() * product / number, x)
    result = (gradient.float() - _per_channel(total / number, x) - centred) * _per_channel(inverse, x)
    return (result if weight is None else result * _per_channel(weight, x)).to(x.dtype)


SYNCHRONISED: dict[str, Callable[..., Any]] = {
    "aten::batch_norm_stats": _stats,
    "aten::batch_norm_gather_stats_with_counts": _gather,
    "aten::batch_norm_elemt": _element,
    "aten::batch_norm_backward_reduce": _reduce,
    "aten::batch_norm_backward_elemt": _element_backward,
}
