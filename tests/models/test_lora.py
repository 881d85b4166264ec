from __future__ import annotations

import copy

import numpy as np
import pytest

from fedbound import data, models, study
from fedbound.errors import InputError
from fedbound.exchange.layout import Layout
from fedbound.federation.assembly import Assembly
from fedbound.models import pretrained
from fedbound.models.modules.lora import LoraLinear, adapt
from fedbound.models.state import exchanged, get_state, set_state, specs
from fedbound.models.training import train

torch = pytest.importorskip("torch")

TRANSFORMER = {"name": "transformer", "width": 16, "heads": 2}
X = torch.arange(16).reshape(2, 8) % 11


def build(seed: int = 0, **options):
    return models.build({**TRANSFORMER, **options}, (8,), 11, seed)


def frozen(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}


def scatter(module, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    set_state(module, [rng.normal(size=array.shape).astype(np.float32) for array in get_state(module)])


def test_adapters_start_at_the_base_model_and_alone_travel():
    module = build(lora_rank=3)
    names = [f"blocks.{b}.attention.{layer}.lora_{end}" for b in (0, 1) for layer in ("qkv", "out") for end in "ab"]
    assert [spec.name for spec in specs(module)] == names
    assert [spec.shape for spec in specs(module)][:4] == [(3, 16), (48, 3), (3, 16), (16, 3)]
    assert [name for name, p in module.named_parameters() if p.requires_grad] == names
    assert torch.equal(module(X), build()(X))  # the base's weights are those of the same seed


def test_an_adapted_layer_is_its_merged_layer():
    layer = LoraLinear(torch.nn.Linear(5, 7), rank=2, alpha=3.0)
    scatter(layer)
    x = torch.randn(4, 5)
    expected = x @ (layer.weight + 1.5 * layer.lora_b @ layer.lora_a).T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.merged(), layer.bias))


@pytest.mark.parametrize("freeze_a", [False, True])
def test_training_changes_adapters_only(freeze_a):
    module = build(lora_rank=2, lora_freeze_a=freeze_a)
    base, adapters = frozen(module), get_state(module)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 11, (20, 9)).astype(np.uint8)
    split = data.Split(tokens[:, :-1], tokens[:, 1:])
    train(module, split, study.LocalTraining(weight_decay=0.1, batch_size=4), 0)
    assert all(torch.equal(module.get_parameter(name), tensor) for name, tensor in base.items())
    assert all(not np.array_equal(a, b) for a, b in zip(get_state(module), adapters, strict=True))
    assert all(name.endswith("lora_b") for name in exchanged(module)) == freeze_a


def _mean(states):
    return [np.mean(arrays, axis=0) for arrays in zip(*states, strict=True)]


@pytest.mark.parametrize(("freeze_a", "same"), [(False, False), (True, True)])
def test_the_mean_of_factors_is_the_mean_of_products_only_where_a_is_frozen(freeze_a, same):
    """What docs/models.md says about averaging: silos' means are taken factor by factor."""
    options = {"lora_rank": 2, "lora_freeze_a": freeze_a}
    silos = [build(**options) for _ in range(3)]
    for number, module in enumerate(silos):
        scatter(module, number)
    server = build(**options)
    set_state(server, _mean([get_state(module) for module in silos]))
    of_products = torch.stack([m.blocks[0].attention.qkv.merged() for m in silos]).mean(0)
    difference = (server.blocks[0].attention.qkv.merged() - of_products).abs().max().item()
    assert difference < 1e-5 if same else difference > 0.1


def test_a_lora_update_takes_a_twentieth_of_the_bytes_of_full_fine_tuning_or_less(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 200)
    choice = {"name": "text", "path": str(tmp_path / "text.txt"), "context": 64}
    settings = study.Data(dataset=choice, silos=2, partition="iid")
    made = {}
    for rank in (0, 4):
        model = {"name": "transformer", "lora_rank": rank}
        training = study.Training(rounds=2, local_epochs=1)
        assembly = Assembly(settings, model, training, study.Exchange(codec="none"), 0)
        server = assembly.server(assembly.local())
        server.run()
        made[rank] = server.records.rows["rounds"][-1]
    for key in ("raw_up", "bytes_up", "raw_down", "bytes_down"):  # bytes_*: with all headers
        assert made[0][key] >= 20 * made[4][key] > 0, key


@pytest.mark.parametrize(
    ("targets", "count"), [(["qkv"], 2), (["attention.out"], 2), (["up", "down"], 4), (["*"], 8), (["blocks.1.up"], 1)]
)
def test_targets_are_ends_of_names(targets, count):
    module = build(lora_rank=1, lora_targets=targets)
    assert len([m for m in module.modules() if isinstance(m, LoraLinear)]) == count


