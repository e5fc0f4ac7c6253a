"""The key a song is in, and the shift to the common key."""

import numpy as np

# Krumhansl and Kessler (1982): how well each of the 12 pitch classes fits a major and a minor key.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_KEYS = np.array([np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)])
_KEYS = (_KEYS - _KEYS.mean(1, keepdims=True)) / _KEYS.std(1, keepdims=True)  # a product with these is a correlation
TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def estimate_key(notes: np.ndarray) -> str:
    """The key whose Krumhansl-Kessler profile correlates best with the total duration of each pitch class.

    Returns a name such as `Eb` (major) or `Ebm` (minor); `C` for a song without notes.
    """
    seconds = np.bincount(notes["pitch"] % 12, notes["end"] - notes["onset"], minlength=12)
    if seconds.std() == 0:
        return "C"
    mode, tonic = divmod(int(np.argmax(_KEYS @ (seconds - seconds.mean()))), 12)
    return TONICS[tonic] + ("m" if mode else "")


def in_common_key(notes: np.ndarray) -> np.ndarray:
    """Notes transposed to the common key of the mode they fit best; pitches stay within 0 to 127."""
    moved = notes.copy()
    moved["pitch"] = np.clip(notes["pitch"].astype(int) + shift_to_common(estimate_key(notes)), 0, 127)
    return moved


def nearest_octave(shift: int, own: int) -> int:
    """The shift to the common key that differs from a song's own by at most six semitones, and by octaves from `shift`.

    So a song that is asked for in another key is moved to where that is nearest.
    """
    return shift - 12 * round((shift - own) / 12)


def shift_to_common(key: str) -> int:
    """Semitones (-6 to 5) from a key of this name to the key on C of the same mode."""
    return (6 - TONICS.index(key.removesuffix("m"))) % 12 - 6
