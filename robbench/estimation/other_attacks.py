"""p* by an attack of another library or by one's own function, and by several searches together."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robbench.attacks import counted, without_parameter_gradients
from robbench.errors import RobbenchError, require, unknown
from robbench.estimation.bisection import Bisection
from robbench.estimation.problem import Outcome, Problem
from robbench.record import MISCLASSIFIED
from robbench.spec import Attack, Estimate
from robbench.spec.searches import ATTACKS, LIBRARIES, Norm, parts

if TYPE_CHECKING:
    from robbench.estimation.estimators import Estimator


@dataclass(frozen=True, kw_only=True)
class AttackFunction:
    """An attack that is called in one way, wherever it comes from."""

    call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    attack: Attack
    minimal: bool
    """Whether it looks for the nearest counterexample, whatever the radius."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, epsilon: Tensor) -> Tensor:
        """(B, C, H, W) adversarial images in [0, 1] of images at (B,) radii."""
        devices = [images.device] if images.device.type == "cuda" else []
        drawn = _DrawnAlike() if self.attack.name in ATTACKS else nullcontext()
        with without_parameter_gradients(network), torch.random.fork_rng(devices=devices), torch.enable_grad(), drawn:
            torch.manual_seed(self.attack.seed)
            found = self.call(network, images.clone(), labels.clone(), epsilon.to(images))
        good = isinstance(found, Tensor) and found.shape == images.shape
        require(good, self.attack.name, f"images of shape {tuple(images.shape)}", getattr(found, "shape", found))
        return found.detach().to(images).clamp(0, 1)  # x + (1 − x) may be rounded to more than 1


def attack_function(attack: Attack, norm: Norm) -> AttackFunction:
    """The function of a declared attack.

    Raises:
        RobbenchError: the library is not installed, there is no such function, or it takes no such option.
    """
    known, (module, _, name) = ATTACKS.get(attack.name), attack.name.partition(":")
    if known is not None:
        module, name = (
            {"adv_lib": "adv_lib.attacks", "pyautoattack": "pyautoattack.square"}.get(module, module),
            known.function,
        )
    function = _imported(attack.name, module, name)
    takes = inspect.signature(function).parameters
    options = {**(known.options if known else {}), **dict(attack.options)}
    if not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        for option in options.keys() - takes.keys():
            raise unknown(f"option of {attack.name}", option, takes)
    if attack.module == "pyautoattack":
        return AttackFunction(call=_square(function, options, norm), attack=attack, minimal=False)
    if known is not None and "norm" in takes:
        options["norm"] = {"linf": math.inf, "l2": 2}[norm]
    radius = "eps" if known else "epsilon"
    minimal = known.minimal if known else radius not in takes
    return AttackFunction(
        call=_function(function, options, None if minimal else radius), attack=attack, minimal=minimal
    )


def check_attacks(estimate: Estimate) -> None:
    """Raise a RobbenchError where a search or a final test needs an attack that :func:`attack_function` refuses."""
    for each in (*parts(estimate.search), *estimate.final_test):
        if isinstance(each, Attack):
            attack_function(each, estimate.norm)


