from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from fedbound import artifacts, schemas, study
from fedbound.errors import InputError
from fedbound.privacy import mechanisms, stage, transforms


def scenario(**changes):
    values = {"epsilon": 2.0, "clients": 50, "dimension": 60, "trials": 12, "audit_draws": 4000, **changes}
    return study.PrivacyScenario(study="test", privacy=study.Privacy(**values))


CHOICES = [
    *(name for name in mechanisms.available() if name not in ("binomial", "ddgauss", "mvu", "pbm")),
    {"name": "binomial", "bits": 11},
    {"name": "ddgauss", "bits": 11},
    {"name": "skellam", "bits": 10},
    {"name": "mvu", "bits": 1},
    {"name": "pbm", "bits": 9},
]


@pytest.mark.parametrize("mechanism", CHOICES)
def test_stage_writes_one_row_of_the_schema(tmp_path, mechanism):
    artifact = stage.run(scenario(mechanism=mechanism, seed=3), {})
    artifacts.write(tmp_path / "privacy.h5", artifact)
    read = artifacts.read(tmp_path / "privacy.h5", "privacy")
    frame = read["results"]
    assert list(frame.columns) == list(schemas.PRIVACY_RESULTS.fields)
    assert len(frame) == 1
    row = frame.iloc[0]
    assert (read.seed, row.clients, row.dimension, row.trials) == (3, 50, 60, 12)
    name = mechanism if isinstance(mechanism, str) else mechanism["name"]
    assert row.mechanism == name
    assert 0.99 * 2.0 <= row.epsilon <= row.target_epsilon == 2.0
    # loss distributions are never worse than Rényi divergences by more than their grid
    # pbm shows whole coordinates at full scale, here two of 2.7
    least = {"pbm": 0.7, "qmgeo": 0.5}.get(name, 0.8)
    assert least * row.epsilon <= row.epsilon_pld <= row.epsilon_rdp * 1.001
    if name not in ("mvu", "qmgeo"):  # pure ones of several levels: the claim holds at delta 0, and is larger
        assert row.epsilon in (pytest.approx(row.epsilon_pld, rel=1e-3), pytest.approx(row.epsilon_rdp, rel=1e-3))
    assert 0 <= row.audited <= row.audit_exact <= row.audit_claim <= 2.0 * (1 + 1e-9)
    # fewer messages never hide more, and a single one least
    missing = [row.epsilon, row.epsilon_missing_10, row.epsilon_missing_30, row.epsilon_missing_50, row.epsilon_alone]
    assert all(a <= b * (1 + 1e-6) for a, b in itertools.pairwise(missing))
    assert row.mse_scaled == pytest.approx(row.mse, rel=0.1) or name == "qmgeo"
    assert row.audit_draws == 4000
    # 12 trials: Student's t with 11 degrees of freedom beyond 8 has probability 7e-6
    assert abs(row.mse - row.mse_closed) < 8 * row.mse_se
    assert 0 < row.mse_se < row.mse
    assert row.norm == ("L1" if mechanism in ("laplace", "cldp", "jopeq") else "L2")
    assert (row.trust, row.adjacency) in (
        ("central server", "zero-out"),
        ("secure aggregation", "zero-out"),
        ("local", "replace"),
    )
    assert row.floor > 0
    assert row.bits > 0
    assert math.isfinite(row.bias)
    assert read.provenance["dp_accounting"]


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "skellam"])
def test_same_seed_same_numbers(mechanism):
    first, again = (stage.run(scenario(mechanism=mechanism), {}) for _ in range(2))
    assert artifacts.differences(first, again) == []
    assert first.content_digest() == again.content_digest()
    other = stage.run(scenario(mechanism=mechanism, seed=1), {})
    assert other.tables["results"]["mse"].values[0] != first.tables["results"]["mse"].values[0]


def test_floor_is_the_gaussians_own_error():
    table = stage.run(scenario(mechanism="gaussian"), {}).tables["results"]
    assert table["floor"].values[0] == pytest.approx(table["mse_closed"].values[0], rel=1e-5)


@pytest.mark.parametrize(("norm", "order"), [("L2", 2), ("L1", 1)])
def test_clients_lie_on_the_sphere(norm, order):
    vectors = stage.clients(40, 30, 2.5, norm, seed=0)
    np.testing.assert_allclose(transforms.norms(vectors, order), 2.5, rtol=1e-14)
    assert np.array_equal(vectors, stage.clients(40, 30, 2.5, norm, seed=0))
    assert not np.array_equal(vectors, stage.clients(40, 30, 2.5, norm, seed=1))
    # no preferred direction: the mean over 40 * 30 coordinates is within 5 standard errors of 0
    assert abs(vectors.mean()) < 5 * vectors.std() / math.sqrt(vectors.size)


def test_no_audit_is_run_where_none_is_asked_for():
    table = stage.run(scenario(audit_draws=0), {}).tables["results"]
    assert math.isnan(table["audited"].values[0])
    assert table["audit_draws"].values[0] == 0


def test_too_large_a_cell_is_refused_at_once():
    with pytest.raises(InputError, match=r"privacy.clients: 1000000 clients of dimension 1000.*lower"):
        stage.run(scenario(clients=1_000_000, dimension=1000), {})


def test_an_input_is_refused():
    with pytest.raises(InputError, match="run: the privacy stage reads no artifact"):
        stage.run(scenario(), {"run": Path("run.h5")})


def test_a_field_that_is_too_small_is_refused():
    with pytest.raises(InputError, match="bits are too few"):
        stage.run(scenario(mechanism={"name": "skellam", "bits": 3}), {})


def test_one_client_and_one_coordinate_work():
    for mechanism in ("gaussian", "laplace", "skellam"):
        table = stage.run(scenario(mechanism=mechanism, clients=1, dimension=1), {}).tables["results"]
        assert np.isfinite(table["mse"].values[0])
