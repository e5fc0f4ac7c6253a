"""Callbacks that show a training: a progress bar, figures and a piano roll in TensorBoard, a profile of its steps.

Each is a context in which the callback can be used. tensorboardX is imported when it is needed.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nemui_jax import shell
from nemui_jax.cli import console
from nemui_jax.data import pianoroll
from nemui_jax.errors import UsageError
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import Song, TempoMap
from nemui_jax.trainer import Event

IMAGE_SECONDS = 60.0  # of the first song, in pictures
PIXEL_SECONDS = 0.05
PITCH_PIXELS = 6
LINE_SECONDS = 5.0  # between lines, where there is no terminal
_PANEL, _MISSED, _EXTRA = (19, 23, 29), (245, 166, 35), (86, 180, 233)  # as in `plots`
Callback = Callable[[Event], None]


def callbacks(args: argparse.Namespace) -> Iterator[AbstractContextManager[Callback]]:
    """The callbacks that the arguments of `train` ask for."""
    yield progress()
    if args.tensorboard is not None:
        yield tensorboard(None if args.tensorboard is True else args.tensorboard)
    if args.profile is not None:
        yield profile(None if args.profile is True else args.profile)


@contextlib.contextmanager
def progress() -> Iterator[Callback]:
    """Step, rate, note F1 so far, time left and what is saved: beside a bar on a terminal, else a line now and then."""
    steps, seconds, f1, saved, printed_at = 0, 0.0, "-", "", 0.0
    with console.progress_bar("training") as show:

        def callback(event: Event) -> None:
            nonlocal steps, seconds, f1, saved, printed_at
            steps, seconds = steps + len(event.losses), seconds + event.chunk_seconds
            f1 = f1 if event.note_f1 is None else f"{event.note_f1:.3f}"
            saved = saved if event.saved is None else f"  saved at {event.saved:,}"
            rate = music_steps(event, steps) / seconds
            text = f"{event.step:,}/{event.total:,}  {rate:,.0f} steps of music/s  note F1 {f1}"
            show(event.step, event.total, text + saved)
            if console.is_terminal():
                return
            if event.seconds - printed_at > LINE_SECONDS or event.scores is not None:
                printed_at = event.seconds
                left = seconds / steps * (event.total - event.step)
                print(f"step {text}  {console.duration(left)} left", flush=True)
            if event.saved is not None:  # it lasts from here on, whatever happens to this process
                print(f"checkpoint saved at step {event.saved}", flush=True)

        show(0, None, "preparing")
        yield callback


@contextlib.contextmanager
def tensorboard(folder: Path | None = None) -> Iterator[Callback]:
    """Figures of each chunk, and where scores were measured a piano roll, in a folder, by default in the run."""
    writer_class, writer = import_tensorboard().SummaryWriter, None

    def callback(event: Event) -> None:
        nonlocal writer
        if writer is None:
            start, where = event.step - len(event.losses), folder or event.run.path / "tensorboard"
            purge = start + 1 if start else None  # what a training that was cut off at `start` wrote after it
            writer = writer_class(str(where), purge_step=purge, filename_suffix=f".{start}")
            view = "pip install tensorboard; tensorboard --logdir"
            print(f"figures are written to {where}; to see them: {view} {where}")
        for name, value in scalars(event).items():
            writer.add_scalar(name, value, event.step)
        if event.scores is not None:
            picture = image(*_first_song(event), IMAGE_SECONDS)
            writer.add_image("first_song_played_back", picture, event.step, dataformats="HWC")
        writer.flush()

    try:
        yield callback
    finally:
        if writer is not None:
            writer.close()


@contextlib.contextmanager
def profile(folder: Path | None = None) -> Iterator[Callback]:
    """JAX's profiler records the second chunk of steps (the first compiles) to a folder, by default in the run."""
    chunks = 0
    with contextlib.ExitStack() as recording:

        def callback(event: Event) -> None:
            nonlocal chunks
            chunks += 1
            where = folder or event.run.path / "profile"
            if chunks == 1 and event.step < event.total:
                import jax

                where.mkdir(parents=True, exist_ok=True)
                recording.enter_context(jax.profiler.trace(str(where), create_perfetto_trace=True))
            elif chunks == 2:
                recording.close()
                print(f"a profile of one chunk of steps is in {where}; to see it: {_how_to_see(where)}")

        yield callback
    if chunks < 2:
        print("too few steps for a profile: the first chunk, which compiles, was the only one")


def import_tensorboard() -> Any:
    """tensorboardX, with what it needs for pictures."""
    try:
        import PIL  # noqa: F401
        import tensorboardX
    except ImportError as error:
        install = shell.install("tensorboard")
        raise UsageError(f"--tensorboard needs an optional package ({error}): {install}") from error
    return tensorboardX


def music_steps(event: Event, steps: int) -> int:
    """Steps of music in so many steps of training."""
    settings = event.run.config
    return steps * settings.train.batch_windows * settings.train.window_blocks * settings.model.block_steps


def scalars(event: Event) -> dict[str, float]:
    """What TensorBoard shows of a chunk."""
    import jax.numpy as jnp

    from nemui_jax.training.optimizer import learning_rate_share

    settings, last = event.run.config.train, jnp.int32(event.step - 1)
    share = float(learning_rate_share(last, jnp.int32(event.total), settings))
    return {
        "loss": event.loss,
        **({} if event.note_f1 is None else {"note_f1": event.note_f1}),
        "music_steps_per_second": music_steps(event, len(event.losses)) / max(event.chunk_seconds, 1e-9),
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
    want, found = (pianoroll.to_roll(grid, steps, low, high) for grid in grids)
    velocity = np.maximum(want[:, pianoroll.VELOCITY], found[:, pianoroll.VELOCITY])  # 0 but at onsets
    light = 0.6 + 0.4 * velocity
    colours = np.full((*light.shape, 3), _PANEL, float)
    had, has = want[:, pianoroll.FRAME] > 0, found[:, pianoroll.FRAME] > 0
    for where, colour in ((had & has, (200, 200, 200)), (had & ~has, _MISSED), (has & ~had, _EXTRA)):
        colours[where] = light[where][:, None] * colour
    return np.repeat(colours.transpose(1, 0, 2)[::-1], PITCH_PIXELS, 0).round().astype(np.uint8)


def _first_song(event: Event) -> tuple[Song, Song]:
    """The run's first song, from its file and played back."""
    from nemui_jax.sampling.decode import latent_track
    from nemui_jax.sampling.play import play_back

    run, state = event.run, event.state
    track = latent_track(run.entries[0], run.song(0), state.latents[: run.row_starts[1]])
    return track.source, play_back(state.params, track, run.config)


def _how_to_see(folder: Path) -> str:
    newest = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    return f"open {newest} on https://ui.perfetto.dev, or: pip install xprof; xprof --logdir {folder}"
