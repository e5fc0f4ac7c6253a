"""Measurements of a run: songs played back against their files, mixes and new songs against the songs.

All notes are measured as they are read back from a written .mid. Results are plain data for JSON.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from nemui_jax.data.dataset import spread
from nemui_jax.data.grid import GridSong
from nemui_jax.evaluation import mixing, note_metrics
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.song import Song, cut_song
from nemui_jax.sampling.arrange import to_song

PAIRS = 12
WEIGHTS = (0.25, 0.5, 0.75)
PATH_PAIRS, PATH = 4, 11  # pairs with a path of so many mixes, at even weights
NEW_SONGS = 8
QUARTERS = 128  # of each mix, at most
SECONDS = 100.0  # of a mix, from which so many quarters are taken
MAX_SONGS = 100  # the most songs that are measured and compared with; of more, this many are evenly chosen
UNRELATED = 4  # songs that a mix is compared with besides its own
Mixer = Callable[[Sequence[int], Sequence[float], float], Song]  # of songs, by weight, so many seconds
Composer = Callable[[int, float], list[Song]]  # so many new songs of so many seconds


def evaluate(
    songs: Sequence[Song],
    played: Callable[[int], Song],
    on_grid: Callable[[int], GridSong],
    mix: Mixer,
    compose: Composer | None = None,
    original: Mixer | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """All figures of a run, as data for JSON; of a run of one song only those of `playback`.

    `songs` are the files' songs, `played` plays one back, `on_grid` is a file's song on its grid, `mix` mixes some,
    `compose` makes new ones, and `original` mixes with a run of `--preset original`, as one more baseline. At most
    MAX_SONGS are measured: `songs` in the result is how many, and how many there are. `progress(done, total)` is called
    after each pair.
    """
    chosen = spread(len(songs), MAX_SONGS)
    playback = [score_playback(songs[index], played(index), on_grid(index)) for index in chosen]
    result: dict[str, Any] = {"songs": [len(chosen), len(songs)], "playback": playback}
    pairs = draw_pairs(len(chosen))
    if not pairs:
        return result
    beats = {index: mixing.in_beats(songs[index]) for index in chosen}
    judge = Judge([beats[index] for index in chosen])
    sets: dict[str, list[dict[str, float]]] = {}
    paths = []
    for done, pair in enumerate(pairs):
        indices = [chosen[number] for number in pair]
        quarters = judge.quarters(pair)
        for weight in WEIGHTS:
            mixed = written(mix(indices, (1 - weight, weight), SECONDS))
            sets.setdefault(f"mix {weight}", []).append(judge(mixing.in_beats(mixed), pair, weight, quarters))
        fade = mixing.cross_fade([judge.songs[number] for number in pair], (0.5, 0.5))
        sets.setdefault("cross-fade 0.5", []).append(judge(fade, pair, 0.5, quarters))
        if original is not None:
            mixed = written(original(indices, (0.5, 0.5), SECONDS))
            sets.setdefault("original preset's mix 0.5", []).append(judge(mixing.in_beats(mixed), pair, 0.5, quarters))
        if done < PATH_PAIRS:
            paths.append(_path(songs, indices, mix))
        progress(done + 1, len(pairs))
    result["mixes"] = {name: mixing.mean(rows) for name, rows in sets.items()}
    result["path"] = {name: float(np.mean([path[name] for path in paths])) for name in paths[0]}
    if compose is not None and (new := compose(NEW_SONGS, 60.0)):
        read = [written(song) for song in new]
        returning = returning_ratio(read, [songs[index] for index in chosen])
        result["new"] = judge.new_songs([mixing.in_beats(song) for song in read]) | {"returning": returning}
    return result


class Judge:
    """Compares mixes with their songs, and with a language model of all songs."""

    def __init__(self, songs: Sequence[np.ndarray]):
        self.songs, self.bits = songs, LanguageModel.fit(songs)

    @property
    def density(self) -> float:
        """The mean number of notes a quarter of the songs."""
        old = [mixing.cut_quarters(song, QUARTERS) for song in self.songs]
        return max(float(np.mean([len(song) / mixing.count_quarters(song) for song in old])), 1e-9)

    def quarters(self, pair: Sequence[int]) -> int:
        ends = [self.songs[number]["onset"].max(initial=0) / mixing.QUARTER_SECONDS for number in pair]
        return max(int(min(QUARTERS, *ends)), 1)

    def __call__(self, mix: np.ndarray, pair: Sequence[int], weight: float, quarters: int) -> dict[str, float]:
        others = [number for number in range(len(self.songs)) if number not in pair]
        unrelated = [self.songs[n] for n in np.random.default_rng(pair).permutation(others)[:UNRELATED]]
        own = [self.songs[number] for number in pair]
        return mixing.compare(mix, own, (1 - weight, weight), unrelated, quarters, self.bits, pair)

    def new_songs(self, new: Sequence[np.ndarray]) -> dict[str, float]:
        """New songs against all songs: bits and density as ratios, clash and on_beat as differences, what is copied."""
        old = [mixing.cut_quarters(song, QUARTERS) for song in self.songs]
        costs = [self.bits.cost(song, without=number) for number, song in enumerate(old)]
        rows = [
            {
                "bits": self.bits.cost(song) / float(np.mean(costs)),
                "clash": mixing.clash(song) - float(np.mean([mixing.clash(other) for other in old])),
                "on_beat": mixing.on_beat(song) - float(np.mean([mixing.on_beat(other) for other in old])),
                "density": len(song) / mixing.count_quarters(song) / self.density,
                "copied": mixing.copied(song, self.songs, mixing.count_quarters(song)),
            }
            for song in new
        ]
        return mixing.mean(rows)


def returning_ratio(new: Sequence[Song], songs: Sequence[Song]) -> float | None:
    """The share of bars of new songs that return, over that in as many quarters of the songs; None where none do."""
    quarters = [float(song.tempo_map.beats_at(song.seconds)) for song in new]
    own = np.mean([mixing.returning(song, length) for song, length in zip(new, quarters, strict=True)])
    usual = np.mean([mixing.returning(song, length) for song in songs for length in quarters])
    return float(own / usual) if usual else None


def _path(songs: Sequence[Song], indices: Sequence[int], mix: Mixer) -> dict[str, float]:
    """How even the steps are from one song to another over PATH mixes, and whether its ends are the songs."""
    path = [written(mix(indices, (1 - weight, weight), SECONDS)) for weight in np.linspace(0, 1, PATH).tolist()]
    ends = [
        note_metrics.playback_scores(cut_song(songs[index], SECONDS), end)["onset"] or 0.0
        for index, end in zip(indices, (path[0], path[-1]), strict=True)
    ]
    return {"evenness": note_metrics.evenness([mixing.in_beats(piece) for piece in path]), "end": min(ends)}


def score_playback(source: Song, played: Song, on_grid: GridSong) -> dict[str, Any]:
    """The `note_metrics.playback_scores` of a song, and under `ceiling` those of its notes on the grid."""
    scores = note_metrics.playback_scores(source, written(played))
    return {"name": on_grid.name, **scores, "ceiling": note_metrics.playback_scores(source, to_song(on_grid))}


def draw_pairs(songs: int) -> list[tuple[int, int]]:
    """PAIRS random pairs of songs, or all where there are fewer; always the same."""
    pairs = list(combinations(range(songs), 2))
    return [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))[:PAIRS]]


def written(song: Song) -> Song:
    """A song as it is read back from its .mid file; one without notes, as it is."""
    return midi_reader.parse(midi_writer.encode(song)) if len(song.notes) else song
