"""How new a piece is: how typical it is of the songs in style, and how close it is to any passage of them.

Conventions: notes are NOTE arrays; times are seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.data.dataset import spread
from nemui_jax.evaluation import mixing, note_metrics, style
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.music.key import in_common_key
from nemui_jax.music.song import Song, cut_notes, cut_song
from nemui_jax.sampling import prior
from nemui_jax.sampling.analysis import AnalyzedSong

RANK_SECONDS = 60.0  # of each candidate, from its beginning
RANK_SONGS = 64  # the most songs that candidates are compared with
RANK_SONG_SECONDS = 1200.0  # of each of these songs
RANK_EXCERPTS = 512  # the most excerpts of these songs
COMPARED_SONGS = 32  # beside those that a new song is made of
MAX_COMPARISONS = 5e9  # take about three seconds: a minute of music with three and a half hours of songs
FLOOR = -5.0  # of a measure's log density, so that no single measure decides
COPY_SECONDS = 10.0  # length of the excerpts that are compared
COPY_ONSETS = 10  # the fewest onsets of such an excerpt
COPY_SHIFTS = range(-11, 12)  # semitones: all that two songs' shifts to the common key can be apart
COPY_HOP_QUARTERS = 4  # between windows of quarters that are compared
COPY_LIKENESS = 0.8  # unrelated performances reach 0.34; a song played back, 1


class Nearest(NamedTuple):
    """An excerpt of a piece and the passage of a song that is most like it."""

    song: int
    likeness: float  # 0 to 1
    start: float  # seconds into the piece
    song_start: float  # seconds into the song

    @property
    def too_close(self) -> bool:
        """Whether they are too alike for the piece to be called new."""
        return self.likeness > COPY_LIKENESS


class Drawn(NamedTuple):
    """A new song, and how close it is to the songs that it is drawn from."""

    seed: int  # that it was drawn with
    song: Song
    sources: tuple[prior.Source, ...]  # what it is made of
    in_beats: np.ndarray  # NOTE: its notes, as `mixing.in_beats` gives them
    near: Nearest
    likeness: float  # of its 16 quarters most like a passage of a song that it is made of, at any tempo

    @property
    def too_close(self) -> bool:
        """Whether a stretch of it is too like a passage of a song for it to be called new."""
        return self.near.too_close or self.likeness > COPY_LIKENESS

    @property
    def is_new(self) -> bool:
        """Whether it has notes, and is not a copy."""
        return bool(self.song.seconds) and not self.too_close


def draw_songs(
    songs: Sequence[int],
    analyzed: Callable[[int], AnalyzedSong],
    in_beats: Callable[[int], np.ndarray],
    others: Sequence[int],
    seeds: Iterable[int],
    seconds: float,
    shift: int | None = None,
) -> Iterator[Drawn]:
    """New songs from some songs (see `prior.draw`), one for each seed.

    Each is compared with those that it is made of, and with COMPARED_SONGS of the `others`, evenly chosen:
    `in_beats(song)` gives the notes of one.
    """
    for seed in seeds:
        new = prior.draw(songs, analyzed, seed, seconds, shift)
        song = cut_song(new.song, seconds)
        notes = mixing.in_beats(song)  # a copy at another tempo is one too
        given = [source.song for source in new.sources]
        likeness = mixing.copy_likeness(
            notes, list(map(in_beats, given)), mixing.count_quarters(notes), COPY_HOP_QUARTERS
        )
        compared = sorted({*given, *(others[index] for index in spread(len(others), COMPARED_SONGS))})
        near = nearest_passage(notes, list(map(in_beats, compared)))
        near = near._replace(song=compared[near.song])
        yield Drawn(seed, song, new.sources, notes, near, float(likeness.max(initial=0)))


def rank(candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> list[int]:
    """Indices of the candidates by their `scores`, the best first."""
    return np.argsort(-scores(candidates, songs), kind="stable").tolist()


def scores(candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> Float[np.ndarray, " candidate"]:
    """How much like the songs the beginning of each candidate is: about 0 for a song, less for anything else.

    A score is the typicality less the extra bits per note under a language model of the songs, compared with the mean
    of songs left out of it. Typicality is the mean, over the measures of `style`, of the log density of the
    candidate's value among those of excerpts of the songs of the same length, less the excerpts' own mean. All are
    compared in the common key. Typicality alone hardly separates a random rhythm or a cross-fade from a song.

    To bound the time, candidates are compared with RANK_SONGS songs, evenly chosen, with the first RANK_SONG_SECONDS
    of each, and with RANK_EXCERPTS excerpts of these. ValueError for fewer than two songs.
    """
    if len(songs) < 2:
        raise ValueError(f"candidates are ranked by what two songs or more have in common, and there are {len(songs)}")
    songs = [in_common_key(cut_notes(songs[index], RANK_SONG_SECONDS)) for index in spread(len(songs), RANK_SONGS)]
    candidates = [in_common_key(notes) for notes in candidates]
    seconds = float(np.clip(max((notes["end"].max(initial=0) for notes in candidates), default=1), 1, RANK_SECONDS))
    starts = [
        (song, start)
        for song in songs
        for start in np.arange(0, max(song["end"].max(initial=0) - seconds / 2, 1), seconds)
    ]
    starts = starts[:: -(-len(starts) // RANK_EXCERPTS)]
    excerpts = [style.style(song, start, start + seconds) for song, start in starts]
    found = [style.style(notes, 0.0, seconds) for notes in candidates]
    typicality = [
        _typicality(*(np.array([one[name] for one in values], float) for values in (excerpts, found)))
        for name in excerpts[0]
    ]
    model = LanguageModel.fit(songs)
    songs_cost = np.nanmean([model.cost(song, without=index) for index, song in enumerate(songs)])
    cost = np.nan_to_num([model.cost(notes) for notes in candidates], nan=np.inf)
    return np.mean(typicality, axis=0) - np.maximum(cost - songs_cost, 0)


def _typicality(
    reference: Float[np.ndarray, "excerpt ..."], values: Float[np.ndarray, "candidate ..."]
) -> Float[np.ndarray, " candidate"]:
    """Log densities of candidates' values of a measure among reference values, less the mean of the latter.

    Arrays are replaced by their mean distances from the reference.
    """
    if reference.ndim > 1:
        within, between = (
            np.stack([np.linalg.norm((reference - one).reshape(len(reference), -1), axis=1) for one in several])
            for several in (reference, values)
        )
        reference, values = within.sum(1) / max(len(reference) - 1, 1), between.mean(1)
    floor = max(1e-3 * float(np.ptp(reference)), 1e-9)
    mean = style.log_density(reference, reference, floor).mean()
    return np.maximum(style.log_density(reference, values, floor) - mean, FLOOR)


class _Excerpt(NamedTuple):
    """The onsets of ten seconds of the piece."""

    start: int  # step
    step: Int[np.ndarray, " onset"]  # from the start on
    pitch: Int[np.ndarray, " onset"]


def nearest_passage(
    notes: np.ndarray, songs: Sequence[np.ndarray], max_comparisons: float = MAX_COMPARISONS
) -> Nearest:
    """The passage anywhere in the songs that is most like an excerpt of these notes, transposed by less than an octave.

    Likeness is 2 hits / (onsets of the excerpt + onsets of the passage), where an onset is a hit if the song has one
    of its pitch at most one step of 50 ms away (as `note_metrics.likeness`). Excerpts of COPY_SECONDS overlap by half.
    Where comparing every excerpt with every song would take more than `max_comparisons` of an onset with a step of a
    song, as with many hours of songs, each song is compared with a random sample of the excerpts, always the same.
    ValueError without songs.
    """
    if not songs:
        raise ValueError("no songs to compare with; pass one at least")
    step, pitch = _onsets(notes)
    last = int(step.max(initial=0))
    length = min(round(COPY_SECONDS / note_metrics.STEP_SECONDS), last + 1)
    starts = range(0, last + 1, max(length // 2, 1))
    windows = [(start, (step >= start) & (step < start + length)) for start in starts]
    excerpts = [
        _Excerpt(start, step[inside] - start, pitch[inside])
        for start, inside in windows
        if np.count_nonzero(inside) >= COPY_ONSETS
    ]
    places = sum(float(song["onset"].max(initial=0)) / note_metrics.STEP_SECONDS + length for song in songs)
    comparisons = places * len(COPY_SHIFTS) * sum(len(excerpt.step) for excerpt in excerpts)
    sampled = np.random.default_rng(0).random((len(songs), len(excerpts))) * comparisons < max_comparisons
    best = Nearest(0, 0.0, 0.0, 0.0)
    for number, song in enumerate(songs):
        compared = [excerpt for excerpt, used in zip(excerpts, sampled[number], strict=True) if used]
        for excerpt, likeness, place in _better_passages(song, compared, length, best.likeness):
            start, song_start = excerpt.start * note_metrics.STEP_SECONDS, place * note_metrics.STEP_SECONDS
            best = Nearest(number, likeness, start, song_start)
    return best


def _better_passages(
    song: np.ndarray, excerpts: Sequence[_Excerpt], length: int, likeness: float
) -> Iterator[tuple[_Excerpt, float, int]]:
    """Excerpts, with the likeness and the first step of a passage of the song, each likeness larger than the last."""
    if not excerpts:
        return
    step, pitch = _onsets(song)
    lags = int(step.max(initial=0)) + length + 1  # at lag `length` an excerpt begins where the song does
    reach = np.zeros((128 + len(COPY_SHIFTS), lags + length + 1), np.uint8)
    for slack in (-1, 0, 1):
        reach[pitch - COPY_SHIFTS[0], step + length + slack] = 1
    until = np.cumsum(np.bincount(step + length + 1, minlength=lags + length + 1))
    onsets = until[length : length + lags] - until[:lags]  # of the passage at each lag
    for excerpt in excerpts:
        count = len(excerpt.step)
        cells = list(zip(excerpt.step, excerpt.pitch - COPY_SHIFTS[0], strict=True))
        for shift in COPY_SHIFTS:
            hits = np.zeros(lags, np.uint8 if count < 256 else np.uint16)
            for place, row in cells:
                hits += reach[row + shift, place : place + lags]
            max_hits = int(hits.max())
            if 2 * max_hits <= likeness * (count + max_hits):
                continue
            found = 2 * np.minimum(hits, onsets) / (count + onsets)
            lag = int(found.argmax())
            if found[lag] > likeness:
                likeness = float(found[lag])
                yield excerpt, likeness, max(lag - length, 0)


def _onsets(notes: np.ndarray) -> tuple[Int[np.ndarray, " onset"], Int[np.ndarray, " onset"]]:
    """Steps and pitches of the cells of the 50 ms grid in which a note starts, without duplicates, by step."""
    steps = np.floor(np.maximum(notes["onset"], 0) / note_metrics.STEP_SECONDS + 0.5).astype(np.intp)
    cells = np.unique(steps * 128 + notes["pitch"])
    return cells // 128, cells % 128
