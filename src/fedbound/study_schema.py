"""JSON Schema of the study file, for editors: made from the same models that validate it."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel

from fedbound.registry import (
    ALGORITHMS,
    CODECS,
    DATASETS,
    ENGINES,
    MECHANISMS,
    MODELS,
    PARTITIONS,
    SCHEDULERS,
    Registry,
    takes_list,
)
from fedbound.study import FIXED, LARGEST_SEED, NAME, OFF, SWEPT, Part, Section, registry_of


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the whole study file, with all registered parts and their options.

    It says what may be written, lists for sweeps included; what only several keys together show (a bound for a
    lossless codec, shares that add up to more than 1) is for `parse` to refuse.
    """
    definitions: dict[str, Any] = {}
    for registry in (DATASETS, PARTITIONS, MODELS, ALGORITHMS, SCHEDULERS, CODECS, MECHANISMS, ENGINES):
        definitions[_anchor(registry.kind)] = _part_schema(registry, definitions)
    seed = {"type": "integer", "minimum": 0, "maximum": LARGEST_SEED}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fedbound study",
        "type": "object",
        "required": ["study"],
        "additionalProperties": False,
        "properties": {
            "study": {"type": "string", "pattern": f"^{NAME}$", "description": "name of the study and its folder"},
            "seeds": {
                "anyOf": [seed, {"type": "array", "items": seed, "minItems": 1, "uniqueItems": True}],
                "default": [0, 1, 2],
                "description": "one training run per seed and setting; the first seed's runs are simulated",
            },
            "model": {**_sweep(_reference(MODELS)), "default": "mlp", "description": "the model"},
            **{key: _section_schema(model, definitions, swept=True, off=key in OFF) for key, model in SWEPT.items()},
            **{key: _section_schema(model, definitions, swept=False) for key, model in FIXED.items()},
        },
        "$defs": definitions,
    }


def _section_schema(
    model: type[Section], definitions: dict[str, Any], swept: bool, off: bool = False
) -> dict[str, Any]:
    schema = _model_schema(model, definitions, model.__name__, swept)
    types = ["object", "null"]  # a section left empty has its defaults
    more: dict[str, Any] = {}
    if swept:
        types.append("array")
        more |= {"items": schema, "minItems": 1}
    if off:
        types.append("boolean")
        more |= {"not": {"const": True}}
    return {**schema, "type": types, **more}


def _model_schema(model: type[BaseModel], definitions: dict[str, Any], prefix: str, swept: bool) -> dict[str, Any]:
    """The schema of one section or of one part's options; what it refers to goes to `definitions`."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{_anchor(prefix)}.{{model}}")
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{_anchor(prefix)}.{name}"] = definition
    properties = {}
    for key, one in schema.get("properties", {}).items():
        registry = registry_of(model, key) or _optional_registry(model, key)
        about = {word: one.pop(word) for word in ("description", "default") if word in one}
        one.pop("title", None)
        if registry:
            nullable = registry_of(model, key) is None
            one = {"anyOf": [_reference(registry), {"type": "null"}]} if nullable else _reference(registry)
        properties[key] = {**(_sweep(one) if swept and not takes_list(model, key) else one), **about}
    description = (model.__doc__ or "").strip().split("\n")[0]
    required = {"required": schema["required"]} if "required" in schema else {}
    return {
        "description": description,
        "type": "object",
        **required,
        "additionalProperties": False,
        "properties": properties,
    }


def _part_schema(registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    """A name, or an object of the name and the options of the part so called."""
    objects = []
    for name in registry.available():
        entry = registry.entry(name)
        schema = _model_schema(entry.options, definitions, f"{registry.kind}.{name}", swept=True)
        schema["properties"] = {"name": {"const": name}, **schema["properties"]}
        schema["required"] = ["name", *schema.get("required", [])]
        definitions[_anchor(f"{registry.kind}.{name}")] = {**schema, "description": entry.summary}
        objects.append({"$ref": f"#/$defs/{_anchor(f'{registry.kind}.{name}')}"})
    short = [name for name in registry.available() if registry.entry(name).options.variant]
    patterns = [{"type": "string", "pattern": f"^{re.escape(name)}:.+$"} for name in short]
    return {"anyOf": [{"enum": [n for n in registry.available() if n not in short]}, *patterns, *objects]}


def _optional_registry(model: type[BaseModel], key: str) -> Registry | None:
    """The registry of a field that is a part or null, as the downlink's codec."""
    for choice in get_args(model.model_fields[key].annotation):
        markers = [one for one in getattr(choice, "__metadata__", ()) if isinstance(one, Part)]
        if markers:
            return markers[0].registry
    return None


def _reference(registry: Registry) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{_anchor(registry.kind)}"}


def _sweep(one: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)
