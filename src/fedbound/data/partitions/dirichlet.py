"""Label skew by Dirichlet draws: the smaller alpha, the fewer classes a silo sees.

Sources: `sizes: skewed` (each class is dealt to the silos by a draw from Dir_K(alpha), so that sizes differ too) is
Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019 (arXiv 1905.12022), drawn
again until every silo has `min_samples` as in Li et al., "Federated Learning on Non-IID Data Silos",
ICDE 2022 (arXiv 2102.02079). `sizes: equal` (each silo draws its own class distribution q ~ Dir(alpha p), p the data
set's, and fills up to the common size without replacement) is Hsu et al., "Measuring the Effects of Non-Identical
Data Distribution for Federated Visual Classification", 2019 (arXiv 1909.06335).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.data.partitions.repair import check_least, top_up
from fedbound.registry import PARTITIONS, Options

_DRAWS = 10


class DirichletOptions(Options):
    """Options of `dirichlet`."""

    alpha: float = Field(default=0.5, gt=0, description="concentration; small means skewed, large nearly iid")
    sizes: Literal["skewed", "equal"] = Field(
        default="skewed", description="skewed: silos differ in size too (Yurochkin et al.); equal: Hsu et al."
    )
    min_samples: int = Field(default=8, ge=1, description="every silo gets at least so many samples")


@PARTITIONS.register("dirichlet", DirichletOptions)
class Dirichlet:
    """Label skew: class shares drawn from a Dirichlet distribution."""

    def __init__(self, options: DirichletOptions):
        self.options = options

    def check(self, count: int, silos: int) -> None:
        check_least(count, silos, self.options.min_samples)

    def assign(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        self.check(len(dataset), silos)
        if self.options.sizes == "equal":
            return self._equal(dataset, silos, rng)
        for _ in range(_DRAWS):
            parts = self._skewed(dataset, silos, rng)
            if min(len(part) for part in parts) >= self.options.min_samples:
                break
        return [np.sort(part) for part in top_up(parts, self.options.min_samples, rng)]

    def _skewed(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        shares: list[list[np.ndarray]] = [[] for _ in range(silos)]
        labels, count = dataset.labels()
        for label in range(count):
            samples = rng.permutation(np.flatnonzero(labels == label))
            edges = np.cumsum(rng.dirichlet(np.full(silos, self.options.alpha)))[:-1] * len(samples)
            for share, part in zip(shares, np.split(samples, np.round(edges).astype(np.int64)), strict=True):
                share.append(part)
        return [np.concatenate(share) for share in shares]

    def _equal(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        labels, count = dataset.labels()
        pools = [rng.permutation(np.flatnonzero(labels == label)) for label in range(count)]
        present = np.array([len(pool) > 0 for pool in pools])
        prior = np.array([len(pool) for pool in pools])[present] / len(dataset)
        parts = []
        for share in np.array_split(np.arange(len(dataset)), silos):
            wanted = np.zeros(count)
            wanted[present] = rng.dirichlet(np.maximum(self.options.alpha * prior, 1e-6))
            counts = _fill(wanted, np.array([len(pool) for pool in pools]), len(share), rng)
            parts.append(np.sort(np.concatenate([pool[:n] for pool, n in zip(pools, counts, strict=True)])))
            pools = [pool[n:] for pool, n in zip(pools, counts, strict=True)]
        return parts


def _fill(wanted: np.ndarray, left: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `size` labels from the distribution `wanted`, renormalised over the classes that have samples left."""
    counts = np.zeros(len(left), dtype=np.int64)
    while (missing := size - counts.sum()) > 0:
        weights = np.where(counts < left, wanted, 0.0)
        if weights.sum() <= 0:
            weights = np.maximum(left - counts, 0).astype(float)
        counts = np.minimum(counts + rng.multinomial(missing, weights / weights.sum()), left)
    return counts