def test_missing_targets_are_refused_in_one_sentence():
    with pytest.raises(InputError, match=r"'query' names no linear layer.*possible: down, out, qkv, up, or \*"):
        build(lora_rank=1, lora_targets=["qkv", "query"])
    with pytest.raises(InputError, match="it has none, so set lora_rank to 0"):
        adapt(torch.nn.Conv2d(1, 1, 3), 1, 1.0, ["*"])
    with pytest.raises(InputError, match="unknown key 'lora_rank'"):
        study.parse({"study": "s", "model": {"name": "mlp", "lora_rank": 4}})


def test_a_frozen_or_tied_parameter_of_any_model_is_not_sent_again():
    shared = torch.nn.Linear(4, 4)
    module = torch.nn.Sequential(shared, torch.nn.BatchNorm1d(4), shared, torch.nn.Linear(4, 2))
    module[3].weight.requires_grad_(False)
    names = [spec.name for spec in specs(module)]
    buffers = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias", *buffers, "3.bias"]
    other = copy.deepcopy(module)
    for tensor in exchanged(other).values():
        tensor.add_(1)
    set_state(module, get_state(other))
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert Layout(specs(module)).raw_bytes == 4 * (16 + 4 + 4 + 4 + 4 + 4 + 2) + 8


# ---- a base from a folder ----


@pytest.fixture
def base(tmp_path):
    pretrained.write(build(seed=7), tmp_path / "base")
    return str(tmp_path / "base")


def test_a_base_is_loaded_and_named_by_its_content(base):
    choice = models.MODELS.normalise({**TRANSFORMER, "base": base, "lora_rank": 2})
    assert choice["base_digest"] == pretrained.digest(base)
    one, other = (models.build(choice, (8,), 11, seed) for seed in (0, 1))
    assert torch.equal(one(X), build(seed=7)(X))
    assert torch.equal(one(X), other(X))
    assert not np.array_equal(get_state(one)[0], get_state(other)[0])  # adapters come from the run's seed
    pretrained.write(build(seed=8), base)
    assert models.MODELS.normalise({**TRANSFORMER, "base": base})["base_digest"] != choice["base_digest"]
    with pytest.raises(InputError, match="have changed since the study was planned"):
        models.build(choice, (8,), 11, 0)


def test_options_that_matter_to_nothing_make_no_other_scenario(base):
    one, other = (models.MODELS.normalise({**TRANSFORMER, "lora_alpha": alpha}) for alpha in (1.0, 2.0))
    assert one == other
    with pytest.raises(InputError, match="base_digest is refused without base"):
        models.MODELS.normalise({**TRANSFORMER, "base_digest": "00"})


def test_a_base_that_does_not_fit_is_refused(base, tmp_path):
    with pytest.raises(InputError, match="no folder with"):
        build(base=str(tmp_path))
    with pytest.raises(InputError, match=r"'token.weight' has shape \(11, 16\)"):
        models.build({**TRANSFORMER, "base": base}, (8,), 12, 0)
    with pytest.raises(InputError, match=r"'blocks.2.attention.out.bias' is not in the folder"):
        build(base=base, layers=3)
    pretrained.write(build(layers=3), base)
    with pytest.raises(InputError, match=r"'blocks.2.attention.out.bias' is not in this model"):
        build(base=base)


def test_a_damaged_base_is_refused(base):
    path = pretrained.write(build(), base)
    content = path.read_bytes()
    for bad in (b"", content[:6], content[:50], content[:-1], b"\xff" * 8 + content[8:], content[:8] + b"[" * 99999):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="as safetensors"):
            build(base=base)
    for old, new in [(b'"F32"', b'"F33"'), (b'"shape": [11, 16]', b'"shape": [11, -6]'), (b"offsets", b"0ffsets")]:
        path.write_bytes(content.replace(old, new, 1))
        with pytest.raises(InputError, match="as safetensors"):
            build(base=base)


def test_safetensors_types(tmp_path):
    import json
    import struct

    values = np.array([1.5, -2.0], "<f4")
    brain = (values.view("<u4") >> 16).astype("<u2").tobytes()
    parts = {"F32": values.tobytes(), "F16": values.astype("<f2").tobytes(), "BF16": brain}
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for kind, content in parts.items():
        header[kind] = {"dtype": kind, "shape": [2], "data_offsets": [position, position + len(content)]}
        position += len(content)
    text = json.dumps(header).encode()
    path = tmp_path / "some.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts.values()))
    read = pretrained.read(path)
    assert sorted(read) == ["BF16", "F16", "F32"]
    assert all(array.tolist() == [1.5, -2.0] for array in read.values())
