"""Multilayer perceptron on flattened samples."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedbound.registry import MODELS, Options

if TYPE_CHECKING:
    import torch


class MlpOptions(Options):
    """Options of `mlp`."""

    hidden: list[Annotated[int, Field(ge=1)]] = Field(
        default=[256, 256], description="widths of the hidden layers; none gives multinomial logistic regression"
    )


@MODELS.register("mlp", MlpOptions)
class Mlp:
    """Multilayer perceptron with ReLU (the 2NN of McMahan et al. 2017 has hidden: [200, 200])."""

    def __init__(self, options: MlpOptions):
        self.hidden = options.hidden

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        from torch import nn

        widths = [math.prod(shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
