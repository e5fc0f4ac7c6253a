"""The studio's answers: the page, its songs, and music streamed over a WebSocket."""

import asyncio
import contextlib
import hashlib
import json
import math
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from nemui_jax.data import dataset
from nemui_jax.errors import SoundfontError
from nemui_jax.evaluation import playback
from nemui_jax.files import escape
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.clock import with_beats
from nemui_jax.music.song import Song
from nemui_jax.outputs import audio
from nemui_jax.sampling.decode import latent_song
from nemui_jax.studio.guard import MAX_BODY, Bucket, Guard
from nemui_jax.studio.messages import page_notes, page_parts
from nemui_jax.studio.piece import BLOCK_SECONDS, MAX_SECONDS, MAX_SONGS, Piece, Player, Recipe, read_recipe
from nemui_jax.training import finetune

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_SOCKETS = 16
MAX_ADDED = 32  # songs that can be added on the page
MESSAGE_BYTES = 2**17
MESSAGES_A_SECOND, MESSAGE_BURST = 120.0, 240.0
SEND_SECONDS = 10.0  # until a client that does not read is disconnected
LINGER_SECONDS = 0.06  # wait for a newer message after the first stretch of an answer
LONG = "nemui studio: long work"  # name of threads
FIRST_SONGS = 6  # songs that the page starts with, decoded before it is opened

Result = TypeVar("Result")


class Stopping(Exception):
    """Raised in long work when the server stops."""


class LatestMessage:
    """The newest message of a page; a new message replaces one that was not taken."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._waiting = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        self._message = message
        self._waiting.set()

    async def take(self) -> dict[str, Any]:
        await self._waiting.wait()
        self._waiting.clear()
        return self._message

    async def arrives(self, seconds: float) -> bool:
        """Whether a message is waiting, or arrives within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiting.wait()
        return self._waiting.is_set()


