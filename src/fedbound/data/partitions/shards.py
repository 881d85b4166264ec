"""Shards: every silo holds samples of a few classes only.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017
(arXiv 1602.05629), section 3: samples sorted by label are cut into equal shards and each client gets two of them at
random. A shard there may straddle two labels; here every class is cut by itself, so that no silo holds more than
`classes_per_silo` classes, and each class is cut in as many shards as silos hold it.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.errors import InputError
from fedbound.registry import PARTITIONS, Options


class ShardsOptions(Options):
    """Options of `shards`."""

    classes_per_silo: int = Field(default=2, ge=1, description="number of classes that each silo holds")


@PARTITIONS.register("shards", ShardsOptions)
class Shards:
    """Every silo holds exactly `classes_per_silo` classes."""

    def __init__(self, options: ShardsOptions):
        self.per_silo = options.classes_per_silo

    def check(self, count: int, silos: int) -> None:
        if silos * self.per_silo > count:
            raise InputError(
                f"data.partition.classes_per_silo: {silos} silos of {self.per_silo} classes need at least "
                f"{silos * self.per_silo} samples, but the data set has {count}; use fewer silos or classes"
            )

    def assign(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        numbers, _ = dataset.labels()
        labels = np.unique(numbers)
        self._check_classes(len(labels), silos, dataset.name)
        holders = _deal(len(labels), silos, self.per_silo, rng)
        shares: list[list[np.ndarray]] = [[] for _ in range(silos)]
        for label, silos_of_label in zip(labels, holders, strict=True):
            samples = rng.permutation(np.flatnonzero(numbers == label))
            if len(samples) < len(silos_of_label):
                raise InputError(
                    f"data.partition.classes_per_silo: class {label} of {dataset.name!r} has {len(samples)} samples "
                    f"for {len(silos_of_label)} silos; use fewer silos or classes per silo"
                )
            for silo, part in zip(silos_of_label, np.array_split(samples, len(silos_of_label)), strict=True):
                shares[silo].append(part)
        return [np.sort(np.concatenate(share)) for share in shares]

    def _check_classes(self, classes: int, silos: int, name: str) -> None:
        if self.per_silo > classes:
            raise InputError(
                f"data.partition.classes_per_silo: {self.per_silo} is more than the {classes} classes of {name!r}; "
                f"use at most {classes}"
            )
        if silos * self.per_silo < classes:
            raise InputError(
                f"data.partition.classes_per_silo: {silos} silos of {self.per_silo} classes leave some of the "
                f"{classes} classes of {name!r} without a silo; use at least {-(-classes // silos)}"
            )


def _deal(classes: int, silos: int, per_silo: int, rng: np.random.Generator) -> list[list[int]]:
    """Silos that hold each class: as equally many per class as possible, `per_silo` different classes per silo."""
    holders: list[list[int]] = [[] for _ in range(classes)]
    for silo in rng.permutation(silos):
        # the classes held least so far, in random order among equals: never twice the same, and none is left over
        order = np.lexsort((rng.random(classes), np.array([len(held) for held in holders])))
        for label in order[:per_silo]:
            holders[label].append(int(silo))
    return holders
