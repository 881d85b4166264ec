from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbound import data
from fedbound.errors import InputError
from fedbound.registry import PARTITIONS


def dataset(samples: int, classes: int = 10, owners: int = 0, seed: int = 0) -> data.Dataset:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(samples) % classes)
    owner = rng.permutation(np.arange(samples) % owners) if owners else None
    return data.Dataset(np.arange(samples, dtype=np.float32)[:, None], y, classes, "made", owner)


def assign(choice: dict, made: data.Dataset, silos: int, seed: int = 0) -> list[np.ndarray]:
    return PARTITIONS.make(choice).assign(made, silos, np.random.default_rng(seed))


def assert_covers(parts: list[np.ndarray], samples: int, silos: int) -> None:
    assert len(parts) == silos
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(samples))  # each exactly once
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) > 0
        assert (np.diff(part) > 0).all()


CHOICES = st.one_of(
    st.just({"name": "iid"}),
    st.builds(
        lambda alpha, sizes: {"name": "dirichlet", "alpha": alpha, "sizes": sizes},
        st.floats(1e-3, 1e3),
        st.sampled_from(["skewed", "equal"]),
    ),
    st.builds(lambda alpha: {"name": "quantity", "alpha": alpha}, st.floats(1e-3, 1e3)),
    st.builds(lambda n: {"name": "shards", "classes_per_silo": n}, st.integers(2, 5)),
    st.just({"name": "natural"}),
)


@settings(max_examples=120, deadline=None)
@given(CHOICES, st.integers(5, 20), st.integers(200, 400), st.integers(0, 2**32 - 1))
def test_every_partition_covers_is_disjoint_and_is_drawn_from_the_seed_alone(choice, silos, samples, seed):
    made = dataset(samples, owners=23)
    parts = assign(choice, made, silos, seed)
    assert_covers(parts, samples, silos)
    for one, other in zip(parts, assign(choice, made, silos, seed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["iid", "dirichlet", "quantity", "shards"])
def test_another_seed_gives_another_partition(name):
    made = dataset(400)
    one, other = assign({"name": name}, made, 5, 0), assign({"name": name}, made, 5, 1)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(one, other, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["dirichlet", "quantity"]), st.floats(1e-3, 0.1), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_every_silo_has_the_least_size_even_where_draws_cannot_give_it(name, alpha, least, seed):
    made = dataset(200)
    parts = assign({"name": name, "alpha": alpha, "min_samples": least}, made, 10, seed)
    assert_covers(parts, 200, 10)
    assert min(map(len, parts)) >= least


def label_skew(parts: list[np.ndarray], made: data.Dataset) -> float:
    """Mean total variation distance between the silos' label distributions and the data set's."""
    overall = np.bincount(made.y, minlength=made.classes) / len(made)
    each = [np.bincount(made.y[part], minlength=made.classes) / len(part) for part in parts]
    return float(np.mean([np.abs(one - overall).sum() / 2 for one in each]))


@pytest.mark.parametrize("sizes", ["skewed", "equal"])
def test_dirichlet_skew_grows_as_alpha_falls(sizes):
    made = dataset(2000)
    skews = [
        np.mean(
            [label_skew(assign({"name": "dirichlet", "alpha": a, "sizes": sizes}, made, 10, s), made) for s in range(5)]
        )
        for a in (1000.0, 10.0, 1.0, 0.1)
    ]
    assert skews == sorted(skews)
    assert skews[0] < 0.15
    assert skews[-1] > 0.5


def test_dirichlet_of_equal_sizes_has_equal_sizes():
    sizes = [len(part) for part in assign({"name": "dirichlet", "sizes": "equal", "alpha": 0.1}, dataset(403), 5)]
    assert sorted(sizes) == [80, 80, 81, 81, 81]


def test_quantity_skews_sizes_and_not_labels():
    made = dataset(20000)
    parts = assign({"name": "quantity", "alpha": 0.5, "min_samples": 1000}, made, 5)
    assert max(map(len, parts)) > 2 * min(map(len, parts))
    assert label_skew(parts, made) < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_shards_give_every_silo_exactly_its_number_of_classes(per_silo, silos, seed):
    if silos * per_silo < 10:
        silos = -(-10 // per_silo)
    made = dataset(400)
    parts = assign({"name": "shards", "classes_per_silo": per_silo}, made, silos, seed)
    assert_covers(parts, 400, silos)
    assert {len(np.unique(made.y[part])) for part in parts} == {per_silo}


def test_natural_silos_are_the_owners():
    made = dataset(100, owners=4)
    for silo, part in enumerate(assign({"name": "natural"}, made, 4)):
        np.testing.assert_array_equal(part, np.flatnonzero(made.owner == silo))


def test_natural_keeps_owners_whole_and_evens_sizes():
    owner = np.repeat([5, 6, 7, 8], [40, 30, 20, 10])
    made = data.Dataset(np.zeros((100, 1), np.float32), np.zeros(100, np.int64), 1, "made", owner)
    parts = assign({"name": "natural"}, made, 2)
    assert [sorted(set(owner[part])) for part in parts] == [[5, 8], [6, 7]]


def test_natural_leaves_out_samples_without_owner():
    owner = np.array([0, -1, 1, 0, -1, 1])
    made = data.Dataset(np.zeros((6, 1), np.float32), np.zeros(6, np.int64), 1, "made", owner)
    assert [part.tolist() for part in assign({"name": "natural"}, made, 2)] == [[0, 3], [2, 5]]


@pytest.mark.parametrize(
    ("choice", "silos", "owners", "words"),
    [
        ({"name": "iid"}, 101, 0, ["data.silos", "101", "at most 100"]),
        ({"name": "dirichlet"}, 13, 0, ["min_samples", "13 silos need 104", "at most 12"]),
        ({"name": "quantity", "min_samples": 60}, 2, 0, ["min_samples", "120", "at most 1"]),
        ({"name": "shards", "classes_per_silo": 11}, 4, 0, ["classes_per_silo", "11", "at most 10"]),
        ({"name": "shards", "classes_per_silo": 2}, 4, 0, ["classes_per_silo", "at least 3"]),
        ({"name": "shards", "classes_per_silo": 2}, 51, 0, ["classes_per_silo", "102", "fewer silos"]),
        ({"name": "natural"}, 4, 0, ["owner", "'made'", "another partition"]),
        ({"name": "natural"}, 8, 7, ["data.silos", "8", "at most 7"]),
    ],
)
def test_impossible_requests_name_key_value_and_mend(choice, silos, owners, words):
    made = dataset(100, owners=owners)
    partition = PARTITIONS.make(choice)

    def ask():
        partition.check(len(made), silos)
        partition.assign(made, silos, np.random.default_rng(0))

    with pytest.raises(InputError) as refused:
        ask()
    for word in words:
        assert word in str(refused.value)


def test_shards_refuse_a_class_too_small_for_its_silos():
    made = data.Dataset(np.zeros((101, 1), np.float32), np.array([0] * 100 + [1]), 2, "made")
    with pytest.raises(InputError, match="class 1 of 'made' has 1 samples for 3 silos"):
        assign({"name": "shards", "classes_per_silo": 2}, made, 3)
