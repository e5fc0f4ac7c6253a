"""A soundfont's tones, rendered by symusic. A damaged soundfont can crash it, so this module runs as a program:

    python -m nemui_jax.outputs.soundfont FONT RATE SONG.npz SAMPLES.npy

It writes the samples of the song. It exits with DAMAGED and one line on stderr if symusic refuses the soundfont.
"""

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nemui_jax.music.song import Part, from_arrays
from nemui_jax.outputs.audio import DAMAGED
from nemui_jax.outputs.playing import Tone, ToneGenerator, VelocityToTone, play

symusic: Any = importlib.import_module("symusic")  # by name: its type annotations are incomplete


def tone_generator(font: Path, rate: int) -> ToneGenerator:
    """The tones of a soundfont; programs that it does not have are replaced by program 0. Raises RuntimeError."""

    @functools.cache
    def synthesizer(is_drums: bool) -> Any:
        # One for each kind: symusic 0.5.9 takes a kit and an instrument of one program for the same.
        return symusic.Synthesizer(font, rate, 4)

    def render(part: Part, program: int, pitch: int, velocity: int, seconds: float) -> Tone:
        track = symusic.Track(program=program, is_drum=part.is_drums, ttype="second")
        track.notes.append(symusic.Note(0.0, seconds, pitch, velocity, ttype="second"))
        score = symusic.Score(0, "second")
        score.tracks.append(track)
        return np.ascontiguousarray(synthesizer(part.is_drums).render(score, True), np.float32)

    def press(part: Part, pitch: int, seconds: float) -> VelocityToTone:
        def strike(velocity: int) -> Tone:
            tone = render(part, part.program, pitch, velocity, seconds)
            return tone if tone.any() else render(part, 0, pitch, velocity, seconds)

        return strike

    return press


if __name__ == "__main__":
    font, rate, song, samples = sys.argv[1:]
    try:
        with np.load(song) as stored:
            read = from_arrays(json.loads(str(stored["about"])), stored)
        np.save(samples, play(read, tone_generator(Path(font), int(rate)), int(rate)))
    except RuntimeError as error:
        print(str(error).partition("\n")[0], file=sys.stderr)
        sys.exit(DAMAGED)
