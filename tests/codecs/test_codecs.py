"""Every codec keeps its promise, on shapes and values that users and training really produce."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedbound import codecs
from fedbound.codecs.guard import encode_checked
from fedbound.errors import InputError

BOUNDED = [name for name in codecs.available() if codecs.CODECS.entry(name).factory.error_bounded]
EXACT = [name for name in codecs.available() if codecs.CODECS.entry(name).factory.lossless]

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
    out = codecs.by_id(checked.codec_id)().decode(checked.payload, np.empty(x.shape, x.dtype))
    np.testing.assert_array_equal(out, checked.decoded)  # the receiver gets what the sender checked
    if x.size:
        assert np.abs(x.astype(np.float64) - out).max() <= bound * (1 + 1e-7)
    assert checked.payload == encode_checked(codecs.get(name), x, bound).payload


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


@pytest.mark.parametrize("name", codecs.available())
def test_damaged_payloads_are_refused(name):
    x = np.random.default_rng(0).normal(size=400).astype(np.float32)
    codec = codecs.get(name)
    payload = codec.encode(x, 0.05)
    for size in range(0, len(payload), max(1, len(payload) // 60)):
        with pytest.raises(ValueError, match="."):
            codec.decode(payload[:size], np.empty_like(x))
    for wrong in (np.empty(399, np.float32), np.empty(400, np.float64)):
        with pytest.raises(ValueError, match="."):
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


def test_unknown_name_and_option_are_one_sentence():
    with pytest.raises(InputError, match="'sz4'.*did you mean 'sz3'"):
        codecs.get("sz4")
    with pytest.raises(InputError, match="predictr.*predictor"):
        codecs.get("sz3", predictr="nopred")
