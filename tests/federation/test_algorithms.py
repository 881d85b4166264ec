"""Each algorithm against its paper's formula, or the optimum that is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedbound import study
from fedbound.errors import InputError
from fedbound.exchange.layout import Layout
from fedbound.federation import algorithms
from fedbound.federation.algorithms import Contribution
from fedbound.federation.algorithms.staleness import StalenessOptions
from fedbound.federation.assembly import Assembly
from fedbound.federation.silo import round_seed
from fedbound.models.state import TensorSpec
from fedbound.registry import ALGORITHMS

SIZE = 6
RNG = np.random.default_rng(0)


def updates(rounds: int, silos: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rounds, silos, SIZE)).astype(np.float32)


def run(algorithm, sent: np.ndarray, samples=(10, 20, 70), **about) -> np.ndarray:
    """The model after folding all updates, round by round; restarted in between."""
    model = np.linspace(-1, 1, SIZE, dtype=np.float32)
    for one in sent:
        algorithm.begin(SIZE, len(one))
        for silo, update in enumerate(one):
            algorithm.fold(update.copy(), Contribution(silo, samples[silo], 0, **about))
        algorithm.finish(model)
        kept = {key: array.copy() for key, array in algorithm.state().items()}
        algorithm.restore(kept)
    return model


SHARES = np.array([0.1, 0.2, 0.7])
START = np.linspace(-1, 1, SIZE)


def test_fedavg_is_the_weighted_mean():
    sent = updates(4)
    expected = START + np.einsum("rsi,s->i", sent.astype(np.float64), SHARES)
    np.testing.assert_allclose(run(algorithms.get("fedavg"), sent), expected, atol=1e-6)


def test_fedavgm_adds_the_velocity():
    sent = updates(4)
    w, v = START.copy(), np.zeros(SIZE)
    for one in sent:
        v = 0.5 * v + SHARES @ one
        w += 0.3 * v
    found = run(algorithms.get("fedavgm", server_learning_rate=0.3, momentum=0.5), sent)
    np.testing.assert_allclose(found, w, atol=1e-6)


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_adaptive_servers_follow_algorithm_2_of_reddi_et_al(name):
    sent = updates(5)
    eta, b1, b2, tau = 0.1, 0.8, 0.95, 0.01
    w, m, v = START.copy(), np.zeros(SIZE), np.full(SIZE, tau**2)
    for one in sent:
        d = SHARES @ one.astype(np.float64)
        m = b1 * m + (1 - b1) * d
        v = {
            "fedadagrad": v + d**2,
            "fedadam": b2 * v + (1 - b2) * d**2,
            "fedyogi": v - (1 - b2) * d**2 * np.sign(v - d**2),
        }[name]
        w += eta * m / (np.sqrt(v) + tau)
    found = run(algorithms.get(name, server_learning_rate=eta, beta1=b1, beta2=b2, tau=tau), sent)
    np.testing.assert_allclose(found, w, atol=1e-5)


def test_qffl_without_q_is_the_plain_mean_and_with_q_follows_its_formula():
    sent = updates(1)
    plain = run(algorithms.get("qffl", q=0, lipschitz=5.0), sent, global_loss=2.0)
    np.testing.assert_allclose(plain, START + sent[0].mean(0), atol=1e-6)
    algorithm = algorithms.get("qffl", q=2.0, lipschitz=5.0)
    losses = [0.5, 1.0, 3.0]
    model = START.astype(np.float32)
    algorithm.begin(SIZE, 3)
    for silo, loss in enumerate(losses):
        algorithm.fold(sent[0, silo], Contribution(silo, 10, 0, global_loss=loss))
    algorithm.finish(model)
    d = [-5.0 * update.astype(np.float64) for update in sent[0]]
    above = sum(loss**2 * one for loss, one in zip(losses, d, strict=True))
    below = sum(2 * loss * one @ one + 5.0 * loss**2 for loss, one in zip(losses, d, strict=True))
    np.testing.assert_allclose(model, START - above / below, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"staleness": "constant"}, [1, 1, 1]),
        ({"staleness": "polynomial", "a": 0.5}, [1, 5**-0.5, 10**-0.5]),
        ({"staleness": "hinge", "a": 10.0, "b": 4}, [1, 1, 1 / 51]),
    ],
)
def test_staleness_functions(options, expected):
    """At tau = 0, 4 and 9; the sign that released FedCompass has wrong: never above 1."""
    assert [StalenessOptions(**options).weight(tau) for tau in (0, 4, 9)] == pytest.approx(expected)


def test_fedasync_mixes_models_one_after_the_other():
    algorithm = algorithms.get("fedasync", alpha=0.6, a=0.5)
    model = START.astype(np.float32)
    locals_ = np.random.default_rng(2).normal(size=(2, SIZE)).astype(np.float32)
    algorithm.begin(SIZE, 2)
    for silo, (local, tau) in enumerate(zip(locals_, (0, 3), strict=True)):
        algorithm.fold(np.zeros(SIZE, np.float32), Contribution(silo, 5, tau, local=local))
    algorithm.finish(model)
    w = START
    for local, alpha in zip(locals_, (0.6, 0.3), strict=True):
        w = (1 - alpha) * w + alpha * local
    np.testing.assert_allclose(model, w, atol=1e-6)


def test_fedbuff_discounts_stale_updates_and_divides_by_their_number():
    algorithm = algorithms.get("fedbuff", server_learning_rate=0.5)
    sent = updates(1)[0]
    model = START.astype(np.float32)
    algorithm.begin(SIZE, 3)
    for silo, tau in enumerate((0, 3, 8)):
        algorithm.fold(sent[silo], Contribution(silo, 10 * silo, tau))
    algorithm.finish(model)
    np.testing.assert_allclose(model, START + 0.5 / 3 * (sent[0] + sent[1] / 2 + sent[2] / 3), atol=1e-6)


def test_fedcompass_weighs_by_the_share_of_all_samples():
    algorithm = algorithms.get("fedcompass", alpha=0.9)
    sent = updates(2)
    model = START.astype(np.float32)
    for one in sent:  # the second time all samples are known
        before = model.astype(np.float64)
        algorithm.begin(SIZE, 3)
        for silo, samples in enumerate((10, 20, 70)):
            algorithm.fold(one[silo], Contribution(silo, samples, 3 * silo))
        algorithm.finish(model)
    weights = 0.9 * SHARES * np.array([1, 1 / 2, 7**-0.5])
    np.testing.assert_allclose(model, before + weights @ sent[1], atol=1e-6)


# ---- local training ---------------------------------------------------------------------------------------------


class Quadratic:
    """f_p(z) = 1/2 (z - c_p)' A_p (z - c_p) of three silos, whose common optimum is known."""

    def __init__(self, silos: int = 3):
        rng = np.random.default_rng(5)
        roots = rng.normal(size=(silos, SIZE, SIZE))
        self.a = np.einsum("pij,pkj->pik", roots, roots) / SIZE + 0.3 * np.eye(SIZE)
        self.c = rng.normal(size=(silos, SIZE))
        self.optimum = np.linalg.solve(self.a.sum(0), np.einsum("pij,pj->i", self.a, self.c))

    def train(self, client, silo: int, reference: np.ndarray, steps: int, rate: float = 0.1) -> np.ndarray:
        import torch

        module = torch.nn.Module()
        module.z = torch.nn.Parameter(torch.tensor(reference.copy()))
        a, c = (torch.tensor(one[silo], dtype=torch.float32) for one in (self.a, self.c))
        hook = client.hook(module, reference)
        for _ in range(steps):
            module.z.grad = a @ (module.z.detach() - c)
            if hook is None or not hook(module):
                with torch.no_grad():
                    module.z -= rate * module.z.grad
        return module.z.detach().numpy().copy()


