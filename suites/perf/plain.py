"""What robbench is compared with: networks, attacks, training and p* as they are commonly written."""

from __future__ import annotations

import warnings
from contextlib import suppress
from copy import deepcopy
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import nn

from robbench.models import build


def as_written(network):
    """The same network as PyTorch users write it: torch's own layers, nothing in place, channels first."""
    plain = build(network.architecture, classes=network.classes, shape=network.shape)
    plain.load_state_dict(network.state_dict())
    plain.normalise = deepcopy(network.normalise)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return plain.to(next(network.parameters()).device).train(network.training)


def pgd_loop(model, images, labels, epsilon, step_size, steps, random_start=False):
    """PGD as in tutorials."""
    adversarial = images.clone()
    if random_start:
        adversarial = (adversarial + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        loss = F.cross_entropy(model(adversarial), labels)
        gradient = torch.autograd.grad(loss, adversarial)[0]
        adversarial = adversarial.detach() + step_size * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, images - epsilon), images + epsilon).clamp(0, 1)
    return adversarial


class Counted(nn.Module):
    """Counts the images that pass a network forward, and back again."""

    def __init__(self, network):
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0
        self.eval()  # torchattacks puts the whole of it back into the mode that it found

    def forward(self, images):
        """Logits."""
        logits = self.network(images)
        self.forwards += len(images)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient):
        self.backwards += len(gradient)


def sequential_pstar(model, images, labels, grid, steps=40):
    """p* as the study computed it: one image at a time, every probe in full.

    Grid indices, -1 where an image is misclassified, and the numbers of passes forward and backward.
    """
    found, forward, backward = [], 0, 0
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        forward += 1
        if model(image).argmax(1) != label:
            found.append(-1)
            continue
        first, last, smallest = 0, len(grid) - 1, len(grid)
        while first <= last:
            middle = (first + last) // 2
            epsilon = grid[middle]
            adversarial = pgd_loop(model, image, label, epsilon, epsilon / steps, steps)
            forward, backward = forward + steps + (epsilon > 0), backward + steps
            if epsilon > 0 and model(adversarial).argmax(1) != label:
                smallest, last = middle, middle - 1
            else:
                first = middle + 1
        found.append(smallest)
    return torch.tensor(found), forward, backward


def adversarial_epoch(network, optimiser, loader, attack):
    """Adversarial training as users write it: attack the batch, then one step on what comes back."""
    device = next(network.parameters()).device
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        network.eval()
        adversarial = attack(network, images, labels)
        network.train()
        optimiser.zero_grad()
        F.cross_entropy(network(adversarial), labels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()


def installed(module):
    """A module of the group ``peers``, or None; what its own imports warn of is not ours to mend."""
    with warnings.catch_warnings(), suppress(ImportError):
        warnings.simplefilter("ignore")
        return import_module(module)
    return None


def peers(epsilon, step_size, steps):
    """PGD with a random start by each library that is installed: functions of network, images and labels."""
    torchattacks, foolbox = installed("torchattacks"), installed("foolbox")
    found = {}

    def torchattacks_pgd(network, images, labels):
        return torchattacks.PGD(network, eps=epsilon, alpha=step_size, steps=steps)(images, labels)

    def foolbox_pgd(network, images, labels):
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=True)
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=images.device)
        return attack(model, images, labels, epsilons=epsilon)[1]

    if torchattacks is not None:
        found["torchattacks"] = torchattacks_pgd
    if foolbox is not None:
        found["Foolbox"] = foolbox_pgd
    return found
