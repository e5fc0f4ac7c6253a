"""A folder of MIDI files to a corpus: songs, what is known of each, and their rolls packed for the device.

Every file is accounted for in the load report. Parsed songs are kept in the user's cache by file content, so that a
folder is parsed once; rolls are made from them in milliseconds and depend on the configuration. No JAX here.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from nemui_jax import latents, midi, rolls
from nemui_jax.config import Config, RollConfig
from nemui_jax.midi import METER, NOTE, PEDAL, TEMPO, MidiError, Song

READER = 1  # raised when `midi.parse` answers differently, so that what an older reader cached is not used
LARGE_SECONDS = 3 * 3600.0  # a library from which rows are twice as long and rates lower
OFF_THE_BEAT = 0.2  # steps; at random it is 0.25
POOL_BYTES = 2 * 2**20  # from here on starting processes costs less than it saves


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

    def fingerprint(self) -> str:
        """A hash of the songs' contents in their order: equal for equal data, wherever the files lie."""
        return hashlib.sha256("\n".join(entry.sha256 for entry in self.entries).encode()).hexdigest()[:16]


def load(
    folder: Path,
    config: RollConfig,
    max_seconds: float = midi.MAX_SECONDS,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Corpus, list[FileReport]]:
    """All songs of a folder, read recursively in sorted order, and a report on every file.

    `progress(done, of)` is called as files come in. Files of equal content are one song. The corpus can be empty.
    """
    paths, problems = midi.find(folder)
    reports = [FileReport(path, reason=reason) for path, reason in problems]
    entries: dict[str, SongEntry] = {}
    songs: list[Song] = []
    for path, parsed in zip(paths, _parse_all(paths, max_seconds, progress), strict=True):
        if isinstance(parsed, str):
            reports.append(FileReport(path, reason=parsed))
        elif parsed.sha256 in entries:
            reports.append(FileReport(path, reason=f"same content as {midi.escape(entries[parsed.sha256].path)}"))
        else:
            entry, remarks = describe(parsed.song, path, parsed.sha256, config)
            entries[parsed.sha256] = entry
            songs.append(parsed.song)
            reports.append(FileReport(path, entry, remarks=remarks))
    return Corpus(tuple(entries.values()), tuple(songs)), sorted(reports, key=lambda report: os.fsencode(report.path))


def read_ahead(folder: Path, share: int, of: int, max_seconds: float = midi.MAX_SECONDS) -> None:
    """Parses one of `of` equal shares of a folder into the cache; where hosts share that, each reads but its part."""
    paths, _ = midi.find(folder)
    for _ in _parse_all(paths[share::of], max_seconds, lambda *_: None):
        pass


def load_file(path: Path, config: RollConfig, max_seconds: float = midi.MAX_SECONDS) -> tuple[SongEntry, Song]:
    """One song; MidiError says what is wrong with the file."""
    parsed = _parse((path, max_seconds))
    if isinstance(parsed, str):
        raise MidiError(parsed)
    return describe(parsed.song, path, parsed.sha256, config)[0], parsed.song


