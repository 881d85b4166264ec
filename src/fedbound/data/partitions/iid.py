"""Independent, identically distributed silos of equal size (within one sample)."""

from __future__ import annotations

import numpy as np

from fedbound.data import Dataset
from fedbound.errors import InputError
from fedbound.registry import PARTITIONS, Options


@PARTITIONS.register("iid")
class Iid:
    """Every silo gets an equal, random share of all samples."""

    def __init__(self, options: Options):
        pass

    def check(self, count: int, silos: int) -> None:
        if silos > count:
            raise InputError(f"data.silos: {silos} silos cannot share {count} samples; use at most {count}")

    def assign(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        return [np.sort(part) for part in np.array_split(rng.permutation(len(dataset)), silos)]
