"""Which strategy reaches the target first, and by how much: the simulations' answer in words."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from fedbound.report import text

_PLACE = ["clients", "client_bandwidth", "server_bandwidth"]
_STRATEGY = ["scheduler", "setting"]
_NAMED = 3  # strategies beside the first; of more, the last


def sentences(simulations: pd.DataFrame) -> list[str]:
    """One sentence for each population and network where at least two strategies reach the target."""
    reached = simulations[np.isfinite(simulations.target_seconds)]
    varying = [key for key in _PLACE if key == "clients" or simulations[key].nunique() > 1]
    found: list[str] = []
    for place, rows in reached.groupby(varying):
        found += _sentence(dict(zip(varying, place, strict=True)), rows)
    return found


def html(simulations: pd.DataFrame) -> str:
    """The sentences as a list under a heading; '' where there is no race."""
    items = "".join(f"<li>{escape(one)}</li>" for one in sentences(simulations))
    return f"<h3>Which strategy reaches the target first?</h3><ul>{items}</ul>" if items else ""


def _sentence(place: dict[str, float], rows: pd.DataFrame) -> Iterator[str]:
    times = rows.groupby(_STRATEGY, sort=False).target_seconds.mean().sort_values(kind="stable")
    if len(times) < 2:
        return
    names, took = list(times.index), times.to_numpy()
    target = " to ".join(dict.fromkeys(text.percent(float(one), 1) for one in (rows.target.min(), rows.target.max())))
    ratios = took / took[0] if took[0] else np.full(len(took), np.nan)
    later = range(1, len(names)) if len(names) <= _NAMED + 1 else [*range(1, _NAMED), len(names) - 1]
    others = [f"{_name(names[i])} takes {text.times(float(ratios[i]))} as long" for i in later]
    if len(names) > 2:
        others[-1] += " and is last"
    first = f"{_name(names[0])} reaches {target} first, in {text.seconds(float(took[0]))}"
    yield f"{_where(place)}: {first}; {'; '.join(others)}."


def _name(strategy: Any) -> str:
    return f"{strategy[0]} ({strategy[1]})"


def _where(place: dict[str, float]) -> str:
    words = [text.count(int(place["clients"]), "client")]
    if "client_bandwidth" in place:
        words.append(f"links of {text.number(place['client_bandwidth'])} Mbit/s")
    if "server_bandwidth" in place:
        words.append(f"a server link of {text.number(place['server_bandwidth'])} Mbit/s")
    return ", ".join(words)
