"""A small decoder-only transformer, written out.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019: learned positions,
normalisation before each sublayer and after the last block, GELU (tanh form), a feed-forward layer four times as wide,
weights from N(0, 0.02), those of the residual projections divided by the root of their number.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Causal self-attention with `heads` heads; query, key and value come from one projection."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, width] to the same shape; position i sees positions up to i."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        mixed: torch.Tensor = self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return mixed


class Block(nn.Module):
    """x + attention(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        hidden = functional.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.drop(self.down(hidden))


class Gpt(nn.Module):
    """Tokens [b, t] of any integer type, t at most `context`, to logits of the next token [b, t, vocabulary].

    With `tied`, the embedding is also the output projection (Press and Wolf, EACL 2017, arXiv 1608.05859), and is one
    tensor of the state.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        tied: bool = True,
    ):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.apply(_initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.token(tokens.long()) + self.position(places))
        x = self.norm(self.blocks(x))
        logits: torch.Tensor = functional.linear(x, self.token.weight) if self.head is None else self.head(x)
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
