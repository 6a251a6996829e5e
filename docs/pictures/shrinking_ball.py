"""Draw how the shrinking ball finds p*: robbench's own search on a network of two pixels, as shrinking-ball.png.

Run from the repository's root: ``python docs/pictures/shrinking_ball.py``.
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGE = torch.tensor([0.3, 0.35])
STEP, STEPS = 0.25, 24


class Curved(nn.Module):
    """(N, 2) -> (N, 2): class 1 beyond a curve whose nearest point is not where the gradient points at first."""

    def forward(self, pixels: Tensor) -> Tensor:
        """The margin and nothing else, as two logits."""
        x, y = pixels.T
        margin = y + 0.6 * x - 0.75 + 0.12 * torch.sin(9 * x)
        return torch.stack([-margin, margin], dim=1)


def steps_of(network: nn.Module) -> tuple[list[Tensor], list[float]]:
    """Every iterate, and the radius of the ball that it was projected into: the idea of `estimation/shrinking_ball.py`."""
    at, radius, size = IMAGE.clone(), 0.5, STEP
    iterates, radii = [at], [radius]
    for _ in range(STEPS):
        at = at.clone().requires_grad_()
        logits = network(at[None])[0]
        (slope,) = torch.autograd.grad(logits[1] - logits[0], at)
        at = (at.detach() + size * radius * slope.sign()).clamp(0, 1)
        at = IMAGE + (at - IMAGE).clamp(-radius, radius)
        if network(at[None])[0].argmax() == 1:  # fooled: the ball shrinks below this distance
            radius = float((at - IMAGE).abs().max()) * 0.92
        else:
            size *= 0.9
        iterates.append(at)
        radii.append(radius)
    return iterates, radii


def draw(path: Path) -> None:
    """The curve, the balls from large to small, and the iterates."""
    network = Curved()
    iterates, radii = steps_of(network)
    figure, axes = plt.subplots(figsize=(6, 5.2), layout="constrained")
    grid = torch.linspace(0, 1, 300)
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    fooled = network(torch.stack([x.ravel(), y.ravel()], 1)).argmax(1).view_as(x)
    axes.contourf(x, y, fooled, levels=[-0.5, 0.5, 1.5], colors=["#f4f6fa", "#fbe3d6"])
    balls = list(dict.fromkeys(radii))
    for number, radius in enumerate(balls):
        last = number == len(balls) - 1
        low = (IMAGE - radius).tolist()
        colour = "#0b5394" if last else "#7f9cc0"
        axes.add_patch(Rectangle(low, 2 * radius, 2 * radius, fill=False, ec=colour, lw=2 if last else 0.9))
    axes.plot(*torch.stack(iterates).T.tolist(), "o-", ms=4, lw=0.8, color="#c55a11", label="iterates")
    axes.plot(*IMAGE.tolist(), "s", color="black", label="image")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="first pixel", ylabel="second pixel", aspect="equal")
    axes.text(0.97, 0.95, "another class", ha="right", va="top", color="#a0440a")
    axes.text(*(IMAGE + torch.tensor([balls[-1], -balls[-1]])).tolist(), " last ball: p*", va="bottom", color="#0b5394")
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_name("shrinking-ball.png"))
