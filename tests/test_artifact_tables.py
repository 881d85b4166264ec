"""Reading some tables of many artifacts: as quick as it is, it takes no damaged file and no other values."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fedbound import artifacts, plan, schemas, study
from fedbound.artifacts import Artifact, files
from fedbound.bench import study as large
from fedbound.bench import study_artifacts
from fedbound.errors import ArtifactError
from fedbound.report import collect


def small() -> plan.Plan:
    """Some of the large study: two runs, their simulations, a privacy cell."""
    change = {"seeds": [0], "training": {"rounds": 2}, "exchange": {"codec": ["none", "ebq"], "bound": 0.1}}
    return plan.make(study.parse({**large.STUDY, **large.QUICK, **change}))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[plan.Plan, Path]:
    made, folder = small(), tmp_path_factory.mktemp("large")
    study_artifacts.fill(made, folder)
    return made, folder


def inputs(made: plan.Plan, folder: Path) -> dict[str, Path]:
    return {name: folder / path for name, path in made.job("collect", "study").inputs.items()}


def one_of(written: tuple[plan.Plan, Path], folder: Path) -> Path:
    made, there = written
    path = Path(next(iter(made.jobs["train"].values())).path)
    return Path(shutil.copy(there / path, folder / path.name))


def test_the_large_study_has_a_thousand_scenarios() -> None:
    made = plan.make(study.parse(large.STUDY))
    assert sum(len(jobs) for stage, jobs in made.jobs.items() if stage != "collect") == 1000
    assert len(made.job("collect", "study").inputs) == 1000


def test_made_up_artifacts_are_collected_whole(written) -> None:
    made, folder = written
    found = collect.run(study.CollectScenario(study="thousand", report=study.Report()), inputs(made, folder))
    counts = {name: len(found[name]) for name in ("scenarios", "runs", "rounds", "silos", "simulations", "privacy")}
    assert counts == {"scenarios": 7, "runs": 2, "rounds": 6, "silos": 32, "simulations": 2, "privacy": 1}
    assert (found["scenarios"].status == "done").all()


def test_some_tables_hold_what_all_hold(written, tmp_path) -> None:
    path = one_of(written, tmp_path)
    whole = artifacts.read(path, "train")
    some, content = artifacts.read_tables(path, "train", {"rounds", "summary"})
    assert content == whole.content_digest()
    assert set(some.tables) == {"rounds", "summary"}
    for name, table in some.tables.items():
        assert {k: c.field for k, c in table.items()} == {k: c.field for k, c in whole.tables[name].items()}
        assert list(table) == list(schemas.TABLES["train"][name].fields)
        for key, column in table.items():
            np.testing.assert_array_equal(column.values, whole.tables[name][key].values)


def test_an_older_file_says_its_meanings_column_by_column(written, tmp_path) -> None:
    path = one_of(written, tmp_path)
    before, _ = artifacts.read_tables(path, "train", {"rounds"})
    resealed(path, lambda file: file["tables/rounds"].attrs.__delitem__("fields"))
    after, _ = artifacts.read_tables(path, "train", {"rounds"})
    assert artifacts.differences(before, after) == []
    assert artifacts.differences(artifacts.read(path), artifacts.read(one_of(written, tmp_path))) == []


def test_any_flipped_bit_is_refused(written, tmp_path) -> None:
    path = one_of(written, tmp_path)
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, 8 * len(content), 200):
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            artifacts.read_tables(path, "train", {"rounds"})


def resealed(path: Path, change: Callable[[h5py.File], Any]) -> None:
    """Alter a file and seal it again, as only somebody who means to could."""
    with h5py.File(path, "r+", locking=False) as file:
        change(file)
    image = path.read_bytes()[512:]
    path.write_bytes(files.seal_of(len(image), hashlib.sha256(image).hexdigest()) + image)


def _other_type(file: h5py.File) -> None:
    attributes = dict(file["tables/rounds/round"].attrs)
    del file["tables/rounds/round"]
    file["tables/rounds"].create_dataset("round", data=np.zeros(3, "f4")).attrs.update(attributes)


def _other_meaning(file: h5py.File) -> None:
    group = file["tables/rounds"]
    group.attrs["fields"] = group.attrs["fields"].replace("rounds completed", "rounds begun")


def _elsewhere(file: h5py.File) -> None:
    del file["tables/rounds/round"]
    file["tables/rounds"].create_dataset("round", shape=(3,), dtype="<i8", external=[("/etc/hostname", 0, 24)])


def _larger(file: h5py.File) -> None:
    del file["tables/rounds/round"]
    file["tables/rounds"].create_dataset("round", shape=(2**40,), dtype="<i8", chunks=(2**16,))


@pytest.mark.parametrize(("change", "message"), [
    (_other_type, "round holds float32 and not int64"),
    (_elsewhere, "in another file"),
    (_larger, "claims 8796093022208 bytes"),
])  # fmt: skip
def test_meant_alterations_are_refused(written, tmp_path, change, message) -> None:
    path = one_of(written, tmp_path)
    resealed(path, change)
    with pytest.raises(ArtifactError, match=message):
        artifacts.read_tables(path, "train", {"rounds"})


def test_a_table_that_says_other_meanings_than_its_columns_is_refused_where_all_is_checked(written, tmp_path) -> None:
    path = one_of(written, tmp_path)
    resealed(path, _other_meaning)
    with pytest.raises(ArtifactError, match="differs from its columns"):
        artifacts.read(path, "train")


def test_a_text_column_stays_text(tmp_path) -> None:
    schema = artifacts.Schema({"name": artifacts.Field("str", "", "a name")})
    made = Artifact("train", "s", {}, None, {"names": schema.columns({"name": ["b", "a", "b"]}), "none": {}})
    artifacts.write(tmp_path / "a.h5", made)
    found, _ = artifacts.read_tables(tmp_path / "a.h5", "train", {"names", "none"})
    assert found.tables["names"]["name"].values.tolist() == ["b", "a", "b"]
    assert found.tables["none"] == {}
