"""The MAESTRO data set: downloaded once, verified by its SHA-256, and unpacked into a folder of MIDI files."""

import csv
import io
import re
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pooch
import requests

from nemui_jax.data import cache
from nemui_jax.errors import FetchError
from nemui_jax.files import escape, write_bytes

TIMEOUT_SECONDS = 30.0  # without a byte from the server
RETRIES = 2
MAX_UNPACKED_BYTES = 2**30
_CHUNK_BYTES = 2**16
_TEXTS = re.compile(r"(licen[cs]e|readme)(\.[a-z]{1,8})?", re.ASCII | re.IGNORECASE)
_NAME_BYTES = 120
_NAME_LETTERS = " -.'()#"  # besides letters and digits; not commas and colons, which separate songs in arguments
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    csv.Error,
    LookupError,
    TypeError,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
)
Progress = Callable[[int, int], None]  # called with bytes done and bytes in total


@dataclass(frozen=True)
class Archive:
    """A zip file on a server, with its exact size and hash."""

    name: str
    url: str
    bytes: int
    sha256: str
    licence: str
    credit: str


@dataclass(frozen=True)
class Piece:
    """A row of an archive's table."""

    file: str  # the name it is unpacked under
    composer: str
    title: str
    split: str
    year: int
    seconds: float
    member: str  # its name in the archive


MAESTRO = Archive(
    name="MAESTRO v3.0.0 (MIDI)",
    url="https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip",
    bytes=58_416_533,
    sha256="70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c",
    licence="CC BY-NC-SA 4.0: give credit, not for commercial use, share what you make of it under the same licence"
    " (https://creativecommons.org/licenses/by-nc-sa/4.0/)",
    credit='Hawthorne et al., "Enabling Factorized Piano Music Modeling and Generation with the MAESTRO Dataset",'
    " ICLR 2019 (https://magenta.tensorflow.org/datasets/maestro)",
)


def notice(archive: Archive) -> str:
    """Size, source, licence and credit of an archive, for the user to see before the download."""
    return (
        f"{archive.name}: {archive.bytes / 1e6:,.1f} MB from {archive.url}\n"
        f"Licence: {archive.licence}\n"
        f"Credit: {archive.credit}\n"
    )


def maestro(
    out: Path,
    years: Sequence[int] = (),
    composers: Sequence[str] = (),
    archive: Archive = MAESTRO,
    progress: Progress = lambda *_: None,
) -> list[Path]:
    """Writes MAESTRO, or a selection from it (see `select`), as MIDI files to `out`; returns their paths.

    Also writes manifest.csv, with every piece of the archive and its file, and NOTICE.txt with licence and credit. Each
    file is written atomically. The archive stays in the cache folder, so that another selection needs no download.
    Raises FetchError.
    """
    if out.exists() and not out.is_dir():
        raise FetchError(f"{escape(out)}: is not a folder; name a folder, or a new one")
    path = download(archive, cache.cache_folder() / "downloads" / archive.url.rpartition("/")[2], progress)
    selected, files = unpack(path, years, composers)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in {**files, "NOTICE.txt": notice(archive).encode()}.items():
            write_bytes(out / name, data)
    except OSError as error:
        reason = error.strerror or error
        raise FetchError(
            f"{escape(out)}: cannot be written ({reason}); free some space or name another folder"
        ) from error
    return [out / piece.file for piece in selected]


class _ProgressBar:
    """A progress bar for pooch: reports bytes to a function, and raises ValueError if the server sends too many."""

    def __init__(self, bytes: int, progress: Progress):
        self._bytes, self._progress, self._done = bytes, progress, 0

    @property
    def total(self) -> int:
        return self._bytes

    @total.setter
    def total(self, declared: int) -> None:  # pooch sets it when an attempt begins
        self._done = 0

    def update(self, count: int) -> None:
        if self._done >= self._bytes + _CHUNK_BYTES:
            raise ValueError("the server sends more bytes than expected")
        self._done += count
        self._progress(min(self._done, self._bytes), self._bytes)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def download(archive: Archive, target: Path, progress: Progress = lambda *_: None) -> Path:
    """Downloads the archive to the file `target`, which is created only once its hash is right; returns `target`.

    If `target` is there with the right hash, nothing is downloaded. `progress(done_bytes, total_bytes)` is called as
    bytes arrive, and starts from 0 again after a failed attempt. Raises FetchError.
    """
    pooch.get_logger().setLevel("ERROR")
    store = pooch.create(
        target.parent,
        base_url="",
        registry={target.name: f"sha256:{archive.sha256}"},
        urls={target.name: archive.url},
        retry_if_failed=RETRIES,
    )
    bar: Any = _ProgressBar(archive.bytes, progress)  # pooch's annotations are narrower than its documentation
    http: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK_BYTES, timeout=TIMEOUT_SECONDS)
    by_hand = f"download it by hand to {escape(target)}"
    try:
        store.fetch(target.name, downloader=http)
    except requests.RequestException as error:
        answer = "there is no connection, or it was cut"
        if error.response is not None:
            answer = f"the server answers {error.response.status_code}"
        elif isinstance(error, requests.Timeout):
            answer = f"the server has not answered for {TIMEOUT_SECONDS:g} s"
        raise FetchError(
            f"{archive.name}: {archive.url} cannot be downloaded: {answer}; try again later, or {by_hand}"
        ) from error
    except ValueError as error:
        raise FetchError(
            f"{archive.name}: what {archive.url} sends is not the archive expected (SHA-256 {archive.sha256}) and was"
            f" deleted; check for a login page of your network and try again, or {by_hand}"
        ) from error
    except OSError as error:
        raise FetchError(
            f"{escape(target)}: cannot be written ({error.strerror or error}); free some space, or set NEMUI_CACHE to a"
            " folder on another disk"
        ) from error
    return target


