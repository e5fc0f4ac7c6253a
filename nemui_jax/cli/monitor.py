"""Watching a training: its figures and a piano roll in TensorBoard, and a profile of its steps.

Both are off unless asked for, and then cost next to nothing. tensorboardX is imported when it is needed.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nemui_jax.data import pianoroll
from nemui_jax.errors import UsageError
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import Song, TempoMap
from nemui_jax.runs.run import Run

IMAGE_SECONDS = 60.0  # of the first song, in pictures
PIXEL_SECONDS = 0.05
PITCH_PIXELS = 6
_PANEL, _MISSED, _EXTRA = (19, 23, 29), (245, 166, 35), (86, 180, 233)  # as in `plots`


@dataclass
class Monitor:
    """What is looked at while a run trains; `writer` is None without TensorBoard."""

    run: Run
    writer: Any = None
    profile: Path | None = None
    chunk_seconds: float = 0.0  # that the last chunk of steps took
    step: int = 0  # the last that was shown

    def chunks(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """The same chunks of training, timed; the profiler records the second, as the first compiles."""
        number = 0
        for number in itertools.count():
            began = time.monotonic()
            with _profiler(self.profile if number == 1 else None):
                found = list(itertools.islice(chunks, 1))
            self.chunk_seconds = time.monotonic() - began
            if not found:
                break
            if number == 1 and self.profile is not None:
                print(f"a profile of one chunk of steps is in {self.profile}; to see it: {_how_to_see(self.profile)}")
            yield found[0]
        if number < 2 and self.profile is not None:
            print("too few steps for a profile: the first chunk, which compiles, was the only one")

    def show(self, row: Mapping[str, Any], state: Any) -> None:
        """Adds a row of the log to TensorBoard; where there is a recall, with a piano roll of the first song."""
        if self.writer is None:
            return
        step = row["step"]
        for name, value in scalars(row, step - self.step, self.chunk_seconds, self.run).items():
            self.writer.add_scalar(name, value, step)
        if "recall" in row:
            picture = image(*_first_song(self.run, state), IMAGE_SECONDS)
            self.writer.add_image("recall_of_the_first_song", picture, step, dataformats="HWC")
        self.writer.flush()
        self.step = step


@contextlib.contextmanager
def monitoring(run: Run, start: int, board: Path | bool | None, profile: Path | bool | None) -> Iterator[Monitor]:
    """Watches a training that goes on after step `start`, in folders as `wanted` tells."""
    folder = wanted(board, run.path / "tensorboard")
    watch = Monitor(run, profile=wanted(profile, run.path / "profile"), step=start)
    if folder is None:
        yield watch
        return
    writer = import_tensorboard().SummaryWriter(
        str(folder),
        purge_step=start + 1 if start else None,  # what a training that was cut off there wrote after it
        filename_suffix=f".{start}",
    )
    with contextlib.closing(writer):
        watch.writer = writer
        print(f"figures go to {folder}; to see them: pip install tensorboard; tensorboard --logdir {folder}")
        yield watch


def wanted(asked: Path | bool | None, default: Path) -> Path | None:
    """Where a flag such as --tensorboard [DIR] leads: nowhere without it, to `default` where it names no folder."""
    return default if asked is True else asked or None


def import_tensorboard() -> Any:
    """tensorboardX, with what it needs for pictures."""
    try:
        import PIL  # noqa: F401
        import tensorboardX
    except ImportError as error:
        raise UsageError(
            f"--tensorboard needs the extra tensorboard: pip install 'nemui-jax[tensorboard]' ({error})"
        ) from error
    return tensorboardX


def scalars(row: Mapping[str, Any], steps: int, seconds: float, run: Run) -> dict[str, float]:
    """What TensorBoard shows of a row of the log, the last `steps` steps of which took so many seconds."""
    import jax.numpy as jnp

    from nemui_jax.training.optimizer import learning_rate_share

    settings = run.config.train
    of_music = steps * settings.batch_windows * settings.window_blocks * run.config.model.block_steps
    share = float(
        learning_rate_share(jnp.int32(row["step"] - 1), jnp.int32(run.total), settings)
    )  # that of the last step
    return {
        **{name: row[name] for name in ("loss", "recall") if name in row},
        "music_steps_per_second": of_music / max(seconds, 1e-9),
        "learning_rate/weights": share * settings.weight_rate,
        "learning_rate/rows": share * settings.row_rate,
    }


def image(source: Song, recalled: Song, seconds: float) -> UInt8[np.ndarray, "height width 3"]:
    """A piano roll of the first seconds: grey what both songs have, orange what was missed, blue what is extra.

    A column is PIXEL_SECONDS. Onsets are brighter, the louder the more so. One pixel where there are no notes.
    """
    notes = [song.notes[song.notes["onset"] < seconds] for song in (source, recalled)]
    clock = TempoMap.steady(PIXEL_SECONDS * STEPS_PER_BEAT)
    grids = [pianoroll.quantize(part, clock) for part in notes]
    both = np.concatenate(grids)
    if not len(both):
        return np.array([[_PANEL]], np.uint8)
    low, high, steps = int(both["pitch"].min()), int(both["pitch"].max()), int(both["step"].max()) + 1
    steps = max(steps, min(int(both["end"].max()), round(seconds / PIXEL_SECONDS)))
    known, found = (pianoroll.to_roll(grid, steps, low, high) for grid in grids)
    velocity = np.maximum(known[:, pianoroll.VELOCITY], found[:, pianoroll.VELOCITY])  # 0 but at onsets
    light = 0.6 + 0.4 * velocity
    colours = np.full((*light.shape, 3), _PANEL, float)
    had, has = known[:, pianoroll.FRAME] > 0, found[:, pianoroll.FRAME] > 0
    for where, colour in ((had & has, (200, 200, 200)), (had & ~has, _MISSED), (has & ~had, _EXTRA)):
        colours[where] = light[where][:, None] * colour
    return np.repeat(colours.transpose(1, 0, 2)[::-1], PITCH_PIXELS, 0).round().astype(np.uint8)


def _first_song(run: Run, state: Any) -> tuple[Song, Song]:
    """A run's first song, from its file and as a state knows it."""
    from nemui_jax.sampling.decode import latent_track
    from nemui_jax.sampling.play import play_back

    track = latent_track(run.entries[0], run.song(0), state.latents[: run.row_starts[1]])
    return track.source, play_back(state.params, track, run.config)


@contextlib.contextmanager
def _profiler(folder: Path | None) -> Iterator[None]:
    """Has JAX's profiler record into a folder, if there is one."""
    if folder is None:
        yield
        return
    import jax

    folder.mkdir(parents=True, exist_ok=True)
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        yield


def _how_to_see(folder: Path) -> str:
    newest = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    return f"open {newest} on https://ui.perfetto.dev, or: pip install xprof; xprof --logdir {folder}"
