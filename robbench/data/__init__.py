"""Images as tensors: torchvision's datasets, prepared arrays and drawn characters, and how they become batches."""

from robbench.data.batches import AUGMENTATIONS, augment, batches, check_pixels, pixels, split
from robbench.data.glyphs import GLYPHS, draw
from robbench.data.images import Data, Images
from robbench.data.loading import ORIENTATIONS, load, prepare
from robbench.data.prepared import read_npz, write_npz

__all__ = [
    "AUGMENTATIONS",
    "GLYPHS",
    "ORIENTATIONS",
    "Data",
    "Images",
    "augment",
    "batches",
    "check_pixels",
    "draw",
    "load",
    "pixels",
    "prepare",
    "read_npz",
    "split",
    "write_npz",
]
