"""`demo`: training and all kinds of output on the built-in tunes."""

import argparse

from nemui_jax import shell
from nemui_jax.cli import console
from nemui_jax.cli.sample import sample
from nemui_jax.cli.train import train
from nemui_jax.files import escape
from nemui_jax.music import tunes


def demo(args: argparse.Namespace) -> int:
    """Trains on the built-in tunes; plays them back; writes mixes, a morph, variations and new songs."""
    from nemui_jax.cli.parser import parse

    folder = args.out / "tunes"
    tunes.write_all(folder)
    print(f"{len(tunes.TUNES)} built-in tunes are in {escape(folder)}")
    code = train(parse(["train", "--dir", str(folder), "--run", str(args.run)]))
    for out, *what in (
        ("recall", "--song", "all"),
        ("mix-entertainer-prelude.mid", "--mix", "entertainer:0.5,prelude-in-c:0.5"),
        ("mix-saints-susanna.mid", "--mix", "saints:0.5,susanna:0.5"),
        ("mix-of-three.mid", "--mix", "greensleeves:0.4,gymnopedie:0.3,canon:0.3"),
        ("morph-fur-elise-blue-danube.mid", "--morph", "fur-elise,blue-danube"),
        ("variations", "--perturb", "ode-to-joy:0.3", "--count", "3"),
        ("new", "--random", "--count", "6", "--best", "2"),
    ):
        if code == 0:
            words = ["sample", *what, "--out", str(args.out / out), "--run", str(args.run)]
            print(f"\n{shell.command(*words)}")
            sample(parse(words))
    console.print_result(args.out, f"\nall outputs are in {escape(args.out)}")
    return code
