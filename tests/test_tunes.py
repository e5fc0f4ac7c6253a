import textwrap
from collections import defaultdict
from dataclasses import fields, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nemui_jax.music import midi_reader, midi_writer, notation, tunes
from nemui_jax.music.clock import choose_clock
from nemui_jax.music.key import estimate_key
from nemui_jax.music.song import PITCH_BEND, Song

MODULATION, VOLUME, PAN, EXPRESSION = 1, 7, 10, 11
BANDS = [tune for tune in tunes.TUNES if len(tune.parts) > 1]
TOP_NOTES = {  # the first notes of a voice, by tune and voice, of a band by part
    ("prelude-in-c", 0): [67, 72, 76, 67, 72, 76],
    ("minuet-in-g", 0): [74, 67, 69, 71, 72, 74, 67, 67],
    ("fur-elise", 0): [76, 75, 76, 75, 76, 71, 74, 72, 69],
    ("ode-to-joy", 1): [54, 54, 55, 57, 57, 55, 54, 52, 50, 50, 52, 54, 54, 52, 52],
    ("canon-in-d", 2): [50, 45, 47, 42, 43, 38, 43, 45],
    ("amazing-grace", 0): [63, 68, 72, 68, 72, 70, 68, 65, 63],
    ("mountain-king", 0): [47, 49, 50, 52, 54, 50, 54, 53, 49, 53, 52, 48, 52],
    ("blue-danube", 0): [62, 62, 66, 69, 69],
    ("when-the-saints", 0): [70, 74, 75, 77, 70, 74, 75, 77],
    ("oh-susanna", 0): [67, 69, 71, 74, 74, 76, 74, 71, 67, 69],
    ("scarborough-fair", 0): [62, 62, 69, 69, 69, 64, 65, 64, 62],
    ("drunken-sailor", 1): [71, 71, 71, 71, 71, 71, 71, 64, 67, 71],
}
KEYS = {  # in which the bands play
    "when-the-saints": "Bb",
    "oh-susanna": "G",
    "scarborough-fair": "Dm",
    "drunken-sailor": "Em",
    "late-bus-blues": "A",
    "night-tram": "Cm",
    "paper-boats": "F",
}


@cache
def songs() -> dict[str, Song]:
    """All built-in tunes by name."""
    return {tune.name: tunes.song(tune) for tune in tunes.TUNES}


def make(*voices: str, **others) -> tunes.Tune:
    """A tune in 4/4 at 120 with one part, whose fields may be given too."""
    of_part = {field.name for field in fields(tunes.TunePart)} & others.keys()
    part = tunes.TunePart(voices, **{"roll": 0.0, **{name: others.pop(name) for name in of_part}})
    return tunes.Tune("test", "Test", "", "none", (4, 4), 120.0, **{"parts": (part,), **others})


def parse(tune: tunes.Tune, part: int = 0, voice: int = 0) -> list[notation.Event]:
    found = tune.parts[part]
    return notation.parse_voice(found.voices[voice], tune.meter, tune.pickup, tune.name, found.is_drums).notes


def notes(text: str, **others) -> list[tuple]:
    return [(note.pitch, note.start, note.length) for note in parse(make(text, **others))]


def levels(text: str) -> list[float]:
    return [note.level for note in parse(make(text))]


def curve(text: str, controller: int, **others) -> tuple[list[float], list[int]]:
    """Times and values of a controller in a tune of one voice."""
    controls = tunes.song(make(text, **others)).parts[0].controls
    found = controls[controls["controller"] == controller]
    return found["time"].tolist(), found["value"].tolist()


@pytest.mark.parametrize("tune", tunes.TUNES, ids=lambda tune: tune.name)
def test_tune_is_playable(tune):
    found = songs()[tune.name]
    rows = found.notes
    assert 20 <= found.seconds <= 90
    assert sum(len(part.voices) for part in tune.parts) >= 2
    assert rows["pitch"].min() >= 21
    assert rows["pitch"].max() <= 108
    assert rows["velocity"].max() - rows["velocity"].min() >= 30
    assert len(np.unique(rows["velocity"])) >= 15
    assert (rows["end"] - rows["onset"]).min() > 0.02
    assert tune.title in found.name
    assert tune.composer in found.name
    assert choose_clock(found).kind == "file"
    for part in found.parts:
        assert np.array_equal(np.lexsort((part.notes["pitch"], part.notes["onset"])), np.arange(len(part.notes)))
    for array in (*(part.notes for part in found.parts), *(part.controls for part in found.parts), found.meters):
        assert not array.flags.writeable
        assert (np.diff(array[(array.dtype.names or ("",))[0]]) >= 0).all()
    assert (len(found.pedal) > 0) == any(part.pedal for part in tune.parts)
    if len(found.pedal):
        assert found.pedal["value"][-1] == 0
        assert found.pedal["time"][-1] < found.seconds + 3


