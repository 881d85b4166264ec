"""Artifacts: what is written is what is read, and nothing else is ever read."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import resource
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fedbound
from fedbound import artifacts
from fedbound.artifacts import Artifact, Column, Field, Schema, Table, differences, files, read, write
from fedbound.errors import ArtifactError, InputError

DTYPES = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]
DTYPES += ["float16", "float32", "float64", "str"]
SCHEMA = Schema(
    {
        "round": Field("int64", "1", "round, from 1"),
        "accuracy": Field("float64", "1", "accuracy"),
        "name": Field("str", "", "name"),
        "seconds": Field("float64", "s", "wall time", measured=True),
    }
)
# text that HDF5 can hold: UTF-8 without NUL
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789 é", min_size=1, max_size=12).filter(lambda n: n != "_index")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def columns(draw: st.DrawFn, rows: int) -> Column:
    field = Field(draw(st.sampled_from(DTYPES)), draw(TEXT), draw(TEXT), draw(st.booleans()))
    if field.dtype == "str":
        return Column(field, np.array(draw(st.lists(TEXT, min_size=rows, max_size=rows)), dtype=object))
    return Column(field, draw(hnp.arrays(field.dtype, rows)))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(0, 6))
    return draw(st.dictionaries(NAMES, columns(rows), max_size=4))


ARTIFACTS = st.builds(
    Artifact,
    stage=st.sampled_from(["train", "profile"]),
    study=st.just("toy"),
    scenario=st.dictionaries(TEXT, JSON, max_size=3),
    seed=st.none() | st.integers(0, 2**32 - 1),
    tables=st.dictionaries(NAMES, tables(), max_size=3),
    inputs=st.dictionaries(TEXT, TEXT, max_size=2),
    provenance=st.dictionaries(
        NAMES, TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans(), max_size=3
    ),
)


def artifact(rows: int = 20, **changes: Any) -> Artifact:
    table = SCHEMA.columns(
        {
            "round": np.arange(rows),
            "accuracy": np.linspace(0, 1, rows),
            "name": [f"sîlo {i % 5}" for i in range(rows)],
            "seconds": np.full(rows, 0.25),
        }
    )
    given = {
        "stage": "train",
        "study": "toy",
        "scenario": {"training": {"rounds": 3, "rate": 0.5}, "seed": 1},
        "seed": 1,
        "tables": {"rounds": table},
        "inputs": {"bounds": "ab" * 32},
        "provenance": {"host": "node1", "started": 1.5, "job": 7},
    }
    return Artifact(**{**given, **changes})


def changed(original: Artifact, column: str, values: Any) -> Artifact:
    table = dict(original.tables["rounds"])
    table[column] = Column(table[column].field, np.asarray(values))
    return dataclasses.replace(original, tables={"rounds": table})


def same(a: Artifact, b: Artifact) -> bool:
    """Equal in every value, NaN included, compared independently of the module's own digests."""
    return _contents(a) == _contents(b)


def _contents(a: Artifact) -> str:
    columns = {name: _plain(table) for name, table in a.tables.items()}
    return repr([a.stage, a.study, a.seed, *map(_ordered, (a.scenario, a.inputs, a.provenance, columns))])


def _ordered(value: Any) -> Any:
    """With the keys of all mappings sorted: their order is no content."""
    if isinstance(value, dict):
        return [(key, _ordered(value[key])) for key in sorted(value)]
    return [_ordered(one) for one in value] if isinstance(value, list) else value


def _plain(table: Table) -> list[Any]:
    return [(k, c.field, c.values.dtype.str, [repr(v) for v in c.values.tolist()]) for k, c in table.items()]


def reseal(path: Path, change: Any) -> None:
    """Alter an artifact inside and seal it again, as somebody would who means to."""
    with h5py.File(path, "r+") as file:
        change(file)
    image = path.read_bytes()[512:]
    path.write_bytes(files.seal_of(len(image), hashlib.sha256(image).hexdigest()) + image)


