"""What all connections of a studio share: its songs, their places, its guests, and the work that is done on them."""

import asyncio
import contextlib
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from nemui_jax.data import dataset
from nemui_jax.errors import Failed, StudioError
from nemui_jax.music.song import Song
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import Run, read_run
from nemui_jax.sampling.decode import latent_song
from nemui_jax.studio import guests, places
from nemui_jax.studio.guests import Guest
from nemui_jax.studio.piece import Player, Recipe, Source

MAX_NEAR = 16  # songs about the point that are made ready to be mixed
LONG = "nemui studio: long work"  # name of threads
Result = TypeVar("Result")


class Stopping(Exception):
    """Raised in long work when the server stops."""


class Trained(NamedTuple):
    """A run with what plays its songs."""

    run: Run
    sources: list[Source]
    fingerprint: str


def read_trained(path: Path, known: Mapping[str, Source] = MappingProxyType({})) -> Trained:
    """A run and its songs, from its newest whole checkpoint; of those `known`, by hash, no files are read.

    RunError or StudioError if there is no checkpoint.
    """
    run = read_run(path)
    step, _ = checkpoint.whole_step(run)
    if step is None:
        raise StudioError(f"{path}: has no checkpoint yet; train it first")
    params, table = checkpoint.restore_model(run, step)
    params, starts = jax.device_put(params), run.row_starts

    def source(index: int, entry: dataset.SongEntry) -> Source:
        rows = table[starts[index] : starts[index + 1]]
        if entry.sha256 in known:
            old = known[entry.sha256]
            return replace(old, params=params, config=run.config, song=replace(old.song, rows=rows))
        file = run.song(index)
        return Source(params, latent_song(entry, file, rows, run.config), run.config, file, entry.clock)

    sources = [source(index, entry) for index, entry in enumerate(run.entries)]
    return Trained(run, sources, run.fingerprint(step))


