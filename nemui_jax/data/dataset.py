"""A folder of MIDI files to a corpus: the songs, their entries in the manifest, and their music packed for the device.

Every file is accounted for in the load report. Parsed songs are cached by file content, so that a folder is parsed
once; rolls depend on the configuration and are made from the songs in milliseconds. This module does not import JAX.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemui_jax.config import Config
from nemui_jax.data import cache, cells, curves, layout
from nemui_jax.data.cells import Rolls
from nemui_jax.data.grid import GridSong, grid_song
from nemui_jax.errors import MidiError, UsageError
from nemui_jax.files import escape
from nemui_jax.music import midi_files, midi_writer
from nemui_jax.music.clock import STEPS_PER_BEAT, Clock, choose_clock, follows, with_beats
from nemui_jax.music.instruments import instrument
from nemui_jax.music.key import estimate_key, shift_to_common
from nemui_jax.music.song import DRUM_CHANNEL, MAX_SECONDS, Song, one_instrument

LARGE_ROWS = 9000  # about three hours of piano, from which rows are twice as long and learning rates lower
LARGE_PASSES, LARGE_REPEAT_NOTES = 50.0, 4  # for such a library, of `TrainConfig`
ACCELERATOR_UPDATES = 4000  # least number of updates, in all passes, that larger batches on a GPU or TPU leave
ACCELERATOR_BATCH = 8  # the largest batch there, to that of a CPU


@dataclass(frozen=True)
class PartEntry:
    """A part of a song in the manifest."""

    name: str
    program: int
    channel: int
    notes: int

    @property
    def is_drums(self) -> bool:
        """Whether it is on the drum channel."""
        return self.channel == DRUM_CHANNEL

    @property
    def instrument(self) -> str:
        """The name of its instrument."""
        return instrument(self.program, self.is_drums)


@dataclass(frozen=True)
class SongEntry:
    """A song's entry in the manifest."""

    name: str
    path: str  # of its file, absolute; empty for a song from memory
    sha256: str  # of the file's bytes
    seconds: float
    steps: int  # of its grid
    rows: int  # of its cells that are heard and differ
    notes: int
    key: str
    shift: int  # semitones from its key to the common key
    parts: tuple[PartEntry, ...]
    clock: str  # "file", "tracked" or "steady"; see `music.clock`
    beats_per_quarter: float  # beats of its clock for each quarter note, or for each tracked beat
    merged: int = 0  # notes that share a step and pitch with two louder ones of their part

    @property
    def possible_note_f1(self) -> float:
        """The note F1 of onsets that the grid allows: merged notes cannot be played back."""
        return 2 * (self.notes - self.merged) / (2 * self.notes - self.merged)

    @property
    def tempo(self) -> float | None:
        """Quarter notes a minute, on average; None on a steady clock, whose beats mean nothing."""
        if self.clock == "steady":
            return None
        return 60 * (self.steps - 1) / STEPS_PER_BEAT / self.beats_per_quarter / self.seconds

    @staticmethod
    def from_json(row: dict[str, Any]) -> "SongEntry":
        """The entry that `dataclasses.asdict` made this of."""
        return SongEntry(**{**row, "parts": tuple(PartEntry(**part) for part in row["parts"])})


@dataclass(frozen=True)
class FileReport:
    """The result of reading one file: an `entry` with `remarks` on what was repaired or left out, or a `reason`."""

    path: Path
    entry: SongEntry | None = None
    reason: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Songs and their entries in the manifest, in the same order."""

    entries: tuple[SongEntry, ...]
    songs: tuple[Song, ...]

    def fingerprint(self) -> str:
        """A hash of the songs' files in their order; it does not depend on their paths."""
        return hashlib.sha256("\n".join(entry.sha256 for entry in self.entries).encode()).hexdigest()[:16]


