import contextlib
import csv
import hashlib
import io
import socket
import stat
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
from nemui_jax.music import midi_reader

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
BESIDE = {"manifest.csv", "LICENSE", "README"}


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
        archive.writestr(f"{ROOT}maestro-v3.0.0.json", "{}")
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


# A server that misbehaves as told


class Server(ThreadingHTTPServer):
    """Sends `body`; each request does what the next words of `plan` say, or all is well.

    cut: closes half-way through what it should send. whole: ignores Range. silent: tells no length. A number is a
    status code to answer with.
    """

    daemon_threads = False

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.plan: list[str] = []
        self.asked: list[str | None] = []  # the Range of each request

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error here."""

    def archive(self, body: bytes | None = None) -> maestro.Archive:
        body = self.body if body is None else body
        url = f"http://127.0.0.1:{self.server_port}/small.zip"
        return maestro.Archive("Small", url, len(body), hashlib.sha256(body).hexdigest(), "a licence", "a credit")


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore

    def do_GET(self) -> None:
        asked, body = self.headers["Range"], self.server.body
        self.server.asked.append(asked)
        act = self.server.plan.pop(0) if self.server.plan else ""
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and "whole" not in act else 0
        if act.isdecimal():
            self.send_error(int(act))
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if "silent" not in act:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : (start + len(body)) // 2 if "cut" in act else None])

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(body: bytes) -> Iterator[Server]:
    with Server(body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(zip_path) -> Iterator[Server]:
    with serving(zip_path.read_bytes()) as server:
        yield server


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """No proxy, no waiting, and a cache of the test's own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(maestro, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setenv("NEMUI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "downloads" / "small.zip"


def leave_partial(target: Path, data: bytes) -> None:
    target.parent.mkdir()
    target.with_name("small.zip.partial").write_bytes(data)


# Downloading


def test_downloads_and_tells_how_far_it_is(server, target):
    told = []
    assert maestro.download(server.archive(), target, lambda *done: told.append(done)) == target
    assert target.read_bytes() == server.body
    assert names(target.parent) == {"small.zip"}
    assert told == sorted(told)
    assert told[-1] == (len(server.body), len(server.body))


def test_a_second_call_asks_the_server_nothing(server, target):
    maestro.download(server.archive(), target)
    maestro.download(server.archive(), target)
    assert server.asked == [None]


def test_a_wrong_file_in_its_place_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(bytes(len(server.body)))
    maestro.download(server.archive(), target)
    assert target.read_bytes() == server.body


@pytest.mark.parametrize("how", ["cut", "silent cut"])
def test_a_cut_connection_goes_on_where_it_stopped(server, target, how):
    server.plan = [how, "503", how, how]
    maestro.download(server.archive(), target)
    assert target.read_bytes() == server.body
    size, half = len(server.body), len(server.body) // 2
    second = (half + size) // 2
    third = (second + size) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half}-", f"bytes={second}-", f"bytes={third}-"]


def test_goes_on_where_an_earlier_call_stopped(server, target):
    server.plan = ["cut"] + ["503"] * maestro.ATTEMPTS
    with pytest.raises(FetchError, match=r"answers 503.*bytes are here.*try again later") as error:
        maestro.download(server.archive(), target)
    assert str(target) in str(error.value)
    assert names(target.parent) == {"small.zip.partial"}
    server.asked.clear()
    maestro.download(server.archive(), target)
    assert server.asked == [f"bytes={len(server.body) // 2}-"]
    assert target.read_bytes() == server.body


def test_a_server_that_ignores_range_sends_all_again(server, target):
    server.plan = ["cut", "whole"]
    maestro.download(server.archive(), target)
    assert target.read_bytes() == server.body


def test_a_server_that_always_cuts_is_given_up(server, target):
    server.plan = ["cut whole"] * 100
    with pytest.raises(FetchError, match="cannot be downloaded"):
        maestro.download(server.archive(), target)
    assert len(server.asked) == 1 + maestro.ATTEMPTS
    assert names(target.parent) == {"small.zip.partial"}


@pytest.mark.parametrize("junk", [b"\0" * 100, b"\0" * 10**6], ids=["short", "long"])
def test_a_spoilt_partial_file_is_given_up(server, target, junk):
    leave_partial(target, junk)
    maestro.download(server.archive(), target)
    assert target.read_bytes() == server.body
    assert names(target.parent) == {"small.zip"}


def test_a_wrong_checksum_leaves_nothing(server, target):
    wrong = replace(server.archive(), sha256="0" * 64)
    with pytest.raises(FetchError, match="wrong SHA-256") as error:
        maestro.download(wrong, target)
    assert "\n" not in str(error.value)
    assert names(target.parent) == set()
    assert server.asked == [None]


@pytest.mark.parametrize("size", [-1, 1])
def test_a_file_of_another_size_is_not_downloaded(server, target, size):
    with pytest.raises(FetchError, match=r"bytes, not .* newer release"):
        maestro.download(replace(server.archive(), bytes=len(server.body) + size), target)
    assert names(target.parent) == set()


