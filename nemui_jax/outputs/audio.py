"""Songs rendered as sound: with a soundfont where there is one, else with built-in piano tones.

Conventions: a tone is `[channel, sample]` in float32 (left, right), the sound of one key held down; rendered samples
are `[sample, channel]`, within -1 to 1. A tone generator makes the tones: `generator(program, pitch, seconds)` returns
a function from velocity to tone, and a tone may be shorter than `seconds` if it has died away. The rest is the same for
every generator: level by velocity, dampers, pedal, room, loudness.

The pedal lengthens notes (`sustained`). symusic 0.5.9 plays a soundfont's samples without velocity levels, releases and
the pedal, so it only renders single tones.
"""

import importlib.util
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
from jaxtyping import Float

from nemui_jax import shell
from nemui_jax.data import pianoroll
from nemui_jax.errors import MissingExtra, SoundfontError
from nemui_jax.files import escape, write_bytes
from nemui_jax.music.song import Song

RATE = 44100  # samples a second
RATES = (8000, 192_000)
LOUDNESS_DB = -20.0  # level of every rendered song, dB below full scale; see `loudness`
PEAK = 0.98  # no sample is further from 0
TAIL_SECONDS = 2.0  # of damping and room after the last end
RING_SECONDS = 6.0  # after the last key is released, of a pedal that is never lifted
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
_LAYER = 8  # velocities that share a tone
_DAMPER_SECONDS = 0.25  # from the release of a key to silence
_KNEE = 0.7  # samples beyond it are compressed towards PEAK
_GATE_SECONDS = 0.4
_PREFERRED = ("default", "musescore_general", "generaluser", "fluidr3", "timgm")  # fonts with all instruments
Tone = Float[np.ndarray, "2 sample"]
VelocityToTone = Callable[[int], Tone]
ToneGenerator = Callable[[int, int, float], VelocityToTone]  # of program, pitch, seconds


