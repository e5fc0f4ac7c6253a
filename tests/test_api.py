"""Playing a run from Python: the same songs, words and bytes as the command line's."""

import dataclasses
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, call, chorale, make_song, rubato

import nemui_jax as nemui
from nemui_jax.errors import RecipeError, RunError, UsageError
from nemui_jax.evaluation import note_metrics
from nemui_jax.music import midi_writer
from nemui_jax.music.song import SONG_NOTE, Song, cut_song
from nemui_jax.runs.run import Run

pytestmark = pytest.mark.usefixtures("small_batches")


@pytest.fixture(scope="module")
def run(trained) -> nemui.LoadedRun:
    return nemui.load(trained.path)


def recipe_of(piece: nemui.Piece) -> dict:
    kind, _, text = piece.provenance.partition(" ")
    assert kind == "nemui_jax"
    return json.loads(text)


# What is imported when


def imported_by(code: str) -> set[str]:
    """The modules that a process has after some lines of Python."""
    program = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    return set(json.loads(output.splitlines()[-1]))


def test_importing_the_package_imports_nothing_slow():
    assert not {"jax", "flax", "numpy", "matplotlib", "rich"} & imported_by("import nemui_jax")


def test_songs_and_errors_need_no_jax(trained):
    code = f"""
import nemui_jax as nemui
run = nemui.load({str(trained.path)!r})
assert [song.name for song in run.songs] == ["a chorale", "repeats", "rubato"]
for wrong in (lambda: run.mix({{9: 1}}), lambda: run.song(0, key="X"), lambda: run.song(0, program=128)):
    try:
        wrong()
    except ValueError:
        continue
    raise SystemExit("not refused")
"""
    assert not {"jax", "flax", "orbax", "matplotlib"} & imported_by(code)


def test_all_that_is_exported_is_there():
    for name in {*nemui.__all__} - {"__version__"}:
        value = getattr(nemui, name)
        assert value.__module__.startswith("nemui_jax.") or name == "Block"  # a name for a dictionary of arrays
    assert set(nemui.__all__) == set(dir(nemui))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nemui.nothing  # noqa: B018


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="no run here"):
        nemui.load(tmp_path)


# Songs


def test_songs(run, trained):
    answer = call("songs", "--run", trained.path, "--json")
    assert [json.loads(json.dumps(dataclasses.asdict(song))) for song in run.songs] == json.loads(answer.out)
    assert [song.parts[0].instrument for song in run.songs] == ["Church Organ", "Acoustic Grand Piano", "Violin"]
    assert all(song.note_f1 == 1 for song in run.songs)
    assert "3 songs" in repr(run)


def test_a_song_by_index_name_and_path(run, songs_folder):
    file = songs_folder / "a chorale.mid"
    pieces = [run.song(song) for song in (0, np.int64(0), "0", "chorale", file, str(file))]
    for piece in pieces:
        assert piece.kind == "recall"
        np.testing.assert_array_equal(piece.notes, pieces[0].notes)
    assert note_metrics.note_scores(chorale().notes, pieces[0].notes).offset.f1 == 1
    assert pieces[0].seconds == pytest.approx(chorale().seconds, abs=0.05)
    np.testing.assert_array_equal(pieces[0].parents[0].notes["pitch"], chorale().notes["pitch"])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.song(3), "no song 3; the run has songs 0 to 2"),
        (lambda run: run.song(-1), "no song -1; the run has songs 0 to 2"),
        (lambda run: run.song("sonata"), "no song's name has 'sonata'"),
        (lambda run: run.song("none.mid"), "none.mid: no such file"),
        (lambda run: run.mix({}), "add up to 0"),
        (lambda run: run.mix({0: 1, "chorale": 1}), "song 0 is named twice"),
        (lambda run: run.mix({0: float("nan")}), "'0:nan': a weight must be a finite number"),
        (lambda run: run.morph([0]), "a morph of 0: name two songs at least"),
        (lambda run: run.morph([0, 1], weights=[[1, 0]]), r"weights of shape \(1, 2\) for 2 songs"),
        (lambda run: run.morph([0, 1], weights=[[1, 0], [0, 0]]), "above 0 for some song at each point"),
        (lambda run: run.perturb(0, -1), "noise of -1 in '0:-1'; it must be 0 to 1"),
        (lambda run: run.song(0, key="X"), "no key 'X'"),
        (lambda run: run.song(0, seconds=0), "seconds=0 is out of range"),
        (lambda run: run.song(0, program=128), "program=128 is not a program"),
        (lambda run: run.song(0, temperature=-1), "temperature=-1 is out of range"),
        (lambda run: run.mix({0: 1.5, 1: -0.5}), "the weight -0.5 in '0:1.5,1:-0.5' is below 0"),
        (lambda run: run.mix({0: 1}, factors=nemui.Factors(melody="sonata")), "no song's name has 'sonata'"),
        (
            lambda run: run.mix({0: 1}, factors=nemui.Factors(tempo="0:-1,1:2")),
            "the weight -1 in .* is below 0",
        ),
        (lambda run: run.song(0, factors=nemui.Factors(harmony=3)), "no song 3; the run has songs 0 to 2"),
        (lambda run: run.randoms(1, 2), "the best are fewer than all"),
        (lambda run: run.song(0).write("song.mp3"), "song.mp3: a piece is written to a .mid, a .wav or a .png"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, ask, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RecipeError, UsageError), match=message) as caught:
        ask(run)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# What the command line gives is what Python gives


