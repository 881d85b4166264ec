"""FedCompass's aggregation: updates weighted by samples and discounted by staleness.

Source: Li et al., "FedCompass: Efficient Cross-Silo Federated Learning on Heterogeneous Client Devices Using a
Computing Power-Aware Scheduler", ICLR 2024 (arXiv 2309.14675), after APPFL 1.12.0's code in its form for updates: w <-
w + sum_i alpha s(tau_i) p_i D_i, with p_i the silo's share of all silos' samples and s polynomial with a = 0.5. The
released FedCompass code has (tau + 1)^{+a}, by which stale models weigh more; the sign is mended here as in APPFL.
Which silo takes how many steps is the scheduler's affair (`compass`).

p_i needs the samples of all silos, of which each is known from its first update on; until then a silo that has not
answered counts as the mean of those that have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from fedbound.exchange.layout import Layout
from fedbound.federation.algorithms import Client, Contribution, accumulate
from fedbound.federation.algorithms.staleness import StalenessOptions
from fedbound.registry import ALGORITHMS


class FedCompassOptions(StalenessOptions):
    """Options of `fedcompass`."""

    alpha: float = Field(default=0.9, gt=0, le=1, description="weight of a fresh update")


@ALGORITHMS.register("fedcompass", FedCompassOptions)
class FedCompass:
    """Updates weighted by samples and discounted by staleness (Li et al. 2024)."""

    synchronous = False
    needs_base = False
    wants_global_loss = False

    def __init__(self, options: FedCompassOptions):
        self.options = options
        self.samples: dict[int, int] = {}
        self.total = np.zeros(0)
        self.silos = 0

    def check(self, module: Any) -> None:
        """Any model will do."""

    def client(self, layout: Layout) -> Client:
        return Client()

    def begin(self, size: int, silos: int) -> None:
        self.total = np.zeros(size)
        self.silos = silos

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        self.samples[about.silo] = about.samples
        known = len(self.samples)
        everyone = sum(self.samples.values()) * max(self.silos, known) / known
        share = about.samples / everyone
        weight = self.options.alpha * self.options.weight(about.staleness) * share
        accumulate(self.total, weight, update)

    def finish(self, model: np.ndarray) -> None:
        model += self.total.astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"samples": np.array(sorted(self.samples.items()), np.int64).reshape(-1, 2)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.samples = {int(silo): int(count) for silo, count in state["samples"]}
