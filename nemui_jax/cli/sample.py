"""`sample`: writes songs, mixes, morphs, variations and new songs."""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nemui_jax import api, recipe
from nemui_jax.cli import console
from nemui_jax.errors import UsageError
from nemui_jax.files import escape
from nemui_jax.music.song import Song
from nemui_jax.runs.run import Run


def sample(args: argparse.Namespace) -> None:
    """Writes the outputs that the arguments ask for."""
    _check_outputs(args)
    run = api.load(args.run, partial(print, flush=True))
    run = dataclasses.replace(run, max_seconds=args.max_seconds)
    factors = api.Factors(**{field.name: getattr(args, field.name) for field in dataclasses.fields(api.Factors)})
    names = [field.name for field in dataclasses.fields(api.Options) if field.name != "factors"]
    options = api.Options(**{name: getattr(args, name) for name in names}, factors=factors)
    if args.random:
        count, best = args.count or 1, args.best or args.count or 1
        paths = _out_paths(args.out, [f"{index:03d}-random" for index in range(best)])
        console.start_jax()
        pieces = run.play_new(count, best, options)
    else:
        best, plans = 0, _plans(args, run.run)
        paths = _out_paths(args.out, [name for name, _ in plans])
        console.start_jax()
        pieces = run.play([plan for _, plan in plans], options)
    written = [_write(args, path, piece) for path, piece in zip(paths, pieces, strict=False)]
    if len(written) < best:
        print(f"only {len(written)} of {best}: the run's songs are so few or so alike; another --seed gives others")
    if args.json:
        console.print_json(written)


def _check_outputs(args: argparse.Namespace) -> None:
    """Raises now, instead of after the first piece, if pictures or sound cannot be made."""
    if args.png:
        api.import_plots()
    if args.wav:
        from nemui_jax.outputs import audio

        audio.render(Song(()), args.soundfont)
    elif args.soundfont:
        raise UsageError("--soundfont goes with --wav")


def _write(args: argparse.Namespace, path: Path, piece: api.Piece) -> dict[str, Any]:
    """Writes an output, with sound and picture if asked for; returns its entry for --json."""
    piece.write(path)
    console.print_result(path, f"{escape(path)}: {_in_words(piece)}")
    others = [path.with_suffix(ending) for ending in [".wav"] * args.wav + [".png"] * args.png]
    for other in others:
        piece.write(other, args.soundfont)
        console.print_result(other)
    weights = piece.weights or (None,) * len(piece.songs)
    return {
        "path": str(path),
        "title": piece.song.name,
        "kind": piece.kind,
        "songs": [
            {"name": name, "weight": weight} | ({"gave": piece.gave[index]} if piece.gave else {})
            for index, (name, weight) in enumerate(zip(piece.songs, weights, strict=True))
        ],
        "seconds": round(piece.seconds, 3),
        "notes": len(piece.notes),
        "key": piece.key,
        "tempo": round(piece.tempo, 2),
        "instruments": list(piece.instruments),
        "seed": json.loads(piece.provenance.partition(" ")[2])["seed"],
        "remark": piece.remark,
        "also": [str(other) for other in others],
    }


def _in_words(piece: api.Piece) -> str:
    """The songs, key, tempo, length and instruments of a piece, in one line."""
    names = [escape(name) for name in piece.songs]
    if piece.gave:
        names = [f"{gave} of {name}" for name, gave in zip(names, piece.gave, strict=True)]
    elif len(piece.weights) > 1:
        names = [f"{name} {weight:.2f}" for name, weight in zip(names, piece.weights, strict=True)]
    made_of = {"recall": "", "morph": "morph of ", "new": "new: "}.get(piece.kind, "mix of ")
    made_of = "variation of " if piece.kind == "mix" and len(names) == 1 else made_of
    instruments = ", ".join(piece.instruments[:3]) + (", ..." if piece.instruments[3:] else "")
    figures = f"{piece.key}, {piece.tempo:.0f} bpm, {console.duration(piece.seconds)}, {len(piece.notes):,} notes"
    parts = (
        made_of + (" to " if piece.kind == "morph" else ", ").join(names),
        figures,
        instruments,
        escape(piece.remark),
    )
    return "; ".join(part for part in parts if part)


def _plans(args: argparse.Namespace, run: Run) -> list[tuple[str, api.Plan]]:
    """The plans of all outputs, each with the name of its file."""
    if args.best or (args.count and not args.perturb):
        raise UsageError("--count goes with --perturb and --random, --best with --random")

    def name(songs: Iterable[int | Path]) -> str:
        return "+".join(run.entries[song].name if isinstance(song, int) else song.stem for song in songs)

    if args.song is not None:
        songs = recipe.find_songs(args.song, run.entries)
        numbered = [(song, song if isinstance(song, int) else len(run.entries)) for song in songs]
        given = {"song": args.song}
        return [
            (f"{number:03d}-{name([song])}", api.Plan((song,), (1.0,), given, seed=args.seed))
            for song, number in numbered
        ]
    if args.mix is not None:
        weights = recipe.find_weights(args.mix, run.entries)
        plan = api.Plan(tuple(weights), tuple(weights.values()), {"mix": args.mix}, seed=args.seed)
        return [(f"000-mix-{name(weights)}", plan)]
    if args.morph is not None:
        songs = recipe.find_songs(args.morph, run.entries)
        if len(songs) < 2:
            raise UsageError(f"--morph {args.morph}: name two songs at least, such as 0,3")
        return [(f"000-morph-{name(songs)}", api.Plan(tuple(songs), None, {"morph": args.morph}, seed=args.seed))]
    song, noise = recipe.find_noise(args.perturb, run.entries)
    plan = api.Plan((song,), (1.0,), {"perturb": args.perturb}, noise)
    return [
        (f"{i:03d}-perturb-{name([song])}", dataclasses.replace(plan, seed=args.seed + i))
        for i in range(args.count or 1)
    ]


def _out_paths(out: Path | None, names: Sequence[str]) -> list[Path]:
    """The path of each output: `--out` itself if it is a .mid and there is one output, else files in that folder."""
    if out is not None and (flag := {".wav": "--wav", ".png": "--png"}.get(out.suffix.lower())) and not out.is_dir():
        raise UsageError(
            f"--out {escape(out)}: name a .mid file, and add {flag} to write the {out.suffix[1:]} beside it"
        )
    if out is not None and out.suffix.lower() in (".mid", ".midi"):
        if len(names) > 1:
            raise UsageError(f"--out {escape(out)}: {len(names)} outputs need a folder, not one file")
        return [out]
    folder = out or Path("samples")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {escape(folder)}: neither a folder nor a .mid file")
    return [folder / f"{re.sub(r'[^A-Za-z0-9._+-]+', '_', name)[:100]}.mid" for name in names]
