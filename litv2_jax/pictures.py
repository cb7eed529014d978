"""Pictures that show what a model makes of images."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch
from matplotlib.text import Text

from litv2_jax.class_names import short_name
from litv2_jax.text import literal, shorten

# Of pixels that have no class.
_NO_CLASS = (128, 128, 128)

# Longest side to draw of one image, in pixels; nothing finer would be seen.
_MAX_PIXELS = 2048

# Height over width that the drawing of one image may have.
_RATIOS = (0.1, 4.0)

# Channels of a spectrum, as in the paper's figure 6.
_NUM_CHANNELS = 8

# Characters of a text; more would leave no room for the image.
_MAX_TEXT = 60

# Parts of the names of fonts that have the characters of many scripts.
_WIDE_FONTS = (
    "CJK",
    "Noto Sans",
    "Unifont",
    "Arial Unicode",
    "Droid Sans Fallback",
    "WenQuanYi",
    "Microsoft YaHei",
    "PingFang",
    "Hiragino Sans",
    "Malgun Gothic",
    "Nirmala UI",
)


def draw_or_warn(draw: Callable[[], None], path: Path) -> bool:
    """Calls a function that draws; if it fails, warns and returns False.

    A run that takes days does not end because of a drawing.

    Args:
        draw: Draws.
        path: The file that it writes, for the warning.
    """
    try:
        draw()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        logging.warning("%s could not be drawn: %s", literal(str(path)), reason)
        return False
    return True


def draw_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    colors: Sequence[str],
    path: Path,
) -> None:
    """Draws images with a caption above each, as a PNG.

    Args:
        images: [H, W, 3] uint8, each of any size.
        captions: One for each image.
        colors: Colour of each caption.
        path: File to write.
    """
    columns = min(len(images), max(4, math.ceil(math.sqrt(len(images)))))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, image, caption, color in zip(
        all_axes, images, captions, colors, strict=False
    ):
        axes.imshow(thin_out(image))
        write_text(axes.set_title("", color=color, fontsize=8), caption)
    figure.savefig(path, dpi=120)


def draw_maps(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Draws images and maps of classes side by side, with a legend, as a PNG.

    Args:
        rows: An image [H, W, 3] uint8, then maps of classes [H, W]; grey is none.
        titles: Of the columns.
        class_names: What the classes are called.
        path: File to write.
    """
    figure = Figure(figsize=(2.4 * len(titles), 2.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for i, row in enumerate(rows):
        for j, pixels in enumerate(row):
            axes[i, j].set_axis_off()
            pixels = thin_out(pixels)
            axes[i, j].imshow(paint(pixels, len(class_names)) if j else pixels)
            if i == 0:
                axes[i, j].set_title(titles[j], fontsize=9)
    present = [np.unique(pixels) for row in rows for pixels in row[1:]]
    _add_legend(figure, np.unique(np.concatenate(present)), class_names)
    figure.savefig(path, dpi=120)


def draw_overlay(
    image: np.ndarray, classes: np.ndarray, class_names: Sequence[str], path: Path
) -> None:
    """Draws classes in colour over an image, with a legend, as a PNG.

    Args:
        image: [H, W, 3] uint8.
        classes: [H, W], the class of each pixel.
        class_names: What the classes are called.
        path: File to write.
    """
    height, width = classes.shape
    ratio = min(max(height / width, _RATIOS[0]), _RATIOS[1])
    figure = Figure(figsize=(8, 8 * ratio + 1), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    colors = paint(thin_out(classes), len(class_names))
    mixed = (thin_out(image).astype(np.uint16) + colors) // 2
    axes.imshow(mixed.astype(np.uint8))
    # The largest first.
    counts = np.bincount(classes.ravel())
    found = np.flatnonzero(counts)
    _add_legend(figure, found[np.argsort(-counts[found])], class_names)
    figure.savefig(path, dpi=120)


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draws images by label and prediction, as shares of each label, as a PNG.

    Args:
        counts: [K, K] images by label and prediction.
        class_names: What the K classes are called.
        path: File to write.
    """
    side = 2.5 + 0.3 * len(class_names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[i, j] > 0.5 else "black"
        text = str(counts[i, j])
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(class_names)))
        labels = axis.get_ticklabels()
        for label, name in zip(labels, class_names, strict=True):
            write_text(label, short_name(str(name)))
        # Drawing replaces the text of a tick by that of its axis.
        axis.set_ticks(axis.get_ticklocs(), [label.get_text() for label in labels])
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="prediction", ylabel="label")
    figure.savefig(path, dpi=120)


def draw_spectra(spectra: Mapping[str, Any], path: Path) -> None:
    """Draws the first channels of spectra, a row for each; brighter is larger.

    Args:
        spectra: Magnitudes [h, w, C] by name; shown on a logarithmic scale.
        path: PNG to write.
    """
    count = min(_NUM_CHANNELS, *(x.shape[-1] for x in spectra.values()))
    size = (1.3 * count + 0.6, 1.5 * len(spectra))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(spectra), count, squeeze=False)
    for row, (name, spectrum) in zip(axes, spectra.items(), strict=True):
        row[0].set_ylabel(name)
        for k, one in enumerate(row):
            one.imshow(np.log1p(np.asarray(spectrum[..., k])))
            one.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def paint(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns a colour for the class of each pixel: [H, W] to [H, W, 3] uint8."""
    colors = class_colors(num_classes)
    is_class = classes < num_classes
    return np.where(
        is_class[..., None], colors[np.where(is_class, classes, 0)], _NO_CLASS
    ).astype(np.uint8)


def class_colors(count: int) -> np.ndarray:
    """Returns colours [count, 3] uint8 that are easy to tell apart, as PASCAL VOC's.

    Its colour k has the bits of k, three at a time, as the highest of red, green and
    blue; black, which is 0, is left out.
    """
    numbers = np.arange(1, count + 1)
    colors = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (
                (numbers >> 3 * bit + channel & 1) << 7 - bit
            ).astype(np.uint8)
    return colors


def thin_out(pixels: np.ndarray) -> np.ndarray:
    """Returns every n-th row and column of an image or a map that is large."""
    step = -(-max(pixels.shape[:2]) // _MAX_PIXELS)
    return pixels[::step, ::step]


def _add_legend(
    figure: Figure, classes: np.ndarray, class_names: Sequence[str]
) -> None:
    colors = (class_colors(len(class_names)) / 255).tolist()
    shown = [k for k in classes.tolist() if k < len(class_names)]
    handles = [Patch(color=tuple(colors[k])) for k in shown]
    legend = figure.legend(
        handles, [""] * len(shown), loc="outside lower center", ncols=4, fontsize=8
    )
    for text, k in zip(legend.get_texts(), shown, strict=True):
        write_text(text, short_name(str(class_names[k])))


def write_text(artist: Text, text: str) -> None:
    """Has text drawn as it is: `$` begins no formula, and every character is shown.

    A character that no font here has is drawn as its number, such as `\\u732b`: a box
    would look like that of any other.
    """
    text = shorten([text], width=_MAX_TEXT)
    families = list(artist.get_fontfamily())
    missing = {c for c in text if ord(c) not in _characters(families[0])}
    for name in _wide_fonts() if missing else ():
        found = {c for c in missing if ord(c) in _characters(name)}
        families += [name] if found else []
        missing -= found
    for character in missing:
        text = text.replace(character, ascii(character)[1:-1])
    artist.set_fontfamily(families)
    artist.set_parse_math(False)
    artist.set_text(text)


@functools.cache
def _wide_fonts() -> list[str]:
    names = {entry.name for entry in font_manager.fontManager.ttflist}
    return sorted(n for n in names if any(part in n for part in _WIDE_FONTS))


@functools.cache
def _characters(family: str) -> frozenset[int]:
    """Returns the numbers of the characters that a font has."""
    font = font_manager.FontProperties(family=[family])
    return frozenset(FT2Font(str(font_manager.findfont(font))).get_charmap())
