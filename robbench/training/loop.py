"""One training loop for every recipe, as a resumable part of a stage."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from robbench.data import ImageSource, augment, batches, centre, fetch, pixels
from robbench.errors import RobbenchError
from robbench.machine.environment import multiplies_in_tf32
from robbench.machine.generators import generators_at
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches, must_fit_whole
from robbench.machine.precision import tensor_cores
from robbench.machine.timing import Stopwatch
from robbench.models.weights import infinite_by_design, not_finite
from robbench.record import Counts, Epoch, Training
from robbench.spec import Recipe
from robbench.training.early_stopping import kept_epoch, stops
from robbench.training.features import Learner, extract, on_features
from robbench.training.objectives import loss_of
from robbench.training.optimisers import new_optimiser, restore, set_rates, state_tensors
from robbench.training.schedule import learning_rate
from robbench.training.updates import VALIDATION_BATCH, autocast, batch_of, device_of, update, validate

DIVERGED = "a smaller learning rate or early stopping may help"


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained on."""

    training: ImageSource
    validation: ImageSource
    augmentation: str = "none"
    """Of the training images: ``none``, ``crop-flip`` or ``resized-crop-flip``."""
    crop_area: float = 0.08
    """Least share of an image in a resized crop."""

    @property
    def side(self) -> int:
        """Of the images that the network gets; those to train on may be larger."""
        return self.validation.shape[-1]


