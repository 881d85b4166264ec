from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from fedbound import data, models, study
from fedbound.errors import InputError
from fedbound.models import training
from fedbound.models.state import get_state
from fedbound.models.training import Evaluation, LocalResult, evaluate, resolve_device, train

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def federation() -> data.Federation:
    return data.federation(study.Data(silos=2, partition="iid"))


def small(federation: data.Federation, seed: int = 0, **options):
    return models.build({"name": "mlp", "hidden": [32], **options}, federation.shape, federation.classes, seed)


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(get_state(one), get_state(other), strict=True))


def made(samples: int, seed: int = 0) -> data.Split:
    rng = np.random.default_rng(seed)
    return data.Split(rng.normal(size=(samples, 4)).astype(np.float32), rng.integers(0, 3, samples))


def linear(seed: int = 0):
    return models.build({"name": "mlp", "hidden": []}, (4,), 3, seed)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 2e-3)])
def test_training_learns_digits(federation, name, optimizer, rate):
    options = {"width": 8, "stages": 2} if name == "resnet" else {}
    module = models.build({"name": name, **options}, federation.shape, federation.classes, 0)
    silo = federation.silos[0]
    before = evaluate(module, silo.test)
    settings = study.LocalTraining(optimizer=optimizer, learning_rate=rate)
    train(module, silo.train, settings, 0, steps=150)
    after = evaluate(module, silo.test)
    assert before.correct / before.samples < 0.3  # chance is 0.1
    assert after.correct / after.samples > 0.75
    assert after.loss_sum < before.loss_sum / 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_optimizers_give_the_bits_of_torch(optimizer, decay):
    split = made(64)
    settings = study.LocalTraining(optimizer=optimizer, batch_size=16, local_epochs=5, weight_decay=decay)
    module, reference = linear(), linear()
    theirs = (
        torch.optim.Adam(reference.parameters(), lr=0.05, weight_decay=decay)
        if optimizer == "adam"
        else torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    )
    assert train(module, split, settings, 7).steps == 20
    rng = np.random.default_rng(7)
    for _ in range(5):
        for batch in np.split(rng.permutation(64), 4):
            theirs.zero_grad()
            x, y = torch.tensor(split.x[batch]), torch.tensor(split.y[batch])
            torch.nn.functional.cross_entropy(reference(x), y).backward()
            theirs.step()
    assert same(module, reference)


def test_sgd_is_the_textbook_rule_on_one_batch():
    split = made(8)
    module, reference = linear(), linear()
    settings = study.LocalTraining(batch_size=8, learning_rate=0.5, momentum=0.0)
    result = train(module, split, settings, 0, steps=1)
    weight, bias = (p.detach().double().numpy() for p in reference.parameters())
    logits = split.x @ weight.T + bias
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (chances - np.eye(3)[split.y]) / 8  # gradient of mean cross-entropy by the logits
    new_weight, new_bias = get_state(module)
    np.testing.assert_allclose(new_weight, weight - 0.5 * slope.T @ split.x, atol=1e-6)
    np.testing.assert_allclose(new_bias, bias - 0.5 * slope.sum(0), atol=1e-6)
    assert result.loss == pytest.approx(-np.log(chances[np.arange(8), split.y]).mean(), abs=1e-6)


class Dropped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(0.5), linear())

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("build", [linear, Dropped])
def test_a_replayed_round_gives_the_same_bits_whatever_went_before(build):
    split, settings = made(50), study.LocalTraining(batch_size=8)
    one, replayed, other = build(), build(), build()
    torch.manual_seed(1)
    result = train(one, split, settings, 11)
    torch.manual_seed(2)
    torch.rand(3)
    np.random.seed(5)
    train(build(), split, settings, 99)
    assert train(replayed, split, settings, 11) == result
    assert same(one, replayed)
    train(other, split, settings, 12)
    assert not same(one, other)


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    train(Dropped(), made(20), study.LocalTraining(), 0)
    assert torch.equal(torch.rand(4), undisturbed)


