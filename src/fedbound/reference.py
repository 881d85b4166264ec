"""The study reference, docs/study.md, made from the schema: `python -m fedbound.reference > docs/study.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fedbound import registry, study

_INTRO = """# The study file

Made from the schema by `python -m fedbound.reference`; do not edit.

A study is one YAML file. Every key has a default but `study`. Where the table shows one value, a list of values is a
sweep: each combination is a scenario of its own. A part (codec, model, algorithm ...) is its name, or a mapping with
`name` and its options: `codec: sz3`, `codec: {name: sz3, predictor: interp}`; a list of values for an option is a sweep
too. Where settings differ in several keys at once, a section is a list of mappings, each a sweep of its own:
`exchange: [{codec: none}, {codec: sz2, mode: weights, bound: 0.01}]`. `privacy: off`, `simulation: off` and
`profiling: off` leave a stage out; profiles are what simulations are computed from. Unknown keys are refused with the
nearest one. Given several files (`make study STUDY="A B"`, `fedbound plan A B`), each changes what those before it say.
`fedbound check FILE` validates, and `fedbound schema` prints JSON Schema for editors.

| key | default | meaning |
| --- | --- | --- |
| `study` | | name of the study: lower-case letters, digits, `-`, `_`; results go to `results/<study>/` |
| `seeds` | `[0, 1, 2]` | seeds of the training runs; runs of the same seed are compared in pairs |
| `model` | `mlp` | the model, a part |
"""

_PARTS = {
    "Data sets": registry.DATASETS,
    "Partitions": registry.PARTITIONS,
    "Models": registry.MODELS,
    "Algorithms": registry.ALGORITHMS,
    "Schedulers": registry.SCHEDULERS,
    "Codecs": registry.CODECS,
    "DP mechanisms": registry.MECHANISMS,
    "Simulation engines": registry.ENGINES,
}


def markdown() -> str:
    """The whole page."""
    lines = [_INTRO]
    for name, model in {**study.SWEPT, **study.FIXED}.items():
        lines += [f"## `{name}`", "", (model.__doc__ or "").strip().split("\n")[0], "", *_table(model), ""]
        if name == "training":
            nested = study.TrainingPrivacy
            lines += ["### `training.privacy`", "", (nested.__doc__ or "").split("\n")[0], "", *_table(nested), ""]
    for title, parts in _PARTS.items():
        lines += [f"## {title}", ""]
        for name in parts.available():
            entry = parts.entry(name)
            lines += [f"### `{name}`", "", entry.summary, ""]
            if entry.options.model_fields:
                lines += [*_table(entry.options), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | default | meaning |"
    yield "| --- | --- | --- |"
    for key, field in model.model_fields.items():
        yield f"| `{key}` | {_default(field.default)} | {field.description or _nested(field.annotation)} |"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        return f"`{{{', '.join(f'{k}: {v}' for k, v in value.model_dump().items())}}}`"
    return f"`{value}`" if value not in ("", None) else ""


def _nested(annotation: Any) -> str:
    return (annotation.__doc__ or "").strip().split("\n")[0] if isinstance(annotation, type) else ""


if __name__ == "__main__":
    sys.stdout.write(markdown())
