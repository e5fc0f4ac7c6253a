"""Latents to probabilities, in batches of one shape."""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.model import decoder
from nemui_jax.music.song import Song, TempoMap

QUERY_BATCHES = (
    32,
    128,
    512,
)  # queries decoded by one call: the least that holds all, so that few programs are compiled


@dataclass(frozen=True)
class LatentTrack:
    """A song as the decoder knows it: its rows, and what is taken from its file as it stands."""

    name: str
    rows: Float[np.ndarray, "row latent"]
    steps: int
    shift: int  # semitones from its own key to the common key
    source: Song  # meter and program come from here; recall does not look at its notes
    clock: TempoMap  # whose beats the steps count


class Decoded(NamedTuple):
    """What the decoder says of a stretch. Probabilities, but for velocity (share of 127) and timing (in steps)."""

    onset: Float[Any, "step pitch"]
    frame: Float[Any, "step pitch"]
    velocity: Float[Any, "step pitch"]
    timing: Float[Any, "step pitch"]
    pedal: Float[Any, " step"]  # share of the step with the pedal down


def latent_tracks(corpus: dataset.Corpus, table: Float[Any, "row latent"], config: Config) -> list[LatentTrack]:
    """The tracks of all songs, in order."""
    table, places = np.asarray(table), itertools.pairwise(layout.row_starts(corpus.lengths, config))
    return [
        latent_track(entry, song, table[start:end])
        for entry, song, (start, end) in zip(corpus.entries, corpus.songs, places, strict=True)
    ]


def latent_track(entry: dataset.SongEntry, song: Song, rows: Float[Any, "row latent"]) -> LatentTrack:
    """The track of a song whose rows these are."""
    return LatentTrack(entry.name, np.asarray(rows), entry.steps, entry.shift, song, dataset.entry_clock(song, entry))


def decode_latents(
    params: decoder.Params, stretch: Float[Any, "query latent"], time: Float[Any, " query"], config: Config
) -> Decoded:
    """Decodes a stretch, in batches of one shape."""
    count = len(stretch)
    batch = next((size for size in QUERY_BATCHES if size >= count), QUERY_BATCHES[-1])
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
    params: decoder.Params, stretch: Float[Any, "query latent"], time: Float[Any, " query"], config: Config
) -> Decoded:
    block = jax.vmap(partial(decoder.decode, config=config), (None, 0, 0))(params, stretch, time)
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
