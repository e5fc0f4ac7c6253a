"""A folder of MIDI files to a corpus: the songs, their entries in the manifest, and their rolls packed for the device.

Every file is accounted for in the load report. Parsed songs are cached by file content, so that a folder is parsed
once; rolls depend on the configuration and are made from the songs in milliseconds. This module does not import JAX.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from nemui_jax.config import Config, RollConfig
from nemui_jax.data import cache, layout, pianoroll
from nemui_jax.errors import MidiError, UsageError
from nemui_jax.files import escape
from nemui_jax.music import midi_files, midi_writer
from nemui_jax.music.clock import (
    OFF_BEAT_STEPS,
    STEPS_PER_BEAT,
    Clock,
    choose_clock,
    clock_of,
    off_beat_steps,
    with_beats,
)
from nemui_jax.music.key import estimate_key, shift_to_common
from nemui_jax.music.song import MAX_SECONDS, Song, TempoMap

LARGE_SECONDS = 3 * 3600.0  # of music, from which rows are twice as long and learning rates lower


@dataclass(frozen=True)
class SongEntry:
    """A song's entry in the manifest."""

    name: str
    path: str  # of its file, absolute; empty for a song from memory
    sha256: str  # of the file's bytes
    seconds: float
    steps: int  # of its grid
    notes: int
    key: str
    shift: int  # semitones from its key to the common key
    program: int
    clock: str  # "file", "tracked" or "steady"; see `music.clock`
    beats_per_quarter: float  # beats of its clock for each quarter note, or for each tracked beat
    merged: int = 0  # notes that share a grid cell with a louder one

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


@dataclass(frozen=True)
class FileReport:
    """The result of reading one file: an `entry` with `remarks` on what was repaired or left out, or a `reason`."""

    path: Path
    entry: SongEntry | None = None
    reason: str = ""
    remarks: tuple[str, ...] = ()


class Rolls(NamedTuple):
    """The rolls of all songs, one after another, as they are on the device. Each song is padded to whole blocks.

    Onsets and frames are bits (`pianoroll.pack_bits`). The arrays over notes are sorted by step; `note_start[s]` is the
    first note at or after step `s`, and each ends with padding for the notes of one block.
    """

    bits: UInt8[Any, "step 2 byte"]
    pedal: UInt8[Any, " step"]  # share of the step with the pedal down, times 255
    note_start: Int32[Any, " step_and_one"]
    note_step: Int32[Any, " note"]
    note_column: UInt8[Any, " note"]
    note_velocity: UInt8[Any, " note"]
    note_timing: Float32[Any, " note"]  # steps from the step to the onset, -0.5 to 0.5


@dataclass(frozen=True)
class Corpus:
    """Songs and their entries in the manifest, in the same order."""

    entries: tuple[SongEntry, ...]
    songs: tuple[Song, ...]

    @property
    def lengths(self) -> list[int]:
        """Steps of each song."""
        return [entry.steps for entry in self.entries]

    def fingerprint(self) -> str:
        """A hash of the songs' files in their order; it does not depend on their paths."""
        return hashlib.sha256("\n".join(entry.sha256 for entry in self.entries).encode()).hexdigest()[:16]


