"""Mixes on the grid: exact at weight 1, and music between."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import assert_same_parts

from nemui_jax.data.grid import GridSong, grid_song
from nemui_jax.music import midi_reader, midi_writer, tunes
from nemui_jax.music.clock import STEPS_PER_BEAT, choose_clock
from nemui_jax.music.key import estimate_key, shift_to_common
from nemui_jax.music.song import CONTROL, METER, NOTE, Part, Song, TempoMap, one_instrument
from nemui_jax.sampling.analysis import divided, in_common_scale
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.lines import Role
from nemui_jax.sampling.mix import AnalyzedSong, Factors, analyze, mix
from nemui_jax.sampling.prior import draw
from nemui_jax.sampling.timeline import make_timeline


def on_grid(song: Song) -> GridSong:
    return grid_song(song, choose_clock(song, "beats"), shift_to_common(estimate_key(song.notes)))


def tune(name: str) -> AnalyzedSong:
    """A built-in tune with its onsets on the grid."""
    song = tunes.song(next(one for one in tunes.TUNES if one.name == name))
    return analyze(on_grid(song))


def weights(*values: float) -> Callable[[int], np.ndarray]:
    return lambda bars: np.repeat(np.array(values, float)[:, None], bars, 1)


def band(programs: tuple[int, ...], kit: int, root: int, bars: int = 32, beat_seconds: float = 0.5) -> Song:
    """A band of a bass, chords, a melody and more, and drums, on I IV V I."""
    chords = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)]
    lines: list[list[tuple]] = [[] for _ in programs]
    drums = []
    rng = np.random.default_rng(root)
    for bar in range(bars):
        chord = chords[bar % 4]
        for beat in range(4):
            at = bar * 4 + beat
            lines[0].append((at, at + 1, root - 24 + chord[0], 90))
            for tone in chord:
                lines[1].append((at, at + 0.9, root + tone, 60))
            for number in range(2, len(programs)):
                tone = chord[int(rng.integers(3))]
                lines[number].append((at, at + 0.5, root + 12 + tone, 80 + number))
                lines[number].append((at + 0.5, at + 1, root + 12 + tone, 80))
            drums += [(at, at + 0.1, 36 + 2 * (beat % 2), 100), (at + 0.5, at + 0.6, 42, 70)]
    parts = []
    for channel, (program, line) in enumerate(zip([*programs, kit], [*lines, drums], strict=True)):
        notes = np.array(sorted(line), NOTE)
        for name in ("onset", "end"):
            notes[name] *= beat_seconds
        controls = np.array([(0.0, 7, 100 - channel), (0.0, 10, 40 + channel)], CONTROL)
        last = channel == len(programs)
        free = [one for one in range(16) if one != 9]
        parts.append(Part(notes, program, 9 if last else free[channel], controls=controls))
    return Song(tuple(parts), TempoMap.steady(beat_seconds), meters=np.array([(0.0, 4, 4)], METER))


def clash_share(song: Song) -> float:
    """The share of onsets that meet a sounding note a minor second, major seventh or minor ninth away."""
    notes = song.notes
    hits = 0
    for note in notes:
        sounding = (notes["onset"] <= note["onset"] + 0.01) & (notes["end"] > note["onset"] + 0.05)
        hits += bool(np.isin(np.abs(notes["pitch"][sounding].astype(int) - int(note["pitch"])), (1, 11, 13)).any())
    return hits / len(notes)


def off_grid(song: Song) -> float:
    """The mean distance of onsets from the nearest step, in beats."""
    beats = song.tempo_map.beats_at(song.notes["onset"]) * 12
    return float(np.abs(beats - np.round(beats)).mean())


def test_weight_one_is_the_song():
    song = band((33, 0, 73), 0, 60)
    first, second = analyze(on_grid(song)), analyze(on_grid(band((34, 4, 80), 16, 65)))
    found = mix([first, second], weights(1, 0))
    assert len(found.parts) == len(song.parts)
    for one, other in zip(found.parts, song.parts, strict=True):
        assert (one.program, one.channel) == (other.program, other.channel)
        np.testing.assert_array_equal(one.controls, other.controls)
        for name in ("pitch", "velocity"):
            np.testing.assert_array_equal(one.notes[name], other.notes[name])
        assert one.notes["onset"] == pytest.approx(other.notes["onset"])
        step_seconds = 0.5 / 12
        assert np.abs(one.notes["end"] - other.notes["end"]).max() <= (2 if one.is_drums else 0.51) * step_seconds
    assert found.tempo_map == song.tempo_map
    np.testing.assert_array_equal(found.meters, song.meters)


def test_held_ends_of_a_morph_are_the_songs():
    first, second = tune("minuet-in-g"), tune("the-entertainer")

    def weigh(bars: int) -> np.ndarray:
        progress = np.clip(np.linspace(-0.5, 1.5, bars), 0, 1)
        return np.stack([1 - progress, progress])

    found = mix([first, second], weigh, bars=32)
    alone = mix([first, second], weights(1, 0))
    early = alone.notes[alone.notes["onset"] < 4]
    np.testing.assert_array_equal(found.notes["pitch"][: len(early)], early["pitch"])


def beats_of(song: Song, first: float, last: float) -> list[tuple[float, int]]:
    """Onsets, in beats from the first, and pitches of the notes that begin between two beats."""
    at = song.tempo_map.beats_at(song.notes["onset"])
    chosen = (at >= first - 0.01) & (at < last - 0.01)
    return sorted(zip(np.round(at[chosen] - first, 2).tolist(), song.notes["pitch"][chosen].tolist(), strict=True))


def test_morph_begins_and_ends_as_its_songs():
    """Bars of weight 1 are exact, however few, and the last of a morph is the last of its last song."""
    first, second = tune("sonata-in-c"), tune("the-entertainer")

    def weigh(bars: int) -> np.ndarray:
        progress = np.linspace(0, 1, bars)
        return np.stack([1 - progress, progress])

    for one, other in ((first, second), (second, first)):
        found, begins, ends = mix([one, other], weigh), mix([one], weights(1)), mix([other], weights(1))
        bar = one.song.clock.seconds_at(one.song.bars[1] / 12)
        opening = begins.notes[begins.notes["onset"] < bar - 0.01]
        np.testing.assert_array_equal(found.notes["pitch"][: len(opening)], opening["pitch"])
        assert found.notes["onset"][: len(opening)] == pytest.approx(opening["onset"])
        closing = ends.notes[ends.notes["onset"] > other.song.clock.seconds_at(other.song.bars[-1] / 12) - 0.01]
        last = found.notes[-len(closing) :]
        np.testing.assert_array_equal(last["pitch"], closing["pitch"])
        assert last["onset"] - last["onset"][-1] == pytest.approx(closing["onset"] - closing["onset"][-1], abs=1e-3)


@pytest.mark.parametrize("second", ["minuet-in-g", "when-the-saints", "canon-in-d"])
def test_a_mix_ends_as_its_first_song_does(second):
    first = analyze(on_grid(band((32, 0, 73), 0, 60)))
    mixed, own = (mix([first, tune(second)], weights(*each)) for each in ((0.5, 0.5), (1, 0)))
    pitches = {pitch for _, pitch in beats_of(mixed, 124, 128)}
    assert pitches >= {pitch for _, pitch in beats_of(own, 124, 128)}
    assert min(pitches) % 12 == 0  # the tonic, in the bass
    assert beats_of(mixed, 60, 64) != beats_of(own, 60, 64)


def changed(song: Song, pitch_of: Callable[[np.ndarray], np.ndarray]) -> Song:
    """The song with other pitches in all parts but drums."""
    parts = [replace(part, notes=part.notes.copy()) for part in song.parts]
    for part in parts:
        if not part.is_drums:
            part.notes["pitch"] = pitch_of(part.notes["pitch"].astype(int))
    return replace(song, parts=tuple(parts))


def in_minor(song: Song, tonic: int) -> Song:
    return changed(song, lambda pitch: pitch - np.isin((pitch - tonic) % 12, (4, 9, 11)))


def test_songs_of_two_modes_meet_on_one_scale():
    """A minor song is heard in the relative key of a major one, and in no octave far from its own."""
    major, minor = analyze(on_grid(band((32, 0, 73), 0, 60))), analyze(on_grid(in_minor(band((33, 24, 40), 8, 57), 57)))
    assert (major.is_minor, minor.is_minor) == (False, True)
    for songs in ([major, minor], [minor, major]):
        pitch = mix(songs, weights(0.5, 0.5), shift=0).notes["pitch"] % 12
        assert not np.isin(pitch, [4, 9, 11] if songs[0].is_minor else [3, 8, 10]).any()
    sharp = analyze(on_grid(band((32, 0, 73), 0, 66)))
    assert sharp.song.shift == -6
    for semitones in range(-11, 12):
        far = analyze(on_grid(changed(band((33, 24, 40), 8, 57), lambda pitch: pitch + semitones)))  # noqa: B023
        shifts = [song.song.shift for song in in_common_scale([sharp, far], sharp)]
        assert abs(shifts[1] - shifts[0]) <= 6


@pytest.mark.parametrize("shift", range(-6, 7))
def test_a_key_is_reached_by_the_shortest_way(shift):
    first, second = analyze(on_grid(band((32, 0, 73), 0, 66))), analyze(on_grid(band((33, 24, 40), 8, 57)))
    assert first.song.shift == -6  # F sharp
    for play in (partial(to_song, first.song), partial(mix, [first, second], weights(0.5, 0.5))):
        pairs = zip(play().parts, play(shift=shift).parts, strict=True)
        moves = [set(new.notes["pitch"].astype(int) - old.notes["pitch"]) for old, new in pairs if not old.is_drums]
        (semitones,) = set.union(*moves)
        assert abs(semitones) <= 6 and (semitones + 6 + shift) % 12 == 0


def test_what_accompanies_is_as_loud_as_what_leads():
    def swelling(song: Song, velocities: tuple[int, int]) -> Song:
        parts = [replace(part, notes=part.notes.copy()) for part in song.parts]
        for part in parts:
            part.notes["velocity"] = np.where(part.notes["onset"] < song.seconds / 2, *velocities)
        return replace(song, parts=tuple(parts))

    first = swelling(band((32, 0, 73), 0, 60), (40, 100))
    second = swelling(band((33, 24, 40), 8, 57), (100, 40))
    mixed = mix([analyze(on_grid(first)), analyze(on_grid(second))], weights(0.5, 0.5)).notes
    bar = (mixed["onset"] // 2).astype(int)
    spread = [np.ptp(mixed["velocity"][bar == number].astype(int)) for number in np.unique(bar)]
    assert np.mean(spread) < 12


def test_song_of_no_weight_gives_only_its_factor():
    """A song that only gives the harmony plays nothing, not even drums."""
    songs = [band((33, 0, 73), 0, 60), band((34, 4, 80), 16, 64)]
    found = mix([analyze(on_grid(song)) for song in songs], weights(1, 0), factors=Factors(harmony=1))
    assert {part.program for part in found.parts} == {33, 0, 73}


def test_songs_gain_voices_with_weight():
    """From one song to another by tenths, the second song gains notes, at no step a third of them."""
    songs = [analyze(on_grid(band((33, 0, 73), 0, 60, 64))), analyze(on_grid(band((34, 4, 80), 16, 64, 64)))]
    path = [mix(songs, weights(1 - w, w)) for w in np.linspace(0, 1, 11)]
    second = [sum(len(part.notes) for part in song.parts if part.program in (34, 4, 80)) for song in path]
    steps = np.diff(second) / second[-1]
    assert steps.min() > -0.05
    assert steps.max() < 0.35


def test_held_notes_of_a_broken_chord_accompany():
    voices = {voice.role: voice.notes for voice in tune("prelude-in-c").voices}
    first_bar = {role: notes["pitch"][notes["step"] < 2 * STEPS_PER_BEAT].tolist() for role, notes in voices.items()}
    assert first_bar[Role.CHORDS] == [60, 64]
    assert first_bar[Role.MELODY] == [67, 72, 76, 67, 72, 76]


def test_other_bars_go_on_without_a_break():
    """A waltz's accompaniment in common time goes on where it stopped instead of being cut to parts of its bars."""
    songs = [tune("sonata-in-c"), tune("blue-danube")]
    timeline = make_timeline([songs[0], divided(songs[1], songs[0].unit_steps)], 0, 16, np.zeros(2))
    assert (np.diff(timeline.source[1]) == np.diff(timeline.units)[:-1]).all()


