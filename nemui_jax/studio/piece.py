"""The page's requests for music: each is one song, which is sent slice by slice, from where the page plays on."""

import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data.grid import GridSong
from nemui_jax.evaluation import mixing, novelty
from nemui_jax.model.decoder import Params
from nemui_jax.music.song import Song, cut_song
from nemui_jax.sampling import prior
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.decode import LatentSong, decode_song
from nemui_jax.sampling.mix import AnalyzedSong, Factors, analyze, count_bars, mix
from nemui_jax.sampling.variation import vary

MAX_SONGS = 8  # in one piece
MAX_MOMENTS = 256  # at which weights are given
MAX_SECONDS = 1200.0
BLOCK_SECONDS = 0.6  # of a slice: the page changes what it plays from one to the next
STRETCH_BLOCKS = 20  # in the first message; later ones have twice as many
OPENING_SECONDS = 4.0  # that an opening is longer than its first stretch
OPENING_SHARE = 0.7  # of the piece: a longer opening is not worth making
MAX_KEPT = 256  # songs
FACTORS = tuple(field.name for field in fields(Factors))


@dataclass(frozen=True)
class Recipe:
    """A piece as the page asks for it. Moments are evenly spaced over the piece; with one moment it is a mix."""

    songs: tuple[int, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()  # [moment, song], not negative, each sum 1
    seconds: float = 60.0
    noise: float = 0.0
    seed: int = 0
    shift: int | None = None  # semitones to the common key; None: the heaviest song's
    random: bool = False  # a new song, drawn from the prior; songs, weights and factors are ignored
    factors: tuple[tuple[str, int], ...] = ()  # those of FACTORS that come from one song, and that song


class Piece(NamedTuple):
    """A recipe's piece."""

    song: Song
    songs: Sequence[int]  # that it is made of; of a new song the first gives form and harmony, and the others play
    seed: int  # of a new song the one it was drawn with: from the recipe's on, the first that gives no near-copy
    seconds: float  # its length

    @property
    def blocks(self) -> int:
        """The number of slices."""
        return max(math.ceil(self.seconds / BLOCK_SECONDS - 1e-9), 1)


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
    return Recipe(songs, scaled, seconds, noise, seed, shift, factors=_read_factors(data.get("factors", {}), count))


def _read_factors(data: Any, count: int) -> tuple[tuple[str, int], ...]:
    if not isinstance(data, Mapping) or not all(name in FACTORS for name in data):
        raise ValueError(f"factors are {', '.join(FACTORS)}, each with a song")
    if not all(isinstance(song, int) and 0 <= song < count for song in data.values()):
        raise ValueError(f"a factor's song is a number from 0 to {count - 1}")
    return tuple(data.items())


@dataclass(frozen=True, eq=False)
class Source:
    """What a song is decoded from: its rows, and the decoder that they are for."""

    params: Params
    song: LatentSong
    config: Config
    file: Song  # as it was read
    clock: str  # what counts its beats; see `dataset.SongEntry`


class Player:
    """The songs of a run and those added on the page. Its methods may be called from several threads."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self.in_run = list(range(len(sources)))  # the songs of the run, in its order
        self._played = lru_cache(MAX_KEPT)(self._play)
        self._analyzed = lru_cache(MAX_KEPT)(self._analyze)
        self._in_beats = lru_cache(None)(lambda source: mixing.in_beats(source.file))
        self._lock = threading.RLock()

    def _play(self, source: Source) -> GridSong:
        with self._lock:
            return decode_song(source.params, source.song, source.config)

    def _analyze(self, source: Source) -> AnalyzedSong:
        return analyze(self._played(source))

    def played(self, index: int) -> GridSong:
        """A song as it has been learned."""
        return self._played(self.sources[index])

    def analyzed(self, index: int) -> AnalyzedSong:
        """The same, with what mixing needs to know of it."""
        return self._analyzed(self.sources[index])

    def seconds(self, index: int) -> float:
        """How long a song lasts."""
        return self.sources[index].song.grid.source.seconds

    def piece(self, recipe: Recipe) -> Piece:
        """The piece of a recipe. ValueError for a new song where all that are drawn are near-copies."""
        return self._draw(recipe) if recipe.random else self._play_songs(recipe)

    def opening(self, recipe: Recipe, block: int) -> Piece | None:
        """The beginning of a long mix, up to the first stretch that is heard from a block on.

        It takes a fraction of the time, as only its bars are mixed and only those of the stretch are played. Its notes
        are those of the whole or much like them. None where they would not be, as weights move or places are drawn,
        and where it would not be worth while.
        """
        seconds = (block + STRETCH_BLOCKS) * BLOCK_SECONDS + OPENING_SECONDS
        steady = len(recipe.weights) == 1 and sum(weight > 0 for weight in recipe.weights[0]) > 1
        if not steady or recipe.noise or recipe.random or not 0 < seconds < OPENING_SHARE * recipe.seconds:
            return None
        heard = replace(recipe, seconds=seconds)
        return self._play_songs(heard, since=block * BLOCK_SECONDS)._replace(seconds=recipe.seconds)

    def _play_songs(self, recipe: Recipe, since: float | None = None) -> Piece:
        """A song, a mix or a variation. With `since` only what is heard from then on is sure to be there."""
        moments = np.array(recipe.weights)
        heard = (moments > 0).any(0)
        used = np.array(recipe.songs)[heard].tolist()
        song = cut_song(self._mix(used, moments[:, heard].T, recipe, since), recipe.seconds)
        return Piece(song, used, recipe.seed, song.seconds)

    def _draw(self, recipe: Recipe) -> Piece:
        """A new song, as `LoadedRun.random` draws it."""
        if len(self.in_run) < 2:
            raise ValueError("a new song is drawn from two songs of the run or more; keep another, or vary this one")
        clocks = [self.sources[index].clock for index in self.in_run]
        songs = [self.in_run[number] for number in prior.drawable(clocks)]
        seeds = range(recipe.seed, recipe.seed + prior.TRIES)
        in_beats = lambda index: self._in_beats(self.sources[index])  # noqa: E731
        for new in novelty.draw_songs(songs, self.analyzed, in_beats, self.in_run, seeds, recipe.seconds, recipe.shift):
            if new.is_new:
                return Piece(new.song, [source.song for source in new.sources], new.seed, new.song.seconds)
        raise ValueError("no new song: all that were drawn are too like the run's songs; try again, or add songs")

    def _mix(
        self, songs: Sequence[int], weights: Float[np.ndarray, "song moment"], recipe: Recipe, since: float | None
    ) -> Song:
        if len(songs) == 1 and not recipe.noise and not recipe.factors:
            return to_song(self.played(songs[0]), recipe.shift)
        everyone = list(dict.fromkeys([*songs, *(song for _, song in recipe.factors)]))
        weights = np.pad(weights, ((0, len(everyone) - len(songs)), (0, 0)))

        def weigh(places: int) -> Float[np.ndarray, "song place"]:
            place, at = np.linspace(0, 1, places), np.linspace(0, 1, weights.shape[1])
            return np.stack([np.interp(place, at, row) for row in weights])

        analyzed = [self.analyzed(index) for index in everyone]
        if recipe.noise:
            varied = [analyze(vary(song, recipe.noise, recipe.seed)) for song in analyzed[: len(songs)]]
            analyzed[: len(songs)] = varied
        factors = Factors(**{name: everyone.index(song) for name, song in recipe.factors})
        options: dict[str, Any] = {"factors": factors, "shift": recipe.shift, "seed": recipe.seed}
        if since is None:
            return mix(analyzed, weigh, seconds=recipe.seconds, **options)
        bars = count_bars(analyzed, recipe.seconds, weights[:, 0])
        song = mix(analyzed, weigh, bars=bars, since=since, **options)
        if song.seconds >= recipe.seconds - OPENING_SECONDS:
            return song
        return mix(analyzed, weigh, bars=count_bars(analyzed, recipe.seconds), since=since, **options)

    def order(self, count: int, from_block: int) -> list[tuple[int, int]]:
        """Stretches of blocks that cover a piece of `count`: from `from_block` to the end, then from the start."""
        first = min(max(from_block, 0), count - 1)
        edges = [first, *range(first + STRETCH_BLOCKS, count, 2 * STRETCH_BLOCKS), count]
        behind = [(start, min(start + 2 * STRETCH_BLOCKS, first)) for start in range(0, first, 2 * STRETCH_BLOCKS)]
        return list(itertools.pairwise(edges)) + behind
