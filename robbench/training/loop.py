"""One training loop for every recipe."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robbench.attacks import evaluating
from robbench.data import Images, augment, batches, pixels
from robbench.errors import RobbenchError
from robbench.machine.generators import generators_at
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches, must_fit_whole
from robbench.machine.precision import tensor_cores
from robbench.machine.timing import Stopwatch
from robbench.models.weights import buffers, not_finite
from robbench.record import Counts, Epoch
from robbench.spec import Recipe
from robbench.training.features import Features, extract, frozen_part, worth_keeping
from robbench.training.optimisers import new_optimiser, restore, state_tensors
from robbench.training.schedule import kept_epoch, learning_rate, ramp, stops
from robbench.training.updates import VALIDATION_BATCH, attacked, autocast, update, validate

DIVERGED = "a smaller learning rate or early stopping may help"


@dataclass
class Progress:
    """State of a training run after an epoch: all that is needed to go on, bit for bit.

    Random numbers are a function of seed and epoch, the learning rate one of the update's number, early stopping and
    the kept epoch ones of the history: none of them has state of its own.
    """

    history: list[Epoch] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the epoch to keep, of those so far."""
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    forward: int = 0
    backward: int = 0
    """Images passed so far."""
    notes: list[str] = field(default_factory=list)
    """Batches that were halved because memory ran out."""
    features: bool | None = None
    """Whether the frozen blocks' features were kept, which depends on free memory; None before the first epoch."""


def train(
    network: nn.Module,
    recipe: Recipe,
    training: Images,
    validation: Images,
    *,
    stopwatch: Stopwatch,
    groups: Sequence[dict[str, object]] | None = None,
    held: Iterable[nn.Module] = (),
    augmentation: str = "none",
    seed: int = 0,
    progress: Progress | None = None,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    on_update: Callable[[int, int, int], None] = lambda epoch, update, updates: None,
) -> Progress:
    """Train a network by a recipe; its weights end as those of the kept epoch.

    Adversarial images are made with the network in eval mode, and the update step runs in training mode (unless the
    recipe says ``running``). On a GPU float32 products may round their factors to TF32, in validation too. No update
    waits for results of the device. An epoch does, however many updates it has: for the order of its
    images, for losses, counts and seconds, and once for all weights and optimiser state. Where conventional retraining
    without augmentation holds the first blocks, their features are computed once, where that pays and memory allows: the
    same function, to float rounding; the passes counted are then those of the other blocks. When memory runs out, the
    batches of validation and of those features are halved, which changes no result; an update is never made smaller.

    Args:
        network: (N, C, H, W) float32 in [0, 1] -> (N, classes), on the device of the images; as training begins with
            it, even where ``progress`` is given.
        recipe: how to train.
        training: uint8 images and int64 labels.
        validation: the same, other images.
        stopwatch: gets the seconds of training, validation and warm-up.
        groups: parameter groups of the optimiser, each with its ``lr`` factor on the recipe's rate as ``scale``; None
            for all trainable parameters.
        held: modules kept in eval mode throughout (frozen blocks).
        augmentation: of the training images, ``none`` or ``crop-flip``.
        seed: of data order, augmentation, random starts, and whatever the network draws from the global generators of
            torch, Python and numpy: dropout, for one.
        progress: an interrupted run to go on with.
        on_epoch: called after every epoch with the state so far.
        on_update: called before every update with epoch, update and updates per epoch, without any result.

    Raises:
        RobbenchError: a loss is not finite; names epoch and batch. Or weights are not, at the end of an epoch; or a
            buffer changed that is not stored with them; or an update does not fit into memory; or all parameters are
            frozen, or none that is trained has a part in the logits.
    """
    device = training.images.device
    held = tuple(held)
    optimiser = new_optimiser(network, recipe, groups)
    state = progress or Progress()
    (begun,) = _copies(buffers(network))
    if state.history:
        network.load_state_dict(state.weights)
        restore(optimiser, state.optimiser)
    loop, judging = GraphedLoop(device, state.notes), Batches("validation", VALIDATION_BATCH, state.notes)
    whole = (
        f"an update of {min(recipe.batch_size, len(training))} images does not fit on {device.type}, and a smaller one "
        "would change the result",
        "set a smaller batch_size in the recipe, or use another device (--robbench-device); finished epochs stay, and "
        "--robbench-resume goes on from them",
    )
    (unstored,) = _copies(_unstored(network))
    with generators_at(_seed(seed, 0), device), tensor_cores(), stopwatch.region("training"):
        learner, inputs, checks = _learner(network, recipe, training, validation, held, augmentation, state)
        state.features = inputs is not training
    updates = sum(1 for _ in batches(len(training), recipe.batch_size, generator=None, device=torch.device("cpu")))
    with tensor_cores(), stopwatch.region("warm_up"), must_fit_whole(*whole):
        _warm_up(learner, recipe, inputs, held)
    for epoch in range(len(state.history) + 1, recipe.epochs + 1):
        if stops(recipe, state.history):
            break
        generator = torch.Generator(device).manual_seed(_seed(seed, epoch))
        order = torch.Generator().manual_seed(_seed(seed, epoch))
        before = stopwatch.seconds
        losses, correct = [], torch.zeros((), dtype=torch.int64, device=device)
        with (
            generators_at(_seed(seed, epoch), device),
            tensor_cores(),
            stopwatch.region("training"),
            must_fit_whole(*whole),
        ):
            for number, chosen in enumerate(
                batches(len(training), recipe.batch_size, generator=order, device=device), start=1
            ):
                on_update(epoch, number, updates)
                position = (epoch - 1) + (number - 1) / updates
                rate = learning_rate(recipe, position, updates)
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["scale"]
                images = augment(pixels(inputs.images[chosen]), augmentation, generator)
                labels = inputs.labels[chosen]
                if recipe.attack is not None:
                    scale = ramp(recipe, position)
                    images = attacked(learner, recipe.attack, recipe.precision, images, labels, generator, scale, loop)
                loss, hits = update(learner, recipe, optimiser, images, labels, held)
                losses.append(loss)
                correct += hits
            *values, right = torch.cat([torch.stack(losses).double(), correct.double().view(1)]).tolist()
        _check_finite(values, epoch, updates)
        with generators_at(_seed(seed, epoch), device), tensor_cores(), stopwatch.region("validation"):
            clean, robust = validate(learner, recipe, checks, seed=_seed(seed, epoch), loop=loop, judging=judging)
        steps = recipe.attack.steps if recipe.attack else 0
        judge = recipe.validation_attack or recipe.attack
        judged = judge.steps + 1 if judge else 0
        state.forward += len(training) * (steps + 1) + len(validation) * (judged + 1)
        state.backward += len(training) * (steps + 1) + len(validation) * max(0, judged - 1)
        after = stopwatch.seconds
        state.history.append(
            Epoch(
                epoch=epoch,
                loss=math.fsum(values) / len(values),
                learning_rate=learning_rate(recipe, epoch - 1, updates),
                train=Counts(correct=int(right), total=len(training)),
                validation=clean,
                robust=robust,
                seconds=round(after.training - before.training, 6),
                validation_seconds=round(after.validation - before.validation, 6),
            )
        )
        with stopwatch.region("io"):
            state.weights, state.optimiser, left_out = _copies(
                network.state_dict(), state_tensors(optimiser), _unstored(network)
            )
            _check_unchanged(unstored, left_out, epoch)
            if overflown := not_finite(state.weights, begun):
                raise RobbenchError(f"training diverged: {overflown[0]} is not finite after epoch {epoch}; {DIVERGED}")
            if kept_epoch(recipe, state.history) == epoch:
                state.best = state.weights
            on_epoch(state)
    network.load_state_dict(state.best)
    return state


