from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbound import data, study, study_file
from fedbound.data import _sizes
from fedbound.errors import InputError


def rows(split: data.Split) -> list[bytes]:
    return [x.tobytes() + bytes([y]) for x, y in zip(split.x, split.y, strict=True)]


def parts(silo: data.SiloData) -> tuple[data.Split, ...]:
    return silo.train, silo.validation, silo.test


def test_digits_federation_holds_every_sample_once():
    made = data.federation(study.Data(silos=5))
    whole = data.load({"name": "digits"})
    assert (made.shape, made.classes, made.name, len(made.silos)) == ((1, 8, 8), 10, "digits", 5)
    held = sorted(row for silo in made.silos for part in parts(silo) for row in rows(part))
    assert held == sorted(rows(data.Split(whole.x, whole.y)))


def test_same_seed_same_federation_and_another_seed_another():
    one, same, other = (data.federation(study.Data(seed=seed)) for seed in (3, 3, 4))
    for a, b in zip(one.silos, same.silos, strict=True):
        assert [rows(part) for part in parts(a)] == [rows(part) for part in parts(b)]
    assert rows(one.silos[0].train) != rows(other.silos[0].train)


def test_parts_have_the_shares_that_were_asked_for():
    made = data.federation(study.Data(silos=3, partition="iid", validation=0.2, test=0.3))
    for silo in made.silos:  # 599 samples each
        assert [len(part) for part in parts(silo)] == [299, 120, 180]


def test_no_validation_means_none():
    made = data.federation(study.Data(validation=0.0))
    assert [len(silo.validation) for silo in made.silos] == [0] * 4


@given(st.integers(2, 300), st.floats(0, 0.99), st.floats(0.001, 0.99))
def test_every_part_has_a_sample_whatever_the_shares(samples, validation, test):
    if validation + test >= 1 or (validation > 0 and samples < 3):
        return
    train, validated = _sizes(samples, validation, test)
    assert train >= 1
    assert samples - train - validated >= 1
    assert validated >= 1 if validation > 0 else validated == 0


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["iid", "dirichlet", "quantity"]), st.integers(1, 200), st.integers(0, 2**31))
def test_every_silo_trains_validates_and_tests(partition, silos, seed):
    made = data.federation(study.Data(partition=partition, silos=silos, seed=seed))
    assert all(len(part) >= 1 for silo in made.silos for part in parts(silo))
    assert sum(len(part) for silo in made.silos for part in parts(silo)) == 1797


def test_a_silo_too_small_to_split_is_named(tmp_path):
    owner = np.array([0] * 20 + [1] * 2)
    np.savez(tmp_path / "own.npz", x=np.ones((22, 3)), y=np.arange(22) % 2, owner=owner)
    choice = {"name": "npz", "path": str(tmp_path / "own.npz")}
    with pytest.raises(InputError, match="silo 1 gets 2 of the 22 samples of 'npz', but needs 3"):
        data.federation(study.Data(dataset=choice, partition="natural", silos=2))
    made = data.federation(study.Data(dataset=choice, partition="natural", silos=2, validation=0.0))
    assert [len(part) for part in parts(made.silos[1])] == [1, 0, 1]


@pytest.mark.parametrize(("partition", "silos"), [("dirichlet", 300), ({"name": "quantity", "min_samples": 900}, 2)])
def test_a_study_is_refused_before_it_runs_where_samples_cannot_suffice(partition, silos):
    with pytest.raises(InputError, match="min_samples"):
        study_file.check_data(SimpleNamespace(data=[study.Data(partition=partition, silos=silos)]))


def test_finding_and_counting_data_imports_nothing_heavy():
    code = (
        "import sys; from types import SimpleNamespace; from fedbound import models, registry, study, study_file;"
        "study_file.check_data(SimpleNamespace(data=[study.Data()]));"
        "models.available(); registry.DATASETS.available();"
        "import fedbound.models.training, fedbound.models.state;"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
