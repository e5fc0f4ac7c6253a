"""Ways to make new songs: bars looked up in a form, a model of sequences of bars, and a song varied.

    python benchmarks/new_songs.py [--dir midis/] [--count 8] [--seeds 0 100] [--json FILE]

Looked up is what `sample --random` does, drawn again where it is too like a song. The model of sequences groups the
bars of all songs by harmony, rhythm and register, counts which groups follow each two, with one, none where these are
unknown, and draws groups; the bar of a group is the one that follows in its song, for at most RUN_QUARTERS, else any.
The third way is `sample --perturb 1` of a song. All read the songs on the grid, without training. Figures are means
over songs of a minute, by the measures of `evaluate`: bits a note, density, and bars that return as ratios to the
songs', clash and on beat as differences; copied is the share of windows of 16 quarters that are a passage of a song.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import report
from scipy.cluster.vq import kmeans2

from nemui_jax.data import dataset
from nemui_jax.evaluation import mixing, novelty
from nemui_jax.evaluation.report import Judge, returning_ratio, written
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import METER, NOTE, Part, Song, TempoMap, cut_song
from nemui_jax.sampling.analysis import AnalyzedSong, analyze
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.lookup import unit_length
from nemui_jax.sampling.passages import merged, moved
from nemui_jax.sampling.prior import RUN_QUARTERS, drawable
from nemui_jax.sampling.variation import vary

SECONDS = 60.0
SEEDS_TRIED = 1000  # for each song that is looked up
BARS_A_GROUP = 6  # on average
MEASURES = ("bits", "clash", "on_beat", "density", "copied", "returning")


class SequenceModel:
    """Groups of the bars of songs whose bars have the same length, and which groups follow each other."""

    def __init__(self, songs: Sequence[AnalyzedSong]):
        lengths = [song.unit_steps / song.beats_per_quarter for song in songs]
        usual = max(lengths, key=lengths.count)
        self.songs = [song for song, length in zip(songs, lengths, strict=True) if length == usual]
        self.bars = [(number, bar) for number, song in enumerate(self.songs) for bar in range(len(song.units) - 1)]
        self.longest = max(int(RUN_QUARTERS * STEPS_PER_BEAT / usual), 1)
        features = np.stack([self._features(*bar) for bar in self.bars])
        groups = max(len(self.bars) // BARS_A_GROUP, 2)
        _, self.group = kmeans2(features, groups, minit="++", rng=np.random.default_rng(0))
        self.follows: dict[tuple[int, ...], list[int]] = {}  # a group for each time that it followed these
        for place, (_, bar) in enumerate(self.bars):
            for length in range(min(bar, 2) + 1):
                context = tuple(self.group[place - length : place].tolist())
                self.follows.setdefault(context, []).append(int(self.group[place]))

    def _features(self, number: int, bar: int) -> np.ndarray:
        """How long each pitch class sounds in each beat of a bar, and when notes begin in each register."""
        song = self.songs[number]
        slots = slice(*(song.units[bar : bar + 2] // (STEPS_PER_BEAT // 4)))
        sounds, onsets = song.sounds[:, slots].sum(0), song.onsets[:, slots].sum(0)
        bins = [np.array_split(values, 4) for values in (sounds, onsets)]
        return np.concatenate([unit_length(np.concatenate([part.sum(0) for part in values])) for values in bins])

    def draw(self, seed: int, seconds: float) -> Song:
        """A new song of so many seconds: all that the parts of the bars play, on one piano."""
        rng = np.random.default_rng(seed)
        tempo = float(np.mean([song.quarter_seconds for song in self.songs]))
        steps = int(self.songs[0].unit_steps / self.songs[0].beats_per_quarter)  # of a bar, at a beat a quarter
        groups: list[int] = []
        chosen: list[int] = []
        run = 0
        for _ in range(max(round(seconds * STEPS_PER_BEAT / (steps * tempo)), 2)):
            contexts = (tuple(groups[len(groups) - length :]) for length in (2, 1, 0) if length <= len(groups))
            context = next(known for known in contexts if known in self.follows)
            groups.append(int(rng.choice(self.follows[context])))
            after = chosen[-1] + 1 if chosen and run < self.longest else -1
            goes_on = 0 <= after < len(self.bars) and self.group[after] == groups[-1] and self.bars[after][1] > 0
            run = run + 1 if goes_on else 1
            chosen.append(after if goes_on else int(rng.choice(np.flatnonzero(self.group == groups[-1]))))
        grid = merged([self._notes(bar, index * steps, steps) for index, bar in enumerate(chosen)])
        notes = np.zeros(len(grid), NOTE)
        notes["pitch"], notes["velocity"] = grid["pitch"], grid["velocity"]
        notes["onset"], notes["end"] = (grid[name] / STEPS_PER_BEAT * tempo for name in ("step", "end"))
        meter = np.array([(0.0, steps // STEPS_PER_BEAT, 4)], METER)
        return Song((Part(notes),), TempoMap.steady(tempo), meters=meter)

    def _notes(self, place: int, start: int, steps: int) -> np.ndarray:
        number, bar = self.bars[place]
        song = self.songs[number]
        unit = int(song.units[bar])
        found = [moved(v.notes, unit, 0, song.unit_steps, 0) for v in itertools.compress(song.voices, song.pitched)]
        notes = merged(found)
        for name in ("step", "end"):
            notes[name] = np.round(notes[name] / song.beats_per_quarter).astype(int) + start
        notes["end"] = np.maximum(notes["end"], notes["step"] + 1)
        return notes


def measure(make: Callable[[int], Song], count: int, sources: Sequence[Song], judge: Judge) -> dict[str, float]:
    """The figures of so many songs, each as it is read back from its file."""
    read = [written(make(number)) for number in range(count)]
    return judge.new_songs([mixing.in_beats(song) for song in read]) | {
        "returning": returning_ratio(read, sources) or np.nan
    }


def ways(songs: Sequence[AnalyzedSong], sources: Sequence[Song], clocks: Sequence[str]) -> dict[str, Callable]:
    """Each way to make a new song, from its seed and number."""
    beats, model, chosen = [mixing.in_beats(song) for song in sources], SequenceModel(songs), drawable(clocks)

    def look_up(seed: int, number: int) -> Song:
        seeds = range(seed + SEEDS_TRIED * number, seed + SEEDS_TRIED * (number + 1))
        drawn = novelty.draw_songs(chosen, songs.__getitem__, beats.__getitem__, range(len(songs)), seeds, SECONDS)
        if (found := next((new.song for new in drawn if new.is_new), None)) is None:
            raise SystemExit("no new song can be drawn from these: they are too few or too short")
        return found

    def varied(seed: int, number: int) -> Song:
        index = int(np.random.default_rng(seed).permutation(len(songs))[number % len(songs)])
        return cut_song(to_song(vary(songs[index], 1.0, seed + number)), SECONDS)

    return {
        "looked up in a form": look_up,
        "a model of sequences of bars": lambda seed, number: model.draw(seed + number, SECONDS),
        "one song varied": varied,
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="a folder of songs (default: the built-in tunes)")
    parser.add_argument("--count", type=int, default=8, help="songs for each seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    args = parser.parse_args()
    with report.songs(args.dir) as folder:
        config, corpus = report.load(folder)
        pairs = zip(corpus.songs, corpus.entries, strict=True)
        songs = [analyze(dataset.on_grid(song, entry, config)) for song, entry in pairs]
    judge = Judge([mixing.in_beats(song) for song in corpus.songs])
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in args.seeds:
        for way, make in ways(songs, corpus.songs, [entry.clock for entry in corpus.entries]).items():
            found = measure(partial(make, seed), args.count, corpus.songs, judge)
            figures.setdefault(way, []).append(found)
    means = {way: mixing.mean(rows) for way, rows in figures.items()}
    rows = [(way, *(float(found[name]) for name in MEASURES)) for way, found in means.items()]
    report.show(f"{args.count * len(args.seeds)} new songs each way", ("", *MEASURES), rows)
    report.write(args, figures)


if __name__ == "__main__":
    main()
