"""LeNet-like convolutional network for small images.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998, section II;
with ReLU, max pooling and padding as in the MNIST network of McMahan et al., AISTATS 2017 (arXiv 1602.05629),
section 3 (which has channels [32, 64] and 512 hidden units).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedbound.errors import InputError
from fedbound.registry import MODELS, Options

if TYPE_CHECKING:
    import torch


class CnnOptions(Options):
    """Options of `cnn`."""

    channels: list[Annotated[int, Field(ge=1)]] = Field(
        default=[16, 32], min_length=1, description="channels of each 5x5 convolution; each is followed by 2x2 pooling"
    )
    hidden: int = Field(default=128, ge=1, description="units of the fully connected layer")


@MODELS.register("cnn", CnnOptions)
class Cnn:
    """LeNet-like network: 5x5 convolutions with ReLU and 2x2 max pooling, then one hidden layer."""

    def __init__(self, options: CnnOptions):
        self.options = options

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        from torch import nn

        channels, height, width = image_shape(shape, "cnn", least=2 ** len(self.options.channels))
        layers: list[nn.Module] = []
        for outputs in self.options.channels:
            layers += [nn.Conv2d(channels, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, width = outputs, height // 2, width // 2
        head = [nn.Flatten(), nn.Linear(channels * height * width, self.options.hidden), nn.ReLU()]
        return nn.Sequential(*layers, *head, nn.Linear(self.options.hidden, classes))


def image_shape(shape: tuple[int, ...], model: str, least: int) -> tuple[int, int, int]:
    """The shape as (channels, height, width), both sides at least `least` pixels.

    Raises:
        InputError: it is not an image, or too small for this model.
    """
    if len(shape) != 3:
        raise InputError(
            f"model: {model!r} takes images (channels, height, width), but this data set's samples have the shape "
            f"{shape}; use 'mlp'"
        )
    if min(shape[1:]) < least:
        raise InputError(
            f"model: {model!r} as configured needs at least {least} x {least} pixels, but this data set's images have "
            f"{shape[1]} x {shape[2]}; use fewer stages or 'mlp'"
        )
    return shape
