"""Music from the network: an archive downloaded, checked and unpacked, as a folder of MIDI files to learn.

An archive is known by its size and its SHA-256, so what a server, a proxy or a cut connection makes of it shows. What
has arrived is kept in a file ending in .partial, and the next attempt, or the next call, asks for the rest only.

A zip file is not trusted: it is refused whole, before anything is written, if a member's name leads outside or is a
link or a device, and the names written are made here from its table of pieces, never taken from its members.
"""

import contextlib
import csv
import hashlib
import io
import os
import re
import stat
import struct
import time
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import httpx2 as httpx

from nemui_jax.data import cache
from nemui_jax.errors import FetchError
from nemui_jax.files import escape, write_bytes
from nemui_jax.music import midi_reader

TIMEOUT_SECONDS = 30.0  # without an answer, or another byte of it
ATTEMPTS = 5  # in a row that bring nothing new
BACKOFF_SECONDS = 0.5  # before the second attempt; twice as long before each further one
MAX_MEMBERS = 20_000
MAX_TOTAL_BYTES = 2**30  # of all that is unpacked
MAX_TEXT_BYTES = 16 * 2**20  # of the table of pieces, and of a licence
ENDINGS = (".mid", ".midi")
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may change
_TEXTS = re.compile(r"(licen[cs]e|readme)(\.[a-z]{1,8})?", re.ASCII | re.IGNORECASE)
_NAME_BYTES = 120
_NAME_LETTERS = " -.'()#"  # besides letters and digits; commas and colons have a meaning in recipes
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError, RuntimeError)
Progress = Callable[[int, int], None]  # bytes done, of bytes


@dataclass(frozen=True)
class Archive:
    """A zip file on a server, known to the byte."""

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
    """What to tell a user before a download: size, source, licence and credit, a line each."""
    return (
        f"{archive.name}: {archive.bytes / 1e6:,.1f} MB from {archive.url}\n"
        f"Licence: {archive.licence}\n"
        f"Credit: {archive.credit}\n"
    )


def maestro(
    out: Path,
    years: Sequence[int] = (),
    composers: Sequence[str] = (),
    splits: Sequence[str] = (),
    archive: Archive = MAESTRO,
    progress: Progress = lambda *_: None,
) -> list[Path]:
    """MAESTRO, or the choice of `select` from it, as MIDI files in `out`; their paths.

    The archive stays in the cache folder, so that another choice needs no download. Raises FetchError, and OSError
    for a disk that cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise FetchError(f"{escape(out)}: is not a folder; name one that is, or a new one")
    path = download(archive, cache.cache_folder() / "downloads" / archive.url.rpartition("/")[2], progress)
    paths = unpack(path, out, years, composers, splits)
    write_bytes(out / "NOTICE.txt", notice(archive).encode())
    return paths


def download(archive: Archive, target: Path, progress: Progress = lambda *_: None) -> Path:
    """The archive as the file `target`, which appears only when whole and right; `target` itself.

    If `target` is there and right, nothing is asked of the server. `progress(done_bytes, total_bytes)` is called as
    bytes come in; `done_bytes` goes back where a server ignores the request for the rest. Raises FetchError, and
    OSError for a disk that cannot be written.
    """
    if _is_right(target, archive):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    if _size(partial) > archive.bytes:
        partial.unlink()
    resumed = _size(partial) > 0
    _complete(archive, partial, target, progress)
    if resumed and not _is_right(partial, archive):  # what an earlier call left may be at fault
        partial.unlink()
        _complete(archive, partial, target, progress)
    if not _is_right(partial, archive):
        partial.unlink()
        raise FetchError(
            f"{archive.name}: what came from {archive.url} has the wrong SHA-256 and was deleted; try again, and if it"
            f" stays wrong put the right file at {escape(target)} (SHA-256 {archive.sha256})"
        )
    os.replace(partial, target)
    return target


def _complete(archive: Archive, partial: Path, target: Path, progress: Progress) -> None:
    """Adds to the partial file until it has the archive's size."""
    failures = 0
    headers = {"Accept-Encoding": "identity"}
    with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True, headers=headers) as client:
        while (before := _size(partial)) < archive.bytes:
            reason = "the connection ended early"
            try:
                _receive(client, archive, partial, progress)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
            if (size := _size(partial)) > before:
                failures = 0
                continue
            failures += 1
            if failures == ATTEMPTS:
                raise FetchError(
                    f"{archive.name}: {archive.url} cannot be downloaded ({escape(reason)}; {size:,} of"
                    f" {archive.bytes:,} bytes are here); try again later to get the rest, or download it by hand to"
                    f" {escape(target)}"
                )
            time.sleep(BACKOFF_SECONDS * 2 ** (failures - 1))


