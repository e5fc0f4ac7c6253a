"""A drum kit without samples: each drum is a sine that falls in pitch, filtered noise, or both."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Hit(NamedTuple):
    """The sound of a drum. Seconds are those until it is down by 60 dB, levels are amplitudes."""

    hertz: float = 0.0  # of the sine
    fall: float = 1.0  # by how much higher it begins
    tone: float = 0.0  # level of the sine
    tone_seconds: float = 0.0
    overtone: float = 0.0  # level of a second sine, 1.51 times as high
    noise: float = 0.0  # level of the noise
    noise_seconds: float = 0.0
    low: float = 0.0  # hertz between which the noise is
    high: float = 16_000.0
    lines: float = 1.0  # the share of its frequencies that sound: few make a metal ring
    side: float = 0.0  # -1 left to 1 right


_KICK = Hit(50, 4.0, 1.6, 0.45, noise=0.2, noise_seconds=0.03, low=1500, high=6000)
_SNARE = Hit(185, 1.4, 0.53, 0.16, 0.5, noise=0.56, noise_seconds=0.28, low=900, high=11_000)
_TOM = Hit(100, 1.7, 1.2, 0.6, 0.2, noise=0.1, noise_seconds=0.08, low=300, high=4000)
_SKIN = Hit(250, 1.25, 1.0, 0.3, 0.25, noise=0.1, noise_seconds=0.03, low=800, high=6000, side=0.3)
_WOOD = Hit(900, 1.0, 0.9, 0.08, 0.3, noise=0.2, noise_seconds=0.02, low=1500, high=9000, side=-0.3)
_BELL = Hit(600, 1.0, 0.48, 0.35, 0.7, side=-0.3)
_CLAP = Hit(noise=0.6, noise_seconds=0.22, low=900, high=6000)
_SHAKER = Hit(noise=0.3, noise_seconds=0.1, low=5000, side=0.35)
_HAT = Hit(noise=0.34, noise_seconds=0.1, low=6500, lines=0.3, side=0.2)
_CRASH = Hit(noise=0.33, noise_seconds=1.9, low=2500, lines=0.2, side=-0.25)
_RIDE = Hit(3150, 1.0, 0.05, 1.0, 0.8, noise=0.16, noise_seconds=1.2, low=4500, lines=0.12, side=0.3)
_KIT = {  # by pitch
    **dict.fromkeys((27, 33, 34), _BELL._replace(hertz=1500)),
    **dict.fromkeys((28, 29, 30, 39), _CLAP),
    **dict.fromkeys((31, 32, 37), _WOOD._replace(hertz=430, noise=0.5, noise_seconds=0.05)),
    **dict.fromkeys((35, 36), _KICK),
    **{pitch: _SNARE._replace(hertz=hertz) for pitch, hertz in ((38, 185), (40, 215))},
    **{
        pitch: _TOM._replace(hertz=hertz, side=side)
        for pitch, hertz, side in (
            *((41, 68, 0.4), (43, 82, 0.3), (45, 100, 0.15), (47, 120, 0.0), (48, 140, -0.15), (50, 170, -0.3)),
            *((86, 75, 0.0), (87, 60, 0.0)),
        )
    },
    42: _HAT,
    44: _HAT._replace(noise_seconds=0.07),
    46: _HAT._replace(noise=0.26, noise_seconds=0.6),
    49: _CRASH,
    52: _CRASH._replace(noise_seconds=1.3, low=1800, lines=0.08, side=0.25),
    55: _CRASH._replace(noise_seconds=0.7, low=3500),
    57: _CRASH._replace(low=3000, side=0.25),
    **dict.fromkeys((51, 59), _RIDE),
    53: _RIDE._replace(tone=0.22, hertz=2600, noise=0.08),
    **dict.fromkeys((54, 83, 84), _SHAKER._replace(noise_seconds=0.25, lines=0.1)),
    **dict.fromkeys((69, 70, 82), _SHAKER),
    **dict.fromkeys((58, 73, 74), _SHAKER._replace(noise_seconds=0.4, low=2000, high=9000)),
    **{
        pitch: _SKIN._replace(hertz=hertz)
        for pitch, hertz in ((60, 400), (61, 300), (62, 330), (63, 290), (64, 200), (65, 340), (66, 240))
    },
    **dict.fromkeys((78, 79), _SKIN._replace(hertz=520, fall=0.7)),
    **{
        pitch: _BELL._replace(hertz=hertz, tone_seconds=seconds)
        for pitch, hertz, seconds in (
            *((56, 540, 0.3), (67, 900, 0.4), (68, 680, 0.4), (71, 2300, 0.15), (72, 2300, 0.5)),
            *((80, 4400, 0.12), (81, 4400, 1.4)),
        )
    },
    **{pitch: _WOOD._replace(hertz=hertz) for pitch, hertz in ((75, 2500), (76, 1050), (77, 760), (85, 1900))},
}


def hit(pitch: int, rate: int) -> Float[np.ndarray, "2 sample"]:
    """The sound of the drum with this MIDI pitch; a click for a pitch that has none."""
    drum = _KIT.get(pitch, _WOOD)
    time = np.arange(round(max(drum.tone_seconds, drum.noise_seconds) * rate)) / rate
    # Integral of a frequency that falls to its place within about 60 ms.
    phase = 2 * np.pi * drum.hertz * (time + (drum.fall - 1) * 0.02 * (1 - np.exp(-time / 0.02)))
    tone = np.sin(phase) + drum.overtone * (1.51 * drum.hertz < 0.45 * rate) * np.sin(1.51 * phase)
    tone *= drum.tone * (drum.hertz < 0.45 * rate) * _decay(time, drum.tone_seconds)
    sound = tone + drum.noise * _noise(drum, pitch, len(time), rate) * _decay(time, drum.noise_seconds)
    sound *= np.clip(time / 0.001, 0, 1) * np.clip((time[-1] - time) / 0.01, 0, 1)
    angle = np.pi / 4 * (1 + drum.side)
    return (np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]]) * sound).astype(np.float32)


def _decay(time: Float[np.ndarray, " sample"], seconds: float) -> Float[np.ndarray, " sample"]:
    return np.exp(-6.9 * time / seconds) * (time < seconds) if seconds else np.zeros_like(time)


def _noise(drum: Hit, seed: int, count: int, rate: int) -> Float[np.ndarray, " sample"]:
    """Noise with a root mean square of 1 in the drum's band."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.rfftfreq(count, 1 / rate)
    spectrum = rng.standard_normal(len(frequency)) + 1j * rng.standard_normal(len(frequency))
    spectrum *= rng.random(len(frequency)) < drum.lines
    top = min(drum.high, 0.45 * rate)
    low = min(drum.low, top / 2)
    spectrum *= 1 / (1 + (low / np.maximum(frequency, 1)) ** 6) / (1 + (frequency / top) ** 6)
    noise = np.fft.irfft(spectrum, count)
    return noise / max(np.sqrt((noise**2).mean()), 1e-12)