@pytest.mark.parametrize("tune", BANDS, ids=lambda tune: tune.name)
def test_band_has_instruments_and_drums(tune):
    found = songs()[tune.name]
    assert 45 <= found.seconds <= 90
    assert [part.name for part in found.parts] == [part.name for part in tune.parts]
    assert [part.channel for part in found.parts] == [*range(len(tune.parts) - 1), 9]
    assert found.parts[-1].is_drums
    assert len({part.program for part in found.parts[:-1]}) >= 4
    assert estimate_key(found.notes) == KEYS[tune.name]
    for part in found.parts:
        moves = part.controls["controller"].tolist()
        assert len(part.notes) >= 15
        assert moves.count(VOLUME) == 1
        assert moves.count(PAN) == (not part.is_drums)
    moved = set().union(*(part.controls["controller"].tolist() for part in found.parts))
    assert moved >= {MODULATION, EXPRESSION, PITCH_BEND}


def test_no_note_overlaps_itself():
    for part in (part for found in songs().values() for part in found.parts):
        last = defaultdict(float)
        for row in part.notes:
            assert row["onset"] >= last[row["pitch"]]
            last[row["pitch"]] = row["end"]


def test_tunes_are_varied():
    assert len(tunes.TUNES) >= 12
    assert len({tune.name for tune in tunes.TUNES}) == len(tunes.TUNES)
    assert len({tune.style for tune in tunes.TUNES}) >= 4
    assert len({tune.meter for tune in tunes.TUNES}) >= 4
    assert len({part.program for tune in tunes.TUNES for part in tune.parts}) >= 20
    assert len(BANDS) >= 5
    assert len({tune.style for tune in BANDS}) == len(BANDS)
    assert len({KEYS[tune.name] for tune in BANDS}) == len(BANDS)
    assert {tune.meter for tune in BANDS} == {(4, 4), (3, 4), (6, 8)}


@pytest.mark.parametrize(("name", "place"), TOP_NOTES)
def test_first_notes_are_those_of_the_work(name, place):
    tune = next(tune for tune in tunes.TUNES if tune.name == name)
    part, voice = (place, 0) if tune in BANDS else (0, place)
    first = [note.pitch for note in parse(tune, part, voice)]
    assert first[: len(TOP_NOTES[name, place])] == TOP_NOTES[name, place]


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
    example = next(line for line in (notation.__doc__ or "").splitlines() if line.startswith("    !"))
    found = notes(example)
    assert found[-1] == (60, 3, 1)
    assert len(found) == 2 + 2 + 12 + 3 + 1


def documented(start: str) -> str:
    """The example in the module's documentation that begins like this."""
    return textwrap.dedent(next(block for block in (tunes.__doc__ or "").split("\n\n") if block.startswith(start)))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_in_the_documentation(tmp_path):
    tune = tunes.read(write(tmp_path / "01-a-waltz.toml", documented("    title")))
    assert (tune.name, tune.meter, tune.tempos) == ("a-waltz", (3, 4), ((3, 110.0), (4, 92.5)))
    melody, accompaniment = ([note.pitch for note in parse(tune, 0, voice)] for voice in (0, 1))
    assert melody == [67, 76, 79, 77, 74, 88, 91, 89, 86]
    assert accompaniment == [48, 52, 55, 52, 55, 47, 50, 55, 50, 55] * 2
    assert tunes.song(tune).name == "A Waltz (Nobody)"


