"""The round loop over the local transport: law 1, reproducibility, resume, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from fedbound import artifacts, study
from fedbound.codecs import wire
from fedbound.errors import ArtifactError, FederationError, LeaseError
from fedbound.federation import checkpoint, stage
from fedbound.federation.assembly import Assembly
from fedbound.federation.lease import Lease
from fedbound.federation.server import Server
from fedbound.federation.silo import round_seed
from fedbound.federation.transports.local import LocalTransport

DATA = study.Data(silos=3)
MODEL = {"name": "mlp", "hidden": [48]}


def scenario(rounds: int = 4, codec: str = "sz3", **training: object) -> study.TrainScenario:
    return study.TrainScenario(
        study="t",
        data=DATA,
        model=MODEL,
        training=study.Training(rounds=rounds, local_epochs=1, **training),
        exchange=study.Exchange(codec=codec, bound=0.1),
        seed=5,
    )


def assemble(s: study.TrainScenario) -> Assembly:
    return Assembly(s.data, s.model, s.training, s.exchange, s.seed)


class Stop(Exception):
    """Raised by a test in place of a kill."""


def test_fedavg_equals_a_plain_reference():
    """Uncompressed FedAvg is the sample-weighted mean of locally trained weights (McMahan et al., Algorithm 1)."""
    from fedbound.models import state, training

    s = scenario(rounds=3, codec="none")
    assembly = assemble(s)
    result = assembly.server(assembly.local()).run()

    module = assembly.module()
    weights = state.get_state(module)
    for round_ in range(3):
        locals_, samples = [], []
        for number, silo in enumerate(assembly.silos.silos):
            state.set_state(module, weights)
            training.train(module, silo.train, s.training, round_seed(s.seed, number, round_))
            locals_.append(state.get_state(module))
            samples.append(len(silo.train))
        share = np.array(samples) / sum(samples)
        weights = [
            sum(w * x.astype(np.float64) for w, x in zip(share, tensors, strict=True)).astype(np.float32)
            for tensors in zip(*locals_, strict=True)
        ]
    expected = assembly.layout.flatten(weights)
    np.testing.assert_allclose(result.vector, expected.vector, rtol=0, atol=1e-6)


def test_residual_is_input_minus_what_the_server_decodes(monkeypatch):
    """Law 1: the server folds exactly what the silo counted as sent, over many rounds with compression on."""
    s = scenario(rounds=12)
    assembly = assemble(s)
    transport = assembly.local()
    server = assembly.server(transport)
    sent: dict[int, np.ndarray] = {}
    checked = []
    for silo in transport.members.values():
        original = silo.uplink.encode

        def encode(local, reference, round_, silo=silo, original=original):
            before = silo.uplink.residual.copy()
            encoding = original(local, reference, round_)
            v = local.vector - reference.vector + before
            np.testing.assert_array_equal(silo.uplink.residual, v - encoding.decoded)
            sent[silo.number] = encoding.decoded.copy()
            return encoding

        monkeypatch.setattr(silo.uplink, "encode", encode)
    decode = server.receiver.decode

    def compare(message, out, extras):
        integers = decode(message, out, extras)
        np.testing.assert_array_equal(out, sent[message.sender])
        checked.append(message.sender)
        return integers

    monkeypatch.setattr(server.receiver, "decode", compare)
    server.run()
    assert len(checked) == 12 * 3


def test_both_ends_hold_the_same_model_after_50_rounds_of_sampled_silos():
    """Law 1: whenever a silo has answered, its copy equals the server's, bit for bit, both directions compressed."""
    s = scenario(rounds=50, scheduler={"name": "sync", "participation": 0.5}, evaluate_every=7)
    assembly = assemble(s)
    transport = assembly.local()
    server = assembly.server(transport)
    compared = []
    take = server._take

    def compare(silo, buffer):
        holder = transport.members[silo].holder
        assert holder.version == server.sender.version
        np.testing.assert_array_equal(holder.state.vector, server.sender.held.vector)
        compared.append(silo)
        return take(silo, buffer)

    server._take = compare
    model = server.run()
    assert len(compared) >= 50 * 2
    assert server.sender.version == 50
    assert not np.array_equal(model.vector, server.sender.held.vector)  # the downlink is lossy indeed
    sizes = {step.base == -1 for step in server.sender.steps}
    assert sizes == {False}