def test_same_seed_same_mix():
    songs = [tune("minuet-in-g"), tune("silent-night")]
    make = lambda seed: mix(songs, weights(0.5, 0.5), temperature=2.0, seed=seed)  # noqa: E731
    assert_same_parts(make(1), make(1))
    assert not np.array_equal(make(1).notes["pitch"], make(2).notes["pitch"])


def test_bands_make_one_band():
    songs = [band((33, 0, 73), 0, 60), band((34, 4, 80, 48), 16, 64)]
    found = mix([analyze(on_grid(song)) for song in songs], weights(0.5, 0.5))
    assert 3 <= len(found.parts) <= 16
    drums = [part for part in found.parts if part.is_drums]
    assert len(drums) == 1
    sources = [mix([analyze(on_grid(song))], weights(1)).parts[-1].notes for song in songs]
    per_second = [len(notes) / song.seconds for notes, song in zip(sources, songs, strict=True)]
    assert len(drums[0].notes) / found.seconds == pytest.approx(np.mean(per_second), rel=0.15)
    pitched = [part for part in found.parts if not part.is_drums]
    assert len({part.channel for part in pitched}) == len(pitched)
    sources = {(part.program, part.channel == 9) for song in songs for part in song.parts}
    assert {(part.program, part.is_drums) for part in found.parts} <= sources


