"""What the server measures of its silos after the profiled rounds: alone, beside each other, and their links."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedbound import study
from fedbound.codecs import wire
from fedbound.errors import FederationError, InputError
from fedbound.exchange import blocks
from fedbound.exchange.layout import Layout, State
from fedbound.federation.outbox import SERVER
from fedbound.federation.transports import Transport

ALONE_REPEATS = 3
_SHARED_SECONDS = 0.25  # of work alone: long enough to be shared out fairly, short enough to be repeated


class Bench:
    """Asks silos to work and times them.

    Args:
        transport: to the silos.
        layout, model: what they train on.
        nodes: silo -> (node, rank) that it works on.
    """

    def __init__(self, transport: Transport, layout: Layout, model: State, nodes: Mapping[int, tuple[int, int]]):
        self.transport = transport
        self.records = blocks.exact(layout, model)
        self.nodes = nodes

    def work(self, silos: Sequence[int], steps: int, repeat: int) -> list[dict[str, Any]]:
        """Have `silos` evaluate, train and encode at once; one row of the table PROFILE_SHARING for each."""
        flags = wire.Flags.TRAIN | wire.Flags.EVALUATE
        command = wire.Message(wire.Kind.MODEL, SERVER, 0, 0, self.records, {"steps": float(steps)}, flags=flags)
        answers = exchange(self.transport, dict.fromkeys(silos, command))
        return [
            {
                "node": self.nodes[silo][0],
                "working": sum(self.nodes[other][0] == self.nodes[silo][0] for other in silos),
                "repeat": repeat,
                "silo": silo,
                "steps": int(answer.fields["steps"]),
                **{key: answer.fields[key] for key in ("train_seconds", "evaluate_seconds", "encode_seconds")},
            }
            for silo, answer in sorted(answers.items())
        ]

    def alone(self) -> list[dict[str, Any]]:
        """Each silo's own round while all others of its node wait; nodes work at the same time."""
        rows = []
        for wave in _waves(self.nodes):
            for repeat in range(ALONE_REPEATS):
                rows += self.work(wave, 0, repeat + 1)
        return rows

    def shared(self, nodes: Sequence[int], cores: int, step_seconds: float) -> list[dict[str, Any]]:
        """The same number of steps in one, two and more ranks of a node at once.

        Args:
            nodes: one of each type.
            cores: of a node, near which more numbers of ranks are tried.
            step_seconds: of a step alone, as far as known.
        """
        steps = max(1, round(_SHARED_SECONDS / max(step_seconds, 1e-9)))
        rows = []
        for node in nodes:
            ranks: dict[int, int] = {}
            for silo, (where, rank) in sorted(self.nodes.items()):
                if where == node:
                    ranks.setdefault(rank, silo)
            members = list(ranks.values())
            for working in _levels(len(members), cores):
                for repeat in range(ALONE_REPEATS):
                    first = repeat * working % len(members)
                    group = (members + members)[first : first + working]
                    rows += self.work(group, steps, repeat + 1)
        return rows


def _waves(nodes: Mapping[int, tuple[int, int]]) -> list[list[int]]:
    """Groups of silos with at most one of each node; all silos are in one."""
    per_node: dict[int, list[int]] = {}
    for silo in sorted(nodes):
        per_node.setdefault(nodes[silo][0], []).append(silo)
    most = max(map(len, per_node.values()))
    return [[own[i] for own in per_node.values() if i < len(own)] for i in range(most)]


def _levels(ranks: int, cores: int) -> list[int]:
    """Numbers of ranks that work at once: powers of two, those around the number of cores, and all."""
    wanted = {1, ranks, cores, cores + 1} | {2**i for i in range(ranks.bit_length())}
    return sorted(k for k in wanted if k <= ranks)


def links(transport: Transport, settings: study.Profiling) -> list[dict[str, Any]]:
    """Round trips of messages of several sizes to each silo, packing and checking included.

    `server_seconds` is the processor's time of the server's process: packing, copying, unpacking, and polling.
    """
    rows = []
    for silo in range(transport.silos):
        for size in settings.message_sizes:
            message = _of_size(size)
            for repeat in range(settings.repeats + 1):
                processor, started = time.thread_time(), time.perf_counter()
                exchange(transport, {silo: message})
                seconds, busy = time.perf_counter() - started, time.thread_time() - processor
                if repeat:  # the first one of a size pays for fresh buffers
                    rows.append(
                        {
                            "rank": silo + 1,
                            "bytes": size,
                            "repeat": repeat,
                            "seconds": seconds / 2,
                            "server_seconds": min(busy, seconds) / 2,
                        }
                    )
    return rows


def together(transport: Transport, settings: study.Profiling) -> list[dict[str, Any]]:
    """Round trips of messages of several sizes to all silos at once: what the server's link and processor carry."""
    rows = []
    for size in settings.message_sizes:
        message = _of_size(size)
        for repeat in range(settings.repeats + 1):
            started = time.perf_counter()
            exchange(transport, dict.fromkeys(range(transport.silos), message))
            if repeat:
                rows.append({"bytes": size, "repeat": repeat, "seconds": (time.perf_counter() - started) / 2})
    return rows


def _of_size(size: int) -> wire.Message:
    payload = np.zeros(size, np.uint8)
    record = wire.Record(0, payload.dtype, payload.shape, 0, 1, 0.0, payload.tobytes())
    return wire.Message(wire.Kind.HELLO, SERVER, 0, 0, [record], {})


def exchange(transport: Transport, messages: Mapping[int, wire.Message]) -> dict[int, wire.Message]:
    """Send each silo its message and take all answers.

    Raises:
        InputError: no answer comes.
        FederationError: a silo failed.
    """
    for silo, message in messages.items():
        transport.send(silo, wire.pack(message))
    answers: dict[int, wire.Message] = {}
    while len(answers) < len(messages):
        received = transport.receive()
        if received is None:
            missing = min(messages.keys() - answers.keys())
            raise InputError(f"silo {missing} did not answer a measurement; look at the log of its rank")
        answer = wire.unpack(received[1], limits=wire.Limits())
        if answer.kind == wire.Kind.FAILURE:
            raise FederationError(f"silo {received[0]} failed in a measurement: {answer.text}")
        answers[received[0]] = answer
    return answers