def load(
    folder: Path,
    config: Config,
    max_seconds: float = MAX_SECONDS,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Corpus, list[FileReport]]:
    """All songs of a folder, read recursively in sorted order, and a report on every file.

    `progress(done, total)` is called after each file. Files of equal content are one song. The corpus can be empty.
    """
    paths, problems = midi_files.find(folder)
    reports = [FileReport(path, reason=reason) for path, reason in problems]
    entries: dict[str, SongEntry] = {}
    songs: list[Song] = []
    for path, parsed in zip(paths, cache.parse_all(paths, max_seconds, progress), strict=True):
        if isinstance(parsed, str):
            reports.append(FileReport(path, reason=parsed))
        elif parsed.sha256 in entries:
            reports.append(FileReport(path, reason=f"same content as {escape(entries[parsed.sha256].path)}"))
        else:
            entry, remarks = make_entry(parsed.song, path, parsed.sha256, config)
            entries[parsed.sha256] = entry
            songs.append(parsed.song)
            reports.append(FileReport(path, entry, remarks=remarks))
    return Corpus(tuple(entries.values()), tuple(songs)), sorted(reports, key=lambda report: os.fsencode(report.path))


def read_ahead(folder: Path, share: int, of: int, max_seconds: float = MAX_SECONDS) -> None:
    """Parses share `share` of `of` equal shares of a folder into the cache, for hosts that have the cache in common."""
    paths, _ = midi_files.find(folder)
    for _ in cache.parse_all(paths[share::of], max_seconds, lambda *_: None):
        pass


def load_file(path: Path, config: Config, max_seconds: float = MAX_SECONDS) -> tuple[SongEntry, Song]:
    """The song of one file and its entry. MidiError names the file and the problem."""
    parsed = cache.parse_file((path, max_seconds))
    if isinstance(parsed, str):
        raise MidiError(f"{escape(path)}: {parsed}")
    return make_entry(parsed.song, path, parsed.sha256, config)[0], parsed.song


def from_songs(songs: Iterable[Song], config: Config) -> Corpus:
    """A corpus of songs in memory; equal songs are one.

    UsageError for a song without notes with pitches, MidiError for one that cannot be written as MIDI
    (`midi_writer.encode`).
    """
    found: dict[str, tuple[SongEntry, Song]] = {}
    for number, song in enumerate(songs):
        if not len(song.notes):
            raise UsageError(f"song {number} ({escape(song.name)}): has no notes with pitches")
        sha256 = hashlib.sha256(midi_writer.encode(song)).hexdigest()
        song = with_beats(song)
        entry, _ = make_entry(song, Path(), sha256, config)
        found.setdefault(
            sha256, (dataclasses.replace(entry, name=escape(song.name) or f"song {number}", path=""), song)
        )
    return Corpus(tuple(entry for entry, _ in found.values()), tuple(song for _, song in found.values()))


def make_entry(song: Song, path: Path, sha256: str, config: Config) -> tuple[SongEntry, tuple[str, ...]]:
    """A song's entry in the manifest, and remarks for the user on what was repaired or left out."""
    learned = learned_song(song, config)
    key, clock = estimate_key(song.notes), choose_clock(song, config.roll.grid)
    shift = shift_to_common(key) if config.roll.common_key else 0
    on_grid = grid_song(learned, clock, shift, with_doubled=config.roll.parts)
    notes = sum(len(part.notes) for part in learned.parts)
    merged = notes - sum(len(layer.notes) for layer in on_grid.layers)
    remarks = song.warnings
    if learned is not song and song.drums:
        remarks += (f"{song.drums} drum notes left out",)
    if merged:
        remarks += (f"{merged} notes left out, where two louder ones of the part have the same step and pitch",)
    remarks += _clock_remark(song, clock, config.roll.grid)
    entry = SongEntry(
        name=escape(path.stem),
        path=escape(os.path.abspath(path)),
        sha256=sha256,
        seconds=learned.seconds,
        steps=on_grid.steps,
        rows=int(cells.make_score(on_grid, config.model).max()) + 1,
        notes=notes,
        key=key,
        shift=shift,
        parts=tuple(
            PartEntry(escape(part.name), part.program, part.channel, len(part.notes))
            for part in learned.parts
            if len(part.notes)
        ),
        clock=clock.kind,
        beats_per_quarter=clock.beats_per_quarter,
        merged=merged,
    )
    return entry, remarks


def _clock_remark(song: Song, clock: Clock, grid: str) -> tuple[str, ...]:
    """Why a song's clock is not its file's tempo map, or that its notes do not follow that."""
    if clock.kind == "tracked":
        return ("its notes do not follow its tempo, so its beats were tracked from them",)
    if clock.kind == "file":
        on_steps = follows(song.notes, song.tempo_map.counted(clock.beats_per_quarter))
        return () if on_steps else ("its notes do not follow its tempo, so its grid does not follow the music's beats",)
    return ("no beats were found in it, so its grid is in seconds",) if grid == "auto" else ()


