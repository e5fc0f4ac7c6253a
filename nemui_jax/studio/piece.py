"""The page's requests for music, decoded one stretch at a time, so that playback can start early.

A stretch that begins at a multiple of WINDOW_BLOCKS and is decoded with one more window on either side has the same
onsets as in the whole piece, because density and harmony depend on no more than that. A song decoded by itself does not
depend on the weights, so it is decoded once and kept.
"""

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.model import decoder
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import Song, TempoMap, cut_song
from nemui_jax.sampling import prior
from nemui_jax.sampling.blend import blend_latents, is_single, shift_per_block
from nemui_jax.sampling.decode import Decoded, LatentTrack, decode_latents, retime_track
from nemui_jax.sampling.play import play
from nemui_jax.sampling.select import WINDOW_BLOCKS, DecodedSong, decode_song, select_by_density, select_by_threshold

MAX_SONGS = 8  # in one piece
MAX_MOMENTS = 256  # at which weights are given
MAX_SECONDS = 1200.0
STRETCH_SECONDS = 12.0  # of the first stretch; later ones are twice as long
MAX_KEPT = 24  # songs decoded by themselves


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
    """What is needed to decode any stretch of a recipe's piece."""

    tracks: Sequence[LatentTrack]
    weights: Float[np.ndarray, "song block"]
    latent: Float[np.ndarray, "block latent"]
    decoded_songs: Sequence[DecodedSong]  # each track decoded by itself
    shifts: np.ndarray  # semitones to the common key in each block
    noise: float


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

    def __init__(self, params: decoder.Params, tracks: Sequence[LatentTrack], config: Config, unit: Any):
        self.params, self.unit, self.config = params, unit, config
        # All songs are played at their median tempo, so that all blocks have the same length.
        lengths = [float(pianoroll.seconds_at(track.steps, track.clock)) / track.steps for track in tracks]
        self.clock = TempoMap.steady(float(np.median(lengths)) * STEPS_PER_BEAT)
        self.step_seconds = float(self.clock.beat_seconds[0]) / STEPS_PER_BEAT
        self.block_seconds = config.model.block_steps * self.step_seconds
        self.tracks = [self.at_common_tempo(track) for track in tracks]
        self._decoded_songs: OrderedDict[Any, DecodedSong] = OrderedDict()
        self._lock = threading.Lock()

    def at_common_tempo(self, track: LatentTrack) -> LatentTrack:
        """A track at the tempo at which the studio plays all songs."""
        return retime_track(track, self.clock)

    def blocks(self, seconds: float) -> int:
        """The number of blocks that cover so many seconds."""
        return max(math.ceil(seconds / self.block_seconds - 1e-9), 1)

    def parts(self, recipe: Recipe) -> tuple[Sequence[LatentTrack], Float[np.ndarray, "song block"]]:
        """The tracks of a piece and their weights, block by block."""
        blocks = self.blocks(recipe.seconds)
        if recipe.random:
            return prior.draw_song(self.tracks, self.config, blocks, recipe.seed)
        moments = np.array(recipe.weights)
        place = np.linspace(0, 1, blocks) if blocks > 1 else np.zeros(1)
        at = np.linspace(0, 1, len(moments))
        weights = np.stack([np.interp(place, at, column) for column in moments.T])
        used = np.asarray((weights > 0).any(1))
        return [self.tracks[song] for song, on in zip(recipe.songs, used.tolist(), strict=True) if on], weights[used]

    def piece(self, recipe: Recipe) -> Piece:
        """The piece of a recipe, with its latents mixed and its songs decoded."""
        tracks, weights = self.parts(recipe)
        blocks, noise = weights.shape[1], prior.NOISE if recipe.random else recipe.noise
        latent = blend_latents(tracks, weights, self.config, noise=noise, unit=self.unit, seed=recipe.seed)
        keys = [(recipe.seed, blocks, index) if recipe.random else (id(t), blocks) for index, t in enumerate(tracks)]
        decoded = [self._decode_song(key, track, blocks) for key, track in zip(keys, tracks, strict=True)]
        return Piece(tracks, weights, latent, decoded, shift_per_block(tracks, weights, recipe.shift), noise)

    def _decode_song(self, key: Any, track: LatentTrack, blocks: int) -> DecodedSong:
        with self._lock:
            if key in self._decoded_songs:
                self._decoded_songs.move_to_end(key)
                return self._decoded_songs[key]
        decoded = decode_song(self.params, track, blocks, self.config)
        with self._lock:
            self._decoded_songs[key] = decoded
            while len(self._decoded_songs) > MAX_KEPT:
                self._decoded_songs.popitem(last=False)
        return decoded

    def decode(self, latent: np.ndarray, time: np.ndarray) -> Decoded:
        return decode_latents(self.params, latent, time, self.config)

    def stretch(self, piece: Piece, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """NOTE and PEDAL events of the blocks from `first`, a multiple of WINDOW_BLOCKS, to before `last`.

        Their times are seconds from the start of the piece.
        """
        block = self.config.model.block_steps
        count = piece.weights.shape[1]
        start, stop = max(first - WINDOW_BLOCKS, 0), min(last + WINDOW_BLOCKS, count)
        latent, time = piece.latent[start:stop], layout.block_times(count, self.config.model)[start:stop]
        weights, decoded = piece.weights[:, start:stop], self.decode(latent, time)
        alone = is_single(weights) & (piece.noise == 0)
        if self.config.train.loss == "squared" or alone.all():
            grid, pedal = select_by_threshold(decoded, self.config)
        else:
            songs = [song.part(start, stop) for song in piece.decoded_songs]
            grid, pedal = select_by_density(decoded, songs, weights, alone, self.config)
        grid = grid[(grid["step"] >= (first - start) * block) & (grid["step"] < (last - start) * block)]
        shifts = piece.shifts[start:stop][grid["step"] // block]
        notes = pianoroll.to_notes(grid, self.clock, shifts)
        pedal_events = pianoroll.to_pedal(np.asarray(pedal)[: (last - start) * block], self.clock)
        for events, names in ((notes, ("onset", "end")), (pedal_events, ("time",))):
            for name in names:
                events[name] += start * self.block_seconds
        begins = first * self.block_seconds
        before = pedal_events[pedal_events["time"] < begins][-1:].copy()  # the pedal at the start
        before["time"] = begins
        return notes, np.concatenate([before, pedal_events[pedal_events["time"] >= begins]])

    def order(self, count: int, from_block: int) -> list[tuple[int, int]]:
        """Stretches of blocks that cover a piece of `count`: from `from_block` to the end, then from the start."""
        windows = max(round(STRETCH_SECONDS / self.block_seconds / WINDOW_BLOCKS), 1) * WINDOW_BLOCKS
        first = min(max(from_block, 0), count - 1) // WINDOW_BLOCKS * WINDOW_BLOCKS
        edges = [first, *range(first + windows, count, 2 * windows), count]
        ahead = list(itertools.pairwise(edges))
        behind = [(start, min(start + 2 * windows, first)) for start in range(0, first, 2 * windows)]
        return ahead + behind

    def whole(self, recipe: Recipe) -> Song:
        """The whole piece as a song, as the command line would write it."""
        tracks, weights = self.parts(recipe)
        song = play(
            self.params,
            tracks,
            weights,
            self.config,
            shift=recipe.shift,
            noise=prior.NOISE if recipe.random else recipe.noise,
            unit=self.unit,
            seed=recipe.seed,
        )
        return cut_song(song, recipe.seconds)

    def recall(self, index: int) -> Song:
        """A song played back, in the common key."""
        track = self.tracks[index]
        blocks = layout.count_blocks(track.steps, self.config.model)
        return play(self.params, [track], np.ones((1, blocks)), self.config, shift=0)
