"""Rows of a run's tables, made from messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedbound.codecs import wire
from fedbound.errors import MessageError
from fedbound.exchange.layout import Layout

_COUNTS = ("bytes_up", "bytes_down", "raw_up", "raw_down", "violations", "checkpoint_bytes", "resync_bytes")
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
    "train_seconds", "encode_seconds", "wait_seconds",
}  # fmt: skip


def new_round() -> dict[str, Any]:
    """The running sums of one round, all 0."""
    return {**dict.fromkeys(_COUNTS, 0), **dict.fromkeys(_SECONDS, 0.0)}


def check_update(message: wire.Message) -> None:
    """Raise MessageError where an update lacks one of its fields."""
    missing = _UPDATE_FIELDS - message.fields.keys()
    if missing:
        raise MessageError(f"message from silo {message.sender} lacks the field {min(missing)!r}; it is rejected")


def update(message: wire.Message) -> dict[str, Any]:
    """What an update says of itself, for the table of silos."""
    fields = message.fields
    return {
        **{key: int(fields[key]) for key in ("samples", "steps", "violations", "memory_bytes")},
        **{key: fields[key] for key in ("train_loss", "error_over_bound", "residual_norm")},
        **{key: fields[key] for key in ("train_seconds", "encode_seconds", "wait_seconds")},
        "evaluate_seconds": fields.get("evaluate_seconds", 0.0),
        "model_seconds": fields.get("decode_seconds", 0.0),
        "releases": int(fields.get("releases", 0)),
        "payload_up": sum(len(record.payload) for record in message.records),
        "raw_up": int(fields["raw_bytes"]),
    }


def tensors(layout: Layout, records: list[wire.Record]) -> Iterator[dict[str, Any]]:
    """One row per block of a message."""
    for record in records[: len(layout.blocks)]:
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
