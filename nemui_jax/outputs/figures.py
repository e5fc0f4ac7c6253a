"""The style that all figures share: size, colours, fonts."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from nemui_jax.outputs.palette import CARD, LINE, MUTED, PANEL

WIDTH, DPI = 1600, 160  # pixels, and pixels an inch
SMALL, NORMAL = 7.5, 8.5  # font sizes in points


def new_figure(height: float) -> Figure:
    """An empty figure, WIDTH pixels wide and `height` inches high."""
    return Figure(figsize=(WIDTH / DPI, height), dpi=DPI, facecolor=CARD, layout="constrained")


def style_axes(axes: Axes) -> None:
    """Gives axes the dark background and muted labels."""
    axes.set_facecolor(PANEL)
    axes.tick_params(colors=MUTED, labelsize=SMALL, length=2.5)
    axes.xaxis.label.set(color=MUTED, fontsize=SMALL)
    axes.yaxis.label.set(color=MUTED, fontsize=SMALL)
    for spine in axes.spines.values():
        spine.set_color(LINE)


def printable(text: str, max_letters: int = 80) -> str:
    """A text with letters that the font does not have replaced, and cut to `max_letters`."""
    font = get_font(findfont("DejaVu Sans"))
    text = "".join(letter if letter.isprintable() and font.get_char_index(ord(letter)) else "·" for letter in text)
    return text if len(text) <= max_letters else text[: max_letters - 1] + "…"
