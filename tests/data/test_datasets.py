from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound import data
from fedbound.data.idx import read_idx, read_shape
from fedbound.errors import InputError
from fedbound.registry import DATASETS

TEST_DATA = Path(os.environ.get("FEDBOUND_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def load(name: str, **options) -> data.Dataset:
    made = data.load({"name": name, **options})
    assert made.x.dtype == np.float32
    assert made.y.dtype == np.int64
    assert len(made.x) == len(made.y) == len(made)
    assert DATASETS.make({"name": name, **options}).count() in (len(made), None)
    return made


def refusal(name: str, **options) -> str:
    with pytest.raises(InputError) as refused:
        data.load({"name": name, **options})
    return str(refused.value)


# ---- digits ----


def test_digits():
    made = load("digits")
    assert made.x.shape == (1797, 1, 8, 8)
    assert (made.x.min(), made.x.max(), made.classes) == (0.0, 1.0, 10)
    assert np.bincount(made.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


# ---- IDX ----


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, part: str = "train", samples: int = 6, seed: int = 0, packed: bool = True):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, samples, dtype=np.uint8)
    for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return images, labels


@given(shape=st.lists(st.integers(0, 5), max_size=4), packed=st.booleans(), seed=st.integers(0, 99))
def test_idx_files_read_back(tmp_path_factory, shape, packed, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    assert read_shape(path) == array.shape
    np.testing.assert_array_equal(read_idx(path), array)


GOOD = idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:3],
        GOOD[:10],
        GOOD[:-1],
        GOOD + b"x",
        b"\1" + GOOD[1:],
        GOOD[:2] + b"\x0d" + GOOD[3:],  # floats
        GOOD[:4] + b"\xff" * 12 + GOOD[16:],  # 2^96 values announced
        b"PK\3\4 a zip archive, not IDX",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, content, packed):
    path = tmp_path / ("bad.gz" if packed else "bad")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match="bad"):
        read_idx(path)


def test_every_cut_of_a_gzipped_idx_file_is_refused(tmp_path):
    path = tmp_path / "cut.gz"
    packed = gzip.compress(GOOD)
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(InputError, match=r"cut\.gz"):
            read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_uses_both_parts_train_first(tmp_path, name, packed):
    last, last_labels = write_mnist(tmp_path, "t10k", 3, 1, packed)
    assert len(load(name, folder=str(tmp_path))) == 3
    first, first_labels = write_mnist(tmp_path, "train", 5, 2, packed)
    made = load(name, folder=str(tmp_path))
    assert (made.name, made.classes, made.x.shape) == (name, 10, (8, 1, 28, 28))
    np.testing.assert_array_equal(made.y, np.concatenate([first_labels, last_labels]))
    np.testing.assert_array_equal(np.round(made.x[:, 0] * 255), np.concatenate([first, last]))


def test_mnist_refuses_what_is_missing_or_does_not_fit(tmp_path):
    assert "train-images-idx3-ubyte.gz" in refusal("mnist", folder=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere"):
        DATASETS.get("mnist", folder=str(tmp_path / "nowhere")).count()
    assert "the key 'folder' is missing" in refusal("mnist")
    write_mnist(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(7, np.uint8))))
    assert "do not fit" in refusal("mnist", folder=str(tmp_path))
    labels.write_bytes(gzip.compress(idx(np.full(6, 10, np.uint8))))
    assert "do not fit" in refusal("mnist", folder=str(tmp_path))
    labels.unlink()
    assert "only half" in refusal("mnist", folder=str(tmp_path))


def test_real_mnist():
    folder = TEST_DATA / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set FEDBOUND_TEST_DATA")
    digest = hashlib.md5((folder / "t10k-images-idx3-ubyte.gz").read_bytes()).hexdigest()
    assert digest == "9fb629c4189551a2d022fa330f9573f3"
    made = load("mnist", folder=str(folder))
    assert made.x.shape == (10000, 1, 28, 28)
    assert np.bincount(made.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert made.y[:5].tolist() == [7, 2, 1, 0, 4]


# ---- own data ----


def arrays(samples: int = 12, seed: int = 0, **more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(samples, 2, 3)), "y": np.arange(samples) % 3, **more}


def write(path: Path, content: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **content)
        return
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file[key] = value


OWN = pytest.mark.parametrize(("name", "suffix"), [("npz", ".npz"), ("hdf5", ".h5"), ("hdf5", ".hdf5")])


@OWN
def test_own_data_in_one_file(tmp_path, name, suffix):
    path = tmp_path / f"own{suffix}"
    content = arrays(owner=np.arange(12) % 4 - 1)
    write(path, content)
    made = load(name, path=str(path), scale=0.5)
    assert (made.name, made.classes) == (name, 3)
    np.testing.assert_array_equal(made.x, content["x"].astype(np.float32) * np.float32(0.5))
    np.testing.assert_array_equal(made.y, content["y"])
    np.testing.assert_array_equal(made.owner, content["owner"])
    write(path, arrays())
    assert load(name, path=str(path)).owner is None


@OWN
def test_own_data_in_one_file_per_silo(tmp_path, name, suffix):
    sizes = {"a": 4, "b": 7, "c": 5}
    for silo, (stem, size) in enumerate(sizes.items()):
        write(tmp_path / f"{stem}{suffix}", arrays(size, silo))
    (tmp_path / "README.txt").write_text("not data")
    made = load(name, path=str(tmp_path))
    np.testing.assert_array_equal(made.owner, np.repeat([0, 1, 2], [4, 7, 5]))
    np.testing.assert_array_equal(made.x[4:11], arrays(7, 1)["x"].astype(np.float32))


