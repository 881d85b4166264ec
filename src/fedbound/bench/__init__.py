"""Measurements of fedbound against its peers: `fedbound bench NAME [--quick] [--json FILE] [--out FILE] [--plot FILE]`.

One file per bench. A bench is a module with

- `run(quick, say) -> list[Row]`: measures and returns flat rows; `say(line)` tells how far it is. Whatever is compared
  is measured in that same run, and ratios to a peer are rows of their own.
- `table(rows) -> str`: the figures as text for the screen.
- `plot(rows, path)`: the figures as one picture.

An exit code of 0 means measured, not passed. Nothing here is imported by a stage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedbound.errors import InputError, nearest

if TYPE_CHECKING:
    from fedbound.bench.rows import Row

BENCHES = {
    "codecs": "ratio, speed and error of every codec on synthetic tails and on a model's real weights and updates",
    "round": "what a round costs beside its training, against a minimal FedAvg in mpi4py",
    "async": "time for equal updates when one silo is slow: sync, async, buffered, compass, over MPI",
    "exchange": "accuracy and bytes both ways: FedSZ's recipe, ours, and what each part of ours brings",
    "admm": "accuracy of FedAvg, ICEADMM and IIADMM under Laplace noise at equal and unequal step sizes",
    "privacy": "published figures of DP quantization and accounting beside ours; speed of accounting and noise",
    "auditing": "attacks: codecs as privacy, one-run audits of private sums, membership inference",
    "private_training": "federated training through DP quantization at silo and record level: accuracy, bits, epsilon",
    "simulate": "wall time, memory and cost per event of the simulator at 100 to 1,000,000 clients, beside SimGrid",
    "predict": "round times predicted from one profiled setting against measured ones, over MPI with shaped links",
    "study": "a study of 1,000 scenarios: planning it, and collecting its results",
    "calibration": "the calibrated bound against a grid on fresh seeds, bounds per tensor and silo, the error's theory",
}
_MODULES = {"async": "asynchronous"}  # `async` is a keyword
Say = Callable[[str], None]


def get(name: str) -> Any:
    """The module of the bench called `name`; raises InputError that names the nearest one."""
    if name not in BENCHES:
        raise InputError(f"unknown bench {name!r}; {nearest(name, BENCHES)}")
    return importlib.import_module(f"fedbound.bench.{_MODULES.get(name, name)}")


def run(name: str, quick: bool, say: Say) -> list[Row]:
    """Measure; the rows of the machine come first."""
    from fedbound.bench.rows import machine

    return [*machine(name), *get(name).run(quick, say)]
