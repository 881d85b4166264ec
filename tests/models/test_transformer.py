from __future__ import annotations

import math

import numpy as np
import pytest

from fedbound import data, models, study
from fedbound.errors import InputError
from fedbound.models.state import get_state, set_state, specs
from fedbound.models.training import cross_entropy, evaluate, train

torch = pytest.importorskip("torch")


def build(context: int = 8, vocabulary: int = 11, seed: int = 0, **options):
    return models.build({"name": "transformer", "width": 16, "heads": 2, **options}, (context,), vocabulary, seed)


def tokens(*shape: int, vocabulary: int = 11):
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_logits_for_every_position_and_gradients_for_every_parameter(dtype):
    module = build(tied=False)
    x = tokens(3, 8)
    logits = module(x.to(dtype))
    assert logits.shape == (3, 8, 11)
    loss = cross_entropy(logits, x.to(dtype))
    assert loss.item() == pytest.approx(math.log(11), abs=0.1)  # small initial weights: nearly uniform
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_a_position_sees_itself_and_the_past_only():
    module = build().eval()
    x = tokens(1, 8)
    for place in range(8):
        changed = x.clone()
        changed[0, place] = (x[0, place] + 1) % 11
        same = (module(x) == module(changed)).all(-1)[0].tolist()
        assert same[:place] == [True] * place
        assert not any(same[place:])


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_as_many_as_the_formula_says_and_tied_ones_count_once(tied):
    width, layers, vocabulary, context = 16, 3, 11, 8
    module = build(layers=layers, tied=tied)
    block = 12 * width**2 + 13 * width
    count = vocabulary * width * (1 if tied else 2) + context * width + layers * block + 2 * width
    assert sum(p.numel() for p in module.parameters()) == count == sum(spec.size for spec in specs(module))


def test_it_is_the_transformer_of_the_papers_written_in_numpy():
    module = build(layers=1, heads=2).eval()
    rng = np.random.default_rng(0)
    set_state(module, [rng.normal(0, 0.3, array.shape).astype(np.float32) for array in get_state(module)])
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}

    def norm(v, name):
        v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
        return v * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(v, name):
        return v @ weights[f"blocks.0.{name}.weight"].T + weights[f"blocks.0.{name}.bias"]

    x = tokens(5).numpy()
    h = weights["token.weight"][x] + weights["position.weight"][:5]
    q, k, v = np.split(linear(norm(h, "blocks.0.norm1"), "attention.qkv"), 3, axis=1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = q[:, part] @ k[:, part].T / math.sqrt(8) + np.triu(np.full((5, 5), -np.inf), 1)
        chances = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(chances / chances.sum(1, keepdims=True) @ v[:, part])
    h = h + linear(np.concatenate(heads, 1), "attention.out")
    inner = linear(norm(h, "blocks.0.norm2"), "up")
    inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    logits = norm(h + linear(inner, "down"), "norm") @ weights["token.weight"].T
    np.testing.assert_allclose(module(torch.from_numpy(x)[None]).detach()[0].numpy(), logits, rtol=2e-4, atol=2e-4)


def test_it_learns_a_text_and_evaluates_by_character(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 60)
    choice = {"name": "text", "path": str(tmp_path / "text.txt"), "context": 16}
    made = data.federation(study.Data(dataset=choice, silos=1, partition="iid"))
    module = models.build({"name": "transformer", "width": 32}, made.shape, made.classes, 0)
    silo = made.silos[0]
    before = evaluate(module, silo.test)
    assert before.samples == 16 * len(silo.test)
    settings = study.LocalTraining(optimizer="adam", learning_rate=0.01, batch_size=16)
    result = train(module, silo.train, settings, 0, steps=80)
    after = evaluate(module, silo.test, batch_size=5)
    assert result.loss < before.loss_sum / before.samples
    assert after.correct / after.samples > 0.8  # after one or two characters the rest is certain
    logits = module.eval()(torch.from_numpy(silo.test.x))
    chances = torch.log_softmax(logits.double(), -1).gather(-1, torch.from_numpy(silo.test.y).long()[..., None])
    assert after.loss_sum == pytest.approx(-chances.sum().item(), rel=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="multiple of heads"):
        build(width=10, heads=4)
    with pytest.raises(InputError, match="windows of tokens"):
        models.build({"name": "transformer"}, (1, 8, 8), 10, 0)


@pytest.mark.parametrize(("dataset", "model"), [({"name": "text", "path": "x"}, "mlp"), ("digits", "transformer")])
def test_a_study_whose_model_cannot_read_its_data_is_refused(dataset, model):
    with pytest.raises(InputError, match=f"model: '{model}' takes .* holds"):
        study.parse({"study": "s", "data": {"dataset": dataset}, "model": model})