def _receive(client: httpx.Client, archive: Archive, partial: Path, progress: Progress) -> None:
    """One request for what is missing, written where it belongs; httpx.HTTPError if it fails on the way.

    Nothing is cut off or appended: two processes at it write the same bytes to the same places.
    """
    size = _size(partial)
    with client.stream("GET", archive.url, headers={"Range": f"bytes={size}-"} if size else {}) as response:
        done = _start(response, archive, size)
        partial.touch()
        with open(partial, "r+b") as file:
            file.seek(done)
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > archive.bytes:
                    break
                file.write(chunk)
                progress(done, archive.bytes)
    if done > archive.bytes:
        partial.unlink()
        raise _other_file(archive, f"more than the {archive.bytes:,} bytes expected")


def _start(response: httpx.Response, archive: Archive, size: int) -> int:
    """The byte of the archive that an answer begins with: `size`, or 0 from a server that ignores Range."""
    code = response.status_code
    if code in _BUSY:
        raise httpx.HTTPStatusError(f"the server answers {code}", request=response.request, response=response)
    if code not in (200, 206):
        raise FetchError(f"{archive.name}: {archive.url} answers {code}; it may have moved, look for a newer release")
    start, total = "0", response.headers.get("Content-Length", "")
    if code == 206:
        found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]*/([0-9]+|\*)", response.headers.get("Content-Range", ""))
        start, total = found.groups() if found else ("0", "an unknown part of its")
        if int(start) > size:
            total = "an unknown part of its"
    if total not in ("", "*", str(archive.bytes)):
        raise _other_file(archive, f"{total[:24]} bytes, not {archive.bytes:,}")
    return int(start)


def _other_file(archive: Archive, what: str) -> FetchError:
    return FetchError(
        f"{archive.name}: {archive.url} sends {what}: not the file that is known; look for a login page of your"
        " network, or a newer release"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_right(path: Path, archive: Archive) -> bool:
    if _size(path) != archive.bytes:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


def pieces(path: Path) -> list[Piece]:
    """All pieces of an archive, in the order of its table. Raises FetchError."""
    with _opened(path) as archive:
        return _pieces(archive, path)


def select(
    pieces: Sequence[Piece], years: Sequence[int] = (), composers: Sequence[str] = (), splits: Sequence[str] = ()
) -> list[Piece]:
    """The pieces of any of the years, by any of the composers, in any of the splits; an empty choice takes all.

    A composer or split is any part of its name, without regard to case or accents. Splits are chosen first, then
    years, then composers; FetchError, with what there is, for one without pieces among those chosen so far.
    """
    chosen = list(pieces)
    for what, choices in (("split", splits), ("year", years), ("composer", composers)):
        there = sorted({getattr(piece, what) for piece in chosen})
        taken = set()
        for choice in choices:
            matches = {value for value in there if _matches(choice, value)}
            if not matches:
                names = escape(", ".join(map(str, there)))
                raise FetchError(f"{what} {escape(str(choice))!r} is not in the archive; there are: {names}")
            taken |= matches
        if choices:
            chosen = [piece for piece in chosen if getattr(piece, what) in taken]
    return chosen


def unpack(
    path: Path,
    out: Path,
    years: Sequence[int] = (),
    composers: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> list[Path]:
    """Writes the chosen pieces of an archive (see `select`) into the folder `out`; their paths, in its table's order.

    Files are named "Composer - Title (year).midi", further performances of a year "(year-2)" and so on, the same
    whatever is chosen. Beside them: manifest.csv, with every piece of the archive and its file, and the archive's own
    licence and readme. Files are replaced one by one, each whole. Raises FetchError, and OSError for a disk that
    cannot be written.
    """
    with _opened(path) as archive:
        table = _pieces(archive, path)
        chosen = select(table, years, composers, splits)
        folder = _table(archive, path).filename.rpartition("/")[0]
        texts = [
            (info, name)
            for info in archive.infolist()
            for parent, _, name in [info.filename.rpartition("/")]
            if parent == folder and _TEXTS.fullmatch(name)
        ]
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / "manifest.csv", _manifest(table))
        for info, name in texts:
            write_bytes(out / name, _read(archive, info, path, MAX_TEXT_BYTES))
        left = MAX_TOTAL_BYTES
        for piece in chosen:
            data = _read(archive, archive.getinfo(piece.member), path, min(left, midi_reader.MAX_BYTES))
            left -= len(data)
            write_bytes(out / piece.file, data)
    return [out / piece.file for piece in chosen]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members are all harmless by name, kind and number."""
    with _damage_named(path):
        archive = zipfile.ZipFile(path)
    with archive:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise FetchError(f"{escape(path)}: holds {len(infos):,} files; at most {MAX_MEMBERS:,} are unpacked")
        if len(archive.NameToInfo) < len(infos):
            raise FetchError(f"{escape(path)}: holds two files of one name; it is not used")
        if sum(info.file_size for info in infos) > MAX_TOTAL_BYTES:
            raise _too_large(path, MAX_TOTAL_BYTES)
        for info in infos:
            if reason := _harm(info):
                raise FetchError(f"{escape(path)}: {escape(info.orig_filename)!r} {reason}; it is not used")
        yield archive


def _harm(info: zipfile.ZipInfo) -> str:
    """Why a member must not be unpacked; empty for one that may."""
    name = info.orig_filename
    if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name):
        return "leads outside the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted or packed in an unusual way"
    return ""


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, max_bytes: int) -> bytes:
    """A member's bytes; no more than the bound are ever unpacked, whatever size it declares."""
    with _damage_named(path), archive.open(info) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes)
    return data


