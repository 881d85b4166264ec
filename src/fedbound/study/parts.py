"""What all sections of a study are made of: models that refuse unknown keys, and fields that name a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema

from fedbound.errors import InputError
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
)

LARGEST_SEED = 2**32 - 1  # what every library that is seeded takes
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Section(BaseModel):
    """One part of a study with one value per key."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Part:
    """Annotation of a field that names a part of `registry`: `sz3`, or `{name: sz3, predictor: nopred}`."""

    def __init__(self, registry: Registry):
        self.registry = registry

    def normalised(self, value: Any) -> dict[str, Any]:
        try:
            return self.registry.normalise(value)
        except InputError as error:
            raise ValueError(str(error)) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.normalised, handler(source))


Dataset = Annotated[dict[str, Any], Part(DATASETS)]
Partition = Annotated[dict[str, Any], Part(PARTITIONS)]
Model = Annotated[dict[str, Any], Part(MODELS)]
Algorithm = Annotated[dict[str, Any], Part(ALGORITHMS)]
Scheduler = Annotated[dict[str, Any], Part(SCHEDULERS)]
Codec = Annotated[dict[str, Any], Part(CODECS)]
Mechanism = Annotated[dict[str, Any], Part(MECHANISMS)]
Engine = Annotated[dict[str, Any], Part(ENGINES)]
