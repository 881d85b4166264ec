"""ebq: on the entropy, within the bound, and safe with streams made to harm."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba", reason="ebq needs numba, which the extra 'train' brings")

from fedbound import codecs
from fedbound.codecs import ebq
from fedbound.codecs.entropy import entropy_bits, rans, scales, tables
from fedbound.codecs.payload import SEAL_BYTES

FIXED = 64  # bytes that the target allows for heads


def draw(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    return {
        "uniform": lambda: rng.uniform(-3, 3, size),
        "gauss": lambda: rng.normal(size=size),
        "laplace": lambda: rng.laplace(size=size),
        "t3": lambda: rng.standard_t(3, size),
        "sparse": lambda: rng.laplace(size=size) * (rng.random(size) < 0.03),
        "skewed": lambda: rng.exponential(size=size),
    }[kind]()


def test_entropy_of_known_symbols():
    assert entropy_bits(np.zeros(100, np.float32), 0.1) == 0
    assert entropy_bits(np.repeat(np.arange(8.0), 5), 0.5) == pytest.approx(3)
    assert entropy_bits(np.ones(4, np.float32), 0.0) == 32


#: Bounds in standard deviations at which the entropy lies between 0.01 and 12 bits. Finer ones are left out for
#: "sparse": thousands of values that occur once, whose list is longer than their empirical entropy says.
RANGE = {
    "uniform": [1, 0.25, 0.03, 0.004, 0.0005],
    "gauss": [1, 0.25, 0.03, 0.004],
    "laplace": [4, 1, 0.25, 0.03, 0.004, 0.0005],
    "t3": [4, 1, 0.25, 0.03, 0.004, 0.0005],
    "sparse": [4, 1, 0.25, 0.03],
    "skewed": [4, 1, 0.25, 0.03, 0.004, 0.0005],
}


@pytest.mark.parametrize(("kind", "relative"), [(kind, one) for kind, found in RANGE.items() for one in found])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_size_is_the_entropy_within_a_hundredth(kind, relative, dtype):
    """1 % + 0.002 bits per value + 64 bytes, between 0.01 and 12 bits per value.

    From 100,000 values on, 1,000,000 above 8 bits; and 1,000,000 where 3 % of the values spread over hundreds of
    symbols: their table takes 0.005 bits per value of 100,000, of which the empirical entropy knows nothing.
    """
    size = 1_000_000 if relative < 0.01 or (kind == "sparse" and relative < 0.1) else 100_000
    x = draw(kind, size).astype(dtype)
    bound = relative * float(x.std())
    entropy = entropy_bits(x, bound)
    assert 0.01 <= entropy <= 12
    payload = codecs.get("ebq").encode(x, bound)
    assert 8 * (len(payload) - FIXED) / size <= 1.01 * entropy + 0.002


@pytest.mark.parametrize(("kind", "relative"), [("laplace", 4), ("t3", 4), ("sparse", 1), ("gauss", 3)])
def test_long_sparse_arrays_are_coded_as_runs_at_the_same_size(kind, relative):
    x = draw(kind, ebq._LONG + 3).astype(np.float32)
    x[[0, -1]] = 9 * x.std()  # the first and the last value are no zeros
    bound = relative * float(x.std())
    codec = codecs.get("ebq")
    payload = codec.encode(x, bound)
    assert payload[SEAL_BYTES] == 1
    assert 8 * (len(payload) - FIXED) / x.size <= 1.01 * entropy_bits(x, bound) + 0.002
    out = codec.decode(payload, np.empty_like(x))
    assert float(np.abs(x - out).max()) <= bound
    assert (out == 0).sum() == (np.rint(x / (2 * bound)) == 0).sum()


def test_a_long_array_of_zeros_but_for_outliers():
    x = np.full(ebq._LONG, 1e-3, np.float32)
    x[77] = 1e30
    codec = codecs.get("ebq")
    out = codec.decode(codec.encode(x, 0.25), np.empty_like(x))
    assert out[77] == x[77]
    assert not np.delete(out, 77).any()


def matrix(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Entries whose scale is a product of their row's and column's; "dead" ones have rows and columns of zeros."""
    rng = np.random.default_rng(seed)
    rows, columns = np.exp(rng.normal(size=(shape[0], 1))), np.exp(rng.normal(size=(1, int(np.prod(shape[1:])))))
    if kind == "dead":
        rows, columns = rows * (rng.random(rows.shape) < 0.7), columns * (rng.random(columns.shape) < 0.7)
    if kind == "iid":
        rows, columns = np.ones_like(rows), np.ones_like(columns)
    return (rng.laplace(size=(rows.size, columns.size)) * rows * columns).reshape(shape)


