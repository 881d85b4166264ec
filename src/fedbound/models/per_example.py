"""Gradients record by record, and training that hides each record: DP-SGD.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (arXiv 1607.00133), Algorithm 1: in each step
every record takes part with probability q, its gradient is clipped to an L2 norm C, the sum gets normal noise of
standard deviation C times the multiplier, and is divided by the *expected* number q n of records.

Per-record gradients are torch's own (`torch.func.vmap` of `grad`), which need no wrapping of modules and take the
models that users bring. Opacus (1.6) was the other choice: of it this would use the per-record gradients
alone, since optimizer, accountant and noise are ours already.

A record is one sample; of a text, one sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.errors import FederationError, InputError
from fedbound.models import training
from fedbound.models.seeding import seeded

if TYPE_CHECKING:
    import torch

    from fedbound import data, study

_VALUES = 1 << 24  # gradient values held at a time
_SHRINK = 1 - 1e-6  # float32 rounding must not lift a norm above the clip


@dataclass(frozen=True)
class RecordNoise:
    """What hides one record in a step.

    Attributes:
        clip: L2 norm of one record's gradient.
        multiplier: standard deviation of the noise over `clip`.
        rate: probability with which a record takes part in a step.
    """

    clip: float
    multiplier: float
    rate: float


def check(module: torch.nn.Module) -> None:
    """Refuse modules in which one record's gradient depends on other records.

    Raises:
        InputError: the module has batch normalisation.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm):
            raise InputError(
                f"training.privacy.unit: 'record' is refused for a model with batch normalisation ({name}): it mixes "
                "the records of a batch; use group normalisation"
            )


def gradients(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of each record's loss: [k, *shape] for every trained parameter, by name."""
    from torch.func import functional_call, grad, vmap

    trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    fixed |= dict(module.named_buffers())

    def loss(parameters: dict[str, Any], one: Any, label: Any) -> Any:
        logits = functional_call(module, {**parameters, **fixed}, (one[None],))
        return training.cross_entropy(logits, label[None])

    found: dict[str, torch.Tensor] = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(trained, x, y)
    return found


def clipped(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, clip: float) -> dict[str, torch.Tensor]:
    """`gradients`, each record's scaled to an L2 norm of at most `clip` over all parameters.

    Raises:
        FederationError: a gradient is NaN or infinite, which no clipping bounds.
    """
    import torch

    found = gradients(module, x, y)
    norms = torch.stack([g.flatten(1).double().square().sum(1) for g in found.values()]).sum(0).sqrt()
    if not bool(torch.isfinite(norms).all()):
        raise FederationError("a record's gradient holds NaN or infinite values, which cannot be clipped")
    factors = torch.clamp(clip * _SHRINK / norms, max=1.0).float()
    return {name: g * factors.view(-1, *[1] * (g.ndim - 1)) for name, g in found.items()}


def parts(module: torch.nn.Module, index: np.ndarray) -> Iterator[np.ndarray]:
    """`index` in pieces whose gradients fit into memory."""
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    step = max(1, _VALUES // max(1, size))
    return (index[start : start + step] for start in range(0, len(index), step))


def sampled(records: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Who takes part: each of `records` with probability `rate`, independently; the choice must stay secret."""
    return np.arange(records) if rate >= 1 else np.flatnonzero(rng.random(records) < rate)


def vectors(
    module: torch.nn.Module,
    split: data.Split,
    index: np.ndarray,
    clip: float,
    places: Mapping[str, slice],
    size: int,
    device: str,
) -> Iterator[np.ndarray]:
    """The records' clipped gradients, turned downhill: float64 [k, size] at a time, in the places of a flat model."""
    import torch

    on = training.resolve_device(device)
    module.to(on).train()
    x, y = training._tensors(split, module, on)
    for part in parts(module, index):
        rows = torch.from_numpy(part).to(on)
        found = np.zeros((len(part), size))
        for name, g in clipped(module, x.index_select(0, rows), y.index_select(0, rows), clip).items():
            found[:, places[name]] = -g.flatten(1).cpu().numpy()
        yield found


def train(
    module: torch.nn.Module,
    split: data.Split,
    settings: study.LocalTraining,
    noise: RecordNoise,
    rng_seed: int,
    rng: np.random.Generator,
    hook: Callable[[Any], bool | None] | None = None,
) -> training.LocalResult:
    """`local_epochs` times n / batch_size steps of DP-SGD, with the study's optimizer on the noised gradients.

    Args:
        rng_seed: of dropout; public.
        rng: of sampling and noise; secret.
        hook: as in `training.train`; it sees the noised gradients alone.

    Returns:
        The steps taken; the loss is NaN: nothing of the records leaves but through the noise.
    """
    import torch

    device = training.resolve_device(settings.device)
    module.to(device).train()
    x, y = training._tensors(split, module, device)
    optimizer = training._optimizer(module, settings)
    steps = settings.local_epochs * -(-len(split) // settings.batch_size)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with seeded(rng_seed, device):
        for _ in range(steps):
            totals = {name: torch.zeros_like(p) for name, p in trained.items()}
            for part in parts(module, sampled(len(split), noise.rate, rng)):
                rows = torch.from_numpy(part).to(device)
                found = clipped(module, x.index_select(0, rows), y.index_select(0, rows), noise.clip)
                for name, g in found.items():
                    totals[name] += g.sum(0)
            for name, parameter in trained.items():
                drawn = rng.normal(0.0, noise.multiplier * noise.clip, tuple(parameter.shape))
                total = totals[name] + torch.from_numpy(drawn).to(device, parameter.dtype)
                parameter.grad = total / (noise.rate * len(split))
            if hook is None or not hook(module):
                optimizer.step()
    module.zero_grad()
    return training.LocalResult(steps, float("nan"))
