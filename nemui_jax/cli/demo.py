"""`demo`: all of it on the built-in tunes."""

import argparse

from nemui_jax.cli import console
from nemui_jax.cli.sample import sample
from nemui_jax.cli.train import train
from nemui_jax.music import tunes


def demo(args: argparse.Namespace) -> int:
    """Trains on the built-in tunes; writes recalls, mixes, a morph, variations and new songs."""
    from nemui_jax.cli.parser import parse

    folder = args.out / "tunes"
    tunes.write_all(folder)
    print(f"{len(tunes.TUNES)} built-in tunes are in {folder}")
    code = train(parse(["train", "--dir", str(folder), "--run", str(args.run), "--grid", "beats"]))
    for line in (
        f"--song all --out {args.out}/recall",
        f"--mix entertainer:0.5,prelude-in-c:0.5 --out {args.out}/mix-entertainer-prelude.mid",
        f"--mix greensleeves:0.4,gymnopedie:0.3,canon:0.3 --out {args.out}/mix-of-three.mid",
        f"--morph fur-elise,blue-danube --out {args.out}/morph-fur-elise-blue-danube.mid",
        f"--perturb ode-to-joy:0.3 --count 3 --out {args.out}/variations",
        f"--random --count 6 --best 2 --out {args.out}/new",
    ):
        if code == 0:
            print(f"\npython run.py sample {line} --run {args.run}")
            sample(parse(["sample", *line.split(), "--run", str(args.run)]))
    console.print_result(args.out, f"\nall of it is in {args.out}")
    return code
