"""A folder of MIDI files to a corpus: songs, what is known of each, and their rolls packed for the device.

Every file is accounted for in the load report. Parsed songs are kept in the user's cache by file content, so that a
folder is parsed once; rolls are made from them in milliseconds and depend on the configuration. No JAX here.
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
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.clock import OFF_BEAT_STEPS, Clock, choose_clock, clock_of, off_beat_steps
from nemui_jax.music.key import estimate_key, shift_to_common
from nemui_jax.music.song import MAX_SECONDS, Song, TempoMap

LARGE_SECONDS = 3 * 3600.0  # a library from which rows are twice as long and rates lower


@dataclass(frozen=True)
class SongEntry:
    """A song's row of the manifest."""

    name: str
    path: str  # the file it came from
    sha256: str  # of the file's bytes
    seconds: float
    steps: int
    notes: int
    key: str
    shift: int  # semitones from the source to the common key
    program: int
    clock: str  # what counts the beats of its grid: "file" or "steady"; see `music.clock`
    beats_per_quarter: float  # of its file's tempo map
    merged: int = 0  # notes that share a grid cell with a louder one


@dataclass(frozen=True)
class FileReport:
    """What became of one file: a song (`entry`), or the `reason` why not; `remarks` on what was mended."""

    path: Path
    entry: SongEntry | None = None
    reason: str = ""
    remarks: tuple[str, ...] = ()


class Rolls(NamedTuple):
    """Every song's roll one after another, as the device keeps it. A song's steps are padded to whole blocks.

    Cells are bits (`rolls.pack`). The velocity and timing of onsets are lists sorted by step; `note_start[s]` is the
    first note at or after step `s`, and a block's worth of padding ends each list.
    """

    bits: UInt8[Any, "step 2 byte"]
    pedal: UInt8[Any, " step"]  # share of the step, of 255
    note_start: Int32[Any, " step_and_one"]
    note_step: Int32[Any, " note"]
    note_column: UInt8[Any, " note"]
    note_velocity: UInt8[Any, " note"]
    note_timing: Float32[Any, " note"]


@dataclass(frozen=True)
class Corpus:
    """Songs and their rows of the manifest, in the same order."""

    entries: tuple[SongEntry, ...]
    songs: tuple[Song, ...]

    @property
    def lengths(self) -> list[int]:
        """Steps of each song."""
        return [entry.steps for entry in self.entries]

    def fingerprint(self) -> str:
        """A hash of the songs' contents in their order: equal for equal data, wherever the files lie."""
        return hashlib.sha256("\n".join(entry.sha256 for entry in self.entries).encode()).hexdigest()[:16]


def load(
    folder: Path,
    config: RollConfig,
    max_seconds: float = MAX_SECONDS,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Corpus, list[FileReport]]:
    """All songs of a folder, read recursively in sorted order, and a report on every file.

    `progress(done, of)` is called as files come in. Files of equal content are one song. The corpus can be empty.
    """
    paths, problems = midi_reader.find(folder)
    reports = [FileReport(path, reason=reason) for path, reason in problems]
    entries: dict[str, SongEntry] = {}
    songs: list[Song] = []
    for path, parsed in zip(paths, cache.parse_all(paths, max_seconds, progress), strict=True):
        if isinstance(parsed, str):
            reports.append(FileReport(path, reason=parsed))
        elif parsed.sha256 in entries:
            reports.append(FileReport(path, reason=f"same content as {escape(entries[parsed.sha256].path)}"))
        else:
            entry, remarks = describe(parsed.song, path, parsed.sha256, config)
            entries[parsed.sha256] = entry
            songs.append(parsed.song)
            reports.append(FileReport(path, entry, remarks=remarks))
    return Corpus(tuple(entries.values()), tuple(songs)), sorted(reports, key=lambda report: os.fsencode(report.path))


def read_ahead(folder: Path, share: int, of: int, max_seconds: float = MAX_SECONDS) -> None:
    """Parses one of `of` equal shares of a folder into the cache; where hosts share that, each reads but its part."""
    paths, _ = midi_reader.find(folder)
    for _ in cache.parse_all(paths[share::of], max_seconds, lambda *_: None):
        pass