@pytest.mark.parametrize("shape", [(256, 256), (300, 1000), (128, 64, 3, 3)])
@pytest.mark.parametrize(("kind", "share"), [("scaled", 0.9), ("dead", 0.8)])
@pytest.mark.parametrize("relative", [1.0, 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_and_columns_of_unequal_scale_go_below_the_entropy(shape, kind, share, relative, dtype):
    x = matrix(kind, shape).astype(dtype)
    bound = relative * float(x.std())
    codec = codecs.get("ebq")
    payload = codec.encode(x, bound)
    assert payload[SEAL_BYTES] == ebq._GROUP
    assert 8 * (len(payload) - FIXED) / x.size <= share * entropy_bits(x, bound) + 0.002
    out = codec.decode(payload, np.empty_like(x))
    assert float(np.abs(x - out).max()) <= bound
    np.testing.assert_array_equal(out, codec.decode(codec.encode(x.reshape(-1), bound), np.empty_like(x)))


def test_warming_up_compiles_every_kernel_of_matrices():
    """So that no timed round does."""
    program = (
        "from fedbound import codecs; from fedbound.codecs.entropy import scales;"
        "codecs.get('ebq').warm_up();"
        "print(*(len(k.signatures) for k in (scales.energies, scales._merge, scales.gather, scales.scatter)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1", "1", "1", "2"]  # the last once per dtype of the values


def test_octaves_are_those_of_the_mean_row_whatever_the_shape():
    rows = np.array([1.0, 4.0, 16.0, 0.0, 64.0])
    expected = np.round(0.5 * np.log2(rows / rows.mean(), where=rows > 0, out=np.full(5, -np.inf)))
    found = scales._classes(rows).astype(int)
    assert found[3] == 0
    np.testing.assert_array_equal(found[rows > 0] - 1 + scales.FLOOR, expected[rows > 0])
    np.testing.assert_array_equal(scales._classes(1e6 * rows), scales._classes(rows))


@pytest.mark.parametrize("relative", [3.0, 1.0, 0.1, 0.003])
def test_a_matrix_without_scales_takes_what_a_vector_takes(relative):
    x = matrix("iid", (400, 500)).astype(np.float32)
    bound = relative * float(x.std())
    codec = codecs.get("ebq")
    assert len(codec.encode(x, bound)) <= len(codec.encode(x.reshape(-1), bound))


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 60),
    kind=st.sampled_from(["scaled", "dead", "iid"]),
    bound=st.sampled_from([1e-4, 0.05, 0.5, 3.0, 50.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 20),
    outlier=st.booleans(),
)
def test_matrices_come_back_within_the_bound(rows, columns, kind, bound, dtype, seed, outlier):
    x = matrix(kind, (rows, columns), seed).astype(dtype)
    if outlier:
        x[seed % rows, seed % columns] = 1e30
    codec = codecs.get("ebq")
    out = codec.decode(codec.encode(x, bound), np.empty_like(x))
    assert float(np.abs(x.astype(np.float64) - out).max()) <= bound * (1 + 1e-7)


@pytest.mark.parametrize("mantissa", range(rans.FINEST + 1))
def test_tokens_tile_all_magnitudes(mantissa):
    """Every |q| belongs to exactly one token, whose raw bits reach the next token's start."""
    kind = rans.tokens_of(mantissa)
    order = np.argsort(kind.base, kind="stable")
    base, width = kind.base[order], kind.raw[order]
    positive = base > 0
    start, end = base[positive], base[positive] + (1 << width[positive])
    assert start[0] == 1
    np.testing.assert_array_equal(start[1:], end[:-1])
    assert end[-1] > rans.LARGEST
    np.testing.assert_array_equal(-base[base < 0][::-1], start)
    finest = rans.tokens_of(rans.FINEST).base
    group = kind.base[kind.of_finest]
    assert (np.sign(group) == np.sign(finest)).all()
    assert (
        (np.abs(group) <= np.abs(finest)) & (np.abs(finest) < np.abs(group) + (1 << kind.raw[kind.of_finest]))
    ).all()


@pytest.mark.parametrize("count", [40, 400, 4000])
def test_few_values_get_a_small_table(count):
    """Within 20 bytes and a tenth of the smooth law's entropy, so the table cannot cost what it does not bring."""
    x = draw("laplace", count)
    size = len(codecs.get("ebq")._compress(x, 0.02))
    law = np.log2(2 * np.e / 0.04)  # bits per value of a Laplace density quantised with step 0.04
    assert 8 * (size - FIXED) <= 1.1 * law * count + 160


@given(st.lists(st.integers(-rans.LARGEST, rans.LARGEST), min_size=8, max_size=60))
def test_every_quantum_comes_back(quanta):
    """float64 holds any 31-bit multiple of the step exactly, so nothing is lost but what the bound allows."""
    x = np.array(quanta, np.float64) * 0.5
    codec = codecs.get("ebq")
    out = np.empty_like(x)
    codec._decompress(memoryview(codec._compress(x, 0.25)), out)
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_beyond_the_quantizer_are_stored_exactly(dtype):
    x = draw("laplace", 40_000).astype(dtype)
    x[[5, 999, 39_999]] = 3e30, -2e25, 1.7e12
    codec = codecs.get("ebq")
    body = codec._compress(x, 1e-3)
    out = np.empty_like(x)
    codec._decompress(memoryview(body), out)
    np.testing.assert_array_equal(out[[5, 999, 39_999]], x[[5, 999, 39_999]])
    assert np.abs(x - out).max() <= 1e-3
    assert len(body) < x.nbytes / 2


def test_ties_keep_the_bound_in_the_values_own_dtype():
    """Values half way between two quanta are as far away as can be; rounding must not carry them over the bound."""
    rng = np.random.default_rng(3)
    bound = 0.1
    x = ((rng.integers(-3000, 3000, 20_000) + 0.5) * 2 * bound).astype(np.float32)
    out = codecs.get("ebq").decode(codecs.get("ebq").encode(x, bound), np.empty_like(x))
    assert float(np.abs(x - out).max()) <= bound


def test_too_many_outliers_go_the_exact_way():
    x = (draw("laplace", 5000) * 1e30).astype(np.float32)
    payload = codecs.get("ebq").encode(x, 1e-3)
    np.testing.assert_array_equal(codecs.get("ebq").decode(payload, np.empty_like(x)), x)
    assert payload[0] != 2


@pytest.mark.parametrize("count", [8, 9, 10, 11, 1000, 1001, 1002, 1003])
def test_tails_of_the_four_lanes(count):
    x = draw("gauss", count)
    codec = codecs.get("ebq")
    out = np.empty_like(x)
    codec._decompress(memoryview(codec._compress(x, 0.01)), out)
    assert np.abs(x - out).max() <= 0.01


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=300).filter(lambda c: sum(v > 0 for v in c) > 1))
def test_frequencies_add_up_and_leave_out_nobody(counts):
    full = np.array(counts)
    bits, frequency, _ = tables.scaled(full, np.flatnonzero(full))
    assert frequency.sum() == 1 << bits
    assert ((frequency > 0) == (full > 0)).all()
    assert frequency.max() < 1 << bits
    packed = memoryview(tables.pack(frequency))
    found = tables.unpack(packed, bits, full.size)
    np.testing.assert_array_equal(found, frequency[: found.size])
    assert not frequency[found.size :].any()