def test_a_fresh_process_gives_the_same_bits(federation):
    code = (
        "import hashlib; from fedbound import data, models, study; from fedbound.models import state, training;"
        "f = data.federation(study.Data(silos=2, partition='iid'));"
        "m = models.build({'name': 'mlp', 'hidden': [32]}, f.shape, f.classes, 0);"
        "training.train(m, f.silos[1].train, study.LocalTraining(), 4);"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in state.get_state(m))).hexdigest())"
    )
    run = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert run[0].stdout == run[1].stdout
    assert len(run[0].stdout) == 65


@pytest.mark.parametrize("steps", [1, 3, 7, 8, 20])
def test_exactly_the_steps_that_were_asked_for(steps):
    calls = []
    result = train(linear(), made(50), study.LocalTraining(batch_size=8), 0, steps=steps, hook=calls.append)
    assert result.steps == len(calls) == steps


def test_epochs_see_every_sample_once_each():
    seen = []

    class Watching(torch.nn.Linear):
        def forward(self, x):
            seen.append(x[:, 0].tolist())
            return super().forward(x)

    split = data.Split(np.arange(50, dtype=np.float32)[:, None], np.zeros(50, np.int64))
    result = train(Watching(1, 2), split, study.LocalTraining(batch_size=8, local_epochs=3), 0)
    assert result.steps == len(seen) == 21
    epochs = [list(itertools.chain(*seen[start : start + 7])) for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [len(batch) for batch in seen[:7]] == [8] * 6 + [2]


def test_the_hook_changes_gradients_before_the_step():
    def still(module):
        for parameter in module.parameters():
            assert parameter.grad.abs().sum() > 0
            parameter.grad.zero_()

    module = linear()
    train(module, made(20), study.LocalTraining(), 0, hook=still)
    assert same(module, linear())
    train(module, made(20), study.LocalTraining(), 0)
    assert not same(module, linear())


def test_frozen_parameters_stay_and_unused_ones_do_no_harm():
    module = linear()
    module.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    module[1].bias.requires_grad_(False)
    before = module[1].bias.clone()
    train(module, made(20), study.LocalTraining(), 0)
    assert torch.equal(module[1].bias, before)
    assert torch.equal(module.unused, torch.ones(2))


def test_the_loss_is_the_mean_over_steps():
    split, settings = made(24), study.LocalTraining(batch_size=8, learning_rate=1e-30, local_epochs=1)
    result = train(linear(), split, settings, 0)  # nothing moves, so the steps' mean is the split's mean loss
    assert result.steps == 3
    assert result.loss == pytest.approx(evaluate(linear(), split).loss_sum / 24, rel=1e-6)


def test_bfloat16_modules_train_and_are_evaluated(federation):
    module = small(federation).to(torch.bfloat16)
    silo = federation.silos[0]
    train(module, silo.train, study.LocalTraining(), 0, steps=80)
    result = evaluate(module, silo.test)
    assert result.correct / result.samples > 0.6
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_evaluation_equals_a_plain_reference(federation, batch_size):
    module, split = small(federation), federation.silos[0].test
    weights = [a.astype(np.float64) for a in get_state(module)]
    hidden = np.maximum(split.x.reshape(len(split), -1) @ weights[0].T + weights[1], 0)
    logits = hidden @ weights[2].T + weights[3]
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(split)), split.y]
    result = evaluate(module, split, batch_size)
    assert result.samples == len(split)
    assert result.correct == (logits.argmax(1) == split.y).sum()
    assert result.loss_sum == pytest.approx(losses.sum(), rel=1e-5)


def test_evaluation_changes_nothing():
    module = models.build({"name": "resnet", "norm": "batch", "width": 4}, (1, 8, 8), 3, 0)
    split = data.Split(np.random.default_rng(0).random((9, 1, 8, 8), np.float32), np.zeros(9, np.int64))
    before = get_state(module)
    for mode in (True, False):
        module.train(mode)
        evaluate(module, split)
        assert module.training is mode
    assert all(np.array_equal(a, b) for a, b in zip(get_state(module), before, strict=True))