class Studio:
    """The state that all connections share. Songs are numbered as they came: the run's first, then others."""

    def __init__(self, path: Path):
        here = Path.cwd()
        self.path = path
        self.run_argument = shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
        self.run, sources, self.fingerprint = read_trained(path)
        self.player, self.entries = Player(sources), list(self.run.entries)
        grids = [source.song.grid for source in sources]
        self.map = places.make_map(grids)
        self.places = self.map.places.tolist()
        self.first = places.closest_pair(grids, self.map.places)  # the songs that the page starts with
        self.guests: list[Guest] = []
        self.stopping = threading.Event()
        self.sockets = 0
        self.teaching = asyncio.Lock()  # one song at a time
        self.tasks: set[asyncio.Task[None]] = set()
        self.rendering = asyncio.Lock()
        self.decoder = ThreadPoolExecutor(1, "decoder")  # for short jobs, one after another

    async def compute(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs a short job on the decoder's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.decoder, function, *arguments)

    @property
    def first_seconds(self) -> float:
        """The length that a piece starts with: its longest song's, up to five minutes."""
        longest = max(self.player.seconds(song) for song in self.first)
        return float(min(max(round(longest), 2), 300))

    def warm(self) -> None:
        """Compiles the decoder, and plays and mixes the first songs."""
        weights = tuple([1 / len(self.first)] * len(self.first))
        self.player.piece(Recipe(tuple(self.first), (weights,), self.first_seconds))

    def near(self, songs: Sequence[int]) -> list[int]:
        """The songs that stand nearest to these on the pad, to which the point may be dragged next."""
        points = np.array(self.places)
        away = np.linalg.norm(points - points[list(songs)].mean(0), axis=1) if len(songs) else np.zeros(0)
        return np.argsort(away, kind="stable")[:MAX_NEAR].tolist()

    def song_data(self, index: int) -> dict[str, Any]:
        """A song's data for the page."""
        in_run = self.player.in_run
        return {
            "index": index,
            "name": self.entries[index].name,
            "seconds": round(self.player.seconds(index), 2),
            "key": self.entries[index].key,
            "place": np.round(self.places[index], 4).tolist(),
            "in_run": in_run.index(index) if index in in_run else None,
        }

    def guest_data(self, guest: Guest) -> dict[str, Any]:
        """A guest's data for the page."""
        return guest.state | {"song": None if guest.index is None else self.song_data(guest.index)}

    @property
    def unkept(self) -> list[str]:
        """The names of guests that are gone when the studio stops."""
        return [guest.entry.name for guest in self.guests if not guest.kept and (guest.work or guest.index is not None)]

    def find(self, sha256: str) -> int | None:
        """The song that was read from this content."""
        return next((index for index, entry in enumerate(self.entries) if entry.sha256 == sha256), None)

    def welcome(self, entry: dataset.SongEntry, file: Song) -> Guest:
        """A new guest, which is fitted and then taught in the background."""
        guest = Guest(len(self.guests), entry, file)
        self.guests.append(guest)
        self._start(self._bring(guest))
        return guest

    def keep(self, guest: Guest) -> None:
        """Adds a guest to the run in the background."""
        guest.work, guest.done, guest.wrong = "waiting", 0.0, ""
        self._start(self._keep(guest))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _bring(self, guest: Guest) -> None:
        fitted = await self._work(guest, "fitting", self._fit)
        if fitted is None:
            return
        guest.index = self._add(guest.entry, fitted)
        guest.work = "waiting"  # the lock is fair: others that wait to be fitted come first
        taught = await self._work(guest, "teaching", lambda guest, progress: self._teach(guest, fitted, progress))
        if taught is not None:
            self.player.sources[guest.index] = taught

    async def _keep(self, guest: Guest) -> None:
        trained = await self._work(guest, "keeping", self._keep_and_read)
        if trained is not None:
            self._renew(trained)
            guest.kept = True

    def _fit(self, guest: Guest, progress: guests.Progress) -> Source:
        fitted = guests.fit(guest, self.player.sources[self.player.in_run[0]], progress)
        guest.note_f1 = guests.note_f1(fitted)
        return fitted

    def _teach(self, guest: Guest, fitted: Source, progress: guests.Progress) -> Source | None:
        taught = guests.teach(guest, fitted, progress)
        note_f1 = guests.note_f1(taught)
        if note_f1 <= guest.note_f1:
            return None
        guest.note_f1 = note_f1
        return taught

    def _keep_and_read(self, guest: Guest, progress: guests.Progress) -> Trained:
        guests.keep(guest, self.path, progress)
        known = {entry.sha256: source for entry, source in zip(self.entries, self.player.sources, strict=False)}
        return read_trained(self.path, known)

    async def _work(
        self, guest: Guest, name: str, function: Callable[[Guest, guests.Progress], Result]
    ) -> Result | None:
        """Works on a guest in a thread when its turn comes; None where that fails, and the guest says why."""

        def progress(done: int, total: int) -> None:
            if self.stopping.is_set():
                raise Stopping
            guest.done = round(done / total, 3)

        async with self.teaching:
            guest.work, guest.done = name, 0.0
            try:
                return await in_thread(function, guest, progress)
            except (ValueError, OSError, Failed) as error:
                guest.wrong = str(error)
                return None
            except Stopping:
                return None
            finally:
                guest.work = ""

    def _add(self, entry: dataset.SongEntry, source: Source) -> int:
        """Adds a song to those that can be played."""
        self.places.append(self.map.place(source.song.grid, np.array(self.places)).tolist())
        self.entries.append(entry)
        self.player.sources.append(source)
        return len(self.entries) - 1

    def _renew(self, trained: Trained) -> None:
        """Plays a run that has grown as it is now. Songs keep their numbers."""
        self.run, self.fingerprint = trained.run, trained.fingerprint
        in_run = []
        for entry, source in zip(trained.run.entries, trained.sources, strict=True):
            index = self.find(entry.sha256)
            in_run.append(self._add(entry, source) if index is None else index)
            self.player.sources[in_run[-1]] = source
        self.player.in_run = in_run


def in_thread(function: Callable[..., Result], *arguments: Any) -> "asyncio.Future[Result]":
    """Runs long work on a daemon thread, which does not keep the program alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True, name=LONG).start()
    return future
