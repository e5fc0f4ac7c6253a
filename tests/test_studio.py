"""The studio's server: who may ask, what it answers, and that nothing from outside brings it down."""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import waltzes

pytest.importorskip("starlette", reason="needs the extra studio")
pytest.importorskip("uvicorn", reason="needs the extra studio")
pytest.importorskip("websockets", reason="needs the extra studio")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from nemui_jax.data import dataset
from nemui_jax.errors import StudioError
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.clock import Clock
from nemui_jax.music.song import CONTROL, DRUM_CHANNEL, NOTE, Part, Song
from nemui_jax.runs.run import read_run
from nemui_jax.studio import guard, places, routes, server, share
from nemui_jax.studio.guard import MAX_BODY
from nemui_jax.studio.messages import page_notes, page_parts
from nemui_jax.studio.piece import BLOCK_SECONDS, Recipe, read_recipe
from nemui_jax.studio.state import Studio
from nemui_jax.training.step import train_steps

HALF = {"songs": [0, 1], "weights": [[0.5, 0.5]], "seconds": 30}


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Place(NamedTuple):
    """A studio that is up."""

    studio: Studio
    port: int

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", body=None, **headers: str) -> Answer:
        headers = {"Host": f"127.0.0.1:{self.port}", **({"Origin": self.origin} if method == "POST" else {}), **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            found = connection.getresponse()
            return Answer(found.status, found.read(), {name.lower(): value for name, value in found.getheaders()})
        finally:
            connection.close()

    def listen(self, **options):
        return connect(f"ws://127.0.0.1:{self.port}/play", **({"origin": self.origin, "max_size": None} | options))


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):
    run = tmp_path_factory.mktemp("studio") / "run"
    shutil.copytree(trained.path, run)  # songs are added to it
    studio = Studio(run)
    ready, listening = server.server(studio, 0)
    port = listening.getsockname()[1]
    studio.warm()
    thread = threading.Thread(target=ready.run, kwargs={"sockets": [listening]})
    thread.start()
    while not ready.started:
        time.sleep(0.01)
    yield Place(studio, port)
    ready.handle_exit(signal.SIGINT, None)
    thread.join(10)
    listening.close()
    assert not thread.is_alive()


def messages_of(socket) -> Iterator[dict]:
    """The server's messages about music; those about guests come at any time."""
    while True:
        message = json.loads(socket.recv(timeout=20))
        if message["kind"] != "guests":
            yield message


def stretches_of(socket, number: int) -> list[dict]:
    """The stretches of music of an answer, until it is done."""
    stretches = []
    for message in messages_of(socket):
        if message["kind"] == "done" and message["ask"] == number:
            break
        if message["kind"] == "stretch" and message["ask"] == number:
            stretches.append(message)
    return stretches


# Music


MIX = {"songs": [0, 1, 2], "weights": [[0.5, 0.5, 0]], "seconds": 40}


def played(place, recipe: dict, first: int = 0) -> tuple[list[dict], list[list[int]]]:
    """The parts of a recipe's piece and its notes, sorted, as the page has them when all has come.

    A stretch takes the place of what came before it for the same blocks.
    """
    heads, stretches = [], {}
    with place.listen() as line:
        line.send(json.dumps({"ask": 1, "recipe": recipe, "from": first}))
        for message in messages_of(line):
            if message["kind"] == "done":
                break
            if message["kind"] == "head":
                heads.append(message["parts"])
            if message["kind"] == "stretch":
                stretches[message["from"], message["to"]] = message["notes"]
    spans = sorted(stretches)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
    numbers = [number for span in spans for number in stretches[span]]
    return heads[-1], sorted(numbers[start : start + 5] for start in range(0, len(numbers), 5))


