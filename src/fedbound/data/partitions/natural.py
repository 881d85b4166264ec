"""Natural silos: samples stay with their owner (hospital, writer, site), as in the LEAF and FLamby benchmarks.

Sources: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018 (arXiv 1812.01097); Ogier du Terrail et al.,
"FLamby", NeurIPS Datasets and Benchmarks 2022 (arXiv 2210.04620).
"""

from __future__ import annotations

import numpy as np

from fedbound.data import Dataset
from fedbound.errors import InputError
from fedbound.registry import PARTITIONS, Options


@PARTITIONS.register("natural")
class Natural:
    """Every owner's samples stay together; samples without an owner (-1) are left out.

    With as many owners as silos, silo k is the k-th owner. With more owners, whole owners share a silo: the largest
    owner first, each to the silo that has the fewest samples so far.
    """

    def __init__(self, options: Options):
        pass

    def check(self, count: int, silos: int) -> None:
        if silos > count:
            raise InputError(f"data.silos: {silos} silos cannot share {count} samples; use at most {count}")

    def assign(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        owner = dataset.owner
        if owner is None or not (owner >= 0).any():
            raise InputError(
                f"data.partition: 'natural' needs the owner of each sample, which {dataset.name!r} does not have; "
                "use another partition, or data with an owner column or one file per silo"
            )
        owners = np.unique(owner[owner >= 0])
        if silos > len(owners):
            raise InputError(
                f"data.silos: {silos} silos are more than the {len(owners)} owners in {dataset.name!r}; "
                f"use at most {len(owners)}"
            )
        return _grouped([np.flatnonzero(owner == one) for one in owners], silos)


def _grouped(owned: list[np.ndarray], silos: int) -> list[np.ndarray]:
    if len(owned) == silos:
        return owned
    groups: list[list[np.ndarray]] = [[] for _ in range(silos)]
    sizes = [0] * silos
    for samples in sorted(owned, key=len, reverse=True):
        silo = sizes.index(min(sizes))
        groups[silo].append(samples)
        sizes[silo] += len(samples)
    return [np.sort(np.concatenate(group)) for group in groups]
