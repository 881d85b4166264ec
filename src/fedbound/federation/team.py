"""A silo of several ranks: data-parallel training inside it, one leader towards the server.

The silo's ranks are a communicator of their own (MPI split). Its first rank, the leader, is what every other silo is
one rank for: it talks to the server, evaluates, encodes, and keeps residual, duals and checkpoints. The other ranks,
its members, hold the silo's samples and a module, and wait. To train, the leader tells them round and number of steps
(point-to-point), and the model and the algorithm's state at the silo (Bcast): a member keeps nothing from round to
round, so that a restart needs nothing from it.

In each step every rank takes its share of the mini-batch and torch's DistributedDataParallel averages the gradients,
over gloo on CPUs and NCCL on GPUs; each share's loss is weighted by its samples, so that shares of unequal size give
the batch's mean all the same. All ranks then make the same step. The numbers are those of one rank up to the order of
float32 sums, but for dropout, whose masks each rank draws for its own share. Every rank holds the whole model: one that
does not fit a GPU cannot be trained (no FSDP).

torch's ranks find each other through a TCP store on the leader's host. Where hosts have several networks,
GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose one.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.errors import FederationError, InputError
from fedbound.exchange.layout import State
from fedbound.federation.transports import mpi

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Comm

    from fedbound.federation.silo import Silo


_ORDER = 0  # tag of the leader's orders
_STOP = -1
_NAME_BYTES = 256


@dataclass
class Team:
    """One silo's ranks; the leader's `rank` is 0.

    Attributes:
        comm: the silo's own communicator.
        silo: its number.
    """

    comm: Comm
    silo: int

    def __post_init__(self) -> None:
        self.rank: int = self.comm.rank
        self.size: int = self.comm.size
        self.parallel: dict[int, Any] = {}
        self.training = False  # the leader's: members are in a sum with it, or on their way to one

    # ---- what training needs ------------------------------------------------------------------------------------

    def wrap(self, module: Any, device: Any) -> Any:
        """`module` as one that averages gradients over the team; the same one in every round."""
        from torch.nn.parallel import DistributedDataParallel

        if id(module) not in self.parallel:
            self._connect(device)
            self.parallel[id(module)] = DistributedDataParallel(
                module, device_ids=[device.index] if device.type == "cuda" else None
            )
        return self.parallel[id(module)]

    def share(self, batch: np.ndarray) -> tuple[np.ndarray, float]:
        """This rank's sample numbers of a mini-batch, and what its mean loss counts in the team's mean of them.

        A rank for which nothing is left takes the first sample, with weight 0: it must take part in the sum.
        """
        part = np.array_split(batch, self.size)[self.rank]
        return (part, self.size * len(part) / len(batch)) if len(part) else (batch[:1], 0.0)

    def mean(self, value: float) -> float:
        """The mean over the team."""
        found = np.zeros(1)
        self.comm.Allreduce(np.array([value]), found)
        return float(found[0]) / self.size

    def _connect(self, device: Any) -> None:
        """Start torch.distributed in this process, once.

        Raises:
            InputError: two of the silo's ranks share a GPU, which NCCL refuses.
        """
        import torch.distributed as dist

        if dist.is_initialized():
            return
        here = f"{socket.gethostname()} {device}"
        places = self._gather(here)
        if device.type == "cuda" and len(set(places)) < self.size:
            raise InputError(
                f"training.ranks_per_silo: {self.size} ranks of silo {self.silo} share GPUs ({', '.join(places)}); "
                "start as many ranks per node as it has GPUs, or use a smaller ranks_per_silo"
            )
        one_host = len({place.split()[0] for place in places}) == 1
        store: Any = None
        if self.rank == 0:
            host = "127.0.0.1" if one_host else socket.getfqdn()
            store = dist.TCPStore(host, 0, self.size, is_master=True, wait_for_workers=False)
            self._gather(f"{host} {store.port}")
        else:
            host, port = self._gather("")[0].split()
            store = dist.TCPStore(host, int(port), self.size, is_master=False)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)

    def _gather(self, text: str) -> list[str]:
        """What each rank of the team says, as bytes."""
        mine = np.frombuffer(text.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), np.uint8)
        found = np.zeros((self.size, _NAME_BYTES), np.uint8)
        self.comm.Allgather(mine.copy(), found)
        return [row.tobytes().rstrip(b"\0").decode() for row in found]

    # ---- the leader's end ---------------------------------------------------------------------------------------

    def lead(self, round_: int, steps: int, reference: State, kept: dict[str, np.ndarray]) -> None:
        """Send the members into one round's training; the leader must train next.

        Args:
            round_, steps: as in the server's order.
            reference: the model to train from.
            kept: the algorithm's state at the silo.
        """
        self._tell(round_, steps)
        self._spread(reference, kept)
        self.training = True

    def stop(self) -> None:
        """Tell the members that the run is over."""
        self._tell(_STOP, 0)

    def _tell(self, round_: int, steps: int) -> None:
        order = np.array([round_, steps], np.int64)
        for member in range(1, self.size):
            self.comm.Send(order, dest=member, tag=_ORDER)

    def _spread(self, reference: State, kept: dict[str, np.ndarray]) -> None:
        for array in (reference.vector, *reference.integers, *(kept[key] for key in sorted(kept))):
            self.comm.Bcast(array, root=0)

    # ---- a member's end -----------------------------------------------------------------------------------------

    def follow(self, silo: Silo) -> None:
        """Train whenever the leader says so, until it says stop.

        Args:
            silo: this rank's copy of the silo; only its module, samples and algorithm are used.

        Raises:
            FederationError: training failed here; the job must end, for the leader waits in a sum.
        """
        reference = silo.holder.state
        silo.team = self
        while True:
            round_, steps = self._order()
            if round_ == _STOP:
                return
            kept = {key: np.array(array) for key, array in silo.client.state().items()}
            self._spread(reference, kept)
            silo.client.restore(kept)
            try:
                silo.train_from(reference, round_, steps)
            except (ValueError, ArithmeticError, RuntimeError, MemoryError, OSError) as error:
                why = str(error) or type(error).__name__
                raise FederationError(
                    f"rank {self.rank} of silo {self.silo} failed in round {round_}: {why}"
                ) from error

    def _order(self) -> tuple[int, int]:
        order = np.zeros(2, np.int64)
        request = self.comm.Irecv(order, source=0, tag=_ORDER)
        pause = mpi.FIRST_PAUSE
        while not request.Test():
            time.sleep(pause)
            pause = min(pause * 1.5, mpi.LONGEST_PAUSE)
        return int(order[0]), int(order[1])


def split(comm: Comm, ranks_per_silo: int) -> Team | None:
    """This rank's team; None for the server. All ranks of `comm` call it together.

    Rank 0 is the server; silo s has the ranks 1 + s k to (s + 1) k, the first of them its leader.
    """
    silo = -1 if comm.rank == 0 else (comm.rank - 1) // ranks_per_silo
    part: Any = comm.Split(silo + 1, comm.rank)
    return None if silo < 0 else Team(part, silo)


def check(module: Any) -> None:
    """Refuse a model that shares of a batch would train otherwise than the whole batch.

    Raises:
        InputError: it has batch normalisation.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm):
            raise InputError(
                f"training.ranks_per_silo: the model's {name or 'layer'!r} is batch normalisation, which would see a "
                "rank's share of each batch; use a model without it (norm: group), or ranks_per_silo: 1"
            )
