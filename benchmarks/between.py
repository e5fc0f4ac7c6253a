"""Whether points between latent rows are music: cells of two songs, interpolated, against cells taken whole.

    python benchmarks/between.py [--dir midis/] [--pairs 10] [--noise 0.5] [--json FILE]

Each song's largest pitched part gives the rows of its first cells; for each of them the row of a cell of the second
song is looked up that has the same harmony, with few jumps. Decoded are the rows of the first song, of the second,
points between them, and rows taken from both in turns of two cells. The cost is in bits a note under a language model
of the other songs, over the mean of both songs' parts; density is notes over those of both on average; new are the
notes that neither cell has. The second table is of a decoder that was trained with Gaussian noise on its rows, so that
the space near them is learned too; the noise is relative to a row's root mean square.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report

import nemui_jax as nemui
from nemui_jax import config
from nemui_jax.data import layout
from nemui_jax.evaluation import playback
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.evaluation.mixing import QUARTER_SECONDS, in_beats
from nemui_jax.model.decoder import Decoder, DecoderClass
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import NOTE
from nemui_jax.sampling.decode import LatentSong, decode_heads, latent_songs, read_notes

CELLS = 64  # of each song
JUMP_COST = 0.4  # in the second song; harmony that is wholly unlike costs 1
MEASURES = ("bits", "density", "new")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def with_noise(noise: float) -> DecoderClass:
    """A decoder for training: Decoder with noise on each row, other noise in each update."""

    class NoisyDecoder(Decoder):
        def __call__(self, latent, time):
            key = jax.random.key(jax.lax.bitcast_convert_type(latent.sum(), jnp.uint32))
            scale = noise * jax.lax.stop_gradient(jnp.sqrt(jnp.square(latent).mean()))
            return super().__call__(latent + scale * jax.random.normal(key, latent.shape), time)

    return NoisyDecoder


class Line:
    """The latent rows of a song's largest pitched part, cell by cell, and what they play."""

    def __init__(self, song: LatentSong, params: Any, settings: config.Config):
        pitched = [number for number, part in enumerate(song.grid.parts) if not part.is_drums]
        number = max(pitched, key=lambda part: np.count_nonzero(song.score[part] != layout.SILENT))
        score = song.score[number]
        self.part, self.params, self.settings = song.grid.parts[number], params, settings
        self.rows = song.rows[score[score != layout.SILENT]]
        self.harmony = self._harmony()

    def play(self, rows: np.ndarray) -> np.ndarray:
        """GRID notes of rows, one cell after another, with this part's velocities and timings."""
        blocks = layout.count_cell_blocks(0, self.settings.model)
        times = np.tile(layout.block_times(blocks), len(rows))
        heads = decode_heads(self.params, np.repeat(rows, blocks, 0).astype(np.float32), times, self.settings)
        return read_notes(heads, np.arange(len(rows) * self.settings.model.knot_steps), self.part, self.settings)

    def _harmony(self) -> np.ndarray:
        """How long each pitch class sounds in each cell, at length 1: [cell, 12]."""
        notes, steps = self.play(self.rows), self.settings.model.knot_steps
        sounds = np.zeros((len(self.rows), 12))
        np.add.at(
            sounds, (notes["step"] // steps, notes["pitch"] % 12), np.minimum(notes["end"] - notes["step"], steps)
        )
        return sounds / np.maximum(np.linalg.norm(sounds, axis=1, keepdims=True), 1e-9)


def matching(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cell of the second song for each of the first's, by harmony: the path of least cost, [cell]."""
    cost = 1 - first @ second.T
    total, came_from = cost[0], []
    for row in cost[1:]:
        stayed = np.append(np.inf, total[:-1])
        jumped = total.min() + JUMP_COST
        came_from.append(np.where(stayed <= jumped, np.arange(len(row)) - 1, total.argmin()))
        total = np.minimum(stayed, jumped) + row
    path = [int(total.argmin())]
    for back in came_from[::-1]:
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])


def in_seconds(grid: np.ndarray) -> np.ndarray:
    """GRID notes as NOTE at the tempo of the language model."""
    notes = np.zeros(len(grid), NOTE)
    notes["onset"], notes["end"] = (grid[name] / STEPS_PER_BEAT * QUARTER_SECONDS for name in ("step", "end"))
    notes["pitch"], notes["velocity"] = grid["pitch"], 64
    return notes


def measures(first: Line, second: Line, bits: LanguageModel, without: tuple[int, int]) -> Iterator[tuple[str, list]]:
    """Bits, density and share of new notes of each way to play two songs at once."""
    rows = first.rows[:CELLS]
    others = second.rows[matching(first.harmony[:CELLS], second.harmony)]
    in_turn = np.where((np.arange(len(rows)) // 2 % 2 == 0)[:, None], rows, others)
    ways = {f"{1 - weight:g} : {weight:g}": (1 - weight) * rows + weight * others for weight in WEIGHTS}
    played = {name: first.play(points) for name, points in (ways | {"in turns": in_turn}).items()}
    ends = [played["1 : 0"], played["0 : 1"]]
    own = np.concatenate([places(notes) for notes in ends])
    cost = np.mean([bits.cost(in_seconds(line.play(line.rows[:CELLS])), without) for line in (first, second)])
    for name, notes in played.items():
        new = 1 - np.isin(places(notes), own).mean() if len(notes) else np.nan
        yield (
            name,
            [bits.cost(in_seconds(notes), without) / cost, len(notes) / np.mean([len(end) for end in ends]), new],
        )


def places(notes: np.ndarray) -> np.ndarray:
    """A number for the step and pitch of each note."""
    return notes["step"].astype(np.int64) * 128 + notes["pitch"]


def measure(folder: Path, noise: float, pairs: int) -> tuple[float, dict[str, np.ndarray]]:
    """The note F1 of a run that was trained with so much noise, and the mean measures of each way over pairs."""
    with tempfile.TemporaryDirectory() as temporary:
        decoder = with_noise(noise) if noise else None
        run = nemui.train(folder, Path(temporary) / "run", decoder=decoder)
        params, table, settings = run.params, run.table, run.config
    _, corpus = report.load(folder)
    note_f1 = np.mean([song["onset"] for song in playback.measure(corpus, settings, params, table)])
    lines = [Line(song, params, settings) for song in latent_songs(corpus, table, settings)]
    bits = LanguageModel.fit([in_beats(song) for song in corpus.songs])
    chosen = np.random.default_rng(0).permutation(list(itertools.combinations(range(len(lines)), 2)))[:pairs]
    found: dict[str, list] = {}
    for first, second in chosen.tolist():
        for way, values in measures(lines[first], lines[second], bits, (first, second)):
            found.setdefault(way, []).append(values)
    return float(note_f1), {way: np.nanmean(values, axis=0) for way, values in found.items()}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="a folder of songs (default: the built-in tunes)")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of songs (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.5, help="of the second training (default: %(default)s)")
    args = parser.parse_args()
    figures = {}
    with report.songs(args.dir) as folder:
        for noise in (0.0, args.noise):
            note_f1, ways = measure(folder, noise, args.pairs)
            title = f"rows with noise {noise:g}: note F1 {note_f1:.4f}" if noise else f"rows: note F1 {note_f1:.4f}"
            report.show(title, ("first : second", *MEASURES), [(way, *map(float, row)) for way, row in ways.items()])
            figures[str(noise)] = {"note_f1": note_f1} | {
                way: dict(zip(MEASURES, map(float, row), strict=True)) for way, row in ways.items()
            }
    report.write(args, figures)


if __name__ == "__main__":
    main()
