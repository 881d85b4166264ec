"""Lists in a section make a sweep: every section expanded to the list of its settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fedbound.artifacts import canonical
from fedbound.errors import InputError, shown
from fedbound.registry import Registry, explain, misread, takes_list
from fedbound.study.parts import LARGEST_SEED, Part, Section


def expand(model: type[Section], raw: Any, name: str) -> list[Any]:
    """All settings of one section: the product of its lists, validated, in the order written, without repeats.

    A section may also be a list of mappings, each of which is expanded by itself.

    Raises:
        InputError: naming section, key, value and mend.
    """
    if raw is None:
        raw = {}
    if isinstance(raw, list) and raw and all(isinstance(one, Mapping) for one in raw):
        return _unique(s for i, one in enumerate(raw) for s in expand(model, one, f"{name}[{i}]"))
    if not isinstance(raw, Mapping):
        raise _no_mapping(model, raw, name)
    axes: list[list[tuple[str, Any]]] = []
    for key, value in raw.items():
        values = value if isinstance(value, list) and not takes_list(model, str(key)) else [value]
        if not values:
            raise InputError(f"{name}.{key}: the list is empty; give at least one value or remove the key")
        registry = registry_of(model, str(key))
        if registry is not None:
            values = [one for item in values for one in _expanded(registry, item, f"{name}.{key}")]
        axes.append([(str(key), one) for one in values])
    return _unique(setting(model, dict(pairs), name) for pairs in itertools.product(*axes))


def _no_mapping(model: type[Section], raw: Any, name: str) -> InputError:
    return InputError(f"{name}: {shown(raw)} is refused: write a mapping of keys ({', '.join(model.model_fields)})")


def setting(model: type[Section], values: Any, name: str) -> Any:
    if values is not None and not isinstance(values, Mapping):
        raise _no_mapping(model, values, name)
    values = {str(key): value for key, value in (values or {}).items()}
    problem = misread(model, values)
    if problem:
        raise InputError(f"{name}.{problem}")
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(explain(error, model, name)) from None


def registry_of(model: type[BaseModel], key: str) -> Registry | None:
    field = model.model_fields.get(key)
    markers = [m for m in field.metadata if isinstance(m, Part)] if field else []
    return markers[0].registry if markers else None


def _expanded(registry: Registry, item: Any, where: str) -> list[Any]:
    try:
        return registry.expand(item)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def choices(registry: Registry, raw: Any, where: str) -> list[dict[str, Any]]:
    items = raw if isinstance(raw, list) else [raw]
    if not items:
        raise InputError(f"{where}: the list is empty; give at least one value or remove the key")
    choices = [one for item in items for one in _expanded(registry, item, where)]
    try:
        return _unique(registry.normalise(choice) for choice in choices)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def seeds_of(raw: Any) -> tuple[int, ...]:
    seeds = raw if isinstance(raw, list) else [raw]
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seeds: {shown(seed)} is refused: seeds are whole numbers from 0 to {LARGEST_SEED}")
    if not seeds:
        raise InputError("seeds: the list is empty; give at least one seed")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: {shown(seeds)} repeats a seed; give different ones")
    return tuple(seeds)


def _unique(items: Iterable[Any]) -> list[Any]:
    kept: dict[str, Any] = {}
    for item in items:
        kept.setdefault(canonical(item.model_dump(mode="json") if isinstance(item, BaseModel) else item), item)
    return list(kept.values())
