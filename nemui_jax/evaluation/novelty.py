"""How new a piece is: how much it is like the songs in style, and how close to any passage of them.

Conventions: notes are NOTE arrays; times are seconds.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.evaluation import note_metrics, style
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.music.key import estimate_key, shift_to_common
from nemui_jax.music.song import cut_notes

RANK_SECONDS = 60.0  # of a candidate that are measured
RANK_SONGS = 64  # that candidates are compared with, at most
RANK_SONG_SECONDS = 1200.0  # of each of them
RANK_STRETCHES = 512  # of all of them
MAX_COMPARISONS = 5e10  # about half a minute; a minute of music and 35 hours of songs
FLOOR = -5.0  # of a measure's log density, so that no single measure decides
COPY_SECONDS = 10.0  # the shortest copy
COPY_ONSETS = 10  # in it, at least
COPY_SHIFTS = range(-11, 12)  # semitones: as far as two songs' shifts to the common key can be apart
COPY_LIKENESS = 0.5  # unrelated performances reach 0.34, a recalled song 1


class Nearest(NamedTuple):
    """A stretch of a piece and the passage of a song that is most like it."""

    song: int
    likeness: float  # 0 to 1
    start: float  # seconds into the piece
    song_start: float  # seconds into the song

    @property
    def too_close(self) -> bool:
        """Whether they are too close for the piece to be called new."""
        return self.likeness > COPY_LIKENESS


def rank(candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> list[int]:
    """Indices of the candidates by their `scores`, the best first."""
    return np.argsort(-scores(candidates, songs), kind="stable").tolist()


def scores(candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> Float[np.ndarray, " candidate"]:
    """How much like the songs the beginning of each candidate is: about 0 for a song, less for anything else.

    Its typicality less the bits per note that it costs a language model above what a song costs, itself left out.
    Typicality is the mean over the measures of `style` of the log density of the candidate's value under those of the
    songs' stretches of the same length, less what these get themselves. Keys do not matter. ValueError if there are
    fewer than two songs. Typicality alone hardly separates a random rhythm or a cross-fade from a song.

    Time is bounded: candidates are compared with RANK_SONGS songs, evenly chosen, the first RANK_SONG_SECONDS of each,
    and with RANK_STRETCHES stretches of these.
    """
    if len(songs) < 2:
        raise ValueError(f"candidates are ranked by what songs have in common, and there are {len(songs)}")
    songs = [_in_common_key(cut_notes(song, RANK_SONG_SECONDS)) for song in songs[:: -(-len(songs) // RANK_SONGS)]]
    candidates = [_in_common_key(notes) for notes in candidates]
    seconds = float(np.clip(max((notes["end"].max(initial=0) for notes in candidates), default=1), 1, RANK_SECONDS))
    starts = [
        (song, start)
        for song in songs
        for start in np.arange(0, max(song["end"].max(initial=0) - seconds / 2, 1), seconds)
    ]
    starts = starts[:: -(-len(starts) // RANK_STRETCHES)]
    stretches = [style.style(song, start, start + seconds) for song, start in starts]
    found = [style.style(notes, 0.0, seconds) for notes in candidates]
    typicality = [
        _typicality(*(np.array([one[name] for one in values], float) for values in (stretches, found)))
        for name in stretches[0]
    ]
    model = LanguageModel.fit(songs)
    usual = np.nanmean([model.cost(song, without=index) for index, song in enumerate(songs)])
    cost = np.nan_to_num([model.cost(notes) for notes in candidates], nan=np.inf)
    return np.mean(typicality, axis=0) - np.maximum(cost - usual, 0)


def _typicality(known: Float[np.ndarray, "song ..."], new: Float[np.ndarray, "new ..."]) -> Float[np.ndarray, " new"]:
    """Log densities of a measure's new values, less the mean of the known; of arrays, of their mean distances."""
    if known.ndim > 1:
        apart, new_apart = (
            np.stack([np.linalg.norm((known - one).reshape(len(known), -1), axis=1) for one in values])
            for values in (known, new)
        )
        known, new = apart.sum(1) / max(len(known) - 1, 1), new_apart.mean(1)
    floor = max(1e-3 * float(np.ptp(known)), 1e-9)
    usual = style.log_density(known, known, floor).mean()
    return np.maximum(style.log_density(known, new, floor) - usual, FLOOR)