def load(
    folder: Path,
    config: RollConfig,
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


def load_file(path: Path, config: RollConfig, max_seconds: float = MAX_SECONDS) -> tuple[SongEntry, Song]:
    """The song of one file and its entry. MidiError names the file and the problem."""
    parsed = cache.parse_file((path, max_seconds))
    if isinstance(parsed, str):
        raise MidiError(f"{escape(path)}: {parsed}")
    return make_entry(parsed.song, path, parsed.sha256, config)[0], parsed.song


def from_songs(songs: Iterable[Song], config: RollConfig) -> Corpus:
    """A corpus of songs in memory; equal songs are one.

    UsageError for a song without notes, MidiError for one that cannot be written as MIDI (`midi_writer.encode`).
    """
    found: dict[str, tuple[SongEntry, Song]] = {}
    for number, song in enumerate(songs):
        if not len(song.notes):
            raise UsageError(f"song {number} ({escape(song.name)}): has no notes")
        sha256 = hashlib.sha256(midi_writer.encode(song)).hexdigest()
        song = with_beats(song)
        entry, _ = make_entry(song, Path(), sha256, config)
        found.setdefault(
            sha256, (dataclasses.replace(entry, name=escape(song.name) or f"song {number}", path=""), song)
        )
    return Corpus(tuple(entry for entry, _ in found.values()), tuple(song for _, song in found.values()))


def make_entry(song: Song, path: Path, sha256: str, config: RollConfig) -> tuple[SongEntry, tuple[str, ...]]:
    """A song's entry in the manifest, and remarks for the user on what was repaired or left out."""
    key, clock = estimate_key(song.notes), choose_clock(song, config.grid)
    beats = clock_of(song, clock)
    merged = len(song.notes) - len(pianoroll.quantize(song.notes, beats))
    remarks = song.warnings
    if song.drums:
        remarks += (f"{song.drums} drum notes left out",)
    if merged:
        remarks += (f"{merged} notes left out, where a louder one has the same step and pitch",)
    remarks += _clock_remark(song, clock, config.grid)
    entry = SongEntry(
        name=escape(path.stem),
        path=escape(os.path.abspath(path)),
        sha256=sha256,
        seconds=song.seconds,
        steps=pianoroll.count_steps(song.seconds, beats),
        notes=len(song.notes),
        key=key,
        shift=shift_to_common(key) if config.common_key else 0,
        program=song.program,
        clock=clock.kind,
        beats_per_quarter=clock.beats_per_quarter,
        merged=merged,
    )
    return entry, remarks


def _clock_remark(song: Song, clock: Clock, grid: str) -> tuple[str, ...]:
    """Why a song's clock is not its file's tempo map, or that its notes do not follow that."""
    if clock.kind == "tracked":
        return ("its notes do not follow its tempo, so its beats were tracked from them",)
    follows = off_beat_steps(song.notes, song.tempo_map.counted(clock.beats_per_quarter)) <= OFF_BEAT_STEPS
    if clock.kind == "file":
        return () if follows else ("its notes do not follow its tempo, so its grid does not follow the music's beats",)
    reason = "its tempo changes too much for one grid" if follows else "no beats were found in it"
    return (f"{reason}, so its grid is in seconds",) if grid == "auto" else ()


def fit_pitches(config: Config, corpus: Corpus) -> Config:
    """The configuration with the range of pitches that these songs need; the original preset keeps all 128."""
    if not config.roll.common_key:
        return config
    pitches = [
        int(limit(song.notes["pitch"])) + entry.shift
        for entry, song in zip(corpus.entries, corpus.songs, strict=True)
        for limit in (np.min, np.max)
    ]
    return dataclasses.replace(config, roll=dataclasses.replace(config.roll, low=min(pitches), high=max(pitches)))


def fit_size(config: Config, corpus: Corpus) -> Config:
    """The configuration for this amount of music; the original preset stays as it is.

    From LARGE_SECONDS on rows are longer, because the one decoder holds less of each song, and learning rates are
    lower, because training takes many more updates: see benchmarks/README.
    """
    if config.preset != "default" or sum(entry.seconds for entry in corpus.entries) < LARGE_SECONDS:
        return config
    model = dataclasses.replace(config.model, latent_size=2 * config.model.latent_size)
    train = config.train
    rates = {"row_rate": 0.4 * train.row_rate, "weight_rate": 0.6 * train.weight_rate}
    train = dataclasses.replace(train, passes=1.4 * train.passes, **rates)
    return dataclasses.replace(config, model=model, train=train)


def entry_clock(song: Song, entry: SongEntry) -> TempoMap:
    """The times of the beats that the grid of a song divides."""
    return clock_of(song, Clock(entry.clock, entry.beats_per_quarter))


def grid_of(song: Song, entry: SongEntry) -> np.ndarray:
    """A song's GRID notes in the common key."""
    return pianoroll.quantize(song.notes, entry_clock(song, entry), entry.shift)


def pack(corpus: Corpus, config: Config) -> Rolls:
    """The rolls of all songs, packed."""
    low, high, block = config.roll.low, config.roll.high, config.model.block_steps
    bits, pedal, notes, start = [], [], [], 0
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        steps = layout.count_blocks(entry.steps, config.model) * block
        grid = grid_of(song, entry)
        bits.append(pianoroll.pack_bits(grid, steps, low, high))
        share = pianoroll.quantize_pedal(song.pedal, steps, entry_clock(song, entry))
        pedal.append(np.round(share * 255).astype(np.uint8))
        grid["step"] += start
        notes.append(grid)
        start += steps
    grid = np.concatenate(notes)
    note_start = np.searchsorted(grid["step"], np.arange(start + 1)).astype(np.int32)
    grid = np.concatenate([grid, np.zeros(max_notes_per_block(note_start, block), grid.dtype)])
    return Rolls(
        bits=np.concatenate(bits),
        pedal=np.concatenate(pedal),
        note_start=note_start,
        note_step=grid["step"],
        note_column=(grid["pitch"] - low).astype(np.uint8),
        note_velocity=grid["velocity"],
        note_timing=grid["timing"],
    )


def max_notes_per_block(note_start: Int32[np.ndarray, " step_and_one"], block_steps: int) -> int:
    """The largest number of notes that begin in one block."""
    return int(np.max(np.diff(note_start[::block_steps]), initial=1))
