"""What several model families may be asked for: a base model from a folder, and LoRA adapters on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from fedbound.models import pretrained
from fedbound.registry import Options

if TYPE_CHECKING:
    import torch


class AdapterOptions(Options):
    """Options of model families that can start from a folder's weights and train adapters only."""

    base: str = Field(default="", description="folder of *.safetensors to start from; empty: weights from the seed")
    base_digest: str = Field(
        default="", description="SHA-256 of what lies in `base`; filled in, so that other weights are another scenario"
    )
    lora_rank: int = Field(default=0, ge=0, description="rank of LoRA adapters, which alone train and travel; 0: none")
    lora_alpha: float = Field(default=8.0, gt=0, description="adapters count alpha / rank times")
    lora_targets: list[Annotated[str, Field(min_length=1)]] = Field(
        default=["qkv", "out"],
        min_length=1,
        description="linear layers with adapters, by the end of their name; *: all",
    )
    lora_freeze_a: bool = Field(
        default=False,
        description="train B only (FFA-LoRA): then the mean of the factors is the mean of what silos learned",
    )

    @model_validator(mode="after")
    def _identified(self) -> AdapterOptions:
        """Name the base by its content; keys that matter to nothing say so, that they make no other scenario."""
        if self.base and not self.base_digest:
            object.__setattr__(self, "base_digest", pretrained.digest(self.base))
        if not self.base and self.base_digest:
            raise ValueError("base_digest is refused without base: remove it, fedbound fills it in")
        if not self.lora_rank:
            for key in ("lora_alpha", "lora_targets", "lora_freeze_a"):
                object.__setattr__(self, key, type(self).model_fields[key].default)
        return self


def adapted(module: torch.nn.Module, options: AdapterOptions) -> torch.nn.Module:
    """`module` with the base's weights and the adapters that the options ask for; changed in place.

    Raises:
        InputError: the base does not fit or has changed, or no layer is a target.
    """
    if options.base:
        pretrained.load_into(module, options.base, options.base_digest)
    if options.lora_rank:
        from fedbound.models.modules.lora import adapt

        adapt(module, options.lora_rank, options.lora_alpha, options.lora_targets, options.lora_freeze_a)
    return module
