"""How figures are written for people: four digits at most, units that fit."""

from __future__ import annotations

import math


def size(count: float) -> str:
    """Bytes: `812 B`, `1.23 MB` (powers of 1000)."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def rate(count: float) -> str:
    """Bytes per second: `1.23 GB/s`."""
    return size(count) + ("/s" if math.isfinite(count) else "")


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return "–"
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    return f"{number(value, 3)} {units[step]}"


def number(value: float, digits: int = 4) -> str:
    """A figure with at most `digits` significant digits; an en dash where there is none."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e7:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """A time: `3.2 ms`, `4.1 s`, `12 min`, `3.5 h`."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0 s"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if abs(value) < limit:
            return f"{number(value * factor, 3)} {unit}"
    return f"{number(value / 3600, 3)} h"


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent: `96.2 %`."""
    return f"{100 * share:.{decimals}f} %" if math.isfinite(share) else "–"


def points(value: float) -> str:
    """Percentage points with sign kept, never `-0.00`: `0.31`."""
    return f"{round(value, 2) + 0.0:.2f}" if math.isfinite(value) else "–"


def times(factor: float) -> str:
    """A factor: `9.8 times`."""
    return f"{number(factor, 3)} times"


def count(number_of: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number_of:,} {noun}{'' if number_of == 1 else 's'}"
