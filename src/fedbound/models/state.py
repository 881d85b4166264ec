"""The flat view of a model's state that both ends of the federation need: names, shapes, arrays, in one order.

Only what training changes travels: frozen parameters, such as the base of LoRA adapters, are no part of it.
"""

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


def exchanged(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's own tensors that travel, by name: trainable parameters and buffers, in state_dict's order.

    Frozen parameters stay where they are: every rank builds the same ones. A parameter with several names (tied
    weights) travels once, under its first.
    """
    from torch import nn

    chosen: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, nn.Parameter) or tensor.requires_grad:
            chosen.setdefault(id(tensor), (name, tensor.detach()))
    return dict(chosen.values())


def specs(module: torch.nn.Module) -> list[TensorSpec]:
    """Names, shapes and types of what `exchanged` gives.

    Raises:
        ValueError: a tensor is complex.
    """
    return [TensorSpec(name, tuple(t.shape), _exchange_dtype(name, t)) for name, t in exchanged(module).items()]


def _exchange_dtype(name: str, tensor: torch.Tensor) -> str:
    if tensor.is_floating_point():
        return "float32"
    if tensor.is_complex():
        raise ValueError(f"the tensor {name!r} is complex; only real and integer tensors can be exchanged")
    return str(tensor.dtype).removeprefix("torch.")


def get_state(module: torch.nn.Module) -> list[np.ndarray]:
    """Copies of what travels on the CPU, in the order of `specs`: float32 for every floating tensor, others as is."""
    import torch

    state = []
    for tensor in exchanged(module).values():
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
        for tensor, array in zip(exchanged(module).values(), arrays, strict=True):
            tensor.copy_(as_tensor(np.asarray(array)))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A CPU tensor that shares the array's memory; read-only, byte-swapped or negatively strided arrays are copied."""
    import torch

    usable = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if usable else array.astype(array.dtype.newbyteorder("=")))
