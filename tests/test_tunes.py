import textwrap
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from nemui_jax.music import midi_reader, tunes

SONGS = {tune.name: tunes.song(tune) for tune in tunes.TUNES}
TOP_NOTES = {  # the first notes of a voice, by tune and voice
    ("prelude-in-c", 0): [67, 72, 76, 67, 72, 76],
    ("minuet-in-g", 0): [74, 67, 69, 71, 72, 74, 67, 67],
    ("fur-elise", 0): [76, 75, 76, 75, 76, 71, 74, 72, 69],
    ("ode-to-joy", 1): [54, 54, 55, 57, 57, 55, 54, 52, 50, 50, 52, 54, 54, 52, 52],
    ("canon-in-d", 2): [50, 45, 47, 42, 43, 38, 43, 45],
    ("amazing-grace", 0): [63, 68, 72, 68, 72, 70, 68, 65, 63],
    ("mountain-king", 0): [47, 49, 50, 52, 54, 50, 54, 53, 49, 53, 52, 48, 52],
    ("blue-danube", 0): [62, 62, 66, 69, 69],
}


def make(*voices: str, **others) -> tunes.Tune:
    return tunes.Tune("test", "Test", "", "none", (4, 4), 120.0, voices, **{"roll": 0.0, **others})


def notes(text: str, **others) -> list[tuple]:
    found, _ = tunes.parse_voice(make(text, **others), 0)
    return [(note.pitch, note.start, note.length) for note in found]


def levels(text: str) -> list[float]:
    return [note.level for note in tunes.parse_voice(make(text), 0)[0]]


@pytest.mark.parametrize("tune", tunes.TUNES, ids=lambda tune: tune.name)
def test_tune_is_playable(tune):
    found = SONGS[tune.name]
    rows = found.notes
    assert 20 <= found.seconds <= 90
    assert len(tune.voices) >= 2
    assert rows["pitch"].min() >= 21
    assert rows["pitch"].max() <= 108
    assert rows["velocity"].max() - rows["velocity"].min() >= 30
    assert len(np.unique(rows["velocity"])) >= 15
    assert (rows["end"] - rows["onset"]).min() > 0.02
    assert np.array_equal(np.lexsort((rows["pitch"], rows["onset"])), np.arange(len(rows)))
    assert set(rows["channel"]) == {0}
    assert found.program == tune.program
    assert tune.title in found.name
    assert tune.composer in found.name
    for array in (found.parts[0].notes, found.parts[0].controls, found.meters):
        assert not array.flags.writeable
        assert (np.diff(array[array.dtype.names[0]]) >= 0).all()
    assert (len(found.pedal) > 0) == bool(tune.pedal)
    if tune.pedal:
        assert found.pedal["value"][-1] == 0
        assert found.pedal["time"][-1] < found.seconds + 3


def test_no_note_overlaps_itself():
    for found in SONGS.values():
        last = defaultdict(float)
        for row in found.notes:
            assert row["onset"] >= last[row["pitch"]]
            last[row["pitch"]] = row["end"]


def test_tunes_are_varied():
    assert len(tunes.TUNES) >= 12
    assert len({tune.name for tune in tunes.TUNES}) == len(tunes.TUNES)
    assert len({tune.style for tune in tunes.TUNES}) >= 4
    assert len({tune.meter for tune in tunes.TUNES}) >= 4
    assert len({tune.program for tune in tunes.TUNES}) >= 3
    assert 2 * sum(bool(tune.pedal) for tune in tunes.TUNES) >= len(tunes.TUNES)


@pytest.mark.parametrize(("name", "voice"), TOP_NOTES)
def test_first_notes_are_those_of_the_work(name, voice):
    tune = next(tune for tune in tunes.TUNES if tune.name == name)
    first = [note.pitch for note in tunes.parse_voice(tune, voice)[0]]
    assert first[: len(TOP_NOTES[name, voice])] == TOP_NOTES[name, voice]


