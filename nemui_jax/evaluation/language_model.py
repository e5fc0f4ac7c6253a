"""A language model of notes, fitted to songs: the cost of a piece in bits a note."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.evaluation import style
from nemui_jax.music.key import estimate_key, shift_to_common

_Grams = list[list[Int[np.ndarray, " _"]]]  # by view, then length of context
_TIME_EDGES = np.geomspace(1 / 32, 4, 8)  # seconds between attacks, octaves
_TIMES = len(_TIME_EDGES)  # one symbol an octave, and one for the same attack
_WIDEST = 40  # semitones; wider intervals count as this
_INTERVALS = 2 * _WIDEST + 1
_SYMBOLS = (_TIMES, _INTERVALS, _INTERVALS, _INTERVALS)


@dataclass(frozen=True)
class _Counts:
    """How often each key occurred; keys are sorted and unique."""

    keys: Int[np.ndarray, " key"]
    counts: Int[np.ndarray, " key"]

    @classmethod
    def of(cls, keys: Int[np.ndarray, " occurrence"]) -> "_Counts":
        return cls(*np.unique(keys, return_counts=True))

    def at(self, keys: Int[np.ndarray, " query"]) -> Int[np.ndarray, " query"]:
        """The count of each key; 0 for a key that did not occur."""
        if not len(self.keys):
            return np.zeros(len(keys), int)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0)


@dataclass(frozen=True)
class _Order:
    """Counts of the songs for one length of context. A gram is the number `context * symbols + symbol`."""

    symbols: int
    grams: _Counts
    contexts: _Counts
    kinds: _Counts  # of different symbols that followed a context

    @classmethod
    def of(cls, symbols: int, grams: Int[np.ndarray, " note"]) -> "_Order":
        counted = _Counts.of(grams)
        return cls(symbols, counted, _Counts.of(grams // symbols), _Counts.of(counted.keys // symbols))

    def interpolate(
        self, shorter: Float[np.ndarray, " note"], grams: Int[np.ndarray, " note"], left_out: Int[np.ndarray, " gram"]
    ) -> Float[np.ndarray, " note"]:
        """Witten-Bell smoothing: in proportion to `kinds`, probability goes to what the shorter context predicts.

        The grams `left_out`, of songs that were counted, are subtracted from the counts.
        """
        omitted = _Counts.of(left_out)
        omitted_kinds = _Counts.of(omitted.keys[self.grams.at(omitted.keys) == omitted.counts] // self.symbols)
        context = grams // self.symbols
        seen = self.grams.at(grams) - omitted.at(grams)
        total = self.contexts.at(context) - _Counts.of(left_out // self.symbols).at(context)
        kinds = self.kinds.at(context) - omitted_kinds.at(context)
        return np.where(total > 0, (seen + kinds * shorter) / np.maximum(total + kinds, 1), shorter)


@dataclass(frozen=True)
class LanguageModel:
    """An n-gram model of performances: how unlikely notes are, in bits per note.

    Roberts et al. (2018, "MusicVAE") evaluate interpolations by their cost under a language model. This one is small,
    deterministic and made of counts, so that a song can be left out exactly. Pitches are transposed to the common key,
    and notes are read attack by attack, from low to high. For each note it predicts the time since the previous attack
    (0 within an attack, else one of seven octaves of seconds) from the last three such times, and then the interval to
    the previous note (for the lowest note of an attack: to the lowest of the previous attack). The interval's
    probability is the mean of three views, each of which interpolates longer and longer contexts (Witten and Bell,
    1991): the last intervals; the previous pitch; the position relative to the previous attack.

    Costs differ between sparse and chordal music, and between played and quantised onsets (about 0.8 bits for a grid
    of 50 ms). So compare a mix with its parents played back in the same way, `without` both.
    """

    songs: tuple[np.ndarray, ...]
    views: tuple[tuple[_Order, ...], ...]  # the times', then the intervals' three; by length of context

    @classmethod
    def fit(cls, songs: Sequence[np.ndarray]) -> "LanguageModel":
        """A model of a list of NOTE arrays, which it keeps, so that `cost` can leave some out."""
        per_song = [_grams(notes) for notes in songs]
        views = [
            [_Order.of(symbols, np.concatenate(orders)) for orders in zip(*of_songs, strict=True)]
            for symbols, *of_songs in zip(_SYMBOLS, *per_song, strict=True)
        ]
        return cls(tuple(songs), tuple(tuple(view) for view in views))

    def cost(self, notes: np.ndarray, without: int | Collection[int] = ()) -> float:
        """Bits per note, as if the songs with the indices `without` had not been counted; nan without notes."""
        if not len(notes):
            return float("nan")
        indices = sorted({without} if isinstance(without, int) else set(without))
        time, *interval = self._probabilities(_grams(notes), [_grams(self.songs[index]) for index in indices])
        return float(-np.log2(time * np.mean(interval, axis=0)).mean())

    def _probabilities(self, grams: _Grams, left_out: list[_Grams]) -> list[Float[np.ndarray, " note"]]:
        """Probabilities of each note under each view."""
        views = []
        for view, orders in enumerate(self.views):
            probability = np.full(len(grams[view][0]), 1 / _SYMBOLS[view])
            for length, order in enumerate(orders):
                out = [song[view][length] for song in left_out]
                probability = order.interpolate(
                    probability, grams[view][length], np.concatenate(out) if out else np.empty(0, np.int64)
                )
            views.append(probability)
        return views


def _grams(notes: np.ndarray) -> _Grams:
    """The grams of notes, by view and length of context."""
    notes = notes[np.lexsort((notes["pitch"], notes["onset"]))]
    first = style.attacks(notes)
    attack = np.repeat(np.arange(len(first)), np.diff(first, append=len(notes)))
    time = np.zeros(len(notes), np.int64)
    time[first[1:]] = 1 + style.bins(np.diff(notes["onset"][first]), _TIME_EDGES)
    time[:1] = _TIMES - 1

    pitch = notes["pitch"].astype(np.int64)[np.lexsort((notes["pitch"], attack))]
    pitch += shift_to_common(estimate_key(notes))
    lowest, highest = pitch[first], pitch[np.append(first[1:], len(notes)) - 1] if len(notes) else pitch
    before = _delayed(pitch, 1, 60)
    before[first] = _delayed(lowest, 1, 60)
    interval = np.clip(pitch - before, -_WIDEST, _WIDEST) + _WIDEST
    below_top, above_bottom = (
        np.clip(_delayed(end, 1, 60)[attack] - before, -_WIDEST, _WIDEST) + _WIDEST for end in (highest, lowest)
    )

    starts = (np.minimum(time, 1), 2)  # 1 for the first note of an attack
    one_ago, two_ago = ((_delayed(interval, delay, _WIDEST), _INTERVALS) for delay in (1, 2))
    times = [(_delayed(time, delay, 0), _TIMES) for delay in (1, 2, 3)]
    return [
        _nested(time, _TIMES, times),
        _nested(interval, _INTERVALS, [starts, one_ago, two_ago]),
        _nested(interval, _INTERVALS, [starts, (before + 12, 152), one_ago, two_ago]),
        _nested(interval, _INTERVALS, [starts, (below_top, _INTERVALS), (above_bottom, _INTERVALS), one_ago]),
    ]


def _nested(
    symbol: Int[np.ndarray, " note"], symbols: int, contexts: list[tuple[Int[np.ndarray, " note"], int]]
) -> list[Int[np.ndarray, " note"]]:
    """Grams without context, with the first of `contexts` (values and how many there can be), the first two, ..."""
    context, grams = np.zeros_like(symbol), [symbol]
    for values, size in contexts:
        context = context * size + values
        grams.append(context * symbols + symbol)
    return grams


def _delayed(values: Int[np.ndarray, " note"], delay: int, fill: int) -> Int[np.ndarray, " note"]:
    return np.concatenate([np.full(delay, fill), values])[: len(values)]
