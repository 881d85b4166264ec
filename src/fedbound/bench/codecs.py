"""Ratio, speed and error of every codec, beside SZ3 without predictor and the entropy of the quantised values.

Arrays: synthetic tails at relative bounds, tails at bounds in standard deviations (where most quanta are 0, as in
deltas with error feedback), and a trained model's real weights and updates, early and late. Codecs take turns on each
array, so that a busy machine hurts them alike; times are medians.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.bench.rows import Row, aligned, find

BENCH = "codecs"
PEER = "sz3"
VARIANTS = {
    "ebq, no scales": {"name": "ebq", "scales": False},
    "sz3 interp_lorenzo": {"name": "sz3", "predictor": "interp_lorenzo"},
    "libpressio:sz3": {"name": "libpressio", "compressor": "sz3"},
    "libpressio:zfp": {"name": "libpressio", "compressor": "zfp"},
}
OURS = ("ebq", "ebq, no scales")
TARGET = 0.01, 0.002, 64  # share of the entropy, bits per value, bytes: how far above the entropy ebq may be
_TAILS = ("uniform", "gauss", "laplace", "t5")
_SPARSE = ("laplace", "t3", "gauss", "sparse")


@dataclass(frozen=True)
class Array:
    """What is encoded: values, and the absolute bound."""

    case: str
    values: np.ndarray
    bound: float


@dataclass(frozen=True)
class Timing:
    """One codec on one array: seconds of each repetition, and what came out."""

    encode: list[float]
    decode: list[float]
    size: int
    error: float


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure every codec that can be made here on every array."""
    codecs = dict(_codecs(say))
    rows: list[Row] = []
    for array in arrays(quick, say):
        if array.bound <= 0:
            continue
        found = _measure(array, codecs, 5 if quick else 9)
        rows += _rows(array, found, codecs)
        if "ebq" in found:
            bits = (8 * found[label].size / array.values.size for label in ("ebq", PEER))
            say(f"{array.case}: ebq {next(bits):.4f} bits per value, sz3 {next(bits):.4f}")
    return rows


