"""Checksums: of a JSON file, inside it, and of the files of a checkpoint, in such a file. No JAX here.

Orbax restores flipped array bytes without an error, hence these.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any


def seal(body: dict[str, Any]) -> str:
    """A JSON object as text, with its own checksum as a last item."""
    return json.dumps(body | {"sha256": _checksum(body)}, indent=1)


def read_json(path: Path) -> Any:
    """What a JSON file holds; ValueError if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(error.strerror) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def unseal(found: Any) -> dict[str, Any]:
    """The object that `seal` made into text; ValueError if it is not as it was."""
    if not isinstance(found, dict):
        raise ValueError("holds no JSON object")
    body = {name: value for name, value in found.items() if name != "sha256"}
    if found.get("sha256") != _checksum(body):
        raise ValueError("does not match its checksum")
    return body


def read_manifest(folder: Path) -> tuple[int, dict[str, str]]:
    """The `rows` and `files` (path, SHA-256) in the .json beside a checkpoint's folder.

    ValueError if it is damaged or names files elsewhere.
    """
    body = unseal(read_json(folder.with_name(f"{folder.name}.json")))
    rows, files = body.get("rows"), body.get("files")
    if not isinstance(rows, int) or not isinstance(files, dict):
        raise ValueError("lists no rows or no files")
    for name, sha256 in files.items():
        if not isinstance(sha256, str):
            raise ValueError(f"has no hash of {name}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"names a file outside its folder: {name}")
    return rows, files


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder, by path."""
    return {file.relative_to(folder).as_posix(): _hash(file) for file in folder.rglob("*") if file.is_file()}


def are_whole(folder: Path, files: dict[str, str]) -> bool:
    """Whether these files are in a folder as they were when they were hashed."""
    try:
        return all(_hash(folder / name) == sha256 for name, sha256 in files.items())
    except OSError:
        return False


def _hash(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
