"""What cannot run fails early, and what depends on it with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from stages import ESTIMATE, source, target, write_images

from robbench.errors import RobbenchError
from robbench.models import build, weights
from robbench.spec import Checkpoint, Dataset, Model
from robbench.stages.pipeline import check, run_estimate, run_training


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.weight": torch.zeros(4, 1, 3, 3)}, r"do not fit own_networks:small .*missing: 0\.bias"),
        (None, "expected a safetensors file"),
    ],
    ids=["other layers", "not safetensors"],
)
def test_a_checkpoint_that_does_not_fit_fails_before_any_training(place, ran, tmp_path, content, message):
    """Weights of another network and a file that is none are found by the check of what depends on them."""
    path = tmp_path / "mine.safetensors"
    if content is None:
        path.write_bytes(b"\x80\x04pickle")
    else:
        save_file(content, path)
    dataset = Dataset(name="near")
    mine = Model(architecture="own_networks:small", dataset=dataset, checkpoint=Checkpoint(path=str(path)))
    with pytest.raises(RobbenchError, match=message):
        run_training(target(1, of=mine), place(), suite="demo")
    assert ran == []


def test_a_checkpoint_whose_logits_are_not_finite_has_no_accuracy(place, tmp_path):
    """Its weights are finite, and behind a ReLU of oneDNN, which makes 0 of NaN, its logits would be."""
    network = build("cnn7", classes=3, shape=(1, 28, 28), seed=0)
    with torch.no_grad():
        for layer in (network.body.conv1, network.body.conv2):
            layer.weight.mul_(1e25)
    save_file(weights(network), tmp_path / "mine.safetensors")
    checkpoint = Checkpoint(path=str(tmp_path / "mine.safetensors"))
    context = place()
    write_images(tmp_path / "data", "large", side=28)
    mine = Model(architecture="cnn7", dataset=Dataset(name="large"), checkpoint=checkpoint)
    with pytest.raises(RobbenchError, match="logits are not finite on unperturbed validation images"):
        run_training(mine, context, suite="demo")


def test_what_depends_on_a_failed_stage_fails_at_once_with_its_reason(place, ran):
    """A source that diverges is tried once: transfers of it and estimates of them name the divergence."""
    context = place()
    bad = source(learning_rate=1e6, clip_norm=None, epochs=3)
    with pytest.raises(RobbenchError, match="training diverged"):
        run_training(target(1, of=bad), context, suite="demo")
    assert ran == ["train"]
    for model in (bad, target(1, of=bad), target(2, of=bad)):
        with pytest.raises(RobbenchError, match=r"failed before: .*training diverged: the loss is"):
            run_estimate(model, ESTIMATE, context, suite="demo")
    assert ran == ["train"]
    run_training(source(), context, suite="demo")
    with pytest.raises(RobbenchError, match=r"^training diverged"):
        run_training(bad, place(), suite="demo")


def test_an_interruption_is_no_failure(place, ran):
    """After Ctrl-C the stage may be tried again in the same session."""

    def stop(what, done, total):
        raise KeyboardInterrupt

    context = place(show=stop)
    with pytest.raises(KeyboardInterrupt):
        run_training(source(), context, suite="demo")
    assert context.failed == {}
    run_training(source(), replace(context, show=lambda *progress: None), suite="demo")
    assert ran == ["train", "train"]


def test_a_missing_dataset_is_found_before_training(place, ran):
    """The target's as well as the source's, before the source is trained."""
    for model in (target(1, dataset="nowhere"), target(1, of=source("nowhere"))):
        with pytest.raises(RobbenchError, match=r"unknown dataset 'nowhere'"):
            run_training(model, place(), suite="demo")
    assert ran == []


def test_images_of_another_shape_are_found_before_training(place, ran, tmp_path):
    """A network for 28x28 images, a source of one size or channel count and a target of another: no training starts."""
    write_images(tmp_path / "data", "large", side=12)
    write_images(tmp_path / "data", "colour", channels=3)
    with pytest.raises(RobbenchError, match=r"cnn7 takes 1x28x28 images, got 1x8x8"):
        check(source(architecture="cnn7"), place())
    with pytest.raises(RobbenchError, match=r"expected images that .*near.* takes, 1x8x8, got 3x8x8"):
        run_training(target(1, dataset="colour"), place(), suite="demo")
    with pytest.raises(RobbenchError, match=r"expected images that .*near.* takes, 1x8x8, got 1x12x12"):
        run_training(target(1, of=source(architecture="own_networks:rigid"), dataset="large"), place(), suite="demo")
    assert ran == []


def test_a_network_for_any_size_may_be_transferred_to_larger_images(place, tmp_path):
    """Pooling before the head takes 12x12 images after 8x8 ones, through training and estimate."""
    write_images(tmp_path / "data", "large", side=12)
    record = run_estimate(target(2, dataset="large"), ESTIMATE, place(), suite="demo")
    assert len(record.robustness.pstar) == 20


def test_more_blocks_than_a_network_has_are_found_before_training(place, ran):
    """Only the built network knows its blocks: TL#5 of a network of four is an error before the source is trained."""
    with pytest.raises(RobbenchError, match=r"k: expected 1…4 for own_networks:small, got 5"):
        run_training(target(5), place(), suite="demo")
    assert ran == []


def test_a_store_that_cannot_be_written_is_found_before_training(place, ran, tmp_path):
    """A file where the store should be is named before anything is computed."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RobbenchError, match=r"file.* cannot be written"):
        run_training(source(), place(folder=tmp_path / "file" / "store"), suite="demo")
    assert ran == []


def test_normalisation_of_another_length_is_found_before_training(place):
    """Three means for grey images are an error, even after a sound model of the same network was checked."""
    context = place()
    check(source(), context)
    coloured = replace(source(), dataset=Dataset(name="near", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    with pytest.raises(RobbenchError, match="mean: expected 1 values, one for each channel"):
        check(coloured, context)
