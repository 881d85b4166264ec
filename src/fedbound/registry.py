"""Registries of named, configurable parts: codecs, mechanisms, algorithms, schedulers, data sets, models, engines.

A part is one file in its registry's package: it declares its options as a pydantic model and registers a class with
them. Registries find such files by themselves, so that adding a part is adding a file. Part files import heavy
libraries inside functions only, because a study is validated without torch.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fedbound.errors import InputError, nearest


class Options(BaseModel):
    """Base of every part's options: unknown keys are refused, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Entry:
    """One registered part: `factory(options)` makes it."""

    name: str
    options: type[Options]
    factory: Callable[[Any], Any]

    @property
    def summary(self) -> str:
        return (self.factory.__doc__ or "").strip().split("\n")[0]


class Registry:
    """Named parts of one kind, found in one package.

    Args:
        kind: what one entry is called in messages, for example "codec".
        package: dotted name of the package whose modules register entries.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry] = {}
        self._searched = False

    def register(self, name: str, options: type[Options] = Options) -> Callable[[Any], Any]:
        def add(factory: Any) -> Any:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, options, factory)
            return factory

        return add

    def _search(self) -> None:
        if self._searched:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._searched = True

    def available(self) -> list[str]:
        """Names of all registered parts, sorted."""
        self._search()
        return sorted(self._entries)

    def entry(self, name: str) -> Entry:
        """The entry called `name`; raises InputError that names the nearest one."""
        self._search()
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}; {nearest(name, self._entries)}")
        return self._entries[name]

    def get(self, name: str, **options: Any) -> Any:
        """Make the part called `name`; raises InputError on an unknown name or option."""
        entry = self.entry(name)
        return entry.factory(self._validated(entry, options))

    def make(self, choice: Mapping[str, Any]) -> Any:
        """Make the part that a normalised choice `{"name": ..., **options}` describes."""
        options = dict(choice)
        return self.get(options.pop("name"), **options)

    def _validated(self, entry: Entry, options: Mapping[str, Any]) -> Options:
        try:
            return entry.options(**options)
        except ValidationError as error:
            raise InputError(f"{self.kind} {entry.name!r}: {explain(error, entry.options)}") from None

    def normalise(self, choice: Any) -> dict[str, Any]:
        """A choice as in a study (`sz3` or `{name: sz3, predictor: nopred}`) with every option spelled out."""
        name, options = self._split(choice)
        entry = self.entry(name)
        return {"name": name, **self._validated(entry, options).model_dump(mode="json")}

    def expand(self, choice: Any) -> list[Any]:
        """Split a choice whose scalar options hold lists into one choice per combination, in order."""
        name, options = self._split(choice)
        model = self.entry(name).options
        axes = [
            [(key, v) for v in value] if isinstance(value, list) and not takes_list(model, key) else [(key, value)]
            for key, value in options.items()
        ]
        return [{"name": name, **dict(pairs)} for pairs in itertools.product(*axes)]

    def _split(self, choice: Any) -> tuple[str, dict[str, Any]]:
        if isinstance(choice, str):
            return choice, {}
        if isinstance(choice, Mapping) and isinstance(choice.get("name"), str):
            options = {str(k): v for k, v in choice.items()}
            return options.pop("name"), options
        raise InputError(
            f"a {self.kind} is a name or a mapping with the key 'name', not {choice!r}; "
            f"possible: {', '.join(self.available())}"
        )


def takes_list(model: type[BaseModel], key: str) -> bool:
    """Whether the field `key` of `model` holds a list by itself (so that a list there is a value, not a sweep)."""
    field = model.model_fields.get(key)
    return field is not None and _is_list(field.annotation)


def _is_list(annotation: Any) -> bool:
    if annotation in (list, tuple):
        return True
    origin = typing.get_origin(annotation)
    if origin in (list, tuple):
        return True
    return any(_is_list(a) for a in typing.get_args(annotation)) if origin is not None and origin is not dict else False


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first problem of a pydantic error as one sentence with key, value and mend."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in (*([prefix] if prefix else []), *problem["loc"]))
    more = len(error.errors()) - 1
    tail = f" (and {more} more)" if more else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(str(problem['loc'][-1]), model.model_fields)}{tail}"
    if problem["type"] == "missing":
        return f"the key {key!r} is missing; add it{tail}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not key:
        return f"{message}{tail}"
    return f"{key}: {problem['input']!r} is refused: {message}{tail}"


CODECS = Registry("codec", "fedbound.codecs")
MECHANISMS = Registry("privacy mechanism", "fedbound.privacy.mechanisms")
ALGORITHMS = Registry("algorithm", "fedbound.federation.algorithms")
SCHEDULERS = Registry("scheduler", "fedbound.federation.schedulers")
DATASETS = Registry("data set", "fedbound.data.datasets")
PARTITIONS = Registry("partition", "fedbound.data.partitions")
MODELS = Registry("model", "fedbound.models")
ENGINES = Registry("simulation engine", "fedbound.simulation.engines")