def test_an_empty_split_evaluates_to_nothing_and_cannot_train():
    assert evaluate(linear(), made(0)) == Evaluation(0, 0, 0.0)
    with pytest.raises(ValueError, match="without training samples"):
        train(linear(), made(0), study.LocalTraining(), 0)


def test_training_does_not_change_the_data():
    split = made(20)
    x, y = split.x.copy(), split.y.copy()
    assert isinstance(train(linear(), split, study.LocalTraining(), 0), LocalResult)
    assert np.array_equal(split.x, x)
    assert np.array_equal(split.y, y)


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.cuda.is_available():
        assert resolve_device("cuda").type == "cuda"
    else:
        with pytest.raises(InputError, match=r"training\.device: 'cuda'.*'cpu' or 'auto'"):
            train(linear(), made(4), study.LocalTraining(device="cuda"), 0)


@pytest.mark.parametrize(
    ("environment", "index"),
    [
        ({}, 0),
        ({"MPI_LOCALRANKID": "3"}, 3),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "6"}, 2),  # more ranks than GPUs: in turn
        ({"SLURM_LOCALID": "1"}, 1),
        ({"SLURM_LOCALID": "0", "MPI_LOCALRANKID": "2"}, 2),  # mpiexec within a Slurm job
        ({"PMI_LOCAL_RANK": ""}, 0),
    ],
)
def test_each_rank_of_a_node_takes_a_gpu_of_its_own(monkeypatch, environment, index):
    for name in training._LOCAL_RANK:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_device("cuda") == resolve_device("auto") == torch.device("cuda", index)
    assert resolve_device("cpu") == torch.device("cpu")


def test_four_silos_and_the_server_on_a_node_of_four_gpus_share_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    taken = []
    for rank in range(1, 5):  # rank 0 is the server
        monkeypatch.setenv("MPI_LOCALRANKID", str(rank))
        taken.append(resolve_device("cuda").index)
    assert sorted(taken) == [0, 1, 2, 3]


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(monkeypatch):
    """On the CPU, where torch has it too, since CUDA is not everywhere."""
    split, seen = made(64), []
    plain, mixed = linear(), linear()
    mixed[1].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    settings = study.LocalTraining(device="auto", precision="bfloat16", batch_size=16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train(mixed, split, settings, 0)
    assert set(seen) == {torch.float32}  # on a machine without GPU it is not used
    train(plain, split, study.LocalTraining(batch_size=16), 0)
    assert same(plain, mixed)
    seen.clear()
    monkeypatch.setattr(training, "_MIXED_ON", ("cpu",))
    result = train(mixed, split, settings, 1)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    exact = train(plain, split, study.LocalTraining(batch_size=16), 1)
    assert not same(plain, mixed)
    assert result.loss == pytest.approx(exact.loss, rel=0.01)
    for one, other in zip(get_state(plain), get_state(mixed), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)


def test_mixed_precision_on_the_cpu_is_refused():
    with pytest.raises(InputError, match="training.*precision 'bfloat16' needs a GPU"):
        study.parse({"study": "s", "training": {"precision": "bfloat16"}})


@pytest.mark.parametrize("shape", [(50,), (50, 7)])
def test_what_is_right_sample_by_sample_adds_up_to_the_evaluation(shape: tuple[int, ...]) -> None:
    """Also where a sample has several predictions, as a text has."""
    rng = np.random.default_rng(0)
    split = data.Split(rng.normal(size=(*shape, 4)).astype(np.float32), rng.integers(0, 3, shape))
    module = torch.nn.Linear(4, 3)
    found = training.right(module, split, batch_size=16)
    assert found.shape == (50,)
    expected = training.evaluate(module, split)
    assert 0 < expected.correct < expected.samples
    assert found.mean() == pytest.approx(expected.correct / expected.samples)
    assert module.training
