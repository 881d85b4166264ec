"""The profile stage: what things cost. It runs the federation's own round loop and measures around it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedbound import artifacts, schemas, study
from fedbound.artifacts import Artifact
from fedbound.codecs import wire
from fedbound.codecs.entropy import entropy_bits
from fedbound.codecs.guard import encode_checked
from fedbound.errors import FederationError, InputError
from fedbound.exchange import blocks
from fedbound.exchange.layout import State
from fedbound.federation import checkpoint
from fedbound.federation.assembly import Assembly
from fedbound.federation.server import SERVER, Server
from fedbound.federation.silo import serve
from fedbound.federation.transports import Transport, mpi

_COSTS = ("train_seconds", "evaluate_seconds", "model_seconds", "encode_seconds", "decode_seconds")


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
        return _measure(scenario, assembly, lambda: assembly.local(), ranks=1)
    if transport != "mpi":
        raise InputError(f"--transport: {transport!r} is refused; possible: local, mpi")
    comm = mpi.world(scenario.data.silos, ranks)
    if comm.rank:
        endpoint = mpi.MpiEndpoint(comm)
        silos = {number: assembly.silo(number) for number in mpi.hosted(comm.rank, comm.size, scenario.data.silos)}
        with tempfile.TemporaryDirectory(prefix="fedbound-profile-") as folder:
            for number, silo in silos.items():
                silo.store = _Scratch(Path(folder), f"silo-{number}")
            for _ in range(2):  # the federated rounds end with one STOP, the measurements around them with another
                serve(silos, endpoint.receive, endpoint.send)
        return None
    return _measure(scenario, assembly, lambda: mpi.MpiTransport(comm, scenario.data.silos), comm.size)


class _Scratch(checkpoint.Store):
    """Where silos save while they are profiled, since they do so in every round of a run: nobody owns it."""

    def save(self, state: checkpoint.State) -> int:
        return self.write(state)


def _measure(
    scenario: study.ProfileScenario, assembly: Assembly, connect: Callable[[], Transport], ranks: int
) -> Artifact:
    server = assembly.server(connect())
    model = server.run()
    transport = connect()
    alone = _alone(transport, assembly, model)
    link = _link(transport, scenario.profiling)
    for silo in range(transport.silos):
        transport.send(silo, wire.pack(wire.Message(wire.Kind.STOP, SERVER, 0, 0, [], {})))
    transport.close()
    silos = _silo_rows(server)
    costs = _costs(server, silos, alone, link)
    return Artifact(
        "profile",
        scenario.study,
        scenario.model_dump(mode="json"),
        None,
        {
            "silos": schemas.PROFILE_SILOS.table(silos),
            "codec": schemas.PROFILE_CODEC.table(_codec_rows(assembly, model, scenario.profiling.repeats)),
            "link": schemas.PROFILE_LINK.table(link),
            "costs": schemas.PROFILE_COSTS.table(costs),
            "server": schemas.PROFILE_SERVER.table([_server_row(server, costs, ranks)]),
        },
        {},
        artifacts.stamp(),
    )


def _silo_rows(server: Server) -> list[dict[str, Any]]:
    """The measured rounds, warm-up left out, one row per round and silo."""
    rounds = {row["round"]: row for row in server.records.rows["rounds"]}
    rows = sorted(server.records.rows["silos"], key=lambda row: (row["round"], row["silo"]))
    share = 1 / server.transport.silos
    return [
        {
            "round": row["round"] - 1,
            "silo": row["silo"],
            "steps": row["steps"],
            "raw_bytes": row["raw_up"],
            "up_bytes": row["bytes_up"],
            "down_bytes": row["bytes_down"],
            **{key: row[key] for key in _COSTS},
            "aggregate_seconds": rounds[row["round"]]["aggregate_seconds"] * share,
        }
        for row in rows
        if row["round"] > 1
    ]


def _alone(transport: Transport, assembly: Assembly, model: State) -> list[float]:
    """Local training time of each silo while all others wait (median of three rounds)."""
    records = blocks.exact(assembly.layout, model)
    found = []
    for silo in range(transport.silos):
        times = []
        for _ in range(3):
            message = wire.Message(wire.Kind.MODEL, SERVER, 0, 0, records, {"steps": 0.0}, flags=wire.Flags.TRAIN)
            answer = _ask(transport, silo, message)
            times.append(answer.fields["train_seconds"])
        found.append(float(np.median(times)))
    return found


def _link(transport: Transport, settings: study.Profiling) -> list[dict[str, Any]]:
    """Round trips of messages of several sizes to each silo, packing and checking included."""
    rows = []
    for silo in range(transport.silos):
        for size in settings.message_sizes:
            payload = np.zeros(size, np.uint8)
            record = wire.Record(0, payload.dtype, payload.shape, 0, 1, 0.0, payload.tobytes())
            message = wire.Message(wire.Kind.HELLO, SERVER, 0, 0, [record], {})
            for repeat in range(settings.repeats + 1):
                started = time.perf_counter()
                _ask(transport, silo, message)
                seconds = (time.perf_counter() - started) / 2
                if repeat:  # the first one of a size pays for fresh buffers
                    rows.append({"rank": silo + 1, "bytes": size, "repeat": repeat, "seconds": seconds})
    return rows


def _ask(transport: Transport, silo: int, message: wire.Message) -> wire.Message:
    transport.send(silo, wire.pack(message))
    received = transport.receive()
    if received is None:
        raise InputError(f"silo {silo} did not answer a measurement; look at the log of its rank")
    answer = wire.unpack(received[1], limits=wire.Limits())
    if answer.kind == wire.Kind.FAILURE:
        raise FederationError(f"silo {silo} failed in a measurement: {answer.text}")
    return answer


def _fit_link(rows: list[dict[str, Any]], rank: int) -> tuple[float, float]:
    """Latency (s) and bandwidth (bytes/s) of one link: least squares through the median time of each size."""
    sizes = sorted({row["bytes"] for row in rows})
    times = [np.median([row["seconds"] for row in rows if (row["rank"], row["bytes"]) == (rank, s)]) for s in sizes]
    slope, intercept = np.polyfit(sizes, times, 1, w=1 / np.array(times))
    return max(float(intercept), 1e-9), 1 / max(float(slope), 1e-15)


def _costs(
    server: Server, silos: list[dict[str, Any]], alone: list[float], link: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    samples = {row["silo"]: row["samples"] for row in server.records.rows["silos"]}
    rows = []
    for silo in range(server.transport.silos):
        own = [row for row in silos if row["silo"] == silo]
        latency, bandwidth = _fit_link(link, silo + 1)
        rows.append(
            {
                "silo": silo,
                "samples": samples[silo],
                "steps": own[-1]["steps"],
                **{key: float(np.median([row[key] for row in own])) for key in _COSTS},
                "alone_seconds": alone[silo],
                "latency": latency,
                "bandwidth": bandwidth,
            }
        )
    return rows


def _server_row(server: Server, costs: list[dict[str, Any]], ranks: int) -> dict[str, Any]:
    rows = [row for row in server.records.rows["rounds"] if row["round"] > 1]
    silos = server.transport.silos
    work = [row["aggregate_seconds"] + row["decode_seconds"] for row in rows]
    known = [row["wait_seconds"] + row["downlink_seconds"] + w for row, w in zip(rows, work, strict=True)]
    other = [(row["seconds"] - k) / (2 * silos) for row, k in zip(rows, known, strict=True)]
    slowest = max(row["train_seconds"] + row["evaluate_seconds"] + row["encode_seconds"] for row in costs)
    overhead = [row["seconds"] - slowest - w for row, w in zip(rows, work, strict=True)]
    return {
        "aggregate_seconds": float(np.median([row["aggregate_seconds"] for row in rows])) / silos,
        "downlink_seconds": float(np.median([row["downlink_seconds"] for row in rows])),
        "message_seconds": max(0.0, float(np.median(other))),
        "round_overhead_seconds": max(0.0, float(np.median(overhead))),
        "ranks": ranks,
        "cores": len(os.sched_getaffinity(0)),
    }


def _codec_rows(assembly: Assembly, final: State, repeats: int) -> list[dict[str, Any]]:
    """The codec alone on silo 0's real updates: of the initial model (early) and of the final one (late)."""
    rows = []
    silo = assembly.silo(0)
    for stage, reference in (("early", assembly.initial_state()), ("late", final)):
        local = silo.train_from(reference, 0)
        delta = assembly.exchange.mode == "delta"
        update = local.vector - reference.vector if delta else local.vector
        for block in assembly.layout.blocks:
            values = update[block.start : block.stop]
            rows.append({"block": block.name, "stage": stage, **_time_codec(silo.uplink, block, values, repeats)})
    return rows


def _time_codec(uplink: Any, block: Any, values: np.ndarray, repeats: int) -> dict[str, Any]:
    codec = uplink.encoder.codec
    bound = uplink.encoder.rule.absolute(block, values)
    checked = encode_checked(codec, values, bound)
    encode = _median_time(lambda: codec.encode(values, bound), repeats)
    out = np.empty_like(values)
    decode = _median_time(lambda: codec.decode(checked.payload, out), repeats)
    bits = entropy_bits(values, bound) if codec.error_bounded else float("nan")
    return {
        "values": values.size,
        "bound": bound,
        "ratio": values.nbytes / len(checked.payload),
        "entropy_ratio": 8 * values.itemsize / bits if bits else float("inf"),
        "encode_rate": values.nbytes / encode,
        "decode_rate": values.nbytes / decode,
    }


def _median_time(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return max(float(np.median(times)), 1e-9)
