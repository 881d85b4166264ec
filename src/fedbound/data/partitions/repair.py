"""A least size for every silo, shared by the partitions that draw sizes at random."""

from __future__ import annotations

import numpy as np

from fedbound.errors import InputError


def check_least(count: int, silos: int, least: int) -> None:
    """Raises InputError where `count` samples do not give each of `silos` silos `least` of them."""
    if silos * least > count:
        raise InputError(
            f"data.partition.min_samples: {least} samples for each of {silos} silos need {silos * least}, but the data "
            f"set has {count}; use at most {count // least} silos or a smaller min_samples"
        )


def top_up(parts: list[np.ndarray], least: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Move random samples from the largest silos to those with fewer than `least`, and no more than needed."""
    parts = [rng.permutation(part) for part in parts]
    for silo in range(len(parts)):
        while (missing := least - len(parts[silo])) > 0:
            donor = max(range(len(parts)), key=lambda other: len(parts[other]))
            given = min(missing, len(parts[donor]) - least)
            parts[silo] = np.concatenate([parts[silo], parts[donor][:given]])
            parts[donor] = parts[donor][given:]
    return parts
