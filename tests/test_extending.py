"""The examples of docs/extending.md, copied from the page as its readers would, work; and so do their tests."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedbound import registry

ROOT = Path(__file__).parents[1]
BLOCKS = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S))
PARTS = [path for path in BLOCKS if path.startswith("src/")]
TESTS = [path for path in BLOCKS if path.startswith("tests/")]


def module_name(path: str) -> str:
    return ".".join(Path(path).with_suffix("").parts[1:])


def load(path: str, folder: Path) -> types.ModuleType:
    """The module of a block, under the name that it would have in the package."""
    file = folder / Path(path).name
    file.write_text(BLOCKS[path])
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All parts of the page, registered as long as the test runs."""
    kinds = (registry.CODECS, registry.MECHANISMS, registry.ALGORITHMS, registry.SCHEDULERS)
    for kind in kinds:
        kind.available()
        monkeypatch.setattr(kind, "_entries", dict(kind._entries))
    monkeypatch.syspath_prepend(ROOT / "tests/federation")
    for path in PARTS:
        load(path, tmp_path)
    yield
    for path in BLOCKS:
        sys.modules.pop(module_name(path), None)


def test_the_page_has_a_part_and_a_test_of_each_kind():
    assert [Path(path).parts[2] for path in PARTS] == ["codecs", "privacy", "federation", "federation"]
    assert [Path(path).stem for path in TESTS] == [f"test_{Path(path).stem}" for path in PARTS]
    assert not [path for path in PARTS if (ROOT / path).exists()]


@pytest.mark.parametrize("path", TESTS)
def test_its_tests_pass(path, tmp_path, parts):
    module = load(path, tmp_path)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_a_study_may_name_them(parts):
    from fedbound import plan, study

    made = plan.make(
        study.parse(
            {
                "study": "mine",
                "seeds": [0],
                "exchange": {"codec": ["none", {"name": "grid", "level": [3, 19]}], "bound": 0.1},
                "privacy": {"mechanism": ["gaussian", "onebit"], "epsilon": [1.0, 4.0]},
                "training": {"algorithm": {"name": "decaying", "power": [0.5, 1.0]}, "scheduler": ["sync", "cyclic"]},
                "simulation": {"clients": [4], "scheduler": ["sync", "cyclic"]},
            }
        )
    )
    assert len(made.jobs["train"]) == 3 * 2 * 2
    assert len(made.jobs["privacy"]) == 4
