"""Federated algorithms: what a silo changes about its training, and what the server makes of the updates.

One file per paper. An algorithm is a pair of pure parts around the round loop: `local_hook` for the silo and
`Accumulator`-style folding for the server, which sees one decoded update at a time (design law 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fedbound.registry import ALGORITHMS

Hook = Callable[[Any], None]


class Algorithm(Protocol):
    """One federated algorithm."""

    def local_hook(self, module: Any) -> Hook | None:
        """What runs in the silo between the backward pass and the optimizer step; None for nothing.

        Args:
            module: the torch module, holding the global model as received.
        """
        ...

    def begin(self, size: int) -> None:
        """Start an aggregation over models of `size` float values."""
        ...

    def fold(self, update: np.ndarray, samples: int, staleness: int) -> None:
        """Take in one silo's decoded update (flat float32, change against the model it trained on)."""
        ...

    def finish(self, model: np.ndarray) -> None:
        """Apply what was folded to the global model (flat float32) in place."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What must survive a restart between aggregations."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave."""
        ...


def get(name: str, **options: Any) -> Algorithm:
    """The algorithm called `name`; raises InputError on an unknown name or option."""
    return ALGORITHMS.get(name, **options)


def available() -> list[str]:
    """Names of all registered algorithms."""
    return ALGORITHMS.available()
