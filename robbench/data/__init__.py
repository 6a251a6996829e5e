"""Images as tensors: torchvision's, pictures, prepared arrays and drawn characters; and how they become batches."""

from robbench.data.augmentation import augment
from robbench.data.batches import batches, check_pixels, fetch, pixels, split
from robbench.data.glyphs import GLYPHS, draw
from robbench.data.images import Data, Images, ImageSource, centre, subset
from robbench.data.loading import attacked_images, load, load_data, prepare, training_parts
from robbench.data.prepared import read_npz, write_npz

__all__ = [
    "GLYPHS",
    "Data",
    "ImageSource",
    "Images",
    "attacked_images",
    "augment",
    "batches",
    "centre",
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
