"""Registries: parts are found by themselves, chosen by name, and mistakes are one sentence each."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from fedbound import registry
from fedbound.errors import InputError, nearest, shown
from fedbound.registry import Options, Registry, explain, takes_list

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, Registry)]

TOY = {
    "__init__.py": '"""Toys."""\nfrom fedbound.registry import Registry\nTOYS = Registry("toy", "toybox")\n',
    "ball.py": """
        from typing import Literal

        from pydantic import Field

        from fedbound.registry import Options
        from toybox import TOYS

        class BallOptions(Options):
            radius: float = Field(default=1.0, gt=0)
            colour: Literal["red", "blue"] = "red"
            marks: list[int] = Field(default=[1, 2], min_length=1)
            bounces: bool = True

        @TOYS.register("ball", BallOptions)
        class Ball:
            '''A ball.

            Rolls.'''

            def __init__(self, options):
                self.options = options
        """,
    "box.py": """
        from toybox import TOYS

        @TOYS.register("box")
        def box(options):
            return "a box"
        """,
    "helper.py": "VALUE = 1\n",
}


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    (tmp_path / "toybox").mkdir()
    for name, text in TOY.items():
        (tmp_path / "toybox" / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    import toybox  # type: ignore[import-not-found]

    yield toybox.TOYS
    for name in [name for name in sys.modules if name.split(".")[0] == "toybox"]:
        del sys.modules[name]


def message(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    return str(caught.value)


# ---- discovery and making -------------------------------------------------------------------------------------------


def test_parts_are_found_by_themselves(toys: Registry) -> None:
    assert toys.available() == ["ball", "box"]
    assert toys.entry("ball").summary == "A ball."
    assert toys.entry("box").summary == ""


def test_a_part_added_as_a_file_is_found(toys: Registry, tmp_path: Path) -> None:
    (tmp_path / "toybox" / "kite.py").write_text(
        "from toybox import TOYS\n\n@TOYS.register('kite')\ndef kite(options):\n    return 'flies'\n"
    )
    assert toys.get("kite") == "flies"


def test_get_makes_the_part_with_its_options(toys: Registry) -> None:
    ball = toys.get("ball", radius=2, colour="blue")
    assert (ball.options.radius, ball.options.colour, ball.options.marks) == (2.0, "blue", [1, 2])
    assert toys.get("box") == "a box"


def test_make_takes_a_choice_and_leaves_it_alone(toys: Registry) -> None:
    choice = {"name": "ball", "radius": 3.0}
    assert toys.make(choice).options.radius == 3.0
    assert choice == {"name": "ball", "radius": 3.0}


def test_two_parts_of_one_name_are_refused(toys: Registry) -> None:
    toys.register("top")(lambda options: None)
    with pytest.raises(ValueError, match="toy 'top' is registered twice"):
        toys.register("top")(lambda options: None)


@pytest.mark.parametrize("one", REGISTRIES, ids=lambda one: one.kind)
def test_every_registered_part_has_usable_defaults_and_says_what_it_is(one: Registry) -> None:
    assert one.available()
    for name in one.available():
        entry = one.entry(name)
        assert entry.name == name
        assert entry.summary
        required = [key for key, field in entry.options.model_fields.items() if field.is_required()]
        if not required:
            choice = one.normalise(name)
            assert one.normalise(choice) == choice
        for field in entry.options.model_fields.values():
            assert field.description, f"{one.kind} {name}: an option without description"


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_unknown_names_get_the_nearest_or_all(toys: Registry) -> None:
    assert message(toys.get, "bal") == "unknown toy 'bal'; did you mean 'ball'?"
    assert message(toys.get, "zzz") == "unknown toy 'zzz'; possible: ball, box"
    assert message(toys.normalise, {"name": "bll"}) == "unknown toy 'bll'; did you mean 'ball'?"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"radus": 1}, "toy 'ball': unknown key 'radus'; did you mean 'radius'?"),
        ({"radius": 0}, "toy 'ball': radius: 0 is refused: input should be greater than 0"),
        ({"radius": "wide"}, "toy 'ball': radius: 'wide' is refused: input should be a valid number, "),
        ({"radius": float("nan")}, "toy 'ball': radius: nan is refused: input should be a finite number"),
        ({"radius": True}, "toy 'ball': radius: True is refused: give a number (YAML reads yes"),
        ({"colour": "green"}, "toy 'ball': colour: 'green' is refused: input should be 'red' or 'blue'"),
        ({"marks": ["a"]}, "toy 'ball': marks.0: 'a' is refused: input should be a valid integer"),
        ({"marks": []}, "toy 'ball': marks: [] is refused: list should have at least 1 item"),
        ({"radius": 0, "colour": 1}, "is refused: input should be greater than 0 (and 1 more)"),
    ],
)
def test_bad_options_are_one_sentence(toys: Registry, options: dict[str, Any], expected: str) -> None:
    for said in (message(toys.get, "ball", **options), message(toys.normalise, {"name": "ball", **options})):
        assert expected in said
        assert "\n" not in said


def test_a_truth_value_where_one_belongs_is_taken(toys: Registry) -> None:
    assert toys.normalise({"name": "ball", "bounces": False})["bounces"] is False


@pytest.mark.parametrize("choice", [None, 3, ["ball"], {"radius": 1}, {"name": None}, {"name": ["ball"]}])
def test_what_is_no_choice_is_refused(toys: Registry, choice: Any) -> None:
    for call in (toys.normalise, toys.expand, toys.make):
        said = message(call, choice)
        assert said.startswith("a toy is a name or a mapping with the key 'name', not ")
        assert said.endswith("; possible: ball, box")


# ---- sweeps ---------------------------------------------------------------------------------------------------------


def test_expand_multiplies_lists_of_scalars_in_order(toys: Registry) -> None:
    assert toys.expand("ball") == [{"name": "ball"}]
    assert toys.expand({"name": "ball", "radius": [1, 2], "colour": ["red", "blue"]}) == [
        {"name": "ball", "radius": 1, "colour": "red"},
        {"name": "ball", "radius": 1, "colour": "blue"},
        {"name": "ball", "radius": 2, "colour": "red"},
        {"name": "ball", "radius": 2, "colour": "blue"},
    ]


def test_a_list_where_the_option_is_a_list_is_one_value(toys: Registry) -> None:
    assert toys.expand({"name": "ball", "marks": [7, 8, 9]}) == [{"name": "ball", "marks": [7, 8, 9]}]


def test_an_empty_sweep_is_refused(toys: Registry) -> None:
    said = message(toys.expand, {"name": "ball", "radius": []})
    assert said == "toy 'ball': the list of 'radius' is empty; give at least one value or remove the key"


@given(
    radii=st.lists(st.floats(0.1, 9), min_size=1, max_size=3),
    colours=st.lists(st.sampled_from(["red", "blue"]), min_size=1, max_size=2),
)
def test_expand_is_the_product(radii: list[float], colours: list[str]) -> None:
    class Ball(Options):
        radius: float = 1.0
        colour: str = "red"

    toys = Registry("toy", "fedbound.data.partitions")  # any package without toys
    toys.register("ball", Ball)(lambda options: options)
    found = toys.expand({"name": "ball", "radius": radii, "colour": colours})
    assert [(one["radius"], one["colour"]) for one in found] == [(r, c) for r in radii for c in colours]
    assert all(toys.normalise(toys.normalise(one)) == one for one in found)


class Lists(BaseModel):
    plain: list[int]
    bare: list
    optional: list[int] | None
    annotated: Annotated[list[int], Field(min_length=1)]
    inner: Annotated[list[int], "note"] | None
    pair: tuple[int, int]
    sequence: Sequence[float]
    words: set[str]
    scalar: int
    either: float | Literal["calibrated"] | None
    text: str
    octets: bytes
    mapping: dict[str, list[int]]


def test_takes_list_knows_lists_in_every_spelling() -> None:
    found = [key for key in Lists.model_fields if takes_list(Lists, key)]
    assert found == ["plain", "bare", "optional", "annotated", "inner", "pair", "sequence", "words"]
    assert not takes_list(Lists, "unknown")


# ---- messages -------------------------------------------------------------------------------------------------------


class Inner(Options):
    mem_mb: int = Field(default=1, ge=1)


class Outer(Options):
    train: Inner = Inner()
    bound: float | Literal["calibrated"] | None = None
    needed: int


def explained(prefix: str = "", **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer(**values)
    return explain(caught.value, Outer, prefix)


def test_explain_names_the_key_and_not_the_branch_of_a_union() -> None:
    said = explained("exchange", needed=1, bound="calbrated")
    assert said.startswith("exchange.bound: 'calbrated' is refused: input should be a valid number")
    assert said.endswith(" or input should be 'calibrated'")
    assert "more" not in said


def test_explain_finds_the_nearest_key_in_the_inner_model() -> None:
    assert explained(needed=1, train={"mem": 3}) == "unknown key 'train.mem'; did you mean 'mem_mb'?"
    assert explained(needed=1, train={"mem_mb": 0}) == (
        "train.mem_mb: 0 is refused: input should be greater than or equal to 1"
    )


def test_explain_says_what_is_missing_and_how_much_more() -> None:
    assert explained("x") == "the key 'x.needed' is missing; add it"
    assert explained("x", bound="a", train={"mem_mb": 0}).endswith(" (and 2 more)")


def test_nearest_and_shown_stay_short() -> None:
    assert nearest("x", []) == "nothing is possible here"
    assert nearest("silo", ["silos", "data"]) == "did you mean 'silos'?"
    bomb: Any = ["a"]
    for _ in range(40):
        bomb = [bomb] * 10  # ten to the fortieth letters, if written out
    assert len(shown(bomb)) < 2000
    assert len(shown("x" * 10_000)) < 100
    assert shown({"a": 1}) == "{'a': 1}"
