"""Songs that nobody played: tracks drawn from a prior over a run's latents, and the judges that pick the best.

Conventions: notes are NOTE arrays (`midi.NOTE`), times are seconds, or the grid's. A draw is played with `sample.play`
and NOISE; of many, keep those that `rank` puts first and that are not `too_close` to a song.

The prior resamples: a few songs, each in passages from anywhere in it that agree in harmony, at weights that sway.
Successive latent rows are nearly unrelated: on a song left out of 16, ridge regression on one to four rows predicts
at most 1.5 % of the next one's variance. Songs from such an autoregressive Gaussian were less tonal and cost a
language model more; so were those of a diffusion model over windows of rows (as Dupont et al., 2022, "From data to
functa"), tried in one configuration that 40 s on two cores did not train.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nemui_jax import latents, rolls, sample, style
from nemui_jax.config import Config
from nemui_jax.metrics import STEP_SECONDS
from nemui_jax.sample import Track

VOICES = 5  # songs that a draw is made of
NOISE = 0.5  # to play it with: together they take likeness to the nearest song from 0.63 to 0.40 on the built-in tunes
SWAY = 0.3  # standard deviation of their log weights: 0 is an even mix, 1 is close to one song after another
SWAY_SECONDS = 6.0  # length scale of their weights in time
STAY_SECONDS = 6.0  # mean time between a voice's chances to jump; passages are compared over as long
TRIES = 64  # places among which a voice chooses

RANK_SECONDS = 60.0  # looked at in a candidate
RANK_SONGS = 64  # that it is held against, at most
FLOOR = -5.0  # of a measure's log density, so that no single one decides

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


def draw(
    tracks: Sequence[Track], config: Config, blocks: int, seed: int
) -> tuple[list[Track], Float[np.ndarray, "song block"]]:
    """Tracks, and their weights in each block (sum 1), of a new song of `blocks` blocks.

    Weights are the softmax of Gaussian processes over time. A voice reads its song on, and jumps where it is faint or
    its song ends, to the place that agrees best in harmony with the voices before it. All are in the first's key.
    ValueError if there are fewer than two tracks. Tracks of one row (`knot_steps` 0) stay as they are.
    """
    if len(tracks) < 2:
        raise ValueError(f"new songs are drawn between learned ones, and there are {len(tracks)}; vary it with perturb")
    rng = np.random.default_rng(seed)
    voices = [tracks[index] for index in rng.permutation(len(tracks))[:VOICES]]
    knot_seconds = config.model.knot_steps * config.roll.step_seconds
    sway = np.exp(SWAY * smooth(rng, len(voices), blocks, SWAY_SECONDS / config.block_seconds))
    weights = sway / sway.sum(0)
    if not config.model.knot_steps:
        return voices, weights

    steps = blocks * config.model.block_steps
    knots = np.arange(latents.count_rows(steps, config.model)) * config.model.knot_steps // config.model.block_steps
    harmony = np.zeros((len(knots), 12))
    drawn = []
    for voice, weight in zip(voices, weights[:, np.minimum(knots, blocks - 1)], strict=True):
        voice = _steady(sample.on_grid(voice, config))
        chroma = chromas(voice, knot_seconds)
        index = passages(rng, weight, chroma, harmony, max(round(STAY_SECONDS / knot_seconds), 1))
        harmony = unit(harmony + chroma[index])
        drawn.append(dataclasses.replace(voice, rows=voice.rows[index], steps=steps, shift=voices[0].shift))
    return drawn, weights


def _steady(track: Track) -> Track:
    """A track at its median tempo throughout: passages out of their order have no use for its tempo changes."""
    tempos = track.source.tempos[:1].copy()
    if len(tempos):
        tempos["time"], tempos["quarter_seconds"] = 0, np.median(track.source.tempos["quarter_seconds"])
    return dataclasses.replace(track, source=dataclasses.replace(track.source, tempos=tempos))


def smooth(rng: np.random.Generator, count: int, length: int, scale: float) -> Float[np.ndarray, "count length"]:
    """Gaussian processes of variance 1 with a squared-exponential covariance of this length scale."""
    reach = int(3 * scale) + 1
    kernel = np.exp(-((np.arange(-reach, reach + 1) / scale) ** 2))
    noise = rng.normal(size=(count, length + 2 * reach))
    return np.stack([np.convolve(row, kernel, mode="valid") for row in noise]) / np.linalg.norm(kernel)


def chromas(track: Track, knot_seconds: float) -> Float[np.ndarray, "row 12"]:
    """The onsets (in grid time) on each pitch class, in the common key, from each knot to the next; of length 1."""
    notes, counts = track.source.notes, np.zeros((len(track.rows), 12))
    row = np.minimum((notes["onset"] / knot_seconds).astype(np.intp), len(counts) - 1)
    np.add.at(counts, (row, (notes["pitch"].astype(int) + track.shift) % 12), 1)
    return unit(counts)


def unit(vectors: Float[np.ndarray, "row 12"]) -> Float[np.ndarray, "row 12"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def passages(
    rng: np.random.Generator,
    weight: Float[np.ndarray, " knot"],
    chroma: Float[np.ndarray, "row 12"],
    harmony: Float[np.ndarray, "knot 12"],
    stay: int,
) -> Int[np.ndarray, " knot"]:
    """The row that a voice reads at each knot."""
    last = len(chroma) - 1
    faint = weight <= np.quantile(weight, min(2 / stay, 1))
    index = np.empty(len(weight), np.intp)
    for knot in range(len(weight)):
        index[knot] = index[knot - 1] + 1
        if knot == 0 or index[knot] > last or (faint[knot] and rng.random() < 0.5):
            around = harmony[knot : knot + stay]
            starts = rng.integers(len(chroma), size=TRIES)
            heard = chroma[np.minimum(starts[:, None] + np.arange(len(around)), last)]
            index[knot] = starts[(heard * around).sum((1, 2)).argmax()]
    return index


def rank(candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> list[int]:
    """Indices of the candidates by their `scores`, the best first."""
    return np.argsort(-scores(candidates, songs), kind="stable").tolist()


def scores(candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> Float[np.ndarray, " candidate"]:
    """How good the beginning of each candidate is by the looks of the songs: about 0 for a song, less for the rest.

    Its typicality less the bits per note that it costs a language model above what a song costs, itself left out.
    Typicality is the mean over the measures of `style` of the log density of the candidate's value under those of the
    songs' stretches of the same length, less what these get themselves. Keys do not matter. ValueError if there are
    fewer than two songs. With typicality alone a random rhythm or a cross-fade is hardly told from a song.
    """
    if len(songs) < 2:
        raise ValueError(f"candidates are ranked by what songs have in common, and there are {len(songs)}")
    songs = [_in_common_key(song) for song in songs[:: -(-len(songs) // RANK_SONGS)]]
    candidates = [_in_common_key(notes) for notes in candidates]
    seconds = float(np.clip(max((notes["end"].max(initial=0) for notes in candidates), default=1), 1, RANK_SECONDS))
    stretches = [
        style.style(song, start, start + seconds)
        for song in songs
        for start in np.arange(0, max(song["end"].max(initial=0) - seconds / 2, 1), seconds)
    ]
    found = [style.style(notes, 0.0, seconds) for notes in candidates]
    typicality = [
        _typicality(*(np.array([one[name] for one in values], float) for values in (stretches, found)))
        for name in stretches[0]
    ]
    model = style.LanguageModel.fit(songs)
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
    moved["pitch"] = np.clip(notes["pitch"].astype(int) + rolls.shift_to_common(rolls.estimate_key(notes)), 0, 127)
    return moved


def too_close(notes: np.ndarray, songs: Sequence[np.ndarray]) -> Nearest:
    """The passage anywhere in the songs, transposed by less than an octave, that is most like a stretch of some notes.

    Likeness is 2 hits / (onsets of the stretch + onsets of the passage), where an onset is a hit if the song has one
    of its pitch at most one step of 50 ms away (`metrics.likeness` at its best place). Stretches overlap by half.
    """
    if not songs:
        raise ValueError("no songs to compare with; pass one at least")
    step, pitch = _onsets(notes)
    length = min(round(COPY_SECONDS / STEP_SECONDS), int(step.max(initial=0)) + 1)
    best = Nearest(0, 0.0, 0.0, 0.0)
    for number, song in enumerate(songs):
        song_step, song_pitch = _onsets(song)
        lags = int(song_step.max(initial=0)) + length + 1  # at lag `length` a stretch begins where the song does
        reach = np.zeros((128 + len(COPY_SHIFTS), lags + length + 1), np.uint8)
        for slack in (-1, 0, 1):
            reach[song_pitch - COPY_SHIFTS[0], song_step + length + slack] = 1
        until = np.cumsum(np.bincount(song_step + length + 1, minlength=lags + length + 1))
        onsets = until[length : length + lags] - until[:lags]  # of the passage at each lag
        for start in range(0, int(step.max(initial=0)) + 1, max(length // 2, 1)):
            inside = (step >= start) & (step < start + length)
            count = int(np.count_nonzero(inside))
            if count < COPY_ONSETS:
                continue
            cells = list(zip(step[inside] - start, pitch[inside] - COPY_SHIFTS[0], strict=True))
            for shift in COPY_SHIFTS:
                hits = np.zeros(lags, np.uint8 if count < 256 else np.uint16)
                for place, row in cells:
                    hits += reach[row + shift, place : place + lags]
                most = int(hits.max())
                if 2 * most <= best.likeness * (count + most):
                    continue
                likeness = 2 * np.minimum(hits, onsets) / (count + onsets)
                lag = int(likeness.argmax())
                if likeness[lag] > best.likeness:
                    place = max(lag - length, 0) * STEP_SECONDS
                    best = Nearest(number, float(likeness[lag]), start * STEP_SECONDS, place)
    return best


def _onsets(notes: np.ndarray) -> tuple[Int[np.ndarray, " onset"], Int[np.ndarray, " onset"]]:
    """Steps and pitches of the cells in which a note starts, each once, in order of time."""
    steps = np.floor(np.maximum(notes["onset"], 0) / STEP_SECONDS + 0.5).astype(np.intp)
    cells = np.unique(steps * 128 + notes["pitch"])
    return cells // 128, cells % 128
