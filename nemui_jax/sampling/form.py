"""The form of a song: which of its bars return, and the same form in more or fewer bars.

Bars are the units of an AnalyzedSong. A bar returns where another has nearly the same onsets.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from nemui_jax.data.pianoroll import GRID
from nemui_jax.sampling.analysis import PHRASE_UNITS, SLOT_STEPS, AnalyzedSong
from nemui_jax.sampling.lookup import unit_length, windows

SAME_BAR = 0.8  # F1 of onsets from which two bars are the same
TONES = 128
BARS_NEAR = 2  # by which a form may be longer or shorter than was asked for
RETURNS_COST = 20.0  # for a form in which all bars return, where none were to
PHRASE_COST = 0.5  # for a cut from one place in a phrase to another
MID_PHRASE_COST = 0.3  # for a cut within a phrase
BAR_COST = 0.1  # for each bar more or less than was asked for
KEY_COST = 3.0  # for a cut between stretches that have no pitch class in common
KEY_BARS = 8  # before and after a cut, of which the pitch classes are compared
CHANCE = 0.3  # random costs, up to this


def notes_of(song: AnalyzedSong, voices: Bool[np.ndarray, " voice"]) -> np.ndarray:
    """GRID: the notes of some voices, by step."""
    chosen = [voice.notes for voice, used in zip(song.voices, voices, strict=True) if used]
    notes = np.concatenate([np.empty(0, GRID), *chosen])
    return notes[np.lexsort((notes["pitch"], notes["step"]))]


def onset_rolls(song: AnalyzedSong, voices: Bool[np.ndarray, " voice"]) -> Float32[np.ndarray, "bar cell"]:
    """Which pitches begin on which steps of each bar of a song, in some of its voices."""
    notes = notes_of(song, voices)
    bar = np.searchsorted(song.units, notes["step"], side="right") - 1
    step = notes["step"] - song.units[bar]
    inside = (bar >= 0) & (step < song.unit_steps)
    rolls = np.zeros((len(song.units), song.unit_steps, TONES), np.float32)
    rolls[bar[inside], step[inside], np.clip(notes["pitch"][inside], 0, TONES - 1)] = 1
    return rolls.reshape(len(rolls), -1)


def likeness(rolls: Float32[np.ndarray, "bar cell"]) -> Float[np.ndarray, "bar bar"]:
    """The F1 of the onsets of each two bars; 1 for two without any."""
    rolls = rolls[:, rolls.any(0)]  # most pitches are never heard
    counts = rolls.sum(1)
    total = counts[:, None] + counts
    return np.where(total > 0, 2 * (rolls @ rolls.T) / np.maximum(total, 1), 1.0)


def first_occurrences(alike: Float[np.ndarray, "bar bar"]) -> Int[np.ndarray, " bar"]:
    """For each bar the first that is the same, by their `likeness`: itself where there is no earlier one."""
    first = np.arange(len(alike))
    for bar in range(1, len(alike)):
        earlier = np.flatnonzero((alike[bar, :bar] >= SAME_BAR) & (first[:bar] == np.arange(bar)))
        if len(earlier):
            first[bar] = earlier[alike[bar, earlier].argmax()]
    return first


def share_returning(alike: Float[np.ndarray, "bar bar"]) -> float:
    """The share of bars that are the same as another, by their `likeness`."""
    others = alike - 2 * np.eye(len(alike))
    return float((others.max(1) >= SAME_BAR).mean()) if len(alike) > 1 else 0.0


def fewer_returns(first: Int[np.ndarray, " bar"], returns: float, rng: np.random.Generator) -> Int[np.ndarray, " bar"]:
    """The `first_occurrences` of bars, with returning stretches made new until about a share `returns` return."""
    found, bars = first.copy(), np.arange(len(first))
    again = first != bars
    goes_on = np.append(False, again[:-1] & (np.diff(first) == 1))[: len(first)]
    stretch = np.where(again, np.cumsum(again & ~goes_on), 0)
    for number in rng.permutation(stretch.max(initial=0)) + 1:
        fewer = np.where(stretch == number, bars, found)
        if abs(_share(fewer) - returns) < abs(_share(found) - returns):
            found = fewer
    return found


def _share(first: Int[np.ndarray, " bar"]) -> float:
    """The share of bars that are the same as another, by the first of each."""
    return float((np.bincount(first)[first] > 1).mean())


def usual_returns(song: AnalyzedSong, bars: int) -> float:
    """The share of bars that return in the first so many bars of a song."""
    order = _whole_bars(song)[:bars]
    return share_returning(likeness(onset_rolls(song, np.ones(len(song.voices), bool))[order]))


def whole_form(song: AnalyzedSong, bars: int, returns: float, rng: np.random.Generator) -> Int[np.ndarray, " bar"]:
    """About so many bars of a song, in order, from its first whole one to the last in which notes begin.

    Some in the middle are left out, or come twice: of all places the one where the cut is heard least, and after which
    about a share `returns` of the bars return.
    """
    order = _whole_bars(song)
    if len(order) < 3:
        return np.resize(order, bars) if len(order) else np.zeros(bars, np.int64)
    alike = likeness(onset_rolls(song, np.ones(len(song.voices), bool)))
    slots = -(-song.unit_steps // SLOT_STEPS)
    sounds = windows(song.sounds[song.pitched].sum(0), song.units, slots)
    harmony, classes = unit_length(sounds.reshape(len(sounds), -1)), sounds.sum(1)
    while bars > 2 * len(order) - 1 - BARS_NEAR:
        order = np.concatenate([order[:-1], order[1:]])
    cuts = [
        (
            _cut_cost(order, first, second, alike, returns, harmony, classes) + BAR_COST * abs(count - bars),
            first,
            second,
        )
        for count in range(max(bars - BARS_NEAR, 2), bars + BARS_NEAR + 1)
        for first in range(1, min(count, len(order)))
        if 1 <= (second := len(order) - count + first) < len(order)
    ]
    costs = np.array([cost for cost, *_ in cuts]) + rng.uniform(0, CHANCE, len(cuts))
    _, first, second = cuts[int(costs.argmin())]
    return np.concatenate([order[:first], order[second:]])


def _whole_bars(song: AnalyzedSong) -> Int[np.ndarray, " bar"]:
    """The bars from the first whole one to the last in which notes begin."""
    return np.arange(song.upbeats, int(np.flatnonzero(song.counts.any(0)).max(initial=0)) + 1)


def _cut_cost(
    order: Int[np.ndarray, " bar"],
    first: int,
    second: int,
    alike: Float[np.ndarray, "place place"],
    returns: float,
    harmony: Float[np.ndarray, "place sound"],
    classes: Float[np.ndarray, "place 12"],
) -> float:
    """What it costs to go on with bar `second` of an order after the first `first` bars."""
    made = np.concatenate([order[:first], order[second:]])
    unlike = abs(share_returning(alike[np.ix_(made, made)]) - returns)
    if first == second:
        return RETURNS_COST * unlike
    left, right = harmony[order[[first - 1, second - 1]]], harmony[order[[first, second]]]
    heard = 2 - left[0] @ left[1] - right[0] @ right[1]
    before, after = (
        unit_length(classes[bars].sum(0)) for bars in (order[:first][-KEY_BARS:], order[second:][:KEY_BARS])
    )
    key = KEY_COST * (1 - float(before @ after))
    phrase = PHRASE_COST * ((first - second) % PHRASE_UNITS != 0) + MID_PHRASE_COST * (first % PHRASE_UNITS != 0)
    return RETURNS_COST * unlike + float(heard) + key + phrase