@pytest.mark.parametrize(
    "recipe",
    [
        MIX,
        MIX | {"noise": 0.3, "seed": 3},
        MIX | {"weights": [[1, 0, 0], [0, 0.2, 0.8]], "shift": 2},
        {"songs": [1], "weights": [[1]]},
        {"random": True, "seed": 5, "seconds": 20},
    ],
    ids=["mix", "variation", "morph", "song", "random"],
)
def test_stretches_are_the_whole_and_the_file(place, recipe):
    """Each note once, whichever stretch comes first, and the same notes as the download has."""
    song = place.studio.player.piece(read_recipe(recipe, 3)).song
    whole = page_notes(song)["notes"]
    parts, found = played(place, recipe, first=20)
    assert found == sorted(whole[start : start + 5] for start in range(0, len(whole), 5))
    assert len(found) > 10
    assert parts == page_parts(song)
    file = midi_reader.parse(place.ask("/piece.mid", "POST", json.dumps(recipe)).body)
    expected = sorted((onset / 1000, pitch, velocity) for onset, _, pitch, velocity, _ in found)
    got = sorted(zip(*(file.notes[name].tolist() for name in ("onset", "pitch", "velocity")), strict=True))
    assert sorted(pitch for _, pitch, _ in got) == sorted(pitch for _, pitch, _ in expected)
    assert np.allclose([onset for onset, *_ in got], [onset for onset, *_ in expected], atol=0.003)


def test_no_mix_is_silent(place):
    """Whatever the weights, even where each voice would go to a song that has none like it."""
    for weights in np.random.default_rng(0).dirichlet(np.ones(3), 40):
        recipe = Recipe((0, 1, 2), (tuple(weights.tolist()),), 20.0)
        assert len(place.studio.player.piece(recipe).song.notes) > 10, weights


def test_every_song_keeps_its_own_tempo(trained_waltzes):
    """The waltzes have two tempos, and each slows down by half; their mix is between them."""
    player = Studio(trained_waltzes).player
    ends = []
    for index, source in enumerate(waltzes().values()):
        alone = player.piece(Recipe((index,), ((1.0,),), 100.0)).song
        np.testing.assert_allclose(alone.notes["onset"], source.notes["onset"], atol=0.01)
        np.testing.assert_array_equal(alone.notes["pitch"], source.notes["pitch"])
        ends.append(source.notes["onset"][24])
    mixed = player.piece(Recipe((0, 1), ((0.5, 0.5),), 20.0)).song
    assert ends[0] < mixed.tempo_map.seconds_at(24) < ends[1]


def test_a_path_arrives_at_its_last_song(trained_waltzes):
    """From the middle on the weights are the last song's alone, and so are the notes, whichever song is faster."""
    player = Studio(trained_waltzes).player
    for first, last in ((0, 1), (1, 0)):  # the second lies an octave below the first
        piece = player.piece(Recipe((first, last), ((1.0, 0.0), (0.0, 1.0), (0.0, 1.0)), 60.0))
        notes = piece.song.notes
        alone = player.piece(Recipe((last,), ((1.0,),), 60.0)).song.notes
        late = notes[notes["onset"] > 45]
        assert len(late) > 10
        assert set(late["pitch"]) <= set(alone["pitch"])


def test_order_covers_every_block_once_and_begins_where_it_is_heard(place):
    for count, at in ((1, 0), (7, 6), (8, 8), (500, 123), (500, 0), (200, 9999)):
        order = place.studio.player.order(count, at)
        assert sorted(block for start, stop in order for block in range(start, stop)) == list(range(count))
        assert order[0][0] <= min(at, count - 1) < order[0][1]


