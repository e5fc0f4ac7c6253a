"""Recipes: what a person writes, right and wrong."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemui_jax import recipe
from nemui_jax.data import dataset
from nemui_jax.errors import RecipeError

NAMES = ("Prelude in C", "Fugue in C minor", "Nocturne", "nocturne no 2", "Für Elise", "1812")
SHIFTS = (0, 0, 3, -4, 3, -3)
ENTRIES = tuple(
    dataset.SongEntry(name, f"{name}.mid", f"{index:064x}", 10.0, 200, 50, 100, "C", shift, (), "steady", 1.0)
    for index, (name, shift) in enumerate(zip(NAMES, SHIFTS, strict=True))
)


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "a file.MID").write_bytes(b"")
    return tmp_path / "a file.MID"


def refused(call, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        call(text, ENTRIES)
    message = str(caught.value)
    assert message.isprintable()  # one line, and no control of a terminal
    return message


# Songs


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("0", 0),
        ("5", 5),
        (" 3 ", 3),
        ("fugue", 1),
        ("FÜR", 4),
        ("C minor", 1),
        ("Nocturne", 2),  # the whole name, though others have it in theirs
        ("nocturne no", 3),
        ("prelude", 0),
    ],
)
def test_song(name, index):
    assert recipe.find_song(name, ENTRIES) == index


def test_song_in_a_file(file):
    assert recipe.find_song(str(file), ENTRIES) == file
    assert recipe.find_songs(f"0,{file}", ENTRIES) == [0, file]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("6", "no song 6; the run has songs 0 to 5"),
        ("999", "no song 999; the run has songs 0 to 5"),
        ("", "a song is missing; give an index, a part of a name or a path"),
        ("  ", "a song is missing"),
        ("-1", "no song's name has '-1' in it (see: "),
        ("1.5", "no song's name has '1.5'"),
        ("sonata", "no song's name has 'sonata' in it"),
        ("in C", "2 songs have 'in C' in their names: 0 Prelude in C, 1 Fugue in C minor; use more of the name"),
        ("none.mid", "none.mid: no such file"),
        ("a\x1b[2J\n.mid", r"a\x1b[2J\n.mid: no such file"),
        ("a\nb", r"no song's name has 'a\\nb' in it"),
    ],
)
def test_song_that_is_not_there(name, message):
    assert message in refused(recipe.find_song, name)


def test_ambiguous_names_are_listed_up_to_five():
    many = [dataclasses.replace(ENTRIES[0], name=f"song {index}") for index in range(9)]
    with pytest.raises(RecipeError, match=r"^9 songs have 'song' in their names: 0 song 0, .*4 song 4; use more"):
        recipe.find_song("song", many)


def test_songs():
    assert recipe.find_songs("all", ENTRIES) == recipe.find_songs(" all ", ENTRIES) == [0, 1, 2, 3, 4, 5]
    assert recipe.find_songs("3, fugue,0", ENTRIES) == [3, 1, 0]


@pytest.mark.parametrize("text", ["", ",", "0,", "0,,1", "0,6", "0 1", "all,0"])
def test_wrong_songs(text):
    refused(recipe.find_songs, text)


# Weights


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("0:0.5,3:0.5", {0: 0.5, 3: 0.5}),
        ("0:1,3:3", {0: 0.25, 3: 0.75}),
        ("0,3", {0: 0.5, 3: 0.5}),
        ("fugue:2,0", {1: 2 / 3, 0: 1 / 3}),
        (" 0 : 1e1 , 2:10 ", {0: 0.5, 2: 0.5}),
        ("4:7", {4: 1.0}),
        ("0:0,1:2", {1: 1.0}),  # what has no weight is not played
    ],
)
def test_weights(text, weights):
    found = recipe.find_weights(text, ENTRIES)
    assert list(found) == list(weights)
    assert list(found.values()) == pytest.approx(list(weights.values()))


def test_weights_of_a_file(file):
    assert recipe.find_weights(f"{file}:1,0:3", ENTRIES) == {file: 0.25, 0: 0.75}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("999:1", "no song 999; the run has songs 0 to 5"),
        ("0:nan", "'0:nan': a weight must be a finite number"),
        ("0:1,1:inf", "'1:inf': a weight must be a finite number"),
        ("0:1,1:-inf", "'1:-inf': a weight must be a finite number"),
        ("0:0", "the weights in '0:0' add up to 0; choose some with a sum such as 1"),
        ("0:1.5,1:-0.5", "the weight -0.5 in '0:1.5,1:-0.5' is below 0; give 0 or more"),
        ("0:0.5,1:-0.5", "is below 0"),
        ("", "a song is missing"),
        (",", "a song is missing"),
        (":", "a song is missing"),
        (":1", "a song is missing"),
        ("0:", "'0:': '' is not a number; write SONG:NUMBER"),
        ("0:half", "'0:half': 'half' is not a number; write SONG:NUMBER"),
        ("0:1:2", "no song's name has '0:1' in it"),
        ("0:1,0:1", "song 0 is named twice in '0:1,0:1'; name each song once"),
        ("fugue:1,1:1", "song 1 is named twice"),
        ("0:1,", "a song is missing"),
        ("sonata:1", "no song's name has 'sonata' in it"),
        ("in C:1", "2 songs have 'in C' in their names"),
        ("none.mid:1", "none.mid: no such file"),
        ("0:1\n", None),  # a space like any other
        ("0:\x1b[2J", "is not a number"),
    ],
)
def test_wrong_weights(text, message):
    if message is None:
        assert recipe.find_weights(text, ENTRIES) == {0: 1.0}
    else:
        assert message in refused(recipe.find_weights, text)


def test_weights_whose_sum_is_not_finite():
    refused(recipe.find_weights, "0:1e308,1:1e308")


@pytest.mark.parametrize("text", ["9" * 5000, "x" * 5000 + ".mid"], ids=["index", "path"])
def test_endless_names(text):
    with pytest.raises(RecipeError):
        recipe.find_song(text, ENTRIES)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("0123456789:,.- eniaf\n\x1b"), max_size=20) | st.text(max_size=10))
@example("0:\u0661")  # a digit, of another script
def test_any_text_is_a_recipe_or_a_recipe_error(text):
    errors = []
    for call in (recipe.find_song, recipe.find_songs, recipe.find_weights, recipe.find_noise, recipe.find_shift):
        try:
            found = call(text, ENTRIES)
        except RecipeError as error:
            errors.append(str(error))
            continue
        if call is recipe.find_weights:
            assert sum(found.values()) == pytest.approx(1)
            assert min(found.values()) > 0
            assert all(0 <= song < len(ENTRIES) for song in found if isinstance(song, int))
    assert all(map(str.isprintable, errors))


# Noise


def test_noise():
    assert recipe.find_noise("0:0.3", ENTRIES) == (0, 0.3)
    assert recipe.find_noise("fugue:0", ENTRIES) == (1, 0.0)
    index, amount = recipe.find_noise("fugue", ENTRIES)
    assert index == 1
    assert amount > 0  # enough to hear


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:-1", "noise of -1 in '0:-1'; it must be 0 to 1"),
        ("0:1.5", "noise of 1.5 in '0:1.5'; it must be 0 to 1"),
        ("0:nan", "must be a finite number"),
        ("0:loud", "'loud' is not a number"),
        ("9:1", "no song 9"),
        ("", "a song is missing"),
    ],
)
def test_wrong_noise(text, message):
    assert message in refused(recipe.find_noise, text)


# Keys


@pytest.mark.parametrize(
    ("text", "shift"),
    [
        ("C", 0),
        ("Cm", 0),
        ("Eb", -3),
        ("eb", -3),
        ("D#", -3),
        ("F#m", -6),
        ("Gb", -6),
        ("G", 5),
        (" Bbm ", 2),
        ("B", 1),
        ("2", 3),  # the key of song 2
        ("no 2", -4),
    ],
)
def test_key(text, shift):
    assert recipe.find_shift(text, ENTRIES) == shift


@pytest.mark.parametrize("text", ["", "H", "Xm", "C##", "9", "in C"])
def test_wrong_key(text):
    refused(recipe.find_shift, text)


def test_key_of_a_file(file):
    assert re.search("give one such as C, Eb or F#m, or a song of the run", refused(recipe.find_shift, str(file)))
