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
from fedbound.exchange import blocks, bounds, downlink
from fedbound.exchange.blocks import Encoder
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Receiver, Uplink


@dataclass
class Spec:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


SPECS = [Spec("a", (10,)), Spec("w", (40, 50)), Spec("n", (), "int64"), Spec("b", (7, 3)), Spec("v", (1024,))]


def message(records: list[wire.Record], sender: int = 2, version: int = 0, **fields: float) -> wire.Message:
    packed = wire.pack(wire.Message(wire.Kind.UPDATE, sender, 0, version, records, fields))
    return wire.unpack(packed, limits=wire.Limits())


def encoder(layout: Layout, codec: str, bound: float = 0.01, **options: str) -> Encoder:
    return Encoder(layout, codecs.get(codec), bounds.Absolute(bound), **options)


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
    uplink = Uplink(encoder(layout, codec), mode, error_feedback=codec == "sz3")
    encoding = uplink.encode(local, reference)
    out = np.empty(layout.size, np.float32)
    receiver = Receiver(layout, mode, codecs.get(codec))
    integers = receiver.decode(message(encoding.records), out)
    model = receiver.local(out, reference.vector)
    np.testing.assert_array_equal(model, reference.vector + out if mode == "delta" else out)
    receiver.change(out, reference)
    slack = 0.01 if codec == "sz3" else 0.0
    assert np.abs(out - (local.vector - reference.vector)).max() <= slack + 1e-6
    np.testing.assert_array_equal(integers[0], local.integers[0])
    if codec == "sz3":
        assert 0 < encoding.error_over_bound <= 1
        assert np.abs(uplink.residual).max() <= 0.01


def test_model_goes_down_exactly():
    layout, local, _ = states(2)
    state = downlink.decode_exact(layout, message(blocks.exact(layout, local)))
    np.testing.assert_array_equal(state.vector, local.vector)
    np.testing.assert_array_equal(state.integers[0], local.integers[0])


def test_non_finite_update_names_the_tensor():
    layout, local, reference = states(3)
    local.vector[layout.slices["b"].start] = np.inf
    with pytest.raises(FederationError, match="'b'"):
        Uplink(Encoder(layout, codecs.get("sz3"), bounds.Range(0.1)), "delta", True).encode(local, reference)


def test_missing_and_repeated_records_are_refused():
    layout, local, _ = states(4)
    records = blocks.exact(layout, local)
    out = np.empty(layout.size, np.float32)
    for wrong in (records[1:], [*records, records[0]], [records[0], *records[:-1]]):
        with pytest.raises(MessageError, match="silo 2"):
            Receiver(layout, "weights", codecs.get("none")).decode(message(wrong), out)


def test_a_codec_that_the_run_does_not_use_is_refused():
    """A sender must not be able to choose a decoder, of which some are not safe against crafted streams."""
    layout, local, reference = states(4)
    records = Uplink(encoder(layout, "sz2"), "delta", False).encode(local, reference).records
    with pytest.raises(MessageError, match="codec 'sz2', which this run does not use"):
        Receiver(layout, "delta", codecs.get("ebq")).decode(message(records), np.empty(layout.size, np.float32))


def test_decoded_nan_is_refused():
    layout, local, _ = states(5)
    local.vector[3] = np.nan
    records = blocks.exact(layout, local)
    with pytest.raises(MessageError, match="silo 2.*NaN"):
        Receiver(layout, "weights", codecs.get("none")).decode(message(records), np.empty(layout.size, np.float32))


def calibrated(rows: list[tuple[int, str, float]]) -> Artifact:
    keys = {
        "direction": "up",
        "bound": 1.0,
        "rule": "range",
        "predicted_bits": 1.0,
        "measured_bits": 1.0,
        "sensitivity": 0.0,
    }
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
    encoding = Uplink(Encoder(layout, codecs.get("sz3"), bounds.Range(0.1)), "delta", True).encode(local, reference)
    np.testing.assert_array_equal(encoding.decoded, local.vector)


