"""Local training and evaluation of one silo: plain mini-batch steps on the silo's own samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from fedbound.errors import InputError
from fedbound.models.optimizers import Adam, Sgd
from fedbound.models.seeding import seeded
from fedbound.models.state import as_tensor

if TYPE_CHECKING:
    import torch

    from fedbound import data, study


@dataclass(frozen=True)
class LocalResult:
    """What local training did: steps taken, and the mean over them of the mini-batches' mean cross-entropy (nat)."""

    steps: int
    loss: float


class Team(Protocol):
    """Processes that train one model together, each on its share of every mini-batch; `rank` counts them from 0."""

    rank: int

    def wrap(self, module: Any, device: Any) -> Any:
        """The module as one whose gradients are the mean over the team."""
        ...

    def share(self, batch: np.ndarray) -> tuple[np.ndarray, float]:
        """This process's sample numbers of a mini-batch, and what its mean loss counts in the team's mean."""
        ...

    def mean(self, value: float) -> float:
        """The mean over the team."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Predictions made, how many of them were correct, and the sum of their cross-entropy (nat).

    One prediction per sample; of a text, one per character.
    """

    samples: int
    correct: int
    loss_sum: float


def train(
    module: torch.nn.Module,
    split: data.Split,
    settings: study.LocalTraining,
    rng_seed: int,
    steps: int = 0,
    hook: Callable[[Any], bool | None] | None = None,
    team: Team | None = None,
) -> LocalResult:
    """Train `module` in place with a fresh optimizer on shuffled mini-batches.

    The order of the samples and all other randomness (dropout) depend on `rng_seed` alone, so that a replayed round
    gives the same bits. An epoch's last batch may be smaller.

    Args:
        module: moved to the settings' device if it is not there.
        split: the silo's training samples.
        settings: epochs, batch size, optimizer and its rates, device.
        rng_seed: seed of this round and silo, from 0.
        steps: take exactly so many steps, cycling through epochs; 0: `settings.local_epochs` epochs.
        hook: called with the module between the gradients and the optimizer's step, to change gradients; where it
            returns True, it has made the step itself.
        team: who trains along, with the same arguments.

    Raises:
        InputError: CUDA is asked for and there is none.
        ValueError: the split is empty.
    """
    import torch

    if not len(split):
        raise ValueError("a silo without training samples cannot train")
    device = resolve_device(settings.device)
    module.to(device).train()
    x, y = _tensors(split, module, device)
    forward = module if team is None else team.wrap(module, device)
    optimizer = _optimizer(module, settings)
    total = torch.zeros((), dtype=torch.float64, device=device)
    steps = steps or settings.local_epochs * -(-len(split) // settings.batch_size)
    with seeded(rng_seed + (0 if team is None else team.rank), device):  # one order for all, dropout for each
        for _, batch in zip(range(steps), _batches(len(split), settings.batch_size, rng_seed), strict=False):
            part, weight = (batch, 1.0) if team is None else team.share(batch)
            index = torch.from_numpy(part).to(device)
            with _mixed(settings.precision, device):
                logits = forward(x.index_select(0, index))
            loss = cross_entropy(logits, y.index_select(0, index))
            if weight != 1:
                loss = weight * loss
            module.zero_grad()
            loss.backward()
            if hook is None or not hook(module):
                optimizer.step()
            total += loss.detach()
    module.zero_grad()
    mean = float(total) / steps
    return LocalResult(steps, mean if team is None else team.mean(mean))


def evaluate(module: torch.nn.Module, split: data.Split, batch_size: int = 512) -> Evaluation:
    """Evaluate `module`, on the device where it is, in evaluation mode; its mode is restored."""
    import torch

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    x, y = _tensors(split, module, device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            part = slice(start, start + batch_size)
            logits = module(x[part])
            correct += (logits.argmax(-1) == y[part]).sum()
            loss += cross_entropy(logits, y[part], reduction="sum")
    module.train(was_training)
    return Evaluation(split.y.size, int(correct), float(loss))


def right(module: torch.nn.Module, split: data.Split, batch_size: int = 512) -> np.ndarray:
    """The share of each sample's predictions that are right, float64 [n]: 0 or 1, of a text the share of its tokens.

    `module` is evaluated where it is, in evaluation mode; its mode is restored.
    """
    import torch

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    x, y = _tensors(split, module, device)
    found = []
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            part = slice(start, start + batch_size)
            hits = (module(x[part]).argmax(-1) == y[part]).double()
            found.append(hits.reshape(len(hits), -1).mean(1).cpu().numpy())
    module.train(was_training)
    return np.concatenate(found)


def cross_entropy(logits: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy (nat) over all predictions, in float32: logits [..., classes], y [...] of any integer type."""
    import torch

    flat = logits.float().flatten(0, -2)
    return torch.nn.functional.cross_entropy(flat, y.flatten().long(), reduction=reduction)


def resolve_device(device: str) -> torch.device:
    """The device that `cpu`, `cuda` or `auto` (CUDA where there is one) means for this rank.

    Ranks of one node take its GPUs in turn, by their local rank: as many silos as GPUs have one each, the server's
    rank, which trains nothing, among them or not.

    Raises:
        InputError: CUDA is asked for and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device: 'cuda' is refused: torch finds no CUDA device here; use 'cpu' or 'auto'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", _local_rank() % torch.cuda.device_count()) if device == "cuda" else torch.device("cpu")


# Set by Hydra (MPICH, Intel MPI), Open MPI, MVAPICH2, Cray PALS; Slurm's last: below mpiexec it is the launcher's own.
_LOCAL_RANK = (
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "PMI_LOCAL_RANK",
    "SLURM_LOCALID",
)


def _local_rank() -> int:
    """This process's number among the job's processes on its node, as its launcher says; 0 where none does."""
    found = (os.environ.get(name, "") for name in _LOCAL_RANK)
    return next((int(text) for text in found if text.isdigit()), 0)


_MIXED_ON = ("cuda",)


def _mixed(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Where `precision` is bfloat16 and the device is a GPU: operations that gain from it run in bfloat16."""
    import torch

    if precision == "float32" or device.type not in _MIXED_ON:
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def _batches(samples: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Sample numbers of one mini-batch after the other, for ever: each epoch is a new permutation."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(samples)
        for start in range(0, samples, size):
            yield order[start : start + size]


def _optimizer(module: torch.nn.Module, settings: study.LocalTraining) -> Sgd | Adam:
    if settings.optimizer == "adam":
        return Adam(module.parameters(), settings.learning_rate, settings.weight_decay)
    return Sgd(module.parameters(), settings.learning_rate, settings.momentum, settings.weight_decay)


_ON_DEVICE: WeakKeyDictionary[data.Split, dict[Any, tuple[Any, Any]]] = WeakKeyDictionary()


def _tensors(split: data.Split, module: torch.nn.Module, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The split on `device`, features in the module's own floating dtype; moved and converted once per split."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    kept = _ON_DEVICE.setdefault(split, {})
    if (device, dtype) not in kept:
        x, y = as_tensor(split.x), as_tensor(split.y)
        x = x.to(device, dtype) if x.is_floating_point() and dtype is not None else x.to(device)
        kept[device, dtype] = (x, y.to(device))
    return kept[device, dtype]
