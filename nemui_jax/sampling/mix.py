"""Mixes of songs: one harmony at a time, lines that stay lines, and a song to each voice by its weight.

analyze(song) -> what mixing knows of a song, to be kept
mix([first, second], weigh) -> a Song
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.data import pianoroll
from nemui_jax.data.pianoroll import GRID
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.key import nearest_octave
from nemui_jax.music.song import METER, Song, TempoMap
from nemui_jax.sampling import ensemble
from nemui_jax.sampling.analysis import AnalyzedSong, analyze, divided, in_common_scale, stretch
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.passages import (
    Passage,
    clashing,
    fit_to_harmony,
    lead_chords,
    merged,
    passages,
    sounding_roll,
    take,
)
from nemui_jax.sampling.plan import Plan, make_plan
from nemui_jax.sampling.seats import Weights
from nemui_jax.sampling.timeline import make_timeline, places_of_songs

__all__ = ["AnalyzedSong", "Factors", "analyze", "mix"]

FARTHEST_KEY = 9  # semitones that a song is moved, rather than to another octave than its fellow
QUARTERS_MEET = 3.0  # ratio of the lengths of two songs' quarter notes from which their beats meet instead
Weigh = Callable[[int], Float[np.ndarray, "song bar"]]


@dataclass(frozen=True)
class Factors:
    """The song, or the songs' weights, for a factor that does not go with the weights of the mix."""

    harmony: int | Sequence[float] | None = None
    melody: int | Sequence[float] | None = None
    rhythm: int | Sequence[float] | None = None  # who plays all that accompanies
    dynamics: int | Sequence[float] | None = None
    tempo: int | Sequence[float] | None = None
    instruments: int | Sequence[float] | None = None

    def of(self, name: str, weights: Float[np.ndarray, "song bar"]) -> Float[np.ndarray, "song bar"]:
        """The songs' weights for one factor, given those of the mix."""
        value = getattr(self, name)
        if value is None:
            return weights
        if isinstance(value, int):
            value = np.arange(len(weights)) == value
        chosen = np.asarray(value, float)
        return np.repeat((chosen / chosen.sum())[:, None], weights.shape[1], 1)

    @property
    def given(self) -> bool:
        """Whether any factor has weights of its own."""
        return any(getattr(self, field.name) is not None for field in fields(self))


