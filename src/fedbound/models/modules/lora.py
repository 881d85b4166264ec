"""Low-rank adapters: W x + (alpha / r) B A x with W frozen.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), section 4.1: B
starts at zero, so that training starts at the base model. A starts from Kaiming's uniform distribution, as in the
authors' code (the paper says Gaussian). `freeze_a` trains and exchanges B alone: Sun et al., "Improving LoRA in
Privacy-preserving Federated Learning" (FFA-LoRA), ICLR 2024 (arXiv 2403.12313).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from fedbound.errors import InputError


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter; `weight` and `bias` keep the names that they had."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, freeze_a: bool = False):
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, **like), requires_grad=not freeze_a)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        low = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return functional.linear(x, self.weight, self.bias) + self.scale * low

    def merged(self) -> torch.Tensor:
        """The weight [out, in] of the plain linear layer that does the same."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def adapt(module: nn.Module, rank: int, alpha: float, targets: Sequence[str], freeze_a: bool = False) -> nn.Module:
    """Freeze `module` and give adapters to its linear layers whose name ends in one of `targets`; changed in place.

    Args:
        targets: last parts of dotted names, as in `attention.qkv` or `qkv`; `*` means every linear layer.

    Raises:
        InputError: a target names no linear layer; it says which ones there are.
    """
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    chosen = [name for name in linear if any(_matches(name, target) for target in targets)]
    missing = [target for target in targets if not any(_matches(name, target) for name in linear)]
    if missing:
        names = sorted({name.rpartition(".")[2] if not name.rpartition(".")[2].isdigit() else name for name in linear})
        raise InputError(
            f"model.lora_targets: {missing[0]!r} names no linear layer of this model; "
            + (f"possible: {', '.join(names)}, or *" if names else "it has none, so set lora_rank to 0")
        )
    module.requires_grad_(False)
    for name in chosen:
        parent, _, child = name.rpartition(".")
        owner = module.get_submodule(parent)
        setattr(owner, child, LoraLinear(linear[name], rank, alpha, freeze_a))
    return module


def _matches(name: str, target: str) -> bool:
    return target == "*" or f".{name}".endswith(f".{target}")
