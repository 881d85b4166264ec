"""APPFL 1.12's ranks of `fedbound bench round`: run by the interpreter of APPFL's own environment, not by ours.

`appfl.py` copies this file and `work.npz` into a folder and starts it there. It imports nothing of fedbound. The round
loop is that of APPFL's own example of MPI (`examples/mpi/run_mpi.py`); the model, its initial weights, the samples and
their order are ours, so that the final model is that of the other loops up to float32 sums.
"""

from __future__ import annotations

import importlib
import itertools
import json
import resource
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORK = Path("work.npz")


class Ordered(torch.utils.data.Dataset[Any]):
    """A silo's samples, one epoch after the other in given orders; read from first to last, again and again.

    Args:
        x, y: float32 [n, *shape], int64 [n].
        orders: sample numbers of each epoch of the run, [epochs, n].
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, orders: np.ndarray):
        self.x, self.y, self.orders = torch.from_numpy(x), torch.from_numpy(y), orders
        self.epoch = -1

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.epoch += index == 0
        at = int(self.orders[self.epoch, index])
        return self.x[at], self.y[at]


def samples(silo: int) -> tuple[Ordered, None]:
    """What silo `silo` trains on; there is no validation."""
    with np.load(WORK) as work:
        return Ordered(work[f"x{silo}"], work[f"y{silo}"], work[f"orders{silo}"]), None


def mlp(widths: list[int]) -> torch.nn.Module:
    """Multilayer perceptron with ReLU; the widths begin with the inputs and end with the classes."""
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-2], widths[-1]))


def load(module: torch.nn.Module) -> None:
    """The initial weights."""
    with np.load(WORK) as work, torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.from_numpy(work[f"w{number}"]))


def accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """APPFL computes it over each epoch's training batches."""
    return float((predicted.argmax(axis=1) == true).mean())


def configuration(settings: dict[str, Any]) -> dict[str, Any]:
    """What APPFL's server is told; `optimize_memory` at every place that reads it."""
    optimize = {} if settings["optimize_memory"] else {"optimize_memory": False}
    here = str(Path(__file__).resolve())
    return {
        "client_configs": {
            "train_configs": {
                "trainer": "VanillaTrainer", "mode": "epoch", "num_local_epochs": settings["epochs"],
                "optim": "SGD", "optim_args": settings["optimizer"], "loss_fn": "CrossEntropyLoss",
                "do_validation": False, "train_batch_size": settings["batch_size"], "train_data_shuffle": False,
                "metric_path": here, "metric_name": "accuracy", **optimize,
            },
            "model_configs": {
                "model_path": here, "model_name": "mlp", "model_kwargs": {"widths": settings["widths"]},
            },
            **optimize,
        },
        "server_configs": {
            "num_clients": settings["silos"], "num_global_epochs": settings["rounds"],
            "scheduler": "SyncScheduler", "scheduler_kwargs": {"same_init_model": True, **optimize},
            "aggregator": "FedAvgAggregator",
            "aggregator_kwargs": {"client_weights_mode": "sample_size", **optimize},
            "device": "cpu", "logging_output_dirname": "output", **optimize,
        },
    }  # fmt: skip


def _stand_in() -> None:
    """APPFL imports two image-quality figures of `piq`, whose torchvision does not load beside every torch."""
    try:
        importlib.import_module("piq")
    except (ImportError, RuntimeError):
        stub: Any = types.ModuleType("piq")
        stub.brisque = stub.total_variation = None
        sys.modules["piq"] = stub


def _serve(comm: Any, settings: dict[str, Any]) -> dict[str, float]:
    """The server's processor seconds a round, and the checksum of its last model."""
    from appfl.agent import ServerAgent
    from appfl.comm.mpi import MPIServerCommunicator
    from omegaconf import OmegaConf

    agent = ServerAgent(server_agent_config=OmegaConf.create(configuration(settings)))
    load(agent.model)
    communicator = MPIServerCommunicator(comm, agent, agent.logger, settings["optimize_memory"])
    comm.Barrier()
    before = _cpu()
    communicator.serve()
    used = (_cpu() - before) / settings["rounds"]
    return {"server_cpu": used, "checksum": float(sum(part.detach().abs().sum() for part in agent.model.parameters()))}


def _work(comm: Any, settings: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Seconds of each round, from one start of training to the next, and of the training in it."""
    from appfl.agent import ClientAgent
    from appfl.comm.mpi import MPIClientCommunicator
    from omegaconf import OmegaConf

    silo, optimize = comm.rank - 1, settings["optimize_memory"]
    data = {
        "dataset_path": str(Path(__file__).resolve()), "dataset_name": "samples", "dataset_kwargs": {"silo": silo}
    }  # fmt: skip
    given: dict[str, Any] = {"client_id": f"silo-{silo}", "train_configs": {"device": "cpu"}, "data_configs": data}
    if not optimize:
        given["optimize_memory"] = False
    comm.Barrier()
    agent = ClientAgent(client_agent_config=OmegaConf.create(given))
    server = MPIClientCommunicator(comm, 0, client_id=agent.get_id(), optimize_memory=optimize)
    agent.load_config(server.get_configuration())
    agent.load_parameters(server.get_global_model(init_model=True))
    server.invoke_custom_action(action="set_sample_size", sample_size=agent.get_sample_size())
    starts, trained, status = [], [], ""
    while status != "DONE":
        starts.append(time.perf_counter())
        agent.train()
        trained.append(time.perf_counter() - starts[-1])
        local = agent.get_parameters()
        local, about = local if isinstance(local, tuple) else (local, {})
        model, about = server.update_global_model(local, **about)
        agent.load_parameters(model)
        status = about["status"]
    ends = [*starts[1:], time.perf_counter()]
    server.invoke_custom_action(action="close_connection")
    return [end - start for start, end in zip(starts, ends, strict=True)], trained


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _main() -> None:
    from mpi4py import MPI

    _stand_in()
    torch.set_num_threads(1)
    comm, settings = MPI.COMM_WORLD, json.loads(sys.argv[1])
    found = {} if comm.rank else _serve(comm, settings)
    mine = np.array(_work(comm, settings) if comm.rank else np.zeros((2, settings["rounds"])))
    times = np.zeros((comm.size, *mine.shape))
    comm.Gather(mine, times)
    if comm.rank == 0:
        seconds, slowest = times[1, 0], times[1:, 1].max(axis=0)
        print(json.dumps({**found, "seconds": seconds.tolist(), "slowest": slowest.tolist()}), flush=True)


if __name__ == "__main__":
    _main()
