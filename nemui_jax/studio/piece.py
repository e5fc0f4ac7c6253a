"""The page's requests for music: each is one song, which is sent slice by slice, from where the page plays on."""

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data.grid import GridSong
from nemui_jax.model.decoder import Params
from nemui_jax.music.song import Song, cut_song
from nemui_jax.sampling import prior
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.decode import LatentSong, decode_song
from nemui_jax.sampling.mix import AnalyzedSong, analyze, mix
from nemui_jax.sampling.variation import vary

MAX_SONGS = 8  # in one piece
MAX_MOMENTS = 256  # at which weights are given
MAX_SECONDS = 1200.0
BLOCK_SECONDS = 0.6  # of a slice: the page changes what it plays from one to the next
STRETCH_BLOCKS = 20  # in the first message; later ones have twice as many
MAX_KEPT = 256  # songs


@dataclass(frozen=True)
class Recipe:
    """A piece as the page asks for it. Moments are evenly spaced over the piece; with one moment it is a mix."""

    songs: tuple[int, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()  # [moment, song], not negative, each sum 1
    seconds: float = 60.0
    noise: float = 0.0
    seed: int = 0
    shift: int | None = None  # semitones to the common key; None: the heaviest song's
    random: bool = False  # a new song, drawn from the prior; songs and weights are ignored


class Piece(NamedTuple):
    """A recipe's piece."""

    song: Song
    songs: Sequence[int]  # that it is made of
    weights: Float[np.ndarray, "song moment"]

    @property
    def blocks(self) -> int:
        """The number of slices."""
        return max(math.ceil(self.song.seconds / BLOCK_SECONDS - 1e-9), 1)


def read_recipe(data: Any, count: int) -> Recipe:
    """The recipe in JSON data from the page, for a studio of `count` songs; ValueError says what is wrong."""
    if not isinstance(data, dict):
        raise ValueError("a recipe is a JSON object")
    try:
        seconds, noise = (float(data.get(name, default)) for name, default in (("seconds", 60.0), ("noise", 0.0)))
        seed, shift = int(data.get("seed", 0)), data.get("shift")
        shift = None if shift is None else int(shift)
        if not 1 <= seconds <= MAX_SECONDS or not 0 <= noise <= 4 or not 0 <= seed < 2**32:
            raise ValueError(
                f"out of range: seconds are 1 to {MAX_SECONDS:g}, noise is 0 to 4, a seed is 0 to {2**32 - 1}"
            )
        if shift is not None and not -6 <= shift <= 6:
            raise ValueError("shift is -6 to 6 semitones, or null")
        if data.get("random"):
            if count < 2:
                raise ValueError("a new song is drawn from two songs or more; add another, or vary this one")
            return Recipe(seconds=seconds, seed=seed, shift=shift, random=True)
        songs = tuple(int(song) for song in data["songs"])
        rows = [[float(weight) for weight in row] for row in data["weights"]]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError("not a recipe") from error
    if not 1 <= len(songs) <= MAX_SONGS or len(set(songs)) < len(songs) or not all(0 <= s < count for s in songs):
        raise ValueError(f"name 1 to {MAX_SONGS} different songs from 0 to {count - 1}")
    if not 1 <= len(rows) <= MAX_MOMENTS or any(len(row) != len(songs) for row in rows):
        raise ValueError(f"give 1 to {MAX_MOMENTS} rows of weights, a weight for each song")
    if any(not math.isfinite(weight) or weight < 0 for row in rows for weight in row):
        raise ValueError("weights are finite and not negative")
    if any(not 1e-6 < sum(row) < 1e6 for row in rows):
        raise ValueError("weights must not add up to 0")
    scaled = tuple(tuple(weight / sum(row) for weight in row) for row in rows)
    return Recipe(songs, scaled, seconds, noise, seed, shift)


class Player:
    """A run's decoder and songs, with those added on the page. Its methods may be called from several threads."""

    def __init__(self, params: Params, songs: Sequence[LatentSong], config: Config):
        self.params, self.config, self.songs = params, config, list(songs)
        self.played = lru_cache(MAX_KEPT)(self._play)
        self.analyzed = lru_cache(MAX_KEPT)(self._analyze)
        self._lock = threading.RLock()

    def _play(self, index: int) -> GridSong:
        with self._lock:
            return decode_song(self.params, self.songs[index], self.config)

    def _analyze(self, index: int) -> AnalyzedSong:
        return analyze(self.played(index))

    def seconds(self, index: int) -> float:
        """How long a song lasts."""
        return self.songs[index].grid.source.seconds

    def piece(self, recipe: Recipe) -> Piece:
        """The piece of a recipe."""
        if recipe.random:
            new = prior.draw(range(len(self.songs)), self.analyzed, recipe.seed, recipe.seconds, recipe.shift)
            song, used = new.song, [source.song for source in new.sources]
            weights = np.array([[source.share] for source in new.sources])
        else:
            moments = np.array(recipe.weights)
            heard = (moments > 0).any(0)
            used, weights = np.array(recipe.songs)[heard].tolist(), moments[:, heard].T
            song = self._mix(used, weights, recipe)
        return Piece(cut_song(song, recipe.seconds), used, weights)

    def _mix(self, songs: Sequence[int], weights: Float[np.ndarray, "song moment"], recipe: Recipe) -> Song:
        if len(songs) == 1 and not recipe.noise:
            return to_song(self.played(songs[0]), recipe.shift)

        def weigh(places: int) -> Float[np.ndarray, "song place"]:
            place, at = np.linspace(0, 1, places), np.linspace(0, 1, weights.shape[1])
            return np.stack([np.interp(place, at, row) for row in weights])

        analyzed = [self.analyzed(index) for index in songs]
        if recipe.noise:
            analyzed = [analyze(vary(song, recipe.noise, recipe.seed)) for song in analyzed]
        return mix(analyzed, weigh, seconds=recipe.seconds, shift=recipe.shift, seed=recipe.seed)

    def order(self, count: int, from_block: int) -> list[tuple[int, int]]:
        """Stretches of blocks that cover a piece of `count`: from `from_block` to the end, then from the start."""
        first = min(max(from_block, 0), count - 1)
        edges = [first, *range(first + STRETCH_BLOCKS, count, 2 * STRETCH_BLOCKS), count]
        behind = [(start, min(start + 2 * STRETCH_BLOCKS, first)) for start in range(0, first, 2 * STRETCH_BLOCKS)]
        return list(itertools.pairwise(edges)) + behind