@pytest.mark.parametrize(
    "change",
    [
        {"songs": []},
        {"songs": [0, 0]},
        {"songs": [0, 99]},
        {"songs": [0, -1]},
        {"songs": ["../x", 1]},
        {"weights": []},
        {"weights": [[1]]},
        {"weights": [[0, 0]]},
        {"weights": [[-1, 2]]},
        {"weights": [[1, float("nan")]]},
        {"weights": [[1, float("inf")]]},
        {"weights": [[1, 1]] * 1000},
        {"weights": 3},
        {"seconds": 1e9},
        {"seconds": None},
        {"noise": -1},
        {"seed": -1},
        {"shift": 40},
        {"factors": {"loudness": 0}},
        {"factors": {"harmony": 99}},
        {"factors": [0]},
    ],
)
def test_what_is_no_recipe_is_refused(change):
    assert read_recipe(HALF, 3).weights == ((0.5, 0.5),)
    with pytest.raises(ValueError, match=r"\w"):
        read_recipe(HALF | change, 3)


# Asking


def test_the_page_and_its_headers(place):
    page = place.ask("/")
    assert page.status == 200
    assert b"<script type=" in page.body
    assert b"onclick" not in page.body
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in page.headers
    assert page.headers["x-content-type-options"] == "nosniff"
    files = [path for path in routes.PAGE.iterdir() if path.suffix in routes.KINDS]
    assert sum(path.stat().st_size for path in files) < 250_000
    assert all("//" not in line or "http://www.w3.org" in line for line in page.body.decode().splitlines())
    for path in (path for path in files if path.stem != "share"):
        assert place.ask("/" if path.name == "index.html" else f"/{path.name}").body == path.read_bytes()


def test_songs(place):
    found = json.loads(place.ask("/songs").body)
    assert [song["name"] for song in found["songs"]][:3] == ["a chorale", "repeats", "rubato"]
    assert found["songs"][1]["seconds"] == pytest.approx(4.6, abs=0.1)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""])
def test_another_host_is_refused(place, host):
    assert place.ask("/", Host=host.format(port=place.port)).status == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://localhost:{port}"]
)
def test_another_origin_is_refused(place, origin):
    origin = origin.format(port=place.port)
    assert place.ask("/songs", Origin=origin).status == 403
    assert place.ask("/piece.mid", "POST", json.dumps(HALF), Origin=origin).status == 403
    with pytest.raises(InvalidStatus):
        place.listen(origin=origin)


def test_without_an_origin_nothing_is_done(place):
    with pytest.raises(InvalidStatus):
        place.listen(origin=None)


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page/index.html", "/songs/../main.js"]
)
def test_no_path_reaches_the_file_system(place, path):
    assert place.ask(path).status == 404