def _learner(
    network: nn.Module,
    recipe: Recipe,
    training: Images,
    validation: Images,
    held: tuple[nn.Module, ...],
    augmentation: str,
    state: Progress,
) -> tuple[nn.Module, Images | Features, Images | Features]:
    """What an epoch runs: the network on its images, or its last layers on the features of the first ones.

    A run that is gone on with does what it did: either way is the same function, but not to the last bit.
    """
    whole = network, training, validation
    parts = frozen_part(network, held) if recipe.attack is None and augmentation == "none" else None
    if parts is None:
        return whole
    frozen, learner = parts
    with evaluating(frozen), autocast(recipe.precision, training.images.device):
        kept = state.features
        if kept is None:
            kept = worth_keeping(frozen, len(training) + len(validation), training.images[:1])
        if not kept:
            return whole
        size = Batches("the frozen blocks' features", recipe.batch_size, state.notes)
        return learner, extract(frozen, training, size), extract(frozen, validation, size)


def _warm_up(network: nn.Module, recipe: Recipe, training: Images | Features, held: tuple[nn.Module, ...]) -> None:
    """A discarded update on a copy, so that set-up costs of kernels and allocator are not counted as training.

    On a GPU it is attacked twice, since a loop captures a shape's second call: the copy's graph goes with it, what the
    first capture loads stays.
    """
    copied, twins = copy.deepcopy((network, held))
    images = pixels(training.images[: recipe.batch_size]).clone()  # features are not the warm-up's to write into
    labels = torch.zeros_like(training.labels[: recipe.batch_size])
    with generators_at(0, images.device):
        if recipe.attack is not None:
            loop = GraphedLoop(images.device)
            for _ in range(2 if images.is_cuda else 1):
                found = attacked(copied, recipe.attack, recipe.precision, images, labels, None, loop=loop)
            images = found
        update(copied, recipe, new_optimiser(copied, recipe, None), images, labels, twins)


def _unstored(network: nn.Module) -> dict[str, Tensor]:
    """The buffers that are no part of the weights: those with ``persistent=False``."""
    stored = {id(tensor) for tensor in network.state_dict(keep_vars=True).values()}
    return {name: buffer.detach() for name, buffer in network.named_buffers() if id(buffer) not in stored}


def _check_unchanged(before: dict[str, Tensor], after: dict[str, Tensor], epoch: int) -> None:
    """Neither p* nor a resumed run would know what such a buffer has become."""
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None or not _same_bits(one, other):
            raise RobbenchError(
                f"buffer {name!r} changed in epoch {epoch}, but is not stored with the weights: p* and a resumed training "
                "would begin with its first value; register it without persistent=False"
            )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for an epoch, without the overlaps of seed + epoch."""
    return int.from_bytes(hashlib.sha256(f"robbench {seed} {epoch}".encode()).digest()[:8], "big") >> 1


def _check_finite(losses: Sequence[float], epoch: int, updates: int) -> None:
    for number, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise RobbenchError(
                f"training diverged: the loss is {loss} in epoch {epoch}, batch {number} of {updates}; {DIVERGED}"
            )


def _copies(*groups: dict[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """Contiguous copies on the CPU; from a GPU all at once into pinned memory, which is waited for at the end only."""
    copied = tuple(
        {
            name: tensor.to("cpu", non_blocking=True, copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        for tensors in groups
    )
    for device in {tensor.device for tensors in groups for tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copied
