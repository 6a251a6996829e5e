"""Decoding: every kind of image file as torchvision's ImageFolder, Resize and CenterCrop give it, or a reason."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photographs import photograph
from PIL import Image
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from robbench.data.decoding import Form, decode, look
from robbench.data.folders import Folder

FORM = Form(channels=3, resize=32, side=28)


def theirs(path: Path, form: Form = FORM) -> torch.Tensor:
    """What torchvision makes of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = [v2.Resize(form.resize), v2.CenterCrop(form.side), v2.PILToTensor()]
        found: torch.Tensor = v2.Compose(steps)(default_loader(str(path)))
    return found


def rotated() -> Image.Exif:
    """The EXIF data of a camera that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PALETTE = photograph(1).quantize(16)
KINDS = {
    "colour.jpg": lambda path: photograph(0).save(path),
    "grey.jpg": lambda path: photograph(0, mode="L").save(path),
    "cmyk.jpg": lambda path: photograph(0, mode="CMYK").save(path),
    "alpha.png": lambda path: photograph(0, mode="RGBA").save(path),
    "grey-alpha.png": lambda path: photograph(0, mode="LA").save(path),
    "one-bit.png": lambda path: photograph(0, mode="1").save(path),
    "palette.png": lambda path: PALETTE.save(path),
    "palette-transparent.png": lambda path: PALETTE.save(path, transparency=bytes(range(16))),
    "tall.webp": lambda path: photograph(0, size=(9, 200)).save(path),
    "tiny.bmp": lambda path: photograph(0, size=(3, 2)).save(path),
    "exact.ppm": lambda path: photograph(0, size=(32, 32)).save(path),
    "cmyk.tif": lambda path: photograph(0, mode="CMYK").save(path),
    "turned.jpg": lambda path: photograph(0).save(path, exif=rotated()),
}


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    """Bit for bit, in colour; an EXIF rotation is found, and not applied."""
    KINDS[name](tmp_path / name)
    pixels, turned = decode((tmp_path / name).read_bytes(), FORM)
    assert torch.equal(torch.from_numpy(pixels), theirs(tmp_path / name))
    assert turned == (name == "turned.jpg")


@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.integers(1, 40), more=st.integers(0, 9))
def test_every_size_is_cropped_as_by_torchvision(width: int, height: int, side: int, more: int) -> None:
    """Whatever the image and the size that it is brought to."""
    image = photograph(0, size=(width, height))
    file = BytesIO()
    image.save(file, "png")
    form = Form(channels=3, resize=side + more, side=side)
    expected = v2.Compose([v2.Resize(form.resize), v2.CenterCrop(form.side), v2.PILToTensor()])(image)
    assert torch.equal(torch.from_numpy(decode(file.getvalue(), form)[0]), expected)


def test_grey_pixels_are_the_luma_of_the_colours(tmp_path: Path) -> None:
    """One channel, as Pillow converts to it."""
    photograph(0, size=(28, 28)).save(tmp_path / "0.png")
    pixels, _ = decode((tmp_path / "0.png").read_bytes(), Form(channels=1, resize=28, side=28))
    assert pixels.shape == (1, 28, 28)
    assert (pixels[0] == np.asarray(photograph(0, size=(28, 28), mode="L"))).all()


SIXTEEN = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty file"),
        (b"not an image", "no image that Pillow can read"),
        (lambda: photograph(0).save, "truncated"),
        (lambda: SIXTEEN.save, r"more than 8 bits a pixel \(mode I;16\), which conversion would clip"),
    ],
)
def test_a_picture_that_cannot_be_used_has_a_reason(tmp_path: Path, data, fault: str) -> None:  # type: ignore[no-untyped-def]
    """Empty, of another kind, cut off, or of 16 bits; its pixels are zeros. So has a file that is not there."""
    path = tmp_path / "0.png"
    if callable(data):
        data()(path)
        data = path.read_bytes()[: -40 if fault == "truncated" else None]
    path.write_bytes(data)
    pixels, found = look(Folder(str(tmp_path)), FORM, True, "0.png")
    assert not pixels.any()
    assert re.search(fault, found.fault)
    assert "No such file" in look(Folder(str(tmp_path)), FORM, True, "1.png")[1].fault