@pytest.mark.parametrize("feedback", [True, False])
def test_non_finite_tensors_go_exactly_where_the_study_says_so(feedback):
    layout, local, reference = states(9)
    reference.vector[:] = 0
    w = layout.slices["w"]
    local.vector[w.start + 3] = np.nan
    local.vector[w.start + 5] = -np.inf
    uplink = Uplink(encoder(layout, "sz3", non_finite="lossless"), "delta", feedback)
    encoding = uplink.encode(local, reference)
    np.testing.assert_array_equal(encoding.decoded[w], local.vector[w])
    if feedback:
        assert not uplink.residual[w].any()
    out = np.empty(layout.size, np.float32)
    Receiver(layout, "delta", codecs.get("sz3"), "lossless").decode(message(encoding.records), out)
    np.testing.assert_array_equal(out, encoding.decoded)
    with pytest.raises(MessageError, match="NaN"):
        Receiver(layout, "delta", codecs.get("sz3")).decode(message(encoding.records), out)


def test_bound_modes_against_their_definitions():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000).astype(np.float32)
    values[7] = 1e6
    block = Layout([Spec("w", (20_000,))]).blocks[0]
    exact = values.astype(np.float64)
    assert bounds.Range(0.1).absolute(block, values) == pytest.approx(0.1 * np.ptp(exact))
    assert bounds.Deviation(0.1).absolute(block, values) == pytest.approx(0.1 * exact.std(), rel=1e-6)
    robust = bounds.RobustRange(0.1).absolute(block, values)
    assert 0.1 * 5.5 < robust < 0.1 * 7.5  # the normal law's central 99.8 % is 6.18 wide; one outlier changes nothing
    sparse = np.zeros(20_000, np.float32)
    sparse[3] = 2.0
    assert bounds.RobustRange(0.1).absolute(block, sparse) == pytest.approx(0.2)
    for rule in (bounds.Range(0.1), bounds.RobustRange(0.1), bounds.Deviation(0.1)):
        assert rule.absolute(block, np.zeros(0, np.float32)) == 0


def test_study_bound_modes_reach_their_rules():
    layout, *_ = states(1)
    found = {}
    for mode, bound in (("abs", 0.25), ("rel", 0.25), ("rel_quantile", 0.25), ("std", 0.25), ("ratio", 25.0)):
        exchange = study.Exchange(codec="sz3", bound=bound, bound_mode=mode, downlink_bound=2 * bound)
        up, down = (bounds.rule(exchange, layout, s, None, d) for s, d in ((0, "up"), (-1, "down")))
        assert type(up) is type(down)
        found[mode] = type(up)
        assert [next(iter(vars(one).values())) for one in (up, down)] == [bound, 2 * bound]
    assert len(set(found.values())) == 5


@pytest.mark.parametrize("ratio", [5.0, 15.0])
def test_a_ratio_is_kept_at_the_smallest_common_scale(ratio):
    layout, local, reference = states(21)
    v = local.vector - reference.vector
    v[layout.slices["w"].start] = np.nan  # its block is sent exactly, and left out of the ratio
    ours = Encoder(layout, codecs.get("ebq"), bounds.Ratio(ratio), "lossless").encode(v, local.integers)
    pairs = list(zip(ours.records, layout.blocks, strict=False))
    kept = [(record, block) for record, block in pairs if np.isfinite(v[block.start : block.stop]).all()]
    assert 0 < len(kept) < len(layout.blocks)
    size, raw = sum(len(record.payload) for record, _ in kept), sum(4 * block.size for _, block in kept)
    assert size <= raw / ratio
    scales = [record.bound / np.ptp(v[block.start : block.stop].astype(np.float64)) for record, block in kept]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    finer = Encoder(layout, codecs.get("ebq"), bounds.Range(scales[0] / 2 ** (1 / 16)), "lossless")
    found = finer.encode(v, local.integers).records
    assert sum(len(found[record.name].payload) for record, _ in kept) > raw / ratio


def test_a_ratio_that_cannot_be_reached_names_the_key():
    layout, local, _ = states(22)
    encoder = Encoder(layout, codecs.get("ebq"), bounds.Ratio(1e5))
    with pytest.raises(FederationError, match=r"exchange\.bound: the ratio 100000 cannot be reached"):
        encoder.encode(local.vector, local.integers)
    constant = np.ones(layout.size, np.float32)
    np.testing.assert_array_equal(encoder.encode(constant, local.integers).decoded, constant)


