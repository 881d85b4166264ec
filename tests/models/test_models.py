from __future__ import annotations

import numpy as np
import pytest

from fedbound import models
from fedbound.errors import InputError
from fedbound.models.state import get_state

torch = pytest.importorskip("torch")

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 13)]


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(get_state(one), get_state(other), strict=True))


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize(
    "choice", [{"name": "mlp"}, {"name": "cnn"}, {"name": "resnet"}, {"name": "resnet", "norm": "batch"}]
)
def test_logits_have_one_value_per_class_and_gradients_reach_every_parameter(choice, shape):
    module = models.build(choice, shape, 7, seed=0)
    logits = module(torch.rand(5, *shape))
    assert logits.shape == (5, 7)
    torch.nn.functional.cross_entropy(logits, torch.arange(5)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_weights_depend_on_the_seed_and_on_nothing_else(name):
    torch.manual_seed(1)
    one = models.build({"name": name}, (1, 8, 8), 10, seed=5)
    torch.manual_seed(2)
    torch.rand(17)
    assert same(one, models.build({"name": name}, (1, 8, 8), 10, seed=5))
    assert not same(one, models.build({"name": name}, (1, 8, 8), 10, seed=6))


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    models.build({"name": "mlp"}, (4,), 2, seed=9)
    assert torch.equal(torch.rand(4), undisturbed)


def test_mlp_layers_are_as_asked():
    sizes = [tuple(p.shape) for p in models.build({"name": "mlp", "hidden": [7, 5]}, (2, 3), 4, 0).parameters()]
    assert sizes == [(7, 6), (7,), (5, 7), (5,), (4, 5), (4,)]
    assert [tuple(p.shape) for p in models.build({"name": "mlp", "hidden": []}, (6,), 4, 0).parameters()] == [
        (4, 6),
        (4,),
    ]


def test_parameter_counts_match_the_papers():
    mcmahan_cnn = models.build({"name": "cnn", "channels": [32, 64], "hidden": 512}, (1, 28, 28), 10, 0)
    assert sum(p.numel() for p in mcmahan_cnn.parameters()) == 1_663_370  # McMahan et al. 2017, section 3
    mcmahan_2nn = models.build({"name": "mlp", "hidden": [200, 200]}, (1, 28, 28), 10, 0)
    assert sum(p.numel() for p in mcmahan_2nn.parameters()) == 199_210
    resnet20 = models.build({"name": "resnet", "blocks": 3, "norm": "batch"}, (3, 32, 32), 10, 0)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # option B; the paper's 0.27 M have option A
    assert sum(p.numel() for p in resnet20.parameters()) - shortcuts == 269_722


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_image_models_refuse_what_is_no_image_or_too_small(name):
    with pytest.raises(InputError, match=rf"{name}.*\(64,\).*mlp"):
        models.build({"name": name}, (64,), 10, 0)
    with pytest.raises(InputError, match="2 x 9"):
        models.build({"name": name}, (1, 2, 9), 10, 0)


def test_unknown_names_and_options_are_refused():
    assert {"cnn", "mlp", "resnet"} <= set(models.available())
    with pytest.raises(InputError, match="did you mean 'resnet'"):
        models.build({"name": "resnets"}, (1, 8, 8), 10, 0)
    with pytest.raises(InputError, match="hidden"):
        models.build({"name": "mlp", "hidden": [0]}, (4,), 2, 0)