def test_more_instruments_than_channels():
    songs = [band((33, 0, *range(60, 71)), 0, 60), band((34, 4, *range(71, 82)), 0, 62)]
    found = mix([analyze(on_grid(song)) for song in songs], weights(0.5, 0.5))
    pitched = [part for part in found.parts if not part.is_drums]
    assert len(pitched) <= 15
    assert len({part.channel for part in pitched}) == len(pitched)
    midi_writer.encode(found)


def test_mixes_keep_the_beat_and_the_harmony():
    songs = [tune("sonata-in-c"), tune("minuet-in-g")]
    alone = [mix([song], weights(1)) for song in songs]
    found = mix(songs, weights(0.5, 0.5))
    assert off_grid(found) <= max(map(off_grid, alone)) + 0.01
    assert clash_share(found) <= max(map(clash_share, alone)) + 0.02


def test_different_meters():
    """The heavier song's meter holds, and every note of the mix is within its bars."""
    songs = [tune("sonata-in-c"), tune("blue-danube")]
    for first in (0.6, 0.4):
        found = mix(songs, weights(first, 1 - first))
        heavier = songs[0 if first > 0.5 else 1]
        assert found.meters["numerator"].tolist() == heavier.song.source.meters["numerator"].tolist()
        assert found.seconds > 10