def test_notation():
    quarter, eighth = Fraction(1, 4), Fraction(1, 8)
    assert notes("C4:4 D#4 Bb3:8 r <C4 G4>:4") == [
        (60, 0, quarter),
        (63, quarter, quarter),
        (58, 2 * quarter, eighth),
        (60, 3 * quarter, quarter),
        (67, 3 * quarter, quarter),
    ]
    assert [length for _, _, length in notes("C4:4. D4:8 E4:4.. F4:16")] == [
        Fraction(3, 8),
        Fraction(1, 8),
        Fraction(7, 16),
        Fraction(1, 16),
    ]
    assert notes("[ C4:12 D4 E4 ]x4")[3] == (60, quarter, Fraction(1, 12))


def test_voice_in_the_documentation():
    example = next(line for line in (tunes.__doc__ or "").splitlines() if line.startswith("    !"))
    found = notes(example)
    assert found[-1] == (60, 3, 1)
    assert len(found) == 2 + 2 + 12 + 3 + 1


def test_file_in_the_documentation(tmp_path):
    block = next(block for block in (tunes.__doc__ or "").split("\n\n") if block.startswith("    title"))
    path = tmp_path / "01-a-waltz.toml"
    path.write_text(textwrap.dedent(block))
    tune = tunes.read(path)
    assert (tune.name, tune.meter, tune.tempos) == ("a-waltz", (3, 4), ((3, 110.0), (4, 92.5)))
    melody, accompaniment = ([note.pitch for note in tunes.parse_voice(tune, voice)[0]] for voice in (0, 1))
    assert melody == [67, 76, 79, 77, 74, 88, 91, 89, 86]
    assert accompaniment == [48, 52, 55, 52, 55, 47, 50, 55, 50, 55] * 2
    assert tunes.song(tune).name == "A Waltz (Nobody)"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("title = ", "Invalid value"),
        ("tempo = 90", "'voices' is missing"),
        ("key = 'C'", "no field 'key'; there are composer, "),
        ("[voices]\na = '{theme}'", "no phrase 'theme' above {theme}"),
        ("[phrases]\na = '{b}'\nb = 'C4'\n[voices]\na = '{a}'", "no phrase 'b' above {b}"),
        ("[phrases]\na = '$1 $2'\nb = 'C4 D4 | E4'\n[voices]\na = '{a(b)}'", "too few pitches in the bar 'E4'"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, what):
    path = tmp_path / "01-test.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^01-test.toml: .*{what}"):
        tunes.read(path)


def test_repeats_and_pickups():
    assert [pitch for pitch, _, _ in notes("[ [ C4:4 ]x2 D4:2 | ]x2 E4:1")] == [60, 60, 62, 60, 60, 62, 64]
    assert notes("G4:4 | C4:1", pickup=Fraction(1, 4))[1] == (60, Fraction(1, 4), 1)


def test_ties_join_notes():
    assert notes("C4:2 <E4 G4>:2~ | <E4 G4>:4 C4:2.") == [
        (60, 0, Fraction(1, 2)),
        (64, Fraction(1, 2), Fraction(3, 4)),
        (67, Fraction(1, 2), Fraction(3, 4)),
        (60, Fraction(5, 4), Fraction(3, 4)),
    ]
    assert notes("C4:1~ | C4~ | C4") == [(60, 0, 3)]


def test_dynamics_and_hairpins():
    assert levels("C4:4 !p C4 !f C4 C4") == [67, 45, 81, 81]
    assert levels("!p C4:4 !< C4 C4 !f C4") == pytest.approx([45, 45, 63, 81], abs=0.01)
    assert levels("!f C4:4 !> C4 C4 !p C4") == pytest.approx([81, 81, 63, 45], abs=0.01)
    assert levels("C4:2^ C4")[0] > levels("C4:2 C4")[0]
    loud, soft = (tunes.song(make(f"!{mark} [ C4:4 ]x4")).notes["velocity"].mean() for mark in ("f", "p"))
    assert loud - soft == pytest.approx(81 - 45, abs=1)