def describe(song: Song, path: Path, sha256: str, config: RollConfig) -> tuple[SongEntry, tuple[str, ...]]:
    """A song's row of the manifest, and remarks for the user on what was mended or left out."""
    key, gridded = rolls.estimate_key(song.notes), rolls.on_grid(song, config)
    merged = len(song.notes) - len(rolls.quantise(gridded.notes, config.step_seconds))
    remarks = song.warnings
    if song.drums:
        remarks += (f"{song.drums} drum notes left out",)
    if merged:
        remarks += (f"{merged} notes share a cell of the grid with a louder one",)
    if config.grid == "beats" and rolls.off_the_beat(gridded.notes, config) > OFF_THE_BEAT:
        remarks += ("its notes do not follow its tempo, so its beats mean little",)
    entry = SongEntry(
        name=midi.escape(path.stem),
        path=midi.escape(path),
        sha256=sha256,
        seconds=song.seconds,
        steps=rolls.steps_of(gridded, config.step_seconds),
        notes=len(song.notes),
        key=key,
        shift=rolls.shift_to_common(key) if config.common_key else 0,
        program=song.program,
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


def grid_of(song: Song, entry: SongEntry, config: RollConfig) -> np.ndarray:
    """A song's GRID notes in the common key."""
    return rolls.quantise(rolls.on_grid(song, config).notes, config.step_seconds, entry.shift)


def pack(corpus: Corpus, config: Config) -> Rolls:
    """The rolls of all songs, packed."""
    low, high, block = config.roll.low, config.roll.high, config.model.block_steps
    bits, pedal, notes, start = [], [], [], 0
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        steps = latents.count_queries(entry.steps, config.model) * block
        grid = grid_of(song, entry, config.roll)
        bits.append(rolls.pack(grid, steps, low, high))
        share = rolls.quantise_pedal(rolls.on_grid(song, config.roll).pedal, steps, config.roll.step_seconds)
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


def row_starts(entries: Sequence[SongEntry], config: Config) -> list[int]:
    """The first row of each song in the latent table, and the number of rows."""
    return list(itertools.accumulate((latents.count_rows(entry.steps, config.model) for entry in entries), initial=0))


def count_rows(entries: Sequence[SongEntry], config: Config) -> int:
    """Rows in the tracks of all songs."""
    return row_starts(entries, config)[-1]


def count_queries(entries: Sequence[SongEntry], config: Config) -> int:
    """Blocks in all songs."""
    return sum(latents.count_queries(entry.steps, config.model) for entry in entries)


def queries(entries: Sequence[SongEntry], config: Config) -> latents.Queries:
    """The queries of all songs, with steps and rows counted through the whole corpus."""
    parts, step, row = [], 0, 0
    for entry in entries:
        part = latents.queries(entry.steps, config.model)
        parts.append(part._replace(step=part.step + step, row=part.row + row, next_row=part.next_row + row))
        step += len(part.step) * config.model.block_steps
        row += latents.count_rows(entry.steps, config.model)
    return latents.Queries(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def save_song(path: Path, song: Song, sha256: str) -> None:
    """Writes a song's events as an .npz file, which appears whole or not at all."""
    meta = {"name": song.name, "drums": song.drums, "warnings": song.warnings, "sha256": sha256, "reader": READER}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
            np.savez(file, meta=text, notes=song.notes, pedal=song.pedal, tempos=song.tempos, meters=song.meters)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_song(path: Path, sha256: str) -> Song:
    """A song that `save_song` wrote. ValueError if the file is damaged or holds something else."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            meta: dict[str, Any] = json.loads(stored["meta"].tobytes())
            columns = {"notes": NOTE, "pedal": PEDAL, "tempos": TEMPO, "meters": METER}
            arrays = {name: stored[name] for name in columns}
        if (meta["sha256"], meta["reader"]) != (sha256, READER):
            raise ValueError("holds another song")
        if any(arrays[name].dtype != kind or arrays[name].ndim != 1 for name, kind in columns.items()):
            raise ValueError("holds arrays of another kind")
        return Song(**arrays, name=meta["name"], drums=meta["drums"], warnings=tuple(meta["warnings"]))
    except (KeyError, TypeError, ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from error


def cache_folder() -> Path:
    """Where parsed songs and compiled programs are kept: $NEMUI_CACHE, or nemui_jax in the user's cache folder."""
    return Path(
        os.environ.get("NEMUI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nemui_jax"
    )


class _Parsed(NamedTuple):
    song: Song
    sha256: str


def _parse(job: tuple[Path, float]) -> _Parsed | str:
    """A file's song and hash, or why there is none. Never raises for what a file holds."""
    path, max_seconds = job
    try:
        data = midi.read_bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        cached = cache_folder() / "songs" / sha256[:2] / f"{sha256}.npz"
        try:
            song = load_song(cached, sha256)
            if song.seconds > max_seconds:
                raise ValueError("longer than the bound")
        except ValueError:
            song = midi.parse(data, max_seconds)
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
                save_song(cached, song, sha256)
    except MidiError as error:
        return str(error)
    return _Parsed(song, sha256)


def _parse_all(
    paths: Sequence[Path], max_seconds: float, progress: Callable[[int, int], None]
) -> Iterable[_Parsed | str]:
    """`_parse` of every path, in order, in several processes where there is enough to read."""
    jobs = [(path, max_seconds) for path in paths]
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    if workers < 2 or sum(path.stat().st_size for path in paths) < POOL_BYTES:
        yield from _counted(map(_parse, jobs), len(jobs), progress)
        return
    others = set(active_children())
    with ProcessPoolExecutor(workers, get_context("spawn"), _leave_with_parent) as pool:
        try:
            with _interrupts_held():
                parsed = pool.map(_parse, jobs, chunksize=max(len(jobs) // (workers * 16), 1))
            yield from _counted(parsed, len(jobs), progress)
        except BaseException:
            for process in set(active_children()) - others:
                process.terminate()  # else leaving would wait for what they are at
            raise


def _leave_with_parent() -> None:
    """Ends this process when the one that it works for has ended, in whatever way."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keeps SIGINT for later, and for good from processes started here: on a terminal it goes to all of them."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _counted(
    results: Iterable[_Parsed | str], count: int, progress: Callable[[int, int], None]
) -> Iterable[_Parsed | str]:
    for done, result in enumerate(results, 1):
        progress(done, count)
        yield result