def head(place, path: str, *fields: str) -> bytes:
    """The head of a POST, for a body that is sent by hand."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{place.port}", f"Origin: {place.origin}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def status(line: socket.socket) -> int:
    line.settimeout(10)
    return int(line.recv(2**16).split()[1])


def test_a_large_body_is_refused(place):
    assert place.ask("/bring?name=x", "POST", b"", **{"Content-Length": str(200 * 2**20)}).status == 413

    with socket.create_connection(("127.0.0.1", place.port)) as line:  # no length declared: found out on the way
        line.sendall(head(place, "/bring?name=x", "Transfer-Encoding: chunked"))
        for _ in range(MAX_BODY // 2**16):
            line.sendall(b"10000\r\n" + bytes(2**16) + b"\r\n")
        line.sendall(b"1\r\n0\r\n")
        assert status(line) == 413
    assert place.ask("/").status == 200


def test_a_body_that_stalls_is_refused(place, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)
    for path in ("/bring?name=x", "/piece.mid"):
        with socket.create_connection(("127.0.0.1", place.port)) as line:
            line.sendall(head(place, path, "Content-Length: 100") + b"{")
            assert status(line) == 408


@pytest.mark.parametrize("body", ["{}", "{", "[" * 100_000, b"\xff", '{"songs":' * 100_000])
def test_what_is_no_recipe_is_answered_with_400(place, body):
    assert place.ask("/piece.mid", "POST", body).status == 400


def test_a_new_song_needs_two_songs(place, monkeypatch):
    monkeypatch.setattr(place.studio.player, "in_run", [0])
    answer = place.ask("/piece.mid", "POST", json.dumps({"random": True}))
    assert (answer.status, answer.body[:40]) == (400, b"a new song is drawn from two songs of th")
    with place.listen() as line:
        line.send(json.dumps({"ask": 1, "recipe": {"random": True}}))
        assert next(messages_of(line))["reason"].startswith("a new song is drawn from two songs of the run or more")


def test_it_serves_while_others_hang(place):
    hanging = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(60)]
    for index, one in enumerate(hanging):
        host = f"Host: 127.0.0.1:{place.port}\r\nOrigin: {place.origin}\r\n"
        if index % 3 == 1:
            one.sendall(b"GET / HTTP/1.1\r\nHo")
        elif index % 3 == 2:
            one.sendall(f"POST /piece.mid HTTP/1.1\r\n{host}Content-Length: 100\r\n\r\n{{".encode())
    try:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: place.ask("/songs").status, range(50)))
        assert answers == [200] * 50
        with place.listen() as line:
            line.send(json.dumps({"ask": 1, "recipe": HALF, "from": 0}))
            assert stretches_of(line, 1)
    finally:
        for one in hanging:
            one.close()


# Messages


def test_a_bands_parts_and_notes_as_the_page_gets_them():
    notes = np.array([(0.0, 0.5, 60, 80), (1.0, 2.25, 62, 90), (2.0, 2.5, 64, 100)], NOTE)
    moves = [(0.0, 101, 0), (0.0, 100, 0), (0.0, 6, 12), (0.2, 7, 90), (1.5, 64, 127), (1.6, 128, 4096), (2.2, 64, 0)]
    band = Song(
        (
            Part(notes, 33, 0, "The bass", np.array(moves, CONTROL)),
            Part(notes[:2], 48, 0),  # on the same channel: it has the same controls
            Part(notes[1:2], 16, DRUM_CHANNEL),
        )
    )
    parts = page_parts(band)
    assert list(parts[0]) == ["number", "name", "instrument", "program", "drums", "family"]
    assert [tuple(part.values()) for part in parts] == [
        (0, "The bass", "Fingered Bass", 33, False, "bass"),
        (1, "", "String Ensemble 1", 48, False, "bowed"),
        (2, "", "Drums", 16, True, "drums"),
    ]
    whole = page_notes(band)
    rows = [whole["notes"][start : start + 5] for start in range(0, len(whole["notes"]), 5)]
    assert [0, 500, 60, 80, 0] in rows
    assert [1000, 2250, 62, 90, 2] in rows
    assert len(rows) == 6
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    later = page_notes(band, 1.55, 2.1)
    assert later["notes"] == [2000, 2500, 64, 100, 0]
    controls = [later["controls"][start : start + 4] for start in range(0, len(later["controls"]), 4)]
    for part in (0, 1):  # a bend of half of twelve semitones, in cents
        assert [row for row in controls if row[1] == part] == [
            *([1550, part, 64, 127], [1550, part, 7, 90]),
            [1600, part, 128, 600],
        ]
    spans = [page_notes(band, start, start + 0.5) for start in np.arange(0, 3, 0.5)]
    assert [number for span in spans for number in span["notes"]] == whole["notes"]
    assert page_notes(Song(())) == {"notes": [], "controls": []}


# Playing


def test_music_comes_in_stretches(place):
    with place.listen() as line:
        line.send(json.dumps({"ask": 7, "recipe": HALF | {"seconds": 60}, "from": 50}))
        head = next(messages_of(line))
        stretches = stretches_of(line, 7)
    assert (head["kind"], head["ask"]) == ("head", 7)
    numbers = [part["number"] for part in head["parts"]]
    assert numbers == list(range(len(numbers)))
    assert stretches[0]["from"] <= 50 < stretches[0]["to"]
    assert sum(stretch["to"] - stretch["from"] for stretch in stretches) == stretches[0]["blocks"]
    assert len(stretches) > 1
    assert all(len(stretch["notes"]) % 5 == len(stretch["controls"]) % 4 == 0 for stretch in stretches)
    assert {number for stretch in stretches for number in stretch["notes"][4::5]} <= set(numbers)


def test_the_newest_ask_wins(place):
    with place.listen() as line:
        for number in range(1, 41):
            line.send(json.dumps({"ask": number, "recipe": HALF | {"seconds": 600, "seed": number}, "from": 0}))
        finished = set()
        for message in messages_of(line):
            if message["kind"] == "done":
                finished.add(message["ask"])
            if 40 in finished:
                break
    assert finished == {40}


def test_nonsense_is_answered(place):
    with place.listen() as line:
        for text in ("{", "[]", "3", '{"ask":"x"}', '{"ask":1,"recipe":{"songs":[77],"weights":[[1]]}}', "[" * 50000):
            line.send(text)
            assert next(messages_of(line))["kind"] == "wrong"
        line.send(json.dumps({"ask": 2, "recipe": HALF, "from": -(10**9)}))
        assert stretches_of(line, 2)
    for message in ("x" * (routes.MESSAGE_BYTES + 1), b"\x00\x01"):
        with place.listen() as line:
            line.send(message)
            with pytest.raises(ConnectionClosed):
                line.recv(timeout=5)
    assert place.ask("/").status == 200


def test_random_songs_say_what_they_are_made_of(place):
    recipe = {"random": True, "seed": 5, "seconds": 20}
    with place.listen() as line:
        line.send(json.dumps({"ask": 1, "recipe": recipe, "from": 0}))
        drawn = next(message for message in messages_of(line) if message["kind"] == "drawn")
    piece = place.studio.player.piece(read_recipe(recipe, 3))
    assert drawn == {"kind": "drawn", "ask": 1, "songs": list(piece.songs), "seed": piece.seed}
    assert piece.seed >= 5


# Taking away and bringing in


def test_a_piece_as_a_file(place):
    answer = place.ask("/piece.mid", "POST", json.dumps(HALF))
    song = midi_reader.parse(answer.body)
    expected = place.studio.player.piece(read_recipe(HALF, 3)).song
    assert len(song.notes) == len(expected.notes) > 50
    assert place.studio.fingerprint.encode() in answer.body
    sound = place.ask("/piece.wav", "POST", json.dumps(HALF | {"seconds": 5}))
    assert sound.body[:4] == b"RIFF"


def test_a_soundfont_that_is_none_is_named(place, monkeypatch, tmp_path):
    pytest.importorskip("symusic")
    (tmp_path / "odd.sf2").write_bytes(b"no soundfont")
    monkeypatch.setenv("SOUNDFONT", str(tmp_path / "odd.sf2"))
    answer = place.ask("/piece.wav", "POST", json.dumps(HALF | {"seconds": 5}))
    assert answer.status == 500
    assert answer.body.decode().endswith("odd.sf2: is not a soundfont (.sf2 or .sf3)")


def guest_when(line, number: int, ready) -> dict:
    """A guest as the page is told of it, as soon as that is so."""
    while True:
        message = json.loads(line.recv(timeout=120))
        if message["kind"] == "guests" and ready(message["guests"][number]):
            return message["guests"][number]


def test_a_dropped_song_is_rough_then_taught_then_kept(place, songs_folder):
    """It can be played once it is fitted, is called learned from 0.9 on, and is in the run once it is kept."""
    old = (songs_folder / "rubato.mid").read_bytes()
    assert json.loads(place.ask("/bring?name=again.mid", "POST", old).body) == {"index": 2}  # the run has it
    song = midi_reader.parse(old)
    turned = replace(song, parts=tuple(replace(part, notes=_upside_down(part.notes)) for part in song.parts))
    before, first, compiled = len(place.studio.entries), place.studio.first, train_steps._cache_size()
    name = "/bring?name=%3Cb%3E%2F..%2Fnew%1b.mid"
    number = json.loads(place.ask(name, "POST", midi_writer.encode(turned)).body)["guest"]
    with place.listen() as line:
        rough = guest_when(line, number, lambda guest: guest["index"] is not None)
        assert (rough["name"], rough["index"], rough["song"]["in_run"]) == (r"new\x1b", before, None)
        learned = guest_when(line, number, lambda guest: not guest["work"])
        assert learned["learned"] == (learned["note_f1"] >= 0.9)
        assert train_steps._cache_size() <= compiled + 2  # once to fit, once to teach
        assert place.studio.unkept == [r"new\x1b"]
        assert learned["note_f1"] > max(0.95, rough["note_f1"] if not rough["learned"] else 0)
        line.send(json.dumps({"ask": 1, "recipe": {"songs": [before], "weights": [[1]], "seconds": 5}, "from": 0}))
        assert any(stretch["notes"] for stretch in stretches_of(line, 1))
        assert place.studio.player.in_run == list(range(before))
        assert json.loads(place.ask("/songs").body)["first"] == first
        assert json.loads(place.ask(name, "POST", midi_writer.encode(turned)).body) == {"guest": number}
        fingerprint = place.studio.fingerprint
        assert place.ask(f"/keep?guest={number}", "POST").status == 200
        assert place.ask(f"/keep?guest={number}", "POST").status == 409
        kept = guest_when(line, number, lambda guest: guest["kept"])
    assert kept["song"]["in_run"] == before
    assert place.studio.unkept == []
    assert place.studio.fingerprint != fingerprint
    assert [entry.name for entry in read_run(place.studio.path).entries][-1] == r"new\x1b"


def _upside_down(notes: np.ndarray) -> np.ndarray:
    turned = notes.copy()
    turned["pitch"] = 130 - notes["pitch"]
    return turned


def test_what_cannot_be_brought_or_kept_is_named(place):
    assert json.loads(place.ask("/bring?name=x.mid", "POST", b"no midi").body)["wrong"].startswith("x: ")
    for guest in ("99", "x", ""):
        assert place.ask(f"/keep?guest={guest}", "POST").status == 404


def test_songs_about_the_point_are_made_ready(place):
    """Once a page has its music the songs that stand nearest are analyzed, before they are mixed."""
    kept = place.studio.player._analyzed
    kept.cache_clear()
    with place.listen() as line:
        line.send(json.dumps({"ask": 1, "recipe": {"songs": [0], "weights": [[1]], "seconds": 5}}))
        stretches_of(line, 1)
        end = time.monotonic() + 20
        while kept.cache_info().currsize < len(place.studio.entries):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert place.studio.near([1])[0] == 1


def test_a_long_mix_opens_before_it_is_whole(place):
    """What is heard first takes only the beginning; the page has the notes of the whole in the end."""
    recipe = {"songs": [0, 1], "weights": [[0.4, 0.6]], "seconds": 90}
    opening = place.studio.player.opening(read_recipe(recipe, 3), 0)
    whole = place.studio.player.piece(read_recipe(recipe, 3))
    assert opening is not None
    assert opening.song.seconds < 30 < whole.song.seconds
    begun = [page_notes(song, 0.0, 20 * BLOCK_SECONDS)["notes"] for song in (opening.song, whole.song)]
    assert begun[0] == begun[1]
    assert len(begun[0]) > 20
    later = place.studio.player.opening(read_recipe(recipe, 3), 60)
    assert later is not None
    assert later.song.notes["onset"][0] > 60 * BLOCK_SECONDS - 10  # what comes before is not played
    heard = [page_notes(song, 36.0, 48.0)["notes"] for song in (later.song, whole.song)]
    assert heard[0] == heard[1]
    assert len(heard[0]) > 20
    with place.listen() as line:
        line.send(json.dumps({"ask": 1, "recipe": recipe}))
        messages = itertools.takewhile(lambda message: message["kind"] != "done", messages_of(line))
        assert [message["opening"] for message in messages if message["kind"] == "head"] == [True, False]
    parts, found = played(place, recipe)
    notes = page_notes(whole.song)["notes"]
    assert found == sorted(notes[start : start + 5] for start in range(0, len(notes), 5))
    assert parts == page_parts(whole.song)
    for change in ({"noise": 0.5}, {"weights": [[0, 1]]}, {"weights": [[0, 1], [1, 0]]}, {"seconds": 20}):
        assert place.studio.player.opening(read_recipe(recipe | change, 3), 0) is None


def test_factors_come_from_their_songs(trained_waltzes):
    """The slow waltz's tempo for the fast one, and the other way round."""
    player = Studio(trained_waltzes).player
    ends = [waltz.notes["onset"][24] for waltz in waltzes().values()]
    for first, other in ((0, 1), (1, 0)):
        recipe = {"songs": [first], "weights": [[1]], "seconds": 40, "factors": {"tempo": other}}
        song = player.piece(read_recipe(recipe, 2)).song
        assert song.tempo_map.seconds_at(24.0) == pytest.approx(ends[other], rel=0.02)


