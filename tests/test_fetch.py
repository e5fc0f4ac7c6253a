"""MAESTRO from a server of the test's own: downloads that fail in every usual way, and what is unpacked from them."""

import contextlib
import csv
import gc
import hashlib
import io
import resource
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from midi_bytes import midi as midi_file
from midi_bytes import notes, track

from nemui_jax.data import maestro
from nemui_jax.errors import FetchError
from nemui_jax.music import midi_files

# pooch leaves the connection of a failed download to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
ROOT = "maestro-v3.0.0/"
HEADER = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"
ROWS = (
    ("Frédéric Chopin", "Étude Op. 10, No. 4", "train", 2004, "2004/MIDI-Unprocessed_1.midi"),
    ("Frédéric Chopin", "Étude Op. 10, No. 4", "test", 2004, "2004/MIDI-Unprocessed_2.midi"),
    ("Franz Schubert / Franz Liszt", '"Erlkönig": ../../etc/passwd', "train", 2006, "2006/MIDI-Unprocessed_3.midi"),
    ("Alban Berg", "Sonata Op. 1", "validation", 2018, "2018/MIDI-Unprocessed_4.midi"),
)
FILES = (
    "Frédéric Chopin - Étude Op. 10 No. 4 (2004).midi",
    "Frédéric Chopin - Étude Op. 10 No. 4 (2004-2).midi",
    "Franz Schubert Franz Liszt - Erlkönig .. .. etc passwd (2006).midi",
    "Alban Berg - Sonata Op. 1 (2018).midi",
)
BESIDE = {"manifest.csv", "LICENSE", "README", "NOTICE.txt"}


def tune(index: int) -> bytes:
    return midi_file(track(notes(60 + index, 64 + index)))


def table(rows=ROWS) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows((*row, "x.wav", 1.5) for row in rows)
    return f"{HEADER}\n{text.getvalue()}"