# ---- round trip -----------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(original=ARTIFACTS)
def test_what_is_written_is_read(original: Artifact, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.h5"
    write(path, original)
    back = read(path, original.stage)
    assert same(original, back)
    assert (back.digest(), back.content_digest()) == (original.digest(), original.content_digest())
    assert differences(original, back) == []


def test_large_columns_are_compressed_and_read_back(tmp_path: Path) -> None:
    original = artifact(rows=200_000)
    write(tmp_path / "a.h5", original)
    assert (tmp_path / "a.h5").stat().st_size < 200_000 * 8
    assert same(original, read(tmp_path / "a.h5"))


def test_long_scenarios_and_many_inputs_fit(tmp_path: Path) -> None:
    original = artifact(scenario={"text": "é" * 300_000}, inputs={f"train/job-{i:05d}": "0" * 64 for i in range(3000)})
    write(tmp_path / "a.h5", original)
    assert same(original, read(tmp_path / "a.h5"))


def test_load_gives_pandas_with_units(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact(rows=3))
    loaded = fedbound.load(tmp_path / "a.h5")
    frame = loaded["rounds"]
    assert list(loaded) == ["rounds"]
    assert frame["round"].tolist() == [0, 1, 2]
    assert frame["name"].tolist() == ["sîlo 0", "sîlo 1", "sîlo 2"]
    assert frame.attrs["units"]["seconds"] == "s"
    with pytest.raises(KeyError, match="no table 'silos' in this train artifact; it has rounds"):
        loaded["silos"]


def test_plain_h5py_reads_the_anndata_layout(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact(rows=7))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["schema"] == "fedbound/train"
        group = file["tables/rounds"]
        assert dict(group.attrs)["encoding-type"] == "dataframe"
        assert group.attrs["encoding-version"] == "0.2.0"
        assert list(group.attrs["column-order"]) == list(SCHEMA.fields)
        assert group.attrs["_index"] in group
        assert group["round"].attrs["encoding-type"] == "array"
        assert group["round"].attrs["unit"] == "1"
        assert group["seconds"].attrs["measured"]
        assert group["round"][...].tolist() == list(range(7))
        name = group["name"]
        assert name.attrs["encoding-type"] == "categorical"
        assert name["categories"].attrs["encoding-type"] == "string-array"
        assert not name.attrs["ordered"]
        assert name["categories"].asstr()[...][name["codes"][6]] == "sîlo 1"


def test_the_seal_is_text_that_says_what_the_file_is(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact())
    content = (tmp_path / "a.h5").read_bytes()
    assert content.startswith(b"fedbound artifact\nsize ")
    assert content[512:520] == b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int64", [1.5]),
        ("int64", [float("nan")]),
        ("uint8", [256]),
        ("uint8", [-1]),
        ("bool", [2]),
        ("int64", ["1"]),
        ("float64", ["1.5"]),
        ("float64", [1j]),
        ("str", [1]),
        ("str", [None]),
        ("str", ["a\0b"]),
        ("str", ["end\0"]),
        ("str", ["\ud800"]),
        ("float64", [[1.0, 2.0]]),
    ],
)
def test_values_that_a_column_cannot_hold_are_refused(dtype: str, values: list[Any]) -> None:
    schema = Schema({"x": Field(dtype, "1", "x")})
    with pytest.raises(ValueError, match="column 'x'"):
        schema.columns({"x": values})


def test_values_that_fit_are_converted() -> None:
    table = Schema({"x": Field("int64", "1", "x"), "y": Field("f4", "1", "y")}).table([{"x": 3.0, "y": 1}])
    assert table["x"].values.tolist() == [3]
    assert (table["y"].field.dtype, table["y"].values.dtype) == ("float32", np.float32)


@pytest.mark.parametrize("dtype", ["object", "complex128", "datetime64[s]", "U5", "longdouble"])
def test_dtypes_that_hdf5_cannot_hold_portably_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="a column holds"):
        Field(dtype, "1", "x")


def test_rows_and_columns_must_match_their_schema() -> None:
    with pytest.raises(ValueError, match="seconds"):
        SCHEMA.table([{"round": 1, "accuracy": 0.5, "name": "a"}])
    with pytest.raises(ValueError, match="extra"):
        SCHEMA.table([{"round": 1, "accuracy": 0.5, "name": "a", "seconds": 1.0, "extra": 1}])
    with pytest.raises(ValueError, match="length"):
        SCHEMA.columns({"round": [1, 2], "accuracy": [0.5], "name": ["a"], "seconds": [1.0]})


@pytest.mark.parametrize("name", ["", ".", "a/b", "_index"])
def test_names_that_hdf5_takes_for_paths_are_refused(name: str, tmp_path: Path) -> None:
    column = artifact().tables["rounds"]["round"]
    for tables in ({name: {"x": column}}, {"t": {name: column}}):
        with pytest.raises(ValueError, match="cannot be a name"):
            write(tmp_path / "a.h5", artifact(tables=tables))
    assert list(tmp_path.iterdir()) == []


