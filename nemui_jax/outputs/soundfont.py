"""A soundfont's tones, rendered by symusic. A damaged soundfont can crash it, so this module runs as a program:

    python -m nemui_jax.outputs.soundfont FONT RATE NOTES.npy SAMPLES.npy

It writes the samples of the notes. It exits with DAMAGED and one line on stderr if symusic refuses the soundfont.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nemui_jax.outputs.audio import DAMAGED, Tone, ToneGenerator, VelocityToTone, play_notes

symusic: Any = importlib.import_module("symusic")  # by name: its type annotations are incomplete


def tone_generator(font: Path, rate: int) -> ToneGenerator:
    """The tones of a soundfont; programs that it does not have are replaced by program 0. Raises RuntimeError."""
    synthesizer = symusic.Synthesizer(font, rate, 4)

    def render(program: int, pitch: int, velocity: int, seconds: float) -> Tone:
        track = symusic.Track(program=program, ttype="second")
        track.notes.append(symusic.Note(0.0, seconds, pitch, velocity, ttype="second"))
        score = symusic.Score(0, "second")
        score.tracks.append(track)
        return np.ascontiguousarray(synthesizer.render(score, True), np.float32)

    def press(program: int, pitch: int, seconds: float) -> VelocityToTone:
        def strike(velocity: int) -> Tone:
            tone = render(program, pitch, velocity, seconds)
            return tone if tone.any() else render(0, pitch, velocity, seconds)

        return strike

    return press


if __name__ == "__main__":
    font, rate, notes, samples = sys.argv[1:]
    try:
        np.save(samples, play_notes(np.load(notes), tone_generator(Path(font), int(rate)), int(rate)))
    except RuntimeError as error:
        print(str(error).partition("\n")[0], file=sys.stderr)
        sys.exit(DAMAGED)
