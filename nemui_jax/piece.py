"""What is asked for when a run is played, and what comes of it: a song that can be heard, seen and written."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from jaxtyping import Float, UInt8

from nemui_jax import config, shell
from nemui_jax.data import pianoroll
from nemui_jax.errors import UsageError
from nemui_jax.evaluation import note_metrics
from nemui_jax.files import escape
from nemui_jax.music import midi_writer
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.instruments import instrument
from nemui_jax.music.key import estimate_key
from nemui_jax.music.song import DEFAULT_QUARTER_SECONDS, MAX_SECONDS, Song, TempoMap, cut_song

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # takes seconds to import
    Figure = Any
KeyName = SupportsIndex | str
SongNames = SupportsIndex | str | None
Number = float | int
HOLD_SHARE = 0.1  # of each section of a morph, at its beginning and at its end: one song alone


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Songs, or songs and weights as in `0:0.3,3:0.7`, for one factor each; None: the songs and weights of the mix."""

    harmony: SongNames = None
    melody: SongNames = None
    rhythm: SongNames = None  # of all that accompanies
    dynamics: SongNames = None
    tempo: SongNames = None
    instruments: SongNames = None

    def given(self) -> dict[str, str]:
        """What is not None, by factor."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: str(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a piece is played: what all methods that play take, by name. UsageError where one is out of range."""

    seconds: Number | None = None  # length; None: that of the heaviest song, by its bars; a new song's is a minute
    key: KeyName | None = None  # such as "Eb", or a song whose key it is; None: the heaviest song's
    program: int | None = None  # MIDI program, 0 to 127, of all but drums, which are left out; None: the songs' own
    temperature: Number = 0.0  # above 0 what comes from where is drawn; 0: the best is taken
    seed: int = 0  # 0 to 2**31 - 1; the same one gives the same piece
    factors: Factors = Factors()

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds <= MAX_SECONDS:
            raise UsageError(f"seconds={self.seconds} is out of range; a piece lasts up to {MAX_SECONDS:,.0f} seconds")
        if self.program is not None and not 0 <= self.program < 128:
            raise UsageError(f"program={self.program} is not a program from 0 to 127")
        if not 0 <= self.temperature <= config.MAX_TEMPERATURE:
            raise UsageError(f"temperature={self.temperature} is out of range; it is 0 to {config.MAX_TEMPERATURE}")
        if not 0 <= self.seed <= config.MAX_SEED:
            raise UsageError(f"seed={self.seed} is out of range; it is 0 to {config.MAX_SEED:,}")

    def recipe(self) -> dict[str, Any]:
        """Those that are not as they are by default, but for the seed."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = fields | {
            "seconds": None if self.seconds is None else float(self.seconds),
            "temperature": float(self.temperature),
        }
        left = {name: value for name, value in given.items() if name not in ("seed", "factors")}
        return {name: value for name, value in left.items() if value != getattr(Options, name)} | self.factors.given()


@dataclass(frozen=True)
class Plan:
    """One piece to be played: whose tracks, with which weights."""

    songs: tuple[int | Path, ...]
    # One a song, for all of the piece; or [song, point], at points spread evenly over it; or None: from song to song.
    weights: tuple[float, ...] | Float[np.ndarray, "song point"] | None
    recipe: Mapping[str, Any]  # what was asked for, in the words of the command line
    noise: float = 0.0
    seed: int = 0

    @property
    def is_recall(self) -> bool:
        """Whether one song is played as it is."""
        return isinstance(self.weights, tuple) and self.weights == (1.0,) and not self.noise

    def weigh(self, bars: int) -> Float[np.ndarray, "song bar"]:
        """The weights in each of so many bars, or other stretches of equal length."""
        if self.weights is None:
            return morph_weights(len(self.songs), bars)
        if isinstance(self.weights, tuple):
            return np.repeat(np.array(self.weights, float)[:, None], bars, 1)
        place, points = np.linspace(0, self.weights.shape[1] - 1, bars), np.arange(self.weights.shape[1])
        return np.stack([np.interp(place, points, row) for row in self.weights / self.weights.sum(0)])


def morph_weights(songs: int, bars: int) -> Float[np.ndarray, "song bar"]:
    """Weights that move from the first song to the last, with each song alone for a while (HOLD_SHARE)."""
    place = np.linspace(0, songs - 1, bars) if bars > 1 else np.zeros(1)
    section = np.minimum(place.astype(int), songs - 2)  # the index of its first song
    progress = np.clip((place - section - HOLD_SHARE) / (1 - 2 * HOLD_SHARE), 0, 1)
    weights = np.zeros((songs, bars))
    weights[section, np.arange(bars)] = 1 - progress
    weights[section + 1, np.arange(bars)] = progress
    return weights


def scale_points(weights: Any, songs: int) -> Float[np.ndarray, "song point"]:
    """Weights `[song, point]` with a sum of 1 at each point; UsageError where they cannot be scaled so."""
    found = np.asarray(weights, float)
    if found.ndim != 2 or len(found) != songs or not found.shape[1]:
        raise UsageError(f"weights of shape {found.shape} for {songs} songs; give [song, point], a row for each song")
    if not np.isfinite(found).all() or (found < 0).any() or (found.sum(0) <= 0).any():
        raise UsageError("weights must be finite, not negative, and above 0 for some song at each point")
    return found / found.sum(0)


@dataclass(frozen=True, eq=False)
class Piece:
    """What was played: a song, and what it was made of."""

    song: Song
    parents: tuple[Song, ...]  # over the same stretch; none for a new song
    kind: str  # "recall", "mix", "morph" or "new"
    provenance: str  # how to make it again, as the .mid says too
    remark: str = ""  # for a new song the one of the run that it is most like
    songs: tuple[str, ...] = ()  # names of what it is made of
    weights: tuple[float, ...] = ()  # of these songs, where they stay the same; of a new song their shares of its notes
    gave: tuple[str, ...] = ()  # of a new song what each of these gave: "form and harmony", "accompaniment", "melody"
    stops: tuple[float, ...] = ()  # seconds at which a morph is at each of its parents; none where weights were given

    def __repr__(self) -> str:
        return f"<Piece: {self.kind}, {self.song.name!r}, {self.seconds:.1f} s, {len(self.notes):,} notes>"

    @property
    def notes(self) -> np.ndarray:
        """SONG_NOTE: the notes of all parts but drums, sorted by onset (seconds), then pitch."""
        return self.song.notes

    @property
    def seconds(self) -> float:
        """The end of the last note."""
        return self.song.seconds

    @property
    def key(self) -> str:
        """The key that its notes fit best, such as `Eb` or `Ebm`."""
        return estimate_key(self.notes)

    @property
    def tempo(self) -> float:
        """Quarter notes a minute, on average over its length."""
        quarters = float(self.song.tempo_map.beats_at(self.seconds))
        return 60 * quarters / self.seconds if quarters else 60 / DEFAULT_QUARTER_SECONDS

    @property
    def instruments(self) -> tuple[str, ...]:
        """The names of its instruments, the one with the most notes first."""
        notes = Counter[str]()
        for part in self.song.parts:
            notes[instrument(part.program, part.is_drums)] += len(part.notes)
        return tuple(name for name, _ in notes.most_common())

    def roll(self, step_seconds: float = 0.05) -> UInt8[np.ndarray, "step 128"]:
        """The velocity (1 to 127) of the note that sounds on each pitch at each step; 0 where none does."""
        clock = TempoMap.steady(step_seconds * STEPS_PER_BEAT)
        found = np.zeros((pianoroll.count_steps(self.seconds, clock) + 1, 128), np.uint8)
        for note in pianoroll.quantize(self.notes, clock):
            found[note["step"] : note["end"], note["pitch"]] = note["velocity"]
        return found

    def audio(self, soundfont: str | Path | None = None) -> Float[np.ndarray, "sample 2"]:
        """Stereo sound at 44,100 samples a second, within -1 to 1; see `audio.render`."""
        from nemui_jax.outputs import audio

        return audio.render(self.song, None if soundfont is None else Path(soundfont), audio.RATE)

    def plot(self, title: str = "") -> Figure:
        """A picture: of a recall its differences from the song, of a morph its way, else a roll with its parents'.

        A roll's title is `title`, or the name of the piece. UsageError without the extra `plots`.
        """
        plots = import_plots()
        if self.kind == "recall":
            source = self.parents[0]
            return plots.recall(source, self.song, note_metrics.compare_notes(source, self.song), title=self.song.name)
        if self.stops:
            return plots.morph(self.song, [parent.name for parent in self.parents], self.stops)
        return plots.roll(self.song, self.parents, title=title)

    def write(self, path: str | Path, soundfont: str | Path | None = None) -> None:
        """Writes a .mid with its provenance, a .wav or a .png, by the ending: whole or not at all.

        Makes the folder where there is none. UsageError for another ending, OSError where it cannot be written.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in (".mid", ".midi", ".wav", ".png"):
            raise UsageError(f"{escape(path)}: a piece is written to a .mid, a .wav or a .png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".wav":
            from nemui_jax.outputs import audio

            audio.write_wav(path, self.audio(soundfont))
        elif ending == ".png":
            import_plots().save(self.plot(title=path.stem), path)
        else:
            midi_writer.write(self.song, path, self.provenance)


def make_piece(song: Song, plan: Plan, names: Sequence[str], sources: Sequence[Song], provenance: str) -> Piece:
    """What was played of a plan, with the songs that it is made of, at the tempo that they have in it, and weights."""
    weights = plan.weights if isinstance(plan.weights, tuple) else ()
    shown = [f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True)] if len(weights) > 1 else names
    parents = tuple(
        dataclasses.replace(cut_song(source, song.seconds), name=name)
        for source, name in zip(sources, shown, strict=True)
    )
    kind = "morph" if not weights else "mix" if len(names) > 1 or plan.noise else "recall"
    if kind != "recall":
        title = f"variation of {names[0]}" if plan.noise else (" to " if kind == "morph" else " + ").join(shown)
        song = dataclasses.replace(song, name=title)
    stops = tuple(np.linspace(0, song.seconds, len(parents)).tolist()) if plan.weights is None else ()
    return Piece(song, parents, kind, provenance, songs=tuple(names), weights=weights, stops=stops)


def import_plots() -> Any:
    """The module `plots`; UsageError says which extra it needs."""
    try:
        from nemui_jax.outputs import plots
    except ImportError as error:
        raise UsageError(f"pictures need an optional package ({error}): {shell.install('plots')}") from error
    return plots
