from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedbound import artifacts, schemas, study
from fedbound.errors import InputError
from fedbound.privacy import stage, transforms


def scenario(**changes):
    values = {"epsilon": 2.0, "clients": 50, "dimension": 60, "trials": 12, **changes}
    return study.PrivacyScenario(study="test", privacy=study.Privacy(**values))


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "skellam", {"name": "skellam", "bits": 10}])
def test_stage_writes_one_row_of_the_schema(tmp_path, mechanism):
    artifact = stage.run(scenario(mechanism=mechanism, seed=3), {})
    artifacts.write(tmp_path / "privacy.h5", artifact)
    read = artifacts.read(tmp_path / "privacy.h5", "privacy")
    frame = read["results"]
    assert list(frame.columns) == list(schemas.PRIVACY_RESULTS.fields)
    assert len(frame) == 1
    row = frame.iloc[0]
    assert (read.seed, row.clients, row.dimension, row.trials) == (3, 50, 60, 12)
    assert row.mechanism == (mechanism if isinstance(mechanism, str) else "skellam")
    assert 0.99 * 2.0 <= row.epsilon <= row.target_epsilon == 2.0
    # 12 trials: Student's t with 11 degrees of freedom beyond 8 has probability 7e-6
    assert abs(row.mse - row.mse_closed) < 8 * row.mse_se
    assert 0 < row.mse_se < row.mse
    assert row.norm == ("L1" if mechanism == "laplace" else "L2")
    assert row.trust in ("central server", "secure aggregation")
    assert row.adjacency == "zero-out"
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
