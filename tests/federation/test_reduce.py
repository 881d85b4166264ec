"""`training.reduce`: silos add up their updates, and all else is as with updates in messages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedbound import artifacts, study
from fedbound.codecs import wire
from fedbound.errors import FederationError, InputError
from fedbound.exchange import reduction as exchange
from fedbound.federation import stage
from fedbound.federation.assembly import Assembly
from fedbound.federation.transports import reduction
from fedbound.federation.transports.local import LocalTransport

BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(BIN)) or shutil.which("mpiexec")
MODEL = {"name": "mlp", "hidden": [32]}


def scenario(reduce: bool = True, model: dict | None = None, **training: object) -> study.TrainScenario:
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model=model or MODEL,
        training=study.Training(**{"rounds": 4, "local_epochs": 1, "reduce": reduce, **training}),
        exchange=study.Exchange(codec="none"),
        seed=3,
    )


def assemble(s: study.TrainScenario) -> Assembly:
    return Assembly(s.data, s.model, s.training, s.exchange, s.seed)


PRIVATE = {"noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"scheduler": "async", "algorithm": "fedasync"}, r"reduce: true .* does not go with this scheduler"),
        ({"scheduler": {"name": "sync", "participation": 0.5}}, r"reduce: true .* does not go with this scheduler"),
        ({"scheduler": {"name": "sync", "quorum": 2}}, r"reduce: true .* does not go with this scheduler"),
        ({"algorithm": "qffl"}, r"reduce: true is refused with the algorithm 'qffl'.*use 'fedavg'"),
        ({"algorithm": "iiadmm"}, r"reduce: true is refused with the algorithm 'iiadmm'.*use 'fedavg'"),
        ({"on_failure": "drop"}, r"reduce: true is refused with on_failure 'drop': .*use abort"),
        ({"ranks_per_silo": 2}, r"reduce: true is refused with ranks_per_silo 2: .*use 1"),
        ({"privacy": PRIVATE}, r"reduce: true is refused with privacy 'gaussian': .*use null"),
    ],
)
def test_what_a_sum_is_not_enough_for_is_refused(training, said):
    with pytest.raises(InputError, match=said):
        study.parse({"study": "s", "exchange": {"codec": "none"}, "training": {"reduce": True, **training}})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"codec": "sz3", "bound": 0.1}, r"exchange\.codec: 'sz3' is refused with training\.reduce"),
        ({"codec": "lossless"}, r"exchange\.codec: 'lossless' is refused with training\.reduce"),
        ({"codec": "none", "downlink": "ebq"}, r"exchange\.downlink: 'ebq' is refused with training\.reduce"),
        ({"codec": "none", "non_finite": "lossless"}, r"exchange\.non_finite: 'lossless' is refused .* use 'reject'"),
    ],
)
def test_what_cannot_be_added_up_is_refused_and_by_the_run_as_well(settings, said):
    with pytest.raises(InputError, match=said):
        study.parse({"study": "s", "exchange": settings, "training": {"reduce": True}})
    s = scenario().model_copy(update={"exchange": study.Exchange(**settings)})
    with pytest.raises(InputError, match=said):
        assemble(s).layout  # noqa: B018


def test_where_it_is_off_it_is_not_there():
    assert "reduce" not in scenario(reduce=False).training.model_dump()
    assert scenario().training.model_dump()["reduce"] is True
    assert study.TrainScenario.model_validate_json(scenario().model_dump_json()) == scenario()


@pytest.mark.parametrize("algorithm", ["fedavg", {"name": "fedprox", "mu": 0.1}, "fedavgm", "fedadam"])
def test_it_trains_the_model_that_messages_train(algorithm):
    """To the rounding of a float32 sum; Adam's division by small roots makes more of it."""
    found, server = [], None
    for reduce in (False, True):
        made = assemble(scenario(reduce, algorithm=algorithm))
        server = made.server(made.local())
        found.append(server.run().vector)
    assert not np.array_equal(*found)  # another sum indeed
    np.testing.assert_allclose(*found, atol=1e-4 if algorithm == "fedadam" else 1e-6)
    assert server is not None
    assert not any(silo.uplink._part is not None for silo in server.transport.members.values())