def test_factors():
    songs = [analyze(on_grid(band((33, 0, 73), 0, 60))), analyze(on_grid(band((34, 4, 80), 16, 64, beat_seconds=0.6)))]
    mine = mix(songs, weights(0.5, 0.5), factors=Factors(tempo=1))
    assert mine.tempo_map.beat_seconds == pytest.approx(0.6)
    mine = mix(songs, weights(0.5, 0.5), factors=Factors(melody=1, rhythm=0))
    assert 80 in {part.program for part in mine.parts}
    assert 73 not in {part.program for part in mine.parts}
    mine = mix(songs, weights(0.5, 0.5), factors=Factors(instruments=0))
    assert {part.program for part in mine.parts if not part.is_drums} == {33, 0, 73}


def test_program_makes_one_instrument():
    songs = [analyze(on_grid(band((33, 0, 73), 0, 60))), analyze(on_grid(band((34, 4, 80), 16, 64)))]
    found = one_instrument(mix(songs, weights(0.5, 0.5)), 24)
    assert {part.program for part in found.parts if not part.is_drums} == {24}
    written = midi_reader.parse(midi_writer.encode(found))
    assert len(written.notes) == pytest.approx(len(found.notes), rel=0.01)


def test_new_song_is_none_of_the_songs():
    songs = [tune(name) for name in ("minuet-in-g", "ode-to-joy", "amazing-grace", "silent-night")]
    found, _ = draw(range(len(songs)), songs.__getitem__, 1, 20.0)
    assert_same_parts(found, draw(range(len(songs)), songs.__getitem__, 1, 20.0)[0])
    assert off_grid(found) < 0.12  # of notes at random it is 0.25
    for song in songs:
        original = mix([song], weights(1))
        one = {(round(float(note["onset"]), 2), int(note["pitch"])) for note in original.notes}
        new = {(round(float(note["onset"]), 2), int(note["pitch"])) for note in found.notes}
        assert len(one & new) / len(new) < 0.5
    with pytest.raises(ValueError, match="two songs"):
        draw(range(1), songs.__getitem__, 1, 20.0)