# ---- digests and differences ----------------------------------------------------------------------------------------

CONTENT_CHANGES = [
    {"stage": "profile"},
    {"study": "other"},
    {"seed": 2},
    {"seed": None},
    {"scenario": {"training": {"rounds": 4, "rate": 0.5}, "seed": 1}},
    {"scenario": {"training": {"rounds": 3.0, "rate": 0.5}, "seed": 1}},
    {"scenario": {"training": {"rounds": 3}, "seed": 1}},
    {"inputs": {"bounds": "cd" * 32}},
    {"inputs": {}},
    {"tables": {}},
]


@pytest.mark.parametrize("change", CONTENT_CHANGES, ids=lambda change: str(change)[:40])
def test_each_change_of_content_is_found(change: dict[str, Any]) -> None:
    a, b = artifact(), artifact(**change)
    assert a.content_digest() != b.content_digest()
    assert a.digest() != b.digest()
    assert len(differences(a, b)) == 1, differences(a, b)


def test_a_difference_names_its_place() -> None:
    a = artifact()
    assert differences(a, artifact(scenario={"training": {"rounds": 4, "rate": 0.5}, "seed": 1})) == [
        "scenario.training.rounds: 3 | 4"
    ]
    assert differences(a, artifact(rows=19)) == [
        "table rounds, column round: 20 rows | 19 rows",
        "table rounds, column accuracy: 20 rows | 19 rows",
        "table rounds, column name: 20 rows | 19 rows",
    ]
    values = a.tables["rounds"]["round"].values.copy()
    values[[3, 5]] = 77
    assert differences(a, changed(a, "round", values)) == [
        "table rounds, column round: 2 rows differ, first row 3: 3 | 77"
    ]
    other = Field("int64", "2", "round, from 1")
    tables = {"rounds": {**a.tables["rounds"], "round": Column(other, a.tables["rounds"]["round"].values)}}
    assert "column round: Field" in differences(a, artifact(tables=tables))[0]
    fewer = {"rounds": {k: c for k, c in a.tables["rounds"].items() if k != "name"}}
    assert "table rounds, columns: " in differences(a, artifact(tables=fewer))[0]
    assert differences(a, artifact(tables={})) == ["table rounds: only in the first"]


def test_negative_zero_differs_and_nan_is_nan() -> None:
    nan = np.array([np.nan, 0.0])
    other = np.array([-np.nan, 0.0])  # another bit pattern for the same missing value
    assert nan.tobytes() != other.tobytes()
    base = artifact(rows=2)
    assert differences(changed(base, "accuracy", nan), changed(base, "accuracy", other)) == []
    assert changed(base, "accuracy", nan).content_digest() == changed(base, "accuracy", other).content_digest()
    assert differences(changed(base, "accuracy", nan), changed(base, "accuracy", [np.nan, -0.0])) == [
        "table rounds, column accuracy: 1 rows differ, first row 1: 0.0 | -0.0"
    ]


def test_measured_columns_and_provenance_are_no_content() -> None:
    a = artifact()
    b = changed(a, "seconds", np.full(20, 9.0))
    b.provenance = {"host": "node2"}
    b.package_version = "99"
    assert differences(a, b) == []
    assert a.content_digest() == b.content_digest()
    assert a.digest() != b.digest()


@pytest.mark.parametrize("change", [{"provenance": {"host": "node2"}}, {"provenance": {}}, {"package_version": "99"}])
def test_the_full_digest_covers_provenance(change: dict[str, Any]) -> None:
    assert artifact().digest() != artifact(**change).digest()


@settings(max_examples=100)
@given(
    a=ARTIFACTS,
    b=ARTIFACTS,
    field=st.sampled_from(["stage", "study", "seed", "scenario", "inputs", "tables", "provenance"]),
)
def test_no_difference_means_the_same_content_digest(a: Artifact, b: Artifact, field: str) -> None:
    near = dataclasses.replace(a, **{field: getattr(b, field)})
    assert (differences(a, near) == []) == (a.content_digest() == near.content_digest())
    if field in ("study", "provenance"):  # the study is the same in all of them
        assert differences(a, near) == []