def test_a_changed_size_is_noticed_when_it_goes_on(server, target):
    leave_partial(target, server.body[:50])
    with pytest.raises(FetchError, match=r"bytes, not"):
        maestro.download(replace(server.archive(), bytes=len(server.body) + 1), target)


def test_a_longer_body_is_stopped_at_the_declared_size(server, target):
    server.plan = ["silent"]
    archive = server.archive(server.body[:-1])
    told = []
    with pytest.raises(FetchError, match="sends more than"):
        maestro.download(archive, target, lambda done, _: told.append(done))
    assert max(told, default=0) <= archive.bytes
    assert names(target.parent) == set()


def test_an_answer_from_elsewhere_in_the_file_is_refused(server, target, monkeypatch):
    leave_partial(target, server.body[:50])
    send = Handler.send_header
    monkeypatch.setattr(
        Handler, "send_header", lambda self, name, value: send(self, name, value.replace("bytes 50-", "bytes 51-"))
    )
    with pytest.raises(FetchError, match="an unknown part"):
        maestro.download(server.archive(), target)
    assert not target.exists()


def test_a_missing_file_is_not_asked_for_again(server, target):
    server.plan = ["404"]
    with pytest.raises(FetchError, match="answers 404"):
        maestro.download(server.archive(), target)
    assert server.asked == [None]


def test_without_a_network_says_how_to_do_it_by_hand(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/small.zip"
    with pytest.raises(FetchError, match="cannot be downloaded") as error:
        maestro.download(replace(maestro.MAESTRO, url=url), target)
    assert url in str(error.value)
    assert f"by hand to {target}" in str(error.value)
    assert names(target.parent) == set()


# Unpacking


def test_unpacks_music_and_papers_only(zip_path, tmp_path):
    out = tmp_path / "new" / "out"
    paths = maestro.unpack(zip_path, out)
    assert [path.name for path in paths] == list(FILES)
    assert [path.read_bytes() for path in paths] == [tune(index) for index in range(4)]
    assert names(out) == {*FILES, *BESIDE}
    assert len(midi_reader.find(out)[0]) == 4
    assert all(len(midi_reader.read(path).notes) == 2 for path in paths)
    with open(out / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(FILES)
    assert rows[0]["member"] == ROOT + ROWS[0][4]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"years": [2004, 2018]}, [0, 1, 3]),
        ({"composers": ["CHOPIN"]}, [0, 1]),
        ({"composers": ["frederic", "liszt"]}, [0, 1, 2]),
        ({"years": [2004], "splits": ["test"]}, [1]),
        ({"years": [2004, 2006], "composers": ["Schubert"]}, [2]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_choices(zip_path, tmp_path, choice, expected):
    assert [piece.file for piece in maestro.select(maestro.pieces(zip_path), **choice)] == [
        FILES[index] for index in expected
    ]
    maestro.unpack(zip_path, tmp_path / "out", **choice)
    assert names(tmp_path / "out") == {*(FILES[index] for index in expected), *BESIDE}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"years": [2005]}, "year '2005' .* there are: 2004, 2006, 2018$"),
        ({"composers": ["Chopin", "Bach"]}, "'Bach' .*: Alban Berg, Franz Schubert / Franz Liszt, Frédéric Chopin$"),
        ({"composers": ["Berg"], "years": [2004]}, "composer 'Berg' .* there are: Frédéric Chopin$"),
        ({"composers": [" "]}, "composer ' ' is not"),
        ({"splits": ["dev"]}, "split 'dev' .* there are: test, train, validation$"),
    ],
)
def test_an_unknown_choice_names_what_there_is(zip_path, tmp_path, choice, message):
    with pytest.raises(FetchError, match=message):
        maestro.unpack(zip_path, tmp_path / "out", **choice)
    assert not (tmp_path / "out").exists()


def member(name: str, mode: int = 0) -> Callable[[zipfile.ZipFile], None]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return lambda archive: archive.writestr(info, b"/etc/passwd")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (member("../x.midi"), "leads outside"),
        (member(f"{ROOT}2004/../../../x.midi"), "leads outside"),
        (member("/tmp/x.midi"), "leads outside"),
        (member("C:/x.midi"), "leads outside"),
        (member("..\\x.midi"), "leads outside"),
        (member(f"{ROOT}x.midi", stat.S_IFLNK | 0o777), "link or a device"),
        (member(f"{ROOT}x.midi", stat.S_IFCHR | 0o666), "link or a device"),
        (member(f"{ROOT}x.midi", stat.S_IFIFO | 0o666), "link or a device"),
        (member(f"{ROOT}other.csv"), "2 tables"),
        (lambda archive: archive.writestr(f"{ROOT}x", b"x", zipfile.ZIP_BZIP2), "packed in an unusual way"),
    ],
)
def test_hostile_members(tmp_path, extra, message):
    path = make_zip(tmp_path / "hostile.zip", extra)
    with pytest.raises(FetchError, match=message):
        maestro.unpack(path, tmp_path / "out")
    assert names(tmp_path) == {"hostile.zip"}


