"""Readable names of scenarios: what differs within the study is said, what is the same everywhere is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedbound.artifacts import canonical

Flat = dict[str, Any]


def flatten(scenario: Mapping[str, Any], prefix: str = "") -> Flat:
    """A scenario with dotted keys: `{"data": {"silos": 4}}` becomes `{"data.silos": 4}`."""
    flat: Flat = {}
    for key, value in scenario.items():
        if key == "exchange" and isinstance(value, Mapping):
            value = _one_way(value)
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _one_way(exchange: Mapping[str, Any]) -> dict[str, Any]:
    """An exchange without what its downlink has in common with its uplink: a label need not say it twice."""
    same = {"downlink": "codec", "downlink_bound": "bound"}
    return {key: value for key, value in exchange.items() if value != exchange.get(same.get(key, ""), _NEVER)}


_NEVER = object()  # equal to nothing


def varying(flats: Sequence[Flat]) -> list[str]:
    """Keys that take two or more values among the scenarios that have them; None counts as not having one."""
    seen: dict[str, set[str]] = defaultdict(set)
    for flat in flats:
        for key, value in flat.items():
            if value is not None:
                seen[key].add(canonical(value))
    return [key for key, values in seen.items() if len(values) > 1]


def extras(flat: Flat, keys: Iterable[str]) -> str:
    """`fedprox, learning_rate=0.1`: the values of `keys` in this scenario; a part's name stands for itself."""
    words = []
    for key in keys:
        value = flat.get(key)
        if value is None:
            continue
        last = key.rsplit(".", 1)[-1]
        words.append(text(value) if last == "name" else f"{last}={text(value)}")
    return ", ".join(words)


def text(value: Any) -> str:
    """A scalar as a person writes it: `0.1`, `calibrated`, `yes`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def part(choice: Mapping[str, Any] | None) -> str:
    """The name of a part `{"name": ..., **options}`; '' for none."""
    return str(choice["name"]) if choice else ""


def bound(exchange: Mapping[str, Any]) -> str:
    """The bound as written: `calibrated`, `0.1` (relative), `0.001 abs`; '' where the codec has none."""
    value = exchange.get("bound")
    if value is None:
        return ""
    mode = exchange.get("bound_mode")
    return f"{text(value)} {mode}" if mode in ("abs", "ratio", "std", "rel_quantile") else text(value)


def exchange(choice: Mapping[str, Any]) -> str:
    """Codec and bound: `sz3 calibrated`, `lossless`; the codec 'none' is called `uncompressed`."""
    name = part(choice["codec"])
    guarded = "guarded" if choice.get("guard") else ""
    return " ".join(filter(None, ["uncompressed" if name == "none" else name, bound(choice), guarded]))


def unique(labels: Sequence[str], identities: Sequence[str]) -> list[str]:
    """Labels with a number added where two different identities would share one."""
    taken: dict[str, list[str]] = defaultdict(list)
    found = []
    for label, identity in zip(labels, identities, strict=True):
        owners = taken[label]
        if identity not in owners:
            owners.append(identity)
        number = owners.index(identity)
        found.append(f"{label} #{number + 1}" if number else label)
    return found