def test_batch_norm_counters_travel_both_ways():
    """Integer tensors of no dimension keep their shape on the wire, and their values."""
    model = {"name": "resnet", "norm": "batch", "width": 4, "stages": 1}
    assembly = assemble(scenario(rounds=2).model_copy(update={"model": model}))
    server = assembly.server(assembly.local([0]))
    counters = {int(array) for array in server.run().integers}
    assert counters == {sum(row["steps"] for row in server.records.rows["silos"])}


@pytest.mark.parametrize("participation", [1.0, 0.5])
@pytest.mark.parametrize("every", [1, 2])
def test_interrupted_run_ends_with_the_same_numbers(tmp_path, monkeypatch, participation, every):
    """A run that dies before any of its checkpoints' commits resumes to the very artifact of an uninterrupted one."""
    s = scenario(rounds=5, scheduler={"name": "sync", "participation": participation})
    whole = stage.run(s, {}, checkpoints=tmp_path / "whole", transport="local", checkpoint_every=every)
    for dies_at in (2, 3, 5):
        for moment in ("_aggregate", "_save", "_commit"):
            folder = tmp_path / f"{dies_at}{moment}"
            with monkeypatch.context() as patch:
                original = getattr(Server, moment)

                def dying(self, *args, original=original, dies_at=dies_at, moment=moment):
                    late = self.version + (moment == "_aggregate") >= dies_at
                    if late:
                        raise Stop
                    return original(self, *args)

                patch.setattr(Server, moment, dying)
                with pytest.raises(Stop):
                    stage.run(s, {}, checkpoints=folder, transport="local", checkpoint_every=every)
            resumed = stage.run(s, {}, checkpoints=folder, transport="local", checkpoint_every=every)
            assert artifacts.differences(whole, resumed) == []
            expected = (dies_at - 1) // every * every
            assert resumed["summary"]["resumed_from"][0] == (expected if expected else -1)
            assert not folder.exists()  # a finished run leaves no checkpoints


def test_silo_failure_names_silo_and_round(monkeypatch):
    s = scenario(rounds=2)
    assembly = assemble(s)
    transport = assembly.local()
    silo = transport.members[1]
    learn = silo._learn

    def diverge(round_, reference, steps=0):
        result, local = learn(round_, reference, steps)
        local.vector[7] = np.nan
        return result, local

    monkeypatch.setattr(silo, "_learn", diverge)
    with pytest.raises(FederationError, match=r"silo 1 failed in round 1.*NaN"):
        assembly.server(transport).run()


def test_update_that_claims_another_sender_is_refused():
    assembly = assemble(scenario(rounds=1))
    inner = assembly.local()

    class Lying(LocalTransport):
        def receive(self, timeout=None):
            silo, buffer = inner.receive(timeout)
            return (silo + 1) % 3, buffer

    liar = Lying({})
    liar.silos, liar.send = 3, inner.send
    with pytest.raises(Exception, match="claims to come from"):
        assembly.server(liar).run()


def test_every_round_is_counted_where_it_travels():
    """Bytes in the rounds table are the lengths of the messages that passed the transport."""
    assembly = assemble(scenario(rounds=3))
    transport = assembly.local()
    up: list[int] = []
    down: list[int] = []
    receive, send = transport.receive, transport.send
    transport.send = lambda silo, message: (
        down.append(len(message)) if wire.peek(message).flags & wire.Flags.TRAIN else None,
        send(silo, message),
    )

    def counted(timeout=None):
        got = receive(timeout)
        if got and wire.peek(got[1]).kind == wire.Kind.UPDATE:
            up.append(len(got[1]))
        return got

    transport.receive = counted
    server = assembly.server(transport)
    server.run()
    assert sum(row["bytes_up"] for row in server.records.rows["rounds"]) == sum(up)
    assert sum(row["bytes_down"] for row in server.records.rows["rounds"]) == sum(down)


