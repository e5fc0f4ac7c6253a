"""How well the songs of a model are played back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.evaluation import note_metrics
from nemui_jax.model.decoder import Decoder, DecoderClass, Params, init
from nemui_jax.music.song import Song
from nemui_jax.sampling.decode import LatentSong, batch_size, decode_heads, latent_song
from nemui_jax.sampling.play import play_back


def measure(
    corpus: dataset.Corpus,
    config: Config,
    params: Params,
    table: Float[Any, "row latent"],
    decoder: DecoderClass = Decoder,
    songs: int | None = None,
) -> tuple[Mapping[str, Any], ...]:
    """Note F1 and the like of each song played back, against its source: what `note_metrics.playback_scores` gives.

    With `songs` only so many, spread evenly over all, are measured; the others have no scores.
    """
    count, starts, rows = len(corpus.entries), layout.row_starts(corpus.entries), np.asarray(table)
    chosen = {*dataset.spread(count, songs or count)}

    def scores(index: int) -> Mapping[str, Any]:
        entry, source = corpus.entries[index], corpus.songs[index]
        song = latent_song(entry, source, rows[starts[index] : starts[index + 1]], config)
        return note_metrics.playback_scores(source, play_back(params, song, config, decoder=decoder))

    return tuple(scores(index) if index in chosen else {} for index in range(count))


def compile_ahead(corpus: dataset.Corpus, config: Config, decoder: DecoderClass = Decoder) -> None:
    """Compiles and imports what `measure` needs of these songs."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), config, decoder))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    queries = (entry.rows * layout.count_cell_blocks(entry.steps, config.model) for entry in corpus.entries)
    for size in {*map(batch_size, queries)}:
        latent, time = (np.zeros(shape, np.float32) for shape in ((size, config.model.latent_size), size))
        decode_heads(params, latent, time, config, decoder)
    note_metrics.playback_scores(corpus.songs[0], corpus.songs[0])


def note_f1(params: Params, song: LatentSong, source: Song, config: Config, decoder: DecoderClass = Decoder) -> float:
    """How well a song is played back: the F1 of onset, pitch and instrument, 0 to 1."""
    return note_metrics.playback_scores(source, play_back(params, song, config, decoder=decoder))["onset"] or 0.0
