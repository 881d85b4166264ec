"""What a bench gives: flat rows, and how they are written and shown."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbound import artifacts, schemas
from fedbound.artifacts import Artifact

_LIBRARIES = ("numpy", "torch", "pysz", "hdf5plugin", "zfpy", "numba", "zstandard", "libpressio")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        bench: name of the bench.
        case: what was measured.
        peer: what it was compared with in the same run; '' for a figure of its own.
        metric: name of the figure.
        value: the figure; a text only in the rows that describe the machine.
        unit: its unit; "1" for a plain number.
    """

    bench: str
    case: str
    peer: str
    metric: str
    value: float | str
    unit: str


def machine(bench: str) -> list[Row]:
    """The machine, and the versions of the libraries that matter."""
    import fedbound

    found = {"fedbound": fedbound.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    rows = [Row(bench, "machine", "", "processor", _processor(), ""), Row(bench, "machine", "", "cores", cores, "1")]
    return rows + [Row(bench, "machine", "", name, version, "version") for name, version in found.items()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """The rows as a JSON list; figures that are not finite become null."""
    listed = [
        {**asdict(row), "value": None if isinstance(row.value, float) and not math.isfinite(row.value) else row.value}
        for row in rows
    ]
    artifacts.write_atomically(path, (json.dumps(listed, indent=1) + "\n").encode())


def write_artifact(path: Path, name: str, quick: bool, rows: Sequence[Row]) -> None:
    """The rows as an artifact of the stage "bench"; texts go to the column `text`."""
    table = schemas.BENCH_ROWS.table(
        [
            {
                **{key: getattr(row, key) for key in ("bench", "case", "peer", "metric", "unit")},
                "value": math.nan if isinstance(row.value, str) else float(row.value),
                "text": row.value if isinstance(row.value, str) else "",
            }
            for row in rows
        ]
    )
    scenario = {"bench": name, "quick": quick}
    artifacts.write(path, Artifact("bench", name, scenario, None, {"rows": table}, {}, artifacts.stamp()))


def find(rows: Iterable[Row], metric: str, case: str, peer: str = "") -> float:
    """The figure of one case; NaN where it was not measured."""
    found = [row.value for row in rows if (row.metric, row.case, row.peer) == (metric, case, peer)]
    return float(found[0]) if found else math.nan


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns under their heads: the first one to the left, the others to the right."""
    table = [list(head), *(list(line) for line in lines)]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )
