from __future__ import annotations

import math
import subprocess
import sys

import pytest

from fedbound import models, study
from fedbound.errors import InputError
from fedbound.models.state import specs

torch = pytest.importorskip("torch")

SOURCE = """
import torch


def linear(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear({inputs}, classes))


def convolution(shape, classes):
    return torch.nn.Conv2d(1, classes, 8)


def frozen(shape, classes):
    return linear(shape, classes).requires_grad_(False)


def text(shape, classes):
    return "a model"


def alone(shape):
    return linear(shape, 2)


constant = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "hospital").mkdir()
    (tmp_path / "hospital" / "nets.py").write_text(SOURCE.format(inputs="torch.Size(shape).numel()"))
    (tmp_path / "hospital" / "broken.py").write_text("import a_package_that_is_not_there")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "hospital"]:
        del sys.modules[name]


def build(function: str, **options):
    return models.build({"name": "custom", "function": f"hospital.nets:{function}", **options}, (1, 8, 8), 5, 0)


def test_a_function_makes_the_model_from_shape_and_classes():
    module = build("linear")
    assert [spec.shape for spec in specs(module)] == [(5, 64), (5,)]
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), build("linear").parameters(), strict=True))


def test_the_short_form_means_the_same_and_the_source_is_part_of_the_scenario(here):
    (short,) = study.parse({"study": "s", "model": "custom:hospital.nets:linear"}).model
    (long,) = study.parse({"study": "s", "model": {"name": "custom", "function": "hospital.nets:linear"}}).model
    assert short == long
    (here / "hospital" / "nets.py").write_text(SOURCE.format(inputs=math.prod((1, 8, 8))))
    (edited,) = study.parse({"study": "s", "model": "custom:hospital.nets:linear"}).model
    assert edited["source_digest"] != short["source_digest"]
    with pytest.raises(InputError, match="has changed since the study was planned"):
        models.build(short, (1, 8, 8), 5, 0)
    assert "hospital.nets" not in sys.modules  # nothing of it has run


def test_adapters_on_an_own_model():
    assert [spec.name for spec in specs(build("linear", lora_rank=2))] == ["1.lora_a", "1.lora_b"]
    with pytest.raises(InputError, match="no linear layer of this model; it has none"):
        build("convolution", lora_rank=2)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("hospital.nets:missing", "'hospital.nets' has no function 'missing'"),
        ("hospital.nets:constant", "has no function 'constant'"),
        ("hospital.nets:alone", "cannot be called with a shape and a number of classes"),
        ("hospital.nets:text", "returned str; let it return a torch.nn.Module"),
        ("hospital.nets:frozen", "no parameter that trains"),
        ("hospital.broken:net", "importing 'hospital.broken' fails .*a_package_that_is_not_there"),
        ("hospital.wards:net", "no module 'hospital.wards'"),
        ("nowhere.at.all:net", "no module 'nowhere.at.all'"),
        ("hospital.nets", "function: 'hospital.nets' is refused"),
        ("os; print:x", "is refused"),
    ],
)
def test_what_cannot_be_a_model_is_refused_in_one_sentence(function, words):
    with pytest.raises(InputError, match=words) as caught:
        models.build({"name": "custom", "function": function}, (1, 8, 8), 5, 0)
    assert "\n" not in str(caught.value)


def test_a_study_refuses_a_missing_module_before_anything_runs():
    with pytest.raises(InputError, match="model: .*no module 'nowhere'"):
        study.parse({"study": "s", "model": "custom:nowhere:net"})


def test_the_folder_where_it_runs_is_searched_by_a_console_script_too(here):
    code = (
        "import sys; sys.path[0] = '/'; from fedbound import models;"
        "print(len(models.build({'name': 'custom', 'function': 'hospital.nets:linear'}, (4,), 2, 0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.strip() == "2"
