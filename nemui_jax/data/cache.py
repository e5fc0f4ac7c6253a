"""Parsed songs kept on disk by file content, and many files read at once by several processes."""

import contextlib
import hashlib
import io
import json
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nemui_jax.errors import MidiError
from nemui_jax.files import write_bytes
from nemui_jax.music import midi_reader
from nemui_jax.music.song import Song, from_arrays, to_arrays

READER = 2  # raised when `midi.parse` answers differently, so that what an older reader cached is not used
POOL_BYTES = 2 * 2**20  # from here on starting processes costs less than it saves


def save_song(path: Path, song: Song, sha256: str) -> None:
    """Writes a song's events as an .npz file, which appears whole or not at all."""
    about, arrays = to_arrays(song)
    meta = about | {"sha256": sha256, "reader": READER}
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    write_bytes(path, buffer.getvalue())


def load_song(path: Path, sha256: str) -> Song:
    """A song that `save_song` wrote. ValueError if the file is damaged or holds something else."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        meta: dict[str, Any] = json.loads(arrays.pop("meta").tobytes())
        if (meta["sha256"], meta["reader"]) != (sha256, READER):
            raise ValueError("holds another song")
        return from_arrays(meta, arrays)
    except (KeyError, TypeError, ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from error


def cache_folder() -> Path:
    """Where parsed songs and compiled programs are kept: $NEMUI_CACHE, or nemui_jax in the user's cache folder."""
    return Path(
        os.environ.get("NEMUI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nemui_jax"
    )


class Parsed(NamedTuple):
    song: Song
    sha256: str


def parse_file(job: tuple[Path, float]) -> Parsed | str:
    """A file's song and hash, or why there is none. Never raises for what a file holds."""
    path, max_seconds = job
    try:
        data = midi_reader.read_bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        cached = cache_folder() / "songs" / sha256[:2] / f"{sha256}.npz"
        try:
            song = load_song(cached, sha256)
            if song.seconds > max_seconds:
                raise ValueError("longer than the bound")
        except ValueError:
            song = midi_reader.parse(data, max_seconds)
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
                save_song(cached, song, sha256)
    except MidiError as error:
        return str(error)
    return Parsed(song, sha256)


def parse_all(
    paths: Sequence[Path], max_seconds: float, progress: Callable[[int, int], None]
) -> Iterable[Parsed | str]:
    """`_parse` of every path, in order, in several processes where there is enough to read."""
    jobs = [(path, max_seconds) for path in paths]
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    if workers < 2 or sum(path.stat().st_size for path in paths) < POOL_BYTES:
        yield from _counted(map(parse_file, jobs), len(jobs), progress)
        return
    others = set(active_children())
    with ProcessPoolExecutor(workers, get_context("spawn"), _leave_with_parent) as pool:
        try:
            with _interrupts_held():
                parsed = pool.map(parse_file, jobs, chunksize=max(len(jobs) // (workers * 16), 1))
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
    results: Iterable[Parsed | str], count: int, progress: Callable[[int, int], None]
) -> Iterable[Parsed | str]:
    for done, result in enumerate(results, 1):
        progress(done, count)
        yield result
