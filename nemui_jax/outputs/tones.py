"""Tones made without samples: a piano, plucked strings, a bass, bowed strings, leads, and a drum kit."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax.music.instruments import family
from nemui_jax.music.song import Part
from nemui_jax.outputs import drum_kit
from nemui_jax.outputs.playing import Tone, ToneGenerator, VelocityToTone

_RISE_SECONDS = 0.003  # from the stroke of a string to its full tone


class _String(NamedTuple):
    """A struck or plucked string, whose tone dies away."""

    level: float
    seconds: float  # until the lowest notes' first partial is down by 60 dB
    stiffness: float  # of the middle C, which makes partials sharp
    damping: float  # how much faster each partial decays than the one below it, of the first one's decay
    place: float  # 1 / the part of the string at which it is struck
    slow: float  # the share of the tone that decays at half the rate, slightly detuned
    reach: tuple[float, float]  # hertz over which partials fall to 1 / e: at velocity 0, and more for each velocity


class _Wave(NamedTuple):
    """A tone that lasts: a loop of harmonics, each a band of frequencies."""

    level: float
    rise_seconds: float
    cents: float  # width of the bands
    steady: float  # the share of each harmonic that is a plain sine
    slope: float  # harmonic number n is n**-slope as strong as the first
    reach: tuple[float, float]  # hertz over which harmonics also fall to 1 / e, at velocity 0 and at 127


_STRINGS = {
    "piano": _String(1.0, 18.0, 3e-4, 0.15, 7.3, 0.4, (300.0, 25.0)),
    "plucked": _String(1.3, 9.0, 2e-5, 0.3, 11.3, 0.15, (1200.0, 34.0)),
    "bass": _String(1.1, 14.0, 5e-5, 0.5, 3.6, 0.2, (90.0, 5.0)),
}
_WAVES = {
    "bowed": _Wave(0.28, 0.06, 9.0, 0.6, 1.1, (700.0, 2200.0)),
    "lead": _Wave(0.27, 0.015, 4.0, 0.85, 0.4, (600.0, 1900.0)),
}


def tone_generator(rate: int) -> ToneGenerator:
    """The tones of a part's family of instruments."""

    def press(part: Part, pitch: int, seconds: float) -> VelocityToTone:
        if part.is_drums:
            sound = drum_kit.hit(pitch, rate)
            return lambda velocity: sound
        kind = family(part.program)
        if kind in _STRINGS:
            return _strike(_STRINGS[kind], pitch, seconds, rate)
        return _sustain(_WAVES[kind], pitch, seconds, rate)

    return press


def _strike(string: _String, pitch: int, seconds: float, rate: int) -> VelocityToTone:
    """Each partial is a loud sine that decays fast and a softer, slightly detuned one that decays slowly.

    Partials are sharp because strings are stiff (Fletcher and Rossing, "The Physics of Musical Instruments", chapter
    12). High strings and high partials decay faster; a harder stroke has stronger high partials.
    """
    base = 440 * 2 ** ((pitch - 69) / 12)
    number = np.arange(1, 25)
    stiffness = string.stiffness * 2 ** (max(pitch - 60, -18) / 8)
    frequency = number * base * np.sqrt((1 + stiffness * number**2) / (1 + stiffness))
    audible = frequency < min(0.45 * rate, max(10_000, 1.01 * base))
    number, frequency = number[audible], frequency[audible]
    die_seconds = string.seconds * 2 ** (min(33 - pitch, 0) / 18)  # until the first partial is down by 60 dB
    decay = 6.9 / die_seconds * (1 + string.damping * (number - 1))
    count = round(min(seconds, 1.2 * die_seconds) * rate)
    phase = 2.4 * number  # so that the partials' peaks do not coincide
    partials = _ringing(frequency, 2 * decay, phase, count, rate)
    partials *= 1 - string.slow
    partials += string.slow * _ringing(frequency * 1.0004, decay, phase, count, rate)
    partials *= np.clip(np.arange(count) / (_RISE_SECONDS * rate), 0, 1, dtype=np.float32)
    angle = np.pi / 4 * (1 + np.clip((pitch - 64) / 88, -0.5, 0.5))
    sides = string.level * np.array([[np.cos(angle)], [np.sin(angle)]], np.float32)

    def strike(velocity: int) -> Tone:
        reach = string.reach[0] + string.reach[1] * velocity
        strength = np.exp((frequency[:1] - frequency) / reach) * np.abs(np.sin(np.pi * number / string.place)) / number
        strength *= frequency / (frequency + 120)  # a soundboard radiates low frequencies badly
        strength /= np.sqrt((strength**2).sum())
        return sides * (strength.astype(np.float32) @ partials)

    return strike


def _sustain(wave: _Wave, pitch: int, seconds: float, rate: int) -> VelocityToTone:
    """A loop of about 2 s that holds whole periods, repeated; left and right differ in the phases of their bands."""
    base = 440 * 2 ** ((pitch - 69) / 12)
    count, periods = round(seconds * rate), round(2 * base)
    loops = [_loop(wave, base, periods, reach, pitch, rate) for reach in wave.reach]
    rise = np.clip(np.arange(count) / (wave.rise_seconds * rate), 0, 1, dtype=np.float32) ** 1.5

    def sustain(velocity: int) -> Tone:
        force = np.float32(velocity / 127)
        loop = (1 - force) * loops[0] + force * loops[1]
        return np.tile(loop, (1, -(-count // loop.shape[1])))[:, :count] * rise

    return sustain


def _loop(wave: _Wave, base: float, periods: int, reach: float, seed: int, rate: int) -> Tone:
    """So many periods of a tone as a sum of harmonics, each a sine and a band of noise about it."""
    size = round(periods * rate / base)
    frequency = np.arange(size // 2 + 1) * (base / periods)
    number = np.arange(1, max(int(min(0.45 * rate, 12_000) / base), 1) + 1)
    number = number[number * base < 0.5 * rate]
    strength = np.exp(-(number - 1) * base / reach) / number**wave.slope
    rng = np.random.default_rng(seed)
    spectrum = np.zeros((2, len(frequency)), complex)
    for partial, amount in zip(number.tolist(), strength.tolist(), strict=True):
        width = partial * base * (2 ** (wave.cents / 1200) - 1)
        near = slice(*np.searchsorted(frequency, [partial * base - 3 * width, partial * base + 3 * width]))
        band = np.exp(-(((frequency[near] - partial * base) / width) ** 2) / 2)
        band = band / max(np.sqrt((band**2).sum()), 1e-12)
        spectrum[:, near] += (1 - wave.steady) * amount * band * np.exp(2j * np.pi * rng.random((2, len(band))))
        spectrum[:, partial * periods] += wave.steady * amount * np.exp(2.4j * partial)
    sound = np.fft.irfft(spectrum, size)
    return (wave.level * sound / max(np.sqrt((sound**2).mean()), 1e-12)).astype(np.float32)


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
