"""The studio's answers: the page, its songs, and music streamed over a WebSocket."""

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from nemui_jax.errors import MidiError, SoundfontError
from nemui_jax.files import escape
from nemui_jax.music import midi_writer
from nemui_jax.music.song import Song
from nemui_jax.outputs import audio
from nemui_jax.studio import guests, share
from nemui_jax.studio.guard import MAX_BODY, Bucket, Guard
from nemui_jax.studio.messages import page_notes, page_parts
from nemui_jax.studio.piece import BLOCK_SECONDS, FACTORS, MAX_SECONDS, MAX_SONGS, Piece, Recipe, read_recipe
from nemui_jax.studio.state import Studio, in_thread

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_SOCKETS = 16
MAX_GUESTS = 32  # songs that can be dropped on the page
MESSAGE_BYTES = 2**17
MESSAGES_A_SECOND, MESSAGE_BURST = 120.0, 240.0
SEND_SECONDS = 10.0  # until a client that does not read is disconnected
LINGER_SECONDS = 0.3  # wait for a newer message after the first stretch of an answer: the whole cannot be interrupted
GUESTS_SECONDS = 0.25  # between messages about what is done with guests


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


# Answers


async def songs(request: Request) -> Response:
    """The data that the page needs to start."""
    studio: Studio = request.app.state.studio
    return JSONResponse(
        {
            "run": studio.run_argument,
            "fingerprint": studio.fingerprint,
            "block": BLOCK_SECONDS,
            "first": studio.first,
            "seconds": studio.first_seconds,
            "factors": FACTORS,
            "limits": {"songs": MAX_SONGS, "seconds": MAX_SECONDS, "bytes": MAX_BODY},
            "songs": [studio.song_data(index) for index in range(len(studio.entries))],
        }
    )


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
        reporting = asyncio.create_task(_report_guests(socket, studio))
        tasks = [answering, listening, reporting]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
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


async def _send(socket: WebSocket, message: dict[str, Any]) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await socket.send_text(_dumps(message))


async def _report_guests(socket: WebSocket, studio: Studio) -> None:
    """Sends what is known of guests whenever it has changed."""
    sent: list[dict[str, Any]] = []
    while True:
        state = [studio.guest_data(guest) for guest in studio.guests]
        if state != sent:
            await _send(socket, {"kind": "guests", "guests": state})
            sent = state
        await asyncio.sleep(GUESTS_SECONDS)


async def _answer(socket: WebSocket, studio: Studio, latest: LatestMessage) -> None:
    while True:
        message = await latest.take()
        number = message.get("ask") if isinstance(message.get("ask"), int) else None
        try:
            recipe = read_recipe(message.get("recipe"), len(studio.entries))
            first = message.get("from") if isinstance(message.get("from"), int) else 0
            await _send_piece(socket, studio, latest, recipe, number, max(first or 0, 0))
        except ValueError as error:
            await _send(socket, {"kind": "wrong", "ask": number, "reason": str(error)})


async def _send_piece(
    socket: WebSocket, studio: Studio, latest: LatestMessage, recipe: Recipe, number: int | None, first: int
) -> None:
    """Sends a piece stretch by stretch, from block `first` on; ends early when a newer message arrives.

    While the pointer is dragged messages come in quick succession, and only first stretches are sent, which may be
    those of an opening.
    """
    opening = await studio.compute(studio.player.opening, recipe, first)
    piece = opening or await studio.compute(studio.player.piece, recipe)
    begun_head = _head(piece, number, opening is not None)
    await _send(socket, begun_head)
    if recipe.random:
        await _send(socket, {"kind": "drawn", "ask": number, "songs": list(piece.songs), "seed": piece.seed})
    begun = _stretch(piece, *studio.player.order(piece.blocks, first)[0], number)
    await _send(socket, begun)
    if await latest.arrives(LINGER_SECONDS):
        return
    if opening:
        piece = await studio.compute(studio.player.piece, recipe)
        head = _head(piece, number)
        await _send(socket, head)
        if head["parts"] != begun_head["parts"]:
            begun = None  # its notes are of other parts
    for start, stop in studio.player.order(piece.blocks, first):
        stretch = _stretch(piece, start, stop, number)
        if stretch == begun:
            continue
        await _send(socket, stretch)
        if await latest.arrives(0.0):
            return
    await _send(socket, {"kind": "done", "ask": number})
    for song in studio.near(piece.songs):  # or the first change that reaches one would wait for it
        await studio.compute(studio.player.analyzed, song)
        if await latest.arrives(0.0):
            return


