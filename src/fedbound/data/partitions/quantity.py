"""Quantity skew: silos of different size, each with the same label distribution.

Source: Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022 (arXiv 2102.02079),
quantity skew: the shares of all samples are one draw from Dir_K(alpha).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.data.partitions.repair import check_least, top_up
from fedbound.registry import PARTITIONS, Options


class QuantityOptions(Options):
    """Options of `quantity`."""

    alpha: float = Field(default=0.5, gt=0, description="concentration; small means unlike sizes, large equal ones")
    min_samples: int = Field(default=8, ge=1, description="every silo gets at least so many samples")


@PARTITIONS.register("quantity", QuantityOptions)
class Quantity:
    """Quantity skew: sizes drawn from a Dirichlet distribution, labels alike."""

    def __init__(self, options: QuantityOptions):
        self.options = options

    def check(self, count: int, silos: int) -> None:
        check_least(count, silos, self.options.min_samples)

    def assign(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        self.check(len(dataset), silos)
        edges = np.cumsum(rng.dirichlet(np.full(silos, self.options.alpha)))[:-1] * len(dataset)
        parts = np.split(rng.permutation(len(dataset)), np.round(edges).astype(np.int64))
        return [np.sort(part) for part in top_up(parts, self.options.min_samples, rng)]
