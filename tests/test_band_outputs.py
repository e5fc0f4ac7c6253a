"""What can be made of a run of two unlike bands: recalls, mixes, factors, options."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import TINY, assert_same_parts, band, call, make_song, settings_flags

import nemui_jax as nemui
from nemui_jax.evaluation import note_metrics
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.song import Part, Song, TempoMap, retime

pytestmark = pytest.mark.usefixtures("small_batches")

FACTORS = ("harmony", "melody", "rhythm", "dynamics", "tempo", "instruments")
HALF = {"band": 0.5, "trio": 0.5}


def trio() -> Song:
    """Eight bars of an organ, a picked bass and a brush kit in F, at 100 quarter notes a minute."""
    bar, beat = 2.4, 0.6
    roots = (41, 46, 36, 41) * 2
    bass = [
        (n * bar + at * beat, n * bar + (at + 0.8) * beat, root + step, 90, 1, 34)
        for n, root in enumerate(roots)
        for at, step in enumerate((0, 4, 7, 4))
    ]
    organ = [
        (n * bar + at * beat, n * bar + (at + 1.9) * beat, root + 24 + step, 60, 0, 16)
        for n, root in enumerate(roots)
        for at in (0, 2)
        for step in (0, 4, 7)
    ]
    drums = [(n * beat, n * beat + 0.1, (36, 38)[n % 2], 80, 9, 40) for n in range(32)]
    song = make_song([*bass, *organ, *drums], tempos=[(0.0, beat)], meters=[(0.0, 4, 4)])
    return dataclasses.replace(song, name="Trio")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> nemui.LoadedRun:
    """A run that knows the two bands, learned from files; read only."""
    folder = tmp_path_factory.mktemp("bands")
    midi_writer.write(band(), folder / "band.mid")
    midi_writer.write(trio(), folder / "trio.mid")
    path = tmp_path_factory.mktemp("runs") / "bands"
    return nemui.train(folder, path, overrides=settings_flags(TINY)[1::2])


def written(piece: nemui.Piece, path: Path) -> Song:
    piece.write(path / "piece.mid")
    return midi_reader.read(path / "piece.mid")


def sounding(song: Song) -> list[Part]:
    return [part for part in song.parts if len(part.notes)]


# Recalls and mixes


def test_a_weight_of_one_is_the_recall_part_by_part(run):
    recall = run.song("band").song
    assert [part.name for part in recall.parts] == ["Lead", "Bass", "Strings", "Drums"]
    assert note_metrics.playback_scores(band(), recall)["onset"] == 1
    for weights in ({"band": 1}, {"band": 1, "trio": 0}, {"trio": 0, "band": 7}):
        piece = run.mix(weights)
        assert_same_parts(piece.song, recall)
        assert piece.song.texts == recall.texts
    assert_same_parts(run.perturb("band", 0).song, recall)
    constant = run.morph(["band", "trio"], weights=[[1, 1], [0, 0]])
    assert_same_parts(constant.song, recall)


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75])
def test_a_mix_of_two_bands_is_one_band(run, tmp_path, weight):
    song = written(run.mix({"band": 1 - weight, "trio": weight}), tmp_path)
    pitched = [part for part in sounding(song) if not part.is_drums]
    kits = [part for part in sounding(song) if part.is_drums]
    assert 3 <= len(sounding(song)) <= 16
    assert len(kits) == 1 and len(kits[0].notes) > 10
    assert len({part.channel for part in pitched}) == len(pitched)
    programs = {part.program for source in (band(), trio()) for part in source.parts if not part.is_drums}
    assert {part.program for part in pitched} <= programs
    assert {part.program for part in pitched} & {33, 34}  # there is a bass


def test_words_come_back_in_a_recall_and_not_in_a_mix(run, tmp_path):
    def words(song: Song) -> list[str]:
        return [text.text.strip() for text in song.texts if text.kind in ("lyrics", "marker")]

    recall = written(run.song("band"), tmp_path)
    assert words(recall) == ["la", "la", "B"]
    assert recall.key_signatures["sharps"].tolist() == [1]
    assert words(written(run.mix(HALF), tmp_path)) == []


# Factors


@pytest.mark.parametrize("factor", FACTORS)
def test_each_factor_is_taken_by_python_and_the_command_line(run, tmp_path, factor):
    """The same bytes, and another song than without it or with the other band's."""
    pieces = {name: run.mix(HALF, factors=nemui.Factors(**{factor: name})) for name in ("band", "trio")}
    for name, piece in pieces.items():
        flags = ("--mix", "band:0.5,trio:0.5", f"--{factor}", name, "--out", tmp_path / "a.mid")
        answer = call("sample", "--run", run.run.path, *flags)
        assert answer.code == 0, answer
        piece.write(tmp_path / "b.mid")
        assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()
        assert json.loads(piece.provenance.partition(" ")[2])[factor] == name
    songs = [[part.notes.tolist() for part in piece.song.parts] for piece in pieces.values()]
    programs = [[part.program for part in piece.song.parts] for piece in pieces.values()]
    if factor != "harmony":  # one band may suit both harmonies, where both play little
        assert songs[0] != songs[1] or programs[0] != programs[1]


