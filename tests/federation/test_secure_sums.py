"""DP-quantized exchange in training: the server decodes sums alone, and nothing that left is missing from epsilon."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedbound import artifacts, study
from fedbound.codecs import wire
from fedbound.errors import FederationError, InputError, MessageError
from fedbound.exchange import packing, summation
from fedbound.federation import stage, summing
from fedbound.federation.assembly import Assembly
from fedbound.federation.ledger import Ledger
from fedbound.federation.resend import Resend, Sent
from fedbound.federation.server import Server
from fedbound.federation.transports.local import LocalTransport
from fedbound.privacy import sums
from fedbound.privacy.sums import Members


def scenario(algorithm="fedavg", count: int = 3, exchange: dict | None = None, training: dict | None = None, **privacy):
    settings = {"mechanism": "skellam", "bits": 18, "clip": 0.5, "noise_multiplier": 0.2, **privacy}
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": []},
        training=study.Training(
            rounds=count, local_epochs=1, algorithm=algorithm, privacy=settings, **(training or {})
        ),
        exchange=study.Exchange(**{"codec": "none", **(exchange or {})}),
        seed=5,
    )


def assemble(s) -> Assembly:
    return Assembly(s.data, s.model, s.training, s.exchange, s.seed)


def run(s, folder):
    return stage.run(s, {}, checkpoints=folder, transport="local")


@pytest.mark.parametrize("mechanism", sums.MECHANISM_NAMES)
def test_the_server_decodes_exactly_the_sum_of_what_was_sent(mechanism):
    """One round by the federation against the same messages added as whole numbers by hand."""
    made = assemble(scenario(mechanism=mechanism, bits=12, noise_multiplier=2.0, insecure_seed=True))
    sent = []
    transport = made.local()
    for silo in transport.members.values():
        pack = silo.uplink.record

        def keeping(payload, pack=pack):
            sent.append(payload)
            return pack(payload)

        silo.uplink.record = keeping
    server = made.server(transport)
    before = server.model.vector.copy()
    server.scheduler = dataclasses.replace(made, training=made.training.model_copy(update={"rounds": 1})).scheduler()
    server.run()
    plan = made.private.sum.plan
    assert len(sent) == 3
    assert {len(payload) for payload in sent} == {packing.packed_bytes(plan.size, 12)}
    total = sum(packing.unpack(payload, plan.size, 12) for payload in sent) % 2**12
    mean = made.private.sum.decode(total, 3, summation.signs(5, 0, plan.size)) / 3
    np.testing.assert_array_equal(server.model.vector, before + mean.astype(np.float32))


@pytest.mark.parametrize("algorithm", ["fedavg", {"name": "fedprox", "mu": 0.1}, "fedavgm", "fedadam"])
def test_all_but_without_noise_it_is_the_run_with_equal_weights(algorithm, tmp_path):
    """30 bits and next to no noise: the clipped updates' plain mean, to the rounding of 1e-6 of the clip."""
    quiet = scenario(algorithm, bits=30, noise_multiplier=1e-7, clip=100.0)
    made = assemble(quiet)
    server = made.server(made.local())
    private = server.run()
    plain = assemble(quiet.model_copy(update={"training": quiet.training.model_copy(update={"privacy": None})}))
    other = plain.server(plain.local())
    fold = other.algorithm.fold
    other.algorithm.fold = lambda update, about: fold(update, dataclasses.replace(about, samples=1))
    np.testing.assert_allclose(private.vector, other.run().vector, atol=2e-4)


def test_epsilon_of_each_round_is_the_accountants(tmp_path):
    s = scenario(epsilon=4.0, noise_multiplier=None, count=4)
    found = run(s, tmp_path / "c")
    mechanism = assemble(s).private.sum
    expected = [mechanism.epsilon({Members(3, 3): done}) for done in range(5)]
    np.testing.assert_allclose(found["rounds"]["epsilon"].values, expected)
    assert 3.99 < expected[-1] <= 4.0
    assert np.isnan(found["silos"]["train_loss"].values).all()
    rows = found["tensors"]
    up = rows["direction"].values == "up"
    assert set(rows["block"].values[up]) == {summation.BLOCK}
    assert set(rows["bytes"].values[up]) == {packing.packed_bytes(1024, 18)}
    assert np.all(found["silos"]["bytes_up"].values > packing.packed_bytes(1024, 18))