# ---- damage ---------------------------------------------------------------------------------------------------------


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact(rows=3000))
    content = (tmp_path / "a.h5").read_bytes()
    lengths = {0, 1, 17, 18, 511, 512, 513, len(content) - 1, *range(0, len(content), len(content) // 60)}
    for length in lengths:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"cut\.h5 is (truncated|no fedbound artifact)"):
            read(tmp_path / "cut.h5")
    (tmp_path / "cut.h5").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="truncated or was altered"):
        read(tmp_path / "cut.h5")


FLIPS = """
import sys
from pathlib import Path
from fedbound.artifacts import differences, read
from fedbound.errors import ArtifactError
folder = Path(sys.argv[1])
content = (folder / "a.h5").read_bytes()
original = read(folder / "a.h5")
refused = 0
for bit in map(int, sys.argv[2:]):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << (bit % 8)
    (folder / "flipped.h5").write_bytes(flipped)
    print(bit, flush=True)  # so that a crash or hang names its bit
    try:
        back = read(folder / "flipped.h5")
    except ArtifactError:
        refused += 1
        continue
    assert back.content_digest() == original.content_digest() and back.digest() == original.digest(), bit
    assert differences(original, back) == [] and back.provenance == original.provenance, bit
print("refused", refused)
"""


@pytest.mark.parametrize("rows", [20, 5000], ids=["small", "compressed"])
def test_no_flipped_bit_is_read_as_other_contents(rows: int, tmp_path: Path) -> None:
    """In a process of its own: damage that crashes libhdf5, or sends it round in circles, must show as a failure."""
    write(tmp_path / "a.h5", artifact(rows=rows))
    size = (tmp_path / "a.h5").stat().st_size
    bits = random.Random(rows).sample(range(size * 8), 300)
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(tmp_path), *map(str, bits)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-100:]
    assert done.stdout.split()[-2:] == ["refused", "300"]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = np.arange(10)
    (tmp_path / "text.h5").write_text("accuracy,loss\n0.9,0.1\n")
    (tmp_path / "empty.h5").touch()
    for name in ("foreign", "text", "empty"):
        with pytest.raises(ArtifactError, match=rf"{name}\.h5 is no fedbound artifact"):
            read(tmp_path / f"{name}.h5")


def test_a_foreign_hdf5_under_our_seal_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact())
    reseal(tmp_path / "a.h5", lambda file: file.attrs.__setitem__("schema", "anndata"))
    with pytest.raises(ArtifactError, match="is no fedbound artifact"):
        read(tmp_path / "a.h5")


def test_a_future_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact())
    reseal(tmp_path / "a.h5", lambda file: file.attrs.__setitem__("schema_version", 2))
    with pytest.raises(ArtifactError, match="schema version 2 and this fedbound reads up to 1; update fedbound"):
        read(tmp_path / "a.h5")


def test_another_stage_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact())
    with pytest.raises(ArtifactError, match="a 'train' artifact where a 'profile' one is needed"):
        read(tmp_path / "a.h5", "profile")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; run the stage"):
        read(tmp_path / "none.h5")
    with pytest.raises(ArtifactError, match="Is a directory"):
        read(tmp_path)
    assert ArtifactError.exit_code == InputError.exit_code == 2


def _larger(file: h5py.File) -> None:
    """A dataset that claims 8 TiB in a file of some kilobytes (its chunks were never written)."""
    node = file["tables/rounds/round"]
    attributes = dict(node.attrs)
    del file["tables/rounds/round"]
    node = file["tables/rounds"].create_dataset("round", shape=(2**40,), dtype="<i8", chunks=(2**16,))
    node.attrs.update(attributes)


def _more_words(file: h5py.File) -> None:
    del file["tables/rounds/name/categories"]
    file["tables/rounds/name"].create_dataset("categories", shape=(2**40,), dtype=h5py.string_dtype(), chunks=(2**16,))


