"""Songs rendered as sound: with a soundfont where there is one, else with built-in tones.

Rendered samples are `[sample, channel]` (left, right), within -1 to 1. symusic 0.5.9 plays a soundfont's samples
without velocity levels, releases and controls, so it only renders single tones; `playing` does the rest, the same for
both kinds of tones, and room and loudness are added here.
"""

import importlib.util
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import wave
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
from jaxtyping import Float

from nemui_jax import shell
from nemui_jax.errors import MissingExtra, SoundfontError
from nemui_jax.files import escape, write_bytes
from nemui_jax.music.song import Song, to_arrays
from nemui_jax.outputs.playing import Tone, play
from nemui_jax.outputs.tones import tone_generator

RATE = 44100  # samples a second
RATES = (8000, 192_000)
LOUDNESS_DB = -20.0  # level of every rendered song, dB below full scale; see `loudness`
PEAK = 0.98  # no sample is further from 0
ENDINGS = (".sf2", ".sf3")
FOLDERS = tuple(
    Path(folder)
    for folder in (
        "~/.local/share/soundfonts",
        "~/.local/share/sounds/sf2",
        "~/Library/Audio/Sounds/Banks",
        "/usr/local/share/soundfonts",
        "/usr/local/share/sounds/sf2",
        "/usr/share/soundfonts",
        "/usr/share/sounds/sf2",
        "/usr/share/sounds/sf3",
        "/opt/homebrew/share/soundfonts",
        "/opt/homebrew/share/sounds/sf2",
        "/Library/Audio/Sounds/Banks",
    )
)
LIMIT_SECONDS = 60.0  # for a soundfont to load
LIMIT_NOTE_SECONDS = 0.1  # and for each note: ten times what a slow machine needs
DAMAGED = 3  # exit status of the process that plays a soundfont if symusic refuses it
CRASHES = tuple(-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))
_KNEE = 0.7  # samples beyond it are compressed towards PEAK
_GATE_SECONDS = 0.4
_PREFERRED = ("default", "musescore_general", "generaluser", "fluidr3", "timgm")  # fonts with all instruments


def render(song: Song, soundfont: Path | None = None, rate: int = RATE) -> Float[np.ndarray, "sample 2"]:
    """A song as stereo sound at `rate` samples a second, `playing.TAIL_SECONDS` longer than its sustained notes.

    It is played with `soundfont`, else with the one that `find_soundfont` returns, else with built-in tones, one kind
    for each family of instruments. The loudness is LOUDNESS_DB, whatever the velocities; peaks are compressed and
    never exceed PEAK. The same song, font and rate give the same samples.

    Raises SoundfontError for a file that is not a soundfont or is damaged, ValueError for a rate out of RATES,
    MissingExtra if a soundfont is named but symusic is not installed.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a rate of {rate} samples a second; choose {RATES[0]} to {RATES[1]}")
    soundfont = soundfont or find_soundfont()
    samples = _play_soundfont(song, soundfont, rate) if soundfont else play(song, tone_generator(rate), rate)
    _add_room(samples, rate)
    _level(samples, rate)
    return np.ascontiguousarray(samples.T)


def find_soundfont() -> Path | None:
    """The soundfont that `render` uses by default; None if there is none, or if symusic is not installed.

    It is the file named by the environment variable SOUNDFONT, else one from the first of FOLDERS that has any: a
    preferred one, or the first by name. Raises SoundfontError if the file named by SOUNDFONT does not exist.
    """
    if importlib.util.find_spec("symusic") is None:
        return None
    if named := os.environ.get("SOUNDFONT"):
        if not Path(named).is_file():
            raise SoundfontError(f"{escape(named)}: no such file; correct or unset the variable SOUNDFONT")
        return Path(named)
    for folder in FOLDERS:
        fonts = [path for path in folder.expanduser().glob("*") if path.suffix.lower() in ENDINGS and path.is_file()]
        if fonts:
            return min(fonts, key=lambda path: (_rank(path), path.name))
    return None


def loudness(samples: Float[np.ndarray, "2 sample"], rate: int) -> float:
    """Level in dB relative to full scale: the root mean square of both channels over blocks of 0.4 s, gated.

    As in ITU-R BS.1770, blocks below -70 dB, and then those 10 dB below the mean of the rest, do not count, so that
    rests have no effect; unlike there, blocks do not overlap and frequencies are not weighted. -inf for silence.
    """
    size = round(_GATE_SECONDS * rate)
    starts = np.arange(0, samples.shape[1], size)
    power = np.add.reduceat(np.einsum("cs,cs->s", samples, samples), starts, dtype=float) if len(starts) else starts
    power = power / (2 * size)
    power = power[power > 1e-7]
    power = power[power > power.mean() / 10] if len(power) else power
    return float(10 * np.log10(power.mean())) if len(power) else float("-inf")


def write_wav(path: str | os.PathLike, samples: Float[np.ndarray, "sample channel"], rate: int = RATE) -> None:
    """Writes samples as a 16-bit PCM WAV file, atomically; those beyond -1 to 1 are clipped. Raises OSError."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    write_bytes(path, buffer.getvalue())