def test_the_mean_is_that_of_shares_in_the_order_of_silos():
    made = assemble(scenario(rounds=1))
    transport = made.local()
    parts, trained = [], []
    for silo in transport.members.values():

        def keeping(silo=silo, take=silo.uplink.take):
            trained.append(silo._state().vector)
            parts.append(take())
            return parts[-1].copy()

        silo.uplink.take = keeping
    server = made.server(transport)
    before = server.model.vector.copy()
    after = server.run().vector
    np.testing.assert_array_equal(after, before + (parts[0] + parts[1] + parts[2]))
    samples = np.array([len(one.train) for one in made.silos.silos])
    for part, share, local in zip(parts, samples / samples.sum(), trained, strict=True):
        np.testing.assert_array_equal(part, np.float32(share) * (local - before))


def test_bytes_are_those_of_the_messages_and_of_the_parts(tmp_path):
    """A part is 4 bytes a value, in no message; tensors are named as ever."""
    sent = []
    rows = {}
    for reduce in (False, True):
        made = assemble(scenario(reduce, evaluate_every=2))
        transport = made.local()
        for silo in transport.members.values():
            silo.handle = lambda buffer, handle=silo.handle: sent.append(handle(buffer)) or sent[-1]
        server = made.server(transport)
        server.run()
        rows[reduce] = server.records.rows
    updates = [m for m in sent[len(sent) // 2 :] if m is not None and wire.peek(m).kind == wire.Kind.UPDATE]
    assert len(updates) == 12
    assert max(map(len, updates)) < 500
    beside = 4 * made.layout.size
    assert [row["bytes_up"] for row in rows[True]["silos"]] == [len(m) + beside for m in updates]
    for round_ in rows[True]["rounds"]:
        own = [row["bytes_up"] for row in rows[True]["silos"] if row["round"] == round_["round"]]
        assert round_["bytes_up"] == sum(own)
    for key in ("raw_up", "payload_up", "bytes_down"):
        assert [row[key] for row in rows[True]["silos"] if key in row] == [
            row[key] for row in rows[False]["silos"] if key in row
        ]
    assert rows[True]["tensors"] == rows[False]["tensors"]


def test_counters_travel_in_the_message():
    model = {"name": "resnet", "norm": "batch", "width": 4, "stages": 1}
    found = []
    for reduce in (False, True):
        made = assemble(scenario(reduce, model, rounds=1))
        found.append(made.server(made.local()).run())
    assert found[0].integers
    assert [int(a) for a in found[1].integers] == [int(a) for a in found[0].integers]
    np.testing.assert_allclose(found[1].vector, found[0].vector, atol=1e-5)


def test_a_silo_whose_values_are_not_finite_is_named_before_any_sum(monkeypatch):
    made = assemble(scenario())
    transport = made.local()
    learn = transport.members[1]._learn

    def diverged(*arguments):
        result, local = learn(*arguments)
        local.vector[-1] = np.nan
        return result, local

    transport.members[1]._learn = diverged
    monkeypatch.setattr(reduction, "parts", lambda members: pytest.fail("a sum was taken"))
    with pytest.raises(FederationError, match=r"silo 1 failed in round 1: the update of tensor '.*' holds NaN"):
        made.server(transport).run()


def test_a_sum_that_overflows_or_is_altered_ends_the_run():
    made = assemble(scenario())
    transport = made.local()
    for silo in transport.members.values():
        silo.uplink.share = np.float32(1)

        def enormous(*arguments, learn=silo._learn):
            result, local = learn(*arguments)
            local.vector[:] = 3e38  # float32 goes to 3.4e38
            return result, local

        silo._learn = enormous
    with pytest.raises(FederationError, match=r"the sum of the silos' finite updates holds NaN or infinite values"):
        made.server(transport).run()


def test_a_sum_without_a_silo_is_none():
    made = assemble(scenario())
    receiver = made.server(made.local()).receiver
    assert isinstance(receiver, exchange.ReducedReceiver)
    receiver.clear()
    with pytest.raises(FederationError, match=r"silos with 0 training samples have trained and the sum is of [0-9]+"):
        receiver.take()
    with pytest.raises(FederationError, match="asked for its part of a sum and has trained for none"):
        reduction.parts(made.local().members)


def test_an_update_with_tensors_is_rejected():
    plain, made = assemble(scenario(reduce=False)), assemble(scenario())
    transport = made.local()
    transport.members[2] = plain.silo(2)
    with pytest.raises(FederationError, match="message from silo 2 holds other records than the model's integer"):
        made.server(transport).run()


def test_a_sum_that_stalls_is_given_up_after_silo_timeout_and_heeds_failures_until_then(monkeypatch):
    """No rank ever answers; the sum is asked for in pieces."""
    pieces, looks = [], []
    library = SimpleNamespace(
        FLOAT="float", SUM="sum", IN_PLACE="in place", Request=SimpleNamespace(Testall=lambda requests: False)
    )
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=library))
    monkeypatch.setattr(reduction, "PIECE", 4)
    comm = SimpleNamespace(rank=0, Ireduce=lambda sent, summed, op, root: pieces.append(len(summed[0])))
    with pytest.raises(FederationError, match=r"was not done after 0\.01 s \(training\.silo_timeout\)"):
        reduction.reduce(comm, np.zeros(10, np.float32), lambda: looks.append(1), timeout=0.01)
    assert pieces == [4, 4, 2]
    assert looks


