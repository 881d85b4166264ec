"""Layout, bounds and the two ends of the uplink."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound import codecs, schemas, study
from fedbound.artifacts import Artifact
from fedbound.codecs import wire
from fedbound.errors import FederationError, InputError, MessageError
from fedbound.exchange import bounds, downlink
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Receiver, Uplink


@dataclass
class Spec:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


SPECS = [Spec("a", (10,)), Spec("w", (40, 50)), Spec("n", (), "int64"), Spec("b", (7, 3)), Spec("v", (1024,))]


def message(records: list[wire.Record], sender: int = 2) -> wire.Message:
    packed = wire.pack(wire.Message(wire.Kind.UPDATE, sender, 0, 0, records, {}))
    return wire.unpack(packed, limits=wire.Limits())


def test_large_tensors_first_small_ones_share_a_block():
    layout = Layout(SPECS)
    assert [block.name for block in layout.blocks] == ["w", "v", "small:a+b"]
    assert layout.size == 2000 + 1024 + 10 + 21
    assert layout.raw_bytes == 4 * layout.size + 8


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=8), st.integers(0, 2**31))
def test_flatten_and_back_is_exact(shapes, seed):
    specs = [Spec(f"t{i}", shape) for i, shape in enumerate(shapes)] + [Spec("count", (2,), "int32")]
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s.shape).astype(np.float32) for s in specs[:-1]] + [np.array([3, -4], np.int32)]
    layout = Layout(specs)
    back = layout.unflatten(layout.flatten(arrays))
    for before, after in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    covered = sorted((block.start, block.stop) for block in layout.blocks)
    assert [start for start, _ in covered] == [0, *[stop for _, stop in covered[:-1]]][: len(covered)]


def states(seed: int) -> tuple[Layout, State, State]:
    layout = Layout(SPECS)
    rng = np.random.default_rng(seed)
    local = State(rng.normal(size=layout.size).astype(np.float32), [np.array(5)])
    reference = State(rng.normal(size=layout.size).astype(np.float32), [np.array(4)])
    return layout, local, reference


@pytest.mark.parametrize("mode", ["delta", "weights"])
@pytest.mark.parametrize("codec", ["none", "lossless", "sz3"])
def test_receiver_gets_the_change_within_the_bound(mode, codec):
    layout, local, reference = states(1)
    uplink = Uplink(layout, codecs.get(codec), bounds.Absolute(0.01), mode, error_feedback=codec == "sz3")
    encoding = uplink.encode(local, reference)
    out = np.empty(layout.size, np.float32)
    integers = Receiver(layout, mode).decode(message(encoding.records), reference, out)
    slack = 0.01 if codec == "sz3" else 0.0
    assert np.abs(out - (local.vector - reference.vector)).max() <= slack + 1e-6
    np.testing.assert_array_equal(integers[0], local.integers[0])
    if codec == "sz3":
        assert 0 < encoding.error_over_bound <= 1
        assert np.abs(uplink.residual).max() <= 0.01


def test_model_goes_down_exactly():
    layout, local, _ = states(2)
    state = downlink.decode_model(layout, message(downlink.encode_model(layout, local)))
    np.testing.assert_array_equal(state.vector, local.vector)
    np.testing.assert_array_equal(state.integers[0], local.integers[0])


def test_non_finite_update_names_the_tensor():
    layout, local, reference = states(3)
    local.vector[layout.slices["b"].start] = np.inf
    with pytest.raises(FederationError, match="'b'"):
        Uplink(layout, codecs.get("sz3"), bounds.Range(0.1), "delta", True).encode(local, reference)


def test_missing_and_repeated_records_are_refused():
    layout, local, _ = states(4)
    records = downlink.encode_model(layout, local)
    out = np.empty(layout.size, np.float32)
    for wrong in (records[1:], [*records, records[0]], [records[0], *records[:-1]]):
        with pytest.raises(MessageError, match="silo 2"):
            Receiver(layout, "weights").decode(message(wrong), local, out)


def test_decoded_nan_is_refused():
    layout, local, reference = states(5)
    local.vector[3] = np.nan
    records = downlink.encode_model(layout, local)
    with pytest.raises(MessageError, match="silo 2.*NaN"):
        Receiver(layout, "weights").decode(message(records), reference, np.empty(layout.size, np.float32))


def calibrated(rows: list[tuple[int, str, float]]) -> Artifact:
    keys = {"direction": "up", "bound": 1.0, "rule": "range", "predicted_bits": 1.0, "sensitivity": 0.0}
    table = schemas.BOUNDS.table([{**keys, "silo": s, "tensor": t, "scale": x} for s, t, x in rows])
    return Artifact("calibrate", "t", {}, tables={"bounds": table})


def test_calibrated_bound_is_scale_times_range_and_own_row_wins():
    layout, local, _ = states(6)
    rows = [(2, "w", 0.5), (-1, "w", 0.1), (-1, "v", 0.2), (-1, "a", 0.3), (-1, "b", 0.2), (1, "v", 9.0)]
    rule = bounds.rule(study.Exchange(codec="sz3"), layout, 2, calibrated(rows))
    w, v, small = layout.blocks
    for block, scale in ((w, 0.5), (v, 0.2), (small, 0.2)):
        values = local.vector[block.start : block.stop]
        assert rule.absolute(block, values) == pytest.approx(scale * (float(values.max()) - float(values.min())))


def test_bounds_of_another_model_are_refused():
    layout, *_ = states(7)
    with pytest.raises(InputError, match="'w'.*another model"):
        bounds.rule(study.Exchange(codec="sz3"), layout, 0, calibrated([(-1, "other", 0.1)]))
    with pytest.raises(InputError, match="bounds"):
        bounds.rule(study.Exchange(codec="sz3"), layout, 0, None)


def test_constant_block_is_exact_under_a_relative_bound():
    layout, _, reference = states(8)
    local = State(reference.vector + np.float32(0.25), [np.array(1)])
    reference = State(np.zeros_like(reference.vector), [np.array(1)])
    local.vector[:] = 0.25
    encoding = Uplink(layout, codecs.get("sz3"), bounds.Range(0.1), "delta", True).encode(local, reference)
    np.testing.assert_array_equal(encoding.decoded, local.vector)
