"""What a person writes to name songs, weights and keys, checked before anything slow begins. No JAX here."""

import contextlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsIndex

from nemui_jax import shell
from nemui_jax.config import MAX_NOISE
from nemui_jax.data import dataset
from nemui_jax.errors import RecipeError
from nemui_jax.files import escape
from nemui_jax.music import midi_files
from nemui_jax.music.key import TONICS, shift_to_common


def find_song(song: SupportsIndex | str | Path, entries: Sequence[dataset.SongEntry]) -> int | Path:
    """The index of the song that a name, an index or a unique part of a name means, or the path of a MIDI file.

    A whole name comes first, so that a song named 001 is that one and not the second.
    """
    name = str(song).strip()
    named = [index for index, entry in enumerate(entries) if isinstance(song, str) and entry.name == name]
    if len(named) == 1:
        return named[0]
    if name.isdecimal() or not isinstance(song, str | Path):
        if name.isdecimal() and len(name) < 10 and int(name) < len(entries):
            return int(name)
        raise RecipeError(
            f"no song {name[:20]}; the run has songs 0 to {len(entries) - 1} (see: {shell.command('songs')})"
        )
    if not name:
        raise RecipeError("a song is missing; give an index, a part of a name or a path to a .mid")
    if name.lower().endswith(midi_files.ENDINGS):
        with contextlib.suppress(OSError):  # a name too long for a file
            if Path(name).exists():
                return Path(name)
        raise RecipeError(f"{escape(name)[:200]}: no such file")
    found = [index for index, entry in enumerate(entries) if name.lower() in entry.name.lower()]
    exact = [index for index in found if entries[index].name.lower() == name.lower()]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise RecipeError(f"no song's name has {escape(name)!r} in it (see: {shell.command('songs')})")
    some = ", ".join(f"{index} {entries[index].name}" for index in found[:5])
    raise RecipeError(f"{len(found)} songs have {escape(name)!r} in their names: {some}; use more of the name")


def find_songs(text: str, entries: Sequence[dataset.SongEntry]) -> list[int | Path]:
    """Songs separated by commas; `all` means every song of the run."""
    if text.strip() == "all":
        return list(range(len(entries)))
    return [find_song(name, entries) for name in text.split(",")]


def find_weights(text: str, entries: Sequence[dataset.SongEntry]) -> dict[int | Path, float]:
    """Songs and their weights, as in `0:0.5,3:0.5`, scaled to a sum of 1; a song without a number has weight 1."""
    parts = (part.rpartition(":") for part in text.split(","))
    return scale_weights([(name, number) if colon else (number, 1.0) for name, colon, number in parts], text, entries)


def scale_weights(
    parts: Iterable[tuple[SupportsIndex | str | Path, str | float | int]],
    text: str,
    entries: Sequence[dataset.SongEntry],
) -> dict[int | Path, float]:
    """Songs of weights above 0, scaled to a sum of 1; `text` is how they were written, for errors."""
    weights: dict[int | Path, float] = {}
    for name, number in parts:
        song = find_song(name, entries)
        if song in weights:
            raise RecipeError(f"song {song} is named twice in {escape(text)!r}; name each song once")
        weights[song] = _number(number, f"{name}:{number}")
        if weights[song] < 0:
            raise RecipeError(f"the weight {number} in {escape(text)!r} is below 0; give 0 or more")
    total = sum(weights.values())
    if not 1e-6 < total < 1e12:
        raise RecipeError(f"the weights in {escape(text)!r} add up to {total:g}; choose some with a sum such as 1")
    return {song: weight / total for song, weight in weights.items() if weight}


def find_noise(text: str, entries: Sequence[dataset.SongEntry]) -> tuple[int | Path, float]:
    """A song and an amount of noise, as in `0:0.1`."""
    name, colon, number = text.rpartition(":")
    amount = check_noise(number if colon else 0.1, text)
    return find_song(name if colon else text, entries), amount


def check_noise(number: str | float | int, text: str) -> float:
    """An amount of noise; `text` is how it was written, for errors."""
    amount = _number(number, text)
    if not 0 <= amount <= MAX_NOISE:
        raise RecipeError(f"noise of {amount:g} in {escape(text)!r}; it must be 0 to {MAX_NOISE}")
    return amount


def find_shift(key: SupportsIndex | str, entries: Sequence[dataset.SongEntry]) -> int:
    """Semitones to the common key from a key's name, such as `Eb` or `F#m`, or from a song's key."""
    tonic = str(key).strip().removesuffix("m")
    names = {"DB": 1, "D#": 3, "GB": 6, "G#": 8, "A#": 10} | {name.upper(): i for i, name in enumerate(TONICS)}
    if tonic.upper() in names:
        return shift_to_common(TONICS[names[tonic.upper()]])
    try:
        looks_like_a_key = re.fullmatch(r"[A-Za-z][#b]?m?", str(key).strip())
        if looks_like_a_key and str(key).strip() not in (entry.name for entry in entries):
            raise RecipeError("no song has that name")
        song = find_song(key, entries)
    except RecipeError as error:
        raise RecipeError(f"no key {escape(str(key))!r}; give one such as C, Eb or F#m, or a song ({error})") from error
    if isinstance(song, Path):
        raise RecipeError(f"no key {escape(str(key))!r}; give one such as C, Eb or F#m, or a song of the run")
    return entries[song].shift


def _number(text: str | float | int, part: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        message = f"{escape(part)!r}: {escape(str(text))!r} is not a number; write SONG:NUMBER"
        raise RecipeError(message) from error
    if not math.isfinite(number):
        raise RecipeError(f"{escape(part)!r}: a weight must be a finite number")
    return number