def test_threads_do_not_share_scratch():
    from concurrent.futures import ThreadPoolExecutor

    arrays = [draw("laplace", 50_000) * scale for scale in (1, 2, 3, 4, 5, 6, 7, 8)]
    codec = codecs.get("ebq")
    alone = [codec.encode(x, 0.2) for x in arrays]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda x: codec.encode(x, 0.2), arrays * 5)) == alone * 5


_FUZZ = """
import numpy as np
from fedbound import codecs
codec = codecs.get("ebq")
from fedbound.codecs import ebq
ebq._LONG = 500
rng = np.random.default_rng(int({seed}))
flat = rng.laplace(size=700).astype(np.float32)
scales = np.exp2(rng.integers(-2, 3, (48, 1)) + rng.integers(-2, 3, 64)) * (rng.random(64) < 0.8)
matrix = (rng.laplace(size=(48, 64)) * scales).astype(np.float32)
refused = decoded = 0
cases = [(flat, (700,), 0.5, 0), (flat, (700,), 1e-5, 0), (flat, (700,), 3.0, 1)]
cases += [(matrix.reshape(-1), (48, 64), bound, 2) for bound in (0.5, 3.0, 1.0)]
for x, shape, bound, kind in cases:
    body = bytes(codec._compress_shaped(x, bound, shape))
    assert body[0] == kind, (bound, kind, body[0])
    head = 140 if kind == 2 else 40
    for turn in range(600):
        damaged = bytearray(body)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(head if turn % 2 else len(damaged))] = rng.integers(256)
        if turn % 5 == 0:
            del damaged[rng.integers(len(damaged)):]
        try:
            codec._decompress(memoryview(bytes(damaged)), np.empty_like(x))
            decoded += 1
        except ValueError:
            refused += 1
print(refused, decoded)
"""


def test_crafted_streams_never_reach_beyond_an_array(tmp_path):
    """The kernels run with bounds checks compiled in, which they have not in use: an IndexError would end the child."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", _FUZZ.format(seed=0)], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    refused, _decoded = map(int, ran.stdout.split())
    assert refused > 1800


def test_fixed_cost_is_what_the_target_allows():
    x = np.zeros(100_000, np.float32)
    x[0] = 1.0
    body = codecs.get("ebq")._compress(x, 0.25)
    assert SEAL_BYTES + len(body) < FIXED + 24
