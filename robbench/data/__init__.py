"""Images as tensors: torchvision's datasets, prepared arrays and drawn characters, and how they become batches."""

from robbench.data.batches import augment, batches, check_pixels, fetch, pixels, split
from robbench.data.glyphs import GLYPHS, draw
from robbench.data.images import Data, Images, ImageSource, subset
from robbench.data.loading import load, load_data, prepare, training_parts
from robbench.data.prepared import read_npz, write_npz

__all__ = [
    "GLYPHS",
    "Data",
    "ImageSource",
    "Images",
    "augment",
    "batches",
    "check_pixels",
    "draw",
    "fetch",
    "load",
    "load_data",
    "pixels",
    "prepare",
    "read_npz",
    "split",
    "subset",
    "training_parts",
    "write_npz",
]
