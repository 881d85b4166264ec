"""Small residual network for images, with group or batch normalisation.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385), section 4.2 (the
CIFAR-10 networks: a 3x3 stem, stages of basic blocks that halve the image and double the channels, global average
pooling); shortcuts that change shape are 1x1 convolutions (option B there). Group normalisation instead of batch
normalisation for silos with unlike data: Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning",
ICML 2020 (arXiv 1910.00189).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedbound.models.cnn import image_shape
from fedbound.registry import MODELS, Options

if TYPE_CHECKING:
    import torch


class ResnetOptions(Options):
    """Options of `resnet`."""

    stages: int = Field(default=3, ge=1, le=5, description="stages; each after the first halves the image")
    blocks: int = Field(default=1, ge=1, description="basic blocks (two 3x3 convolutions) per stage")
    width: int = Field(default=16, ge=1, description="channels of the first stage; each later stage doubles them")
    norm: Literal["group", "batch"] = Field(
        default="group", description="group: no state, sound with unlike silos; batch: running statistics are exchanged"
    )


@MODELS.register("resnet", ResnetOptions)
class Resnet:
    """Residual network with basic blocks (3 stages of 3 blocks of width 16 are the paper's ResNet-20)."""

    def __init__(self, options: ResnetOptions):
        self.options = options

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        from torch import nn

        o = self.options
        # the last stage keeps 2 x 2 pixels: batch normalisation cannot train on a single value per channel
        channels, _, _ = image_shape(shape, "resnet", least=2**o.stages)
        widths = [o.width * 2**stage for stage in range(o.stages)]
        layers: list[nn.Module] = [_conv(channels, o.width), self._norm(o.width), nn.ReLU()]
        inputs = o.width
        for stage, outputs in enumerate(widths):
            for block in range(o.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(self._block(inputs, outputs, stride))
                inputs = outputs
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
        return nn.Sequential(*layers, *head)

    def _block(self, inputs: int, outputs: int, stride: int) -> torch.nn.Module:
        from torch import nn

        body = nn.Sequential(
            _conv(inputs, outputs, stride), self._norm(outputs), nn.ReLU(), _conv(outputs, outputs), self._norm(outputs)
        )
        shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), self._norm(outputs))
        return _residual(body, shortcut)

    def _norm(self, channels: int) -> torch.nn.Module:
        from torch import nn

        if self.options.norm == "batch":
            return nn.BatchNorm2d(channels)
        return nn.GroupNorm(math.gcd(8, channels), channels)


def _conv(inputs: int, outputs: int, stride: int = 1) -> torch.nn.Module:
    from torch import nn

    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _residual(body: torch.nn.Module, shortcut: torch.nn.Module) -> torch.nn.Module:
    from torch import nn

    class Residual(nn.Module):
        """relu(body(x) + shortcut(x))."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.shortcut = shortcut

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(self.body(x) + self.shortcut(x))

    return Residual()
