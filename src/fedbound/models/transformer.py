"""Small GPT-like transformer for character language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from fedbound.errors import InputError
from fedbound.models.adapters import AdapterOptions, adapted
from fedbound.registry import MODELS

if TYPE_CHECKING:
    import torch


class TransformerOptions(AdapterOptions):
    """Options of `transformer`."""

    layers: int = Field(default=2, ge=1, description="blocks of attention and feed-forward layer")
    heads: int = Field(default=4, ge=1, description="attention heads; they share the width equally")
    width: int = Field(default=64, ge=1, description="length of the vector of one position")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of values dropped in training")
    tied: bool = Field(default=True, description="the token embedding is the output projection too")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TransformerOptions:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}); change one of them")
        return self


@MODELS.register("transformer", TransformerOptions)
class Transformer:
    """Decoder-only transformer (the blocks of GPT-2); the loss is over all positions of a window."""

    takes = "tokens"

    def __init__(self, options: TransformerOptions):
        self.options = options

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        from fedbound.models.modules.gpt import Gpt

        if len(shape) != 1:
            raise InputError(
                f"model: 'transformer' takes windows of tokens (the data set 'text'), but this data set's samples have "
                f"the shape {shape}; use 'mlp', 'cnn' or 'resnet'"
            )
        o = self.options
        return adapted(Gpt(classes, shape[0], o.width, o.layers, o.heads, o.dropout, o.tied), o)
