from __future__ import annotations

import numpy as np
import pytest

from fedbound import data, study
from fedbound.data.datasets.text import speeches
from fedbound.errors import InputError
from fedbound.registry import DATASETS

PLAY = """A heading that nobody speaks.

Juliet:
O Romeo, Romeo!
wherefore art thou?

Romeo:
Shall I hear more: or
speak?

Nurse:

Juliet:
'Tis but thy name.
"""


def load(**options) -> data.Dataset:
    return DATASETS.get("text", **options).load()


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(PLAY, encoding="utf-8")
    return str(path)


def test_speeches_belong_to_speakers_and_headings_to_nobody():
    assert speeches(PLAY) == {
        "Juliet": "O Romeo, Romeo!\nwherefore art thou?\n'Tis but thy name.\n",
        "Romeo": "Shall I hear more: or\nspeak?\n",
        "Nurse": "\n",
    }


def test_windows_follow_each_other_and_targets_are_the_next_characters(play):
    made = load(path=play, context=8)
    alphabet = sorted(set(PLAY))
    assert (made.classes, made.x.dtype, made.y.dtype, made.x.shape) == (len(alphabet), np.uint8, np.uint8, made.y.shape)
    text = {name: "".join(alphabet[t] for t in made.x[made.owner == n].ravel()) for n, name in enumerate("JR")}
    spoken = list(speeches(PLAY).values())
    for number, name in enumerate("JR"):
        assert spoken[number].startswith(text[name])
        assert len(spoken[number]) - len(text[name]) <= 8
        targets = "".join(alphabet[t] for t in made.y[made.owner == number].ravel())
        assert targets == spoken[number][1 : len(targets) + 1]
    assert set(made.owner.tolist()) == {0, 1}  # the nurse says less than a window


def test_a_text_without_speakers_is_one_and_has_no_owners(play, tmp_path):
    whole = load(path=play, context=8, speakers=False)
    assert whole.owner is None
    assert len(whole) == (len(PLAY) - 1) // 8
    (tmp_path / "prose.txt").write_text("Call me Ishmael. " * 20)
    assert load(path=str(tmp_path / "prose.txt")).owner is None
    choice = {"name": "text", "path": play, "context": 8, "speakers": False}
    with pytest.raises(InputError, match="by speaker, and none is named"):
        data.federation(study.Data(dataset=choice, silos=2))
    with pytest.raises(InputError, match="owner"):
        data.federation(study.Data(dataset=choice, silos=2, partition="natural"))
    assert data.federation(study.Data(dataset=choice, silos=2, partition="iid")).classes == len(set(PLAY))


def test_a_folder_has_one_file_per_silo_and_one_alphabet(tmp_path):
    (tmp_path / "a.txt").write_text("abab" * 5)
    (tmp_path / "b.txt").write_text("cбцд" * 4, encoding="utf-8")
    made = load(path=str(tmp_path), context=4)
    assert made.classes == 6
    assert made.owner.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert made.x[0].tolist() == [0, 1, 0, 1]
    assert made.x[4].tolist() == [2, 3, 5, 4]


def test_many_characters_take_a_wider_type(tmp_path):
    path = tmp_path / "wide.txt"
    path.write_text("".join(chr(0x4E00 + n) for n in range(300)), encoding="utf-8")
    made = load(path=str(path), context=10)
    assert made.x.dtype == made.y.dtype == np.int32
    np.testing.assert_array_equal(made.y.ravel(), np.arange(1, 291))


def test_an_alphabet_fixes_the_numbers(tmp_path):
    (tmp_path / "a.txt").write_text("bdbd" * 5)
    made = load(path=str(tmp_path / "a.txt"), context=4, alphabet="dcba")
    assert made.classes == 4
    assert made.x[0].tolist() == [1, 3, 1, 3]
    with pytest.raises(InputError, match="holds 'd', which is not in it"):
        load(path=str(tmp_path / "a.txt"), context=4, alphabet="abc")


def test_what_cannot_be_used_is_refused(tmp_path, play):
    with pytest.raises(InputError, match="does not exist"):
        load(path=str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="context"):
        load(path=play, context=1000)
    (tmp_path / "latin.txt").write_bytes("Élise".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt.*UTF-8"):
        load(path=str(tmp_path / "latin.txt"))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="context"):
        load(path=str(tmp_path / "empty.txt"))


def test_speakers_of_shakespeare_are_dealt_to_silos_whole(test_data):
    choice = {"name": "text", "path": str(test_data / "tinyshakespeare" / "input.txt")}
    whole = data.load(choice)
    assert whole.classes == 65
    config = study.Data(dataset=choice, silos=4, partition="natural")
    parts = data.partition(config, whole)
    speakers = [set(whole.owner[part].tolist()) for part in parts]
    assert sum(len(one) for one in speakers) == len(set(whole.owner.tolist())) > 200
    assert sum(len(part) for part in parts) == len(whole) > 15_000
    assert max(map(len, parts)) - min(map(len, parts)) <= 1  # the small speakers even the silos out
    made = data.federation(config)
    assert made.shape == (64,)
    assert made.silos[0].train.y.shape == made.silos[0].train.x.shape


@pytest.mark.parametrize("partition", ["dirichlet", {"name": "dirichlet", "sizes": "equal"}, "quantity", "iid"])
def test_other_partitions_deal_windows(test_data, partition):
    choice = {"name": "text", "path": str(test_data / "tinyshakespeare" / "input.txt")}
    whole = data.load(choice)
    parts = data.partition(study.Data(dataset=choice, silos=3, partition=partition), whole)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(whole)))
