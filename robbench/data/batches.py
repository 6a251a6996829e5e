"""From images to batches: split, shuffle, read, convert."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from robbench.data.images import Images, ImageSource, Subset
from robbench.data.pictures import EncodedImages
from robbench.errors import require


def split(count: int, *, validation: float = 0.2, seed: int, overlapping: bool = False) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on and of a share to validate on, int64 on the CPU.

    ``overlapping`` draws both parts with permutations of their own, so that they share images, as the thesis's code does.

    Raises:
        RobbenchError: the share leaves one part empty.
    """
    judged = round(count * validation)
    expected = f"a share that leaves both parts of {count} images non-empty"
    require(0 < judged < count, "validation", expected, validation)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    other = torch.randperm(count, generator=generator) if overlapping else order
    return order[:-judged], other[-judged:]


def batches(count: int, batch_size: int, *, generator: torch.Generator, device: torch.device | str) -> list[Tensor]:
    """Indices of one epoch's batches, each (B,) int64 on ``device``, shuffled by the generator.

    The last batch may be smaller. A last batch of one image joins the batch before it, because batch normalisation
    cannot train on one.
    """
    order = torch.randperm(count, generator=generator, device=generator.device).to(device)
    parts = list(torch.split(order, batch_size))
    if batch_size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [order[(len(parts) - 2) * batch_size :]]
    return parts


def fetch(
    source: ImageSource,
    indices: Iterable[Tensor],
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Images]:
    """The images at each of the indices, in order; ``waiting()`` is open while they are waited for.

    Those that do not lie in memory are read ahead: pictures that must be decoded by the workers of a DataLoader, others
    by a thread, one batch ahead of the one in use.
    """
    if isinstance(source, Images):
        yield from map(source.take, indices)
        return
    batches = _read(source, indices)
    while True:
        with waiting():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _read(source: ImageSource, indices: Iterable[Tensor]) -> Iterator[Images]:
    if isinstance(source, Subset):
        yield from map(source.finished, _read(source.source, (source.index[index.cpu()] for index in indices)))
        return
    if isinstance(source, EncodedImages):
        yield from source.stream(indices)
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: deque[Future[Images]] = deque()
        for index in indices:
            waiting.append(reader.submit(source.take, index))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        for last in waiting:
            yield last.result()


def pixels(images: Tensor) -> Tensor:
    """uint8 images of any shape -> float32 in [0, 1]; floats (such images, or features) stay as they are."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def check_pixels(images: Tensor) -> None:
    """Raise a RobbenchError unless float images are finite and in [0, 1]; uint8 images always are."""
    if images.dtype == torch.uint8 or not images.numel():
        return
    low, high = (float(extreme) for extreme in images.aminmax())  # NaN where any pixel is
    require(0 <= low <= high <= 1, "images", "pixels in [0, 1]", (low, high))
