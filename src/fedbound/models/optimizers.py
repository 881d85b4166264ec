"""Local optimizers: the update rules of torch.optim.SGD and torch.optim.Adam, without what they cost to start.

Constructing the first torch.optim optimizer of a process imports torch's compiler (about 1.5 s of CPU time per MPI
rank), and each of its steps costs a small model a quarter of the whole step. The results are the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Sgd:
    """Stochastic gradient descent with momentum: v <- m v + g + w p, p <- p - r v (the rule of torch.optim.SGD)."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], rate: float, momentum: float = 0.0, weight_decay: float = 0.0
    ):
        import torch

        self.parameters = [p for p in parameters if p.requires_grad]
        self.rate = rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.velocity = [torch.zeros_like(p) for p in self.parameters] if momentum else []

    def step(self) -> None:
        import torch

        with torch.no_grad():
            gradients = _gradients(self.parameters, self.weight_decay)
            if self.momentum:
                torch._foreach_mul_(self.velocity, self.momentum)
                torch._foreach_add_(self.velocity, gradients)
                gradients = self.velocity
            torch._foreach_add_(self.parameters, gradients, alpha=-self.rate)


class Adam:
    """Adam with bias correction and L2 penalty (the rule and defaults of torch.optim.Adam).

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015 (arXiv 1412.6980), Algorithm 1.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], rate: float, weight_decay: float = 0.0):
        import torch

        self.parameters = [p for p in parameters if p.requires_grad]
        self.rate = rate
        self.weight_decay = weight_decay
        self.beta1, self.beta2, self.epsilon = 0.9, 0.999, 1e-8
        self.steps = 0
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]

    def step(self) -> None:
        import torch

        self.steps += 1
        with torch.no_grad():
            gradients = _gradients(self.parameters, self.weight_decay)
            torch._foreach_lerp_(self.mean, gradients, 1 - self.beta1)
            torch._foreach_mul_(self.square, self.beta2)
            torch._foreach_addcmul_(self.square, gradients, gradients, value=1 - self.beta2)
            scale = torch._foreach_sqrt(self.square)
            torch._foreach_div_(scale, math.sqrt(1 - self.beta2**self.steps))
            torch._foreach_add_(scale, self.epsilon)
            torch._foreach_addcdiv_(self.parameters, self.mean, scale, value=-self.rate / (1 - self.beta1**self.steps))


def _gradients(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[torch.Tensor]:
    """Each parameter's gradient (zero where the loss does not reach it) with the L2 penalty's."""
    import torch

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return list(torch._foreach_add(gradients, parameters, alpha=weight_decay)) if weight_decay else gradients