@pytest.mark.parametrize(
    ("arguments", "ask"),
    [
        (["--song", "rubato", "--seed", 3], lambda run: run.song("rubato", seed=3)),
        (["--mix", "0:0.5,rubato:0.5"], lambda run: run.mix({0: 0.5, "rubato": 0.5})),
        (
            ["--mix", "0:1,1:1.5,2:2", "--key", "F#m", "--program", 0, "--seconds", 7, "--temperature", 0.5],
            lambda run: run.mix({0: 1, 1: 1.5, 2: 2}, key="F#m", program=0, seconds=7.0, temperature=0.5),
        ),
        (
            ["--mix", "0:0.5,1:0.5", "--melody", "rubato", "--tempo", "0:0.25,1:0.75"],
            lambda run: run.mix({0: 0.5, 1: 0.5}, factors=nemui.Factors(melody="rubato", tempo="0:0.25,1:0.75")),
        ),
        (["--morph", "0,2,1", "--seconds", 12], lambda run: run.morph([0, 2, 1], seconds=12.0)),
        (["--perturb", "0:0.1", "--seed", 3], lambda run: run.perturb(0, 0.1, seed=3)),
        (["--random", "--seed", 1, "--seconds", 9], lambda run: run.random(seed=1, seconds=9.0)),
    ],
)
def test_the_same_bytes_as_the_command_line(run, arguments, ask, tmp_path):
    answer = call("sample", "--run", run.run.path, *arguments, "--out", tmp_path / "a.mid")
    assert answer.code == 0, answer.err
    piece = ask(run)
    piece.write(tmp_path / "b.mid")
    assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()
    assert recipe_of(piece)["run"] == run.fingerprint


def test_options_stand_in_the_provenance(run):
    piece = run.mix({0: 0.25, "rubato": 0.75}, key=0, program=0, seconds=3.0, seed=2)
    told = {"mix": "0:0.25,rubato:0.75", "seconds": 3.0, "key": 0, "program": 0, "seed": 2, "run": run.fingerprint}
    assert recipe_of(piece) == told
    assert recipe_of(run.song(1)) == {"song": "1", "seed": 0, "run": run.fingerprint}
    assert set(piece.notes["program"]) == {0}
    assert piece.seconds <= 3


# Pieces


def test_a_piece_of_a_mix(run):
    piece = run.mix({0: 1, 2: 3}, seconds=5)
    assert piece.kind == "mix"
    assert piece.notes is piece.song.notes
    assert piece.notes.dtype == SONG_NOTE
    assert piece.seconds == piece.song.seconds <= 5
    assert [parent.name for parent in piece.parents] == ["a chorale 0.25", "rubato 0.75"]
    assert all(parent.seconds <= piece.seconds for parent in piece.parents)
    assert f"{len(piece.notes)} notes" in repr(piece)
    assert len(repr(piece)) < 200


def test_a_new_song_names_the_one_it_is_most_like(run):
    piece = run.random(seed=1, seconds=9)
    assert (piece.kind, piece.parents) == ("new", ())
    assert piece.remark.startswith("nearest song ")
    assert len(piece.notes) > 0


def test_a_roll_has_each_note_at_its_velocity():
    song = make_song([(0.0, 0.1, 60, 50), (0.2, 0.25, 61, 127), (0.1, 0.3, 60, 99)])
    piece = nemui.Piece(song, (), "mix", "")
    roll = piece.roll()
    assert roll.dtype == np.uint8
    assert roll[:, 60].tolist()[:7] == [50, 50, 99, 99, 99, 99, 0]
    assert roll[:, 61].tolist()[:6] == [0, 0, 0, 0, 127, 0]
    assert not np.delete(roll, [60, 61], axis=1).any()
    assert piece.roll(0.1)[:, 60].tolist()[:4] == [50, 99, 99, 0]
    assert not nemui.Piece(Song(()), (), "mix", "").roll().any()


