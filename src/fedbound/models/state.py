"""The flat view of a model's state that both ends of the federation need: names, shapes, arrays, in one order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as it is exchanged: dtype is "float32" for every floating tensor, else the tensor's own."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def specs(module: torch.nn.Module) -> list[TensorSpec]:
    """All tensors of `module.state_dict()` (parameters and buffers), in its order.

    Raises:
        ValueError: a tensor is complex.
    """
    return [TensorSpec(name, tuple(t.shape), _exchange_dtype(name, t)) for name, t in module.state_dict().items()]


def _exchange_dtype(name: str, tensor: torch.Tensor) -> str:
    if tensor.is_floating_point():
        return "float32"
    if tensor.is_complex():
        raise ValueError(f"the tensor {name!r} is complex; only real and integer tensors can be exchanged")
    return str(tensor.dtype).removeprefix("torch.")


def get_state(module: torch.nn.Module) -> list[np.ndarray]:
    """Copies of all tensors on the CPU, in the order of `specs`: float32 for every floating tensor, others as is."""
    import torch

    state = []
    for tensor in module.state_dict().values():
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        state.append(tensor.detach().to("cpu", dtype, copy=True).contiguous().numpy())
    return state


def set_state(module: torch.nn.Module, arrays: Sequence[np.ndarray]) -> None:
    """Write `arrays`, in the order of `specs`, into the module's own tensors, on whatever device they are.

    Raises:
        ValueError: the number, a shape or a kind of dtype differs from the module's; nothing is changed then.
    """
    import torch

    expected = specs(module)
    if len(arrays) != len(expected):
        raise ValueError(f"{len(arrays)} arrays for a module of {len(expected)} tensors")
    for spec, array in zip(expected, arrays, strict=True):
        if np.shape(array) != spec.shape:
            raise ValueError(f"the tensor {spec.name!r} has shape {spec.shape}, not {np.shape(array)}")
        if np.asarray(array).dtype.kind != np.dtype(spec.dtype).kind:
            raise ValueError(f"the tensor {spec.name!r} is exchanged as {spec.dtype}, not {np.asarray(array).dtype}")
    with torch.no_grad():
        for tensor, array in zip(module.state_dict().values(), arrays, strict=True):
            tensor.copy_(as_tensor(np.asarray(array)))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A CPU tensor that shares the array's memory; read-only, byte-swapped or negatively strided arrays are copied."""
    import torch

    usable = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if usable else array.astype(array.dtype.newbyteorder("=")))
