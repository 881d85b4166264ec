"""When does compressing pay? Break-even bandwidth per codec and silo, idle times of a round, what pipelining hides.

Pure functions of a profile's costs, for the collect stage: nothing here measures. The break-even rule is elementary and
is FedSZ's (Wilkins et al., ICDCS 2024) as far as its abstract tells; bandwidths are bytes per second, times seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one silo's round costs, as profiled.

    Attributes:
        silo: the silo.
        raw_bytes: update uncompressed.
        up_bytes, down_bytes: messages as sent.
        train_seconds, evaluate_seconds: on the training device.
        encode_seconds: at the silo, processor.
        decode_seconds: at the server, for this silo's update.
    """

    silo: int
    raw_bytes: int
    up_bytes: int
    down_bytes: int
    train_seconds: float
    evaluate_seconds: float
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class View:
    """One silo's round on one link.

    Attributes:
        silo: the silo.
        break_even: bandwidth below which compressing shortens the silo's way to the server; infinite where coding
            takes no time, 0 where it saves no bytes.
        pays: whether the link is slower than that.
        plain_seconds: from update ready to update decoded, uncompressed.
        coded_seconds: the same, compressed, one step after the other.
        pipelined_seconds: the same with the update in chunks: encoding, sending and decoding overlap.
        hidden: share of the coding time that the pipeline hides, 0 to 1.
        device_idle, processor_idle, link_idle: share of the synchronous round that each is idle, 0 to 1.
        waits_seconds: the silo's wait for the slowest one.
    """

    silo: int
    break_even: float
    pays: bool
    plain_seconds: float
    coded_seconds: float
    pipelined_seconds: float
    hidden: float
    device_idle: float
    processor_idle: float
    link_idle: float
    waits_seconds: float


def break_even(raw_bytes: float, sent_bytes: float, encode_seconds: float, decode_seconds: float) -> float:
    """Bandwidth (byte/s) below which t_c + t_d + S' / B < S / B, that is (S - S') / (t_c + t_d).

    Args:
        raw_bytes: S, uncompressed.
        sent_bytes: S', as sent.
        encode_seconds: t_c.
        decode_seconds: t_d; K times one update's where the server decodes K updates one after the other.
    """
    saved = raw_bytes - sent_bytes
    coding = encode_seconds + decode_seconds
    if saved <= 0:
        return 0.0
    return saved / coding if coding > 0 else math.inf


def pipelined(stages: Sequence[float], chunks: int) -> float:
    """Time of a pipeline whose stages take these times for the whole, in equal chunks: sum / n + (n - 1) max / n."""
    if chunks < 1:
        raise ValueError(f"{chunks} chunks; a pipeline needs at least 1")
    return (sum(stages) + (chunks - 1) * max(stages)) / chunks


def view(
    costs: Sequence[Cost], bandwidth: float, chunks: int = 16, serial_decode: bool = True, same_device: bool = True
) -> list[View]:
    """Each silo's round when every silo has its own link of `bandwidth` both ways.

    Args:
        costs: one per silo.
        bandwidth: bytes per second of a silo's link.
        chunks: chunks of the pipeline.
        serial_decode: the server decodes one update after the other, so that the last one waits for all.
        same_device: training runs on the processor that encodes; False: on a GPU.
    """
    if not bandwidth > 0:
        raise ValueError(f"a bandwidth of {bandwidth:g} bytes per second carries nothing")
    decoding = {
        cost.silo: sum(c.decode_seconds for c in costs) if serial_decode else cost.decode_seconds for cost in costs
    }
    own = {cost.silo: _own_seconds(cost, bandwidth) for cost in costs}
    server = sum(cost.decode_seconds for cost in costs)
    whole = max(own.values()) + server
    return [_one(cost, bandwidth, chunks, decoding[cost.silo], own, whole, same_device) for cost in costs]


def _own_seconds(cost: Cost, bandwidth: float) -> float:
    busy = cost.train_seconds + cost.evaluate_seconds + cost.encode_seconds
    return busy + (cost.up_bytes + cost.down_bytes) / bandwidth


def _one(
    cost: Cost,
    bandwidth: float,
    chunks: int,
    decode: float,
    own: dict[int, float],
    whole: float,
    same_device: bool,
) -> View:
    limit = break_even(cost.raw_bytes, cost.up_bytes, cost.encode_seconds, decode)
    upload = cost.up_bytes / bandwidth
    coded = cost.encode_seconds + upload + decode
    overlapped = pipelined((cost.encode_seconds, upload, decode), chunks)
    coding = cost.encode_seconds + decode
    training = cost.train_seconds + cost.evaluate_seconds
    processor = cost.encode_seconds + (training if same_device else 0.0)

    def idle(busy: float) -> float:
        return max(0.0, 1 - busy / whole) if whole > 0 else 0.0

    return View(
        cost.silo,
        limit,
        bandwidth < limit,
        cost.raw_bytes / bandwidth,
        coded,
        overlapped,
        min(1.0, (coded - overlapped) / coding) if coding > 0 else 0.0,
        idle(training),
        idle(processor),
        idle((cost.up_bytes + cost.down_bytes) / bandwidth),
        max(own.values()) - own[cost.silo],
    )


def sentence(codec: str, views: Sequence[View], bandwidth: float) -> str:
    """What to do on this link, in one sentence."""
    speed = bandwidth * 8e-6
    least, most = (pick(one.break_even for one in views) * 8e-6 for pick in (min, max))
    span = f"{least:,.0f} Mbit/s" if math.isclose(least, most) else f"{least:,.0f} to {most:,.0f} Mbit/s"
    paying = sum(one.pays for one in views)
    if paying == len(views):
        return f"{codec} pays for every silo on links of {speed:,.0f} Mbit/s: break-even at {span}"
    if not paying:
        return f"do not compress by {codec} on links of {speed:,.0f} Mbit/s: it pays only below {span}"
    return f"{codec} pays for {paying} of {len(views)} silos on links of {speed:,.0f} Mbit/s: break-even at {span}"
