"""The profile stage: what things cost. It runs the federation's own round loop and measures around it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound import artifacts, schemas, study
from fedbound.artifacts import Artifact, Table
from fedbound.codecs import wire
from fedbound.errors import InputError
from fedbound.federation import checkpoint
from fedbound.federation.assembly import Assembly
from fedbound.federation.outbox import SERVER
from fedbound.federation.records import Records
from fedbound.federation.silo import serve
from fedbound.federation.transports import Transport, mpi
from fedbound.profiling import codecs, costs, fits, nodes, probes, watch

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Comm


def run(
    scenario: study.ProfileScenario, inputs: Mapping[str, Path], *, transport: str = "mpi", ranks: int | None = None
) -> Artifact | None:
    """Measure; returns the artifact on the server and None on silo ranks. `ranks`: as many must have been started.

    Raises:
        InputError: the MPI setting does not fit the scenario.
    """
    # One round of warm-up first: it pays for lazy imports and first allocations that no later round pays again.
    rounds = scenario.profiling.rounds + 1
    training = study.Training(**scenario.training.model_dump(), rounds=rounds)
    assembly = Assembly(scenario.data, scenario.model, training, scenario.exchange, seed=0)
    if transport == "local":
        where = _Place(nodes.here(), dict.fromkeys(range(scenario.data.silos), 0))
        return _measure(scenario, assembly, lambda: assembly.local(), where, [], lambda own: own)
    if transport != "mpi":
        raise InputError(f"--transport: {transport!r} is refused; possible: local, mpi")
    comm = mpi.world(scenario.data.silos, ranks)
    known = nodes.gather(comm)
    pairs = nodes.pairs(comm, known, scenario.profiling.message_sizes, scenario.profiling.repeats)
    if comm.rank:
        _serve(comm, assembly, known)
        return None
    where = _Place(known, mpi.hosts(comm.size, scenario.data.silos))
    return _measure(
        scenario,
        assembly,
        lambda: mpi.MpiTransport(comm, scenario.data.silos),
        where,
        pairs,
        lambda own: nodes.gather_rows(comm, own),
    )


@dataclass(frozen=True)
class _Place:
    """The ranks, and the rank of each silo."""

    ranks: Sequence[nodes.Rank]
    silos: Mapping[int, int]

    def node(self, silo: int) -> int:
        return self.ranks[self.silos[silo]].node

    def representatives(self) -> list[int]:
        """One node of each type, of those that hold silos."""
        first: dict[str, int] = {}
        for silo in sorted(self.silos):
            one = self.ranks[self.silos[silo]]
            first.setdefault(one.type, one.node)
        return list(first.values())


def _serve(comm: Comm, assembly: Assembly, known: Sequence[nodes.Rank]) -> None:
    """A silo rank; the first rank of a node watches it while the federation's rounds run."""
    endpoint = mpi.MpiEndpoint(comm)
    silos = {number: assembly.silo(number) for number in mpi.hosted(comm.rank, comm.size, assembly.data.silos)}
    own = known[comm.rank]
    watching = watch.Watch(own.node) if min(one.rank for one in known if one.node == own.node) == comm.rank else None
    with tempfile.TemporaryDirectory(prefix="fedbound-profile-") as folder:
        for number, silo in silos.items():
            silo.store = _Scratch(Path(folder), f"silo-{number}")
        with watching or nullcontext():
            serve(silos, endpoint.receive, endpoint.send)  # the federated rounds end with a STOP
        serve(silos, endpoint.receive, endpoint.send)  # and the measurements after them with another
    nodes.gather_rows(comm, watch.Watch(own.node).array() if watching is None else watching.array())


class _Scratch(checkpoint.Store):
    """Where silos save while they are profiled, since they do so in every round of a run: nobody owns it."""

    def save(self, state: checkpoint.State) -> int:
        return self.write(state)


class _Timed(Records):
    """Records that know when rounds ended, wall-clock time, which several nodes have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def add(self, table: str, **row: Any) -> None:
        super().add(table, **row)
        if table == "rounds" and row["round"] > 0:
            self.ends.append(time.time())


def _measure(
    scenario: study.ProfileScenario,
    assembly: Assembly,
    connect: Callable[[], Transport],
    where: _Place,
    pairs: list[dict[str, Any]],
    gather: Callable[[np.ndarray], np.ndarray],
) -> Artifact:
    settings = scenario.profiling
    server = assembly.server(connect())
    server.records = timed = _Timed()
    with watch.Watch(where.ranks[0].node) as watching:
        model = server.run()
    transport = connect()
    bench = probes.Bench(
        transport, assembly.layout, model, {silo: (where.node(silo), rank) for silo, rank in where.silos.items()}
    )
    alone = bench.alone()
    step_seconds = float(np.median([row["train_seconds"] / row["steps"] for row in alone]))
    shared = bench.shared(where.representatives(), where.ranks[-1].cores, step_seconds)
    link = probes.links(transport, settings)
    together = probes.together(transport, settings)
    for silo in range(transport.silos):
        transport.send(silo, wire.pack(wire.Message(wire.Kind.STOP, SERVER, 0, 0, [], {})))
    transport.close()
    samples = gather(watching.array())
    lines = costs.lines(link, pairs, together)
    silos = costs.silo_rows(server)
    per_silo = costs.per_silo(server, silos, alone, lines, where.node)
    coded, times = codecs.measure(assembly, model, settings.repeats)
    tables: dict[str, Table] = {
        "nodes": schemas.PROFILE_NODES.table([asdict(one) for one in where.ranks]),
        "silos": schemas.PROFILE_SILOS.table(silos),
        "rounds": schemas.PROFILE_ROUNDS.table(costs.round_rows(server)),
        "codec": schemas.PROFILE_CODEC.table(coded),
        "codec_times": schemas.PROFILE_CODEC_TIMES.table(times),
        "link": schemas.PROFILE_LINK.table(link),
        "pairs": schemas.PROFILE_PAIRS.table(pairs),
        "messages": schemas.PROFILE_MESSAGES.table(
            [row for what, one in lines.items() for row in fits.rows(what, one)]
        ),
        "sharing": schemas.PROFILE_SHARING.table(
            [{"kind": "alone", **row} for row in alone] + [{"kind": "shared", **row} for row in shared]
        ),
        "utilisation": schemas.PROFILE_UTILISATION.table(watch.rows(samples, timed.ends)),
        "costs": schemas.PROFILE_COSTS.table(per_silo),
        "server": schemas.PROFILE_SERVER.table(
            [costs.server_row(server, silos, per_silo, lines, len(where.ranks), where.ranks[0].cores)]
        ),
    }
    return Artifact("profile", scenario.study, scenario.model_dump(mode="json"), None, tables, {}, artifacts.stamp())
