"""Grid notes to a song: its clock, key, program, tempo and meter."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.music.clock import STEADY_BEAT_SECONDS, STEPS_PER_BEAT
from nemui_jax.music.song import Part, Song, TempoMap, cut_song, pedal_controls, retime
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
    """GRID notes and pedal shares as a song in seconds.

    The song has the meter of the track with the largest total weight and, unless `program` is given, its program; the
    beats have the times of `mixed_clock`. `shift` is as in `shift_per_block`.
    """
    heaviest, shifts = tracks[int(weights.sum(1).argmax())], shift_per_block(tracks, weights, shift)
    clock = mixed_clock(tracks, weights, config)
    note_shifts = shifts[np.minimum(grid["step"] // config.model.block_steps, len(shifts) - 1)]
    part = Part(
        notes=pianoroll.to_notes(grid, clock, note_shifts),
        program=heaviest.source.program if program is None else program,
        controls=pedal_controls(pianoroll.to_pedal(pedal, clock)),
    )
    end = float(pianoroll.seconds_at(len(pedal), heaviest.clock))
    without_notes = retime(cut_song(replace(heaviest.source, parts=()), end), heaviest.clock, clock)
    return replace(without_notes, parts=(part,), texts=(), name=heaviest.source.name or heaviest.name, warnings=())


def mixed_clock(tracks: Sequence[LatentTrack], weights: Float[np.ndarray, "song block"], config: Config) -> TempoMap:
    """The clock of a mix: a step lasts the weighted geometric mean of its lengths in the songs.

    A song that ends starts again. Where one song has all the weight, its beats keep their lengths.
    """
    if len(tracks) == 1 and weights.shape[1] * config.model.block_steps <= _padded_steps(tracks[0], config):
        return tracks[0].clock
    block = config.model.block_steps
    steps = weights.shape[1] * block
    log_seconds = np.zeros(steps)
    for track, weight in zip(tracks, weights, strict=True):
        period = _padded_steps(track, config)
        step_seconds = np.diff(pianoroll.seconds_at(np.arange(period + 1), track.clock))
        log_seconds += np.repeat(weight, block) * np.log(step_seconds)[np.arange(steps) % period]
    seconds = np.concatenate([[0.0], np.cumsum(np.exp(log_seconds))])
    return TempoMap.through(np.arange(steps + 1) / STEPS_PER_BEAT, seconds)


def _padded_steps(track: LatentTrack, config: Config) -> int:
    """Steps in all blocks of a track, after which it starts again."""
    return layout.count_blocks(track.steps, config.model) * config.model.block_steps


def count_blocks_in(
    seconds: float,
    tracks: Sequence[LatentTrack],
    weigh: Callable[[int], Float[np.ndarray, "song block"]],
    config: Config,
) -> int:
    """The number of blocks that last so many seconds in a mix; `weigh` gives the weights for a number of blocks."""
    block = config.model.block_steps
    blocks = max(math.ceil(seconds / STEADY_BEAT_SECONDS * STEPS_PER_BEAT / block), 1)
    while True:
        clock = mixed_clock(tracks, weigh(blocks), config)
        ends = pianoroll.seconds_at(np.arange(1, blocks + 1) * block, clock)
        if ends[-1] >= seconds - 1e-9:
            return int(np.searchsorted(ends, seconds - 1e-9)) + 1
        blocks = max(blocks + 1, math.ceil(blocks * min(seconds / ends[-1], 2)))
