"""Runs in which silos are out while others are aggregated, and runs in which silos fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedbound import artifacts, study
from fedbound.codecs import wire
from fedbound.errors import FederationError
from fedbound.federation import checkpoint, failures, stage
from fedbound.federation.assembly import Assembly
from fedbound.federation.lease import Lease
from fedbound.federation.server import Server
from fedbound.federation.transports.local import LocalTransport
from fedbound.registry import ALGORITHMS

SCHEDULERS = {
    "fedasync": {"name": "async"},
    "fedbuff": {"name": "buffered", "buffer": 2},
    "fedcompass": {"name": "compass", "q_min": 2, "q_max": 8},
    "fedavg": {"name": "sync", "quorum": 2},
}


def scenario(algorithm: str, rounds: int = 8, codec: str = "ebq", **training) -> study.TrainScenario:
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": [48]},
        training=study.Training(
            rounds=rounds, local_epochs=1, algorithm=algorithm, scheduler=SCHEDULERS[algorithm], **training
        ),
        exchange=study.Exchange(codec=codec, bound=0.1),
        seed=5,
    )


def assemble(s: study.TrainScenario) -> Assembly:
    return Assembly(s.data, s.model, s.training, s.exchange, s.seed)


class Uneven(LocalTransport):
    """Silo k answers when the others have answered `pace[k]` times: silos of different speed, without a clock."""

    def __init__(self, silos, pace=(1, 2, 5)):
        super().__init__(silos)
        self.pace = pace
        self.turn = 0
        self.due = []
        self.sent = 0

    def send(self, silo, message):
        wait = self.pace[silo] if wire.peek(message).flags & wire.Flags.TRAIN else 0
        self.sent += 1
        self.due.append((self.turn + wait, self.sent, silo, message))

    def receive(self, timeout=None):
        while self.due:
            # a silo's own messages stay in order
            first = {}
            for entry in sorted(self.due, key=lambda e: e[1]):
                first.setdefault(entry[2], entry)
            chosen = min(first.values())
            self.due.remove(chosen)
            self.turn = max(self.turn, chosen[0])
            answer = self.members[chosen[2]].handle(chosen[3])
            if answer is not None:
                return chosen[2], answer
        return None


def run(s: study.TrainScenario, transport=None) -> Server:
    made = assemble(s)
    server = made.server(transport or Uneven(made.local().members))
    server.run()
    return server


@pytest.mark.parametrize("algorithm", SCHEDULERS)
@pytest.mark.parametrize("codec", ["ebq", "none"])
def test_uneven_silos_are_aggregated_as_they_come(algorithm, codec):
    server = run(scenario(algorithm, rounds=12, codec=codec, evaluate_every=3))
    rounds, silos = server.records.rows["rounds"], server.records.rows["silos"]
    assert [row["round"] for row in rounds] == list(range(1, 13))
    assert max(row["staleness"] for row in silos) >= (0 if algorithm == "fedavg" else 1)
    updates = [sum(row["silo"] == silo for row in silos) for silo in range(3)]
    assert updates[0] >= updates[2]
    last = [row for row in server.records.rows["evaluations"] if row["round"] == 12]
    assert sorted(row["silo"] for row in last) == [0, 1, 2]
    accuracy = np.average([r["test_accuracy"] for r in last], weights=[r["test_samples"] for r in last])
    assert accuracy > 0.15  # a dozen updates; chance is 0.1
    by_round = [sorted(r["silo"] for r in server.records.rows["evaluations"] if r["round"] == n) for n in (0, 3, 6, 9)]
    assert all(found in ([0, 1, 2], []) for found in by_round)  # whole evaluations only
    assert server.references.keys() <= {task.version for task in server.tasks.values()}


def test_fedasync_mixes_the_model_that_the_silo_trained_on():
    """With one silo and alpha = 1 the global model is the silo's own: base and update fit together."""
    s = scenario("fedasync", rounds=3, codec="none").model_copy(update={"data": study.Data(silos=1)})
    s.training.algorithm.update(alpha=1.0, staleness="constant")
    made = assemble(s)
    transport = made.local()
    trained = []
    silo = transport.members[0]
    learn = silo._learn

    def spy(*args):
        result, local = learn(*args)
        trained.append(local.vector.copy())
        return result, local

    silo._learn = spy
    model = made.server(transport).run()
    np.testing.assert_allclose(model.vector, trained[-1], atol=1e-6)


