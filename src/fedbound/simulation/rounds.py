"""What is kept of each aggregation: one row of numbers, since an asynchronous federation has millions of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, overload

import numpy as np


@dataclass(frozen=True, slots=True)
class Round:
    """One aggregation. Times are in seconds; parts are means over its clients, and add up to `end` less their dispatch.

    Attributes:
        round: from 1.
        start: when the first of its models was dispatched.
        end: when the new model was ready.
        download: from dispatch to model received; the server's queue and the latency are in it.
        compute: decoding the model, evaluation, training and what else the client does.
        codec: encoding.
        upload: from update ready to update received; a slot's queue and the latency are in it.
        wait: from the update's arrival to the last one's of its aggregation.
        server: from the last arrival to the new model.
        slowest: client that arrived last.
        clients: number of updates folded.
        staleness: mean number of versions that the model aged while its clients worked.
        work: local steps folded, over the workload's `steps`; as many as clients where the scheduler leaves them alone.
        up_bytes: of the updates folded, headers included.
        down_bytes: of the models that they started from.
    """

    round: int
    start: float
    end: float
    download: float
    compute: float
    codec: float
    upload: float
    wait: float
    server: float
    slowest: int
    clients: int
    staleness: float
    work: float
    up_bytes: float
    down_bytes: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


COLUMNS = tuple(field.name for field in fields(Round))
_WHOLE = ("round", "slowest", "clients")
_PLACES = {name: place for place, name in enumerate(COLUMNS)}


class Rounds(Sequence[Round]):
    """A list of rounds, held as numbers: 120 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def append(self, one: Round) -> None:
        self._values.extend(astuple(one))

    def add(self, values: Sequence[float]) -> None:
        """`append` of the round with these values, in the order of `COLUMNS`."""
        self._values.extend(values)

    def column(self, name: str) -> np.ndarray:
        """(r,) one attribute of all rounds: float64, or int64 where it counts."""
        if name == "seconds":
            return self.column("end") - self.column("start")
        values = np.array(self._values).reshape(-1, len(COLUMNS))[:, _PLACES[name]]
        return values.astype(np.int64) if name in _WHOLE else values

    def __len__(self) -> int:
        return len(self._values) // len(COLUMNS)

    @overload
    def __getitem__(self, index: int) -> Round: ...
    @overload
    def __getitem__(self, index: slice) -> list[Round]: ...
    def __getitem__(self, index: int | slice) -> Round | list[Round]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index] * len(COLUMNS)
        row: dict[str, Any] = dict(zip(COLUMNS, self._values[at : at + len(COLUMNS)], strict=True))
        return Round(**{**row, **{key: int(row[key]) for key in _WHOLE}})

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Rounds) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