def _add_room(samples: Tone, rate: int) -> None:
    """Adds, in place, the reverberation of a small hall: decaying noise of a second, different on each side.

    Convolved by FFT, block by block from the last to the first, so that the reverberation is not convolved again.
    """
    time = np.arange(round(1.0 * rate)) / rate
    noise = np.random.default_rng(0).standard_normal((2, len(time)))
    noise = (noise + np.roll(noise, 1, axis=1) + np.roll(noise, 2, axis=1)) / 3  # walls absorb high frequencies
    echo = noise * np.exp(-time / 0.16) * np.clip(time / 0.012, 0, 1) * np.clip((1.0 - time) / 0.1, 0, 1)
    echo *= 0.16 / np.sqrt((echo**2).sum(axis=1, keepdims=True))
    size = 1 << (2 * len(time) - 1).bit_length()
    spectrum = np.fft.rfft(echo.astype(np.float32), size)
    block = size - len(time)
    for start in reversed(range(0, samples.shape[1], block)):
        wet = np.fft.irfft(np.fft.rfft(samples[:, start : start + block], size) * spectrum, size)
        samples[:, start : start + size] += wet[:, : samples.shape[1] - start]


def _level(samples: Tone, rate: int) -> None:
    """Scales samples, in place, to LOUDNESS_DB, and compresses those beyond the knee towards PEAK."""
    peak = np.abs(samples).max(initial=0)
    if peak == 0:
        return
    samples /= peak  # so that the gate of `loudness` is below even the softest music
    samples *= np.float32(10 ** ((LOUDNESS_DB - loudness(samples, rate)) / 20))
    beyond = np.abs(samples) > _KNEE
    excess = (np.abs(samples[beyond]) - _KNEE) / (PEAK - _KNEE)
    samples[beyond] = np.sign(samples[beyond]) * (_KNEE + (PEAK - _KNEE) * np.tanh(excess))


def _rank(path: Path) -> int:
    name = path.name.lower()
    return next((rank for rank, font in enumerate(_PREFERRED) if name.startswith(font)), len(_PREFERRED))


def _play_soundfont(song: Song, path: Path, rate: int) -> Tone:
    """`play` with a soundfont, in a separate process, because a damaged soundfont can crash or hang symusic."""
    _check_soundfont(path)
    with tempfile.TemporaryDirectory() as folder:
        song_path, samples_path = Path(folder) / "song.npz", Path(folder) / "samples.npy"
        about, arrays = to_arrays(song)
        np.savez(song_path, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
        command = [sys.executable, "-m", "nemui_jax.outputs.soundfont", path, str(rate), song_path, samples_path]
        limit = LIMIT_SECONDS + sum(len(part.notes) for part in song.parts) * LIMIT_NOTE_SECONDS
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(command, env=environment, stdin=DEVNULL, capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired as error:
            reason = f"no sound after {limit:.0f} s"
            raise SoundfontError(f"{escape(path)}: is a damaged soundfont ({reason}); use another") from error
        if done.returncode == 0:
            return np.load(samples_path)
    reason = escape((done.stderr.splitlines() or [b"no reason given"])[-1])
    if done.returncode < 0:
        reason = f"symusic crashed with {signal.Signals(-done.returncode).name}"
    what = "is a damaged soundfont" if done.returncode in (DAMAGED, *CRASHES) else "cannot be played"
    raise SoundfontError(f"{escape(path)}: {what} ({reason}); use another")


def _check_soundfont(path: Path) -> None:
    """Raises SoundfontError for a file that is not a soundfont, and MissingExtra if symusic is not installed."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise SoundfontError(f"{escape(path)}: is not a file; name a soundfont (.sf2 or .sf3)")
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as error:
        raise SoundfontError(f"{escape(path)}: cannot be read: {error.strerror}") from error
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise SoundfontError(f"{escape(path)}: is not a soundfont (.sf2 or .sf3)")
    if importlib.util.find_spec("symusic") is None:
        raise MissingExtra(f"playing a soundfont needs symusic: {shell.install('audio')}")
