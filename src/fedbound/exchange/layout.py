"""How a model's tensors lie in one flat float32 vector, and in the blocks that codecs see.

Both ends build the layout from the same tensor specifications, so a block's index names it on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

SMALL = 1024  # float tensors below this many values share one block: coded alone, headers would cap their ratio


@dataclass(frozen=True)
class Block:
    """A contiguous part `[start, stop)` of the flat vector that is coded as one array.

    `shape` is that of its tensor, from which a codec may gain; blocks of several tensors are flat.
    """

    name: str
    start: int
    stop: int
    tensors: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.stop - self.start


class Layout:
    """Order of a model's tensors in the flat vector.

    Large float tensors come first, each a block of its own, then all small ones as one block. Integer tensors
    (counters such as BatchNorm's) stay apart in their own dtype and are always sent losslessly.

    Args:
        specs: objects with `name`, `shape` and `dtype` (as in fedbound.models.state.TensorSpec), in model order.
    """

    def __init__(self, specs: Sequence[Any], small: int = SMALL):
        self.specs = list(specs)
        floats = [s for s in self.specs if not _is_integer(s.dtype)]
        self.integers = [s for s in self.specs if _is_integer(s.dtype)]
        large = [s for s in floats if prod(s.shape) >= small]
        little = [s for s in floats if prod(s.shape) < small]
        self.slices: dict[str, slice] = {}
        position = 0
        for spec in (*large, *little):
            self.slices[spec.name] = slice(position, position + prod(spec.shape))
            position += prod(spec.shape)
        self.size = position
        places = [(self.slices[s.name].start, self.slices[s.name].stop) for s in large]
        self.blocks = [Block(s.name, *place, (s.name,), tuple(s.shape)) for s, place in zip(large, places, strict=True)]
        if little:
            names = tuple(s.name for s in little)
            start = self.slices[names[0]].start
            self.blocks.append(Block("small:" + "+".join(names), start, position, names, (position - start,)))

    @property
    def raw_bytes(self) -> int:
        """Bytes of the model uncompressed: 4 per float value, integers in their dtype."""
        return 4 * self.size + sum(np.dtype(s.dtype).itemsize * prod(s.shape) for s in self.integers)

    def expected(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each record of a message that carries a model or an update, by name index."""
        blocks = [((block.size,), np.dtype("<f4")) for block in self.blocks]
        return blocks + [(tuple(s.shape), np.dtype(s.dtype)) for s in self.integers]

    def flatten(self, arrays: Sequence[np.ndarray]) -> State:
        """Copy a model's tensors (in model order, floats as float32) into a new State."""
        vector = np.empty(self.size, np.float32)
        integers = []
        for spec, array in zip(self.specs, arrays, strict=True):
            if _is_integer(spec.dtype):
                integers.append(np.array(array))
            else:
                vector[self.slices[spec.name]] = np.asarray(array, np.float32).reshape(-1)
        return State(vector, integers)

    def unflatten(self, state: State) -> list[np.ndarray]:
        """The model's tensors in model order; float ones are views into the state's vector."""
        integers = iter(state.integers)
        return [
            next(integers) if _is_integer(s.dtype) else state.vector[self.slices[s.name]].reshape(s.shape)
            for s in self.specs
        ]


@dataclass
class State:
    """A model as both ends hold it: a flat float32 vector and the integer tensors."""

    vector: np.ndarray
    integers: list[np.ndarray]

    def copy(self) -> State:
        return State(self.vector.copy(), [array.copy() for array in self.integers])


def _is_integer(dtype: str) -> bool:
    return not (dtype.startswith(("float", "bfloat", "torch.float", "torch.bfloat")))