FAILING = """
import json, os, sys
from fedbound import cli
from fedbound.errors import FederationError
from fedbound.federation.transports import reduction
failing, at, how = json.loads(sys.argv.pop(1))
reduce, calls = reduction.reduce, []
def failed(comm, *rest):
    calls.append(comm.rank)
    if comm.rank == failing and len(calls) == at:
        if how == "dies":
            os.kill(os.getpid(), 9)
        raise FederationError("this rank cannot add")
    reduce(comm, *rest)
reduction.reduce = failed
reduction.PIECE = 1000  # of 2,410 values
sys.exit(cli.main(sys.argv[1:]))
"""


def start(out: Path, failing: str, ranks: int = 3, *flags: str) -> subprocess.CompletedProcess[str]:
    program = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-c", FAILING, failing, "train"]
    arguments = [*program, "--scenario", scenario(rounds=6).model_dump_json(), "--out", str(out), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")
def test_ranks_that_fail_in_the_sum_end_the_job_and_the_rerun_resumes_to_the_bit(tmp_path, monkeypatch):
    """One raises while the others are in the sum, one is killed; the third start ends with an uninterrupted run's bits.

    The reference adds as two ranks do, each its own silos first: (silo 0) + (silos 1 and 2). One of the two is the
    server's in the first start, and they are ranks beside it in the others.
    """
    out = tmp_path / "mpi.h5"
    raised = start(out, '[1, 2, "raises"]', 2, "--server-hosts")
    assert raised.returncode == 1
    assert "fedbound: rank 1: this rank cannot add" in raised.stderr
    died = start(out, '[1, 2, "dies"]')
    assert died.returncode not in (0, 2)
    assert "fedbound: rank 1 with silo 0 died (killed by SIGKILL)" in died.stderr
    assert not out.exists()
    done = start(out, '[0, 0, ""]')
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after round 2" in done.stdout

    def as_ranks_do(self, sum_, timeout=None):
        first, second = ({n: self.members[n] for n in numbers} for numbers in ((0,), (1, 2)))
        sum_[:] = reduction.parts(first) + reduction.parts(second)

    monkeypatch.setattr(LocalTransport, "reduce", as_ranks_do)
    whole = stage.run(scenario(rounds=6), {}, checkpoints=tmp_path / "c", transport="local")
    found = artifacts.read(out, "train")
    assert artifacts.differences(whole, found) == []
    assert found["summary"]["resumed_from"][0] == 2