def test_sound(run, tmp_path):
    piece = run.song(0, seconds=1)
    samples = piece.audio()
    assert samples.shape[1] == 2
    assert piece.seconds < len(samples) / 44100 < piece.seconds + 9  # its pedal is down at the end
    assert 0 < np.abs(samples).max() <= 1
    piece.write(tmp_path / "new" / "a.WAV")
    with wave.open(str(tmp_path / "new" / "a.WAV")) as file:
        assert (file.getframerate(), file.getnframes()) == (44100, len(samples))


@pytest.mark.parametrize(
    ("ask", "axes"),
    [
        (lambda run: run.song(0), 2),
        (lambda run: run.morph([0, 1]), 2),
        (lambda run: run.morph([0, 1], weights=[[1, 0.5], [0, 0.5]]), 8),
        (lambda run: run.mix({0: 0.5, 1: 0.5}), 8),
    ],
)
def test_pictures(run, ask, axes, tmp_path):
    piece = ask(run)
    assert len(piece.plot().axes) == pytest.approx(axes, abs=1)  # a second axis of bars may be there
    piece.write(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_without_the_extra_pictures_say_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.delattr("nemui_jax.outputs.plots", raising=False)
    monkeypatch.setitem(sys.modules, "nemui_jax.outputs.plots", None)
    for ask in (run.song(0).plot, lambda: run.song(0).write(tmp_path / "a.png")):
        with pytest.raises(UsageError, match=r"-m pip install -e '?\S*\[plots\]"):
            ask()
    assert list(tmp_path.iterdir()) == []


# Morphs by weights of one's own


def test_weights_of_ones_own_give_what_they_say(run):
    """At a weight of 1 nothing but that song is heard."""
    piece = run.morph([0, 2], weights=[[1, 1, 0, 0], [0, 0, 1, 1]], seconds=6)
    assert (piece.kind, piece.stops) == ("morph", ())
    assert recipe_of(piece)["weights"] == [[1, 1, 0, 0], [0, 0, 1, 1]]
    notes = piece.song.notes
    first, last = notes[notes["onset"] < 1.9], notes[notes["onset"] > 4.1]
    assert chorale().program in first["program"] and rubato().program in last["program"]


def test_weights_of_ones_own_are_scaled(run):
    once = run.morph([0, 1], weights=[[1, 1], [1, 3]])
    again = run.morph([0, 1], weights=np.array([[0.5, 0.25], [0.5, 0.75]]))
    np.testing.assert_array_equal(once.notes, again.notes)


# Songs that the run has not seen


def test_a_file_is_learned_for_one_piece(trained, tmp_path):
    stranger = make_song([(0.3 * i, 0.3 * i + 0.25, 65 + (5 * i) % 12, 60 + i) for i in range(16)])
    midi_writer.write(stranger, tmp_path / "stranger.mid")
    before = {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}
    lines = []
    run = nemui.load(trained.path, lines.append)
    piece = run.song(tmp_path / "stranger.mid")
    assert note_metrics.note_scores(stranger.notes, piece.notes).onset.f1 > 0.9
    assert "stranger.mid: not in the run; fitting it" in lines[0]
    assert "stranger.mid: learned for this output, note F1 " in lines[-2]
    assert lines[-1].startswith("to keep it: ") and "add --file" in lines[-1]
    assert len(run.songs) == 3
    assert before == {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}


# The functions underneath


def test_only_the_songs_that_are_played_are_read(trained, monkeypatch, tmp_path):
    read, song = [], Run.song
    monkeypatch.setattr(Run, "song", lambda run, index: read.append(index) or song(run, index))
    nemui.load(trained.path).mix({0: 0.5, 2: 0.5})
    assert read == [0, 2]
    midi_writer.write(
        make_song([(0.3 * i, 0.3 * i + 0.25, 65 + (5 * i) % 12) for i in range(16)]), tmp_path / "new.mid"
    )
    nemui.load(trained.path).mix({tmp_path / "new.mid": 0.5, 1: 0.5})
    assert read == [0, 2, 1]


def test_cut():
    song = make_song([(0.0, 1.0, 60), (0.5, 3.0, 61), (2.0, 3.0, 62)], pedal=[(0.1, 127), (2.5, 0)])
    short = cut_song(song, 2.0)
    assert short.notes["end"].tolist() == [1.0, 2.0]
    assert short.pedal["time"].tolist() == [0.1]
    assert song.notes["end"].tolist() == [1.0, 3.0, 3.0]


def test_types_are_shipped():
    assert (Path(nemui.__file__).parent / "py.typed").is_file()