def test_factors_change_what_they_name(run):
    def made(**factors) -> Song:
        return run.mix(HALF, factors=nemui.Factors(**factors)).song

    for name, seconds in (("band", 0.5), ("trio", 0.6)):
        assert made(tempo=name).tempo_map.beat_seconds == pytest.approx(seconds, rel=1e-3)
    programs = {part.program for part in sounding(made(instruments="trio")) if not part.is_drums}
    assert programs & {16, 34}
    melody = [{part.program for part in sounding(made(melody=name))} for name in ("band", "trio")]
    assert 81 in melody[0] and 81 not in melody[1]
    loud = [made(dynamics=name).notes["velocity"].mean() for name in ("band", "trio")]
    own = [source.notes["velocity"].mean() for source in (band(), trio())]
    assert (loud[0] > loud[1]) == (own[0] > own[1])


def test_a_recall_with_another_tempo(run):
    piece = run.song("band", factors=nemui.Factors(tempo="trio"))
    assert piece.song.tempo_map.beat_seconds == pytest.approx(0.6, rel=1e-3)
    source = retime(band(), TempoMap.steady(0.5), TempoMap.steady(0.6))
    assert note_metrics.note_scores(source.notes, piece.notes).onset.f1 == 1


# Options


@pytest.mark.parametrize(
    "recipe",
    [["--song", "band"], ["--mix", "band:0.5,trio:0.5"], ["--morph", "band,trio"], ["--random", "--seconds", "12"]],
)
def test_a_program_makes_one_instrument_without_drums(run, tmp_path, recipe):
    flags = ("--program", 24, "--out", tmp_path / "a.mid")
    assert call("sample", "--run", run.run.path, *recipe, *flags).code == 0
    (part,) = midi_reader.read(tmp_path / "a.mid").parts
    assert (part.program, part.is_drums) == (24, False)
    assert len(part.notes) > 10


@pytest.mark.parametrize(
    "recipe",
    [
        ["--mix", "band:0.5,trio:0.5", "--temperature", "1"],
        ["--morph", "band,trio"],
        ["--perturb", "trio:0.7"],
        ["--random", "--seconds", "12"],
    ],
    ids=lambda recipe: recipe[0],
)
def test_the_same_seed_gives_the_same_bytes(run, tmp_path, recipe):
    for name in ("a", "b"):
        flags = ("--seed", 5, "--out", tmp_path / f"{name}.mid")
        answer = call("sample", "--run", run.run.path, *recipe, *flags)
        assert answer.code == 0, answer
    assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()


def test_songs_are_listed_with_their_parts(run):
    answer = call("songs", "--run", run.run.path, "--json")
    first, second = json.loads(answer.out)
    assert [part["name"] for part in first["parts"]] == ["Lead", "Bass", "Strings", "Drums"]
    assert [part["drums"] for part in first["parts"]] == [False, False, False, True]
    assert sorted((part["program"], part["channel"]) for part in second["parts"]) == [(16, 0), (34, 1), (40, 9)]
    for row, source in ((first, band()), (second, trio())):
        assert row["notes"] == sum(part["notes"] for part in row["parts"]) == len(source.notes) + source.drums
        assert row["clock"] == "file"


# Few songs, and files


def test_a_run_of_one_band(tmp_path):
    alone = nemui.train([trio()], tmp_path / "run", overrides=settings_flags(TINY)[1::2])
    assert len(alone.song(0).song.parts) == 3
    assert_same_parts(alone.mix({0: 1}).song, alone.song(0).song)
    varied = alone.perturb(0, 0.5).song
    assert len(varied.parts) == 3
    answer = call("sample", "--run", alone.run.path, "--random", "--out", tmp_path / "a.mid")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "this run has one; perturb it" in answer.err
    answer = call("evaluate", "--run", alone.run.path, "--json", tmp_path / "figures.json")
    assert answer.code == 0, answer
    assert set(json.loads((tmp_path / "figures.json").read_text())) == {"songs", "playback", "beats"}


def test_a_band_in_a_file_comes_back_with_drums_and_bends(run, tmp_path):
    """In another key than the run has it: it is no song of the run, and is learned for this output."""
    other = dataclasses.replace(band(), parts=tuple(_lower(part) for part in band().parts), name="Lower")
    midi_writer.write(other, tmp_path / "lower.mid")
    piece = run.song(tmp_path / "lower.mid")
    assert note_metrics.playback_scores(other, piece.song)["onset"] > 0.95
    lead = next(part for part in piece.song.parts if part.name == "Lead")
    assert (lead.controls["controller"] == 128).sum() > 3
    drums = next(part for part in piece.song.parts if part.is_drums)
    assert drums.notes["pitch"].tolist() == other.parts[3].notes["pitch"].tolist()
    mixed = run.mix({tmp_path / "lower.mid": 0.5, "trio": 0.5})
    assert [part.is_drums for part in sounding(mixed.song)].count(True) == 1


def _lower(part: Part) -> Part:
    notes = part.notes.copy()
    notes["pitch"] -= 0 if part.is_drums else 3
    return dataclasses.replace(part, notes=notes)
