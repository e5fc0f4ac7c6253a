"""Parsed songs cached on disk by the hash of their file, and many files parsed in several processes."""

import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nemui_jax.errors import MidiError
from nemui_jax.files import write_bytes
from nemui_jax.music import midi_files, midi_reader
from nemui_jax.music.clock import with_beats
from nemui_jax.music.song import ARRAYS, Song, from_arrays, to_arrays

READER = 7  # increased when parsing returns other songs or beats, so that those cached before are parsed again
DIGEST_BYTES = hashlib.sha256().digest_size
POOL_BYTES = 2**18  # of files, from which starting processes saves time where beats have to be tracked


def save_song(path: Path, song: Song, sha256: str, durable: bool = False) -> None:
    """Writes the song of a file with this hash, atomically. Raises OSError.

    The format: a line of JSON, the bytes of the arrays, and the SHA-256 of both.
    """
    about, arrays = to_arrays(song)
    counts = {name: len(array) for name, array in arrays.items()}
    head = {
        "reader": READER,
        "sha256": sha256,
        "dtypes": _dtypes({name: array.dtype for name, array in arrays.items()}),
        "counts": counts,
        "song": about,
    }
    content = json.dumps(head).encode() + b"\n" + b"".join(array.tobytes() for array in arrays.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content + hashlib.sha256(content).digest(), durable)


def load_song(path: Path, sha256: str, any_reader: bool = False) -> Song:
    """The song that `save_song` wrote. ValueError if the file cannot be read, is damaged or holds another song.

    And if another version wrote it, unless with `any_reader`: a run keeps the songs and beats that it was trained on.
    """
    try:
        data = path.read_bytes()
        content, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("does not match its checksum")
        line, _, events = content.partition(b"\n")
        head: dict[str, Any] = json.loads(line)
        if head["sha256"] != sha256 or (head["reader"] != READER and not any_reader):
            raise ValueError("holds another song, or was written by another version")
        if head["dtypes"] != _dtypes(ARRAYS):
            raise ValueError("holds arrays of other types")
        arrays, start = {}, 0
        for name, dtype in ARRAYS.items():
            end = start + head["counts"][name] * dtype.itemsize
            arrays[name], start = np.frombuffer(events[start:end], dtype).copy(), end
        return from_arrays(head["song"], arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _dtypes(dtypes: Mapping[str, np.dtype]) -> dict[str, str]:
    """NumPy types as text, by the names of the arrays."""
    return {name: str(dtype.descr) for name, dtype in dtypes.items()}


def cache_folder() -> Path:
    """The folder of parsed songs and compiled programs: $NEMUI_CACHE, or nemui_jax in the user's cache folder."""
    return Path(
        os.environ.get("NEMUI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nemui_jax"
    )


class Parsed(NamedTuple):
    """A song, and the hash of its file's bytes."""

    song: Song
    sha256: str


def parse_file(job: tuple[Path, float]) -> Parsed | str:
    """A file's song, its beats tracked if need be, and hash, or the reason why there is none.

    Raises nothing, whatever the file holds.
    """
    path, max_seconds = job
    try:
        data = midi_files.read_bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        cached = cache_folder() / "songs" / sha256[:2] / f"{sha256}.song"
        try:
            song = load_song(cached, sha256)
            if song.seconds > max_seconds:
                raise ValueError("longer than the limit")
        except ValueError:
            song = with_beats(midi_reader.parse(data, max_seconds))
            with contextlib.suppress(OSError):  # without a cache, parsing only takes longer
                save_song(cached, song, sha256)
    except MidiError as error:
        return str(error)
    return Parsed(song, sha256)


def parse_all(
    paths: Sequence[Path], max_seconds: float, progress: Callable[[int, int], None]
) -> Iterable[Parsed | str]:
    """`parse_file` of every path, in order, in several processes if there is enough to read.

    `progress(done, total)` is called after each file.
    """
    jobs = [(path, max_seconds) for path in paths]
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    if workers < 2 or sum(path.stat().st_size for path in paths) < POOL_BYTES:
        yield from _counted(map(parse_file, jobs), len(jobs), progress)
        return
    others = set(active_children())
    with ProcessPoolExecutor(workers, get_context("spawn"), _exit_with_parent) as pool:
        try:
            with _interrupts_blocked(), _main_hidden():
                parsed = pool.map(parse_file, jobs, chunksize=max(len(jobs) // (workers * 16), 1))
            yield from _counted(parsed, len(jobs), progress)
        except BaseException:
            for process in set(active_children()) - others:
                process.terminate()  # else leaving the pool would wait for their jobs
            raise


def _exit_with_parent() -> None:
    """Makes this process exit when its parent does, however that ends."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Delays SIGINT; processes started meanwhile never get it, though a terminal sends it to all."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Processes started meanwhile do not import the main module, as `spawn` has it: a script would run once more."""
    main = vars(sys.modules["__main__"])
    shown = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(shown)


def _counted(
    results: Iterable[Parsed | str], count: int, progress: Callable[[int, int], None]
) -> Iterable[Parsed | str]:
    for done, result in enumerate(results, 1):
        progress(done, count)
        yield result
