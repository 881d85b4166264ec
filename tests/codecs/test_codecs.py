"""Every codec keeps its promise, on shapes and values that users and training really produce."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedbound import codecs
from fedbound.codecs.guard import encode_checked, largest_error
from fedbound.codecs.payload import seal
from fedbound.errors import InputError


def usable(name: str):
    """The codec's name as a test parameter, which is skipped where its optional package is not installed."""
    try:
        codecs.get(name)
    except InputError as error:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(error)))
    return name


FACTORIES = {
    "libpressio:zfp" if name == "libpressio" else name: codecs.CODECS.entry(name).factory for name in codecs.available()
}
ALL = [usable(name) for name in FACTORIES]
BOUNDED = [usable(name) for name, factory in FACTORIES.items() if factory.error_bounded]
EXACT = [usable(name) for name, factory in FACTORIES.items() if factory.lossless]

SHAPES = st.one_of(
    st.just(()), st.just((0,)), st.just((1,)), st.just((7,)), st.just((1009,)), st.just((3, 0, 2)), st.just((13, 17)),
    hnp.array_shapes(max_dims=4, max_side=9),
)  # fmt: skip


@st.composite
def arrays(draw):
    """Random values of many scales: constant, denormal, huge range, sparse; sometimes not contiguous."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "constant", "denormal", "huge", "sparse", "tails"]))
    x = {
        "normal": lambda: rng.normal(size=shape),
        "constant": lambda: np.full(shape, rng.normal()),
        "denormal": lambda: rng.normal(size=shape) * np.finfo(dtype).tiny * 0.01,
        "huge": lambda: rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, size=shape),
        "sparse": lambda: rng.normal(size=shape) * (rng.random(shape) < 0.05),
        "tails": lambda: rng.standard_t(2, size=shape),
    }[kind]()
    x = np.asarray(x).astype(dtype)
    if x.ndim and draw(st.booleans()):
        x = x[::-1].T
    return x


@pytest.mark.parametrize("name", BOUNDED)
@given(x=arrays(), scale=st.sampled_from([1e-6, 1e-3, 0.1, 2.0]))
@example(x=np.zeros(5000, np.float32), scale=0.1)
@example(x=np.array([3e38, -3e38] * 50, np.float32), scale=0.1)
def test_error_is_within_the_bound(name, x, scale):
    spread = float(x.max()) - float(x.min()) if x.size else 1.0
    bound = scale * (spread or 1.0)
    checked = encode_checked(codecs.get(name), x, bound)
    codec = codecs.get(name)
    sent_by = codec if checked.codec_id == codec.id else codecs.by_id(checked.codec_id)()
    out = sent_by.decode(checked.payload, np.empty(x.shape, x.dtype))
    np.testing.assert_array_equal(out, checked.decoded)  # the receiver gets what the sender checked
    if x.size:
        assert np.abs(x.astype(np.float64) - out).max() <= bound * (1 + 1e-7)
    assert checked.payload == encode_checked(codecs.get(name), x, bound).payload
    assert (checked.bound, 0 <= checked.error_over_bound <= 1) == (bound, True)


@pytest.mark.parametrize("name", EXACT + BOUNDED)
@given(x=arrays(), seed=st.integers(0, 99))
def test_bound_zero_is_exact_to_the_bit(name, x, seed):
    x = np.array(x)
    if x.size > 2 and name in EXACT:
        x.reshape(-1)[:3] = [np.nan, -0.0, np.inf]
    codec = codecs.get(name)
    out = codec.decode(codec.encode(x, 0.0), np.empty(x.shape, x.dtype))
    assert out.tobytes() == np.ascontiguousarray(x).tobytes()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "bool", "float16"])
def test_exact_codecs_take_every_dtype(name, dtype):
    x = np.arange(301).astype(dtype).reshape(7, 43)
    codec = codecs.get(name)
    np.testing.assert_array_equal(codec.decode(codec.encode(x, 0.0), np.empty_like(x)), x)


@pytest.mark.parametrize("name", ALL)
def test_damaged_payloads_are_refused(name):
    x = np.random.default_rng(0).normal(size=400).astype(np.float32)
    codec = codecs.get(name)
    payload = codec.encode(x, 0.05)
    for size in range(0, len(payload), max(1, len(payload) // 60)):
        with pytest.raises(ValueError, match=r"."):
            codec.decode(payload[:size], np.empty_like(x))
    for wrong in (np.empty(399, np.float32), np.empty(400, np.float64)):
        with pytest.raises(ValueError, match=r"."):
            codec.decode(payload, wrong)
    if name == "none":
        return  # raw bytes have no redundancy: the message's CRC is their guard
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(payload)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            out = codec.decode(bytes(damaged), np.empty_like(x))
        except ValueError:
            continue
        np.testing.assert_array_equal(out, codec.decode(payload, np.empty_like(x)))


class Breaking:
    """A codec that breaks its promise by a factor, as zfp can on 1-D data."""

    name, id, version, error_bounded, lossless = "breaking", 99, 1, True, False

    def __init__(self, factor: float):
        self.factor = factor

    def encode(self, x, bound):
        return (x + np.float32(bound * self.factor)).tobytes()

    def decode(self, payload, out):
        out[...] = np.frombuffer(payload, out.dtype).reshape(out.shape)
        return out


@pytest.mark.parametrize(("factor", "violations", "codec_id"), [(0.9, 0, 99), (1.5, 1, 99), (3.0, 2, 1)])
def test_a_broken_bound_is_caught_and_mended(factor, violations, codec_id):
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    checked = encode_checked(Breaking(factor), x, 0.1)
    assert (checked.violations, checked.codec_id) == (violations, codec_id)
    assert np.abs(x - checked.decoded).max() <= 0.1


def test_non_finite_values_are_refused_by_lossy_codecs_only():
    x = np.array([1.0, np.nan], np.float32)
    with pytest.raises(ValueError, match="finite"):
        encode_checked(codecs.get("sz3"), x, 0.1)
    assert np.isnan(encode_checked(codecs.get("none"), x, 0.0).decoded[1])


def test_wire_numbers_are_unique():
    numbers = [codecs.CODECS.entry(name).factory.id for name in codecs.available()]
    assert len(set(numbers)) == len(numbers)
    with pytest.raises(ValueError, match="255"):
        codecs.by_id(255)


@pytest.mark.parametrize("predictor", ["nopred", "interp_lorenzo", "interp", "lorenzo_reg"])
@given(x=arrays())
def test_every_predictor_keeps_the_bound(predictor, x):
    codec = codecs.get("sz3", predictor=predictor)
    bound = 0.05 * float(np.ptp(x)) if x.size and np.isfinite(np.ptp(x)) and np.ptp(x) else 0.05
    assert largest_error(x, codec.decode(codec.encode(x, bound), np.empty(x.shape, x.dtype))) <= bound


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_arrays_take_the_lossy_way(name, dtype):
    x = np.random.default_rng(3).laplace(size=100_003).astype(dtype)
    checked = encode_checked(codecs.get(name), x, 0.5)
    assert (checked.codec_id, checked.violations) == (codecs.get(name).id, 0)
    assert 0 < checked.error_over_bound <= 1
    assert len(checked.payload) < x.nbytes / 2.5


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("bound", [-1.0, float("nan"), float("inf")])
def test_impossible_bounds_are_refused(name, bound):
    with pytest.raises(ValueError, match="bound"):
        encode_checked(codecs.get(name), np.ones(100, np.float32), bound)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("dtype", ["int64", "float16", "bool", ">f4"])
def test_bounded_codecs_send_other_dtypes_exactly(name, dtype):
    x = (np.arange(200) % 7).astype(dtype)
    checked = encode_checked(codecs.get(name), x, 0.5)
    np.testing.assert_array_equal(checked.decoded, x)


@pytest.mark.parametrize("name", BOUNDED)
def test_non_finite_values_survive_a_bounded_codec_exactly(name):
    x = np.random.default_rng(0).normal(size=500).astype(np.float32)
    x[[3, 40, 400]] = np.nan, np.inf, -np.inf
    codec = codecs.get(name)
    out = codec.decode(codec.encode(x, 0.1), np.empty_like(x))
    assert out.tobytes() == x.tobytes()


_DIGESTS = """
import hashlib, numpy as np
from fedbound import codecs
x = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
print(*(hashlib.sha256(codecs.get(name).encode(x, 0.25)).hexdigest() for name in %r))
"""


def test_two_processes_give_the_same_bytes():
    names = [name for name in ALL if isinstance(name, str)]
    program = _DIGESTS % (names,)
    ran = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "ab"]
    assert ran[0].stdout == ran[1].stdout
    assert len(ran[0].stdout.split()) == len(names)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: a crash must not end the tests")
@pytest.mark.parametrize("name", [usable("sz3"), usable("zfp"), usable("ebq")])
def test_crafted_streams_do_not_crash_the_native_decoder(name):
    """Damage with a seal that fits it, as a hostile sender would make: only the library stands in the way.

    Single-bit damage and truncation only, from a fixed seed: it guards against a regression, it proves no safety.
    """
    codec = codecs.get(name)
    x = np.random.default_rng(0).laplace(size=2000).astype(np.float32)
    body = codec._compress(x, 0.1)
    rng = np.random.default_rng(1)
    for turn in range(120):
        damaged = bytearray(bytes(body))
        damaged[rng.integers(60 if turn % 2 else len(damaged))] ^= 1 << rng.integers(8)
        if turn % 5 == 0:
            del damaged[rng.integers(len(damaged)) :]
        payload = seal(x, bytes(damaged))
        assert _outcome_in_a_child(lambda payload=payload: codec.decode(payload, np.empty_like(x))) in (
            "value",
            "ValueError",
        )


def _outcome_in_a_child(call) -> str:
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        except ValueError:
            os._exit(1)
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happened
            os._exit(2)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return ("value", "ValueError", "another error")[os.WEXITSTATUS(status)]


def test_an_absurd_inner_size_does_not_reach_sz3():
    codec = codecs.get("sz3")
    x = np.random.default_rng(0).laplace(size=2000).astype(np.float32)
    body = bytearray(bytes(codec._compress(x, 0.1)))
    body[16:24] = (2**60).to_bytes(8, "little")
    with pytest.raises(ValueError, match="inner stream claims"):
        codec.decode(seal(x, bytes(body)), np.empty_like(x))


@pytest.mark.parametrize("name", [usable("sz2")])
def test_sz2_refuses_a_foreign_version_instead_of_ending_the_process(name):
    x = np.ones(100, np.float32)
    with pytest.raises(ValueError, match=r"2\.1\.12"):
        codecs.get(name).decode(seal(x, bytes(60)), np.empty_like(x))


def test_lossless_decoding_claims_are_checked_before_allocation():
    payload = codecs.get("lossless").encode(np.zeros(10_000_000, np.float32), 0.0)
    with pytest.raises(ValueError, match="claims 40000000"):
        codecs.get("lossless").decode(payload, np.empty(10, np.float32))


def test_a_decoder_that_fails_counts_as_a_violation():
    class Unreadable(Breaking):
        def decode(self, payload, out):
            raise ValueError("unreadable")

    checked = encode_checked(Unreadable(0.5), np.linspace(-1, 1, 50, dtype=np.float32), 0.1)
    assert (checked.violations, checked.codec_id, checked.bound) == (2, 1, 0.1)


def test_largest_error_sees_what_a_maximum_could_hide():
    x = np.zeros(200_000, np.float32)
    decoded = x.copy()
    decoded[150_000] = np.nan
    assert np.isnan(largest_error(x, decoded))
    assert largest_error(np.array([3e38], np.float32), np.array([-3e38], np.float32)) == float("inf")
    assert largest_error(x, x) == 0.0
    assert largest_error(np.array([1], np.uint8), np.array([2], np.uint8)) == float("inf")


@pytest.mark.parametrize(
    ("name", "module"), [("zfp", "zfpy"), ("sz3", "pysz"), ("lossless", "zstandard"), ("ebq", "numba")]
)
def test_a_missing_package_is_one_sentence_with_the_mend(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"'{name}' needs the package '{module}'; install it with: pip install"):
        codecs.get(name)


def test_unknown_name_and_option_are_one_sentence():
    with pytest.raises(InputError, match=r"'sz4'.*did you mean 'sz3'"):
        codecs.get("sz4")
    with pytest.raises(InputError, match=r"predictr.*predictor"):
        codecs.get("sz3", predictr="nopred")