@pytest.mark.parametrize("algorithm", SCHEDULERS)
@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_run_goes_on_with_whole_updates(tmp_path, monkeypatch, algorithm, every):
    """Whatever waited still counts, who was out is sent off again, and no silo's residual is lost or used twice."""
    s = scenario(algorithm, rounds=10)
    made = {}

    def uneven(self, numbers=None, folder=None, checkpoint_every=1):
        members = {number: self.silo(number, folder, checkpoint_every) for number in range(3)}
        made["transport"] = Uneven(members)
        return made["transport"]

    monkeypatch.setattr(Assembly, "local", uneven)
    with monkeypatch.context() as patch:
        commit = Server._commit

        def dying(self, pending):
            if self.version == 7:
                raise KeyboardInterrupt
            commit(self, pending)

        patch.setattr(Server, "_commit", dying)
        with pytest.raises(KeyboardInterrupt):
            stage.run(s, {}, checkpoints=tmp_path / "c", transport="local", checkpoint_every=every)
    again = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local", checkpoint_every=every)
    assert again["summary"]["resumed_from"][0] == 6
    assert list(again["rounds"]["round"].values) == list(range(11))
    holders = {silo.holder.version for silo in made["transport"].members.values()}
    assert holders == {10}


# ---- failures -----------------------------------------------------------------------------------------------------


def failing(members, silo: int, after: int, how: str):
    """Let `silo` fail at its answer number `after`, counted from 0."""
    original = members[silo].handle
    count = iter(range(10**6))

    def handle(buffer):
        if wire.peek(buffer).kind == wire.Kind.STOP or next(count) < after:
            return original(buffer)
        if how == "silent":
            return None
        answer = original(buffer)
        if how == "raises":
            return wire.pack(wire.Message(wire.Kind.FAILURE, silo, 0, 0, [], {}, "out of memory"))
        if how == "garbage":
            answer[-1] ^= 1
        return answer

    members[silo].handle = handle
    return members


@pytest.mark.parametrize("how", ["raises", "garbage"])
def test_abort_names_silo_and_reason(how):
    made = assemble(scenario("fedbuff"))
    transport = LocalTransport(failing(made.local().members, 1, 1, how))
    with pytest.raises(FederationError, match="silo 1"):
        made.server(transport).run()


@pytest.mark.parametrize("algorithm", [*SCHEDULERS, "plain"])
@pytest.mark.parametrize("how", ["raises", "garbage"])
def test_drop_goes_on_without_the_silo_or_its_update(algorithm, how):
    s = scenario("fedavg" if algorithm == "plain" else algorithm, rounds=6, on_failure="drop", least_silos=2)
    if algorithm == "plain":
        s.training.scheduler.update(quorum=None)
    made = assemble(s)
    server = made.server(LocalTransport(failing(made.local().members, 1, 2, how)))
    server.run()
    assert len(server.records.rows["rounds"]) >= 5
    found = server.records.rows["failures"]
    assert {row["silo"] for row in found} == {1}
    assert {row["kind"] for row in found} == {"failed" if how == "raises" else "rejected"}
    assert server.living == ({0, 2} if how == "raises" else {0, 1, 2})
    assert "silo 1" in found[0]["reason"] or found[0]["reason"] == "out of memory"
    tables = stage.records.tables(server.records.rows, {"server_memory_bytes": 1, "resumed_from": -1})
    assert list(tables["failures"]["silo"].values) == [1] * len(found)


def altered(members, silo: int, number: int, change):
    """Let `change` make of the silo's answer number `number` (from 0) the one that is sent."""
    original = members[silo].handle
    count = iter(range(10**6))

    def handle(buffer):
        answer = original(buffer)
        if answer is None or next(count) != number:
            return answer
        return wire.pack(change(wire.unpack(answer, limits=wire.Limits())))

    members[silo].handle = handle
    return members


def without(*names):
    return lambda m: dataclasses.replace(m, fields={k: v for k, v in m.fields.items() if k not in names})