# Places on the pad


def test_songs_that_are_alike_stand_close():
    """Waltzes stand closer to each other than to scales on drums, and no two songs stand on one place."""
    songs = [
        *(waltz for waltz in waltzes().values()),
        *(replace(waltz, parts=(replace(waltz.parts[0], channel=DRUM_CHANNEL),) * 2) for waltz in waltzes().values()),
    ]
    grids = [dataset.grid_song(song, Clock("file", 1.0), 0) for song in songs]
    found = places.make_map(grids)
    distance = np.linalg.norm(found.places[:, None] - found.places, axis=2)
    assert distance[0, 1] < distance[0, 2:].min()
    assert distance[np.triu_indices(len(songs), 1)].min() > 0.05
    assert ((found.places >= 0) & (found.places <= 1)).all()
    assert np.linalg.norm(found.place(grids[0], found.places) - found.places[0]) < 0.35


def test_the_page_starts_on_two_songs(place):
    data = json.loads(place.ask("/songs").body)
    assert len(data["first"]) == 2
    assert max(data["first"]) < 3
    assert all(0 < x < 1 for song in data["songs"] for x in song["place"])
    assert places.make_map([place.studio.player.sources[0].song.grid]).places.tolist() == [
        [pytest.approx(0.5, abs=0.01)] * 2
    ]