LAYOUT = Layout([TensorSpec("z", (SIZE,), "float32")])


def test_fedprox_finds_the_minimum_of_its_local_objective():
    problem, mu = Quadratic(), 0.7
    reference = START.astype(np.float32)
    found = problem.train(algorithms.get("fedprox", mu=mu).client(LAYOUT), 1, reference, 3000)
    expected = np.linalg.solve(problem.a[1] + mu * np.eye(SIZE), problem.a[1] @ problem.c[1] + mu * reference)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def consensus(name: str, rounds: int, steps: int, noise: float = 0.0, **options):
    """ADMM on the quadratics, both ends restarted after every round: the model, the silos' ends, and the server's."""
    problem, draw = Quadratic(), np.random.default_rng(0)
    algorithm = algorithms.get(name, **options)
    clients = [algorithm.client(LAYOUT) for _ in range(3)]
    model = np.zeros(SIZE, np.float32)
    for _ in range(rounds):
        algorithm.begin(SIZE, 3)
        reference = model.copy()
        for silo, client in enumerate(clients):
            local = problem.train(client, silo, reference, steps)
            local += draw.laplace(scale=noise, size=SIZE).astype(np.float32) if noise else 0
            extra = client.extra(reference, local)
            client.commit(reference, local, extra)
            about = Contribution(silo, 1, 0, reference, local, extra=tuple(extra))
            algorithm.fold(local - reference, about)
        algorithm.finish(model)
        for end in (algorithm, *clients):
            kept = {key: array.copy() for key, array in end.state().items()}
            end.restore(kept)
    return model, clients, algorithm