def render(song: Song, soundfont: Path | None = None, rate: int = RATE) -> Float[np.ndarray, "sample 2"]:
    """A song as stereo sound at `rate` samples a second, TAIL_SECONDS longer than its sustained notes.

    It is played with `soundfont`, else with the one that `find_soundfont` returns, else with built-in tones, a piano's
    for any program. The loudness is LOUDNESS_DB, whatever the velocities; peaks are compressed and never exceed PEAK.
    The same song, font and rate give the same samples.

    Raises SoundfontError for a file that is not a soundfont or is damaged, ValueError for a rate out of RATES,
    MissingExtra if a soundfont is named but symusic is not installed.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a rate of {rate} samples a second; choose {RATES[0]} to {RATES[1]}")
    soundfont = soundfont or find_soundfont()
    notes = sustained(song)
    samples = _play_soundfont(notes, soundfont, rate) if soundfont else play_notes(notes, _piano(rate), rate)
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


def sustained(song: Song) -> np.ndarray:
    """The notes of a song with `end` where the damper falls instead of where the key is released.

    A note whose key is released while the pedal is down lasts until the pedal is up, or until the next onset on its
    channel and pitch.
    """
    notes = song.notes.copy()
    if not len(notes):
        return notes
    down = np.concatenate([[False], song.pedal["value"] >= pianoroll.PEDAL_DOWN])
    events_before = np.searchsorted(song.pedal["time"], notes["end"], side="right")
    ups = np.append(song.pedal["time"][~down[1:]], song.seconds + RING_SECONDS)
    lifted = ups[np.searchsorted(ups[:-1], notes["end"], side="right")]
    notes["end"] = np.where(down[events_before], np.minimum(lifted, song.seconds + RING_SECONDS), notes["end"])

    order = np.lexsort((notes["onset"], notes["pitch"], notes["channel"]))
    before, after = order[:-1], order[1:]
    same = (notes["pitch"][before] == notes["pitch"][after]) & (notes["channel"][before] == notes["channel"][after])
    before, after = before[same], after[same]
    struck_again = np.maximum(notes["onset"][after], song.notes["end"][before])
    notes["end"][before] = np.minimum(notes["end"][before], struck_again)
    return notes


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


def play_notes(notes: np.ndarray, generator: ToneGenerator, rate: int) -> Tone:
    """The sum of all notes' tones, each at the level of its velocity and damped at its end."""
    last = notes["end"].max() if len(notes) else 0.0
    samples = np.zeros((2, round((last + TAIL_SECONDS) * rate)), np.float32)
    damper = _damper(rate)
    for same in _groups(notes, "program", "pitch"):
        longest = float((same["end"] - same["onset"]).max()) + _DAMPER_SECONDS
        velocity_to_tone = generator(int(same["program"][0]), int(same["pitch"][0]), longest)
        for layer in np.unique(same["velocity"] // _LAYER):
            tone = velocity_to_tone(min(int(layer) * _LAYER + _LAYER // 2, 127))
            for note in same[same["velocity"] // _LAYER == layer]:
                start, stop = round(note["onset"] * rate), round(note["end"] * rate)
                gain = np.float32((note["velocity"] / 127) ** 2)  # as in soundfonts: 40 dB a decade
                body, rest = tone[:, : stop - start], tone[:, stop - start : stop - start + len(damper)]
                samples[:, start : start + body.shape[1]] += gain * body
                samples[:, stop : stop + rest.shape[1]] += rest * (gain * damper[: rest.shape[1]])
    return samples


def _groups(notes: np.ndarray, *fields: str) -> Iterator[np.ndarray]:
    """The notes that are equal in some fields, group by group."""
    notes = np.sort(notes, order=list(fields))
    edges = np.flatnonzero(notes[list(fields)][1:] != notes[list(fields)][:-1]) + 1
    return (group for group in np.split(notes, edges) if len(group))


def _damper(rate: int) -> Float[np.ndarray, " sample"]:
    """Gain after a key is released: halved every 40 ms, and smoothly to 0 at the end."""
    time = np.arange(round(_DAMPER_SECONDS * rate)) / rate
    return (0.5 ** (time / 0.04) * np.cos(np.pi / 2 * time / _DAMPER_SECONDS) ** 2).astype(np.float32)


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


def _piano(rate: int) -> ToneGenerator:
    """Piano tones: each partial is a loud sine that decays fast and a softer, slightly detuned one that decays slowly.

    Partials are sharp because strings are stiff (Fletcher and Rossing, "The Physics of Musical Instruments", chapter
    12). High strings and high partials decay faster; a harder stroke has stronger high partials.
    """

    def press(program: int, pitch: int, seconds: float) -> VelocityToTone:
        base = 440 * 2 ** ((pitch - 69) / 12)
        number = np.arange(1, 25)
        stiffness = 3e-4 * 2 ** (max(pitch - 60, -18) / 8)
        frequency = number * base * np.sqrt((1 + stiffness * number**2) / (1 + stiffness))
        audible = frequency < min(0.45 * rate, max(10_000, 1.01 * base))
        number, frequency = number[audible], frequency[audible]
        die_seconds = 18 * 2 ** (min(33 - pitch, 0) / 18)  # until the first partial is down by 60 dB
        decay = 6.9 / die_seconds * (1 + 0.15 * (number - 1))
        count = round(min(seconds, 1.2 * die_seconds) * rate)
        phase = 2.4 * number  # so that the partials' peaks do not coincide
        partials = _ringing(frequency, 2 * decay, phase, count, rate)
        partials *= 0.6
        partials += 0.4 * _ringing(frequency * 1.0004, decay, phase, count, rate)
        partials *= np.clip(np.arange(count) / (0.003 * rate), 0, 1, dtype=np.float32)
        angle = np.pi / 4 * (1 + np.clip((pitch - 64) / 88, -0.5, 0.5))
        sides = np.array([[np.cos(angle)], [np.sin(angle)]], np.float32)

        def strike(velocity: int) -> Tone:
            reach = 300 + 25 * velocity  # hertz above the first over which partials fall to 1 / e
            strength = np.exp((frequency[:1] - frequency) / reach) * np.abs(np.sin(np.pi * number / 7.3)) / number
            strength *= frequency / (frequency + 120)  # a soundboard radiates low frequencies badly
            strength /= np.sqrt((strength**2).sum())
            return sides * (strength.astype(np.float32) @ partials)

        return strike

    return press


def _ringing(
    frequency: Float[np.ndarray, " partial"],
    decay: Float[np.ndarray, " partial"],
    phase: Float[np.ndarray, " partial"],
    count: int,
    rate: int,
) -> Float[np.ndarray, "partial sample"]:
    """Sines that decay by `exp(-decay * seconds)`.

    They are powers of complex numbers, computed as products of coarse and fine ones: far cheaper than a sine a sample.
    """
    fine_count = 512
    power = (2j * np.pi * frequency - decay)[:, None] / rate
    coarse = np.exp(power * np.arange(0, count, fine_count) + 1j * phase[:, None])
    fine = np.exp(power * np.arange(fine_count))
    whole = coarse.astype(np.complex64)[:, :, None] * fine.astype(np.complex64)[:, None, :]
    return whole.imag.reshape(len(frequency), coarse.shape[1] * fine_count)[:, :count]


def _rank(path: Path) -> int:
    name = path.name.lower()
    return next((rank for rank, font in enumerate(_PREFERRED) if name.startswith(font)), len(_PREFERRED))


def _play_soundfont(notes: np.ndarray, path: Path, rate: int) -> Tone:
    """`play_notes` with a soundfont, in a separate process, because a damaged soundfont can crash or hang symusic."""
    _check_soundfont(path)
    with tempfile.TemporaryDirectory() as folder:
        notes_path, samples_path = Path(folder) / "notes.npy", Path(folder) / "samples.npy"
        np.save(notes_path, notes)
        command = [sys.executable, "-m", "nemui_jax.outputs.soundfont", path, str(rate), notes_path, samples_path]
        limit = LIMIT_SECONDS + len(notes) * LIMIT_NOTE_SECONDS
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