def _head(piece: Piece, number: int | None, is_opening: bool = False) -> dict[str, Any]:
    return {"kind": "head", "ask": number, "opening": is_opening, "parts": page_parts(piece.song)}


def _stretch(piece: Piece, start: int, stop: int, number: int | None) -> dict[str, Any]:
    notes = page_notes(piece.song, start * BLOCK_SECONDS, stop * BLOCK_SECONDS)
    return {"kind": "stretch", "ask": number, "from": start, "to": stop, "blocks": piece.blocks, **notes}


def _loads(text: str | bytes) -> Any:
    """JSON data; ValueError if the text is not JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("not a recipe: nested too deep") from error


def _dumps(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


async def download(request: Request) -> Response:
    """A piece as a .mid, .wav or .html file."""
    studio: Studio = request.app.state.studio
    try:
        data = _loads(await request.body())
        recipe = read_recipe(data, len(studio.entries))
        piece = await studio.compute(studio.player.piece, recipe)
    except ValueError as error:
        return Response(str(error), 400)
    ending = PurePosixPath(request.url.path).suffix
    if ending == ".wav":
        return await _rendered(studio, piece.song)
    if ending == ".html":
        about = share.read_about(data.get("about"), studio.fingerprint)
        return Response(await in_thread(share.write_page, piece.song, about), media_type="text/html")
    provenance = {"run": studio.fingerprint, **{name: value for name, value in vars(recipe).items() if value}}
    file = midi_writer.encode(piece.song, "nemui_jax studio " + json.dumps(provenance))
    return Response(file, media_type="audio/midi")


async def _rendered(studio: Studio, song: Song) -> Response:
    if studio.rendering.locked():
        return Response("another piece is being rendered; try again when it is done", 429)
    async with studio.rendering:
        try:
            return Response(await in_thread(_wav, song), media_type="audio/wav")
        except SoundfontError as error:
            return Response(str(error), 500)


def _wav(song: Song) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "piece.wav"
        audio.write_wav(path, audio.render(song))
        return path.read_bytes()


async def bring(request: Request) -> Response:
    """Takes a song that is dropped on the page, and answers with its number among the guests.

    It is fitted and taught in the background; a song that is there already is named by its index, and of a file that
    holds none it is said why.
    """
    studio: Studio = request.app.state.studio
    if len(studio.guests) >= MAX_GUESTS:
        return Response(f"{MAX_GUESTS} songs have been added, the maximum; start the studio again", 409)
    name = PurePosixPath(request.query_params.get("name", "")[:120].replace("\\", "/")).stem or "song"
    data = await request.body()
    try:
        entry, song = await in_thread(guests.read, escape(name), data, studio.run.config)
    except MidiError as error:
        return JSONResponse({"wrong": f"{escape(name)}: {error}"})
    index = studio.find(entry.sha256)
    guest = next((guest for guest in studio.guests if guest.entry.sha256 == entry.sha256 and not guest.wrong), None)
    if guest is None and index is not None:
        return JSONResponse({"index": index})
    return JSONResponse({"guest": (guest or studio.welcome(entry, song)).number})


async def keep(request: Request) -> Response:
    """Adds a guest to the run in the background."""
    studio: Studio = request.app.state.studio
    number = request.query_params.get("guest", "")
    if not number.isdecimal() or len(number) > 4 or int(number) >= len(studio.guests):
        return Response("no such song", 404)
    guest = studio.guests[int(number)]
    if guest.work or guest.kept or guest.index is None:
        return Response(f"{guest.entry.name}: cannot be kept now", 409)
    studio.keep(guest)
    return JSONResponse({"guest": guest.number})


def _page_routes() -> list[Route]:
    """A route for each file of the page, read once, so that no path from a request reaches the file system."""

    def route(path: Path) -> Route:
        body, kind = path.read_bytes(), KINDS[path.suffix]
        where = "/" if path.name == "index.html" else f"/{path.name}"
        return Route(where, lambda request: Response(body, media_type=kind))

    return [route(path) for path in sorted(PAGE.iterdir()) if path.suffix in KINDS and path.stem != "share"]


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


def app(studio: Studio, port: int) -> Guard:
    """The studio as an ASGI application, for a server on `port` of the loopback interface."""
    routes = [
        *_page_routes(),
        Route("/songs", songs),
        Route("/bring", bring, methods=["POST"]),
        Route("/keep", keep, methods=["POST"]),
        *(Route(f"/piece.{ending}", download, methods=["POST"]) for ending in ("mid", "wav", "html")),
        WebSocketRoute("/play", play),
    ]
    inner = Starlette(routes=routes, exception_handlers={ClientDisconnect: _disconnected})
    inner.state.studio = studio
    return Guard(inner, port)