def dying(patch, owner, moment, when):
    original = getattr(owner, moment)

    def die(self, *args):
        if when(self):
            raise KeyboardInterrupt
        return original(self, *args)

    patch.setattr(owner, moment, die)


@pytest.mark.parametrize("moment", ["_aggregate", "_commit", "_save"])
def test_a_replayed_round_resends_what_was_sent(tmp_path, monkeypatch, moment):
    """Killed after the messages left: with noise from the system's entropy the rerun ends as the run would have.

    That the same bytes go out again shows in the ledgers: nothing is charged twice, because nothing new is released.
    """
    s = scenario(count=4, epsilon=4.0, noise_multiplier=None)
    with monkeypatch.context() as patch:
        dying(patch, Server, moment, lambda server: server.version >= 2)
        with pytest.raises(KeyboardInterrupt):
            run(s, tmp_path / "c")
    sent = {file.name: file.read_bytes() for file in (tmp_path / "c").rglob("sent-*.bin")}
    found = run(s, tmp_path / "c")
    assert found["silos"]["releases"].values.max() == 4
    assert found["rounds"]["epsilon"].values[-1] <= 4.0
    assert len(sent) >= 6


def test_a_kill_between_ledger_and_message_is_charged(tmp_path, monkeypatch):
    """The charge is on disk and the message is not: it is made again, and both charges count."""
    s = scenario(count=4, noise_multiplier=2.0)
    with monkeypatch.context() as patch:
        dying(patch, summing.SumSilo, "_payload", lambda silo: silo.number == 1 and silo.ledger.releases == 3)
        with pytest.raises(KeyboardInterrupt):
            run(s, tmp_path / "c")
    ledgers = sorted((tmp_path / "c").rglob("ledger-*.jsonl"))
    assert [Ledger(file).releases for file in ledgers] == [3, 3, 2]
    found = run(s, tmp_path / "c")
    assert found["silos"]["releases"].values.max() == 5
    expected = assemble(s).private.sum.epsilon({Members(3, 3): 5})
    assert found["rounds"]["epsilon"].values[-1] == pytest.approx(expected)


def test_a_seeded_run_that_was_killed_ends_bit_equal(tmp_path, monkeypatch):
    s = scenario(count=4, insecure_seed=True)
    whole = run(s, tmp_path / "a")
    with monkeypatch.context() as patch:
        dying(patch, Server, "_save", lambda server: server.version >= 2)
        with pytest.raises(KeyboardInterrupt):
            run(s, tmp_path / "c")
    assert artifacts.differences(whole, run(s, tmp_path / "c")) == []


def test_a_round_is_never_summed_over_two_sets_of_silos(tmp_path):
    log = summation.SumLog(tmp_path / "sums.jsonl")
    log.note(3, [0, 1])
    log.note(3, [0, 1])
    again = summation.SumLog(tmp_path / "sums.jsonl")
    with pytest.raises(FederationError, match="was summed over the silos"):
        again.note(3, [0, 1, 2])
    made = assemble(scenario())
    receiver = made.private.receiver(tmp_path / "sums.jsonl")
    record = made.silo(2).uplink.record(packing.pack(np.zeros(1024, np.int64), 18))
    with pytest.raises(MessageError, match="summed without it"):
        receiver.decode(wire.Message(wire.Kind.UPDATE, 2, 3, 3, [record], {}), np.zeros(0))
    assert receiver.take() is None


def test_a_silo_that_drops_out_takes_its_share_of_the_noise_along():
    s = scenario(count=3, noise_multiplier=2.0, training={"on_failure": "drop"})
    made = assemble(s)
    members = made.local().members
    answer = members[1].handle

    def damaged(buffer):
        sent = answer(buffer)
        if sent is not None and wire.peek(sent).kind == wire.Kind.UPDATE and wire.peek(sent).round == 1:
            sent[-1] ^= 1
        return sent

    members[1].handle = damaged
    server = made.server(LocalTransport(members))
    server.run()
    tables = stage.records.tables(
        server.records.rows,
        {"server_memory_bytes": 1, "resumed_from": -1, "charged": server.charged},
        made.spending().epsilon,
    )
    shares = [int((tables["silos"]["round"].values == number).sum()) for number in (1, 2, 3)]
    assert sum(shares) < 9
    expected: dict[Members, int] = {}
    for one in shares:
        expected[Members(one, one)] = expected.get(Members(one, one), 0) + 1
    found = tables["rounds"]["epsilon"].values[-1]
    assert found == pytest.approx(made.private.sum.epsilon(expected))
    assert found > made.private.sum.epsilon({Members(3, 3): 3})


