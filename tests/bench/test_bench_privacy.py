"""`fedbound bench privacy`: the quick groups of anchors, the table's marks and remarks."""

from __future__ import annotations

import math

import pytest

from fedbound.bench import privacy, privacy_anchors, privacy_audits, privacy_speeds, rows
from fedbound.bench.privacy_anchors import Anchor
from fedbound.privacy import mechanisms

FAST = (
    privacy_anchors.layered_bits,
    privacy_anchors.rqm_sums,
    privacy_anchors.shuffling,
    privacy_anchors.accounting_values,
)


def test_fast_anchors_are_met_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(privacy, "GROUPS", FAST)
    monkeypatch.setattr(privacy_audits, "EPSILONS", (2.0,))
    monkeypatch.setattr(privacy_audits, "BREAKS", {"laplace": privacy_audits.BREAKS["laplace"]})
    monkeypatch.setattr(mechanisms, "available", lambda: ["cldp", "laplace"])
    nothing = privacy_speeds.Work(lambda: sum(range(10_000)), lambda: sum(range(20_000)))
    monkeypatch.setattr(privacy_speeds, "_works", lambda size: {"nothing": nothing})
    said: list[str] = []
    made = privacy.run(True, said.append)
    missed = {row.case for row in made if row.metric == "met" and not row.value}
    explained = {row.case for row in made if row.metric == "remark"}
    assert missed <= explained
    assert all(case.endswith("mean") for case in missed)  # the mean bits of the layered quantizer could not be traced
    assert sum(row.metric == "ours" for row in made) == 25 + 6 + 1 + 7
    limit = rows.find(made, "over_gaussian_limit", "accounting: PBM, d 10^6, 1000 rounds")
    assert 1 <= limit < 1.015
    shown = privacy.table(made)
    assert "difference %" in shown
    exceeding = [row.case for row in made if row.metric == "exceeds" and row.value]
    assert exceeding == ["audit: cldp with noise / 3, eps 2", "audit: laplace with noise / 3, eps 2"]
    assert "its middle stands here" in shown
    assert rows.find(made, "coordinates", "speed: nothing", privacy_speeds.NUMPY) > 0
    assert "\nnothing  " in shown
    privacy.plot(made, tmp_path / "privacy.png")
    assert (tmp_path / "privacy.png").read_bytes().startswith(b"\x89PNG")


def test_an_anchor_is_held_against_the_reproduction_and_else_the_paper():
    assert Anchor("g", "c", 1.1, 1.0, 2.0, 0.2).difference == pytest.approx(0.1)
    assert Anchor("g", "c", 1.1, math.nan, 1.0, 0.05).met is False
    shown = privacy.table(privacy._rows(Anchor("g", "c", 1.1, math.nan, 1.0, 0.05, why="because")))
    assert shown.splitlines()[1].split() == ["c", "1", "1.1", "+10.0", "5", "no"]
    assert "  because" in shown


def test_rqm_is_no_worse_than_pbm_at_higher_orders():
    found = {anchor.case: anchor.ours for anchor in privacy_anchors.rqm_sums(True)}
    assert all(found[f"rqm, order {order}"] < found[f"pbm, order {order}"] for order in (2, 8, 32))
