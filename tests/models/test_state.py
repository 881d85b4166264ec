from __future__ import annotations

import numpy as np
import pytest

from fedbound import models
from fedbound.models.state import TensorSpec, get_state, set_state, specs

torch = pytest.importorskip("torch")


def resnet(seed: int = 0, dtype=None):
    module = models.build({"name": "resnet", "norm": "batch", "width": 4, "stages": 2}, (1, 8, 8), 3, seed)
    return module if dtype is None else module.to(dtype)


def test_specs_name_every_parameter_and_buffer_in_state_dict_order():
    module = resnet()
    assert [s.name for s in specs(module)] == list(module.state_dict())
    assert TensorSpec("1.num_batches_tracked", (), "int64") in specs(module)
    assert TensorSpec("1.running_mean", (4,), "float32") in specs(module)
    assert [s.size for s in specs(module)] == [a.size for a in get_state(module)]
    assert [s.dtype for s in specs(module)] == [str(a.dtype) for a in get_state(module)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_state_moves_from_one_module_to_another(dtype):
    one, other = resnet(0, dtype), resnet(1, dtype)
    one.train()(torch.rand(4, 1, 8, 8, dtype=dtype))  # moves the running statistics and counts the batch
    if dtype == torch.float64:
        one.to(torch.float32).to(dtype)  # float64 is exchanged as float32
    state = get_state(one)
    assert {str(a.dtype) for a in state} == {"float32", "int64"}
    assert 1 in [int(a) for a in state if a.dtype == np.int64]
    set_state(other, state)
    for name, tensor in one.state_dict().items():
        assert other.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(other.state_dict()[name], tensor), name


def test_states_are_copies():
    module = resnet()
    state = get_state(module)
    before = [array.copy() for array in state]
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.add_(1)
    assert all(np.array_equal(a, b) for a, b in zip(state, before, strict=True))
    set_state(module, state)
    for array in state:
        array += 1
    assert all(np.array_equal(a, b) for a, b in zip(get_state(module), before, strict=True))


def test_setting_keeps_the_tensors_themselves_and_their_gradients_flags():
    module = resnet()
    pointers = [t.data_ptr() for t in module.state_dict().values()]
    set_state(module, get_state(resnet(1)))
    assert [t.data_ptr() for t in module.state_dict().values()] == pointers
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in module.parameters())


@pytest.mark.filterwarnings("error")
def test_read_only_swapped_and_reversed_arrays_are_taken():
    module = models.build({"name": "mlp", "hidden": []}, (3,), 2, 0)
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    weight.flags.writeable = False
    for bias in (np.array([1, 2], ">f4"), np.array([2, 1], np.float32)[::-1]):
        set_state(module, [weight, bias])
        np.testing.assert_array_equal(get_state(module)[0], weight)
        assert get_state(module)[1].tolist() == [1, 2]


def test_what_does_not_fit_is_refused_and_changes_nothing():
    module = models.build({"name": "mlp", "hidden": []}, (3,), 2, 0)
    before = get_state(module)
    good = [np.ones((2, 3), np.float32), np.ones(2, np.float32)]
    for bad, words in [
        (good[:1], "1 arrays for a module of 2"),
        ([good[0], np.ones(3, np.float32)], r"'1.bias' has shape \(2,\), not \(3,\)"),
        ([good[0].T, good[1]], r"\(2, 3\), not \(3, 2\)"),
        ([good[0], np.ones(2, np.int64)], "exchanged as float32, not int64"),
    ]:
        with pytest.raises(ValueError, match=words):
            set_state(module, bad)
        assert all(np.array_equal(a, b) for a, b in zip(get_state(module), before, strict=True))


def test_complex_tensors_are_refused():
    module = torch.nn.Module()
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="'phase' is complex"):
        specs(module)