def spread(count: int, most: int) -> list[int]:
    """The indices of at most so many of `count` songs, spread evenly over them: all where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def learned_song(song: Song, config: Config) -> Song:
    """What is learned of a song: all parts of it, or without `roll.parts` one that merges all but drums."""
    return song if config.roll.parts else one_instrument(song, song.program)


def on_grid(song: Song, entry: SongEntry, config: Config) -> GridSong:
    """What is learned of a song, on the grid of its clock."""
    clock = Clock(entry.clock, entry.beats_per_quarter)
    return grid_song(learned_song(song, config), clock, entry.shift, entry.name, with_doubled=config.roll.parts)


def fit_heads(config: Config, corpus: Corpus) -> Config:
    """The configuration with a head for each controller that moves in these songs; the original preset has none."""
    more = missing_curves(config, *corpus.songs)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, heads=config.model.heads + more))


def missing_curves(config: Config, *songs: Song) -> tuple[str, ...]:
    """The controllers that move in these songs and have no head; none with the original preset, which learns none."""
    if not config.roll.parts:
        return ()
    used = {name for song in songs for part in song.parts for name in curves.moving(part)}
    return tuple(name for name in curves.CURVES if name in used - {*config.model.heads})


def fit_pitches(config: Config, corpus: Corpus) -> Config:
    """The configuration with the range of pitches that these songs need; the original preset keeps all 128."""
    if not config.roll.common_key:
        return config
    pitches = [
        int(limit(part.notes["pitch"])) + (0 if part.is_drums else entry.shift)
        for entry, song in zip(corpus.entries, corpus.songs, strict=True)
        for part in learned_song(song, config).parts
        if len(part.notes)
        for limit in (np.min, np.max)
    ]
    return dataclasses.replace(config, roll=dataclasses.replace(config.roll, low=min(pitches), high=max(pitches)))


def fit_size(config: Config, corpus: Corpus, platform: str = "cpu") -> Config:
    """The configuration for this amount of music on a platform as JAX names it; the original preset stays as it is.

    From LARGE_ROWS on rows are longer, because the one decoder holds less of each song, and learning rates are
    lower, because training takes many more updates; for the same reason fewer passes are enough, most of all where few
    notes begin: see benchmarks/README.
    On a GPU or TPU batches are doubled while ACCELERATOR_UPDATES updates or more are left, which is not measured.
    """
    if config.preset != "default":
        return config
    config = _fit_library(config, layout.count_rows(corpus.entries))
    if platform == "cpu":
        return config
    train, blocks = config.train, layout.count_blocks(corpus.entries, config.model)
    updates = train.passes * blocks / (train.batch_windows * train.window_blocks)
    doublings = int(np.log2(np.clip(updates / ACCELERATOR_UPDATES, 1, ACCELERATOR_BATCH)))
    larger = dataclasses.replace(train, batch_windows=train.batch_windows * 2**doublings)
    return dataclasses.replace(config, train=larger)


def _fit_library(config: Config, rows: int) -> Config:
    if rows < LARGE_ROWS:
        return config
    model = dataclasses.replace(config.model, latent_size=2 * config.model.latent_size)
    rates = {"row_rate": 0.8 * config.train.row_rate, "weight_rate": 0.6 * config.train.weight_rate}
    train = dataclasses.replace(config.train, passes=LARGE_PASSES, repeat_notes=LARGE_REPEAT_NOTES, **rates)
    return dataclasses.replace(config, model=model, train=train)


def pack(corpus: Corpus, config: Config) -> Rolls:
    """The music of the rows of all songs, packed."""
    bits, levels, notes, start = [], [], [], 0
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        packed = cells.pack_song(on_grid(song, entry, config), config)
        packed.notes["step"] += start
        start += len(packed.bits)
        for found, part in zip((bits, levels, notes), packed, strict=True):
            found.append(part)
    grid = np.concatenate(notes)
    note_start = np.searchsorted(grid["step"], np.arange(start + 1)).astype(np.int32)
    return Rolls(
        bits=np.concatenate(bits),
        curves=np.concatenate(levels),
        note_start=note_start,
        note_velocity=grid["velocity"],
        note_timing=grid["timing"],
    )
