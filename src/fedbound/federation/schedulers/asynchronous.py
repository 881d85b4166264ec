"""Asynchronous aggregation: every update is aggregated alone, at once, and its silo sent off with the new model.

Source: Xie, Koyejo and Gupta, "Asynchronous Federated Optimization" (FedAsync), arXiv 1903.03934. How much weight a
stale update gets is the algorithm's affair, not the scheduler's.

This is `buffered` with a buffer of one; leaving, coming back and rejected updates are treated as there.
"""

from __future__ import annotations

from collections.abc import Callable

from fedbound.federation.schedulers.buffered import Buffered
from fedbound.registry import SCHEDULERS, Options


@SCHEDULERS.register("async", Options)
def asynchronous(options: Options) -> Callable[..., Async]:
    """Every update is aggregated alone as it arrives (FedAsync)."""
    return lambda rounds, seed=0: Async(rounds)


class Async(Buffered):
    """One update per aggregation.

    Args:
        rounds: aggregations, and so updates, until the end.
    """

    def __init__(self, rounds: int):
        super().__init__(rounds, buffer=1)
