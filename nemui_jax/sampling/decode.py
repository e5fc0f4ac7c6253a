"""Latent rows to songs on the grid: what the decoder has learned, played note by note."""

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from nemui_jax.config import Config
from nemui_jax.data import cells, curves, dataset, layout, pianoroll
from nemui_jax.data.grid import GridPart, GridSong, with_layers
from nemui_jax.model.decoder import Decoder, DecoderClass, Params, decode
from nemui_jax.model.heads import HEADS, heads_of
from nemui_jax.music.song import Song

QUERY_BATCHES = (32, 128, 512)  # queries decoded by one call: few sizes, so that few programs are compiled
Heads = dict[str, Float[np.ndarray, "row_step ..."]]  # probabilities and values of all steps; see `heads`


@dataclass(frozen=True)
class LatentSong:
    """A learned song: its latent rows, and where they are played."""

    rows: Float[np.ndarray, "row latent"]
    score: layout.Score
    grid: GridSong  # its parts' notes and curves are not used: they come from the rows

    @property
    def name(self) -> str:
        """The song's name."""
        return self.grid.name


def latent_songs(corpus: dataset.Corpus, table: Float[Any, "row latent"], config: Config) -> list[LatentSong]:
    """All songs of a corpus with their rows, in order."""
    table, spans = np.asarray(table), itertools.pairwise(layout.row_starts(corpus.entries))
    return [
        latent_song(entry, song, table[start:end], config)
        for entry, song, (start, end) in zip(corpus.entries, corpus.songs, spans, strict=True)
    ]


def latent_song(entry: dataset.SongEntry, song: Song, rows: Float[Any, "row latent"], config: Config) -> LatentSong:
    """A song with these rows."""
    grid = dataset.on_grid(song, entry, config)
    return LatentSong(np.asarray(rows), cells.make_score(grid, config.model), grid)


def decode_song(params: Params, song: LatentSong, config: Config, decoder: DecoderClass = Decoder) -> GridSong:
    """The notes and curves of a song as they have been learned: where probabilities exceed 0.5."""
    blocks = layout.count_cell_blocks(song.grid.steps, config.model)
    latent, time = np.repeat(song.rows, blocks, 0), np.tile(layout.block_times(blocks), len(song.rows))
    heads = decode_heads(params, latent, time, config, decoder)
    cell = layout.cell_steps(song.grid.steps, config.model)
    steps = (song.score[:, :, None] * cell + np.arange(cell)).reshape(len(song.score), -1)  # of the heads
    layers = [_decode_part(heads, *each, config) for each in zip(steps, song.grid.layers, strict=True)]
    return with_layers(song.grid, layers)


def _decode_part(heads: Heads, step: Int[np.ndarray, " step"], part: GridPart, config: Config) -> GridPart:
    played = {name: heads[name][step] for name in curves.CURVES if name in heads and name in part.curves}
    found = {name: _held(values, step >= 0, curves.rest(name)) for name, values in played.items()}
    return replace(part, notes=read_notes(heads, step, part, config), curves=found)


def read_notes(heads: Heads, step: Int[np.ndarray, " step"], part: GridPart, config: Config) -> np.ndarray:
    """GRID notes, in the common key, where probabilities exceed 0.5.

    `step` is the step of the heads that is played at each step; where it is negative there is silence. Velocities and
    timings are between the lowest and the highest of the part's own notes, so that those of a score are on its steps.
    """
    heard = (step >= 0)[:, None]
    frame = (heads["frame"][step] > 0.5) & heard
    begins = frame & ~np.pad(frame, ((1, 0), (0, 0)))[:-1]
    onset = (heads["onset"][step] > 0.5) & heard if "onset" in heads else begins
    at, pitch = np.nonzero(onset)
    place = np.minimum(np.arange(len(at)) - np.searchsorted(at, at), config.model.chord_size - 1)  # among its step's

    def values(name: str) -> Float[np.ndarray, " onset"]:
        default = np.full(len(at), HEADS[name].default)
        return np.asarray(heads[name][step[at], place] if name in heads else default, np.float32)

    roll = np.zeros((len(step), len(pianoroll.CHANNELS), frame.shape[1]), np.float32)
    roll[:, pianoroll.ONSET], roll[:, pianoroll.FRAME] = onset, frame
    low, high = part.velocities
    roll[at, pianoroll.VELOCITY, pitch] = (low + (high - low) * values("velocity").clip(0, 1)) / 127
    roll[at, pianoroll.TIMING, pitch] = values("timing").clip(*part.timings)
    return pianoroll.from_roll(roll, config.roll.low)


def _held(values: Float[np.ndarray, " step"], heard: np.ndarray, first: float) -> Float[np.ndarray, " step"]:
    """A curve that keeps its value through silence."""
    last = np.maximum.accumulate(np.where(heard, np.arange(len(values)), -1))
    return np.where(last >= 0, values[last], first)


def decode_heads(
    params: Params,
    latent: Float[Any, "query latent"],
    time: Float[Any, " query"],
    config: Config,
    decoder: DecoderClass = Decoder,
) -> Heads:
    """All heads, with logits turned into probabilities; decoded in batches of few shapes."""
    count = len(latent)
    batch = batch_size(count)
    padding = -count % batch
    latent, time = np.pad(latent, ((0, padding), (0, 0))), np.pad(time, (0, padding))
    parts = [
        _decode(params, latent[start : start + batch], time[start : start + batch], config=config, decoder=decoder)
        for start in range(0, len(latent), batch)
    ]
    parts = jax.device_get(parts)
    heads = {
        name: parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return {name: values[:count].reshape(-1, *values.shape[2:]) for name, values in heads.items()}


def batch_size(count: int) -> int:
    """How many of `count` queries are decoded by one call."""
    return next((size for size in QUERY_BATCHES if size >= count), QUERY_BATCHES[-1])


@partial(jax.jit, static_argnames=("config", "decoder"))
def _decode(
    params: Params,
    latent: Float[Any, "query latent"],
    time: Float[Any, " query"],
    config: Config,
    decoder: DecoderClass,
) -> dict[str, Float[Array, "query step ..."]]:
    blocks = jax.vmap(partial(decode, config=config, decoder=decoder), (None, 0, 0))(params, latent, time)
    return {name: head.activation(blocks[name]) for name, head in heads_of(config).items()}