@OWN
def test_own_data_that_cannot_be_used_are_refused_by_file_name(tmp_path, name, suffix):
    path = tmp_path / f"own{suffix}"
    bad = {
        "x has the shape": {"x": np.zeros((3, 2)), "y": np.zeros(4, int)},
        "n above 0": {"x": np.zeros((0, 2)), "y": np.zeros(0, int)},
        "class numbers from 0": {"x": np.zeros((3, 2)), "y": np.array([0, -1, 2])},
        "number the classes": {"x": np.zeros((3, 2)), "y": np.array([0.5, 1, 2])},
        "class 700 among only 3": {"x": np.zeros((3, 2)), "y": np.array([0, 1, 700])},
        "not finite": {"x": np.array([[1.0], [1e300], [0.0]]), "y": np.zeros(3, int)},
        "'y'": {"x": np.zeros((3, 2)), "labels": np.zeros(3, int)},
        "owner must be": {**arrays(3), "owner": np.zeros(2, int)},
    }
    for words, content in bad.items():
        write(path, content)
        message = refusal(name, path=str(path))
        assert words in message
        assert "own" in message


@OWN
def test_a_missing_empty_or_damaged_place_is_refused(tmp_path, name, suffix):
    assert "does not exist" in refusal(name, path=str(tmp_path / "nowhere"))
    assert "holds no" in refusal(name, path=str(tmp_path))
    path = tmp_path / f"cut{suffix}"
    write(path, arrays(200))
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        assert "cut" in refusal(name, path=str(path))
        with pytest.raises(InputError, match="cut"):
            DATASETS.get(name, path=str(path)).count()


def test_a_changed_byte_in_npz_data_is_refused(tmp_path):
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays(200))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # within the values of x
    path.write_bytes(content)
    assert "changed.npz" in refusal("npz", path=str(path))


class Bomb:
    def __reduce__(self):
        return os.makedirs, ("pickle_was_executed",)


def test_npz_never_opens_a_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x=np.array([Bomb()], dtype=object), y=np.zeros(1, int))
    assert "cannot read" in refusal("npz", path="own.npz")
    assert not Path("pickle_was_executed").exists()
    with np.load("own.npz", allow_pickle=True) as stored:  # the same file does run code where pickles are opened
        stored["x"]
    assert Path("pickle_was_executed").exists()


def test_samples_of_unlike_shape_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.zeros(3, int))
    np.savez(tmp_path / "b.npz", x=np.zeros((3, 4)), y=np.zeros(3, int))
    message = refusal("npz", path=str(tmp_path))
    assert "a.npz" in message
    assert "b.npz" in message


# ---- CIFAR-10 ----


def test_cifar10_binary(tmp_path):
    rng = np.random.default_rng(0)
    records = {name: rng.integers(0, 10, (4, 3073), dtype=np.uint8) for name in ("data_batch_2", "test_batch")}
    for name, array in records.items():
        (tmp_path / f"{name}.bin").write_bytes(array.tobytes())
    made = load("cifar10", folder=str(tmp_path))
    both = np.concatenate([records["data_batch_2"], records["test_batch"]])
    assert (made.x.shape, made.classes) == ((8, 3, 32, 32), 10)
    np.testing.assert_array_equal(made.y, both[:, 0])
    np.testing.assert_array_equal(np.round(made.x * 255).reshape(8, -1), both[:, 1:])
    assert made.x[0, 1, 0, 0] == np.float32(both[0, 1 + 1024] / np.float32(255))  # green plane, first pixel


def test_cifar10_refuses_pickles_and_damage(tmp_path):
    assert "no CIFAR-10 files" in refusal("cifar10", folder=str(tmp_path))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": []}))
    message = refusal("cifar10", folder=str(tmp_path))
    assert "pickles" in message
    assert "binary version" in message
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3072))
    assert "data_batch_1.bin" in refusal("cifar10", folder=str(tmp_path))
    (tmp_path / "data_batch_1.bin").write_bytes(bytes([10]) * 3073)
    assert "label 10" in refusal("cifar10", folder=str(tmp_path))


# ---- tables ----

TABLE = "age,weight,target,site\n30,1.5,sick,B\n40,2.5,well,A\n50,3.5,sick,B\n60,4.5,well,C\n"


def test_tabular(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(TABLE)
    made = load("tabular", path=str(path), owner="site")
    assert (made.classes, made.y.tolist(), made.owner.tolist()) == (2, [0, 1, 0, 1], [1, 0, 1, 2])
    np.testing.assert_allclose(made.x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(made.x.std(axis=0), 1, atol=1e-6)
    plain = load("tabular", path=str(path), owner="site", standardize=False)
    assert plain.x.tolist() == [[30, 1.5], [40, 2.5], [50, 3.5], [60, 4.5]]


def test_tabular_numbers_classes_by_value_over_all_files(tmp_path):
    (tmp_path / "a.csv").write_text("v,target\n1,10\n2,9\n")
    (tmp_path / "b.csv").write_text("v,target\n3,9\n4,2\n")
    made = load("tabular", path=str(tmp_path))
    assert (made.classes, made.y.tolist(), made.owner.tolist()) == (3, [2, 1, 1, 0], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age,class\n1,a\n", "no column 'target'"),
        ("age,target\n1,\n2,b\n", "'target'"),
        ("age,target\nold,a\n2,b\n", "'age' holds text"),
        ("age,target\n,a\n2,b\n", "'age' holds text or empty"),
        ("", "as CSV"),
        ('age,target\n"1,a\n', "as CSV"),
    ],
)
def test_tabular_refuses_by_file_and_column(tmp_path, text, words):
    (tmp_path / "own.csv").write_text(text)
    message = refusal("tabular", path=str(tmp_path / "own.csv"))
    assert words in message
    assert "own.csv" in message