def test_lease_is_exclusive_and_a_stale_writer_is_fenced(tmp_path):
    first = Lease(tmp_path / "c")
    store = checkpoint.Store(first.folder, checkpoint.SERVER)
    store.save(checkpoint.State(1, {"model": np.zeros(3)}, {"silo_labels": {}}))
    with pytest.raises(LeaseError, match="another job"):
        Lease(tmp_path / "c")
    # the first owner "dies": its process is no longer the one that the lease names
    lease_file = first._file(1)
    lease_file.write_text(lease_file.read_text().replace(first.owner.started, "1"))
    second = Lease(tmp_path / "c")
    assert second.epoch == 2
    assert checkpoint.adopt(second, []).label == 1
    with pytest.raises(LeaseError, match="took over|gone"):
        store.save(checkpoint.State(2, {"model": np.ones(3)}, {"silo_labels": {}}))
    with pytest.raises(LeaseError):
        first.verify()
    second.release(done=True)
    first.release(done=False)
    assert not (tmp_path / "c").exists()


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    lease = Lease(tmp_path / "c")
    for rank in ("server", "silo-0"):
        store = checkpoint.Store(lease.folder, rank)
        for label in (1, 2, 3):
            store.save(checkpoint.State(label, {"x": np.full(1000, label)}, {"silo_labels": {"0": label}}))
    assert checkpoint.labels(lease.folder, "server") == [2, 3]
    newest = lease.folder / "silo-0_00000003.npz"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    lease.release(done=False)
    again = Lease(tmp_path / "c")
    state = checkpoint.adopt(again, [0])
    assert state.label == 2
    assert checkpoint.labels(again.folder, "silo-0") == [2]
    again.release(done=True)


def test_checkpoints_of_another_scenario_are_not_taken(tmp_path, monkeypatch):
    """The same --out name, another seed: the interrupted run's state must not leak into it."""
    folder = tmp_path / "c"
    with monkeypatch.context() as patch:
        patch.setattr(Server, "_evaluate_final", lambda self: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            stage.run(scenario(), {}, checkpoints=folder, transport="local")
    other = scenario().model_copy(update={"seed": 6})
    run = stage.run(other, {}, checkpoints=folder, transport="local")
    clean = stage.run(other, {}, checkpoints=tmp_path / "d", transport="local")
    assert artifacts.differences(run, clean) == []
    assert run["summary"]["resumed_from"][0] == -1
    assert folder.exists()  # the other scenario's checkpoints are still there


def test_a_failed_write_loses_nothing(tmp_path):
    """A full disk at the very end: the rerun starts from the last checkpoint, not from scratch."""
    folder = tmp_path / "c"

    def full(artifact):
        raise ArtifactError("no space left")

    with pytest.raises(ArtifactError):
        stage.run(scenario(), {}, checkpoints=folder, transport="local", write=full)
    written = []
    again = stage.run(scenario(), {}, checkpoints=folder, transport="local", write=written.append)
    clean = stage.run(scenario(), {}, checkpoints=tmp_path / "d", transport="local")
    assert artifacts.differences(again, clean) == []
    assert written == [again]
    assert again["summary"]["resumed_from"][0] == 4


def test_interrupted_adoption_does_not_count_as_a_checkpoint(tmp_path, monkeypatch):
    """A kill while the checkpoint is copied into the new epoch leaves the older one to start from."""
    lease = Lease(tmp_path / "c")
    for rank in ("server", "silo-0"):
        state = checkpoint.State(3, {"x": np.zeros(4)}, {"silo_labels": {"0": 3}})
        checkpoint.Store(lease.folder, rank).save(state)
    (lease.folder / "records.jsonl").write_text('{"label": 3}\n')
    lease.release(done=False)
    copies = []
    copy = checkpoint.shutil.copyfile

    def dying(source, target):
        if len(copies) == 2:
            raise Stop
        copies.append(target)
        copy(source, target)

    second = Lease(tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "copyfile", dying)
        with pytest.raises(Stop):
            checkpoint.adopt(second, [0])
    second.release(done=False)
    third = Lease(tmp_path / "c")
    assert checkpoint.adopt(third, [0]).label == 3
    assert (third.folder / "records.jsonl").read_text() == '{"label": 3}\n'
    third.release(done=True)


@pytest.mark.parametrize("participation", [1.0, 0.4])
def test_how_often_is_saved_changes_no_number(tmp_path, participation):
    s = scenario(rounds=5, scheduler={"name": "sync", "participation": participation})
    runs = [
        stage.run(s, {}, checkpoints=tmp_path / str(every), transport="local", checkpoint_every=every)
        for every in (1, 2, 99)
    ]
    assert artifacts.differences(runs[0], runs[1]) == []
    assert artifacts.differences(runs[0], runs[2]) == []


def test_update_without_a_field_names_its_silo(monkeypatch):
    assembly = assemble(scenario(rounds=1))
    transport = assembly.local()
    message = transport.members[2]._message

    def lacking(kind, round_, version, records=None, fields=None, text=""):
        fields = {k: v for k, v in (fields or {}).items() if k != "samples"}
        return message(kind, round_, version, records, fields, text)

    monkeypatch.setattr(transport.members[2], "_message", lacking)
    with pytest.raises(Exception, match="silo 2 lacks the field 'samples'"):
        assembly.server(transport).run()
