"""Files that a simulation reads: a table of devices, bandwidths over time, absences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedbound.errors import InputError

if TYPE_CHECKING:
    from fedbound.simulation.availability import Trace
    from fedbound.simulation.platform import Change

MEGABIT = 1e6 / 8  # bytes


def clients_of(text: str, count: int) -> np.ndarray:
    """(k,) int64: the clients that `3, 10-19` names, sorted.

    Raises:
        InputError: it cannot be read, or names a client that is not there.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise InputError(f"{text!r} is refused; write clients as numbers and ranges, such as 3, 10-19")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise InputError(f"{part.strip()!r} is refused; there are clients 0 to {count - 1}")
        found.update(range(first, last + 1))
    return np.array(sorted(found), np.int64)


@dataclass(frozen=True)
class Devices:
    """A table of devices; what it does not say is None.

    Attributes:
        bandwidth: (m,) float64, bytes/s.
        latency: (m,) float64, one-way, seconds.
        speed: (m,) float64, relative to a profiled silo.
        train_seconds: (m,) float64, of a round.
    """

    bandwidth: np.ndarray | None
    latency: np.ndarray | None
    speed: np.ndarray | None
    train_seconds: np.ndarray | None

    def rows(self, count: int, draw: np.random.Generator) -> np.ndarray:
        """(count,) int64, each client's row: its own where there are as many, else drawn with replacement."""
        size = next(len(x) for x in (self.bandwidth, self.latency, self.speed, self.train_seconds) if x is not None)
        return np.arange(count) if size == count else draw.integers(0, size, count)


def devices(path: str) -> Devices:
    """Read columns bandwidth (Mbit/s), latency (s), speed and train_seconds, any of them, from CSV or HDF5.

    Raises:
        InputError: there is none of them, both of the last two, or a number that cannot be.
    """
    table = _read(path)
    known = ("bandwidth", "latency", "speed", "train_seconds")
    if not any(key in table for key in known):
        raise InputError(f"{path}: a table of devices has at least one of the columns {', '.join(known)}")
    if "speed" in table and "train_seconds" in table:
        raise InputError(f"{path}: speed and train_seconds say the same twice; keep one of the columns")
    numbers = {key: _numbers(path, key, table[key]) for key in known if key in table}
    for key, values in numbers.items():
        least = "from 0" if key in ("latency", "train_seconds") else "above 0"
        bad = np.flatnonzero(~((values >= 0) if least == "from 0" else (values > 0)))
        if len(bad) or not len(values):
            what = f"{key} {values[bad[0]]:g} in row {bad[0] + 1}" if len(bad) else "an empty table"
            raise InputError(f"{path}: {what} is refused; give numbers {least}")
    bandwidth = numbers.get("bandwidth")
    return Devices(
        None if bandwidth is None else bandwidth * MEGABIT,
        numbers.get("latency"),
        numbers.get("speed"),
        numbers.get("train_seconds"),
    )


def bandwidths(path: str, clients: int) -> tuple[Change, ...]:
    """Read bandwidths over time: columns time (s), factor (of the nominal) and, optionally, client.

    `client` is a number, `server`, or `all`, every client; without the column, all. Each has its first row at time 0
    and its rows in the order of time: what holds before a later first row would be a gap.

    Raises:
        InputError: a row cannot be read, a time or factor cannot be, or there is a gap.
    """
    from fedbound.simulation.platform import Change

    table = _read(path)
    for key in ("time", "factor"):
        if key not in table:
            raise InputError(f"{path}: the column {key!r} is missing; a bandwidth trace has time, factor and client")
    times, factors = (_numbers(path, key, table[key]) for key in ("time", "factor"))
    names = [str(x).strip() for x in table.get("client", ["all"] * len(times))]
    changes: list[Change] = []
    last: dict[str, float] = {}
    for row, (time, factor, name) in enumerate(zip(times.tolist(), factors.tolist(), names, strict=True), 1):
        if name not in last and time != 0:
            raise InputError(f"{path}, row {row}: the trace of {name!r} has a gap from 0 to {time:g} s; begin it at 0")
        if name in last and time <= last[name]:
            raise InputError(f"{path}, row {row}: {time:g} s of {name!r} comes after {last[name]:g} s; sort by time")
        last[name] = time
        try:
            changes += [Change(time, client, factor) for client in _named(name, clients)]
        except InputError as error:
            raise InputError(f"{path}, row {row}: {error}") from None
    return tuple(changes)


def absences(path: str, clients: int) -> Trace:
    """Read columns client, left (s) and returned (s; empty: never).

    Raises:
        InputError: a column is missing, a client is not there, a time cannot be, or two absences overlap.
    """
    from fedbound.simulation.availability import Trace

    table = _read(path)
    for key in ("client", "left", "returned"):
        if key not in table:
            raise InputError(f"{path}: the column {key!r} is missing; a trace of absences has client, left, returned")
    who = _numbers(path, "client", table["client"]).astype(np.int64)
    left = _numbers(path, "left", table["left"])
    returned = _numbers(path, "returned", table["returned"], empty=np.inf)
    for row in np.flatnonzero((who < 0) | (who >= clients))[:1]:
        raise InputError(f"{path}, row {row + 1}: client {who[row]} is refused; there are clients 0 to {clients - 1}")
    try:
        return Trace(zip(who.tolist(), left.tolist(), returned.tolist(), strict=True))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _named(name: str, clients: int) -> Sequence[int]:
    """Whose link `server`, `all` or a number is."""
    from fedbound.simulation.platform import SERVER

    if name in ("server", "all"):
        return [SERVER] if name == "server" else range(clients)
    if not re.fullmatch(r"\d+(\.0)?", name):
        raise InputError(f"client {name!r} is refused; give a number, server or all")
    found: list[int] = clients_of(name.removesuffix(".0"), clients).tolist()
    return found


def _read(path: str) -> dict[str, np.ndarray]:
    """The columns of a CSV file with a header, or the one-dimensional data sets of an HDF5 file."""
    place = Path(path).expanduser()
    try:
        if place.suffix in (".h5", ".hdf5"):
            import h5py

            with h5py.File(place) as file:
                found = {k: v[()] for k, v in file.items() if isinstance(v, h5py.Dataset) and v.ndim == 1}
            table = {k: v.astype(str) if v.dtype.kind == "O" else v for k, v in found.items()}
        else:
            import pandas as pd

            frame = pd.read_csv(place, skipinitialspace=True)
            table = {str(key): frame[key].to_numpy() for key in frame}
    except (OSError, ValueError) as error:  # pandas' parser and decoding errors are ValueErrors
        raise InputError(f"{path} cannot be read as a table ({str(error).splitlines()[0]}); give CSV or HDF5") from None
    if len({len(column) for column in table.values()}) > 1:
        raise InputError(f"{path}: the columns are of different length; give one value per row")
    return table


def _numbers(path: str, key: str, values: np.ndarray, empty: float | None = None) -> np.ndarray:
    """The column as finite float64; an empty cell is `empty`, or a gap."""
    import pandas as pd

    numbers = np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"), np.float64)
    blank = pd.isna(pd.Series(values)).to_numpy()
    bad = np.flatnonzero(~np.isfinite(numbers) & ~(blank if empty is not None else False))
    for row in bad[:1]:
        what = f"a gap in {key}" if blank[row] else f"{key} {values[row]!s}"
        raise InputError(f"{path}, row {row + 1}: {what} is refused; give a number")
    return np.where(blank, empty, numbers) if empty is not None else numbers