class Studio:
    """The state that all connections share."""

    def __init__(self, player: Player, title: str, run_argument: str, fingerprint: str, keys: list[str]):
        self.player, self.title = player, title
        self.run_argument, self.fingerprint = run_argument, fingerprint
        self.keys, self.learned = keys, len(player.songs)
        self.stopping = threading.Event()
        self.sockets = 0
        self.fitting = asyncio.Lock()  # one song at a time
        self.rendering = asyncio.Lock()
        self.decoder = ThreadPoolExecutor(1, "decoder")  # for short jobs, one after another

    async def compute(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs a short job on the decoder's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.decoder, function, *arguments)

    def warm(self) -> None:
        """Compiles the decoder, and plays and mixes the first songs."""
        count = min(FIRST_SONGS, self.learned, MAX_SONGS)
        weights = tuple([1 / count] * count)
        songs = tuple(first_songs(self.player)[:count])
        self.player.piece(Recipe(songs, (weights,), first_seconds(self.player)))

    def song_data(self, index: int) -> dict[str, Any]:
        """A song's data for the page."""
        song = self.player.songs[index]
        return {
            "index": index,
            "name": song.name,
            "seconds": round(self.player.seconds(index), 2),
            "blocks": math.ceil(self.player.seconds(index) / BLOCK_SECONDS),
            "key": self.keys[index],
            "shift": song.grid.shift,
            "added": index >= self.learned,
        }


def first_songs(player: Player) -> list[int]:
    """The indices of the songs that the page starts with, evenly chosen."""
    count = min(FIRST_SONGS, len(player.songs))
    return np.unique(np.linspace(0, len(player.songs) - 1, count).round().astype(int)).tolist()


def first_seconds(player: Player) -> float:
    """The length that a piece starts with: its longest song's, up to five minutes."""
    longest = max(player.seconds(song) for song in first_songs(player))
    return float(min(max(round(longest), 2), 300))


# Answers


async def songs(request: Request) -> Response:
    """The data that the page needs to start."""
    studio: Studio = request.app.state.studio
    return JSONResponse(
        {
            "title": studio.title,
            "run": studio.run_argument,
            "block": BLOCK_SECONDS,
            "low": studio.player.config.roll.low,
            "high": studio.player.config.roll.high,
            "first": first_songs(studio.player),
            "seconds": first_seconds(studio.player),
            "limits": {"songs": MAX_SONGS, "seconds": MAX_SECONDS, "bytes": MAX_BODY},
            "wav": True,
            "songs": [studio.song_data(index) for index in range(len(studio.player.songs))],
        }
    )


async def song_notes(request: Request) -> Response:
    """The notes of a song played back, in the common key, for the piano roll."""
    studio: Studio = request.app.state.studio
    index = request.path_params["index"]  # checked as text, because int() raises for thousands of digits
    if not index.isdecimal() or len(index) > 9 or int(index) >= len(studio.player.songs):
        return Response("no such song", 404)
    song = await studio.compute(studio.player.recall, int(index))
    return Response(_dumps({"notes": _flat_notes(song.notes)}), media_type="application/json")


async def play(socket: WebSocket) -> None:
    """Sends the music that the page's newest message asks for; work on older messages is abandoned."""
    studio: Studio = socket.app.state.studio
    if studio.sockets >= MAX_SOCKETS:
        return await socket.close(1013)
    studio.sockets += 1
    latest = LatestMessage()
    try:
        await socket.accept()
        answering = asyncio.create_task(_answer(socket, studio, latest))
        listening = asyncio.create_task(_listen(socket, latest))
        done, left = await asyncio.wait([answering, listening], return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for error in [task.exception() for task in done]:  # asked of all, or asyncio would warn about the others
            if error:
                raise error
    except (WebSocketDisconnect, TimeoutError, RuntimeError, KeyError):  # KeyError: a message that is not text
        pass
    finally:
        studio.sockets -= 1
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()


async def _listen(socket: WebSocket, latest: LatestMessage) -> None:
    bucket = Bucket(MESSAGES_A_SECOND, MESSAGE_BURST)
    while True:
        text = await socket.receive_text()
        if not bucket.take():
            await asyncio.sleep(1 / MESSAGES_A_SECOND)
        try:
            message = _loads(text)
        except ValueError:
            message = None
        latest.put(message if isinstance(message, dict) else {})


async def _answer(socket: WebSocket, studio: Studio, latest: LatestMessage) -> None:
    async def send(**message: Any) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await socket.send_text(_dumps(message))

    while True:
        message = await latest.take()
        number = message.get("ask") if isinstance(message.get("ask"), int) else None
        try:
            recipe = read_recipe(message.get("recipe"), len(studio.player.songs))
            first = message.get("from") if isinstance(message.get("from"), int) else 0
            piece = await studio.compute(studio.player.piece, recipe)
        except ValueError as error:
            await send(kind="wrong", ask=number, reason=str(error))
            continue
        await send(kind="head", ask=number, parts=page_parts(piece.song))
        if recipe.random:
            await send(kind="drawn", ask=number, **_drawn(piece))
        for index, (start, stop) in enumerate(studio.player.order(piece.blocks, first or 0)):
            # While the pointer is dragged messages come in quick succession, and only first stretches are sent.
            if index and await latest.arrives(LINGER_SECONDS if index == 1 else 0.0):
                break
            await send(
                kind="stretch",
                ask=number,
                **{"from": start, "to": stop, "blocks": piece.blocks},
                shift=[piece.shift],
                **page_notes(piece.song, start * BLOCK_SECONDS, stop * BLOCK_SECONDS),
            )
        else:
            await send(kind="done", ask=number)


def _drawn(piece: Piece) -> dict[str, Any]:
    """The songs of a new piece, and their weights."""
    return {"songs": list(piece.songs), "weights": np.round(piece.weights.T, 4).tolist()}


def _flat_notes(notes: np.ndarray) -> list[int]:
    """Onset and end in milliseconds, pitch and velocity, of note after note."""
    times = [np.round(notes[name] * 1000) for name in ("onset", "end")]
    return np.stack([*times, notes["pitch"], notes["velocity"]], 1).astype(int).ravel().tolist()


def _loads(text: str | bytes) -> Any:
    """JSON data; ValueError if the text is not JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("not a recipe: nested too deep") from error


def _dumps(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


async def download(request: Request) -> Response:
    """A piece as a .mid or .wav file."""
    studio: Studio = request.app.state.studio
    try:
        recipe = read_recipe(_loads(await request.body()), len(studio.player.songs))
    except ValueError as error:
        return Response(str(error), 400)
    song = (await studio.compute(studio.player.piece, recipe)).song
    if request.url.path.endswith(".wav"):
        if studio.rendering.locked():
            return Response("another piece is being rendered; try again when it is done", 429)
        async with studio.rendering:
            try:
                return Response(await in_thread(_wav, song), media_type="audio/wav")
            except SoundfontError as error:
                return Response(str(error), 500)
    provenance = {"run": studio.fingerprint, **{name: value for name, value in vars(recipe).items() if value}}
    return Response(midi_writer.encode(song, "nemui_jax studio " + json.dumps(provenance)), media_type="audio/midi")


def _wav(song: Song) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "piece.wav"
        audio.write_wav(path, audio.render(song))
        return path.read_bytes()


async def add_song(request: Request) -> Response:
    """Fits a song that is dropped on the page; answers with lines of JSON: progress, then the song or the error."""
    studio: Studio = request.app.state.studio
    if len(studio.player.songs) - studio.learned >= MAX_ADDED:
        return Response(f"{MAX_ADDED} songs have been added, the maximum; start the studio again", 409)
    if studio.fitting.locked():
        return Response("another song is being learned; try again when it is done", 429)
    name = PurePosixPath(request.query_params.get("name", "")[:120].replace("\\", "/")).stem or "song"
    return StreamingResponse(_fit_progress(studio, escape(name), await request.body()), media_type="text/plain")


async def _fit_progress(studio: Studio, name: str, data: bytes) -> AsyncIterator[str]:
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def progress(done: int, of: int) -> None:
        if studio.stopping.is_set():
            raise Stopping
        loop.call_soon_threadsafe(lines.put_nowait, {"done": done, "of": of})

    async with studio.fitting:
        job = asyncio.ensure_future(in_thread(_fit, studio, name, data, progress))
        job.add_done_callback(lambda _: lines.put_nowait({}))
        while line := await lines.get():
            yield _dumps(line) + "\n"
        try:
            index, note_f1 = job.result()
            yield _dumps({"song": studio.song_data(index), "note_f1": round(note_f1, 4)}) + "\n"
        except ValueError as error:  # MidiError among them
            yield _dumps({"wrong": str(error)}) + "\n"


def _fit(studio: Studio, name: str, data: bytes, progress: Callable[[int, int], None]) -> tuple[int, float]:
    player = studio.player
    song = with_beats(midi_reader.parse(data, MAX_SECONDS))
    # Only the path's name is used; nothing is read from it.
    entry, _ = dataset.make_entry(song, Path(f"{name}.mid"), hashlib.sha256(data).hexdigest(), player.config)
    rows = finetune.fit_song(player.params, song, entry, player.config, seed=0, progress=progress)
    fitted = latent_song(entry, song, rows, player.config)
    note_f1 = playback.note_f1(player.params, fitted, song, player.config)
    player.songs.append(fitted)
    studio.keys.append(entry.key)
    return len(player.songs) - 1, note_f1


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


def _page_routes() -> list[Route]:
    """A route for each file of the page, read once, so that no path from a request reaches the file system."""

    def route(path: Path) -> Route:
        body, kind = path.read_bytes(), KINDS[path.suffix]
        where = "/" if path.name == "index.html" else f"/{path.name}"
        return Route(where, lambda request: Response(body, media_type=kind))

    return [route(path) for path in sorted(PAGE.iterdir()) if path.suffix in KINDS]


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


def app(studio: Studio, port: int) -> Guard:
    """The studio as an ASGI application, for a server on `port` of the loopback interface."""
    routes = [
        *_page_routes(),
        Route("/songs", songs),
        Route("/songs/{index}", song_notes),
        Route("/bring", add_song, methods=["POST"]),
        Route("/piece.mid", download, methods=["POST"]),
        Route("/piece.wav", download, methods=["POST"]),
        WebSocketRoute("/play", play),
    ]
    inner = Starlette(routes=routes, exception_handlers={ClientDisconnect: _disconnected})
    inner.state.studio = studio
    return Guard(inner, port)
