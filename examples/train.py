"""Train on songs of your own with a callback and a setting changed; stops early where the songs come back well enough.

python examples/train.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import nemui_jax as nemui
from nemui_jax.music import tunes


def main(folder: str | None = None, run: str = "runs/example", enough: float = 0.9, **options) -> nemui.LoadedRun:
    scores: list[float] = []

    def watch(event: nemui.Event) -> None:
        print(f"step {event.step} of {event.total}: loss {event.loss:.3f}")
        if event.note_f1 is not None:
            scores.append(event.note_f1)

    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            tunes.write_all(Path(temporary))
        return nemui.train(
            folder or temporary,
            run,
            overrides=options.pop("overrides", ["model.hidden_size=256"]),
            callbacks=[watch],
            should_stop=lambda: bool(scores) and scores[-1] >= enough,
            **options,
        )


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else None)
