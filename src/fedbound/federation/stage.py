"""The train stage: one federated run, over MPI or in one process, resumable."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedbound import artifacts, study
from fedbound.artifacts import Artifact
from fedbound.errors import ArtifactError, InputError
from fedbound.federation import checkpoint, records, sharing, statement, team, watch
from fedbound.federation.assembly import Assembly
from fedbound.federation.lease import Lease, epoch_folder
from fedbound.federation.server import Server
from fedbound.federation.silo import peak_memory, serve
from fedbound.federation.transports import Transport, mpi

_LAST_SECONDS = 60.0  # that the rank of a lost silo has to end its work by itself


def run(
    scenario: study.TrainScenario,
    inputs: Mapping[str, Path],
    *,
    checkpoints: Path,
    transport: str = "mpi",
    checkpoint_every: int = 1,
    wait_seconds: float = 0.0,
    server_hosts: bool = False,
    audit: Callable[[Artifact], Artifact] = lambda artifact: artifact,
    write: Callable[[Artifact], None] = lambda artifact: None,
    out: Path | None = None,
    ranks: int | None = None,
) -> Artifact | None:
    """Train; returns the artifact on the server and None on silo ranks.

    Args:
        checkpoints: the scenario's own folder; deleted when the run is complete.
        transport: "mpi" (rank 0 is the server, the others hold the silos in blocks, one each where there are as many
            ranks, or several ranks each: training.ranks_per_silo) or "local" (all in this process).
        server_hosts: rank 0 holds silos as well; only where no silo is out while others are aggregated.
        wait_seconds: how long to await another living job on the same checkpoints.
        audit: adds to the artifact what takes its time; before the lease is looked at for the last time.
        write: writes the finished artifact, and does nothing else; checkpoints are deleted only after it has returned.
        out: where `write` puts it: looked at after waiting for another job, which may have finished the run.
        ranks: MPI ranks that the job asked for; None: any number that the silos fit in.

    Raises:
        InputError: the data, bounds or MPI setting do not fit the scenario.
        FederationError: a silo failed.
        LeaseError: another job works on this scenario.
    """
    bounds = artifacts.read(inputs["bounds"], "calibrate") if "bounds" in inputs else None
    assembly = Assembly(scenario.data, scenario.model, scenario.training, scenario.exchange, scenario.seed, bounds)
    if bounds is not None:
        _refuse_foreign(bounds, scenario, inputs["bounds"])
    if transport not in ("mpi", "local"):
        raise InputError(f"--transport: {transport!r} is refused; possible: local, mpi")
    if server_hosts and assembly.scheduler().overlapping:
        raise InputError(
            f"--server-hosts: the scheduler {scenario.training.scheduler['name']!r} aggregates while silos are out, "
            "and a server that trains would keep them waiting; use 'sync' without quorum, or leave the flag out"
        )
    together = scenario.training.ranks_per_silo
    if together > 1 and (transport == "local" or server_hosts):
        raise InputError(
            f"training.ranks_per_silo: {together} needs MPI and a server of its own; leave --transport local and "
            "--server-hosts out, or use 1"
        )
    comm = mpi.world(scenario.data.silos, ranks, server_hosts, together) if transport == "mpi" else None
    if comm is not None and comm.rank:
        assembly.source = sharing.federation(comm, scenario.data)
    assembly.layout  # noqa: B018 - builds model and bounds now: what does not fit is refused before a lease is taken
    guarded = checkpoints / _guard(scenario, bounds)
    if comm is None:
        return _serve_locally(scenario, assembly, guarded, checkpoint_every, wait_seconds, audit, write, out)
    team_ = team.split(comm, together) if together > 1 else None
    if comm.rank:
        _serve_silos(assembly, comm, checkpoint_every, server_hosts, team_)
        return None
    lease = Lease(guarded, wait_seconds)
    if (finished := _finished_by_another(scenario, lease, out)) is not None:
        sharing.announce(comm, {})
        return finished
    absent = _absent(scenario, lease)
    resume = checkpoint.adopt(lease, range(scenario.data.silos))
    announcement = {"root": str(lease.root), "epoch": lease.epoch, "absent": sorted(absent)}
    sharing.announce(comm, announcement)
    watch.tell(watch.Rank(str(lease.root), lease.epoch, 0, []))
    own = mpi.hosted(0, comm.size, scenario.data.silos, server_hosts)
    members = {number: assembly.silo(number, lease.folder, checkpoint_every) for number in own}
    transport_ = mpi.MpiTransport(comm, scenario.data.silos, members, together)
    artifact, server = _complete(scenario, assembly, transport_, lease, resume, checkpoint_every, audit, write, absent)
    lost = set(range(scenario.data.silos)) - server.living - absent.keys()
    if not transport_.farewell(server.failures.timeout or _LAST_SECONDS if lost else None):
        comm.Abort(0)  # the artifact is complete; a silo that stalls would hold up the end of MPI for ever
    return artifact


def _absent(scenario: study.TrainScenario, lease: Lease) -> dict[int, str]:
    """Silos that take no part: their process died in an earlier start, and the policy is to go on without them."""
    if scenario.training.on_failure != "drop":
        return {}
    return watch.lost(lease.root, range(scenario.data.silos))


def _guard(scenario: study.TrainScenario, bounds: Artifact | None) -> str:
    """Name of the checkpoints' folder: another scenario, or other bounds, never goes on from them."""
    identity = [scenario.model_dump(mode="json"), bounds.content_digest() if bounds else None]
    return hashlib.sha256(artifacts.canonical(identity).encode()).hexdigest()[:16]


