"""``robbench import``: what it prints, what it writes, and what it asks for."""

from __future__ import annotations

import pytest
import torch
from photographs import write_folders

from robbench.cli import main
from robbench.models import build, weights
from robbench.models.checkpoints import network_of_checkpoint
from robbench.spec import Checkpoint

GREY = (1, 28, 28)
PAIR = {"mean": torch.tensor([0.25]), "std": torch.tensor([0.5])}


@pytest.fixture
def imported(tmp_path, capsys):
    """Imports a file of a cnn7 with ``extra`` tensors; status, output and errors."""

    def run(*arguments, extra=None):
        tensors = {f"module.{key}": value for key, value in weights(build("cnn7", classes=10, shape=GREY)).items()}
        torch.save({"model": tensors | (extra or {}), "optimizer": {"buffer": torch.zeros(3)}}, tmp_path / "mine.pt")
        status = main(["import", str(tmp_path / "mine.pt"), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_what_went_where_is_printed_and_written(imported, tmp_path):
    """A line for every layer, what is left out, the accuracy; the file written needs nothing said of it."""
    output = str(tmp_path / "out.safetensors")
    arguments = ("--architecture", "cnn7", "--dataset", "glyphs10", "--data", str(tmp_path), "-o", output)
    status, printed, errors = imported(*arguments, extra=PAIR)
    assert (status, errors) == (0, "")
    lines = printed.splitlines()
    assert lines[0] == "conv1          ← model/module.conv1: weight, bias"
    assert lines[7] == "normalisation  ← model/mean and model/std"
    assert lines[8] == "14 tensors taken, 1 left out: optimizer/buffer"
    assert lines[9].startswith("cnn7 behind mean (0.25) and std (0.5): clean accuracy ")
    assert lines[9].endswith("% of 1,000 test images of glyphs10")
    assert lines[10] == f"written: {output}, for Checkpoint({output!r}) of 'cnn7'"
    images = torch.rand(4, *GREY)
    own = network_of_checkpoint("cnn7", Checkpoint(output), GREY).network(images)
    assert torch.equal(own, build("cnn7", classes=10, shape=GREY).eval().body((images - 0.25) / 0.5))


def test_the_accuracy_is_taken_on_pictures(imported, tmp_path):
    """Of the size and channels that the architecture is for."""
    folder = write_folders(tmp_path / "mine", {str(number): 5 for number in range(10)})
    arguments = ("--architecture", "cnn7", "--dataset", f"folder:{folder}", "--data", str(tmp_path))
    status, printed, errors = imported(*arguments, extra=PAIR)
    assert (status, errors) == (0, "")
    assert printed.splitlines()[9].endswith("% of 10 test images of mine")


def test_an_unknown_normalisation_is_tried_and_asked_for(imported, tmp_path):
    """The accuracy of those in common use helps to tell which it was; nothing is written before it is said."""
    output = tmp_path / "out.safetensors"
    arguments = ("--architecture", "cnn7", "-o", str(output))
    status, printed, errors = imported(*arguments, "--dataset", "glyphs10", "--data", str(tmp_path))
    assert status == 2
    assert errors == (
        "robbench: import: expected the normalisation that the weights were trained with; say --mean and --std\n"
    )
    behind = [line.partition(":")[0] for line in printed.splitlines() if "accuracy" in line]
    assert behind == [f"cnn7 behind mean ({mean}) and std ({std})" for mean, std in ((0, 1), (0.5, 0.5))]
    assert not output.exists()
    assert imported(*arguments, "--mean", "0", "--std", "1")[0] == 0
    assert network_of_checkpoint("cnn7", Checkpoint(output), GREY).network.normalise.values == ((0.0,), (1.0,))


def test_without_an_architecture_those_that_fit_are_printed(imported, tmp_path):
    """By names and shapes; exit status 2 where there is none."""
    assert imported() == (0, f"{tmp_path / 'mine.pt'} fits cnn7\n", "")
    status, printed, _ = imported(extra={"module.conv9.weight": torch.zeros(3)})
    assert (status, "fits none of the named architectures" in printed) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--architecture", "cnn4"), "do not fit cnn4"),
        (("--architecture", "cnn7", "-o", "out.pt"), "--output: expected a .safetensors file"),
        (("--architecture", "cnn7", "--mean", "0"), "Checkpoint mean and std: expected both or none"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(imported, arguments, message):
    """Exit status 2, and no traceback."""
    status, _, errors = imported(*arguments)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
