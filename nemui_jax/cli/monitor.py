"""Callbacks that show training: a progress bar, figures and a piano roll in TensorBoard, a profile of updates.

Each is a context manager that yields the callback. tensorboardX is imported only when it is needed.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from nemui_jax import shell
from nemui_jax.cli import console
from nemui_jax.data import pianoroll
from nemui_jax.errors import UsageError
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import DRUM_CHANNEL, Song, TempoMap, merge_notes
from nemui_jax.outputs.palette import DRUMS, FIRST, MATCHED, PANEL, SECOND, instrument_colours
from nemui_jax.runs.trainer import Event

IMAGE_SECONDS = 60.0  # of the first song, in the piano roll
PIXEL_SECONDS = 0.05
PITCH_PIXELS = 6
LINE_SECONDS = 5.0  # between lines of progress, without a terminal
_PIXELS = TempoMap.steady(PIXEL_SECONDS * STEPS_PER_BEAT)  # a clock whose steps are columns
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
    """Update, rate, newest note F1, time left and newest checkpoint, beside a progress bar or as lines."""
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
    """Figures of each event, and a piano roll when scores were measured, in a folder, by default in the run."""
    writer_class, writer = import_tensorboard().SummaryWriter, None

    def callback(event: Event) -> None:
        nonlocal writer
        if writer is None:
            start, where = event.step - len(event.losses), folder or event.run.path / "tensorboard"
            purge = (
                start + 1 if start else None
            )  # discards what was logged after `start` by training that was interrupted
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
    """A profile of the second chunk of updates (the first compiles) in a folder, by default in the run."""
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
                print(f"a profile of one chunk of updates is in {where}; to see it: {_how_to_see(where)}")

        yield callback
    if chunks < 2:
        print("too few updates for a profile: the first chunk, which compiles, was the only one")


def import_tensorboard() -> Any:
    """The module tensorboardX; UsageError if it or Pillow, which it needs for pictures, is missing."""
    try:
        import PIL  # noqa: F401
        import tensorboardX
    except ImportError as error:
        install = shell.install("tensorboard")
        raise UsageError(f"--tensorboard needs an optional package ({error}): {install}") from error
    return tensorboardX


def music_steps(event: Event, updates: int) -> int:
    """Steps of music in the batches of so many updates."""
    settings = event.run.config
    return updates * settings.train.batch_windows * settings.train.window_blocks * settings.model.block_steps


def scalars(event: Event) -> dict[str, float]:
    """The figures of an event, by the names that TensorBoard shows."""
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
    """A piano roll of the first seconds, with a row for each drum below it.

    Where both songs have a note it is grey, or, of several instruments, in its instrument's colour; orange if it is
    missed, blue if extra. A column is PIXEL_SECONDS. Onsets are brighter, by velocity. A single pixel if there are no
    notes.
    """
    both = [merge_notes(song.parts) for song in (source, recalled)]
    source_notes, recalled_notes = (notes[notes["onset"] < seconds] for notes in both)
    grid = pianoroll.quantize(np.concatenate([source_notes, recalled_notes]), _PIXELS)
    if not len(grid):
        return np.array([[_rgb(PANEL)]], np.uint8)
    steps = max(int(grid["step"].max()) + 1, min(int(grid["end"].max()), round(seconds / PIXEL_SECONDS)))
    colours = instrument_colours([source, recalled])
    if len(colours) < 2:
        colours = dict.fromkeys(colours, MATCHED)
    drums = [notes["channel"] == DRUM_CHANNEL for notes in (source_notes, recalled_notes)]
    pitched = _paint(source_notes[~drums[0]], recalled_notes[~drums[1]], colours, steps)
    hits = source_notes[drums[0]], recalled_notes[drums[1]]
    for notes in hits:
        notes["program"] = 0  # kits are one instrument
    used = np.unique(np.concatenate([notes["pitch"] for notes in hits]))
    lane = _paint(hits[0], hits[1], {0: DRUMS}, steps)[used - used.min(initial=127)]
    gap = np.full((1 if len(used) and len(pitched) else 0, steps, 3), _rgb(PANEL), float)
    rows = np.concatenate([lane, gap, pitched])
    return np.repeat(rows[::-1], PITCH_PIXELS, 0).round().astype(np.uint8)


def _paint(
    source: np.ndarray, recalled: np.ndarray, colours: Mapping[int, str], steps: int
) -> Float[np.ndarray, "pitch step 3"]:
    """SONG_NOTE notes of both sides, each program in its colour where both have it, from the lowest pitch used."""
    pitch = np.concatenate([source["pitch"], recalled["pitch"]]).astype(int)
    low, high = (int(pitch.min()), int(pitch.max())) if len(pitch) else (0, -1)
    picture = np.full((steps, high - low + 1, 3), _rgb(PANEL), float)
    missed, extra = np.zeros((2, *picture.shape[:2]))
    for program, colour in colours.items():
        wanted, found = (
            pianoroll.to_roll(pianoroll.quantize(notes[notes["program"] == program], _PIXELS), steps, low, high)
            for notes in (source, recalled)
        )
        light = 0.6 + 0.4 * np.maximum(wanted[:, pianoroll.VELOCITY], found[:, pianoroll.VELOCITY])
        wanted, found = wanted[:, pianoroll.FRAME] > 0, found[:, pianoroll.FRAME] > 0
        picture[wanted & found] = light[wanted & found][:, None] * _rgb(colour)
        missed, extra = np.maximum(missed, light * (wanted & ~found)), np.maximum(extra, light * (found & ~wanted))
    for light, colour in ((extra, FIRST), (missed, SECOND)):
        picture[light > 0] = light[light > 0][:, None] * _rgb(colour)
    return picture.transpose(1, 0, 2)


def _rgb(colour: str) -> Float[np.ndarray, "3"]:
    """A colour as "#rrggbb" in numbers from 0 to 255."""
    return np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)], float)


def _first_song(event: Event) -> tuple[Song, Song]:
    """The run's first song, from its file and played back."""
    from nemui_jax.sampling.decode import latent_song
    from nemui_jax.sampling.play import play_back

    run, state = event.run, event.state
    song = latent_song(run.entries[0], run.song(0), state.latents[: run.row_starts[1]], run.config)
    return song.grid.source, play_back(state.params, song, run.config)


def _how_to_see(folder: Path) -> str:
    newest = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    return f"open {newest} on https://ui.perfetto.dev, or: pip install xprof; xprof --logdir {folder}"
