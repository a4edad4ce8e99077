"""How every figure looks: one palette, one set of fonts and lines, one way to save.

Figures are made without pyplot, so that a caller's backend and settings stay as they are.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avb_jax.files import write_atomically
from avb_jax.reporting.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#22262b"
FAINT = "#8a9099"
RULE = "#d5d9de"
# Ten colours that people with any colour vision can tell apart (Petroff 2021, arXiv 2107.02270).
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#717581",
    "#a96b59", "#e76300", "#b9ac70", "#92dadd", "#94a4a2",
)  # fmt: skip
ACCENT = PALETTE[0]
TARGET = PALETTE[2]
DPI = 120
_MARGIN = 0.15

_SETTINGS = {
    "axes.edgecolor": FAINT,
    "axes.formatter.useoffset": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "avb_jax",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


@contextmanager
def style() -> Iterator[None]:
    """Within it matplotlib draws in this style; after it, as before."""
    import matplotlib.style

    with matplotlib.style.context(["default", _SETTINGS]):
        yield


class Page:
    """A figure whose axes are placed in inches, with title and subtitle above, caption below.

    Args:
        width, height: of the part that the axes share, inches.
        title: what is shown; may be empty.
        subtitle: what its marks mean; may be empty.
        caption: of which run; may be empty.
    """

    def __init__(self, width: float, height: float, title: str, subtitle: str, caption: str):
        from matplotlib.figure import Figure

        self._head = 0.75 if subtitle else 0.5 if title else _MARGIN
        self._width = width + 2 * _MARGIN
        self._height = height + self._head + (0.45 if caption else _MARGIN)
        self.figure = Figure(figsize=(self._width, self._height))
        self._text(0.13, title, size=12.5, weight="bold", va="top")
        self._text(0.42, subtitle, size=9, color=FAINT, va="top")
        self._text(self._height - 0.13, caption, size=8, color=FAINT, va="bottom")

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Axes of width × height, `left` and `top` away from the shared part's corner."""
        bottom = self._height - self._head - top - height
        return self.figure.add_axes(
            (
                (_MARGIN + left) / self._width,
                bottom / self._height,
                width / self._width,
                height / self._height,
            )
        )

    def save(self, path: Path) -> Path:
        """Writes the page as PNG, atomically."""
        return write_atomically(path, self._drawn(format="png", dpi=DPI))

    def svg(self) -> bytes:
        """The page as SVG, on no background; the same page gives the same bytes."""
        about = {"Date": None, "Creator": None}
        return self._drawn(format="svg", transparent=True, metadata=about)

    def _drawn(self, **settings: Any) -> bytes:
        buffer = io.BytesIO()
        with style():  # ticks are made when they are drawn
            self.figure.savefig(buffer, **settings)
        return buffer.getvalue()

    def _text(self, top: float, text: str, **settings: Any) -> None:
        self.figure.text(_MARGIN / self._width, 1 - top / self._height, text, **settings)


def show_image(axes: "Axes", image: np.ndarray, **settings: Any) -> None:
    """Fills axes with an image [h, w, c] in a thin frame, without ticks.

    Matplotlib's "auto" shows enlarged pixels as squares and averages those made smaller.
    """
    pixels = to_uint8(image)
    pixels = pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels
    axes.imshow(pixels, interpolation="auto", **settings)
    axes.set(xticks=[], yticks=[], anchor="SW")
    axes.spines[:].set(visible=True, color=RULE, linewidth=0.6)
