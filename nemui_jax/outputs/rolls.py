"""Parts of pictures of songs: piano rolls, lanes of drums, pedals, bars, legends.

A piano roll has a colour for each instrument, or, of a song for one instrument, a colour for each velocity. Drums have
a lane of their own, a row for each. Pitches are MIDI numbers (60 is C4), times are seconds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import ListedColormap, to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from nemui_jax.music.instruments import DRUMS, PROGRAMS
from nemui_jax.music.song import DEFAULT_QUARTER_SECONDS, DRUM_CHANNEL, Song, merge_notes
from nemui_jax.outputs import palette
from nemui_jax.outputs.figures import NORMAL, SMALL, WIDTH, printable, style_axes
from nemui_jax.outputs.palette import FIRST, LINE, MUTED, PANEL

VELOCITY = ListedColormap(colormaps["plasma"](np.linspace(0.2, 1, 128)), "velocity")  # without the darkest
_DRUM_INCHES = 0.095  # height of a drum's row
_DRUM_LETTERS = 5.5  # font size in points
_NOTE_HEIGHT = 0.84  # semitones
_COLUMNS = 6  # of a legend
Colours = Mapping[int, str]  # of programs


def end_of(*songs: Song) -> float:
    """The last end of any note, drums too; 1.0 at least."""
    return max([1.0, *(float(part.notes["end"].max()) for song in songs for part in song.parts if len(part.notes))])


def drums_of(*songs: Song) -> np.ndarray:
    """SONG_NOTE: the drum notes of songs."""
    return merge_notes(part for song in songs for part in song.parts if part.is_drums)


def note_colours(notes: np.ndarray, colours: Colours, faintest: float = 0.45) -> Float[np.ndarray, "note 4"]:
    """SONG_NOTE notes in the colours of their programs, drums in theirs; soft notes down to `faintest` of it."""
    rgba = to_rgba_array([*(colours.get(program, palette.OTHER) for program in range(128)), palette.DRUMS])
    found = rgba[np.where(notes["channel"] == DRUM_CHANNEL, 128, notes["program"])]
    strength = faintest + (1 - faintest) * notes["velocity"][:, None] / 127
    found[:, :3] = strength * found[:, :3] + (1 - strength) * to_rgb(PANEL)
    return found


def colours_of_roll(notes: np.ndarray, colours: Colours) -> Float[np.ndarray, "note 4"]:
    """The colours of SONG_NOTE notes in a roll of so many instruments: by velocity if there is only one."""
    return note_colours(notes, colours) if len(colours) > 1 else VELOCITY(notes["velocity"])


def legend(figure: Figure, colours: Colours) -> None:
    """The instruments' names in their colours below a figure, if there are several."""
    if len(colours) < 2:
        return
    named = {program: colour for program, colour in colours.items() if colour != palette.OTHER}
    handles = [Patch(color=colour, label=PROGRAMS[program]) for program, colour in named.items()]
    if more := len(colours) - len(named):
        handles.append(Patch(color=palette.OTHER, label=f"{more} more"))
    style = {"fontsize": SMALL, "labelcolor": MUTED, "frameon": False, "handlelength": 0.9, "handleheight": 0.9}
    figure.legend(handles=handles, loc="outside lower center", ncols=min(_COLUMNS, len(handles)), **style)