def _in_common_key(notes: np.ndarray) -> np.ndarray:
    moved = notes.copy()
    moved["pitch"] = np.clip(notes["pitch"].astype(int) + shift_to_common(estimate_key(notes)), 0, 127)
    return moved


class _Stretch(NamedTuple):
    """Ten seconds of the piece."""

    start: int  # step
    step: Int[np.ndarray, " onset"]  # from the start on
    pitch: Int[np.ndarray, " onset"]


def nearest_passage(
    notes: np.ndarray, songs: Sequence[np.ndarray], max_comparisons: float = MAX_COMPARISONS
) -> Nearest:
    """The passage anywhere in the songs, transposed by less than an octave, that is most like a stretch of some notes.

    Likeness is 2 hits / (onsets of the stretch + onsets of the passage), where an onset is a hit if the song has one
    of its pitch at most one step of 50 ms away (`note_metrics.likeness` at its best place). Stretches overlap by half.
    Where every stretch against every song would be more than `max_comparisons` of an onset with a step of a song, as
    with many hours of songs, a random sample of stretches, always the same, is compared with each song. ValueError
    without songs.
    """
    if not songs:
        raise ValueError("no songs to compare with; pass one at least")
    step, pitch = _onsets(notes)
    last = int(step.max(initial=0))
    length = min(round(COPY_SECONDS / note_metrics.STEP_SECONDS), last + 1)
    starts = range(0, last + 1, max(length // 2, 1))
    windows = [(start, (step >= start) & (step < start + length)) for start in starts]
    stretches = [
        _Stretch(start, step[inside] - start, pitch[inside])
        for start, inside in windows
        if np.count_nonzero(inside) >= COPY_ONSETS
    ]
    places = sum(float(song["onset"].max(initial=0)) / note_metrics.STEP_SECONDS + length for song in songs)
    comparisons = places * len(COPY_SHIFTS) * sum(len(stretch.step) for stretch in stretches)
    sampled = np.random.default_rng(0).random((len(songs), len(stretches))) * comparisons < max_comparisons
    best = Nearest(0, 0.0, 0.0, 0.0)
    for number, song in enumerate(songs):
        compared = [stretch for stretch, used in zip(stretches, sampled[number], strict=True) if used]
        for stretch, likeness, place in _better_passages(song, compared, length, best.likeness):
            start, song_start = stretch.start * note_metrics.STEP_SECONDS, place * note_metrics.STEP_SECONDS
            best = Nearest(number, likeness, start, song_start)
    return best


def _better_passages(
    song: np.ndarray, stretches: Sequence[_Stretch], length: int, likeness: float
) -> Iterator[tuple[_Stretch, float, int]]:
    """Passages of a song, each more like its stretch than the one before and than `likeness`, with their first step."""
    if not stretches:
        return
    step, pitch = _onsets(song)
    lags = int(step.max(initial=0)) + length + 1  # at lag `length` a stretch begins where the song does
    reach = np.zeros((128 + len(COPY_SHIFTS), lags + length + 1), np.uint8)
    for slack in (-1, 0, 1):
        reach[pitch - COPY_SHIFTS[0], step + length + slack] = 1
    until = np.cumsum(np.bincount(step + length + 1, minlength=lags + length + 1))
    onsets = until[length : length + lags] - until[:lags]  # of the passage at each lag
    for stretch in stretches:
        count = len(stretch.step)
        cells = list(zip(stretch.step, stretch.pitch - COPY_SHIFTS[0], strict=True))
        for shift in COPY_SHIFTS:
            hits = np.zeros(lags, np.uint8 if count < 256 else np.uint16)
            for place, row in cells:
                hits += reach[row + shift, place : place + lags]
            most = int(hits.max())
            if 2 * most <= likeness * (count + most):
                continue
            found = 2 * np.minimum(hits, onsets) / (count + onsets)
            lag = int(found.argmax())
            if found[lag] > likeness:
                likeness = float(found[lag])
                yield stretch, likeness, max(lag - length, 0)


def _onsets(notes: np.ndarray) -> tuple[Int[np.ndarray, " onset"], Int[np.ndarray, " onset"]]:
    """Steps and pitches of the cells in which a note starts, each once, in order of time."""
    steps = np.floor(np.maximum(notes["onset"], 0) / note_metrics.STEP_SECONDS + 0.5).astype(np.intp)
    cells = np.unique(steps * 128 + notes["pitch"])
    return cells // 128, cells % 128