def having(**values):
    return lambda m: dataclasses.replace(m, fields={**m.fields, **values})


@pytest.mark.parametrize(
    ("algorithm", "change", "said"),
    [
        ("fedavg", without("test_correct"), "lacks the field 'test_correct'"),
        ("fedavg", having(test_samples=0.0, test_correct=0.0), "impossible evaluation"),
        ("fedavg", having(validation_correct=1e6), "impossible evaluation"),
        ("fedavg", having(samples=0.0), "0 training samples"),
        ("qffl", without("global_loss"), "lacks the field 'global_loss'"),
        ("qffl", having(global_loss=1e300), "training loss 1e"),
        ("qffl", having(global_loss=float("nan")), "training loss nan"),
        ("qffl", having(global_loss=float("inf")), "training loss inf"),
    ],
)
def test_fields_that_nothing_can_be_made_of_are_rejected(algorithm, change, said):
    """Well-formed messages of a silo that lies or is broken: the run goes on without that update."""
    s = scenario("fedavg", rounds=3, on_failure="drop")
    s.training.scheduler.update(quorum=None)
    if algorithm == "qffl":
        s = s.model_copy(update={"training": s.training.model_copy(update={"algorithm": ALGORITHMS.normalise("qffl")})})
    made = assemble(s)
    server = made.server(LocalTransport(altered(made.local().members, 1, 1, change)))
    server.run()
    assert [(row["silo"], row["kind"]) for row in server.records.rows["failures"]] == [(1, "rejected")]
    assert said in server.records.rows["failures"][0]["reason"]
    assert len(server.records.rows["rounds"]) == 3


@pytest.mark.parametrize("kind", [wire.Kind.EVALUATION, wire.Kind.ACK, wire.Kind.HELLO])
def test_an_answer_of_another_kind_loses_the_silo(kind):
    """Its messages and ours are not in step any more: the server must not wait for what never comes."""
    s = scenario("fedbuff", rounds=4, on_failure="drop")
    made = assemble(s)
    change = lambda m: dataclasses.replace(m, kind=kind, records=[])  # noqa: E731
    server = made.server(LocalTransport(altered(made.local().members, 1, 0, change)))
    server.run()
    assert server.living == {0, 2}
    assert len(server.records.rows["rounds"]) == 4


def test_all_updates_of_the_last_round_rejected_still_ends_with_a_whole_evaluation():
    s = scenario("fedavg", rounds=1, on_failure="drop")
    s.training.scheduler.update(quorum=None)
    made = assemble(s)
    members = made.local().members
    for silo in range(3):
        altered(members, silo, 0, having(samples=0.0))
    server = made.server(LocalTransport(members))
    server.run()
    tables = stage.records.tables(server.records.rows, {"server_memory_bytes": 1, "resumed_from": -1})
    assert list(tables["evaluations"]["silo"].values) == [0, 1, 2]
    assert np.isfinite(tables["summary"]["accuracy"].values).all()


@pytest.mark.parametrize("kind", ["discarded", "rejected"])
@pytest.mark.parametrize("every", [1, 2])
def test_a_restart_after_updates_that_did_not_count_goes_on(tmp_path, monkeypatch, kind, every):
    """The silo's state went on with them, so the checkpoint must name the newest one that it has."""
    s = scenario("fedavg", rounds=14, on_failure="drop")
    if kind == "rejected":
        s.training.scheduler.update(quorum=None)

    def members_of(self, numbers=None, folder=None, checkpoint_every=1):
        members = {number: self.silo(number, folder, checkpoint_every) for number in range(3)}
        if kind == "discarded":
            return Uneven(members, pace=(1, 1, 3))
        for number in range(2, 9):
            altered(members, 1, number, having(samples=0.0))
        return LocalTransport(members)

    monkeypatch.setattr(Assembly, "local", members_of)
    with monkeypatch.context() as patch:
        commit = Server._commit

        def dying(self, pending):
            if self.version == 11:
                raise KeyboardInterrupt
            commit(self, pending)

        patch.setattr(Server, "_commit", dying)
        with pytest.raises(KeyboardInterrupt):
            stage.run(s, {}, checkpoints=tmp_path / "c", transport="local", checkpoint_every=every)
    again = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local", checkpoint_every=every)
    assert again["summary"]["resumed_from"][0] == 10
    assert again["rounds"]["round"].values[-1] == 14


