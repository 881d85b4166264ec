"""The user's own model: a function in an importable module that makes it."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from fedbound.errors import InputError
from fedbound.models.adapters import AdapterOptions, adapted
from fedbound.registry import MODELS

if TYPE_CHECKING:
    import torch


class CustomOptions(AdapterOptions):
    """Options of `custom`."""

    variant = "function"

    function: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="`package.module:function`, on PYTHONPATH or in the folder where fedbound runs; it is called with "
        "the shape of a sample and the number of classes and returns a torch module",
    )
    source_digest: str = Field(
        default="", description="SHA-256 of the module's file; filled in, so that an edit there is another scenario"
    )
    lora_targets: list[Annotated[str, Field(min_length=1)]] = Field(
        default=["*"], min_length=1, description="linear layers with adapters, by the end of their name; *: all"
    )

    @model_validator(mode="after")
    def _found(self) -> CustomOptions:
        if not self.source_digest:
            object.__setattr__(self, "source_digest", _digest(self.function))
        return self


@MODELS.register("custom", CustomOptions)
class Custom:
    """Your own model, made by `package.module:function(shape, classes)`."""

    takes = "any"

    def __init__(self, options: CustomOptions):
        self.options = options

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        from torch import nn

        if self.options.source_digest != _digest(self.options.function):
            raise InputError(
                f"model.function: the source of {self.options.function!r} has changed since the study was planned; "
                "plan it again"
            )
        module = _function(self.options.function)(shape, classes)
        if not isinstance(module, nn.Module):
            raise InputError(
                f"model.function: {self.options.function!r} returned {type(module).__name__}; "
                "let it return a torch.nn.Module"
            )
        return adapted(module, self.options)


def _function(name: str) -> Any:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"model.function: importing {module_name!r} fails ({error}); install what it needs") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(
            f"model.function: {module_name!r} has no function {function_name!r}; define it there or name another"
        )
    try:
        inspect.signature(function).bind((1,), 2)
    except TypeError as error:
        raise InputError(
            f"model.function: {name!r} cannot be called with a shape and a number of classes ({error}); "
            "let it take these two"
        ) from None
    return function


def _digest(name: str) -> str:
    """SHA-256 of the file of the module, which is found without importing anything.

    Raises:
        InputError: there is no such module.
    """
    module_name = name.partition(":")[0]
    spec = _spec(module_name)
    if spec is None or not spec.origin:
        raise InputError(
            f"model.function: there is no module {module_name!r} on PYTHONPATH or in {str(Path.cwd())!r}; put it there "
            "or mend the name"
        )
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _spec(module_name: str) -> ModuleSpec | None:
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # a console script does not look there by itself
    path: Sequence[str] | None = None
    spec = None
    parts = module_name.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), path)
        if spec is None or (path := spec.submodule_search_locations) is None:
            return spec if count == len(parts) else None
    return spec
