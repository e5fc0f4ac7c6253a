"""A song played note by note with a generator of tones: velocity, dampers, pedals, bends, volume and pan.

Conventions: a tone is `[channel, sample]` in float32 (left, right), the sound of one key held down. A tone generator
makes the tones: `generator(part, pitch, seconds)` returns a function from velocity to tone, and a tone may be shorter
than `seconds` if it has died away. All else is the same for every generator.

Controls are those of a MIDI channel, whichever of its parts they stand in, as a synthesizer has them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax.data import pianoroll
from nemui_jax.music.song import (
    CONTROL,
    EXPRESSION,
    FIRST_VALUES,
    MODULATION,
    PAN,
    PITCH_BEND,
    SUSTAIN,
    VOLUME,
    Part,
    Song,
)

TAIL_SECONDS = 2.0  # of damping and room after the last end
RING_SECONDS = 6.0  # after the last key is released, of a pedal that is never lifted
DATA, DATA_FINE, PARAMETER_FINE, PARAMETER = 6, 38, 100, 101
HATS = (42, 44, 46)  # drums of which each ends the others
_LAYER = 8  # velocities that share a tone
_DAMPER_SECONDS = 0.25  # from the release of a key to silence
_DRUM_SECONDS = TAIL_SECONDS - _DAMPER_SECONDS  # that a drum sounds, whatever its note's length
_FRAMES = 200  # a second, at which the curves of gain and pitch are sampled
_BEND_SEMITONES = 2.0  # at full pitch bend, unless a file sets another range
_VIBRATO_HERTZ, _VIBRATO_SEMITONES = 5.5, 0.5  # of full modulation
Tone = Float[np.ndarray, "2 sample"]
VelocityToTone = Callable[[int], Tone]
ToneGenerator = Callable[[Part, int, float], VelocityToTone]  # of part, pitch, seconds


class Curves(NamedTuple):
    """What the controls of a channel do to its notes, at _FRAMES a second."""

    gain: Float[np.ndarray, "2 frame"]  # left and right, 1 at full volume in the middle
    semitones: Float[np.ndarray, " frame"]  # by which notes are bent


def play(song: Song, generator: ToneGenerator, rate: int) -> Tone:
    """The sum of all notes' tones, TAIL_SECONDS longer than the sustained notes and the last drum's onset."""
    controls = channel_controls(song.parts)
    notes = [_lasting(part, controls[part.channel], song.seconds + RING_SECONDS) for part in song.parts]
    ends = [part["end"] for part, source in zip(notes, song.parts, strict=True) if not source.is_drums]
    end = max([song.seconds, *(times.max() for times in ends if len(times))])
    samples = np.zeros((2, round((end + TAIL_SECONDS) * rate)), np.float32)
    for part, lasting in zip(song.parts, notes, strict=True):
        _add_part(samples, part, lasting, sample_curves(controls[part.channel], end + TAIL_SECONDS), generator, rate)
    return samples


def channel_controls(parts: Iterable[Part]) -> dict[int, np.ndarray]:
    """CONTROL by channel: the controls of all parts on it, sorted by time."""
    found: dict[int, np.ndarray] = {}
    for part in parts:
        both = np.concatenate([found.get(part.channel, np.empty(0, CONTROL)), part.controls])
        found[part.channel] = both[np.argsort(both["time"], kind="stable")]
    return found


def sustained(notes: np.ndarray, controls: np.ndarray, last: float) -> np.ndarray:
    """NOTE events with `end` where the damper falls instead of where the key is released, at `last` at the latest.

    A note whose key is released while the pedal is down lasts until the pedal is up, or until the next onset on its
    pitch.
    """
    pedal = controls[controls["controller"] == SUSTAIN]
    down = np.concatenate([[False], pedal["value"] >= pianoroll.PEDAL_DOWN])
    events_before = np.searchsorted(pedal["time"], notes["end"], side="right")
    ups = np.append(pedal["time"][~down[1:]], last)
    lifted = ups[np.searchsorted(ups[:-1], notes["end"], side="right")]
    found = notes.copy()
    found["end"] = np.where(down[events_before], np.maximum(np.minimum(lifted, last), notes["end"]), notes["end"])

    order = np.lexsort((notes["onset"], notes["pitch"]))
    before, after = order[:-1], order[1:]
    same = notes["pitch"][before] == notes["pitch"][after]
    before, after = before[same], after[same]
    struck_again = np.maximum(notes["onset"][after], notes["end"][before])
    found["end"][before] = np.minimum(found["end"][before], struck_again)
    return found


def sample_curves(controls: np.ndarray, seconds: float) -> Curves:
    """The curves of a channel with these controls, from 0 to `seconds`."""
    times = np.arange(round(seconds * _FRAMES) + 2) / _FRAMES
    # As General MIDI recommends: 40 dB a decade of volume and expression, and a pan of equal power.
    level = (_values_at(controls, VOLUME, times) * _values_at(controls, EXPRESSION, times) / 127**2) ** 2
    angle = np.pi / 4 * (1 + np.clip((_values_at(controls, PAN, times) - 64) / 63, -1, 1))
    gain = np.sqrt(2) * level * np.stack([np.cos(angle), np.sin(angle)])
    vibrato = _VIBRATO_SEMITONES * np.sin(2 * np.pi * _VIBRATO_HERTZ * times)
    semitones = bend_at(controls, times) + vibrato * _values_at(controls, MODULATION, times) / 127
    return Curves(gain.astype(np.float32), semitones)


def bend_at(controls: np.ndarray, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """The pitch bend in semitones at these times, with the range that the controls set for it."""
    parameter, since, ranges = [127, 127], [-np.inf], [_BEND_SEMITONES]
    settings = controls[np.isin(controls["controller"], (DATA, DATA_FINE, PARAMETER, PARAMETER_FINE))]
    for time, controller, value in settings.tolist():
        if controller in (PARAMETER, PARAMETER_FINE):
            parameter[controller == PARAMETER_FINE] = value
        elif parameter == [0, 0]:  # the registered parameter "pitch bend sensitivity"
            whole, cents = divmod(ranges[-1], 1)
            since.append(time)
            ranges.append(value + cents if controller == DATA else whole + min(value, 99) / 100)
    semitones = np.array(ranges)[np.searchsorted(since, times, side="right") - 1]
    return _values_at(controls, PITCH_BEND, times) / 8192 * semitones


def _values_at(controls: np.ndarray, controller: int, times: Any) -> Float[np.ndarray, " time"]:
    """The values of a controller in force at these times."""
    events = controls[controls["controller"] == controller]
    return np.append(FIRST_VALUES[controller], events["value"])[
        np.searchsorted(events["time"], times, side="right")
    ].astype(float)


def _lasting(part: Part, controls: np.ndarray, last: float) -> np.ndarray:
    """The notes of a part with their ends as they are heard."""
    if not part.is_drums:
        return sustained(part.notes, controls, last)
    notes = part.notes.copy()
    notes["end"] = notes["onset"] + _DRUM_SECONDS
    hats = np.flatnonzero(np.isin(notes["pitch"], HATS))
    onsets = notes["onset"][hats]
    following = np.append(onsets, np.inf)[np.searchsorted(onsets, onsets, side="right")]
    notes["end"][hats] = np.minimum(notes["end"][hats], following)
    return notes


def _add_part(
    samples: Tone, part: Part, notes: np.ndarray, curves: Curves, generator: ToneGenerator, rate: int
) -> None:
    """Adds a part to the samples, in place: each tone at the level of its velocity and damped at its end."""
    damper = _damper(rate)
    stretch = 2 ** max(curves.semitones.max() / 12, 0)  # what a tone bent upwards needs
    for same in _groups(notes, "pitch"):
        longest = float((same["end"] - same["onset"]).max()) + _DAMPER_SECONDS
        velocity_to_tone = generator(part, int(same["pitch"][0]), longest * stretch)
        for layer in np.unique(same["velocity"] // _LAYER):
            tone = velocity_to_tone(min(int(layer) * _LAYER + _LAYER // 2, 127))
            for note in same[same["velocity"] // _LAYER == layer]:
                start, stop = round(note["onset"] * rate), round(note["end"] * rate)
                shape = _bend(tone, curves.semitones, start, stop - start + len(damper), rate)
                shape = shape[:, : samples.shape[1] - start]
                force = np.float32((note["velocity"] / 127) ** 2)  # as in soundfonts: 40 dB a decade
                shape = shape * (force * _slice(curves.gain, start, shape.shape[1], rate))
                rest = shape[:, stop - start :]
                rest *= damper[: rest.shape[1]]
                samples[:, start : start + shape.shape[1]] += shape


def _groups(notes: np.ndarray, *fields: str) -> Iterator[np.ndarray]:
    """The notes that are equal in some fields, group by group."""
    notes = np.sort(notes, order=list(fields))
    edges = np.flatnonzero(notes[list(fields)][1:] != notes[list(fields)][:-1]) + 1
    return (group for group in np.split(notes, edges) if len(group))


def _damper(rate: int) -> Float[np.ndarray, " sample"]:
    """Gain after a key is released: halved every 40 ms, and smoothly to 0 at the end."""
    time = np.arange(round(_DAMPER_SECONDS * rate)) / rate
    return (0.5 ** (time / 0.04) * np.cos(np.pi / 2 * time / _DAMPER_SECONDS) ** 2).astype(np.float32)


def _slice(
    curve: Float[np.ndarray, "row frame"], start: int, count: int, rate: int
) -> Float[np.ndarray, "row #sample"]:  # noqa: F821
    """A curve at `count` samples from sample `start` on: one value if it does not change."""
    # From the first frame after the onset, so that what is set together with a note holds from its onset on.
    first = -(-start * _FRAMES // rate)
    frames = curve[:, first : first + count * _FRAMES // rate + 2]
    if (frames == frames[:, :1]).all():
        return frames[:, :1]
    at = np.arange(count) * (_FRAMES / rate)
    return np.stack([np.interp(at, np.arange(frames.shape[1]), row) for row in frames]).astype(curve.dtype)


def _bend(
    tone: Tone, semitones: Float[np.ndarray, " frame"], start: int, count: int, rate: int
) -> Float[np.ndarray, "2 played"]:
    """The first `count` samples of a tone that begins at sample `start`, read at the speed that bends it."""
    speed = 2 ** (_slice(semitones[None], start, count, rate)[0] / 12)
    if len(speed) == 1 and speed[0] == 1:
        return tone[:, :count]
    places = np.cumsum(np.broadcast_to(speed, count)) - speed[0]
    places = places[: np.searchsorted(places, tone.shape[1] - 1, side="right")]
    return np.stack([np.interp(places, np.arange(tone.shape[1]), side) for side in tone]).astype(np.float32)