def _imported(name: str, module: str, function: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries' own imports
            return getattr(import_module(module), function)
    except Exception as error:  # the module is the user's code
        library = LIBRARIES.get(module.partition(".")[0])
        if library is None:
            raise RobbenchError(f"attack {name!r}: tried `from {module} import {function}`, got {error!r}") from error
        message = f"attack {name!r}: expected {library} to be installed, got {error!r}; docs/attacks.md says how"
        raise RobbenchError(message) from error


def _function(function: Any, options: Mapping[str, Any], radius: str | None) -> Callable[..., Tensor]:
    """Functions ``f(model, images, labels, <radius>=…, …)``; without a radius they look for the nearest counterexample."""

    def call(network: nn.Module, images: Tensor, labels: Tensor, epsilon: Tensor) -> Any:
        return function(network, images, labels, **({radius: epsilon} if radius else {}), **options)

    return call


def _square(function: Any, options: Mapping[str, Any], norm: Norm) -> Callable[..., Tensor]:
    """A class ``SquareAttack(model, eps=…, norm=…)`` whose objects attack with one radius for all images."""
    order = {"linf": "Linf", "l2": "L2"}[norm]

    def call(network: nn.Module, images: Tensor, labels: Tensor, epsilon: Tensor) -> Any:
        seed = torch.initial_seed()  # it seeds torch itself
        attack = function(network, norm=order, eps=epsilon.max().item(), seed=seed, **options)
        return attack.perturb(images, labels)

    return call


_NEW = {torch.rand: torch.rand_like, torch.randn: torch.randn_like}
_LIKE = {torch.rand_like, torch.randn_like}
_IN_PLACE = {torch.Tensor.uniform_, torch.Tensor.normal_}


class _DrawnAlike(TorchFunctionMode):
    """Random numbers for a batch of images are drawn for one image and given to all.

    So an image's result is what it would be if the attack saw this image alone with this seed, whatever its batch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _NEW and "generator" not in given:
            batch, draw = torch.empty(*args, **given), _NEW[func]
            if batch.ndim == 4:
                return batch.copy_(draw(batch[:1]))
        if func in _LIKE and args[0].ndim == 4:
            return func(args[0][:1], *args[1:], **given).expand(args[0].shape).clone()
        if func in _IN_PLACE and args[0].ndim == 4:
            tensor, *rest = args
            with torch.no_grad():
                func(tensor[:1], *rest, **given)
                return tensor.copy_(tensor[:1].clone())
        return func(*args, **given)


class ByAttack(Bisection):
    """Find p* of every image by another library's attack, or by one's own function.

    A minimal attack is called once for each image. An attack within a radius is called at the middle of each image's
    bracket, as by the published search. Either way p* is the smallest grid radius that holds a counterexample at its true
    distance, once it is confirmed. Passes are counted where they happen, in the network.
    """

    def __init__(self, problem: Problem, attack: Attack) -> None:
        super().__init__(problem)
        self.first.fill_(int(problem.grid[0] <= 0))  # at ε = 0 nothing is attacked
        self._attack = attack_function(attack, problem.norm)

    def _probe(self) -> None:
        """Attack the next undecided images, and close or halve their brackets."""
        problem, attack, batch = self.problem, self._attack, self.undecided
        middle = self.last[batch] if attack.minimal else (self.first[batch] + self.last[batch]) // 2
        if attack.attack.module == "pyautoattack":  # one radius for all images
            batch, middle = batch[middle == middle[0]], middle[middle == middle[0]]
        batch, middle = batch[: self.batching.size], middle[: self.batching.size]
        originals, labels = problem.take(batch)
        with counted(problem.network) as passes:
            adversarial = attack(problem.network, originals, labels, self.radii[middle])
            index = problem.grid_index(adversarial, originals).minimum(middle)
            success = problem.fooled(adversarial, originals, labels, self.radii[index].to(problem.device))
        self.forward += passes.forward
        self.backward += passes.backward
        fooled = success.cpu()
        self.settle(batch[fooled], index[fooled], adversarial[success])
        self.first[batch] = torch.where(fooled & ~torch.tensor(attack.minimal), self.first[batch], middle + 1)


class Together:
    """Several searches of one problem, one after the other: p* of every image is the smallest that any of them found."""

    def __init__(self, problem: Problem, searches: Mapping[str, Estimator]) -> None:
        self._problem, self._searches = problem, searches

    @property
    def done(self) -> bool:
        """Whether every search is done."""
        return all(search.done for search in self._searches.values())

    @property
    def progress(self) -> tuple[float, float]:
        """Images whose p* is found, and all of them, over all searches."""
        done, total = zip(*(search.progress for search in self._searches.values()), strict=True)
        return sum(done), sum(total)

    def step(self) -> None:
        """Take a step of the first search that is not done."""
        next(search for search in self._searches.values() if not search.done).step()

    @property
    def outcome(self) -> Outcome:
        """The smallest p* of every image with its counterexample, who found it, and the passes of all."""
        outcomes = {name: search.outcome for name, search in self._searches.items()}
        found_each = torch.stack([each.pstar for each in outcomes.values()])
        pstar, best = found_each.amin(dim=0), found_each.argmin(dim=0)
        found = (pstar > MISCLASSIFIED) & (pstar < len(self._problem.grid))
        adversarials = None
        kept = [each.adversarials for each in outcomes.values() if each.adversarials is not None]
        if len(kept) == len(outcomes):
            adversarials = torch.stack(kept)[best, torch.arange(len(best))]
        return Outcome(
            pstar,
            adversarials,
            sum(each.forward for each in outcomes.values()),
            sum(each.backward for each in outcomes.values()),
            self._problem.notes,
            min(each.batch_size for each in outcomes.values()),
            {name: int((found & (best == at)).sum()) for at, name in enumerate(outcomes)},
        )

    def state_dict(self) -> dict[str, Any]:
        """The states of all searches, by name."""
        return {name: search.state_dict() for name, search in self._searches.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same searches."""
        for name, search in self._searches.items():
            search.load_state_dict(state[name])