def test_calibrated_downlink_needs_its_own_rows():
    layout, *_ = states(6)
    rows = [(-1, name, 0.1) for name in layout.slices]
    with pytest.raises(InputError, match="direction 'down'"):
        bounds.rule(study.Exchange(codec="sz3"), layout, -1, calibrated(rows), "down")


# ---- downlink ---------------------------------------------------------------------------------------------------


def walk(seed: int, codec: str = "sz3", mode: str = "delta", bound: float = 0.05):
    """A sender and the models that it is to send, version by version."""
    layout, first, _ = states(seed)
    sender = downlink.Sender(encoder(layout, codec, bound), mode, first)
    rng = np.random.default_rng(seed)
    models = [first]
    for version in range(1, 12):
        step = (0.3 * rng.normal(size=layout.size)).astype(np.float32)
        models.append(State(models[-1].vector + step, [np.array(version)]))
    return layout, sender, models


def carry(layout: Layout, holder: downlink.Holder, step: downlink.Step) -> bool:
    packed = wire.pack(wire.Message(wire.Kind.MODEL, -1, 0, step.version, step.records, downlink.fields(step)))
    assert len(packed) == step.size
    return holder.take(wire.unpack(packed, limits=wire.Limits(expected=layout.expected())))


def same(a: State, b: State) -> bool:
    return np.array_equal(a.vector, b.vector) and all(map(np.array_equal, a.integers, b.integers))


@pytest.mark.parametrize("mode", ["delta", "weights"])
@pytest.mark.parametrize("codec", ["none", "lossless", "sz3"])
def test_every_silo_holds_the_senders_copy_bit_for_bit(codec, mode):
    """Law 1 on the way down: silos that follow every version, every third, or only the last hold the same bits."""
    layout, sender, models = walk(11, codec, mode)
    holders = {every: downlink.Holder(layout, models[0].copy(), codecs.get(codec)) for every in (1, 3, 11)}
    for version, model in enumerate(models):
        sender.advance(model, version)
        error = np.abs(sender.held.vector - model.vector).max()
        assert error <= (0.05 * (1 + 1e-5) if codec == "sz3" and version else 0)
        for every, holder in holders.items():
            if version % every == 0:
                assert all(carry(layout, holder, step) for step in sender.path(holder.version))
                assert same(holder.state, sender.held)
                assert holder.version == version


def test_a_copy_that_differs_is_noticed_and_mended_by_the_whole():
    layout, sender, models = walk(12)
    holder = downlink.Holder(layout, models[0].copy(), codecs.get("sz3"))
    holder.state.vector[5] = np.nextafter(holder.state.vector[5], np.float32(9))  # one unit in the last place
    sender.advance(models[1], 1)
    before = holder.state.vector.copy()
    assert not carry(layout, holder, sender.path(0)[0])
    np.testing.assert_array_equal(holder.state.vector, before)
    assert carry(layout, holder, sender.whole())
    assert same(holder.state, sender.held)


def test_a_long_absence_costs_no_more_than_the_exact_model():
    layout, sender, models = walk(13, bound=1e-4)
    for version, model in enumerate(models):
        sender.advance(model, version)
        assert sum(step.size for step in sender.steps[1:]) <= layout.raw_bytes
    (step,) = sender.path(0)
    assert step.base == downlink.WHOLE
    assert len(sender.path(10)) == 1


def test_sender_goes_on_after_a_restart_with_the_same_bytes():
    _, sender, models = walk(14)
    _, restarted, _ = walk(14)
    for version in range(5):
        sender.advance(models[version], version)
    restarted.restore(*sender.state())
    for one in (sender, restarted):
        one.advance(models[5], 5)
    assert same(sender.held, restarted.held)
    assert [step.size for step in sender.path(3)] == [step.size for step in restarted.path(3)]
    assert restarted.path(4)[0].records is not None
    assert restarted.path(3)[0].records is None