def _codecs(say: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    from fedbound.errors import InputError
    from fedbound.registry import CODECS

    plain: dict[str, Any] = {name: {"name": name} for name in CODECS.available() if name != "libpressio"}
    for label, choice in (plain | VARIANTS).items():
        try:
            codec = CODECS.make(choice)
        except InputError as error:
            say(f"{label} is left out: {error}")
            continue
        if hasattr(codec, "warm_up"):
            codec.warm_up()
        yield label, codec


def arrays(quick: bool, say: Callable[[str], None]) -> Iterator[Array]:
    """The arrays, largest group first."""
    size = 200_000 if quick else 2_000_000
    for kind in _TAILS:
        x = draw(kind, size)
        for relative in (1e-1, 1e-2, 1e-3):
            yield Array(f"{kind}, rel {relative:g}", x, relative * float(np.ptp(x)))
    for kind in _SPARSE:
        x = draw(kind, size)
        for deviations in (4, 1, 0.25, 0.03):
            yield Array(f"{kind}, {deviations:g} sd", x, deviations * float(x.std()))
    say("training a model for real updates")
    yield from _real(4 if quick else 15)


def draw(kind: str, size: int) -> np.ndarray:
    """Independent float32 values of one law, seed 0; "sparse" is Laplace with 3 % of the values kept."""
    rng = np.random.default_rng(0)
    found = {
        "uniform": lambda: rng.uniform(-1, 1, size),
        "gauss": lambda: rng.normal(size=size),
        "laplace": lambda: rng.laplace(size=size),
        "t5": lambda: rng.standard_t(5, size),
        "t3": lambda: rng.standard_t(3, size),
        "sparse": lambda: rng.laplace(size=size) * (rng.random(size) < 0.03),
    }[kind]()
    return found.astype(np.float32)


def _real(late: int) -> Iterator[Array]:
    """Silo 0's weights and update in round 2 and in round `late`: digits, six silos, Dirichlet 0.3, an MLP."""
    from fedbound import study
    from fedbound.federation.assembly import Assembly
    from fedbound.registry import MODELS

    data = study.Data.model_validate({"silos": 6, "partition": {"name": "dirichlet", "alpha": 0.3}})
    model = MODELS.normalise({"name": "mlp", "hidden": [512, 512]})
    for number in (2, late):
        training = study.Training(rounds=number - 1)
        assembly = Assembly(data, model, training, study.Exchange(codec="none"), 0)
        reference = assembly.server(assembly.local()).run()
        local = assembly.silo(0).train_from(reference, number - 1)
        for name, values in (("weights", local.vector), ("delta", local.vector - reference.vector)):
            block = max(assembly.layout.blocks, key=lambda block: block.size)
            part = values[block.start : block.stop].reshape(block.shape)
            for relative in (1e-1, 1e-2, 1e-3):
                yield Array(f"{name} of round {number}, rel {relative:g}", part, relative * float(np.ptp(part)))


def _measure(array: Array, codecs: dict[str, Any], repeats: int) -> dict[str, Timing]:
    out = np.empty_like(array.values)
    found: dict[str, Timing] = {}
    for repeat in range(repeats + 1):  # the first turn pays for fresh memory and is left out
        for label, codec in codecs.items():
            started = time.perf_counter()
            payload = codec.encode(array.values, array.bound)
            encoded = time.perf_counter()
            codec.decode(payload, out)
            decoded = time.perf_counter()
            if repeat == 0:
                error = float(np.abs(array.values - out).max())
                found[label] = Timing([], [], len(payload), error)
                continue
            found[label].encode.append(encoded - started)
            found[label].decode.append(decoded - encoded)
    return found


def _rows(array: Array, found: dict[str, Timing], codecs: dict[str, Any]) -> list[Row]:
    from fedbound.codecs.entropy import entropy_bits

    entropy = entropy_bits(array.values, array.bound)
    values, raw = array.values.size, array.values.nbytes
    rows = [Row(BENCH, array.case, "", "entropy", entropy, "bit"), Row(BENCH, array.case, "", "values", values, "1")]
    base = found[PEER]
    for label, timing in found.items():
        case = f"{array.case}: {label}"

        def add(metric: str, value: Any, unit: str, peer: str = "", case: str = case) -> None:
            rows.append(Row(BENCH, case, peer, metric, float(value), unit))

        bits = 8 * timing.size / values
        encode, decode = (float(np.median(times)) for times in (timing.encode, timing.decode))
        add("ratio", raw / timing.size, "1")
        add("bits_per_value", bits, "bit")
        add("above_entropy", bits - entropy, "bit")
        add("of_entropy_limit", entropy / bits, "1")
        add("encode_rate", raw / encode / 1e6, "MB/s")
        add("decode_rate", raw / decode / 1e6, "MB/s")
        bounded = codecs[label].error_bounded
        add("error_over_bound", timing.error / array.bound if bounded else math.nan, "1")
        add("break_even", (raw - timing.size) / (encode + decode) * 8e-6, "Mbit/s")
        if label != PEER:
            add("size", timing.size / base.size, "1", PEER)
            pairs = zip(base.encode, base.decode, timing.encode, timing.decode, strict=True)
            speeds = [(a + b) / (c + d) for a, b, c, d in pairs]
            for metric, percentile in (("speed_low", 25), ("speed", 50), ("speed_high", 75)):
                add(metric, np.percentile(speeds, percentile), "1", PEER)
        if label in OURS and values >= (100_000 if entropy <= 8 else 1_000_000) and 0.01 <= entropy <= 12:
            share, bit, fixed = TARGET
            add("target_size", 8 * (timing.size - fixed) / values <= (1 + share) * entropy + bit, "1")
            add("target_speed", find(rows, "speed", case, PEER) >= 1, "1", PEER)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Ratios of all codecs, then ebq against its targets; without scales too, where these make a difference."""
    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "entropy"))
    labels = list(dict.fromkeys(row.case.split(": ")[1] for row in rows if row.metric == "ratio"))
    lines = []
    for case in cases:
        entropy = find(rows, "entropy", case)
        limit = f"{32 / entropy:.2f}" if entropy > 0 else "inf"
        lines.append((case, limit, *(f"{find(rows, 'ratio', f'{case}: {label}'):.2f}" for label in labels)))
    parts = ["Ratio, headers included; 'limit' is 32 / entropy", aligned(("array", "limit", *labels), lines), ""]
    lines = []
    for case in cases:
        for label in OURS:
            if label == "ebq" or find(rows, "ratio", f"{case}: {label}") != find(rows, "ratio", f"{case}: ebq"):
                lines.append(_against_targets(rows, case, label))
    head = (
        "array",
        "entropy",
        "ebq +",
        "sz3 +",
        "enc MB/s",
        "dec MB/s",
        "speed / sz3",
        "break-even Mbit/s",
        "size",
        "fast",
    )
    parts += [
        "ebq: bits above the entropy, speed as a multiple of SZ3's (quartiles), and its targets",
        aligned(head, lines),
    ]
    return "\n".join(parts)


def _against_targets(rows: Sequence[Row], case: str, label: str) -> tuple[str, ...]:
    ours = f"{case}: {label}"
    met = find(rows, "target_size", ours), find(rows, "target_speed", ours, PEER)
    return (
        case + label.removeprefix("ebq"),
        f"{find(rows, 'entropy', case):.4f}",
        f"{find(rows, 'above_entropy', ours):+.4f}",
        f"{find(rows, 'above_entropy', f'{case}: {PEER}'):+.4f}",
        *(f"{find(rows, key, ours):.0f}" for key in ("encode_rate", "decode_rate")),
        f"{find(rows, 'speed', ours, PEER):.2f} ({find(rows, 'speed_low', ours, PEER):.2f} to "
        f"{find(rows, 'speed_high', ours, PEER):.2f})",
        f"{find(rows, 'break_even', ours):.0f}",
        *("" if math.isnan(one) else "yes" if one else "NO" for one in met),
    )


def plot(rows: Sequence[Row], path: Path) -> None:
    """Size above the entropy, and speed against SZ3, case by case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS

    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "entropy" and float(row.value) > 0))
    labels = [name for name in ("ebq", "ebq, no scales", "sz3", "sz3 interp_lorenzo", "sz2", "zfp") if _has(rows, name)]
    figure, (sizes, speeds) = plt.subplots(1, 2, figsize=(13, 0.24 * len(cases) + 2), sharey=True, layout="constrained")
    for index, label in enumerate(labels):
        style = {"marker": MARKERS[index], "color": COLOURS[index], "linestyle": "none", "label": label}
        share = [1 / find(rows, "of_entropy_limit", f"{case}: {label}") for case in cases]
        sizes.plot(share, range(len(cases)), **style)
        if label != PEER:
            speed = [find(rows, "speed", f"{case}: {label}", PEER) for case in cases]
            speeds.plot(speed, range(len(cases)), **style)
    for axis, question in ((sizes, "size / entropy: 1 is the limit"), (speeds, "encode + decode speed / SZ3 nopred")):
        axis.axvline(1, color=GREY, linewidth=0.8)
        axis.set_xscale("log")
        axis.set_title(question)
        axis.grid(alpha=0.3)
    sizes.set_yticks(range(len(cases)), cases, fontsize=8)
    sizes.invert_yaxis()
    sizes.margins(y=0.02)
    speeds.set_xticks([0.2, 0.3, 0.5, 1, 2, 3], labels=["0.2", "0.3", "0.5", "1", "2", "3"])
    speeds.minorticks_off()
    figure.legend(*sizes.get_legend_handles_labels(), loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _has(rows: Sequence[Row], label: str) -> bool:
    return any(row.metric == "ratio" and row.case.endswith(f": {label}") for row in rows)