def _too_large(path: Path, max_bytes: int) -> FetchError:
    return FetchError(f"{escape(path)}: unpacks to more than {max_bytes / 2**20:,.9g} MiB; it is not used")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FetchError:
        raise
    except _DAMAGE as error:
        raise FetchError(
            f"{escape(path)}: cannot be unpacked ({escape(str(error))}); delete it and fetch it again"
        ) from error


def _table(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    tables = [info for info in archive.infolist() if info.filename.lower().endswith(".csv")]
    if len(tables) != 1:
        raise FetchError(f"{escape(path)}: holds {len(tables)} tables (.csv) of its pieces where one is expected")
    return tables[0]


def _pieces(archive: zipfile.ZipFile, path: Path) -> list[Piece]:
    table = _table(archive, path)
    folder = table.filename[: table.filename.rfind("/") + 1]
    performances: Counter[tuple[str, int]] = Counter()
    found = []
    with _damage_named(path):
        text = _read(archive, table, path, MAX_TEXT_BYTES).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in rows:
                member = folder + row["midi_filename"]
                ending = Path(member).suffix.lower()
                if ending not in ENDINGS or member not in archive.NameToInfo:
                    raise ValueError(f"no MIDI file {member!r} in the archive")
                name, year = _name(row["canonical_composer"], row["canonical_title"]), int(row["year"])
                if not 0 < year < 10_000:
                    raise ValueError(f"{year} is not a year")
                performances[name.casefold(), year] += 1
                count = performances[name.casefold(), year]
                found.append(
                    Piece(
                        file=f"{name} ({year}{f'-{count}' if count > 1 else ''}){ending}",
                        composer=row["canonical_composer"],
                        title=row["canonical_title"],
                        split=row["split"],
                        year=year,
                        seconds=float(row["duration"]),
                        member=member,
                    )
                )
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            what = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{table.filename}, line {rows.line_num}: {what}") from error
        if not found:
            raise ValueError(f"{table.filename}: names no pieces")
    return found


def _name(composer: str, title: str) -> str:
    """A file's name, readable and harmless on any system, that can stand in a recipe."""
    text = unicodedata.normalize("NFC", f"{composer} - {title}")
    text = "".join(letter if letter.isalnum() or letter in _NAME_LETTERS else " " for letter in text)
    text = " ".join(text.split()).encode()[:_NAME_BYTES].decode(errors="ignore")
    return text.strip(" -.'") or "Untitled"


def _matches(choice: int | str, value: int | str) -> bool:
    if isinstance(choice, str) and isinstance(value, str):
        return bool(choice.strip()) and _plain(choice) in _plain(value)
    return choice == value


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
