"""Characters drawn from the fonts that matplotlib installs: MNIST-like data with nothing to download.

Every (font, character) pair is drawn once, large, and kept as a signed distance field: how far each pixel lies inside
the character's outline. float64 and the rounding to uint8 hide what processors differ in.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from robbench.data.images import Images
from robbench.spec.catalogue import EMNIST_CLASSES

GLYPHS: dict[str, tuple[str, ...]] = {"glyphs10": EMNIST_CLASSES[:10], "glyphs47": EMNIST_CLASSES}
"""Classes of each drawn dataset, in label order. EMNIST's merged classes (C and c, …) are drawn as capitals."""

FONTS = (
    *(
        f"DejaVu{family}{style}"
        for family in ("Sans", "SansMono")
        for style in ("", "-Bold", "-Oblique", "-BoldOblique")
    ),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
"""Text fonts in matplotlib's data folder, the same on all machines; its symbol and display fonts are left out."""

SIDE = 28
_ZOOM = 3
"""Images are drawn at this many times their side, then box-averaged."""
_INK = 20 * _ZOOM
"""Longest side of an undistorted character, as in MNIST: 20 of 28 pixels."""
_FIELD = 96
_MARGIN = 2.0 * _ZOOM
_WARP = 1.25 * _ZOOM
_BENDS = (5, 5)
"""Points of the image that a warp moves; between them it is smooth."""
_CHANCES = 256
"""Images whose warp and noise are drawn from the generator together: another number is other images."""
_BATCH = 8
"""Images drawn together, few enough for a processor's cache: nearly twice as fast as 256."""


def draw(name: str, count: int, seed: int) -> Images:
    """Draw ``count`` images of the dataset's characters, bright on dark, as many of each class as of any other.

    Each in a random font, with rotation ±20°, shear ±0.3, scale 0.85 to 1.15 (less where the character would leave the
    image), shift up to ±3 pixels, a smooth warp up to ±1.25 pixels, and random stroke weight, blur, contrast and noise.
    The images (count, 1, 28, 28) come in random order, and are the same for the same arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    fields, halves = _distance_fields(GLYPHS[name])
    labels = (torch.arange(count) % len(GLYPHS[name]))[torch.randperm(count, generator=generator)]
    fonts = torch.randint(len(FONTS), (count,), generator=generator)
    chances = torch.rand(count, 9, generator=generator, dtype=torch.float64)
    images = []
    for start in range(0, count, _CHANCES):
        size = min(_CHANCES, count - start)
        bends = torch.rand(size, 2, *_BENDS, generator=generator, dtype=torch.float64)
        specks = torch.randn(size, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
        for few in torch.split(torch.arange(size), _BATCH):
            chosen = fonts[start + few], labels[start + few]
            images.append(_draw_batch(fields[chosen], halves[chosen], chances[start + few], bends[few], specks[few]))
    return Images(torch.cat(images), labels)


def _draw_batch(fields: Tensor, halves: Tensor, chances: Tensor, bends: Tensor, specks: Tensor) -> Tensor:
    """Images (B, 1, 28, 28) uint8 of distance fields (B, S, S) and the half sizes of their ink (B, 2).

    Chances (B, 9) and those of the warp's points (B, 2, 5, 5) lie in [0, 1); specks (B, 1, 28, 28) have deviation 1.
    """
    angle, shear, scale, right, down, weight, blur, contrast, noise = chances.unbind(1)
    weight = _between(weight, 0.0, 3.0)
    blur = _between(blur, 1.5, 6.0)
    grid = _grid(halves + weight[:, None], angle, shear, scale, torch.stack([right, down], 1))
    warp = interpolate(_between(bends, -_WARP, _WARP), size=grid.shape[1:3], mode="bicubic", align_corners=True)
    grid = grid + warp.permute(0, 2, 3, 1) * 2 / _FIELD
    depth = grid_sample(fields[:, None].double(), grid, padding_mode="border", align_corners=False)
    ink = ((depth + weight[:, None, None, None]) / blur[:, None, None, None] + 0.5).clamp(0, 1)
    small = ink.view(-1, 1, SIDE, _ZOOM, SIDE, _ZOOM).mean((3, 5))
    contrast, noise = _between(contrast, 0.75, 1.0), _between(noise, 0.02, 0.12)
    bright = contrast[:, None, None, None] * small + noise[:, None, None, None] * specks
    return (bright.clamp(0, 1) * 255).round().to(torch.uint8)


def _grid(halves: Tensor, angle: Tensor, shear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Where in its distance field each fine pixel lies, (B, 84, 84, 2), for chances of the affine map, each (B,)."""
    angle = torch.deg2rad(_between(angle, -20, 20))
    shear, scale = _between(shear, -0.3, 0.3), _between(scale, 0.85, 1.15)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    forward = torch.stack([cos, shear * cos - sin, sin, shear * sin + cos], 1).view(-1, 2, 2)
    room = _ZOOM * SIDE / 2 - _MARGIN
    reach = (forward.abs() * halves[:, None]).sum(2)
    fit = (room / reach.amax(1)).clamp(max=1)
    reach, forward = reach * fit[:, None], forward * fit[:, None, None]
    moved = _between(shift, -1, 1) * (room - reach).clamp(max=3 * _ZOOM)
    a, b, c, d = forward.flatten(1).unbind(1)
    backward = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
    offset = -(backward * moved[:, None]).sum(2, keepdim=True) * 2 / _FIELD
    theta = torch.cat([backward * (_ZOOM * SIDE / _FIELD), offset], 2)
    return affine_grid(theta, [len(theta), 1, _ZOOM * SIDE, _ZOOM * SIDE], align_corners=False)


def _between(chance: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * chance


@cache
def _distance_fields(characters: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Distance fields (fonts, characters, S, S) float32 and ink half sizes, width before height, (…, 2) float64."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fields = np.empty((len(FONTS), len(characters), _FIELD, _FIELD), dtype=np.float32)
    halves = np.empty((len(FONTS), len(characters), 2))
    for f, font in enumerate(FONTS):
        # Read here: given a path it cannot open, Pillow takes a font of that name from elsewhere on the machine.
        file = BytesIO((folder / f"{font}.ttf").read_bytes())
        large = ImageFont.truetype(file, 2 * _INK, layout_engine=ImageFont.Layout.BASIC)
        for c, character in enumerate(characters):
            ink = _ink(character, large)
            fields[f, c] = distance_transform_edt(ink) - distance_transform_edt(~ink)
            halves[f, c] = np.ptp(np.nonzero(ink), axis=1)[::-1] / 2 + 0.5
    return torch.from_numpy(fields), torch.from_numpy(halves)


def _ink(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """Where the character's ink lies, (S, S) bool: its longest side ``_INK`` pixels long, in the middle."""
    page = Image.new("L", (5 * _INK, 5 * _INK))
    ImageDraw.Draw(page).text((2.5 * _INK, 2.5 * _INK), character, fill=255, font=font, anchor="mm")
    box = page.getbbox()
    assert box is not None, f"font {font.getname()} draws no {character!r}"
    zoom = _INK / max(box[2] - box[0], box[3] - box[1])
    width, height = (max(1, round(zoom * (box[i + 2] - box[i]))) for i in (0, 1))
    field = Image.new("L", (_FIELD, _FIELD))
    field.paste(
        page.crop(box).resize((width, height), Image.Resampling.BOX), ((_FIELD - width) // 2, (_FIELD - height) // 2)
    )
    return np.asarray(field) > 127
