"""Latents to probabilities, in batches of one shape."""

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.model.decoder import Decoder, DecoderClass, Params, decode
from nemui_jax.model.heads import HEADS, heads_of
from nemui_jax.music.clock import Clock, clock_of, on_clock
from nemui_jax.music.song import Song, TempoMap, retime

QUERY_BATCHES = (32, 128, 512)  # queries decoded by one call: few sizes, so that few programs are compiled


@dataclass(frozen=True)
class LatentTrack:
    """A learned song: its latent rows, and its file's song, from which meter, program and clock are taken."""

    name: str
    rows: Float[np.ndarray, "row latent"]
    steps: int
    shift: int  # semitones from its key to the common key
    source: Song  # its notes are not used for playing
    clock: TempoMap  # its steps divide the beats of this clock


class Decoded(NamedTuple):
    """The decoder's outputs for consecutive steps: probabilities, except velocity (share of 127) and timing (steps)."""

    onset: Float[Any, "step pitch"]
    frame: Float[Any, "step pitch"]
    velocity: Float[Any, "step pitch"]
    timing: Float[Any, "step pitch"]
    pedal: Float[Any, " step"]  # share of the step with the pedal down


def latent_tracks(corpus: dataset.Corpus, table: Float[Any, "row latent"], config: Config) -> list[LatentTrack]:
    """The latent tracks of all songs, in order."""
    table, spans = np.asarray(table), itertools.pairwise(layout.row_starts(corpus.lengths, config))
    return [
        latent_track(entry, song, table[start:end])
        for entry, song, (start, end) in zip(corpus.entries, corpus.songs, spans, strict=True)
    ]


def latent_track(entry: dataset.SongEntry, song: Song, rows: Float[Any, "row latent"]) -> LatentTrack:
    """The latent track of a song with these rows."""
    clock = Clock(entry.clock, entry.beats_per_quarter)
    source = on_clock(song, clock)
    return LatentTrack(entry.name, np.asarray(rows), entry.steps, entry.shift, source, clock_of(source, clock))


def retime_track(track: LatentTrack, clock: TempoMap) -> LatentTrack:
    """The same track with its beats at the times of another clock."""
    return replace(track, source=retime(track.source, track.clock, clock), clock=clock)


def decode_latents(
    params: Params,
    stretch: Float[Any, "query latent"],
    time: Float[Any, " query"],
    config: Config,
    decoder: DecoderClass = Decoder,
) -> Decoded:
    """The heads that notes are selected from, with the default value of those that the decoder does not have."""
    outputs = decode_heads(params, stretch, time, config, decoder)
    per_pitch = next(values for values in outputs.values() if values.ndim == 2)

    def default(name: str) -> np.ndarray:
        head = HEADS[name]
        return np.full_like(per_pitch if head.per_pitch else per_pitch[:, 0], head.default)

    return Decoded(*(outputs[name] if name in outputs else default(name) for name in Decoded._fields))


def decode_heads(
    params: Params,
    stretch: Float[Any, "query latent"],
    time: Float[Any, " query"],
    config: Config,
    decoder: DecoderClass = Decoder,
) -> dict[str, Float[np.ndarray, "step ..."]]:
    """All heads, [step pitch] or [step], with logits turned into probabilities; decoded in batches of one shape."""
    count = len(stretch)
    batch = next((size for size in QUERY_BATCHES if size >= count), QUERY_BATCHES[-1])
    padding = -count % batch
    stretch, time = np.pad(stretch, ((0, padding), (0, 0))), np.pad(time, (0, padding))
    parts = [
        _decode(params, stretch[start : start + batch], time[start : start + batch], config=config, decoder=decoder)
        for start in range(0, len(stretch), batch)
    ]
    parts = jax.device_get(parts)
    heads = {
        name: parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return {name: values[:count].reshape(-1, *values.shape[2:]) for name, values in heads.items()}


@partial(jax.jit, static_argnames=("config", "decoder"))
def _decode(
    params: Params,
    stretch: Float[Any, "query latent"],
    time: Float[Any, " query"],
    config: Config,
    decoder: DecoderClass,
) -> dict[str, Float[Array, "query step ..."]]:
    blocks = jax.vmap(partial(decode, config=config, decoder=decoder), (None, 0, 0))(params, stretch, time)
    return {name: head.activation(blocks[name]) for name, head in heads_of(config).items()}