class Trainer:
    """Trains a network by a recipe, one epoch a step; it can be saved after each and goes on bit for bit.

    The attack runs in eval mode and the update in training mode (unless the recipe says ``running``). On a GPU float32
    products may round their factors to TF32. If memory runs out, validation and features go on in smaller batches, which
    changes no result; an update is never made smaller.

    The network, (N, C, H, W) float32 in [0, 1] -> (N, classes), lies on the device of the images. ``seed`` is that of data
    order, augmentation, random starts, and the global generators of torch, Python and numpy. ``groups`` are parameter
    groups of the optimiser, each with its factor on the learning rate as ``scale``; None stands for all trainable
    parameters. ``frozen`` modules stay in eval mode, and so do the ``parents``, which the recipe's objective needs, by
    role. ``on_update`` is called with :attr:`progress` before every update.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        data: TrainingData,
        *,
        stopwatch: Stopwatch,
        seed: int = 0,
        groups: Sequence[dict[str, object]] | None = None,
        frozen: Iterable[nn.Module] = (),
        parents: Mapping[str, nn.Module] | None = None,
        on_update: Callable[[float, float], None] = lambda done, total: None,
    ) -> None:
        self._network, self._recipe, self._data = network, recipe, data
        self._stopwatch, self._seed, self._on_update = stopwatch, seed, on_update
        self._frozen, self._parents = tuple(frozen), parents or {}
        self._optimiser = new_optimiser(network, recipe, groups)
        self._device = device_of(network)
        self._whole = partial(
            must_fit_whole,
            f"an update of {min(recipe.batch_size, len(data.training))} images does not fit on {self._device.type}, "
            "and a smaller one would change the result",
            "set a smaller batch_size in the recipe, or use another device (--robbench-device); finished epochs stay",
        )
        self._infinite = infinite_by_design(network)
        self.notes: list[str] = []
        """What the record should say of this training: that memory ran out, or that graphs were given up."""
        self._loop = GraphedLoop(self._device, self.notes, capturing=partial(stopwatch.region, "warm_up"))
        self._judging = Batches("validation", VALIDATION_BATCH, self.notes)
        self._learner: Learner | None = None
        self._references: Tensor | None = None  # what the loss's reference makes of all images to train on
        self._history: list[Epoch] = []
        self._in_epoch = 0.0  # share of the updates of an unfinished epoch
        self._weights: dict[str, Tensor] = {}
        self._best: dict[str, Tensor] = {}
        self._moments: dict[str, Tensor] = {}
        self._reuses: bool | None = None

    @property
    def done(self) -> bool:
        """Whether the last epoch is trained, or early stopping ended the training."""
        return len(self._history) >= self._recipe.epochs or stops(self._recipe, self._history)

    @property
    def progress(self) -> tuple[float, float]:
        """Epochs trained, with a fraction for an unfinished one, and epochs of the recipe."""
        return len(self._history) + self._in_epoch, self._recipe.epochs

    @property
    def detail(self) -> str:
        """The epoch that is trained, and of the one before it the loss and the validation accuracies."""
        said = [f"epoch {min(len(self._history) + 1, self._recipe.epochs)} of {self._recipe.epochs}"]
        if self._history:
            last = self._history[-1]
            said += [f"loss {last.loss:.3g}", f"accuracy {100 * last.validation.share:.1f} %"]
            said += [f"robust {100 * last.robust.share:.1f} %"] if last.robust else []
        return ", ".join(said)

    def step(self) -> None:
        """Train an epoch and validate the network after it.

        Raises:
            RobbenchError: a loss or weight is not finite, or depends on no parameter that is trained, or memory ran out.
        """
        learner, recipe = self._ready(), self._recipe
        network, checked = learner.network, learner.validation
        epoch, before = len(self._history) + 1, self._stopwatch.seconds
        losses, correct = self._train(epoch, learner)
        seed = _seed(self._seed, epoch)
        with generators_at(seed, self._device), tensor_cores(), self._stopwatch.region("validation"):
            clean, robust = validate(network, recipe, checked, seed=seed, loop=self._loop, judging=self._judging)
        after = self._stopwatch.seconds
        self._history.append(
            Epoch(
                epoch=epoch,
                loss=math.fsum(losses) / len(losses),
                learning_rate=learning_rate(recipe, epoch - 1, len(losses)),
                train=Counts(correct=correct, total=len(self._data.training)),
                validation=clean,
                robust=robust,
                seconds=round(after.training - before.training, 6),
                validation_seconds=round(after.validation - before.validation, 6),
            )
        )
        self._in_epoch = 0.0
        with self._stopwatch.region("io"):
            self._keep()

    def result(self) -> Training:
        """How the training went; the network gets the weights of the kept epoch."""
        self._network.load_state_dict(self._best)
        best = kept_epoch(self._recipe, self._history)
        kept = self._history[best - 1]
        forward, backward = self._passes()
        return Training(
            epochs=self._history,
            best=best,
            stopped_early=len(self._history) < self._recipe.epochs,
            validation=kept.validation,
            robust=kept.robust,
            forward=forward,
            backward=backward,
            tf32=multiplies_in_tf32(self._device),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on after an epoch; later steps do not change it."""
        state = {
            "epochs": msgspec.to_builtins(self._history),
            "notes": [*self.notes],
            "features": self._reuses,
            "weights": self._weights,
            "optimiser": self._moments,
        }
        return state if self._best is self._weights else state | {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; nothing is changed by one that does not fit, which is a ValueError or KeyError."""
        weights, moments = state["weights"], state.get("optimiser", {})
        best = state.get("best", weights)
        shapes = {name: tensor.shape for name, tensor in self._network.state_dict().items()}
        if any({name: tensor.shape for name, tensor in part.items()} != shapes for part in (weights, best)):
            raise ValueError("saved state: expected weights with the names and shapes of this network's")
        reuses, notes = state["features"], state["notes"]
        try:
            history = msgspec.convert(state["epochs"], list[Epoch])
            restore(self._optimiser, moments)
        except (msgspec.ValidationError, RuntimeError, IndexError) as error:
            raise ValueError(f"saved state: {error}") from error
        self._network.load_state_dict(weights)
        self._history, self._weights, self._best, self._moments = history, weights, best, moments
        self._reuses, self.notes[:] = reuses, notes

    def _ready(self) -> Learner:
        """What every epoch runs; the first call sets it up."""
        if self._learner is not None:
            return self._learner
        recipe, data = self._recipe, self._data
        learner = Learner(self._network, data.training, data.validation)
        with generators_at(_seed(self._seed, 0), self._device), tensor_cores(), self._stopwatch.region("training"):
            if (
                recipe.attack is None
                and data.augmentation == "none"
                and not (self._parents or recipe.objective.on_images)
            ):
                learner = on_features(learner, recipe, self._frozen, self.notes, self._reuses)
            self._references = self._referred(learner)
        with tensor_cores(), self._stopwatch.region("warm_up"), self._whole():
            _warm_up(learner, recipe, self._frozen, self._parents, data)
        self._learner, self._reuses = learner, learner.training is not data.training
        return learner

    def _referred(self, learner: Learner) -> Tensor | None:
        """What the loss's reference makes of all images to train on; None where it has none, or images change."""
        loss = loss_of(self._recipe, learner.network, self._parents, learner.training.labels)
        if loss.reference is None or self._data.augmentation != "none":
            return None
        batches = Batches("the reference's outputs", self._recipe.batch_size, self.notes)
        with autocast(self._recipe.precision, self._device):
            return extract(loss.reference, learner.training, batches).images

    def _train(self, epoch: int, learner: Learner) -> tuple[list[float], int]:
        """All updates of an epoch: the loss of each, and how many images were right."""
        recipe, network = self._recipe, learner.network
        loss = loss_of(recipe, network, self._parents, learner.training.labels)
        size, device, seed = len(learner.training), self._device, _seed(self._seed, epoch)
        generator = torch.Generator(device).manual_seed(seed)
        order = torch.Generator().manual_seed(seed)
        losses, correct = [], torch.zeros((), dtype=torch.int64, device=device)
        with generators_at(seed, device), tensor_cores(), self._stopwatch.region("training"), self._whole():
            chosen = batches(size, recipe.batch_size, generator=order, device=learner.training.labels.device)
            updates = len(chosen)
            taken_images = fetch(learner.training, chosen, self._stopwatch.waiting_for_data)
            for number, (index, taken) in enumerate(zip(chosen, taken_images, strict=True)):
                self._in_epoch = number / updates
                self._on_update(*self.progress)
                position = (epoch - 1) + number / updates
                set_rates(self._optimiser, learning_rate(recipe, position, updates), position)
                batch = batch_of(
                    network,
                    recipe,
                    loss,
                    self._augmented(pixels(taken.images), generator),
                    taken.labels,
                    position=position,
                    generator=generator,
                    reference=None if self._references is None else self._references[index],
                    loop=self._loop,
                )
                value, right = update(network, recipe, self._optimiser, batch, frozen=self._frozen, loss=loss)
                losses.append(value)
                correct += right
            *values, right = torch.cat([torch.stack(losses).double(), correct.double().view(1)]).tolist()
        for number, loss in enumerate(values, start=1):
            if not math.isfinite(loss):
                where = f"in epoch {epoch}, batch {number} of {updates}"
                raise RobbenchError(f"training diverged: the loss is {loss} {where}; {DIVERGED}")
        return values, int(right)

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        data = self._data
        if data.augmentation == "none":  # they may be features
            return images
        return augment(images, data.augmentation, generator, side=data.side, area=data.crop_area)

    def _passes(self) -> tuple[int, int]:
        """Images that passed forward and backward in all epochs."""
        recipe, training, validation = self._recipe, len(self._data.training), len(self._data.validation)
        steps, looks = (recipe.attack.steps, recipe.objective.looks) if recipe.attack else (0, 0)
        passes = recipe.objective.passes * (2 if recipe.awp else 1)
        judge = recipe.validation_attack or recipe.attack
        judged = judge.steps + 1 if judge else 0
        forward = training * (looks + steps + passes) + validation * (judged + 1)
        backward = training * (steps + passes) + validation * max(0, judged - 1)
        return len(self._history) * forward, len(self._history) * backward

    def _keep(self) -> None:
        """Copy weights and optimiser to the CPU, so that later updates do not change them."""
        self._weights = _copies(self._network.state_dict(), self._device)
        self._moments = _copies(state_tensors(self._optimiser), self._device)
        epoch = len(self._history)
        for name in not_finite(self._weights):
            if name not in self._infinite:
                raise RobbenchError(f"training diverged: {name} is not finite after epoch {epoch}; {DIVERGED}")
        if kept_epoch(self._recipe, self._history) == epoch:
            self._best = self._weights


def train(
    network: nn.Module, recipe: Recipe, data: TrainingData, *, stopwatch: Stopwatch | None = None, **options: Any
) -> Training:
    """Train a network to the end, with options and errors as of :class:`Trainer`; it gets the kept epoch's weights."""
    trainer = Trainer(network, recipe, data, stopwatch=stopwatch or Stopwatch(device_of(network)), **options)
    while not trainer.done:
        trainer.step()
    return trainer.result()


def _warm_up(
    learner: Learner,
    recipe: Recipe,
    frozen: tuple[nn.Module, ...],
    parents: Mapping[str, nn.Module],
    data: TrainingData,
) -> None:
    """A discarded update on a copy, so that set-up costs of kernels and allocator are not counted as training."""
    network, twins = copy.deepcopy((learner.network, frozen))
    first = torch.arange(min(recipe.batch_size, len(learner.training)), device=learner.training.labels.device)
    taken = learner.training.take(first)
    clean, labels = pixels(taken.images), torch.zeros_like(taken.labels)
    if data.augmentation == "resized-crop-flip":
        clean = centre(clean, data.side)
    with generators_at(0, clean.device):
        loss = loss_of(recipe, network, parents, learner.training.labels)
        batch = batch_of(network, recipe, loss, clean, labels, position=recipe.ramp_epochs)
        update(network, recipe, new_optimiser(network, recipe, None), batch, frozen=twins, loss=loss)


def _seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for an epoch, without the overlaps of seed + epoch."""
    return int.from_bytes(hashlib.sha256(f"robbench {seed} {epoch}".encode()).digest()[:8], "big") >> 1


def _copies(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Contiguous copies on the CPU; those of a GPU are made all at once and waited for at the end."""
    options: dict[str, Any] = {"non_blocking": True, "copy": True, "memory_format": torch.contiguous_format}
    copied = {name: tensor.to("cpu", **options) for name, tensor in tensors.items()}
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return copied
