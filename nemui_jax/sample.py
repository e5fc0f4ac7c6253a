"""Latents to music: decode a stretch of latents, decide which cells are notes, write them as a song.

A stretch is one latent a block. Where it is one learned song, its notes are what exceeds a probability of 0.5: recall.
A mix's probabilities are flatter; its notes are chosen at a calibrated density: as many onsets, sounding cells and
pedal steps as the songs it is made of have there, by their weights.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from nemui_jax import latents, model, rolls
from nemui_jax.config import BEAT_STEPS, Config
from nemui_jax.dataset import Corpus, SongEntry, row_starts
from nemui_jax.midi import TEMPO, Song

BATCHES = (32, 128, 512)  # queries decoded by one call: the least that holds all, so that few programs are compiled
WINDOW = 8  # blocks over which density is matched
DOUBT = 0.003  # the weight, in a mix, of a note that is in none of its songs
RESTRIKE = 2  # steps
FOOT = 8  # steps over which a mix's pedal is smoothed
HOLD = 0.1  # the share of a leg of a morph, at each of its ends, that is one song alone


@dataclass(frozen=True)
class Track:
    """A song as the decoder knows it: its rows, and what is taken from its file as it stands."""

    name: str
    rows: Float[np.ndarray, "row latent"]
    steps: int
    shift: int  # semitones from its own key to the common key
    source: Song  # tempo, meter and program come from here; recall does not look at its notes


class Decoded(NamedTuple):
    """What the decoder says of a stretch. Probabilities, but for velocity (share of 127) and timing (in steps)."""

    onset: Float[Any, "step pitch"]
    frame: Float[Any, "step pitch"]
    velocity: Float[Any, "step pitch"]
    timing: Float[Any, "step pitch"]
    pedal: Float[Any, " step"]  # share of the step with the pedal down


class Density(NamedTuple):
    """How much there is in each block of a stretch, in cells."""

    onsets: Float[Any, " block"]
    frames: Float[Any, " block"]
    pedal: Float[Any, " block"]


class Voice(NamedTuple):
    """What a song says by itself over a stretch: it does not depend on what it is mixed with."""

    decoded: Decoded
    density: Density

    def part(self, first: int, last: int) -> "Voice":
        """Blocks `first` to `last`."""
        block = len(self.decoded.pedal) // len(self.density.pedal)
        cells = [column[first * block : last * block] for column in self.decoded]
        return Voice(Decoded(*cells), Density(*(column[first:last] for column in self.density)))


def tracks(corpus: Corpus, table: Float[Any, "row latent"], config: Config) -> list[Track]:
    """The tracks of all songs, in order."""
    table, places = np.asarray(table), itertools.pairwise(row_starts(corpus.entries, config))
    return [
        track(entry, song, table[start:end])
        for entry, song, (start, end) in zip(corpus.entries, corpus.songs, places, strict=True)
    ]


def track(entry: SongEntry, song: Song, rows: Float[Any, "row latent"]) -> Track:
    """The track of a song whose rows these are."""
    return Track(entry.name, np.asarray(rows), entry.steps, entry.shift, song)


def on_grid(track: Track, config: Config) -> Track:
    """The track of a song whose source is in the time of the grid."""
    return dataclasses.replace(track, source=rolls.on_grid(track.source, config.roll))


def recall(params: model.Params, track: Track, config: Config, program: int | None = None) -> Song:
    """A learned song, played back."""
    blocks = latents.count_queries(track.steps, config.model)
    return play(params, [track], np.ones((1, blocks)), config, program=program)


def play(
    params: model.Params,
    tracks: Sequence[Track],
    weights: Float[np.ndarray, "song block"],
    config: Config,
    *,
    shift: int | None = None,
    program: int | None = None,
    path: str = "line",
    noise: float = 0.0,
    unit: Float[Any, " latent"] | float = 1.0,
    temperature: float = 0.0,
    seed: int = 0,
    voices: Sequence[Voice] | None = None,
) -> Song:
    """Tracks played together, weighted block by block; a track that ends early starts again.

    The song lasts as many blocks as there are weights, which sum to 1 in each. `shift` is the key it comes out in
    (semitones to the common key; by default the heaviest track's at each moment) and `program` its program (by default
    the heaviest's); `path` is the way between latents (`latents.mix`). Gaussian noise is added to the rows, with
    `noise` times the variance of the table, whose spread is `unit`: likeness to the song falls evenly with it.
    With a `temperature` onsets are drawn, at the same density, in place of taking the likeliest. `voices` are what
    `voice` gives for each track and as many blocks, where they are kept from another time.
    """
    blocks = weights.shape[1]
    stretch = blend(tracks, weights, config, path, noise, unit, seed)
    decoded = decode(params, stretch, latents.times(blocks, config.model), config)
    alone = one_alone(weights) & (noise == 0) & (temperature == 0)
    if config.train.loss == "squared" or alone.all():
        grid, pedal = plain(decoded, config)
    else:
        voices = [voice(params, track, blocks, config) for track in tracks] if voices is None else voices
        grid, pedal = calibrated(decoded, voices, weights, alone, config, temperature, seed)
    return arrange(tracks, weights, grid, pedal, config, shift, program)


def blend(
    tracks: Sequence[Track],
    weights: Float[np.ndarray, "song block"],
    config: Config,
    path: str = "line",
    noise: float = 0.0,
    unit: Float[Any, " latent"] | float = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, "block latent"]:
    """The latents that `play` decodes."""
    blocks = weights.shape[1]
    stretches = np.stack([latents.along(track.rows, track.steps, blocks, config.model) for track in tracks])
    stretch = latents.mix(stretches, ease(weights), path)
    if noise:
        steps = blocks * config.model.block_steps
        shape = (latents.count_rows(steps, config.model), stretch.shape[1])
        rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.sqrt(noise) * unit
        stretch = stretch + latents.along(rows, steps, blocks, config.model)
    return stretch


def one_alone(weights: Float[np.ndarray, "song block"]) -> Bool[np.ndarray, " block"]:
    """Where one song has all the weight."""
    return (weights == 1).any(0) & (np.count_nonzero(weights, 0) == 1)


def shifts_of(
    tracks: Sequence[Track], weights: Float[np.ndarray, "song block"], shift: int | None = None
) -> Int[np.ndarray, " block"]:
    """The shift in each block: this one, or the heaviest track's."""
    if shift is not None:
        return np.full(weights.shape[1], shift)
    return np.array([track.shift for track in tracks])[weights.argmax(0)]


def mix_weights(weights: Sequence[float], blocks: int) -> Float[np.ndarray, "song block"]:
    """The same weights in every block."""
    return np.repeat(np.array(weights, float)[:, None], blocks, 1)


def morph_weights(songs: int, blocks: int) -> Float[np.ndarray, "song block"]:
    """Weights that go from the first song to the last, and stay with each for a while before they go on."""
    place = np.linspace(0, songs - 1, blocks) if blocks > 1 else np.zeros(1)
    leg = np.minimum(place.astype(int), songs - 2)
    gone = np.clip((place - leg - HOLD) / (1 - 2 * HOLD), 0, 1)
    weights = np.zeros((songs, blocks))
    weights[leg, np.arange(blocks)] = 1 - gone
    weights[leg + 1, np.arange(blocks)] = gone
    return weights


def ease(weights: Float[np.ndarray, "song block"]) -> Float[np.ndarray, "song block"]:
    """Weights of latents for weights as they are heard.

    Near a song its latent can move far before a note changes, half-way a little changes many: square roots, scaled to
    a sum of 1, even that out. Negative weights stay as they are.
    """
    if (weights < 0).any():
        return weights
    return np.sqrt(weights) / np.sqrt(weights).sum(0)


def arrange(
    tracks: Sequence[Track],
    weights: Float[np.ndarray, "song block"],
    grid: np.ndarray,
    pedal: Float[Any, " step"],
    config: Config,
    shift: int | None,
    program: int | None,
) -> Song:
    """GRID notes and pedal shares as a song in seconds, with key, program, tempo and meter after the tracks'."""
    step_seconds, block = config.roll.step_seconds, config.model.block_steps
    leader, shifts = tracks[int(weights.sum(1).argmax())], shifts_of(tracks, weights, shift)
    seconds, meters = clock(tracks, weights, config), leader.source.meters
    if config.roll.grid == "beats":
        tempos, own = tempos_of(seconds), rolls.clock(leader.source, len(seconds) - 1, config.roll)
        meters = meters[meters["time"] < own[-1]]
        meters["time"] = np.interp(meters["time"], own, seconds)
    else:
        tempos = mix_tempos([track.source for track in tracks], weights, config.block_seconds)
    song = Song(
        notes=rolls.to_notes(
            grid,
            step_seconds,
            shifts[np.minimum(grid["step"] // block, len(shifts) - 1)],
            leader.source.program if program is None else program,
        ),
        pedal=rolls.to_pedal(pedal, step_seconds),
        tempos=tempos,
        meters=meters,
        name=leader.source.name or leader.name,
    )
    return rolls.off_grid(song, seconds, config.roll)


def clock(
    tracks: Sequence[Track], weights: Float[np.ndarray, "song block"], config: Config
) -> Float[np.ndarray, " step_and_one"]:
    """When each step of tracks played together begins, in seconds; on a grid of beats at the tempo between theirs.

    A step lasts the weighted geometric mean of what it lasts in each song, which starts again when it ends.
    """
    block = config.model.block_steps
    steps = weights.shape[1] * block
    if config.roll.grid == "seconds":
        return np.arange(steps + 1) * config.roll.step_seconds
    logs = np.zeros(steps)
    for track, weight in zip(tracks, weights, strict=True):
        turn = latents.turn(track.steps, config.model) * block
        lasts = np.diff(rolls.clock(track.source, turn, config.roll))
        logs += np.repeat(weight, block) * np.log(lasts)[np.arange(steps) % turn]
    return np.concatenate([[0.0], np.cumsum(np.exp(logs))])


def blocks_in(
    seconds: float,
    tracks: Sequence[Track],
    weigh: Callable[[int], Float[np.ndarray, "song block"]],
    config: Config,
) -> int:
    """The blocks that tracks play in so many seconds, where `weigh` gives their weights in a number of blocks."""
    block = config.model.block_steps
    blocks = max(math.ceil(seconds / config.block_seconds), 1)
    while (ends := clock(tracks, weigh(blocks), config)[block::block])[-1] < seconds - 1e-9:
        blocks = max(blocks + 1, math.ceil(blocks * min(seconds / ends[-1], 2)))
    return int(np.searchsorted(ends, seconds - 1e-9)) + 1


def tempos_of(seconds: Float[np.ndarray, " step_and_one"]) -> np.ndarray:
    """The TEMPO events of a grid of beats whose steps begin at these times."""
    lasts = np.diff(seconds)
    change = np.flatnonzero(np.abs(np.diff(np.log(lasts), prepend=np.inf)) > 1e-6)
    tempos = np.empty(len(change), TEMPO)
    tempos["time"], tempos["quarter_seconds"] = seconds[change], lasts[change] * BEAT_STEPS
    return tempos


def mix_tempos(songs: Sequence[Song], weights: Float[np.ndarray, "song block"], block_seconds: float) -> np.ndarray:
    """TEMPO events: the weighted geometric mean of the songs' tempos wherever one of them, or a weight, changes."""
    moves = (np.flatnonzero(np.any(np.diff(weights) != 0, axis=0)) + 1) * block_seconds
    times = np.unique(np.concatenate([[0.0], moves, *(song.tempos["time"] for song in songs)]))
    times = times[times < weights.shape[1] * block_seconds]
    block = np.minimum((times / block_seconds).astype(int), weights.shape[1] - 1)
    logs = np.zeros(len(times))
    for song, weight in zip(songs, weights, strict=True):
        quarter = np.concatenate([[0.5], song.tempos["quarter_seconds"]])  # 120 bpm where a file says nothing
        logs += weight[block] * np.log(quarter[np.searchsorted(song.tempos["time"], times, side="right")])
    tempos = np.empty(len(times), TEMPO)
    tempos["time"], tempos["quarter_seconds"] = times, np.exp(logs)
    return tempos[np.concatenate([[True], np.abs(np.diff(logs)) > 1e-9])]


def decode(
    params: model.Params, stretch: Float[Any, "query latent"], time: Float[Any, " query"], config: Config
) -> Decoded:
    """Decodes a stretch, in batches of one shape."""
    count = len(stretch)
    batch = next((size for size in BATCHES if size >= count), BATCHES[-1])
    padding = -count % batch
    stretch, time = np.pad(stretch, ((0, padding), (0, 0))), np.pad(time, (0, padding))
    parts = [
        _decode(params, stretch[start : start + batch], time[start : start + batch], config=config)
        for start in range(0, len(stretch), batch)
    ]
    columns = zip(*jax.device_get(parts), strict=True)
    wholes = [column[0] if len(column) == 1 else np.concatenate(column) for column in columns]
    return Decoded(*(whole[:count].reshape(-1, *whole.shape[2:]) for whole in wholes))


@partial(jax.jit, static_argnames="config")
def _decode(
    params: model.Params, stretch: Float[Any, "query latent"], time: Float[Any, " query"], config: Config
) -> Decoded:
    block = jax.vmap(partial(model.decode, config=config), (None, 0, 0))(params, stretch, time)
    if config.train.loss == "squared":  # frames alone, and no logits: a note begins where a frame does
        silence = jnp.zeros_like(block.frame)
        return Decoded(silence, block.frame, silence + 64 / 127, silence, silence[..., 0])
    return Decoded(
        jax.nn.sigmoid(block.onset),
        jax.nn.sigmoid(block.frame),
        block.velocity,
        block.timing,
        jax.nn.sigmoid(block.pedal),
    )


def voice(params: model.Params, track: Track, blocks: int, config: Config) -> Voice:
    """A track by itself over so many blocks."""
    stretch = latents.along(track.rows, track.steps, blocks, config.model)
    decoded = decode(params, stretch, latents.times(blocks, config.model), config)
    return Voice(decoded, density(decoded, config))


def density(decoded: Decoded, config: Config) -> Density:
    """The density of a stretch at the plain threshold."""
    grid, pedal = plain(decoded, config)
    sounding = np.zeros(len(pedal) + 1)
    np.add.at(sounding, grid["step"], 1)
    np.add.at(sounding, grid["end"], -1)
    onsets = np.bincount(grid["step"], minlength=len(pedal))
    steps = np.stack([onsets, np.cumsum(sounding[:-1]), pedal > 0.5])
    return Density(*steps.reshape(3, -1, config.model.block_steps).sum(-1))


def plain(decoded: Decoded, config: Config) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares where probabilities exceed 0.5."""
    roll = np.stack(decoded[:4]).swapaxes(0, 1)  # channels apart in memory: they are looked at one by one
    if config.train.loss == "squared":
        frame = decoded.frame > 0.5
        roll[:, rolls.ONSET] = frame & ~np.pad(frame, ((1, 0), (0, 0)))[:-1]
    return rolls.from_roll(roll, config.roll.low), decoded.pedal


def calibrated(
    decoded: Decoded,
    voices: Sequence[Voice],
    weights: Float[np.ndarray, "song block"],
    alone: Bool[np.ndarray, " block"],
    config: Config,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares of a mix, given what each of its songs is by itself.

    The mix has the weighted mean of its songs' densities: in each window the likeliest cells, as many as that. A key is
    not struck again within RESTRIKE steps, unless a song does that. Blocks where one song is `alone` are that song at
    the plain threshold.
    """
    window = WINDOW * config.model.block_steps
    own = [voice.decoded for voice in voices]
    single = np.repeat(alone, config.model.block_steps)
    share = np.repeat(np.maximum(ease(weights), 0), config.model.block_steps, 1)[:, :, None].astype(np.float32)
    onsets = weighted(share, [one.onset for one in own])
    frames = weighted(share, [one.frame for one in own])
    pedals = weighted(share, [one.pedal[:, None] for one in own])
    counts = zip(*(voice.density for voice in voices), strict=True)
    wanted = Density(*(np.maximum((weights * np.stack(column)).sum(0), 0) * ~alone for column in counts))

    score = agreement(drawn(decoded.onset, temperature, seed) if temperature else decoded.onset, onsets, config)
    best = score.copy()
    for apart in range(1, RESTRIKE + 1):
        np.maximum(best[apart:], score[:-apart], out=best[apart:])
        np.maximum(best[:-apart], score[apart:], out=best[:-apart])
    score *= (score == best) | (onsets > 0.75)
    score[single] = 0
    struck = likeliest(score, wanted.onsets, window)
    struck[single] = decoded.onset[single] > 0.5

    frame = decoded.frame * (DOUBT + frames)
    frame[single] = decoded.frame[single]
    sounding = holding(struck, frame)
    sounding[single] = 0
    held = likeliest(sounding, wanted.frames, window)
    held[single] = decoded.frame[single] > 0.5

    velocity, timing = expression(own, share, window)
    velocity[single], timing[single] = decoded.velocity[single], decoded.timing[single]
    roll = np.stack([struck, held, velocity, timing]).swapaxes(0, 1)
    foot = around(decoded.pedal[:, None] + pedals, FOOT)
    foot[single] = 0
    down = likeliest(foot, wanted.pedal, window)[:, 0].astype(float)
    down[single] = decoded.pedal[single]
    return rolls.from_roll(roll, config.roll.low), down


def drawn(chance: Float[Any, "step pitch"], temperature: float, seed: int) -> Float[np.ndarray, "step pitch"]:
    """Probabilities with logistic noise on their logits: the likeliest of these are a draw, not the likeliest."""
    chance = np.clip(chance, 1e-7, 1 - 1e-7)
    logits = np.log(chance / (1 - chance)) + np.random.default_rng(seed).logistic(0, temperature, chance.shape)
    return 1 / (1 + np.exp(-logits))


def agreement(
    onset: Float[Any, "step pitch"], onsets: Float[np.ndarray, "step pitch"], config: Config
) -> Float[np.ndarray, "step pitch"]:
    """How far four agree that a cell of a mix is an onset, as the product of what each says.

    They are the decoder on the mixed latent (`onset`); the songs themselves (`onsets`, a weighted mean); the other
    onsets of the same step, so that chords stay chords; and those of the same pitch class around, so that harmony does.
    """
    score = onset * (DOUBT + onsets)
    pitch_class = (np.arange(score.shape[1]) + config.roll.low) % 12
    mass = around(score @ np.eye(12)[pitch_class], WINDOW * config.model.block_steps)
    harmony = (mass / (mass.sum(1, keepdims=True) + 1e-9))[:, pitch_class]
    return score * score.sum(1, keepdims=True) * harmony


def expression(
    own: Sequence[Decoded], share: Float[np.ndarray, "song step 1"], steps: int
) -> tuple[Float[np.ndarray, "step pitch"], Float[np.ndarray, "step pitch"]]:
    """Velocity and timing of a mix's onsets: as the songs that have the note play it, at the loudness of all of them.

    Loudness is the mean velocity of the onsets around. A note that no song has is as loud as that, and on the grid.
    """
    said = [part * (one.onset > 0.5) for part, one in zip(share, own, strict=True)]
    loud = [
        around((one.onset * one.velocity).sum(1, keepdims=True), steps)
        / (around(one.onset.sum(1, keepdims=True), steps) + 1e-3)
        for one in own
    ]
    known = np.maximum(sum(said), 1e-6)
    louder = weighted(said, [one.velocity - level for one, level in zip(own, loud, strict=True)])
    return weighted(share, loud) + louder / known, weighted(said, [one.timing for one in own]) / known


def weighted(weights: Iterable[Any], parts: Iterable[Any]) -> Any:
    """The sum of arrays, each times its weight."""
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def around(values: Float[np.ndarray, "step value"], steps: int) -> Float[np.ndarray, "step value"]:
    """Sums over the steps around each, half of them before it."""
    until = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0, dtype=float)])
    here = np.arange(len(values))
    sums = until[np.minimum(here + steps // 2 + 1, len(values))] - until[np.maximum(here - steps // 2, 0)]
    return sums.astype(np.float32)


def holding(struck: Bool[np.ndarray, "step pitch"], frame: Float[Any, "step pitch"]) -> Float[np.ndarray, "step pitch"]:
    """How likely the last note on each pitch still sounds: the least frame probability since its onset."""
    held = np.where(struck, 1.0, np.minimum(frame, 1.0).astype(float))
    held[0] = struck[0]
    onsets = np.cumsum(struck, axis=0, dtype=float)  # each onset takes what follows below all that was before
    held -= onsets
    np.minimum.accumulate(held, axis=0, out=held)
    held += onsets
    return held


def likeliest(
    values: Float[np.ndarray, "step pitch"], counts: Float[np.ndarray, " block"], window_steps: int
) -> Bool[np.ndarray, "step pitch"]:
    """In each window, as many of the highest values as the counts of its blocks add up to."""
    chosen = np.zeros(values.shape, bool)
    for window, start in enumerate(range(0, len(values), window_steps)):
        part = values[start : start + window_steps]
        count = min(round(float(counts[window * WINDOW : (window + 1) * WINDOW].sum())), part.size - 1)
        if count > 0:
            least, next_least = np.partition(part, (part.size - count, part.size - count - 1), axis=None)[
                [-count, -count - 1]
            ]
            chosen[start : start + window_steps] = part > (least + next_least) / 2
    return chosen