def _elsewhere(file: h5py.File) -> None:
    attributes = dict(file["tables/rounds/round"].attrs)
    del file["tables/rounds/round"]
    node = file["tables/rounds"].create_dataset("round", shape=(20,), dtype="<i8", external=[("/etc/hostname", 0, 160)])
    node.attrs.update(attributes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_larger, "claims 8796093022208 bytes"),
        (_more_words, "claims 8796093022208 bytes"),
        (_elsewhere, "in another file"),
        (lambda file: file["tables/rounds/name/codes"].__setitem__(0, 5), "codes out of range"),
        (lambda file: file["tables/rounds/name/codes"].__setitem__(0, -1), "codes out of range"),
        (lambda file: file["tables/rounds/round"].__setitem__(0, 5), "altered"),
        (lambda file: file["tables/rounds/seconds"].__setitem__(0, 5), "altered"),
        (lambda file: file["provenance"].attrs.__setitem__("host", "node3"), "altered"),
        (lambda file: file.attrs.__setitem__("package_version", "0.0.1"), "altered"),
        (lambda file: file.attrs.__delitem__("digest"), "damaged"),
        (lambda file: file.__delitem__("tables"), "damaged"),
        (lambda file: file["tables"].create_group("more").attrs.create("column-order", np.array([], "S1")), "altered"),
    ],
)
def test_meant_alterations_are_refused_before_they_cost_memory(change: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact())
    reseal(tmp_path / "a.h5", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match=message):
        read(tmp_path / "a.h5")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


# ---- writing --------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys, time
from fedbound import artifacts
sys.path.insert(0, {tests!r})
from test_artifacts import artifact

def pause(*_):
    print("paused", flush=True)
    time.sleep(60)

{patch} = pause
artifacts.write(sys.argv[1], artifact(rows=5000))
"""


@pytest.mark.parametrize("patch", ["artifacts.writing._write_file", "os.fsync", "os.replace"])
def test_a_killed_writer_leaves_the_old_file(patch: str, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact(rows=3))
    before = (tmp_path / "a.h5").read_bytes()
    script = KILLED.format(tests=str(Path(__file__).parent), patch=patch)
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a.h5")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "paused\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert (tmp_path / "a.h5").read_bytes() == before
    assert same(read(tmp_path / "a.h5"), artifact(rows=3))
    # what is left is hidden and is no *.h5, so that nobody takes it for a result
    assert [path.name for path in tmp_path.glob("*.h5")] == ["a.h5"]
    left = [path.name for path in tmp_path.iterdir() if path.name != "a.h5"]
    assert all(name.startswith(".") and name.endswith(".part") for name in left)
    assert len(left) == (0 if patch == "artifacts.writing._write_file" else 1)
    write(tmp_path / "a.h5", artifact(rows=4))
    assert len(read(tmp_path / "a.h5")["rounds"]) == 4


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_while_writing_leaves_nothing(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    write(tmp_path / "a.h5", artifact(rows=3))
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ArtifactError if isinstance(error, OSError) else type(error)):
        write(tmp_path / "a.h5", artifact())
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert same(read(tmp_path / "a.h5"), artifact(rows=3))


FULL = """
import resource, sys
from fedbound import artifacts
from fedbound.errors import ArtifactError
sys.path.insert(0, {tests!r})
from test_artifacts import artifact

resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    artifacts.write(sys.argv[1], artifact(rows=5000))
except ArtifactError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the same failing write, without a file system to fill."""
    script = FULL.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.h5")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "cannot write" in done.stdout
    assert "File too large; check space and permissions there" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"cannot write .*; check space and permissions there"):
        write(tmp_path / "file" / "a.h5", artifact())
    with pytest.raises(ArtifactError, match="cannot write"):
        write("/proc/fedbound/a.h5", artifact())


def test_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c.h5", artifact())
    assert same(read(tmp_path / "a" / "b" / "c.h5"), artifact())


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_the_file_mode_is_the_umasks(mask: int, tmp_path: Path) -> None:
    old = os.umask(mask)
    try:
        write(tmp_path / "a.h5", artifact())
        assert os.umask(mask) == mask
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.h5").stat().st_mode) == 0o666 & ~mask


def test_the_same_artifact_is_the_same_file(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", artifact(rows=5000))
    time.sleep(1.1)  # HDF5's own time stamps, if there were any, count seconds
    write(tmp_path / "b.h5", artifact(rows=5000))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_stamp_is_provenance_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    found = artifacts.stamp(rounds=3)
    assert {"host", "written", "python", "numpy", "h5py", "hdf5"} <= found.keys()
    assert (found["job"], found["rounds"]) == ("42", 3)
    write(tmp_path / "a.h5", artifact(provenance=found))
    assert read(tmp_path / "a.h5").provenance == found


def test_reading_needs_no_pandas() -> None:
    code = textwrap.dedent("""
        import sys, fedbound.artifacts
        assert not {"pandas", "torch", "scipy"} & sys.modules.keys(), sys.modules.keys()
    """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
