"""Pictures as image sources: decoded in memory, in a cache of decoded pixels on disk, or decoded when they are taken.

All three give the same bits. Every picture is decoded once before anything is trained, so that those that cannot be
read are known.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from robbench.data.decoding import Form, Look, look
from robbench.data.folders import Files, Listing, check_classes
from robbench.data.images import Data, Images, ImageSource, Subset, some_of
from robbench.errors import RobbenchError
from robbench.machine.memory import free_bytes
from robbench.record import UNREADABLE
from robbench.spec import Dataset
from robbench.store.files import write_atomically, writing

MEMORY_SHARE = 0.25
"""Of the free memory that decoded pictures may take; training takes as much again."""

DISK_SHARE = 0.5
"""Of the free disk that a cache of decoded pictures may take."""

_BATCH = 64
"""Pictures that a worker decodes at once while all of them are looked at."""

_SHOWN = 50
"""Pictures that a message lists at most."""

Kept = Literal["memory", "disk", "nowhere"]
"""Where decoded pixels are. Nowhere: each picture is decoded when it is taken."""

Show = Callable[[str, float, float], None]


def workers() -> int:
    """Processes that decode: one for each of torch's threads, eight at most."""
    return max(1, min(8, torch.get_num_threads()))


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Pictures that are decoded when they are taken."""

    files: Files
    form: Form
    labels: Tensor
    """(N,) int64 on the CPU."""
    fingerprint: str
    """Hex digest of pixels and labels."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.form.shape

    def take(self, index: Tensor) -> Images:
        """The pictures at ``index``, decoded in threads; a RobbenchError where one has changed in the meantime."""
        names = [self.files.names[number] for number in index.tolist()]
        with ThreadPoolExecutor(workers()) as pool:
            found = [*pool.map(partial(look, self.files.reader, self.form, False), names)]
        pixels = torch.empty(len(found), *self.shape, dtype=torch.uint8)
        for place, (decoded, _) in enumerate(found):
            pixels[place] = torch.from_numpy(decoded)
        return self._checked(index, pixels, [looked for _, looked in found])

    def stream(self, indices: Iterable[Tensor]) -> Iterator[Images]:
        """The pictures at each of the indices, decoded by the workers of a DataLoader; errors as of :meth:`take`."""
        batches = [index.cpu() for index in indices]
        for index, found in zip(batches, _decoded(self.files, self.form, batches, hashed=False), strict=True):
            yield self._checked(index, *found)

    def to(self, device: torch.device | str) -> Subset:
        """The same pictures; those that are taken lie on ``device``."""
        return Subset(self, torch.arange(len(self)), device=device)

    def _checked(self, index: Tensor, pixels: Tensor, looks: Sequence[Look]) -> Images:
        for number, looked in zip(index.tolist(), looks, strict=True):
            if looked.fault:
                name = self.files.names[number]
                raise RobbenchError(f"picture {name!r} has changed since this run began ({looked.fault}); run again")
        return Images(pixels, self.labels[index.cpu()])


