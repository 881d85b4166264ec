"""The codec alone on real updates: of the initial model (early) and of the final one (late)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fedbound.codecs.entropy import entropy_bits
from fedbound.codecs.guard import encode_checked
from fedbound.exchange.layout import State
from fedbound.federation.assembly import Assembly

_LEAST = 1e-9  # seconds

Rows = list[dict[str, Any]]


def measure(assembly: Assembly, final: State, repeats: int) -> tuple[Rows, Rows]:
    """Rows of the tables PROFILE_CODEC and PROFILE_CODEC_TIMES, from silo 0's updates.

    Args:
        assembly: the federation.
        final: model after the profiled rounds.
        repeats: of each measurement.
    """
    rows, times = [], []
    silo = assembly.silo(0)
    for stage, reference in (("early", assembly.initial_state()), ("late", final)):
        local = silo.train_from(reference, 0)
        delta = assembly.exchange.mode == "delta"
        update = local.vector - reference.vector if delta else local.vector
        for block in assembly.layout.blocks:
            values = update[block.start : block.stop]
            row, seconds = _time(silo.uplink, block, values, repeats)
            named = {"block": block.name, "stage": stage}
            rows.append({**named, **row})
            times += [
                {**named, "repeat": repeat + 1, "encode_seconds": encode, "decode_seconds": decode}
                for repeat, (encode, decode) in enumerate(seconds)
            ]
    return rows, times


def _time(
    uplink: Any, block: Any, values: np.ndarray, repeats: int
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    codec = uplink.encoder.codec
    bound = uplink.encoder.rule.absolute(block, values)
    checked = encode_checked(codec, values, bound)
    out = np.empty_like(values)
    encode = _times(lambda: codec.encode(values, bound), repeats)
    decode = _times(lambda: codec.decode(checked.payload, out), repeats)
    bits = entropy_bits(values, bound) if codec.error_bounded else float("nan")
    row = {
        "values": values.size,
        "bound": bound,
        "ratio": values.nbytes / len(checked.payload),
        "entropy_ratio": 8 * values.itemsize / bits if bits else float("inf"),
        "encode_rate": values.nbytes / float(np.median(encode)),
        "decode_rate": values.nbytes / float(np.median(decode)),
    }
    return row, list(zip(encode, decode, strict=True))


def _times(work: Callable[[], Any], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(max(time.perf_counter() - started, _LEAST))
    return times