def legend_inches(colours: Colours) -> float:
    """The height of a legend."""
    names = min(len(colours), len(palette.INSTRUMENTS) + 1)
    return 0.17 * -(-names // _COLUMNS) + 0.06 if names > 1 else 0.0


def drum_rows(notes: np.ndarray) -> list[int]:
    """The pitches of drum notes, from below: a row of the lane for each."""
    return np.unique(notes["pitch"]).tolist()


def lane_inches(notes: np.ndarray) -> float:
    """The height of a lane of drums with their names."""
    return _DRUM_INCHES * (len(drum_rows(notes)) + 0.4)


def draw_lane(axes: Axes, rows: Sequence[int], end: float, named: bool = True) -> None:
    """Prepares axes for a lane of drums with these pitches, from below; without names it is only called drums."""
    style_axes(axes)
    axes.set(xlim=(0, end), ylim=(-0.7, len(rows) - 0.3), axisbelow=True)
    if named:
        axes.set_yticks(range(len(rows)), [DRUMS.get(pitch, f"drum {pitch}") for pitch in rows])
        axes.tick_params(axis="y", labelsize=_DRUM_LETTERS, length=0, pad=2)
        axes.hlines(np.arange(len(rows)), 0, end, color=LINE, linewidth=0.4, zorder=0.5)
    else:
        axes.set_yticks([(len(rows) - 1) / 2], ["drums"])
        axes.tick_params(axis="y", length=0)


def draw_hits(axes: Axes, notes: np.ndarray, rows: Sequence[int], colours: Float[np.ndarray, "note 4"]) -> None:
    """Drum notes as strokes, those of each pitch in `rows` in a row of its own from below."""
    y = np.searchsorted(rows, notes["pitch"])
    strokes = np.stack([np.stack([notes["onset"], y - 0.42], 1), np.stack([notes["onset"], y + 0.42], 1)], axis=1)
    axes.add_collection(LineCollection(list(strokes), colors=colours, linewidths=1.0), autolim=False)


def draw_drums(axes: Axes, notes: np.ndarray, end: float, named: bool = True) -> None:
    """A lane of drum notes; louder ones are brighter."""
    rows = drum_rows(notes)
    draw_lane(axes, rows, end, named)
    draw_hits(axes, notes, rows, note_colours(notes, {}))


def caption(axes: Axes, text: str, colour: str) -> None:
    axes.set_title(printable(text), loc="left", color=colour, fontsize=NORMAL, pad=4, parse_math=False)


def roll_axes(axes: Axes, song: Song, end: float, other: Song | None = None) -> None:
    """Prepares axes for a piano roll of the first `end` seconds, with every C labelled."""
    style_axes(axes)
    shown = np.concatenate([song.notes, other.notes if other else song.notes])
    pitch = shown["pitch"][shown["onset"] < end].astype(int)
    low, high = (pitch.min(), pitch.max()) if len(pitch) else (60, 60)
    middle = max(high - low, 14) / 2 + 1.5
    axes.set(xlim=(0, end), ylim=((low + high) / 2 - middle, (low + high) / 2 + middle), axisbelow=True)
    axes.yaxis.set_major_locator(MultipleLocator(12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda pitch, _: f"C{round(pitch) // 12 - 1}"))
    axes.grid(axis="y", color=LINE, linewidth=0.6)


def boxes(notes: np.ndarray) -> Float[np.ndarray, "note 4 2"]:
    """The corners of each note's bar."""
    low, high = notes["pitch"] - _NOTE_HEIGHT / 2, notes["pitch"] + _NOTE_HEIGHT / 2
    onset, end = notes["onset"], notes["end"]
    return np.stack([np.stack([onset, end, end, onset], axis=1), np.stack([low, low, high, high], axis=1)], axis=2)


def draw_notes(axes: Axes, notes: np.ndarray, colours: Float[np.ndarray, "note 4"], end: float) -> None:
    corners = boxes(notes)
    # Edges keep the shortest notes visible.
    bars = PolyCollection(list(corners), facecolors=colours, edgecolors="face", linewidths=0.5)
    axes.add_collection(bars, autolim=False)
    dots_a_second = WIDTH / end
    width = min(1.1, 0.04 * dots_a_second)  # points; in a long song marks would hide the notes
    if width > 0.25:
        bright = colours * [1, 1, 1, 0] + [0, 0, 0, 1]
        bright[:, :3] = 1 - 0.35 * (1 - bright[:, :3])
        axes.add_collection(LineCollection(list(corners[:, [0, 3]]), colors=bright, linewidths=width), autolim=False)


def draw_pedal(axes: Axes, song: Song, end: float) -> None:
    style_axes(axes)
    time = np.concatenate([[0.0], song.pedal["time"], [end]])
    value = np.concatenate([[0], song.pedal["value"], song.pedal["value"][-1:] if len(song.pedal) else [0]])
    axes.fill_between(time, value, step="post", color=FIRST, linewidth=0, alpha=0.85)
    axes.set(xlim=(0, end), ylim=(0, 127), yticks=[])
    axes.set_ylabel("pedal", rotation=0, ha="right", va="center")


def draw_bars(axes: Axes, song: Song, end: float) -> None:
    """Bars or beats on a second time axis, for a song with a tempo map."""
    if not _has_tempos(song):
        return
    unit, number, time = _bars(song, end)
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 200, 500, 10**9) if len(time) / step <= 24)
    chosen = (number - 1) % step == 0
    chosen &= np.diff(time, append=np.inf) > 0.015 * end  # no room for the number of a bar that is cut short
    labels = [f"{unit} {value}" if value == 1 else f"{value}" for value in number[chosen]]
    second_axis(axes, time[chosen], labels)
    axes.vlines(time[chosen], *axes.get_ylim(), color=LINE, linewidth=0.6, zorder=0.5)


def _has_tempos(song: Song) -> bool:
    """Whether any tempo differs from 120 quarter notes a minute, the default of a file without tempos."""
    return bool((np.abs(song.tempo_map.beat_seconds - DEFAULT_QUARTER_SECONDS) > 1e-6).any())


def _bars(song: Song, end: float) -> tuple[str, Int[np.ndarray, " bar"], Float[np.ndarray, " bar"]]:
    """ "bar", or "beat" if there is no meter; the numbers of those up to `end`, from 1; and their starts in seconds."""
    if len(song.meters):
        change = song.tempo_map.beats_at(song.meters["time"])
        length = np.maximum(4 * song.meters["numerator"] / song.meters["denominator"].astype(float), 0.25)
        if change[0] > 0:  # 4/4 until then, the default of MIDI
            change, length = np.append(0.0, change), np.append(4.0, length)
    else:
        change, length = np.zeros(1), np.ones(1)
    stops = np.append(change[1:], song.tempo_map.beats_at(end) + 1e-6)
    starts = np.concatenate(
        [np.arange(first, stop - 1e-3, size) for first, stop, size in zip(change, stops, length, strict=True)]
    )
    return "bar" if len(song.meters) else "beat", np.arange(1, len(starts) + 1), song.tempo_map.seconds_at(starts)


def second_axis(axes: Axes, places: Float[np.ndarray, " tick"], labels: list[str]) -> None:
    second = axes.secondary_xaxis("top")
    second.set_ticks(places.tolist(), labels)
    second.tick_params(colors=MUTED, labelsize=SMALL, length=2.5, pad=1)
    second.spines["top"].set_color(LINE)