def test_an_unreadable_answer_while_saving_loses_the_silo(tmp_path):
    """Whether it saved cannot be known; the server must not wait for another answer."""
    s = scenario("fedavg", rounds=4, on_failure="drop")
    s.training.scheduler.update(quorum=None)
    made = assemble(s)
    lease = Lease(tmp_path / "c")
    members = made.local(None, lease.folder, 3).members
    original = members[1].handle

    def handle(buffer):
        answer = original(buffer)
        if wire.peek(buffer).kind == wire.Kind.CHECKPOINT:
            answer[-1] ^= 1
        return answer

    members[1].handle = handle
    server = made.server(LocalTransport(members), lease.folder, 3)
    server.run()
    assert server.living == {0, 2}
    lease.release(done=True)


def test_checkpoints_that_do_not_fit_together_are_not_deleted(tmp_path):
    lease = Lease(tmp_path / "c")
    state = checkpoint.State(3, {"x": np.zeros(4)}, {"silo_labels": {"0": 3}})
    checkpoint.Store(lease.folder, checkpoint.SERVER).save(state)
    lease.release(done=False)
    again = Lease(tmp_path / "c")
    with pytest.raises(FederationError, match="do not fit together.*delete that folder"):
        checkpoint.adopt(again, [0])
    assert checkpoint.labels(lease.folder, checkpoint.SERVER) == [3]
    again.release(done=True)


def test_too_few_living_silos_end_the_run():
    made = assemble(scenario("fedbuff", on_failure="drop", least_silos=3))
    with pytest.raises(FederationError, match=r"training\.least_silos \(3\)"):
        made.server(LocalTransport(failing(made.local().members, 2, 1, "raises"))).run()


class Clocked(LocalTransport):
    """Time stands still until nobody has an answer; then the timeout has passed."""

    def receive(self, timeout=None):
        found = super().receive(timeout)
        if found is None and timeout is not None:
            import time

            time.sleep(timeout)
        return found


def test_a_silo_that_stalls_is_named_and_dropped():
    s = scenario("fedavg", rounds=4, on_failure="drop", silo_timeout=0.2)
    s.training.scheduler.update(quorum=None)
    made = assemble(s)
    server = made.server(Clocked(failing(made.local().members, 0, 1, "silent")))
    server.run()
    assert [row["reason"] for row in server.records.rows["failures"]] == ["it has not answered for 0.2 s"]
    assert server.living == {1, 2}
    assert len(server.records.rows["rounds"]) == 4
    made = assemble(s.model_copy(update={"training": s.training.model_copy(update={"on_failure": "abort"})}))
    with pytest.raises(FederationError, match=r"silo 0 failed in round 2: it has not answered for 0\.2 s"):
        made.server(Clocked(failing(made.local().members, 0, 1, "silent"))).run()


@pytest.mark.parametrize("algorithm", SCHEDULERS)
def test_a_silo_that_stalls_is_not_awaited_for_ever_at_the_end(monkeypatch, algorithm):
    """The others' updates are enough for every round, so that without silo_timeout only the end waits for it."""
    monkeypatch.setattr(failures, "LEAST_SECONDS", 0.2)
    monkeypatch.setattr(failures, "PATIENCE", 0.0)
    s = scenario(algorithm, rounds=5, on_failure="drop")
    if algorithm == "fedavg":
        s.training.scheduler.update(quorum=1)
    made = assemble(s)
    server = made.server(Clocked(failing(made.local().members, 1, 1, "silent")))
    server.run()
    assert [(row["silo"], row["kind"]) for row in server.records.rows["failures"]] == [(1, "failed")]
    assert server.living == {0, 2}
    last = max(row["round"] for row in server.records.rows["evaluations"])
    assert sorted(row["silo"] for row in server.records.rows["evaluations"] if row["round"] == last) == [0, 2]


def test_a_failure_survives_in_the_artifact(tmp_path):
    s = scenario("fedbuff", on_failure="drop")
    result = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    path = tmp_path / "run.h5"
    artifacts.write(path, result)
    assert len(artifacts.read(path, "train")["failures"]) == 0