@dataclass(frozen=True, eq=False)
class MappedImages:
    """Decoded pictures in a file, which is mapped while images are taken from it."""

    path: Path
    shape: tuple[int, int, int]
    """Channels, height, width."""
    labels: Tensor
    """(N,) int64 on the CPU."""
    fingerprint: str
    """Hex digest of pixels and labels."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Images:
        """The images at ``index``; no others are read."""
        here = index.cpu()
        mapped = np.memmap(self.path, dtype=np.uint8, mode="r", shape=(len(self), *self.shape))
        return Images(torch.from_numpy(np.asarray(mapped[here.numpy()])), self.labels[here])

    def to(self, device: torch.device | str) -> Subset:
        """The same images; those that are taken lie on ``device``."""
        return Subset(self, torch.arange(len(self)), device=device)


def load_pictures(
    listing: Listing,
    dataset: Dataset,
    cache: Path,
    *,
    kept: Kept | None = None,
    show: Show = lambda what, done, total: None,
    announce: Callable[[str], None] = lambda text: None,
) -> Data:
    """The pictures of a listing, brought to the dataset's size.

    Args:
        listing: which pictures; the dataset's ``train`` and ``test`` choose among them.
        dataset: what they are brought to.
        cache: folder for decoded pixels, and for what was found in pictures that are decoded when they are taken.
        kept: where decoded pixels are; None for memory where they fit, else the disk where they fit, else nowhere.
        show: gets progress.
        announce: gets what a user should know at once: how large a cache is made, how many pictures are left out.

    Raises:
        RobbenchError: pictures that cannot be read, all of them named, unless the dataset skips them; a class without
            pictures; the cache cannot be written.
    """
    parts = [_Part("train", listing.train, dataset), _Part("test", listing.test, dataset)]
    size = sum(part.bytes for part in parts)
    kept = kept or _fitting(size, cache)
    stem = cache / f"{dataset.name}-{_key(parts)}"
    found = None if kept == "memory" else _remembered(stem, parts, kept)
    if found is None:
        if kept != "memory":
            announce(_plan(dataset.name, parts, size, stem, kept))
        found = _look_at_all(dataset, parts, stem, kept, show)
    elif not dataset.skip_broken:
        _refuse_broken(dataset.name, parts, found)
    train, test = (_source(part, each, stem, kept) for part, each in zip(parts, found, strict=True))
    for part, source in zip(parts, (train, test), strict=True):
        check_classes(part.what, listing.classes, source.labels.tolist())
    notes = _notes(dataset.name, parts, found)
    for note in notes:
        announce(note)
    pieces = [repr(listing.classes), *(each.fingerprint for each in found)]
    digest = hashlib.sha256("\n".join(pieces).encode()).hexdigest()
    return Data(dataset.name, train, test, listing.classes, sha256=digest, notes=notes)


class _Part:
    """The pictures to train on, or those to test on."""

    def __init__(self, name: str, files: Files, dataset: Dataset) -> None:
        assert dataset.size is not None
        assert dataset.resize is not None
        count = dataset.train if name == "train" else dataset.test
        self.name, self.what = name, f"the {name} pictures of {dataset.name!r}"
        self.files = files if count is None else files.take(some_of(len(files), count, dataset.seed).tolist())
        whole = name == "train" and dataset.augmentation == "resized-crop-flip"
        self.form = Form(dataset.channels, dataset.resize, dataset.resize if whole else dataset.size)
        self.pixels = torch.empty(0, *self.form.shape, dtype=torch.uint8)
        """Those that can be read, where they are kept in memory."""

    @property
    def bytes(self) -> int:
        """Of all its pixels."""
        return len(self.files) * math.prod(self.form.shape)

    def pixel_file(self, stem: Path) -> Path:
        """Where its pixels are kept on disk."""
        return stem.with_name(f"{stem.name}.{self.name}.uint8")


class _Found(msgspec.Struct, frozen=True):
    """What was found in the pictures of a part."""

    fingerprint: str
    """Hex digest of pixels and labels of all that can be read."""
    faults: dict[int, str]
    """Why pictures cannot be read, by their place."""
    turned: int
    """Pictures with an EXIF rotation."""


def _fitting(size: int, cache: Path) -> Kept:
    if size <= MEMORY_SHARE * free_bytes(torch.device("cpu")):
        return "memory"
    return "disk" if size <= DISK_SHARE * _free_disk(cache) else "nowhere"


def _free_disk(cache: Path) -> int:
    there = next(folder for folder in (cache.absolute(), *cache.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _plan(name: str, parts: Sequence[_Part], size: int, stem: Path, kept: Kept) -> str:
    count, taken = sum(len(part.files) for part in parts), f"{size / 1e9:.1f} GB"
    if kept == "disk":
        free = f"{_free_disk(stem.parent) / 1e9:.1f} GB free"
        return f"{name}: {count:,} pictures do not fit into memory; decoding them once into {stem}.*: {taken} of {free}"
    return (
        f"{name}: {count:,} pictures, {taken} decoded, fit neither into memory nor on the disk; decoding them as needed"
    )


def _key(parts: Sequence[_Part]) -> str:
    """Changes with the pictures, what they are brought to, and the library that decodes them."""
    digest = hashlib.sha256(f"Pillow {PIL.__version__}".encode())
    for part in parts:
        digest.update(repr(part.form).encode())
        for name, label in zip(part.files.names, part.files.labels, strict=True):
            digest.update(f"{name}\0{label}\0{part.files.reader.stamp(name)}\0".encode())
    return digest.hexdigest()[:16]


def _remembered(stem: Path, parts: Sequence[_Part], kept: Kept) -> list[_Found] | None:
    """What an earlier run found; None where there was none, or its pixels are needed and gone."""
    try:
        found = msgspec.json.decode(Path(f"{stem}.json").read_bytes(), type=list[_Found])
        for part, each in zip(parts, found, strict=True):
            size = (len(part.files) - len(each.faults)) * math.prod(part.form.shape)
            if kept == "disk" and part.pixel_file(stem).stat().st_size != size:
                return None
    except (OSError, *UNREADABLE):
        return None
    return found


def _look_at_all(dataset: Dataset, parts: Sequence[_Part], stem: Path, kept: Kept, show: Show) -> list[_Found]:
    """Decode every picture once, and keep its pixels in memory or on disk; a RobbenchError for broken ones."""
    found = []
    with ExitStack() as files:
        for part in parts:
            keep: Callable[[Tensor], object] = lambda rows: None  # noqa: E731
            if kept == "memory":
                keep = _memory(part)
            elif kept == "disk":
                keep = partial(_append, files.enter_context(writing(part.pixel_file(stem))))
            found.append(_look_at(part, keep, show))
        if not dataset.skip_broken:
            _refuse_broken(dataset.name, parts, found)
    if kept != "memory":
        write_atomically(Path(f"{stem}.json"), msgspec.json.encode(found))
    return found


def _append(file: BinaryIO, rows: Tensor) -> None:
    file.write(rows.numpy().tobytes())


def _look_at(part: _Part, keep: Callable[[Tensor], object], show: Show) -> _Found:
    """Decode the pictures of a part, give the rows of those that can be read to ``keep``, and say what was found."""
    digest, faults, turned, done = hashlib.sha256(repr(part.form).encode()), dict[int, str](), 0, 0
    batches = torch.split(torch.arange(len(part.files)), _BATCH)
    for pixels, looks in _decoded(part.files, part.form, batches, hashed=True):
        for looked in looks:
            if looked.fault:
                faults[done] = looked.fault
            else:
                digest.update(looked.digest + part.files.labels[done].to_bytes(4, "big"))
            turned, done = turned + looked.turned, done + 1
        keep(pixels[[not looked.fault for looked in looks]])
        show(f"decoding {part.what}", done, len(part.files))
    return _Found(digest.hexdigest(), faults, turned)


def _memory(part: _Part) -> Callable[[Tensor], None]:
    """Puts rows into the part's pixels."""
    space = torch.empty(len(part.files), *part.form.shape, dtype=torch.uint8)

    def keep(rows: Tensor) -> None:
        begin = len(part.pixels)
        space[begin : begin + len(rows)] = rows
        part.pixels = space[: begin + len(rows)]

    return keep


