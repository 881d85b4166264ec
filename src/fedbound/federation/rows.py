"""Rows of a run's tables, made from messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedbound.codecs import wire
from fedbound.errors import MessageError
from fedbound.exchange.layout import Layout
from fedbound.exchange.summation import BLOCK
from fedbound.federation.desk import Task, Waiting
from fedbound.federation.outbox import Parcel

_COUNTS = (
    "bytes_up",
    "bytes_down",
    "payload_up",
    "payload_down",
    "raw_up",
    "raw_down",
    "violations",
    "checkpoint_bytes",
    "resync_bytes",
)
_SECONDS = (
    "seconds",
    "aggregate_seconds",
    "decode_seconds",
    "wait_seconds",
    "checkpoint_seconds",
    "save_seconds",
    "downlink_seconds",
)
_UPDATE_FIELDS = {
    "samples", "steps", "train_loss", "raw_bytes", "violations", "memory_bytes", "error_over_bound", "residual_norm",
    "train_seconds", "encode_seconds", "wait_seconds", "busy_seconds",
}  # fmt: skip
_EVALUATION_FIELDS = {"test_samples", "test_correct", "test_loss", "validation_samples", "validation_correct"}
_LARGEST_LOSS = 1e6  # nat: far beyond any model that still says something


def new_round() -> dict[str, Any]:
    """The running sums of one round, all 0."""
    return {**dict.fromkeys(_COUNTS, 0), **dict.fromkeys(_SECONDS, 0.0)}


def note_parcel(row: dict[str, Any], parcel: Parcel) -> None:
    """Add what is sent to one silo to the round's sums; what a restart added to it counts apart."""
    row["bytes_down"] += parcel.size
    row["payload_down"] += parcel.payload
    row["raw_down"] += parcel.raw
    row["resync_bytes"] += sum(map(len, parcel.messages)) - parcel.size


def note_update(row: dict[str, Any], one: dict[str, Any], beside: int) -> None:
    """Add one update's row to the round's sums, whose bytes hold its message already, but not what went `beside` it."""
    row["bytes_up"] += beside
    for key in ("payload_up", "raw_up", "violations"):
        row[key] += one[key]


def check_update(message: wire.Message, global_loss: bool) -> None:
    """Raise MessageError where an update lacks one of its fields, or holds one that nothing can be made of.

    Args:
        message: the update.
        global_loss: whether the algorithm needs the loss of the model that the silo received.
    """
    _need(message, _UPDATE_FIELDS | ({"global_loss"} if global_loss else set()))
    if not message.fields["samples"]:
        raise MessageError(f"message from silo {message.sender} is of 0 training samples; it is rejected")
    loss = message.fields.get("global_loss", 0.0)
    if not 0 <= loss <= _LARGEST_LOSS:
        raise MessageError(f"message from silo {message.sender} has the training loss {loss:g}; it is rejected")


def check_evaluation(message: wire.Message) -> None:
    """Raise MessageError where an evaluation lacks a field, or its counts contradict each other."""
    _need(message, _EVALUATION_FIELDS)
    fields = message.fields
    parts = [(fields[f"{part}_samples"], fields[f"{part}_correct"]) for part in ("test", "validation")]
    if not fields["test_samples"] or any(correct > samples for samples, correct in parts):
        raise MessageError(f"message from silo {message.sender} has an impossible evaluation; it is rejected")


def _need(message: wire.Message, fields: set[str]) -> None:
    missing = fields - message.fields.keys()
    if missing:
        raise MessageError(f"message from silo {message.sender} lacks the field {min(missing)!r}; it is rejected")


def update(waiting: Waiting, task: Task, round_: int, started: float, beside: int = 0) -> dict[str, Any]:
    """The row of one update in the table of silos, but for what folding it told.

    Args:
        waiting: the update as it arrived.
        task: what its silo was asked for.
        round_: that it is part of.
        started: when that round was dispatched, seconds on the run's clock.
        beside: bytes of it that left the silo, but not in its message.
    """
    message = waiting.message
    fields = message.fields
    return {
        "round": round_,
        "silo": message.sender,
        "bytes_up": len(waiting.buffer) + beside,
        "bytes_down": task.size,
        "payload_down": task.payload,
        "arrival_seconds": waiting.time - started,
        # a restart sets both clocks anew
        "transfer_seconds": max(0.0, waiting.time - task.time - fields["busy_seconds"]),
        **{key: int(fields[key]) for key in ("samples", "steps", "violations", "memory_bytes")},
        **{key: fields[key] for key in ("train_loss", "error_over_bound", "residual_norm")},
        **{key: fields[key] for key in ("train_seconds", "encode_seconds", "wait_seconds", "busy_seconds")},
        "evaluate_seconds": fields.get("evaluate_seconds", 0.0),
        "model_seconds": fields.get("decode_seconds", 0.0),
        "releases": int(fields.get("releases", 0)),
        "payload_up": sum(len(record.payload) for record in message.records) + beside,
        "raw_up": int(fields["raw_bytes"]),
    }


def of_update(layout: Layout, message: wire.Message, beside: int) -> Iterator[dict[str, Any]]:
    """One row per block of an update; where it left `beside` its message, as the float32 values that it is."""
    if not beside:
        yield from tensors(layout, message.records)
        return
    for block in layout.blocks:
        yield {"block": block.name, "values": block.size, "bound": 0.0, "bytes": 4 * block.size}


def tensors(layout: Layout, records: list[wire.Record]) -> Iterator[dict[str, Any]]:
    """One row per block of a message."""
    for record in records[: len(layout.blocks)]:
        if record.name >= layout.extra(0):
            yield {"block": BLOCK, "values": layout.size, "bound": 0.0, "bytes": len(record.payload)}
            continue
        block = layout.blocks[record.name]
        yield {"block": block.name, "values": block.size, "bound": record.bound, "bytes": len(record.payload)}


def evaluation(message: wire.Message) -> dict[str, Any]:
    """One silo's figures of one model."""
    fields = message.fields
    tests, validations = int(fields["test_samples"]), int(fields["validation_samples"])
    return {
        "test_samples": tests,
        "test_accuracy": fields["test_correct"] / tests,
        "test_loss": fields["test_loss"] / tests,
        "validation_samples": validations,
        "validation_accuracy": fields["validation_correct"] / validations if validations else float("nan"),
    }


def validated(message: wire.Message) -> tuple[int, int]:
    """Validation samples that one silo's model gets right, and how many there are."""
    return int(message.fields["validation_correct"]), int(message.fields["validation_samples"])
