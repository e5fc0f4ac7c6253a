"""Where songs stand on the pad: songs that are alike in pitches, rhythm, density and instruments stand close."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from nemui_jax.data.grid import GridSong
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.instruments import family

FAMILIES = ("piano", "plucked", "bass", "bowed", "lead", "drums")
LOW, HIGH = (0.07, 0.1), (0.93, 0.9)  # of the pad, across and down: songs stand between
RANK_SHARE = 0.6  # of a place that comes from a song's rank, which fills the pad evenly
ROOM = 0.75  # distance that songs are pushed apart to, of that on a square grid of as many
ROUNDS = 60  # of pushing apart


class Map(NamedTuple):
    """A projection of what songs are like onto the pad, fitted to some songs."""

    mean: Float[np.ndarray, " feature"]
    axes: Float[np.ndarray, "feature 2"]
    values: Float[np.ndarray, "song 2"]  # of the songs, each axis sorted
    places: Float[np.ndarray, "song 2"]  # of the songs on the pad, 0 to 1 from its left and its top

    def place(self, song: GridSong, taken: Float[np.ndarray, "other 2"]) -> Float[np.ndarray, "2"]:
        """A place for one more song: near those that it is like, and beside the places that are taken."""
        wanted = _on_pad((features(song) - self.mean) @ self.axes, self.values)
        room = ROOM / np.sqrt(len(taken) + 1)
        turn = np.arange(200)
        spiral = 0.5 * room * np.sqrt(turn / 4)[:, None] * np.stack([np.cos(2.4 * turn), np.sin(2.4 * turn)], 1)
        places = np.clip(wanted + spiral, LOW, HIGH)
        free = np.linalg.norm(places[:, None] - taken, axis=2).min(1) >= min(room, 0.12)
        return places[int(free.argmax())]


def features(song: GridSong) -> Float[np.ndarray, " feature"]:
    """What a song is like: groups of numbers, each of about the same total variance among songs."""
    notes = np.concatenate([part.notes for part in song.parts])
    pitched = np.concatenate([part.notes for part in song.parts if not part.is_drums] or [notes])
    pitch, length = pitched["pitch"].astype(float), (pitched["end"] - pitched["step"]).astype(float)
    seconds = max(float(song.clock.seconds_at(song.steps / STEPS_PER_BEAT)), 1.0)
    classes = _shares(np.bincount(pitched["pitch"] % 12, length, 12))
    phases = _shares(np.bincount(notes["step"] % STEPS_PER_BEAT, minlength=STEPS_PER_BEAT))
    kinds = np.array([FAMILIES.index(family(part.source.program, part.is_drums)) for part in song.parts])
    sizes = np.array([len(part.notes) for part in song.parts])
    single = [
        np.log(1 + len(notes) / seconds),
        np.log(1 + length.mean()),
        pitch.mean() / 12,
        pitch.std() / 12,
        np.log(1 + length.sum() / song.steps),
        np.log(1 + song.steps / STEPS_PER_BEAT / seconds),
    ]
    families = _shares(np.bincount(kinds, sizes, len(FAMILIES)))
    return np.concatenate([2.0 * np.sqrt(classes), 2.0 * np.sqrt(phases), 1.5 * families, single])


def make_map(songs: Sequence[GridSong]) -> Map:
    """The map of one song or more: their features' two directions of largest variance."""
    found = np.stack([features(song) for song in songs])
    mean = found.mean(0)
    axes = np.linalg.svd(found - mean, full_matrices=False)[2][:2].T
    axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    axes *= np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)  # the sign of a direction means nothing
    values = (found - mean) @ axes
    ordered = np.sort(values, 0)
    places = np.stack([_on_pad(value, ordered) for value in values])
    return Map(mean, axes, ordered, _apart(places))


def closest_pair(songs: Sequence[GridSong], places: Float[np.ndarray, "song 2"]) -> list[int]:
    """The two songs that stand closest, of those with several parts where there are two such; or the only one."""
    bands = [index for index, song in enumerate(songs) if len(song.parts) > 1]
    chosen = np.array(bands if len(bands) > 1 else range(len(songs)))
    if len(chosen) < 2:
        return [0]
    distance, nearest = map(np.asarray, KDTree(places[chosen]).query(places[chosen], 2))
    return sorted(chosen[nearest[distance[:, 1].argmin()]].tolist())


def _on_pad(value: Float[np.ndarray, "2"], ordered: Float[np.ndarray, "song 2"]) -> Float[np.ndarray, "2"]:
    """The place of a projected value among those of all songs, between the extremes: partly by its rank."""
    if len(ordered) < 2:
        return np.full(2, 0.5)
    ranks = np.linspace(0, 1, len(ordered))
    spread = np.maximum(ordered[-1] - ordered[0], 1e-9)
    by_rank = np.array([np.interp(value[axis], ordered[:, axis], ranks) for axis in (0, 1)])
    by_value = np.clip((value - ordered[0]) / spread, 0, 1)
    return np.array(LOW) + (np.array(HIGH) - LOW) * (RANK_SHARE * by_rank + (1 - RANK_SHARE) * by_value)


def _apart(places: Float[np.ndarray, "song 2"]) -> Float[np.ndarray, "song 2"]:
    """The places, pushed away from each other where they are closer than there is room for."""
    room = ROOM / np.sqrt(len(places))
    angle = 2.4 * np.arange(len(places))
    places = places + 1e-3 * np.stack([np.cos(angle), np.sin(angle)], 1)  # so that equal places can part
    for _ in range(ROUNDS):
        first, second = KDTree(places).query_pairs(room, output_type="ndarray").T
        away = places[first] - places[second]
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        push = 0.3 * (room - distance) / np.maximum(distance, 1e-9) * away
        np.add.at(places, first, push)
        np.add.at(places, second, -push)
        places = np.clip(places, LOW, HIGH)
    return places


def _shares(counts: np.ndarray) -> Float[np.ndarray, " kind"]:
    return counts / max(counts.sum(), 1e-9)
