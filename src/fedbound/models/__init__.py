"""Models: one file per family. `state.py` is the view that is exchanged, `training.py` the local work of a silo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fedbound.errors import InputError
from fedbound.models.seeding import seeded
from fedbound.registry import MODELS

if TYPE_CHECKING:
    import torch


class Model(Protocol):
    """A registered model family with its options.

    A class attribute `takes` says what it reads: "numbers" (where there is none), "tokens", or "any".
    """

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """A float32 module on the CPU that maps a batch [b, *shape] to logits [b, classes].

        Of a text, it maps tokens [b, context] to logits [b, context, classes].

        Raises:
            InputError: the family cannot take samples of this shape.
        """
        ...


def build(choice: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> torch.nn.Module:
    """The model that a choice `{"name": "mlp", **options}` describes, initialised from `seed` alone.

    Args:
        choice: name and options of the model.
        shape: shape of one sample.
        classes: number of classes, the length of the logits.
        seed: seed of the initial weights, from 0; torch's global random state is neither read nor changed.

    Raises:
        InputError: unknown name or option, a shape that the model cannot take, or nothing that trains.
    """
    model: Model = MODELS.make(choice)
    with seeded(seed):
        module = model.build(tuple(shape), classes)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"model: {choice['name']!r} has no parameter that trains; leave some of them unfrozen")
    return module


def available() -> list[str]:
    """Names of all registered models."""
    return MODELS.available()
