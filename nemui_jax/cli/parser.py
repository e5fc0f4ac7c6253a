"""The command-line arguments. No NumPy and no JAX are imported, so that help and errors appear at once."""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nemui_jax import config, shell

DEFAULT_RUN = Path("runs/default")
MAX_SECONDS = 4 * 3600.0
MAX_MINUTES = 366 * 24 * 60.0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed arguments. If a shell asks for completions, prints them and exits instead."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # set by shells with completion (extra: completion)
        with contextlib.suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)
    return parser.parse_args(arguments)


class WrongUsage(ValueError):
    """Arguments that do not parse."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUsage(f"{message} (see: {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run.py",
        description="Neural Music Interpolation: learns your songs and plays them, their mixes and new songs.",
        epilog=f"The tab key completes commands, flags and names of songs: {shell.install('completion')}, "
        'then eval "$(register-python-argcomplete nemui)"; for python run.py: activate-global-python-argcomplete',
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, text: str, example: str, quiet: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=f"example: {shell.command()} {example}")
        sub.set_defaults(command=name)
        sub.add_argument(
            "--run", type=_path, default=DEFAULT_RUN, metavar="DIR", help=f"the run (default: {DEFAULT_RUN})"
        )
        if quiet:
            sub.add_argument("--quiet", action="store_true", help="print only errors and the paths of results")
        return sub

    def max_seconds(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--max-seconds",
            type=_positive(float),
            default=MAX_SECONDS,
            metavar="L",
            help="skip longer songs (default: 14400)",
        )

    def seed(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--seed", type=_seed, default=0, metavar="S", help="random seed (default: 0)")

    train = command("train", "train a run on a folder of MIDI songs, or continue it", "train --dir midis/")
    train.add_argument("--dir", type=_path, required=True, help="folder with MIDI files, read recursively")
    train.add_argument(
        "--steps",
        type=_positive(int, maximum=config.MAX_STEPS),
        metavar="N",
        help="updates (default: by the amount of music)",
    )
    train.add_argument(
        "--minutes", type=_positive(float, maximum=MAX_MINUTES), metavar="M", help="train for about this long instead"
    )
    seed(train)
    train.add_argument(
        "--grid",
        choices=config.GRIDS,
        help="what steps count: beats of the files' tempo maps, seconds, or (auto, the default) for each song beats of "
        "its tempo map if its notes follow that, else beats tracked from its notes, else seconds",
    )
    train.add_argument("--preset", choices=config.PRESETS, default="default", help="original: NeMuI of 2021")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting, such as model.hidden_size=64 (repeatable; see nemui_jax/config.py)",
    )
    train.add_argument("--fresh", action="store_true", help="start over; what the run holds is moved aside")
    train.add_argument(
        "--save-seconds",
        type=_positive(float, zero=True),
        default=30.0,
        metavar="S",
        help="time between checkpoints, and so long again for each second that the last one took (default: 30)",
    )
    max_seconds(train)
    train.add_argument(
        "--device-memory",
        type=_positive(float),
        metavar="GIB",
        help="memory for music and latents (default: the device's); more music is trained on in shards",
    )
    hosts = train.add_argument_group("several processes, on one host or many, each with this command")
    hosts.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of the first process; auto: from SLURM, Cloud TPU or Kubernetes",
    )
    hosts.add_argument("--num-processes", type=_positive(int), metavar="N", help="how many there are")
    hosts.add_argument("--process-id", type=_positive(int, zero=True), metavar="I", help="which one this is, from 0")
    train.add_argument(
        "--tensorboard",
        type=_path,
        nargs="?",
        const=True,
        metavar="DIR",
        help="figures and pictures for TensorBoard (default: in the run; extra: tensorboard)",
    )
    train.add_argument(
        "--profile", type=_path, nargs="?", const=True, metavar="DIR", help="profile some updates (default: in the run)"
    )
    train.add_argument("--json", action="store_true", help="print the result as a JSON object, and nothing else")

    songs = command("songs", "list the songs of a run", "songs", quiet=False)
    songs.add_argument("--json", action="store_true", help="as a JSON list")

    sample = command(
        "sample", "write songs, mixes, morphs, variations and new songs as MIDI", "sample --mix 0:0.5,3:0.5"
    )
    what = sample.add_mutually_exclusive_group(required=True)
    for flag, metavar, text in (
        ("--song", "SONGS", "play learned songs back: 3, or 0,3, or all, or part of a name"),
        ("--mix", "WEIGHTS", "mix songs by weight: 0:0.5,3:0.5"),
        ("--morph", "SONGS", "move from song to song: 0,3 or 0,3,5"),
        ("--perturb", "SONG:NOISE", "variations of a song: 0:0.1"),
    ):
        what.add_argument(flag, metavar=metavar, help=text).completer = _song_names  # type: ignore[attr-defined]
    what.add_argument("--random", action="store_true", help="new songs in the manner of the run's")
    count = _positive(int, maximum=config.MAX_COUNT)
    sample.add_argument("--count", type=count, metavar="N", help="variations or new songs (default: 1)")
    sample.add_argument("--best", type=count, metavar="N", help="write only the best of the new songs")
    sample.add_argument("--out", type=_path, metavar="PATH", help="a .mid file, or a folder (default: samples)")
    max_seconds(sample)
    seed(sample)
    sample.add_argument(
        "--seconds", type=_positive(float, maximum=MAX_SECONDS), metavar="L", help="length of the output"
    )
    sample.add_argument(
        "--temperature",
        type=_positive(float, zero=True, maximum=config.MAX_TEMPERATURE),
        default=0.0,
        metavar="T",
        help="draw what comes from where (0: take the best)",
    )
    sample.add_argument("--key", help="key of the output: Eb, F#m, or a song (default: the heaviest song's)")
    sample.add_argument(
        "--program",
        type=_program,
        metavar="P",
        help="MIDI program 0 to 127 for all, without drums (default: the songs')",
    )
    for factor, text in FACTORS.items():
        flag = sample.add_argument(f"--{factor}", metavar="SONG", help=f"{text} from this song alone, or by weight")
        flag.completer = _song_names  # type: ignore[attr-defined]

    sample.add_argument("--wav", action="store_true", help="also write the sound")
    sample.add_argument("--png", action="store_true", help="also write a picture (extra: plots)")
    sample.add_argument("--soundfont", type=_path, metavar="FILE", help="for --wav (extra: audio; default: one found)")

    sample.add_argument("--json", action="store_true", help="print what was written as a JSON list, and nothing else")

    plots = command(
        "plots", "draw a run: its training, a map of its songs, the song it plays back worst", "plots --out pictures/"
    )
    plots.add_argument("--out", type=_path, metavar="DIR", help="where pictures go (default: plots in the run)")

    evaluate = command(
        "evaluate", "measure how well songs are played back, and the quality of mixes", "evaluate --json figures.json"
    )
    evaluate.add_argument("--json", type=_path, metavar="FILE", help="write all figures to a file")
    evaluate.add_argument("--original", type=_path, metavar="DIR", help="a run of --preset original to compare with")
    max_seconds(evaluate)
    evaluate.add_argument("--held-out", type=_path, metavar="DIR", help="songs that the run has not seen")

    export = command(
        "export", "write weights, rows and decoder for other programs (extra: export)", "export --out exported/"
    )
    export.add_argument("--out", type=_path, metavar="DIR", help="where the files go (default: export in the run)")

    fetch = command("fetch", "download or write songs to train on", "fetch maestro --out midis/ --composer Chopin")
    fetch.add_argument("what", choices=("maestro", "demo"), help="MAESTRO v3.0.0, or the built-in tunes")
    fetch.add_argument("--out", type=_path, required=True, metavar="DIR", help="where the files go")
    fetch.add_argument("--year", type=_years, metavar="YEARS", help="MAESTRO: only these, such as 2004,2006")
    fetch.add_argument("--composer", metavar="NAMES", help="MAESTRO: only these, such as Chopin,Liszt")

    add = command("add", "add songs to a trained run", "add --file new.mid")
    add.add_argument(
        "--file", type=_path, required=True, nargs="+", metavar="PATH", help="MIDI files or folders of them"
    )
    max_seconds(add)
    seed(add)

    studio = command("studio", "open a page in the browser for mixing songs live", "studio", quiet=False)
    studio.add_argument("--port", type=_port, default=8765, help="port on this machine (default: 8765; 0: any)")
    studio.add_argument("--no-browser", action="store_true", help="do not open the browser")

    demo = command("demo", "train on the built-in tunes and write outputs of every kind", "demo")
    demo.set_defaults(run=Path("runs/demo"))
    demo.add_argument("--out", type=_path, default=Path("demo"), metavar="DIR", help="where outputs go (default: demo)")
    return parser


def _song_names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The names of the run's songs, after the last comma, for a shell's completion."""
    before, comma, _last = prefix.rpartition(",")
    try:
        entries = json.loads((parsed_args.run / "run.json").read_text())["songs"]
        names = [entry["name"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [f"{before}{comma}{name}" for name in names if not {",", ":"} & set(name)]


def _path(text: str) -> Path:
    if not text:  # Path("") would be the current folder
        raise argparse.ArgumentTypeError("a path is missing")
    return Path(text)


FACTORS = {
    "harmony": "chords",
    "melody": "the melody",
    "rhythm": "all that accompanies",
    "dynamics": "loudness",
    "tempo": "the tempo",
    "instruments": "the instruments",
}


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
    if not 0 <= value <= config.MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text} is out of range; choose 0 to {config.MAX_SEED:,}")
    return value


def _positive(kind: type, zero: bool = False, maximum: float | int = 1e12) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {'whole number' if kind is int else 'number'}"
            ) from error
        if not (0 < value <= maximum or (zero and value == 0)):
            raise argparse.ArgumentTypeError(
                f"{text} is out of range; choose {'0' if zero else 'more than 0'} to {maximum:,.15g}"
            )
        return value

    return convert


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")


def _years(text: str) -> str:
    if all(part.strip().isdecimal() for part in text.split(",")):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a list of years such as 2004,2006")


def _program(text: str) -> int:
    if text.isdecimal() and int(text) < 128:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a program from 0 to 127")
