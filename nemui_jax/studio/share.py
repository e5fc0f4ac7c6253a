"""A piece as one HTML file that plays by itself: its notes, packed, and the page's own player, roll and sounds."""

import base64
import gzip
import html
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nemui_jax.music.song import Song
from nemui_jax.studio.messages import page_notes, page_parts
from nemui_jax.studio.piece import BLOCK_SECONDS

PAGE = Path(__file__).parent / "page"
MODULES = ("colour", "voice", "player", "roll", "parts", "share")  # each after those that it imports
MOST_LINES, MOST_LETTERS = 12, 4000  # of what is said of a piece
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=\w)", re.MULTILINE)


class About(NamedTuple):
    """What is said of a piece."""

    title: str
    lines: tuple[str, ...]  # its songs, and how it was made
    command: str  # that makes it again
    run: str  # the fingerprint of its run


def read_about(data: Any, run: str) -> About:
    """What the page says of a piece, as far as it is text."""
    data = data if isinstance(data, dict) else {}
    lines = data.get("lines") if isinstance(data.get("lines"), list) else []
    texts = [str(text)[:MOST_LETTERS] for text in (data.get("title", "A piece"), data.get("command", ""))]
    return About(texts[0], tuple(str(line)[:MOST_LETTERS] for line in lines[:MOST_LINES]), texts[1], run)


def write_page(song: Song, about: About) -> bytes:
    """The HTML file, which needs no other file and no server."""
    parts = {name: (PAGE / name).read_text() for name in ("share.html", "style.css", "sounds.js")}
    filled = {
        "TITLE": html.escape(about.title),
        "STYLE": parts["style.css"],
        "ABOUT": "".join(f"<p>{html.escape(line)}</p>" for line in about.lines),
        "COMMAND": html.escape(about.command),
        "RUN": html.escape(about.run),
        "SOUNDS": parts["sounds.js"],
        "PLAYER": bundle(),
        "MUSIC": pack(song),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], parts["share.html"]).encode()


def bundle() -> str:
    """The modules of the player as one script: their names are all different, so imports and exports can go."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", (PAGE / f"{name}.js").read_text())) for name in MODULES)


def pack(song: Song) -> str:
    """A piece in base64 of gzip of JSON: column by column, times as differences, so that it packs well."""
    events = page_notes(song)
    notes, controls = (
        np.array(events[name], int).reshape(-1, width) for name, width in (("notes", 5), ("controls", 4))
    )
    notes[:, 1] -= notes[:, 0]
    for rows in (notes, controls):
        rows[:, 0] = np.diff(rows[:, 0], prepend=0)
    data = {
        "block": BLOCK_SECONDS,
        "blocks": max(int(np.ceil(song.seconds / BLOCK_SECONDS)), 1),
        "parts": page_parts(song),
        "notes": notes.T.tolist(),
        "controls": controls.T.tolist(),
    }
    return base64.b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)).decode()