@pytest.mark.parametrize("name", ["iiadmm", "iceadmm"])
@pytest.mark.parametrize(("steps", "zeta"), [(1, 4.0), (5, 4.0), (20, 8.0)])
def test_admm_reaches_the_optimum_of_a_consensus_quadratic(name, steps, zeta):
    model, clients, _ = consensus(name, 150, steps, rho=1.5, zeta=zeta)
    np.testing.assert_allclose(model, Quadratic().optimum, atol=2e-4)
    assert np.abs(sum(client.dual for client in clients)).max() < 1e-2  # the gradients add up to 0


@pytest.mark.parametrize("name", ["iiadmm", "iceadmm"])
def test_an_adaptive_penalty_mends_a_bad_one_and_still_reaches_the_optimum(name):
    """rho a hundred times too large: as given, it is far from the optimum when the balanced one has reached it."""
    bad = {"rho": 150.0, "zeta": 4.0}
    stuck, _, _ = consensus(name, 80, 5, **bad)
    model, clients, server = consensus(name, 80, 5, **bad, adapt_rounds=40, adapt_mu=1.5, adapt_tau=1.2)
    optimum = Quadratic().optimum
    assert np.abs(stuck - optimum).max() > 100 * np.abs(model - optimum).max()
    np.testing.assert_allclose(model, optimum, atol=2e-4)
    assert max(client.penalty.rho for client in clients) < 30
    assert len({client.penalty.rho for client in clients}) > 1  # each its own: the mean is a weighted one
    assert [server.consensus.penalties[silo].rho for silo in range(3)] == [client.penalty.rho for client in clients]


@pytest.mark.parametrize("name", ["iiadmm", "iceadmm"])
def test_both_ends_penalties_agree_under_noise_and_end_in_time(name):
    _, clients, server = consensus(name, 12, 3, noise=0.3, rho=40.0, zeta=4.0, adapt_rounds=5, adapt_mu=2.0)
    rhos = [client.penalty.rho for client in clients]
    assert [server.consensus.penalties[silo].rho for silo in range(3)] == rhos
    assert all(40 / 2**4 <= rho <= 40 * 2**4 and rho != 40 for rho in rhos)  # the first round has nothing to compare
    assert all(client.penalty.rounds == 5 for client in clients)


def test_the_penalty_follows_the_larger_residual():
    made = algorithms.get("iiadmm", rho=2.0, adapt_rounds=9, adapt_mu=3.0, adapt_tau=1.5).client(LAYOUT).penalty
    ones = np.ones(SIZE, np.float32)
    found = []
    for w, z in [(0, 1), (5, 1.5), (3.5, 4), (4.5, 4)]:  # r: 1, 3.5, 0.5, 0.5 and s, in norms of `ones`: -, 1, 7.5, 0
        made.balance(np.float32(w) * ones, np.float32(z) * ones)
        found.append(made.rho)
    assert found == [2.0, 3.0, 2.0, 3.0]


def test_a_scenario_without_an_adaptive_penalty_is_what_it_was():
    assert ALGORITHMS.normalise("iiadmm") == {"name": "iiadmm", "rho": 2.0, "zeta": 20.0}
    given = {"name": "iceadmm", "adapt_rounds": 3, "adapt_tau": 1.5}
    assert ALGORITHMS.normalise(given) == {
        "name": "iceadmm",
        "rho": 2.0,
        "zeta": 20.0,
        "adapt_rounds": 3,
        "adapt_tau": 1.5,
    }


# ---- whole runs --------------------------------------------------------------------------------------------------