def test_messages_that_are_no_part_of_the_sum_are_rejected():
    made = assemble(scenario())
    receiver, uplink = made.private.receiver(None), made.silo(0).uplink
    good = uplink.record(packing.pack(np.ones(1024, np.int64), 18))
    for records in (
        [],
        [good, good],
        [dataclasses.replace(good, name=0)],
        [dataclasses.replace(good, codec=1)],
        [dataclasses.replace(good, payload=good.payload[:-1])],
    ):
        with pytest.raises(MessageError, match="rejected"):
            receiver.decode(wire.Message(wire.Kind.UPDATE, 0, 0, 0, records, {}), np.zeros(0))
    assert not receiver.total.any()
    receiver.decode(wire.Message(wire.Kind.UPDATE, 0, 0, 0, [good], {}), np.zeros(0))
    assert (receiver.total == 1).all()
    with pytest.raises(MessageError, match="in the sum of round 0"):
        receiver.decode(wire.Message(wire.Kind.UPDATE, 1, 7, 7, [good], {}), np.zeros(0))


def test_a_kept_message_gives_back_what_was_sent_from_the_same_model_alone(tmp_path):
    box = Resend(tmp_path / "sent-0", 2)
    for round_ in range(4):
        box.put(round_, 77, Sent(5, bytes([round_])))
    assert box.find(1, 77) is None
    assert box.find(3, 77) == Sent(5, b"\3")
    assert box.find(3, 78) is None
    file = tmp_path / "sent-0_00000003.bin"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert box.find(3, 77) is None
    assert Resend(None, 2).find(3, 77) is None


def test_what_the_accounting_does_not_cover_is_refused_before_anything_starts():
    def parse(exchange=None, **training):
        return study.parse({"study": "s", "training": training, "exchange": exchange or {"codec": "none"}})

    private = {"mechanism": "skellam", "epsilon": 1.0}
    parse(privacy=private)
    for message, exchange, training in (
        (r"exchange\.codec: 'sz3' is refused", {"codec": "sz3", "bound": 0.1}, {}),
        (r"exchange\.mode: 'weights' is refused", {"codec": "none", "mode": "weights"}, {}),
        (r"'iiadmm' needs each silo's own update", None, {"algorithm": "iiadmm"}),
        (r"'fedbuff' needs each silo's own update", None, {"algorithm": "fedbuff"}),
        (r"sums one update of every silo", None, {"scheduler": {"name": "sync", "participation": 0.5}}),
        (r"sums one update of every silo", None, {"scheduler": "buffered", "algorithm": "fedavg"}),
        (r"'laplace' is refused with unit 'record'", None, {"privacy": {"mechanism": "laplace", "unit": "record"}}),
        (r"'replace-one' is accounted", None, {"privacy": {"adjacency": "replace-one"}}),
        (r"rate is refused with unit 'silo'", None, {"privacy": {"rate": 0.5}}),
        (r"bits and honest are of secure sums", None, {"privacy": {"mechanism": "gaussian", "bits": 8}}),
        (r"at most 20", None, {"privacy": {"mechanism": "pbm", "bits": 24}}),
        (r"one gradient per record and round", None, {"privacy": {"unit": "record"}}),
        (r"how often a silo reports", None, {"scheduler": "async", "privacy": {"mechanism": "gaussian"}}),
    ):
        settings = {**training, "privacy": {**private, **training.get("privacy", {})}}
        with pytest.raises(InputError, match=message):
            parse(exchange, **settings)


def test_settings_of_before_keep_their_names():
    """A setting that says nothing of units and sums is written as it was, so that finished runs stay found."""
    old = study.TrainingPrivacy(epsilon=1.0).model_dump(mode="json")
    assert set(old) == {"mechanism", "clip", "epsilon", "noise_multiplier", "delta", "adjacency", "insecure_seed"}
    new = study.TrainingPrivacy(epsilon=1.0, mechanism="pbm", unit="record")
    assert study.TrainingPrivacy(**new.model_dump(mode="json")) == new