def mix(
    songs: Sequence[AnalyzedSong],
    weigh: Weigh,
    *,
    bars: int | None = None,
    seconds: float | None = None,
    since: float = 0.0,
    factors: Factors = Factors(),
    shift: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Song:
    """A mix of songs. `weigh(n)` gives their weights in each of n bars; a bar's weights add up to 1.

    The song with the largest total weight gives the meter and the name, and unless `bars` or `seconds` is given the
    number of bars; with weights that change the mix is as long as the songs on average, by weight. A song that is
    heaviest at the end closes with its own end, and one that ends too early starts again. With `seconds` a mix lasts at
    least so long if its weights stay the same, else about so long, and the weights are spread over this time. Pitches
    are moved to the key of the heaviest song, or to that `shift` semitones below the common key, in any octave. A
    `temperature` makes the choice of places random, by `seed`. Bars in which one song has all the weight are played as
    they are. What comes before `since` seconds may be left out.
    """
    first = np.asarray(weigh(bars or max(len(song.units) for song in songs)), float)
    heaviest, constant = int(first.sum(1).argmax()), bool((np.ptp(first, axis=1) == 0).all())
    whole = len(songs[heaviest].units)
    if seconds is not None:  # with weights that stay the same, a shorter mix is the beginning of the whole one
        bars = max(count_bars(songs, seconds), whole if constant else 0)
    plain = not (factors.given or temperature) and shift is None
    if plain and (first[heaviest] == 1).all() and bars in (None, whole):
        return to_song(songs[heaviest].song)
    songs, beats_per_quarter = _in_common_beats(in_common_scale(songs, songs[heaviest], FARTHEST_KEY), heaviest)
    reference = songs[heaviest]
    if bars is None:
        steps = np.array([song.song.steps for song in songs])
        bars = whole if constant else max(round(float(first.mean(1) @ steps) / reference.unit_steps), 2)
    weights = np.asarray(weigh(bars), float)
    if seconds is not None and not constant:
        weights = _over_time(songs, reference, weights, seconds)
    count = weights.shape[1]
    chosen = Weights(*(factors.of(name, weights) for name in Weights._fields))
    timeline = make_timeline(songs, heaviest, count, places_of_songs(weights))
    plan = make_plan(songs, heaviest, timeline, chosen, temperature, seed)
    clock = mixed_clock(plan, songs, factors.of("tempo", weights))
    tempo_map, meters = clock.counted(1 / beats_per_quarter), _meters(reference, clock, int(plan.units[-1]))
    if since > 0:
        unit = _unit_before(plan, clock, since)
        beat = int(plan.units[unit]) // STEPS_PER_BEAT
        plan, weights = plan.starting(unit, beat * STEPS_PER_BEAT), weights[:, unit:]
        clock = clock._replace(beat=clock.beat - beat)
    played = _played(plan, songs, factors.of("dynamics", weights))
    shifts = np.array([song.song.shift for song in songs])[weights.argmax(0)]
    if shift is not None:
        shifts = np.full_like(shifts, nearest_octave(shift, reference.song.shift))

    def to_notes(grid: np.ndarray, pitched: bool = True) -> np.ndarray:
        unit = np.clip(np.searchsorted(plan.units, grid["step"], side="right") - 1, 0, len(shifts) - 1)
        return pianoroll.to_notes(grid, clock, shifts[unit] if pitched else 0)

    chairs, warnings = ensemble.seat_players(plan, songs, played, _instruments_of(plan, factors, weights))
    parts = tuple(
        ensemble.to_part(chair, songs, clock, lambda grid, chair=chair: to_notes(grid, not chair.is_drums))
        for chair in chairs
    )
    return Song(
        parts=parts,
        tempo_map=tempo_map,
        meters=meters,
        name=reference.song.source.name or reference.song.name,
        warnings=warnings,
    )


def _unit_before(plan: Plan, clock: TempoMap, seconds: float) -> int:
    """The unit of a mix that begins a unit and more before a time, as what sounds then may have begun there."""
    steps = float(clock.beats_at(seconds)) * STEPS_PER_BEAT
    return int(np.clip(np.searchsorted(plan.units, steps, side="right") - 2, 0, len(plan.leader) - 1))


def count_bars(songs: Sequence[AnalyzedSong], seconds: float, weights: Float[np.ndarray, " song"] | None = None) -> int:
    """Bars of a mix of songs that last so many seconds at least, whatever the weights.

    With weights, which are those of all bars, fewer bars, that last so long unless the songs are faster there than
    elsewhere.
    """
    bars = np.array([song.unit_steps / STEPS_PER_BEAT / song.beats_per_quarter for song in songs])  # in quarter notes
    quarters = np.array([song.quarter_seconds for song in songs])
    if weights is None:
        shortest = bars.min() * quarters.min()
    else:
        shortest = bars[weights.argmax()] * np.exp(np.log(quarters) @ weights)
    return math.ceil(1.1 * seconds / shortest) + 2


def _over_time(
    songs: Sequence[AnalyzedSong], reference: AnalyzedSong, weights: Float[np.ndarray, "song place"], seconds: float
) -> Float[np.ndarray, "song bar"]:
    """The weights in each of as many bars as last `seconds`, from those at places that are evenly spread over them.

    Bars get longer or shorter on the way from one song to another: they are as long as in the songs on average.
    """
    bars = weights.shape[1]
    lengths = [float(song.song.clock.seconds_at(song.song.steps / STEPS_PER_BEAT)) for song in songs]
    step_seconds = np.array(lengths) / [song.song.steps for song in songs]
    bar_seconds = reference.unit_steps * np.exp(np.log(step_seconds) @ weights)
    begun = np.append(0.0, np.cumsum(seconds / bars / bar_seconds))  # the bar at each place's start, and at the end
    place = np.interp(np.arange(bars), begun, np.linspace(0, bars - 1, bars + 1))
    place = place[: max(np.count_nonzero(place < bars - 1), 2)]
    place *= (bars - 1) / place[-1]
    return np.stack([np.interp(place, np.arange(bars), row) for row in weights])


def _in_common_beats(songs: Sequence[AnalyzedSong], heaviest: int) -> tuple[list[AnalyzedSong], float]:
    """The songs with as many beats a quarter note as each other, and that number.

    Notated values meet: a quarter note of one is a quarter note of the other. Where quarter notes differ more than
    QUARTERS_MEET in length, beats meet instead.
    """
    seconds = [song.quarter_seconds for song in songs]
    counts = [song.beats_per_quarter for song in songs]
    near = [max(one, seconds[heaviest]) / min(one, seconds[heaviest]) < QUARTERS_MEET for one in seconds]
    most = max(count for count, meets in zip(counts, near, strict=True) if meets)
    factors = [round(most / count) if meets else 1 for count, meets in zip(counts, near, strict=True)]
    stretched = [stretch(song, factor) for song, factor in zip(songs, factors, strict=True)]
    length = stretched[heaviest].unit_steps
    return [divided(song, length) for song in stretched], most


def _played(
    plan: Plan, songs: Sequence[AnalyzedSong], weights: Float[np.ndarray, "song bar"]
) -> list[tuple[Passage, np.ndarray]]:
    """The passages of a mix and their notes, as loud as the weighted mean of the songs, and fitted to the harmony.

    What accompanies is louder and softer with the song that leads, not with its own.
    """
    loudness = np.array([song.loudness for song in songs])
    target = loudness @ weights
    chord = lead_chords(plan, songs)
    found = [(passage, take(passage, songs)) for passage in passages(plan, songs)]
    follows = [not _leads(plan, passage) and not _is_drums(plan, passage) for passage, _ in found]
    leading = [notes for passage, notes in found if _leads(plan, passage) and not _is_drums(plan, passage)]
    following = [notes for (_, notes), fits in zip(found, follows, strict=True) if fits]
    sounding = sounding_roll(merged(leading), int(plan.units[-1]))
    clashes = clashing(np.concatenate([np.empty(0, GRID), *following], dtype=GRID), sounding)
    of_passage = iter(np.split(clashes, np.cumsum([len(notes) for notes in following])[:-1]))
    played = []
    swell = np.stack([song.loudness_from(source) for song, source in zip(songs, plan.source, strict=True)])
    swell -= loudness[:, None]
    lead = np.take_along_axis(swell, plan.leader[None], 0)[0]
    for (passage, notes), fits in zip(found, follows, strict=True):
        fitted = fit_to_harmony(notes, next(of_passage), chord) if fits else notes
        louder = target[passage.first : passage.last].mean() - loudness[passage.song]
        unit = np.clip(np.searchsorted(plan.units, fitted["step"], side="right") - 1, 0, len(lead) - 1)
        louder = louder + (lead - swell[passage.song])[unit]
        fitted["velocity"] = np.clip(np.round(fitted["velocity"] + louder), 1, 127)
        played.append((passage, fitted))
    return played


def _leads(plan: Plan, passage: Passage) -> bool:
    return bool(plan.leader[passage.first] == passage.song)


def _is_drums(plan: Plan, passage: Passage) -> bool:
    return plan.seats[passage.seat].role.name == "DRUMS"


def _instruments_of(
    plan: Plan, factors: Factors, weights: Float[np.ndarray, "song bar"]
) -> Callable[[Passage], int | None]:
    """The song whose instrument takes a passage; None for its own."""
    if factors.instruments is None:
        return lambda passage: None
    wanted = factors.of("instruments", weights)[:, 0]
    return lambda passage: int(wanted.argmax())


def mixed_clock(plan: Plan, songs: Sequence[AnalyzedSong], weights: Float[np.ndarray, "song bar"]) -> TempoMap:
    """The clock of a mix: a step lasts the weighted geometric mean of its lengths where the songs are drawn from."""
    steps = np.arange(int(plan.units[-1]))
    unit = np.searchsorted(plan.units, steps, side="right") - 1
    log_seconds = np.zeros(len(steps))
    for number, song in enumerate(songs):
        length = song.song.steps
        step_seconds = np.diff(pianoroll.seconds_at(np.arange(length + 1), song.song.clock))
        source = np.maximum(plan.source[number, unit] + steps - plan.units[unit], 0) % length
        log_seconds += weights[number, unit] * np.log(step_seconds[source])
    seconds = np.concatenate([[0.0], np.cumsum(np.exp(log_seconds))])
    return TempoMap.through(np.arange(len(steps) + 1) / STEPS_PER_BEAT, seconds)


def _meters(reference: AnalyzedSong, clock: TempoMap, steps: int) -> Any:
    """The meters of the song that gives the bars, on the same beats of the mix."""
    meters = reference.song.source.meters.copy()
    beats = np.maximum(np.round(reference.song.clock.beats_at(meters["time"]), 6), 0)
    meters["time"] = clock.seconds_at(beats)
    return meters[beats * STEPS_PER_BEAT < steps] if len(meters) else np.empty(0, METER)