def load_file(path: Path, config: RollConfig, max_seconds: float = MAX_SECONDS) -> tuple[SongEntry, Song]:
    """One song; MidiError names the file and says what is wrong with it."""
    parsed = cache.parse_file((path, max_seconds))
    if isinstance(parsed, str):
        raise MidiError(f"{escape(path)}: {parsed}")
    return describe(parsed.song, path, parsed.sha256, config)[0], parsed.song


def from_songs(songs: Iterable[Song], config: RollConfig) -> Corpus:
    """Songs that are in memory; equal ones are one song. UsageError where one has no notes, MidiError as `encode`."""
    found: dict[str, tuple[SongEntry, Song]] = {}
    for number, song in enumerate(songs):
        if not len(song.notes):
            raise UsageError(f"song {number} ({escape(song.name)}): has no notes")
        sha256 = hashlib.sha256(midi_writer.encode(song)).hexdigest()
        entry, _ = describe(song, Path(), sha256, config)
        found.setdefault(
            sha256, (dataclasses.replace(entry, name=escape(song.name) or f"song {number}", path=""), song)
        )
    return Corpus(tuple(entry for entry, _ in found.values()), tuple(song for _, song in found.values()))


def describe(song: Song, path: Path, sha256: str, config: RollConfig) -> tuple[SongEntry, tuple[str, ...]]:
    """A song's row of the manifest, and remarks for the user on what was mended or left out."""
    key, clock = estimate_key(song.notes), choose_clock(song, config.grid)
    beats = clock_of(song, clock)
    merged = len(song.notes) - len(pianoroll.quantize(song.notes, beats))
    remarks = song.warnings
    if song.drums:
        remarks += (f"{song.drums} drum notes left out",)
    if merged:
        remarks += (f"{merged} notes share a cell of the grid with a louder one",)
    if clock.kind == "file" and off_beat_steps(song.notes, beats) > OFF_BEAT_STEPS:
        remarks += ("its notes do not follow its tempo, so its beats mean little",)
    entry = SongEntry(
        name=escape(path.stem),
        path=escape(path.absolute()),
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


def fit_pitches(config: Config, corpus: Corpus) -> Config:
    """The configuration with its grid as wide as these songs need; the original preset keeps all 128 pitches."""
    if not config.roll.common_key:
        return config
    pitches = [
        int(pick(song.notes["pitch"])) + entry.shift
        for entry, song in zip(corpus.entries, corpus.songs, strict=True)
        for pick in (np.min, np.max)
    ]
    return dataclasses.replace(config, roll=dataclasses.replace(config.roll, low=min(pitches), high=max(pitches)))


def fit_size(config: Config, corpus: Corpus) -> Config:
    """The configuration for this much music; the original preset keeps its own.

    One decoder serves all songs, and the more there are the more of each must stand in its rows; and a training of
    many more steps does better at lower rates: see benchmarks/README.
    """
    if config.preset != "default" or sum(entry.seconds for entry in corpus.entries) < LARGE_SECONDS:
        return config
    model = dataclasses.replace(config.model, latent_size=2 * config.model.latent_size)
    train = config.train
    rates = {"row_rate": 0.4 * train.row_rate, "weight_rate": 0.6 * train.weight_rate}
    train = dataclasses.replace(train, passes=1.4 * train.passes, **rates)
    return dataclasses.replace(config, model=model, train=train)


def entry_clock(song: Song, entry: SongEntry) -> TempoMap:
    """When the beats fall that the grid of a song counts."""
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
    grid = np.concatenate([grid, np.zeros(most_notes(note_start, block), grid.dtype)])
    return Rolls(
        bits=np.concatenate(bits),
        pedal=np.concatenate(pedal),
        note_start=note_start,
        note_step=grid["step"],
        note_column=(grid["pitch"] - low).astype(np.uint8),
        note_velocity=grid["velocity"],
        note_timing=grid["timing"],
    )


def most_notes(note_start: Int32[np.ndarray, " step_and_one"], block_steps: int) -> int:
    """The most notes that begin in one block."""
    return int(np.max(np.diff(note_start[::block_steps]), initial=1))
