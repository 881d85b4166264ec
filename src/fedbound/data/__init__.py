"""Data: data sets, their partition into silos, and each silo's training, validation and test samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedbound.errors import InputError
from fedbound.registry import DATASETS, PARTITIONS

if TYPE_CHECKING:
    from fedbound import study


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a classification task, not yet split; a text is one whose samples are sequences of predictions.

    Attributes:
        x: features, float32 [n, *shape]; tokens of a text, uint8 or int32 [n, context].
        y: labels 0 .. classes-1, int64 [n]; for a text, the token after each one of x, in the type of x.
        classes: number of classes; for a text, of tokens.
        name: name of the data set.
        owner: natural silo of each sample, int64 [n], -1 for none; None where the data set has no owners.
    """

    x: np.ndarray
    y: np.ndarray
    classes: int
    name: str
    owner: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def labels(self) -> tuple[np.ndarray, int]:
        """What partitions by label deal: classes, or the owners of a text's samples; int64 [n] from 0, and how many.

        Raises:
            InputError: a text has no owners.
        """
        if self.y.ndim == 1:
            return self.y, self.classes
        if self.owner is None:
            raise InputError(
                f"data.partition: a partition by label deals {self.name!r} by speaker, and none is named in it; "
                "use iid or quantity"
            )
        names, labels = np.unique(self.owner, return_inverse=True)
        return labels, len(names)


@dataclass(frozen=True, eq=False)
class Split:
    """Some samples of one silo: x float32 [n, *shape], y int64 [n]; of a text, both are tokens [n, context]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class SiloData:
    """One silo's samples, in three disjoint parts."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True, eq=False)
class Federation:
    """All silos of a study.

    Attributes:
        silos: each silo's samples, by silo number.
        shape: shape of one sample.
        classes: number of classes.
        name: name of the data set.
    """

    silos: list[SiloData] = field(repr=False)
    shape: tuple[int, ...]
    classes: int
    name: str


class Source(Protocol):
    """A registered data set with its options."""

    def count(self) -> int | None:
        """Number of samples, found cheaply (no heavy import, no loading); None where only loading shows it.

        Raises:
            InputError: a file or folder is missing or damaged.
        """
        ...

    def load(self) -> Dataset:
        """Read all samples.

        Raises:
            InputError: a file or folder is missing or damaged.
        """
        ...


class Partition(Protocol):
    """A registered partition with its options."""

    def check(self, count: int, silos: int) -> None:
        """Refuse what the number of samples alone shows to be impossible.

        Raises:
            InputError: naming the key, the value and the mend.
        """
        ...

    def assign(self, dataset: Dataset, silos: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Sample numbers of each silo: disjoint, sorted, int64; all samples, unless the partition says otherwise.

        Raises:
            InputError: the request is impossible for this data set.
        """
        ...


def load(choice: Mapping[str, Any]) -> Dataset:
    """The data set that a choice `{"name": "digits", **options}` describes.

    Raises:
        InputError: unknown name or option, or a file that is missing or damaged.
    """
    dataset: Dataset = DATASETS.make(choice).load()
    return dataset


def partition(data: study.Data, dataset: Dataset) -> list[np.ndarray]:
    """Sample numbers of each silo (sorted int64 arrays, disjoint), drawn from `data.seed`.

    Raises:
        InputError: the partition is impossible, or leaves a silo without a sample for each of its parts.
    """
    method: Partition = PARTITIONS.make(data.partition)
    method.check(len(dataset), data.silos)
    parts = method.assign(dataset, data.silos, np.random.default_rng([data.seed, 0]))
    needed = 3 if data.validation > 0 else 2
    for silo, part in enumerate(parts):
        if len(part) < needed:
            raise InputError(
                f"data.silos: of {data.silos} silos, silo {silo} gets {len(part)} of the {len(dataset)} samples of "
                f"{dataset.name!r}, but needs {needed} (training, test{', validation' * (needed == 3)}); "
                "use fewer silos, a larger min_samples or another partition"
            )
    return parts


def federation(data: study.Data) -> Federation:
    """Load, partition, and split each silo's samples into training, validation and test parts by `data.seed`.

    A silo's own split depends on the seed, its number and its samples only. Every silo has at least one training and
    one test sample, and at least one validation sample where `data.validation` > 0. All parts are views of one
    reordered copy of the data set.

    Raises:
        InputError: as `load` and `partition`.
    """
    dataset, parts = dealt(data)
    order = np.concatenate(parts)
    sizes = [len(part) for part in parts]
    return of_arrays(dataset.x[order], dataset.y[order], sizes, dataset.classes, dataset.name, data)


def dealt(data: study.Data) -> tuple[Dataset, list[np.ndarray]]:
    """The data set, and each silo's sample numbers in the order in which its parts take them.

    Raises:
        InputError: as `load` and `partition`.
    """
    dataset = load(data.dataset)
    parts = partition(data, dataset)
    return dataset, [np.random.default_rng([data.seed, 1, silo]).permutation(part) for silo, part in enumerate(parts)]


def of_arrays(
    x: np.ndarray, y: np.ndarray, sizes: Sequence[int], classes: int, name: str, data: study.Data
) -> Federation:
    """The silos whose samples lie one silo after the other in `x` and `y`, `sizes[silo]` of each; views of both."""
    starts = np.cumsum([0, *sizes])
    silos = [_silo(x[start:end], y[start:end], data) for start, end in itertools.pairwise(starts)]
    return Federation(silos, x.shape[1:], classes, name)


def _silo(x: np.ndarray, y: np.ndarray, data: study.Data) -> SiloData:
    train, validation = _sizes(len(y), data.validation, data.test)
    edges = (slice(0, train), slice(train, train + validation), slice(train + validation, None))
    return SiloData(*(Split(x[part], y[part]) for part in edges))


def _sizes(samples: int, validation: float, test: float) -> tuple[int, int]:
    """Numbers of training and validation samples; the rest, at least one, is the test part."""
    least = 1 if validation > 0 else 0
    tested = max(1, round(test * samples))
    validated = max(least, round(validation * samples))
    validated = max(least, min(validated, samples - tested - 1))
    tested = min(tested, samples - validated - 1)
    return samples - validated - tested, validated
