"""New songs: the form and harmony of one song, the accompaniment of a second and the melody of a third; or both of the
second, where one of them has no melody that is a part of its own.

First comes the form: which bars return, and where there is a melody. Then each bar that does not return is looked up in
the song that accompanies, then in that with the melody, so that it fits the harmony, what sounds already and the bar
before it. A new song begins and ends with what its songs begin and end with, and no song is heard in its own order for
more than RUN_QUARTERS.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from nemui_jax.data import pianoroll
from nemui_jax.data.curves import settings
from nemui_jax.data.grid import GridPart, GridSong
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.harmony import NO_CHORD
from nemui_jax.music.song import DRUM_CHANNEL, METER, Song, TempoMap
from nemui_jax.sampling import form
from nemui_jax.sampling.analysis import SLOT_STEPS, AnalyzedSong, in_common_scale, stretch
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.chain import FORBIDDEN_COST, Chain, find_returning_chain
from nemui_jax.sampling.lines import Role
from nemui_jax.sampling.lookup import COSTS, Frame, activity, place_costs, sounding, whole_beats, windows
from nemui_jax.sampling.passages import clashing, fit_to_harmony, merged, sounding_roll
from nemui_jax.sampling.splice import Run, runs, spliced_parts

TEMPERATURE = 0.08  # of what is looked up
SONGS_READ = 16  # of which three are chosen
ROOM = 2.0  # times the length of a new song that a song should last, so that its bars need not come twice
SHORT_COST = 3.0  # for a song that lasts 1 / e of that
OTHER_BARS = 10.0  # how unlike songs are whose bars have other lengths; all else rarely adds up to as much
RUN_QUARTERS = 8.0
TRIES = 10  # times the count wanted that new songs are drawn, where some are too like a song
PLACE_COSTS = COSTS._replace(clash=12.0, density=1.0)  # more than for mixes, as there are two songs throughout


class Source(NamedTuple):
    """A song that a new one is made of."""

    song: int
    gave: str  # what of it: "form and harmony", "accompaniment", "melody", or several of these
    share: float  # of the notes of the new song


class NewSong(NamedTuple):
    """A new song and what it is made of."""

    song: Song
    sources: tuple[Source, ...]


class _Player(NamedTuple):
    """A song that plays, with some of its voices, and where."""

    gave: str  # as in Source
    song: AnalyzedSong
    voices: Bool[np.ndarray, " voice"]
    chain: Chain
    heard: Bool[np.ndarray, " bar"]


def drawable(clocks: Sequence[str]) -> list[int]:
    """Which songs to draw new ones from, by the clock of each: those with bars, if these are two or more."""
    with_bars = [index for index, clock in enumerate(clocks) if clock != "steady"]
    return with_bars if len(with_bars) > 1 else list(range(len(clocks)))


def draw(
    songs: Sequence[int],
    analyzed: Callable[[int], AnalyzedSong],
    seed: int,
    seconds: float,
    shift: int | None = None,
) -> NewSong:
    """A new song of so many seconds, made of three of these songs; of two, the one with the melody gives the form too.

    The song is in the key of the one that gives the form, or `shift` semitones below the common key. ValueError for
    fewer than two songs.
    """
    if len(songs) < 2:
        raise ValueError(f"new songs are made of two songs or more, and there are {len(songs)}; vary one with perturb")
    rng = np.random.default_rng(seed)
    chosen, read = _choose(songs, analyzed, seconds, rng)
    found = in_common_scale([read[index] for index in chosen], read[chosen[0]])
    model, band, singer = _in_common_beats(found)
    quarter_seconds = float(np.sqrt(band.quarter_seconds * singer.quarter_seconds))
    quarters = seconds / quarter_seconds
    returns = float(np.mean([form.usual_returns(song, _bars_in(song, quarters)) for song in read.values()]))
    order = form.whole_form(model, _bars_in(model, quarters), returns, rng)
    rolls = form.onset_rolls(model, np.ones(len(model.voices), bool))[order]
    first = form.fewer_returns(form.first_occurrences(form.likeness(rolls)), returns, rng)
    players = _players(model, order, first, band, singer, rng)
    units = np.arange(len(order) + 1) * model.unit_steps
    parts, counts = _parts(model, order, players, units)
    clock = _clock(model, order, seconds, max((int(part.notes["end"].max(initial=1)) for part in parts), default=1))
    made = GridSong(
        name="",
        parts=parts,
        steps=int(units[-1]),
        shift=model.song.shift,
        clock=clock,
        beats_per_quarter=model.beats_per_quarter,
        bars=units[:-1],
        source=Song((), clock.counted(1 / model.beats_per_quarter), _meter(model, order)),
    )
    gave, notes = {chosen[0]: "form and harmony"}, dict.fromkeys(chosen, 0)
    for player, count in zip(players, counts, strict=True):
        index = chosen[1] if player.song is band else chosen[2]
        gave[index] = f"{gave[index]} and {player.gave}" if index in gave else player.gave
        notes[index] += count
    sources = tuple(Source(index, what, notes[index] / max(sum(counts), 1)) for index, what in gave.items())
    return NewSong(to_song(made, shift), sources)


def _choose(
    songs: Sequence[int], analyzed: Callable[[int], AnalyzedSong], seconds: float, rng: np.random.Generator
) -> tuple[list[int], dict[int, AnalyzedSong]]:
    """The song that gives the form, the one that accompanies, and the one with the melody; and all that were read.

    Of the songs that are read, the first is one that lasts long enough, and the others are the two most like it, of
    which the one that lacks drums or a bass does not accompany.
    """
    drawn = [songs[index] for index in rng.permutation(len(songs))[:SONGS_READ].tolist()]
    read = {index: analyzed(index) for index in drawn}
    model = max(drawn, key=lambda index: min(_seconds(read[index]), seconds))
    others = [index for index in drawn if index != model]
    nearest = sorted(others, key=lambda index: _unlike(read[model], read[index], seconds))[:2]
    given = sorted(rng.permutation(nearest).tolist(), key=lambda index: -_foundations(read[index]))
    chosen = [model, *given, model][:3]
    return chosen, read


def _unlike(first: AnalyzedSong, second: AnalyzedSong, seconds: float) -> float:
    """How little a song suits another for so many seconds: by its bars, tempo, mode, notes a quarter and length."""
    notes = [sum(len(voice.notes) for voice in song.voices) / _seconds(song) for song in (first, second)]
    tempo = float(np.log(first.quarter_seconds / second.quarter_seconds))
    density = float(np.log(notes[0] / notes[1])) + tempo
    short = max(float(np.log(ROOM * seconds / _seconds(second))), 0.0) * SHORT_COST
    bars, mode = _bar_quarters(first) != _bar_quarters(second), first.is_minor != second.is_minor
    return OTHER_BARS * bars + abs(tempo) + abs(density) + mode + short


def _foundations(song: AnalyzedSong) -> int:
    """How many of drums and bass a song has."""
    return len({voice.role for voice in song.voices} & {Role.DRUMS, Role.BASS})


def _seconds(song: AnalyzedSong) -> float:
    return float(song.song.clock.seconds_at(song.song.steps / STEPS_PER_BEAT))


def _bars_in(song: AnalyzedSong, quarters: float) -> int:
    """The number of bars of a song in so many quarter notes."""
    return max(round(quarters / _bar_quarters(song)), 2)


def _bar_quarters(song: AnalyzedSong) -> float:
    return song.unit_steps / STEPS_PER_BEAT / song.beats_per_quarter


def _in_common_beats(songs: Sequence[AnalyzedSong]) -> list[AnalyzedSong]:
    """The songs with as many beats a quarter note, and bars of equal length."""
    most = max(song.beats_per_quarter for song in songs)
    found = [stretch(song, round(most / song.beats_per_quarter)) for song in songs]
    return [replace(song, unit_steps=found[0].unit_steps) for song in found]


def _players(
    model: AnalyzedSong,
    order: Int[np.ndarray, " bar"],
    first: Int[np.ndarray, " bar"],
    band: AnalyzedSong,
    singer: AnalyzedSong,
    rng: np.random.Generator,
) -> list[_Player]:
    """Who accompanies, and who has the melody where the song that gives the form has one.

    A band whose melody is not a part of its own, as in piano music, plays all that it has; so does one whose singer has
    no such melody, but then its own melody is taken from other bars.
    """
    melody, singer = melody_of(model), singer if own_melody(singer).any() else band
    wanted = [("accompaniment", band, ~own_melody(band), ~melody), ("melody", singer, own_melody(singer), melody)]
    if not own_melody(band).any():
        wanted = [("accompaniment and melody", band, np.ones(len(band.voices), bool), np.ones(len(melody), bool))]
    slots = whole_beats(model.unit_steps)
    sounds = np.zeros((len(order), slots, 12), np.float32)
    found = []
    for gave, song, voices, replaced in wanted:
        if not voices.any() or not replaced.any():
            continue
        heard = model.counts[replaced].sum(0)[order] > 0
        if not heard.any():
            continue
        chain = _look_up(model, order, first, song, voices, replaced, heard, sounds, rng)
        found.append(_Player(gave, song, voices, chain, heard))
        sounds = sounds + _sounds(found[-1], slots)
    return found


def melody_of(song: AnalyzedSong) -> Bool[np.ndarray, " voice"]:
    """The voices that are the melody."""
    return np.array([voice.role is Role.MELODY for voice in song.voices], bool)


def own_melody(song: AnalyzedSong) -> Bool[np.ndarray, " voice"]:
    """The melody, if it is a part of its own: hands at one piano are not taken apart."""
    melody = melody_of(song)
    beside = {voice.part for voice, is_melody in zip(song.voices, melody, strict=True) if not is_melody}
    return melody & np.array([voice.part not in beside for voice in song.voices], bool) & bool(beside)


def _look_up(
    model: AnalyzedSong,
    order: Int[np.ndarray, " bar"],
    first: Int[np.ndarray, " bar"],
    song: AnalyzedSong,
    voices: Bool[np.ndarray, " voice"],
    replaced: Bool[np.ndarray, " other"],
    heard: Bool[np.ndarray, " bar"],
    sounds: Float32[np.ndarray, "bar slot 12"],
    rng: np.random.Generator,
) -> Chain:
    """Where the bars that are `heard` are found in a song, for what `replaced` voices of the model play in `order`.

    Bars with the same `first` occurrence are the same, but for the last, which is the song's own.
    """
    cost = place_costs(
        song, np.repeat(voices[:, None], len(order), 1), frame(model, order, replaced, sounds), PLACE_COSTS
    )
    cost += TEMPERATURE * rng.gumbel(size=cost.shape).astype(np.float32)
    if song.song is model.song:
        cost += FORBIDDEN_COST * (order[:, None] == np.arange(len(song.units)))[:, :, None]
    bars = np.flatnonzero(heard)
    sounding = np.flatnonzero(song.counts[voices].sum(0))
    first = np.where(np.arange(len(first)) == bars[-1], bars[-1], first)
    for bar, place in ((bars[0], max(song.upbeats, sounding[0])), (bars[-1], sounding[-1])):
        cost[bar, np.arange(len(song.units)) != place] += FORBIDDEN_COST
    longest_run = max(int(RUN_QUARTERS / _bar_quarters(model)), 1)
    return find_returning_chain(song, voices, cost, first, heard, longest_run)


def frame(
    model: AnalyzedSong,
    order: Int[np.ndarray, " bar"],
    replaced: Bool[np.ndarray, " voice"],
    sounds: Float32[np.ndarray, "bar slot 12"],
) -> Frame:
    """What is looked up for bars of a song of which some voices are replaced; `sounds` is what sounds beside them."""
    starts, slots = model.units[order], sounds.shape[1]
    return Frame(
        sounds,
        sounding(model, model.pitched, starts, slots),
        windows(model.onsets[replaced].sum(0), starts, slots),
        activity(model, replaced & model.pitched, starts),
        np.full(len(order), model.unit_steps // SLOT_STEPS),
    )


def _sounds(player: _Player, slots: int) -> Float32[np.ndarray, "bar slot 12"]:
    """What sounds of a song in each bar."""
    song, chain = player.song, player.chain
    starts = np.where(player.heard, song.units[chain.place], -song.song.steps - song.unit_steps)
    return sounding(song, player.voices, starts, slots, chain.shift)


def _parts(
    model: AnalyzedSong,
    order: Int[np.ndarray, " bar"],
    players: Sequence[_Player],
    units: Int[np.ndarray, " bar_and_end"],
) -> tuple[tuple[GridPart, ...], list[int]]:
    """The parts of a new song, and the number of notes of each player.

    They are on average as loud as the songs that play, and get louder and softer as the song that gives the form.
    """
    found = [list(runs(player.song, player.chain, player.heard, units)) for player in players]
    loudness = float(np.mean([player.song.loudness for player in players]))
    wanted = loudness + model.loudness_from(model.units[order], 0) - model.loudness
    parts = [
        {
            index: _louder(part, wanted - player.song.loudness_from(player.song.units[player.chain.place], 0), units)
            for index, part in spliced_parts(player.song, player.voices, of_player, int(units[-1])).items()
        }
        for player, of_player in zip(players, found, strict=True)
    ]
    counts = [sum(len(part.notes) for part in of_player.values()) for of_player in parts]
    if len(players) < 2:
        return tuple(parts[0].values()), counts
    pitched = [part.notes for part in parts[0].values() if not part.is_drums]
    chord = _chords(players[0], found[0], int(units[-1]))
    sounding = sounding_roll(merged(pitched), int(units[-1]))
    singing = [
        replace(part, notes=fit_to_harmony(part.notes, clashing(part.notes, sounding), chord))
        for part in parts[1].values()
    ]
    place = next((voice.part for voice in players[0].song.voices if voice.role is Role.MELODY), None)
    return _joined(parts[0], place, singing), counts


def _louder(part: GridPart, velocity: Float[np.ndarray, " bar"], units: Int[np.ndarray, " bar_and_end"]) -> GridPart:
    """The part with its settings from the beginning on, and so much louder in each bar."""
    notes = part.notes.copy()
    bar = np.searchsorted(units, notes["step"], side="right") - 1
    notes["velocity"] = np.clip(np.round(notes["velocity"] + velocity[bar]), 1, 127)
    controls = settings(part.source).copy()
    controls["time"] = 0.0
    return replace(part, notes=notes, source=replace(part.source, notes=part.source.notes[:0], controls=controls))


def _chords(player: _Player, found: Sequence[Run], steps: int) -> Int[np.ndarray, " beat"]:
    """The chord of each beat of what a song plays."""
    chords = np.full(-(-steps // STEPS_PER_BEAT), NO_CHORD)
    for run in found:
        beats = np.arange(run.start // STEPS_PER_BEAT, run.end // STEPS_PER_BEAT)
        source = beats - run.start // STEPS_PER_BEAT + run.source // STEPS_PER_BEAT
        chord = player.song.chords[np.minimum(source, len(player.song.chords) - 1)]
        moved = chord // 12 * 12 + (chord + run.shift) % 12
        chords[beats] = np.where(chord == NO_CHORD, NO_CHORD, moved)
    return chords


def _joined(band: dict[int, GridPart], place: int | None, singing: Sequence[GridPart]) -> tuple[GridPart, ...]:
    """The parts of a band with a melody, which goes to the channel of the band's own melody.

    It is added to a part of the band from which the band's own melody was taken, where the instruments are the same.
    Without a free channel the melody is played by the part with the fewest notes.
    """
    parts = dict(band)
    for part in singing:
        if place in parts and parts[place].source.program == part.source.program:
            own = parts[place]
            parts[place] = replace(own, notes=merged([own.notes, part.notes]))
            continue
        taken = {other.source.channel for other in parts.values()}
        free = [channel for channel in (part.source.channel, *range(16)) if channel not in {*taken, DRUM_CHANNEL}]
        if free:
            parts[len(parts) + max(parts, default=0) + 1] = replace(part, source=replace(part.source, channel=free[0]))
            continue
        pitched = [index for index, other in parts.items() if not other.is_drums]
        smallest = min(pitched, key=lambda index: len(parts[index].notes))
        parts[smallest] = replace(parts[smallest], notes=merged([parts[smallest].notes, part.notes]))
    return tuple(parts.values())


def _clock(model: AnalyzedSong, order: Int[np.ndarray, " bar"], seconds: float, end: int) -> TempoMap:
    """The beats of a new song whose step `end` is at `seconds`, with the changes of tempo of the form's song."""
    lengths = np.diff(pianoroll.seconds_at(np.arange(model.song.steps + 1), model.song.clock))
    steps = (model.units[order][:, None] + np.arange(model.unit_steps)).ravel()
    lengths = lengths[np.minimum(steps, len(lengths) - 1)]
    times = np.append(0.0, np.cumsum(lengths * seconds / lengths[:end].sum()))
    return TempoMap.through(np.arange(len(times)) / STEPS_PER_BEAT, times)


def _meter(model: AnalyzedSong, order: Int[np.ndarray, " bar"]) -> np.ndarray:
    """METER: that of the first bar of the song that gives the form."""
    meters = model.song.source.meters
    time = float(model.song.clock.seconds_at(model.units[order[0]] / STEPS_PER_BEAT))
    found = meters[meters["time"] <= time + 1e-6][-1:].copy()
    found["time"] = 0.0
    return found if len(found) else np.array([(0.0, 4, 4)], METER)
