"""Grid notes to a song: clock, key, program, tempo and meter."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.config import BEAT_STEPS, Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.music.song import TEMPO, Song
from nemui_jax.sampling.blend import shift_per_block
from nemui_jax.sampling.decode import LatentTrack


def arrange_song(
    tracks: Sequence[LatentTrack],
    weights: Float[np.ndarray, "song block"],
    grid: np.ndarray,
    pedal: Float[Any, " step"],
    config: Config,
    shift: int | None,
    program: int | None,
) -> Song:
    """GRID notes and pedal shares as a song in seconds, with key, program, tempo and meter after the tracks'."""
    step_seconds, block = config.roll.step_seconds, config.model.block_steps
    leader, shifts = tracks[int(weights.sum(1).argmax())], shift_per_block(tracks, weights, shift)
    seconds, meters = mixed_step_times(tracks, weights, config), leader.source.meters
    if config.roll.grid == "beats":
        tempos, own = tempos_of(seconds), pianoroll.step_times(leader.source, len(seconds) - 1, config.roll)
        meters = meters[meters["time"] < own[-1]]
        meters["time"] = np.interp(meters["time"], own, seconds)
    else:
        tempos = mix_tempos([track.source for track in tracks], weights, config.block_seconds)
    song = Song(
        notes=pianoroll.to_notes(
            grid,
            step_seconds,
            shifts[np.minimum(grid["step"] // block, len(shifts) - 1)],
            leader.source.program if program is None else program,
        ),
        pedal=pianoroll.to_pedal(pedal, step_seconds),
        tempos=tempos,
        meters=meters,
        name=leader.source.name or leader.name,
    )
    return pianoroll.off_grid(song, seconds, config.roll)


def mixed_step_times(
    tracks: Sequence[LatentTrack], weights: Float[np.ndarray, "song block"], config: Config
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
        turn = layout.blocks_until_repeat(track.steps, config.model) * block
        lasts = np.diff(pianoroll.step_times(track.source, turn, config.roll))
        logs += np.repeat(weight, block) * np.log(lasts)[np.arange(steps) % turn]
    return np.concatenate([[0.0], np.cumsum(np.exp(logs))])


def count_blocks_in(
    seconds: float,
    tracks: Sequence[LatentTrack],
    weigh: Callable[[int], Float[np.ndarray, "song block"]],
    config: Config,
) -> int:
    """The blocks that tracks play in so many seconds, where `weigh` gives their weights in a number of blocks."""
    block = config.model.block_steps
    blocks = max(math.ceil(seconds / config.block_seconds), 1)
    while (ends := mixed_step_times(tracks, weigh(blocks), config)[block::block])[-1] < seconds - 1e-9:
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