def _refuse_broken(name: str, parts: Sequence[_Part], found: Sequence[_Found]) -> None:
    """Raise a RobbenchError that names every picture that cannot be read, with the reason."""
    broken = [
        f"{part.files.names[place]}: {fault}"
        for part, each in zip(parts, found, strict=True)
        for place, fault in each.faults.items()
    ]
    if broken:
        more = [f"and {len(broken) - _SHOWN:,} more"] if len(broken) > _SHOWN else []
        total = sum(len(part.files) for part in parts)
        raise RobbenchError(
            f"dataset {name!r}: {len(broken):,} of {total:,} pictures cannot be used; mend or delete them, or go on "
            "without them (skip_broken=True, --skip-broken):\n  " + "\n  ".join([*broken[:_SHOWN], *more])
        )


def _notes(name: str, parts: Sequence[_Part], found: Sequence[_Found]) -> tuple[str, ...]:
    total = sum(len(part.files) for part in parts)
    broken, turned = sum(len(each.faults) for each in found), sum(each.turned for each in found)
    said = {
        f"{name}: {broken:,} of {total:,} pictures cannot be used and were left out": broken,
        f"{name}: {turned:,} of {total:,} pictures have an EXIF rotation, not applied, as by ImageFolder": turned,
    }
    return tuple(text for text, count in said.items() if count)


def _source(part: _Part, found: _Found, stem: Path, kept: Kept) -> ImageSource:
    files = part.files
    if found.faults:
        files = files.take(place for place in range(len(files)) if place not in found.faults)
    labels = torch.tensor(files.labels, dtype=torch.int64)
    if kept == "memory":
        return Images(part.pixels, labels)
    if kept == "disk":
        return MappedImages(part.pixel_file(stem), part.form.shape, labels, found.fingerprint)
    return EncodedImages(files, part.form, labels, found.fingerprint)


class _Decoder:
    """What the workers of a DataLoader do: decode a batch."""

    def __init__(self, files: Files, form: Form, hashed: bool) -> None:
        self._files, self._form, self._hashed = files, form, hashed

    def __len__(self) -> int:
        return len(self._files)

    def __getitems__(self, numbers: list[int]) -> list[tuple[Tensor, Look]]:
        """(C, S, S) uint8 pixels of each picture, and what was found in it."""
        found = (look(self._files.reader, self._form, self._hashed, self._files.names[number]) for number in numbers)
        return [(torch.from_numpy(pixels), looked) for pixels, looked in found]


def _decoded(
    files: Files, form: Form, batches: Sequence[Tensor], *, hashed: bool
) -> Iterator[tuple[Tensor, list[Look]]]:
    """Decode batches in the workers of a DataLoader, two batches each ahead; a single batch in this process."""
    loader: DataLoader[Any] = DataLoader(
        _Decoder(files, form, hashed),  # type: ignore[arg-type]
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=min(workers(), len(batches)) if len(batches) > 1 else 0,
        collate_fn=_together,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
    )
    yield from loader


def _together(found: list[tuple[Tensor, Look]]) -> tuple[Tensor, list[Look]]:
    """A batch of pixels. torch puts it into shared memory at once: put there later, the worker would keep a copy."""
    return default_collate([pixels for pixels, _ in found]), [looked for _, looked in found]