def select(pieces: Sequence[Piece], years: Sequence[int] = (), composers: Sequence[str] = ()) -> list[Piece]:
    """The pieces of any of the years by any of the composers; without years or composers, of all of them.

    A composer is any part of the name; case and accents do not matter. Years are selected first. FetchError, with
    the choices there are, for a year or a composer without pieces.
    """
    selected = list(pieces)
    for field, wanted in (("year", years), ("composer", composers)):
        available = sorted({getattr(piece, field) for piece in selected})
        matched = set()
        for one in wanted:
            matches = {value for value in available if _matches(one, value)}
            if not matches:
                names = escape(", ".join(map(str, available)))
                raise FetchError(f"{field} {escape(str(one))!r} is not in the archive; there are: {names}")
            matched |= matches
        if wanted:
            selected = [piece for piece in selected if getattr(piece, field) in matched]
    return selected


def unpack(
    path: Path, years: Sequence[int] = (), composers: Sequence[str] = ()
) -> tuple[list[Piece], dict[str, bytes]]:
    """The selected pieces of an archive, in the order of its table, and all files to write, by name. Raises FetchError.

    Files are named "Composer - Title (year).midi", further performances of a year "(year-2)" and so on, whatever else
    is selected; the folders of the archive are ignored.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile never unpacks more bytes of a member than it declares.
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise FetchError(f"{escape(path)}: unpacks to more than {MAX_UNPACKED_BYTES / 2**20:,.9g} MiB")
            table = _pieces(archive)
            selected = select(table, years, composers)
            texts = {Path(name).name: name for name in archive.namelist() if _TEXTS.fullmatch(Path(name).name)}
            members = texts | {piece.file: piece.member for piece in selected}
            return selected, {
                "manifest.csv": _manifest(table),
                **{name: archive.read(member) for name, member in members.items()},
            }
    except FetchError:
        raise
    except _DAMAGE as error:
        reason = escape(f"{type(error).__name__}: {error}")
        raise FetchError(f"{escape(path)}: cannot be unpacked ({reason}); delete it and fetch it again") from error


def _pieces(archive: zipfile.ZipFile) -> list[Piece]:
    """The rows of the archive's only table; KeyError, TypeError or ValueError for a damaged one."""
    (table,) = (name for name in archive.namelist() if name.lower().endswith(".csv"))
    performances: Counter[tuple[str, int]] = Counter()
    found = []
    text = archive.read(table).decode("utf-8-sig")
    for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
        member = archive.getinfo(table[: table.rfind("/") + 1] + row["midi_filename"]).filename
        name, year = _file_name(row["canonical_composer"], row["canonical_title"]), int(row["year"])
        performances[name.casefold(), year] += 1
        count = performances[name.casefold(), year]
        found.append(
            Piece(
                file=f"{name} ({year}{f'-{count}' if count > 1 else ''}).midi",
                composer=row["canonical_composer"],
                title=row["canonical_title"],
                split=row["split"],
                year=year,
                seconds=float(row["duration"]),
                member=member,
            )
        )
    return found


def _file_name(composer: str, title: str) -> str:
    """A file name that is readable, valid on any system, and usable in the arguments of `sample`."""
    text = unicodedata.normalize("NFC", f"{composer} - {title}")
    text = "".join(letter if letter.isalnum() or letter in _NAME_LETTERS else " " for letter in text)
    text = " ".join(text.split()).encode()[:_NAME_BYTES].decode(errors="ignore")
    return text.strip(" -.'") or "Untitled"


def _matches(wanted: int | str, value: int | str) -> bool:
    if isinstance(wanted, str) and isinstance(value, str):
        return bool(wanted.strip()) and _plain(wanted) in _plain(value)
    return wanted == value


def _plain(text: str) -> str:
    """A name without case, accents and surrounding space."""
    letters = unicodedata.normalize("NFKD", text.strip())
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()


def _manifest(table: Sequence[Piece]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(Piece))
    writer.writerows(astuple(piece) for piece in table)
    return text.getvalue().encode()