def test_two_members_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = make_zip(tmp_path / "hostile.zip", member(f"{ROOT}README"))
    with pytest.raises(FetchError, match="two files of one name"):
        maestro.unpack(path, tmp_path / "out")


def test_the_number_of_members_is_bounded(zip_path, tmp_path, monkeypatch):
    monkeypatch.setattr(maestro, "MAX_MEMBERS", 5)
    with pytest.raises(FetchError, match="at most 5"):
        maestro.unpack(zip_path, tmp_path / "out")


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr(f"{ROOT}2004/bomb.midi", bytes(10**6))


BOMB_ROW = ("Nobody", "Bomb", "train", 2004, "2004/bomb.midi")


def test_a_bomb_is_refused_by_its_declared_size(tmp_path, monkeypatch):
    monkeypatch.setattr(maestro, "MAX_TOTAL_BYTES", 10**6)
    with pytest.raises(FetchError, match="unpacks to more than"):
        maestro.unpack(make_zip(tmp_path / "bomb.zip", bomb), tmp_path / "out")
    assert names(tmp_path) == {"bomb.zip"}


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path):
    path = make_zip(tmp_path / "bomb.zip", bomb, table([BOMB_ROW]))
    honest = path.read_bytes()
    lie = honest.replace((10**6).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lie != honest
    path.write_bytes(lie)
    with pytest.raises(FetchError, match="cannot be unpacked"):
        maestro.unpack(path, tmp_path / "out")
    assert names(tmp_path / "out") == BESIDE


def test_one_file_is_bounded_by_what_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(midi_reader, "MAX_BYTES", 10**6 - 1)
    with pytest.raises(FetchError, match="unpacks to more than"):
        maestro.unpack(make_zip(tmp_path / "bomb.zip", bomb, table([BOMB_ROW])), tmp_path / "out")
    assert names(tmp_path / "out") == BESIDE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no pieces"),
        ("a,b\n1,2\n", "line 2: no column 'midi_filename'"),
        (f"{HEADER}\nChopin,Étude\n", "line 2"),
        (table([(*ROWS[0][:3], "soon", ROWS[0][4])]), "line 2: invalid literal"),
        (table([(*ROWS[0][:3], 10**9, ROWS[0][4])]), "not a year"),
        (table([(*ROWS[0][:4], "2004/missing.midi")]), "no MIDI file"),
        (table([(*ROWS[0][:4], "../2004/x.midi")]), "no MIDI file"),
        (table([(*ROWS[0][:4], "run.sh")]), "no MIDI file"),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    path = make_zip(tmp_path / "damaged.zip", text=text)
    with pytest.raises(FetchError, match=message):
        maestro.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_are_short_and_never_hidden(tmp_path):
    rows = [("...", "-" * 9, *ROWS[0][2:]), ("Ж" * 300, "\x1b[2J\u202e", *ROWS[1][2:])]
    path = make_zip(tmp_path / "odd.zip", text=table(rows))
    assert [piece.file for piece in maestro.pieces(path)] == ["Untitled (2004).midi", "Ж" * 60 + " (2004).midi"]


def test_damaged_zip_files(zip_path, tmp_path):
    whole = zip_path.read_bytes()
    for index in range(0, len(whole), 37):
        for data in (whole[:index], whole[:index] + bytes([whole[index] ^ 255]) + whole[index + 1 :]):
            zip_path.write_bytes(data)
            with contextlib.suppress(FetchError):  # a flipped bit where nothing is read does no harm
                paths = maestro.unpack(zip_path, tmp_path / "out")
                assert {path.read_bytes() for path in paths} <= {tune(index) for index in range(4)}
    assert names(tmp_path) <= {"archive.zip", "out"}


# All of it


def test_maestro(server, tmp_path):
    out = tmp_path / "out"
    paths = maestro.maestro(out, years=[2018], archive=server.archive())
    assert [path.name for path in paths] == [FILES[3]]
    assert (out / "NOTICE.txt").read_text() == maestro.notice(server.archive())
    assert (tmp_path / "cache" / "downloads" / "small.zip").read_bytes() == server.body
    assert len(maestro.maestro(out, composers=["chopin"], archive=server.archive())) == 2
    assert server.asked == [None]
    assert names(out) == {FILES[0], FILES[1], FILES[3], "NOTICE.txt", *BESIDE}


def test_maestro_wants_a_folder(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="not a folder"):
        maestro.maestro(tmp_path / "file", archive=server.archive())
    assert server.asked == []


def test_the_notice_tells_size_and_licence():
    text = maestro.notice(maestro.MAESTRO)
    assert "58.4 MB" in text
    assert "CC BY-NC-SA 4.0" in text
    assert "Hawthorne" in text
    assert maestro.MAESTRO.url.startswith("https://")
