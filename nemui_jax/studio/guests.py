"""Songs dropped on the page: fitted at once, taught in the background, and kept in the run where that is wished."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.evaluation import playback
from nemui_jax.music import midi_reader
from nemui_jax.music.clock import with_beats
from nemui_jax.music.song import Song
from nemui_jax.runs import adding
from nemui_jax.runs.loader import FIT_ENOUGH
from nemui_jax.sampling.decode import latent_song
from nemui_jax.studio.piece import MAX_SECONDS, Source
from nemui_jax.training import finetune

Progress = Callable[[int, int], None]


@dataclass
class Guest:
    """A song that was dropped on the page, and what is being done with it."""

    number: int
    entry: dataset.SongEntry
    file: Song
    index: int | None = None  # among the player's songs, once it can be played
    work: str = "waiting"  # or "fitting", "teaching", "keeping"; "" where nothing is done
    done: float = 0.0  # share of that work
    note_f1: float = 0.0  # how well it is played back
    kept: bool = False  # whether the run has it
    wrong: str = ""  # why the last work failed

    @property
    def state(self) -> dict:
        """What the page shows of it."""
        names = ("number", "index", "work", "done", "note_f1", "kept", "wrong")
        state = {name: getattr(self, name) for name in names}
        return state | {"name": self.entry.name, "learned": self.note_f1 >= FIT_ENOUGH}


def read(name: str, data: bytes, config: Config) -> tuple[dataset.SongEntry, Song]:
    """The song in a MIDI file's bytes, and its entry. MidiError where there is none."""
    song = with_beats(midi_reader.parse(data, MAX_SECONDS))
    # Only the path's name is used; nothing is read from it.
    entry, _ = dataset.make_entry(song, Path(f"{name}.mid"), hashlib.sha256(data).hexdigest(), config)
    return dataclasses.replace(entry, path=""), song


def fit(guest: Guest, base: Source, progress: Progress) -> Source:
    """A guest's rows, with the decoder as it is: they play it roughly."""
    rows = finetune.fit_song(base.params, guest.file, guest.entry, base.config, progress=progress)
    return Source(
        base.params, latent_song(guest.entry, guest.file, rows, base.config), base.config, guest.file, guest.entry.clock
    )


def teach(guest: Guest, fitted: Source, progress: Progress) -> Source:
    """A guest's rows from where they were fitted, with a decoder of its own that is trained together with them.

    That decoder plays no other song, so it need not remember any: half the work, and the run's songs stay as they are.
    """
    nothing = np.zeros((0, fitted.song.rows.shape[1]), np.float32)
    model = finetune.TrainedModel(fitted.params, nothing, fitted.config)
    taught, rows = finetune.add_song(model, guest.entry, guest.file, progress=progress, rows=fitted.song.rows)
    song = latent_song(guest.entry, guest.file, rows, taught.config)
    return Source(taught.params, song, taught.config, guest.file, guest.entry.clock)


def keep(guest: Guest, run: Path, progress: Progress) -> None:
    """Adds a guest to the run. UsageError or RunError where that cannot be done."""
    adding.add(run, dataset.Corpus((guest.entry,), (guest.file,)), progress=progress)


def note_f1(source: Source) -> float:
    """How well a song is played back, 0 to 1."""
    return round(playback.note_f1(source.params, source.song, source.file, source.config), 4)