def _refuse_foreign(bounds: Artifact, scenario: study.TrainScenario, path: Path) -> None:
    """Refuse bounds that were calibrated for something else than this scenario.

    Raises:
        InputError: naming what differs.
    """
    ours = {
        "data": scenario.data.model_dump(mode="json"),
        "model": scenario.model,
        "mode": scenario.exchange.mode,
        "error_feedback": bool(scenario.exchange.error_feedback),
        "downlink_bound": scenario.exchange.downlink_bound,
    }
    for key, value in ours.items():
        if bounds.scenario.get(key) != value:
            what = f"another model ({key} differs)" if key == "model" else f"another {key.replace('_', ' ')}"
            raise InputError(f"{path} was calibrated for {what}; run calibrate for this scenario")


def _serve_silos(
    assembly: Assembly, comm: Any, checkpoint_every: int, server_hosts: bool, own: team.Team | None
) -> None:
    said = sharing.announce(comm, {})
    if not said:  # another job has finished the run
        return
    root, epoch = Path(said["root"]), said["epoch"]
    held = mpi.hosted(comm.rank, comm.size, assembly.data.silos, server_hosts) if own is None else [own.silo]
    numbers = [number for number in held if number not in said["absent"]]
    watch.tell(watch.Rank(str(root), epoch, comm.rank, numbers))
    if own is not None and own.rank:
        own.follow(assembly.silo(own.silo))
        mpi.MpiEndpoint(comm).close()
        return
    silos = {number: assembly.silo(number, epoch_folder(root, epoch), checkpoint_every) for number in numbers}
    endpoint = mpi.MpiEndpoint(comm, silos)
    for silo in silos.values():
        silo.team = own
    serve(silos, endpoint.receive, endpoint.send)
    if own is not None:
        own.stop()
    endpoint.close()


def _serve_locally(
    scenario: study.TrainScenario,
    assembly: Assembly,
    checkpoints: Path,
    checkpoint_every: int,
    wait_seconds: float,
    audit: Callable[[Artifact], Artifact],
    write: Callable[[Artifact], None],
    out: Path | None,
) -> Artifact:
    lease = Lease(checkpoints, wait_seconds)
    if (finished := _finished_by_another(scenario, lease, out)) is not None:
        return finished
    resume = checkpoint.adopt(lease, range(scenario.data.silos))
    transport = assembly.local(None, lease.folder, checkpoint_every)
    return _complete(scenario, assembly, transport, lease, resume, checkpoint_every, audit, write)[0]


def _finished_by_another(scenario: study.TrainScenario, lease: Lease, out: Path | None) -> Artifact | None:
    """The artifact of the job that was waited for, if it finished this very scenario; the lease is then given back."""
    if not lease.waited or out is None or not out.exists():
        return None
    try:
        artifact = artifacts.read(out, "train")
    except ArtifactError:
        return None
    if artifact.scenario != scenario.model_dump(mode="json"):
        return None
    print(f"another job has finished this run meanwhile; {out} is its artifact", flush=True)
    lease.release(done=True)
    return artifact


def _complete(
    scenario: study.TrainScenario,
    assembly: Assembly,
    transport: Transport,
    lease: Lease,
    resume: checkpoint.State | None,
    checkpoint_every: int,
    audit: Callable[[Artifact], Artifact],
    write: Callable[[Artifact], None],
    absent: Mapping[int, str] | None = None,
) -> tuple[Artifact, Server]:
    server = assembly.server(transport, lease.folder, checkpoint_every, absent)
    if resume is not None:
        print(f"resuming after round {resume.label}", flush=True)
    done = False
    try:
        server.run(resume)
        artifact = _artifact(scenario, assembly, server)
        for line in statement.lines(assembly, artifact.tables):
            print(line, flush=True)
        artifact = audit(artifact)
        lease.verify()
        write(artifact)
        done = True
    finally:
        lease.release(done=done)
        if done:
            with contextlib.suppress(OSError):  # the folder above is shared with other scenarios of the same name
                lease.root.parent.rmdir()
    return artifact, server


def _artifact(scenario: study.TrainScenario, assembly: Assembly, server: Server) -> Artifact:
    extra = {
        "server_memory_bytes": peak_memory(),
        "resumed_from": server.resumed_from,
        "charged": server.charged,
    }
    tables = records.tables(server.records.rows, extra, assembly.spending().epsilon)
    return Artifact(
        "train",
        scenario.study,
        scenario.model_dump(mode="json"),
        scenario.seed,
        tables | statement.table(assembly, tables),
        {} if assembly.bounds is None else {"bounds": assembly.bounds.content_digest()},
        artifacts.stamp(torch=_torch_version()),
    )


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