def make_zip(path: Path, extra: Callable[[zipfile.ZipFile], None] = lambda _: None, text: str | None = None) -> Path:
    """A small archive of MAESTRO's layout; `extra` adds to it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir(ROOT)
        archive.writestr(f"{ROOT}LICENSE", "share alike")
        archive.writestr(f"{ROOT}README", "read me")
        archive.writestr(f"{ROOT}maestro-v3.0.0.csv", table() if text is None else text)
        for index, row in enumerate(ROWS):
            archive.writestr(ROOT + row[4], tune(index))
        archive.writestr(f"{ROOT}run.sh", "echo hello")
        extra(archive)
    return path


@pytest.fixture
def zip_path(tmp_path) -> Path:
    return make_zip(tmp_path / "archive.zip")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Server(ThreadingHTTPServer):
    """Sends `body`; each request does what the next entry of `plan` says.

    cut: closes half-way. silent cut: the same without declaring a length. endless: sends the body for ever. stalled:
    does not answer. A number is a status code to answer with.
    """

    daemon_threads = True

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.plan: list[str] = []
        self.requests = 0
        self.hurry = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A client that closes the connection is no error here."""

    def archive(self) -> maestro.Archive:
        url = f"http://127.0.0.1:{self.server_port}/small.zip"
        sha256 = hashlib.sha256(self.body).hexdigest()
        return maestro.Archive("Small", url, len(self.body), sha256, "a licence", "a credit")


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore

    def do_GET(self) -> None:
        body = self.server.body
        self.server.requests += 1
        act = self.server.plan.pop(0) if self.server.plan else ""
        if act.isdecimal():
            self.send_error(int(act))
            return
        if act == "stalled":
            self.server.hurry.wait()
            return
        self.send_response(200)
        if act in ("", "cut"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2 if "cut" in act else None])
        while act == "endless":
            self.wfile.write(bytes(2**16))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(zip_path) -> Iterator[Server]:
    with Server(zip_path.read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.hurry.set()
        server.shutdown()
        thread.join()
        gc.collect()


@pytest.fixture(autouse=True)
def local(monkeypatch, tmp_path):
    """No proxy, one attempt, and a cache of the test's own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(maestro, "RETRIES", 0)
    monkeypatch.setenv("NEMUI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "downloads" / "small.zip"


# Downloading


def test_downloads_and_reports_progress(server, target, capfd):
    seen = []
    assert maestro.download(server.archive(), target, lambda *done: seen.append(done)) == target
    assert target.read_bytes() == server.body
    assert names(target.parent) == {"small.zip"}
    assert seen == sorted(seen)
    assert seen[-1] == (len(server.body), len(server.body))
    assert capfd.readouterr() == ("", "")


def test_a_second_call_does_not_ask_the_server(server, target):
    maestro.download(server.archive(), target)
    maestro.download(server.archive(), target)
    assert server.requests == 1


def test_a_wrong_file_in_its_place_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(bytes(len(server.body)))
    maestro.download(server.archive(), target)
    assert target.read_bytes() == server.body


def test_a_failed_attempt_is_repeated(server, target, monkeypatch):
    monkeypatch.setattr(maestro, "RETRIES", 1)
    server.plan = ["cut"]
    seen = []
    maestro.download(server.archive(), target, lambda *done: seen.append(done))
    assert target.read_bytes() == server.body
    assert seen[-1] == (len(server.body), len(server.body))


@pytest.mark.parametrize(
    ("act", "reason"), [("cut", "it was cut"), ("404", "answers 404"), ("stalled", "not answered for 0.2 s")]
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(server, target, act, reason, monkeypatch):
    monkeypatch.setattr(maestro, "TIMEOUT_SECONDS", 0.2)
    server.plan = [act]
    with pytest.raises(FetchError, match=f"{reason}; try again later, or download it by hand to") as error:
        maestro.download(server.archive(), target)
    assert str(target) in str(error.value) and server.archive().url in str(error.value)
    assert "\n" not in str(error.value)
    assert names(target.parent) == set()


@pytest.mark.parametrize("act", ["silent cut", "endless"])
def test_another_body_leaves_nothing(server, target, act):
    server.plan = [act]
    with pytest.raises(FetchError, match="not the archive expected") as error:
        maestro.download(server.archive(), target)
    assert "\n" not in str(error.value)
    assert names(target.parent) == set()


def test_a_wrong_hash_does_not_replace_what_is_there(server, target):
    target.parent.mkdir()
    target.write_bytes(b"something else")
    with pytest.raises(FetchError, match="not the archive expected"):
        maestro.download(replace(server.archive(), sha256="0" * 64), target)
    assert target.read_bytes() == b"something else"
    assert names(target.parent) == {"small.zip"}


def test_without_a_network_says_how_to_do_it_by_hand(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/small.zip"
    with pytest.raises(FetchError, match="cannot be downloaded") as error:
        maestro.download(replace(maestro.MAESTRO, url=url), target)
    assert url in str(error.value)
    assert f"by hand to {target}" in str(error.value)
    assert names(target.parent) == set()


@contextlib.contextmanager
def no_more_room_than(bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing_and_is_named(server, target):
    with no_more_room_than(100), pytest.raises(FetchError, match=r"small.zip: cannot be written .*NEMUI_CACHE"):
        maestro.download(server.archive(), target)
    assert names(target.parent) == set()


# Unpacking


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"years": [2004, 2018]}, [0, 1, 3]),
        ({"composers": ["CHOPIN"]}, [0, 1]),
        ({"composers": ["frederic", "liszt"]}, [0, 1, 2]),
        ({"years": [2004, 2006], "composers": ["Schubert"]}, [2]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_selections(zip_path, selection, expected):
    selected, files = maestro.unpack(zip_path, **selection)
    assert [piece.file for piece in selected] == [FILES[index] for index in expected]
    assert files.keys() | {"NOTICE.txt"} == {*(FILES[index] for index in expected), *BESIDE}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"years": [2005]}, "year '2005' .* there are: 2004, 2006, 2018$"),
        ({"composers": ["Chopin", "Bach"]}, "'Bach' .*: Alban Berg, Franz Schubert / Franz Liszt, Frédéric Chopin$"),
        ({"composers": ["Berg"], "years": [2004]}, "composer 'Berg' .* there are: Frédéric Chopin$"),
        ({"composers": [" "]}, "composer ' ' is not"),
    ],
)
def test_an_unknown_selection_names_what_there_is(zip_path, selection, message):
    with pytest.raises(FetchError, match=message):
        maestro.unpack(zip_path, **selection)


def test_members_outside_the_folder_are_not_written(server, tmp_path):
    path = make_zip(tmp_path / "odd.zip", lambda archive: archive.writestr(f"{ROOT}../../README", "elsewhere"))
    server.body = path.read_bytes()
    maestro.maestro(tmp_path / "a" / "b" / "out", archive=server.archive())
    assert names(tmp_path / "a" / "b" / "out") == {*FILES, *BESIDE}
    assert names(tmp_path / "a") == {"b"} and names(tmp_path / "a" / "b") == {"out"}


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(maestro, "MAX_UNPACKED_BYTES", 10**6)
    path = make_zip(tmp_path / "bomb.zip", lambda archive: archive.writestr(f"{ROOT}bomb.midi", bytes(10**6)))
    with pytest.raises(FetchError, match="unpacks to more than"):
        maestro.unpack(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "KeyError: 'midi_filename'"),
        (f"{HEADER}\nChopin,Étude\n", "TypeError"),
        (table([(*ROWS[0][:3], "soon", ROWS[0][4])]), "invalid literal"),
        (table([(*ROWS[0][:4], "2004/missing.midi")]), "no item named"),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    with pytest.raises(FetchError, match=f"damaged.zip: cannot be unpacked .*{message}"):
        maestro.unpack(make_zip(tmp_path / "damaged.zip", text=text))


def test_names_are_short_and_never_hidden(tmp_path):
    rows = [("...", "-" * 9, *ROWS[0][2:]), ("Ж" * 300, "\x1b[2J\u202e", *ROWS[1][2:])]
    selected, _ = maestro.unpack(make_zip(tmp_path / "odd.zip", text=table(rows)))
    assert [piece.file for piece in selected] == ["Untitled (2004).midi", "Ж" * 60 + " (2004).midi"]


def test_damaged_zip_files(zip_path):
    whole = zip_path.read_bytes()
    for index in range(0, len(whole), 37):
        for data in (whole[:index], whole[:index] + bytes([whole[index] ^ 255]) + whole[index + 1 :]):
            zip_path.write_bytes(data)
            with contextlib.suppress(FetchError):  # a flipped bit where nothing is read does no harm
                selected, files = maestro.unpack(zip_path)
                assert {files[piece.file] for piece in selected} <= {tune(index) for index in range(4)}


# All of it


def test_maestro(server, tmp_path):
    out = tmp_path / "new" / "out"
    paths = maestro.maestro(out, years=[2018], archive=server.archive())
    assert [path.name for path in paths] == [FILES[3]]
    assert (out / "NOTICE.txt").read_text() == maestro.notice(server.archive())
    assert (tmp_path / "cache" / "downloads" / "small.zip").read_bytes() == server.body
    assert len(maestro.maestro(out, composers=["chopin"], archive=server.archive())) == 2
    assert server.requests == 1
    assert names(out) == {FILES[0], FILES[1], FILES[3], *BESIDE}
    assert len(midi_files.find(out)[0]) == 3
    assert (out / FILES[1]).read_bytes() == tune(1)
    with open(out / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(FILES)
    assert rows[0]["member"] == ROOT + ROWS[0][4]


def test_maestro_wants_a_folder(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="not a folder"):
        maestro.maestro(tmp_path / "file", archive=server.archive())
    assert server.requests == 0


def test_an_output_folder_that_cannot_be_written_is_named(server, tmp_path):
    maestro.download(server.archive(), tmp_path / "cache" / "downloads" / "small.zip")
    with no_more_room_than(10), pytest.raises(FetchError, match="out: cannot be written"):
        maestro.maestro(tmp_path / "out", archive=server.archive())
    assert names(tmp_path / "out") == set()


def test_the_notice_gives_size_and_licence():
    text = maestro.notice(maestro.MAESTRO)
    assert "58.4 MB" in text
    assert "CC BY-NC-SA 4.0" in text
    assert "Hawthorne" in text
    assert maestro.MAESTRO.url.startswith("https://")
