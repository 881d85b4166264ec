from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_cases import BYTES_DOWN, NONE, SZ3, collect_scenario, train, written

from fedbound import artifacts
from fedbound.calibration.student import quantile, upper_limit, within
from fedbound.report import collect

# One-sided 95 % and 97.5 % points: Abramowitz and Stegun, Handbook of Mathematical Functions, table 26.10.
TABLE = {1: (6.314, 12.706), 2: (2.920, 4.303), 3: (2.353, 3.182), 4: (2.132, 2.776), 9: (1.833, 2.262)}
TABLE |= {10: (1.812, 2.228), 30: (1.697, 2.042), 120: (1.658, 1.980)}


@pytest.mark.parametrize(("freedom", "points"), TABLE.items())
def test_students_t_has_the_tables_quantiles(freedom: int, points: tuple[float, float]) -> None:
    found = (quantile(0.95, freedom), quantile(0.975, freedom))
    assert found == pytest.approx(points, abs=0.0006)


@pytest.mark.parametrize("freedom", range(1, 40))
def test_quantile_inverts_the_distribution(freedom: int) -> None:
    assert within(quantile(0.95, freedom), freedom) == pytest.approx(0.9, abs=1e-12)


def test_upper_limit_of_hand_worked_drops() -> None:
    """Drops 0.2, 0.5, 0.3: mean 1/3, sd 0.152753, t(0.95, 2) = 2.919986: 1/3 + 2.919986 * 0.152753 / sqrt(3)."""
    assert upper_limit(np.array([0.2, 0.5, 0.3])) == pytest.approx(0.590852, abs=1e-6)
    assert upper_limit(np.array([1.0, 1.0, 1.0])) == 1.0
    assert math.isnan(upper_limit(np.array([0.2])))


def test_a_comparison_by_hand(collected: artifacts.Artifact) -> None:
    """Uncompressed 95, 96, 94 %, sz3 94.8, 95.5, 93.7 %: drops 0.2, 0.5, 0.3 points."""
    one = collected["comparisons"].set_index("setting").loc["sz3 calibrated"]
    assert (one.baseline, one.seeds) == ("uncompressed", 3)
    assert one["drop"] == pytest.approx(1 / 3, abs=1e-9)
    assert one.drop_sd == pytest.approx(math.sqrt(0.07 / 3), abs=1e-9)
    assert one.drop_upper == pytest.approx(0.590852, abs=1e-6)
    assert one.worst_silo_drop == pytest.approx(1 / 3, abs=1e-9)
    assert one.spread == pytest.approx(3.0, abs=1e-12)
    assert one.spread_difference == 0.0
    assert (one.bytes, one.baseline_bytes) == (2_500_000, 12_000_000)
    assert one.saving == 4.8
    assert one.ratio_up == pytest.approx(19.98)
    assert one.ratio_both == pytest.approx(11.99 / 2.5)


def test_settings_are_means_over_seeds(collected: artifacts.Artifact) -> None:
    one = collected["settings"].set_index("setting").loc["uncompressed"]
    assert one.seeds == 3
    assert one.accuracy == pytest.approx(0.95)
    assert one.accuracy_sd == pytest.approx(0.01)
    assert one.worst_silo == pytest.approx(0.90)
    assert (one.bytes_up, one.bytes_down) == (10_000_000, BYTES_DOWN)


def comparisons(folder: Path, runs: dict[str, artifacts.Artifact]) -> pd.DataFrame:
    return collect.run(collect_scenario(), written(folder, {f"train/{k}": v for k, v in runs.items()}))["comparisons"]


def test_only_common_seeds_are_paired(tmp_path: Path) -> None:
    """Seeds 0 and 1 against 1 and 2: only seed 1 is a pair, 1.5 points apart."""
    runs = {f"none{seed}": train(NONE, seed, 0.9 + seed / 100, 1000) for seed in (0, 1)}
    runs |= {f"sz3{seed}": train(SZ3, seed, 0.895, 100) for seed in (1, 2)}
    found = comparisons(tmp_path, runs)
    assert found.seeds.tolist() == [1]
    assert found["drop"].tolist() == pytest.approx([1.5])
    assert found.drop_upper.isna().all()


def test_no_common_seed_no_row(tmp_path: Path) -> None:
    assert comparisons(tmp_path, {"a": train(NONE, 0, 0.9, 1000), "b": train(SZ3, 1, 0.9, 100)}).empty


def test_lossless_is_compared_with_none_and_stands_in_for_it(tmp_path: Path) -> None:
    lossless = {**NONE, "codec": {"name": "lossless"}}
    runs = {"l": train(lossless, 0, 0.9, 800), "s": train(SZ3, 0, 0.89, 100)}
    assert comparisons(tmp_path / "without", runs).baseline.tolist() == ["lossless"]
    found = comparisons(tmp_path / "with", {**runs, "n": train(NONE, 0, 0.91, 1000)})
    assert dict(zip(found.setting, found.baseline, strict=True)) == {
        "lossless": "uncompressed",
        "sz3 calibrated": "uncompressed",
    }


def test_runs_of_other_training_settings_are_no_partners(tmp_path: Path) -> None:
    other = {"algorithm": {"name": "fedprox"}, "learning_rate": 0.05, "rounds": 5, "scheduler": {"name": "sync"}}
    runs = {
        "a": train(NONE, 0, 0.90, 1000),
        "b": train(SZ3, 0, 0.89, 100),
        "c": train(NONE, 0, 0.80, 1000, training=other),
        "d": train(SZ3, 0, 0.78, 100, training=other),
    }
    found = comparisons(tmp_path, runs).set_index("setting")
    assert found["drop"].to_dict() == pytest.approx({"sz3 calibrated, fedavg": 1.0, "sz3 calibrated, fedprox": 2.0})


def test_the_same_mode_is_the_nearer_partner(tmp_path: Path) -> None:
    runs = {
        "a": train(NONE, 0, 0.90, 1000),
        "b": train({**NONE, "mode": "weights"}, 0, 0.91, 1000),
        "c": train({**SZ3, "mode": "weights"}, 0, 0.89, 100),
    }
    found = comparisons(tmp_path, runs).set_index("setting")
    assert found.baseline["sz3 calibrated, mode=weights"] == "uncompressed, mode=weights"