# A page for a friend


def test_a_piece_as_a_page(place):
    """One file that names its songs, holds the music, and asks for nothing."""
    about = {"title": "A <b> + B", "lines": ["50 % A"], "command": "python run.py sample --mix 0:0.5,1:0.5"}
    answer = place.ask("/piece.html", "POST", json.dumps(HALF | {"seconds": 300, "about": about}))
    text = answer.body.decode()
    assert len(answer.body) < 300_000
    assert "<title>A &lt;b&gt; + B</title>" in text
    assert "sample --mix 0:0.5,1:0.5" in text
    assert place.studio.fingerprint in text
    assert "import " not in share.bundle()
    assert not re.search(r"(src|href)=", text)
    assert place.ask("/piece.html", "POST", json.dumps(HALF | {"about": 3})).status == 200


# Starting and stopping


def test_a_port_in_use_is_named(place):
    with pytest.raises(StudioError, match=r"--port"):
        server.server(place.studio, place.port)


def test_it_leaves_at_once(trained, tmp_path):
    program = "import sys; from pathlib import Path; from nemui_jax.studio import server; "
    program += "server.serve(Path(sys.argv[1]), 0, False)"
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
        with connect(f"ws://127.0.0.1:{port}/play", origin=f"http://127.0.0.1:{port}") as line:  # type: ignore
            line.send(json.dumps({"ask": 1, "recipe": HALF | {"seconds": 1200}, "from": 0}))
            line.recv(timeout=20)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGINT, errors
        assert errors.strip().endswith("KeyboardInterrupt")
    finally:
        process.kill()
        process.communicate()
