"""The train stage: one federated run, over MPI or in one process, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbound import artifacts, study
from fedbound.artifacts import Artifact
from fedbound.errors import InputError
from fedbound.federation import checkpoint, records
from fedbound.federation.assembly import Assembly
from fedbound.federation.lease import Lease
from fedbound.federation.silo import peak_memory, serve
from fedbound.federation.transports import Transport, mpi


def run(
    scenario: study.TrainScenario,
    inputs: Mapping[str, Path],
    *,
    checkpoints: Path,
    transport: str = "mpi",
    checkpoint_every: int = 1,
    wait_seconds: float = 0.0,
) -> Artifact | None:
    """Train; returns the artifact on the server and None on silo ranks.

    Args:
        checkpoints: the scenario's own folder; deleted when the run is complete.
        transport: "mpi" (rank 0 is the server, rank k+1 silo k) or "local" (all in this process).
        wait_seconds: how long to await another living job on the same checkpoints.

    Raises:
        InputError: the data, bounds or MPI setting do not fit the scenario.
        FederationError: a silo failed.
        LeaseError: another job works on this scenario.
    """
    bounds = artifacts.read(inputs["bounds"], "calibrate") if "bounds" in inputs else None
    assembly = Assembly(scenario.data, scenario.model, scenario.training, scenario.exchange, scenario.seed, bounds)
    if transport not in ("mpi", "local"):
        raise InputError(f"--transport: {transport!r} is refused; possible: local, mpi")
    comm = mpi.world(scenario.data.silos + 1) if transport == "mpi" else None
    assembly.layout  # noqa: B018 - builds model and bounds now: what does not fit is refused before a lease is taken
    if comm is None:
        return _serve_locally(scenario, assembly, checkpoints, checkpoint_every, wait_seconds)
    if comm.rank:
        _serve_silo(assembly, comm)
        return None
    lease = Lease(checkpoints, wait_seconds)
    resume = checkpoint.adopt(lease, range(scenario.data.silos))
    _announce(comm, str(lease.folder))
    return _complete(scenario, assembly, mpi.MpiTransport(comm), lease, resume, checkpoint_every)


def _serve_silo(assembly: Assembly, comm: Any) -> None:
    number = comm.rank - 1
    folder = Path(_announce(comm, ""))
    silo = assembly.silo(number, folder)
    endpoint = mpi.MpiEndpoint(comm)
    serve({number: silo}, endpoint.receive, endpoint.send)


def _announce(comm: Any, text: str) -> str:
    """Broadcast a short text from the server as bytes."""
    import numpy as np

    buffer = np.zeros(4096, np.uint8)
    raw = np.frombuffer(text.encode(), np.uint8)
    buffer[: len(raw)] = raw
    comm.Bcast(buffer, root=0)
    return buffer.tobytes().rstrip(b"\0").decode()


def _serve_locally(
    scenario: study.TrainScenario, assembly: Assembly, checkpoints: Path, checkpoint_every: int, wait_seconds: float
) -> Artifact:
    lease = Lease(checkpoints, wait_seconds)
    resume = checkpoint.adopt(lease, range(scenario.data.silos))
    return _complete(scenario, assembly, assembly.local(folder=lease.folder), lease, resume, checkpoint_every)


def _complete(
    scenario: study.TrainScenario,
    assembly: Assembly,
    transport: Transport,
    lease: Lease,
    resume: checkpoint.State | None,
    checkpoint_every: int,
) -> Artifact:
    server = assembly.server(transport, lease.folder, checkpoint_every)
    if resume is not None:
        print(f"resuming after round {resume.label}", flush=True)
    done = False
    try:
        server.run(resume)
        lease.verify()
        done = True
    finally:
        lease.release(done=done)
    extra = {
        "raw_model": assembly.layout.raw_bytes,
        "server_memory_bytes": peak_memory(),
        "resumed_from": server.resumed_from,
    }
    return Artifact(
        "train",
        scenario.study,
        scenario.model_dump(mode="json"),
        scenario.seed,
        records.tables(server.records.rows, extra),
        {} if assembly.bounds is None else {"bounds": assembly.bounds.content_digest()},
        artifacts.stamp(torch=_torch_version()),
    )


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