def test_band_in_the_documentation(tmp_path):
    text = "title = 'Duo'\nstyle = 'none'\nmeter = '3/4'\npickup = '1/4'\ntempo = 100\n" + documented("    [parts")
    flute, drums = tunes.song(tunes.read(write(tmp_path / "01-duo.toml", text))).parts
    assert (flute.name, flute.program, flute.channel) == ("flute", 73, 0)
    assert (drums.name, drums.program, drums.channel) == ("drums", 0, 9)
    assert flute.controls[:2].tolist() == [(0.0, VOLUME, 100), (0.0, PAN, 50)]
    assert {MODULATION, PITCH_BEND} < set(flute.controls["controller"].tolist())
    assert drums.notes["pitch"].tolist() == [36, 37, 37, 36, 37, 37]
    assert len(drums.controls) == 0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("title = ", "Invalid value"),
        ("tempo = 90", "'voices' is missing"),
        ("key = 'C'", "no field 'key'; there are composer, "),
        ("[voices]\na = '{theme}'", "no phrase 'theme' above {theme}"),
        ("[phrases]\na = '{b}'\nb = 'C4'\n[voices]\na = '{a}'", "no phrase 'b' above {b}"),
        ("[phrases]\na = '$1 $2'\nb = 'C4 D4 | E4'\n[voices]\na = '{a(b)}'", "too few pitches in the bar 'E4'"),
        ("program = 200\n[voices]\na = 'C4:1'", "program is 200, expected 0 to 127"),
        ("[parts.tuba]\npan = 64", "part tuba: 'voices' is missing"),
        ("[parts.tuba]\npan = -1\nvoices.a = 'C2:1'", "part tuba: pan is -1, expected 0 to 127"),
        ("[parts.tuba]\nkey = 'C'", "part tuba: no field 'key'; there are pan, pedal, program, roll, voices, volume"),
        ("program = 1\n[parts.tuba]\nvoices.a = 'C2:1'", "no field 'program'; there are composer, .*parts"),
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
        ("C4:1 | kick:1", "bar 2: 'kick' is no pitch; names of drums are for the part named drums"),
    ],
)
def test_mistakes_are_named(text, what):
    with pytest.raises(ValueError, match=f"^test, voice 2, .*{what}"):
        tunes.song(make("C4:1 | C4:1 | C4:1", text))


def test_wrong_bar_of_a_real_tune_is_named():
    tune = tunes.TUNES[1]
    voices = (tune.parts[0].voices[0].replace("| D5:4 G4 G4 |", "| D5:4 G4 |", 1), tune.parts[0].voices[1])
    broken = replace(tune, parts=(replace(tune.parts[0], voices=voices),))
    with pytest.raises(ValueError, match=f"{tune.name}, voice 1, bar 2: lasts 1/2"):
        tunes.song(broken)


def test_voices_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"test: the voices differ in length, .* \(voice 1: 1; voice 2: 2\)"):
        tunes.song(make("C4:1", "C4:1 | C4"))
    band = (tunes.TunePart(("C4:1",), "tuba"), tunes.TunePart(("kick:1 | kick",), "drums"))
    with pytest.raises(ValueError, match="tuba, voice 1: 1; drums, voice 1: 2"):
        tunes.song(make(parts=band))


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


def test_drums_are_written_by_name():
    drums = tunes.TunePart(("<kick hat>:4 hat <snare hat>^ r | crash:1", "r:1 | r:2 tom_low"), "drums")
    (part,) = tunes.song(make(parts=(drums,))).parts
    assert part.is_drums
    assert part.notes["pitch"].tolist() == [36, 42, 42, 38, 42, 49, 45]
    assert part.notes["velocity"][3] > part.notes["velocity"][0]  # the accent
    together = tunes.song(
        make(parts=(tunes.TunePart(("kick:4 kick kick kick", "hat:4 hat hat hat"), "drums", roll=0.0),))
    )
    assert (np.diff(together.parts[0].notes["onset"])[::2] == 0).all()  # by one player


@pytest.mark.parametrize("name", ["C4", "kik"])
def test_unknown_drums_are_named(name):
    band = (tunes.TunePart((f"kick:1 | {name}:1",), "drums"),)
    with pytest.raises(
        ValueError, match=f"^test, drums, voice 1, bar 2: no drum '{name}'; there are kick, stick, snare"
    ):
        tunes.song(make(parts=band))


