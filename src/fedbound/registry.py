"""Registries of named, configurable parts: codecs, mechanisms, algorithms, schedulers, data sets, models, engines.

A part is one file in its registry's package: it declares its options as a pydantic model and registers a class with
them. Registries find such files by themselves, so that adding a part is adding a file. Part files import heavy
libraries inside functions only, because a study is validated without torch.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedbound.errors import InputError, nearest, shown


class Options(BaseModel):
    """Base of every part's options: unknown keys are refused, values are fixed once read.

    Attributes:
        variant: the option that `name:value` sets, where a part has such a short form.
    """

    variant: ClassVar[str | None] = None
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Entry:
    """One registered part: `factory(options)` makes it; a class may say more about itself (`error_bounded` ...)."""

    name: str
    options: type[Options]
    factory: Any

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
        name, options = self._split({"name": name, **options})
        entry = self.entry(name)
        return entry.factory(self._validated(entry, options))

    def make(self, choice: Mapping[str, Any]) -> Any:
        """Make the part that a normalised choice `{"name": ..., **options}` describes."""
        name, options = self._split(choice)
        return self.get(name, **options)

    def _validated(self, entry: Entry, options: Mapping[str, Any]) -> Options:
        problem = misread(entry.options, options)
        if problem:
            raise InputError(f"{self.kind} {entry.name!r}: {problem}")
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
        """Split a choice whose scalar options hold lists into one choice per combination, in order.

        Raises:
            InputError: the name is unknown, or a list is empty.
        """
        name, options = self._split(choice)
        model = self.entry(name).options
        for key, value in options.items():
            if value == [] and not takes_list(model, key):
                raise InputError(
                    f"{self.kind} {name!r}: the list of {key!r} is empty; give at least one value or remove the key"
                )
        axes = [
            [(key, v) for v in value] if isinstance(value, list) and not takes_list(model, key) else [(key, value)]
            for key, value in options.items()
        ]
        return [{"name": name, **dict(pairs)} for pairs in itertools.product(*axes)]

    def _split(self, choice: Any) -> tuple[str, dict[str, Any]]:
        if isinstance(choice, str):
            return self._long(choice, {})
        if isinstance(choice, Mapping) and isinstance(choice.get("name"), str):
            options = {str(k): v for k, v in choice.items()}
            return self._long(options.pop("name"), options)
        raise InputError(
            f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind} is a name or a mapping with the key 'name', "
            f"not {shown(choice)}; "
            f"possible: {', '.join(self.available())}"
        )

    def _long(self, name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """`libpressio:zfp` spelled out as `libpressio` with the option that its part declares for this."""
        self._search()
        base, colon, value = name.partition(":")
        key = self._entries[base].options.variant if colon and base in self._entries else None
        return (base, {key: value, **options}) if key else (name, options)


def takes_list(model: type[BaseModel], key: str) -> bool:
    """Whether the field `key` of `model` holds a list by itself (so that a list there is a value, not a sweep)."""
    field = model.model_fields.get(key)
    return field is not None and _is_list(field.annotation)


def _is_list(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    if kind is typing.Annotated:
        return _is_list(typing.get_args(annotation)[0])
    if kind in (typing.Union, types.UnionType):
        return any(_is_list(one) for one in typing.get_args(annotation))
    return isinstance(kind, type) and issubclass(kind, (Sequence, Set)) and not issubclass(kind, (str, bytes))


def misread(model: type[BaseModel], values: Mapping[str, Any]) -> str | None:
    """The first truth value that stands where `model` has a number, as a sentence: pydantic would take it for 1 or 0.

    YAML 1.1 reads yes, no, on and off as true and false.
    """
    for key, value in values.items():
        field = model.model_fields.get(key)
        kinds = _leaves(field.annotation) if field else set()
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            return f"{key}: {value} is refused: give a number (YAML reads yes, no, on and off as true and false)"
    return None


def _leaves(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _leaves(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(_leaves(one) for one in typing.get_args(annotation)))
    return {annotation} if isinstance(annotation, type) else set()


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first problem of a pydantic error as one sentence with key, value and mend."""
    problems = error.errors(include_url=False)
    located = [(_place(model, problem["loc"]), problem) for problem in problems]
    (place, owner), first = located[0]
    same = [problem for (other, _), problem in located if other == place]  # the branches of one union
    more = len({other for (other, _), _ in located}) - 1
    tail = f" (and {more} more)" if more else ""
    key = ".".join([*([prefix] if prefix else []), *place])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(place[-1], owner.model_fields)}{tail}"
    if first["type"] == "missing":
        return f"the key {key!r} is missing; add it{tail}"
    message = " or ".join(dict.fromkeys(_lowered(problem["msg"].removeprefix("Value error, ")) for problem in same))
    if not place:
        return f"{key}: {message}{tail}" if key else f"{message}{tail}"
    return f"{key}: {shown(first['input'])} is refused: {message}{tail}"


def _place(model: type[BaseModel], location: Sequence[str | int]) -> tuple[tuple[str, ...], type[BaseModel]]:
    """The keys of a pydantic location, without the tags of union branches, and the model that the last one is in."""
    keys: list[str] = []
    owner = model
    inner: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or inner is not None:
            keys.append(str(part))
        if isinstance(part, str) and inner is not None:
            owner = inner
            field = inner.model_fields.get(part)
            annotation = field.annotation if field else None
            inner = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return tuple(keys), owner


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


CODECS = Registry("codec", "fedbound.codecs")
MECHANISMS = Registry("privacy mechanism", "fedbound.privacy.mechanisms")
ALGORITHMS = Registry("algorithm", "fedbound.federation.algorithms")
SCHEDULERS = Registry("scheduler", "fedbound.federation.schedulers")
DATASETS = Registry("data set", "fedbound.data.datasets")
PARTITIONS = Registry("partition", "fedbound.data.partitions")
MODELS = Registry("model", "fedbound.models")
ENGINES = Registry("simulation engine", "fedbound.simulation.engines")
