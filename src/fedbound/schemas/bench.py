"""The table of `fedbound bench NAME --out FILE.h5`."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import real, text

BENCH_ROWS = Schema(
    {
        "bench": text("name of the bench"),
        "case": text("what was measured"),
        "peer": text("what it was compared with in the same run; '' for a figure of its own"),
        "metric": text("name of the figure"),
        "value": real("the row's own", "the figure; NaN where it is a text", measured=True),
        "text": text("the figure where it is a text: the machine and versions", measured=True),
        "unit": text("unit of the figure; 1 for a plain number"),
    }
)