def test_channels_are_assigned_in_order_and_run_out():
    band = tuple(tunes.TunePart(("C4:1",), f"player {number}") for number in range(15))
    drums = tunes.TunePart(("kick:1",), "drums")
    parts = tunes.song(make(parts=(*band[:10], drums, *band[10:]))).parts
    assert [part.channel for part in parts] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 9, 11, 12, 13, 14, 15]
    with pytest.raises(ValueError, match="test: more than 15 parts besides drums"):
        tunes.song(make(parts=(*band, drums, tunes.TunePart(("C4:1",), "one more"))))


def test_eighths_off_the_beat_swing():
    text = "C4:8 C4 C4:12 C4 C4 C4:2"
    straight, swung = (tunes.song(make(text, swing=swing)).notes["onset"] for swing in (Fraction(1, 2), Fraction(2, 3)))
    assert (swung - straight).tolist() == pytest.approx([0, 0.5 / 6, 0, 0, 0, 0])


def test_slides_bend_up_to_the_pitch_and_falls_leave_it():
    times, values = curve("C4:2/ C4:4 D4:4\\ | C4:1", PITCH_BEND)
    assert (values[0], values[-1]) == (-8192, 0)
    assert times[0] == pytest.approx(0, abs=0.016)
    middle = values.index(0)  # reached halfway through the first note, and left a third into the last
    assert times[middle] == pytest.approx(0.5, abs=0.04)
    assert values[:middle] == sorted(values[:middle])
    assert times[middle + 1] == pytest.approx(1.65, abs=0.04)
    assert values[middle:-1] == sorted(values[middle:-1], reverse=True)
    assert values[-2] < -7500
    assert times[-1] == pytest.approx(2, abs=0.016)


def test_vibrato_and_swells():
    times, values = curve("C4:2~ C4:2v | C4:1", MODULATION)
    assert 1 < times[0] < 1.4
    assert (max(values), values[-1]) == (80, 0)
    times, values = curve("C4:2<~ C4:2> | C4:1", EXPRESSION)
    assert values[0] == 64
    assert times[values.index(max(values))] == pytest.approx(1, abs=0.04)
    assert min(values[1:-1]) < 70
    assert (times[-1], values[-1]) == (pytest.approx(2, abs=0.016), 127)


def test_a_tune_without_signs_and_settings_has_no_controls():
    assert len(tunes.song(make("C4:1^ | C4:1'")).parts[0].controls) == 0


@pytest.mark.parametrize("tune", tunes.TUNES, ids=lambda tune: tune.name)
def test_tune_is_read_back_part_by_part(tune):
    made, read = songs()[tune.name], midi_reader.parse(midi_writer.encode(songs()[tune.name]))
    assert read.warnings == ()
    assert read.name == made.name
    assert len(read.parts) == len(made.parts)
    for found, part in zip(read.parts, made.parts, strict=True):
        assert (found.name, found.program, found.channel) == (part.name, part.program, part.channel)
        by_pitch = [np.sort(one.notes, order=["pitch", "onset"]) for one in (found, part)]
        assert np.array_equal(by_pitch[0]["pitch"], by_pitch[1]["pitch"])
        assert np.array_equal(by_pitch[0]["velocity"], by_pitch[1]["velocity"])
        assert np.abs(by_pitch[0]["onset"] - by_pitch[1]["onset"]).max() < 0.002
        assert np.abs(by_pitch[0]["end"] - by_pitch[1]["end"]).max() < 0.002
        for controller in np.unique(part.controls["controller"]):
            moves = [one.controls[one.controls["controller"] == controller] for one in (found, part)]
            assert np.array_equal(moves[0]["value"], moves[1]["value"])
            assert np.abs(moves[0]["time"] - moves[1]["time"]).max() < 0.002


def test_write_all(tmp_path):
    paths = tunes.write_all(tmp_path / "new" / "folder")
    assert paths == sorted(paths)
    assert [path.name for path in paths[:2]] == ["01-prelude-in-c.mid", "02-minuet-in-g.mid"]
    assert len(paths) == len(tunes.TUNES)
    for tune, path in zip(tunes.TUNES, paths, strict=True):
        assert path.name.endswith(f"-{tune.name}.mid")
        assert path.read_bytes() == midi_writer.encode(songs()[tune.name])
