"""When compressing pays: the tables follow the profile's costs, and the advice can be not to compress."""

from __future__ import annotations

import math

import pytest

from fedbound import schemas
from fedbound.artifacts import Artifact
from fedbound.report import links

KEYS = {"stem": "p", "setting": "ebq calibrated", "codec": "ebq"}


def profile(sent: int, coding: float, bandwidth: float) -> Artifact:
    """Two silos, 1 MB updates of `sent` bytes; encoding and decoding take `coding` seconds each."""
    silos = [
        {
            "round": round_, "silo": silo, "steps": 5, "raw_bytes": 1_000_000, "up_bytes": sent, "down_bytes": 500,
            "train_seconds": 1.0, "evaluate_seconds": 0.0, "model_seconds": 0.0, "encode_seconds": coding,
            "decode_seconds": coding, "aggregate_seconds": 0.0,
            "other_seconds": 0.0, "transfer_seconds": 0.0, "arrival_seconds": 1.0 + 2 * coding,
        }
        for round_ in (1, 2)
        for silo in (0, 1)
    ]  # fmt: skip
    costs = [
        {
            "silo": silo, "node": 0, "samples": 10, "steps": 5, "train_seconds": 3.0, "alone_seconds": 1.0,
            "alone_evaluate_seconds": 0.0, "alone_encode_seconds": coding, "other_seconds": 0.0,
            "evaluate_seconds": 0.5, "encode_seconds": 3 * coding, "model_seconds": 0.0, "decode_seconds": coding,
            "latency": 0.0, "bandwidth": bandwidth,
        }
        for silo in (0, 1)
    ]  # fmt: skip
    found = {"silos": schemas.PROFILE_SILOS.table(silos), "costs": schemas.PROFILE_COSTS.table(costs)}
    return Artifact("profile", "t", {"training": {"device": "cpu"}}, None, found)


def test_break_even_and_advice_by_hand():
    """0.9 MB saved in 0.1 s + 2 x 0.1 s of coding (the server decodes both): 3 MB/s, that is 24 Mbit/s."""
    found = links.tables([(KEYS, profile(100_000, 0.1, 1e9))], [10.0, 100.0])
    rows, advice = found["links"], found["link_advice"]
    assert rows["break_even"].values.tolist() == pytest.approx([24.0] * 6)
    assert rows["link"].values.tolist() == ["10 Mbit/s"] * 2 + ["100 Mbit/s"] * 2 + ["measured"] * 2
    assert rows["pays"].values.tolist() == [1, 1, 0, 0, 0, 0]
    assert rows["plain_seconds"].values[0] == pytest.approx(0.8)
    assert rows["coded_seconds"].values[0] == pytest.approx(0.1 + 0.08 + 0.2)
    assert advice["pays"].values.tolist() == [2, 0, 0]
    assert (
        advice["advice"].values[0]
        == "ebq calibrated pays for every silo on links of 10 Mbit/s: break-even at 24 Mbit/s"
    )
    assert advice["advice"].values[1] == (
        "do not compress by ebq calibrated on links of 100 Mbit/s: it pays only below 24 Mbit/s"
    )


def test_what_saves_nothing_or_was_not_measured_gives_no_advice():
    exact = links.tables([(KEYS, profile(1_000_100, 0.1, math.nan))], [10.0])
    assert exact["links"]["break_even"].values.tolist() == [0, 0]
    assert not len(exact["link_advice"]["advice"].values)
    assert not len(links.tables([], [10.0])["links"]["silo"].values)