def assembly(algorithm, rounds: int = 3, codec: str = "none", model=None, training=None, **exchange) -> Assembly:
    training = training or {}
    return Assembly(
        study.Data(silos=3),
        model or {"name": "mlp", "hidden": [48]},
        study.Training(rounds=rounds, local_epochs=1, algorithm=algorithm, **training),
        study.Exchange(codec=codec, bound=0.1, **exchange),
        3,
    )


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "qffl"])
def test_a_run_equals_a_plain_loop(name):
    """Uncompressed, over the local transport: the same local training, then the formula tested above."""
    from fedbound.models import state, training

    made = assembly(name)
    result = made.server(made.local()).run()
    module, layout = made.module(), made.layout
    model = layout.flatten(state.get_state(module)).vector
    algorithm = algorithms.get(name)
    for round_ in range(3):
        algorithm.begin(layout.size, 3)
        for number, silo in enumerate(made.silos.silos):
            state.set_state(module, layout.unflatten(layout_state(model)))
            client = algorithm.client(layout)
            before = training.evaluate(module, silo.train)
            hook = client.hook(module, model)
            training.train(module, silo.train, made.training, round_seed(3, number, round_), hook=hook)
            update = layout.flatten(state.get_state(module)).vector - model
            loss = before.loss_sum / before.samples
            algorithm.fold(update, Contribution(number, len(silo.train), 0, global_loss=loss))
        algorithm.finish(model)
    np.testing.assert_allclose(result.vector, model, rtol=0, atol=2e-6)


def layout_state(vector):
    from fedbound.exchange.layout import State

    return State(vector, [])


@pytest.mark.parametrize(
    ("codec", "mode", "adapt"),
    [(codec, mode, {}) for codec in ("none", "sz3", "ebq") for mode in ("delta", "weights")]
    + [("ebq", "delta", {"adapt_rounds": 30, "adapt_mu": 2.0})],
)
def test_iiadmm_duals_of_both_ends_are_equal_to_the_bit(codec, mode, adapt):
    made = assembly({"name": "iiadmm", "rho": 1.0, "zeta": 20.0, **adapt}, rounds=50, codec=codec, mode=mode)
    transport = made.local()
    server = made.server(transport)
    server.run()
    assert server.algorithm.duals.keys() == {0, 1, 2}
    for number, silo in transport.members.items():
        np.testing.assert_array_equal(server.algorithm.duals[number], silo.client.dual)
        assert np.abs(silo.client.dual).max() > 0
        assert server.algorithm.consensus.penalty(number, 0).rho == silo.client.penalty.rho
        assert (silo.client.penalty.rho != 1) == bool(adapt)


def test_iiadmm_sends_half_of_what_iceadmm_sends():
    payload = {}
    for name in ("iiadmm", "iceadmm"):
        made = assembly(name, rounds=2)
        server = made.server(made.local())
        server.run()
        payload[name] = sum(row["payload_up"] for row in server.records.rows["silos"])
        raw = sum(row["raw_up"] for row in server.records.rows["silos"])
        assert raw == payload[name]
    assert payload["iceadmm"] == 2 * payload["iiadmm"]


@pytest.mark.parametrize("name", ["iiadmm", "iceadmm"])
def test_admm_learns_as_fedavg_does(name):
    """Digits, 12 rounds, 3 seeds, equal local steps: within 3 points of FedAvg (runs differ by about 1 point)."""
    reached = {}
    for algorithm in ("fedavg", {"name": name, "rho": 1.0, "zeta": 9.0}):
        found = []
        for seed in (0, 1, 2):
            made = assembly(algorithm, rounds=12, training={"momentum": 0.0, "learning_rate": 0.1})
            made.seed = seed
            server = made.server(made.local())
            server.run()
            last = [row for row in server.records.rows["evaluations"] if row["round"] == 12]
            found.append(np.average([r["test_accuracy"] for r in last], weights=[r["test_samples"] for r in last]))
        reached[str(algorithm)] = np.mean(found)
    fedavg, admm = reached.values()
    assert fedavg > 0.7
    assert admm > fedavg - 0.03


def test_admm_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="iiadmm.*every silo in every round"):
        study.parse({"study": "s", "training": {"algorithm": "iiadmm", "scheduler": "buffered"}})
    with pytest.raises(InputError, match="iceadmm.*every silo in every round"):
        study.parse({"study": "s", "training": {"algorithm": "iceadmm", "scheduler": {"name": "sync", "quorum": 2}}})
    import torch

    with pytest.raises(InputError, match="running_mean.*not trained"):
        algorithms.get("iiadmm").check(torch.nn.BatchNorm1d(4))