def test_articulation():
    rows = tunes.song(make("C4:4 D4:4' %50 E4 F4")).notes
    assert (rows["end"] - rows["onset"]).tolist() == pytest.approx([0.475, 0.225, 0.25, 0.25], abs=0.016)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("C4:1 | C4:2 D4:8 | C4:1", "bar 2: lasts 5/8 of a whole note, expected 1"),
        ("C4:1 | C4:2", "bar 2: lasts 1/2"),
        ("C4:1 | | C4:1", "bar 2: lasts 0"),
        ("C4:1 | H4:1", "cannot read 'H4:1'"),
        ("C4:0", "bar 1: no duration 0"),
        ("C4:1~ | D4", "bar 2: a tie"),
        ("C4:1~", "bar 1: a tie"),
        ("[ C4:1", r"\[ without \]"),
        ("C4:1 ]x2", r"\] without \["),
        ("C4:1 | !fp C4:1", "bar 2: no dynamic !fp"),
        ("C4:1 | !< C4:1", "bar 2: the hairpin !< leads to no dynamic"),
        ("C4:1 | !< C4:1 | !p C4", "bar 3: the hairpin !< leads to !p"),
    ],
)
def test_mistakes_are_named(text, what):
    with pytest.raises(ValueError, match=f"^test, voice 2, .*{what}"):
        tunes.song(make("C4:1 | C4:1 | C4:1", text))


def test_wrong_bar_of_a_real_tune_is_named():
    tune = tunes.TUNES[1]
    broken = replace(tune, voices=(tune.voices[0].replace("| D5:4 G4 G4 |", "| D5:4 G4 |", 1), tune.voices[1]))
    with pytest.raises(ValueError, match=f"{tune.name}, voice 1, bar 2: lasts 1/2"):
        tunes.song(broken)


def test_voices_of_different_length_are_refused():
    with pytest.raises(ValueError, match="test: the voices last 1, 2"):
        tunes.song(make("C4:1", "C4:1 | C4"))


def test_unisons_are_one_note_and_long_notes_are_cut():
    rows = tunes.song(make("C4:1", "C4:2 C4")).notes
    assert rows["pitch"].tolist() == [60, 60]
    assert rows["end"][0] == rows["onset"][1]


def test_timing_stays_close_to_the_score_and_is_repeatable():
    tune = make("[ C4:8 D4 E4 F4 ]x2 | [ C4:8 D4 E4 F4 ]x2", tempos=((2, 60.0),))
    rows = tunes.song(tune).notes
    places = np.concatenate([np.arange(8) * 0.25, 2 + np.arange(8) * 0.5])
    shifts = rows["onset"] - places
    assert 0.001 < np.abs(shifts).max() <= tunes.MAX_SHIFT_SECONDS
    assert np.array_equal(rows, tunes.song(tune).notes)
    assert [column.tolist() for column in tunes.song(tune).tempo_map[1:]] == [[0.0, 2.0], [0.5, 1.0]]


def test_pedal_and_pickup():
    found = tunes.song(make("C4:4 | C4:1 | D4", pickup=Fraction(1, 4), pedal="half"))
    assert found.meters.tolist() == [(0.0, 1, 4), (0.5, 4, 4)]
    assert found.pedal["value"].tolist() == [127, 0, 127, 0, 127, 0, 127, 0]
    assert found.pedal["time"][:3].tolist() == pytest.approx([0.57, 1.51, 1.57])


def test_write_all(tmp_path):
    paths = tunes.write_all(tmp_path / "new" / "folder")
    assert paths == sorted(paths)
    assert [path.name for path in paths[:2]] == ["01-prelude-in-c.mid", "02-minuet-in-g.mid"]
    for tune, path in zip(tunes.TUNES, paths, strict=True):
        read, made = midi_reader.read(path), SONGS[tune.name]
        assert path.name.endswith(f"-{tune.name}.mid")
        assert len(read.notes) == len(made.notes)
        by_pitch = [np.sort(found.notes[["pitch", "onset"]], order=["pitch", "onset"]) for found in (read, made)]
        assert np.array_equal(by_pitch[0]["pitch"], by_pitch[1]["pitch"])
        assert np.abs(by_pitch[0]["onset"] - by_pitch[1]["onset"]).max() < 0.002
        assert len(read.pedal) == len(made.pedal)
        assert read.program == tune.program
        assert read.warnings == ()
