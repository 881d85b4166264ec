"""Codecs: how one array becomes bytes and back. One file per codec; `wire.py` holds the message format."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from fedbound.registry import CODECS


class Codec(Protocol):
    """One codec with its options.

    Attributes:
        name: the registered name.
        id: number of the codec in the wire format; never reused.
        version: version of the codec's stream; a receiver with another version refuses it.
        error_bounded: whether |x - decoded| <= bound is promised (design law 2).
        lossless: whether decode returns exactly what was encoded, whatever the bound.
    """

    name: ClassVar[str]
    id: ClassVar[int]
    version: ClassVar[int]
    error_bounded: ClassVar[bool]
    lossless: ClassVar[bool]

    def encode(self, x: np.ndarray, bound: float) -> bytes:
        """Encode a C-contiguous float32 or float64 array of any shape; `bound` is absolute, 0 means lossless."""
        ...

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        """Decode into `out`, which has the shape and dtype that were encoded, and return it.

        Raises:
            ValueError: the payload does not decode to that shape and dtype.
        """
        ...


def get(name: str, **options: Any) -> Codec:
    """The codec called `name`; raises InputError on an unknown name or option."""
    return CODECS.get(name, **options)


def available() -> list[str]:
    """Names of all registered codecs."""
    return CODECS.available()


def by_id(codec: int) -> type[Codec]:
    """The codec class with this number in the wire format.

    Raises:
        ValueError: there is none.
    """
    for name in CODECS.available():
        factory: Any = CODECS.entry(name).factory
        if factory.id == codec:
            return factory
    raise ValueError(f"no codec has the number {codec}")
