"""A study as the command line asks for it."""

from dataclasses import replace

import pytest

from robbench import recipes
from robbench.errors import RobbenchError
from robbench.spec import Dataset, Study, Transfers
from robbench.spec.command_line import adapt, names, parse_datasets

STUDY = Study(
    name="demo",
    source="mnist",
    target=Dataset(name="emnist", train=5000),
    architectures=("cnn7",),
    standard=recipes.MNIST_STANDARD,
    adversarial=recipes.MNIST_PGD,
    transfers=(Transfers(recipe=recipes.MNIST_STANDARD, k=(1,)),),
    estimate=recipes.MNIST_ESTIMATE,
)


def test_without_options_a_study_is_as_declared():
    """Nothing is copied, renamed or normalised."""
    assert adapt(STUDY) is STUDY
    assert adapt(STUDY, datasets={"cifar10": "other"}) is STUDY


def test_another_dataset_shows_in_names_ids_and_digests():
    """Only the one that was replaced; sizes stay."""
    changed = adapt(STUDY, datasets={"emnist": "emnist47"})
    assert changed.name == "demo-emnist47"
    assert (changed.source, changed.target) == (STUDY.source, Dataset(name="emnist47", train=5000))
    before, after = ({model.id: model.digest for model in study.models()} for study in (STUDY, changed))
    assert after.keys() == {name.replace("emnist", "emnist47") for name in before}
    assert before.keys() & after.keys() == {"cnn7-mnist-standard", "cnn7-mnist-pgd"}
    assert all((before[name] == after.get(name)) == (name in after) for name in before)


def test_source_and_target_can_be_exchanged():
    """All replacements are made at once: none is replaced again, and none is in the way of another."""
    study = replace(STUDY, source="mnist", target="emnist")
    swapped = adapt(study, datasets={"mnist": "emnist", "emnist": "mnist"})
    assert (swapped.source.name, swapped.target.name, swapped.name) == ("emnist", "mnist", "demo-emnist-mnist")
    assert names(adapt(STUDY, datasets={"mnist": "a", "a": "b"})) == {"a", "emnist"}


def test_any_dataset_name_makes_a_study_name():
    """CIFAR-10.1 has a dot, which the study's folder does without."""
    changed = adapt(STUDY, datasets={"emnist": "cifar10.1+x"})
    assert (changed.name, changed.target.name) == ("demo-cifar10_1_x", "cifar10.1+x")


def test_a_known_dataset_brings_its_own_normalisation():
    """What a study declares itself stays, and an unknown dataset is taken for a variant of the replaced one."""
    study = replace(STUDY, source="cifar10", target="mnist", architectures=("resnet18",))
    changed = adapt(study, datasets={"cifar10": "cifar100", "mnist": "cifar10"})
    assert (changed.source, changed.target) == (Dataset(name="cifar100"), Dataset(name="cifar10"))
    assert adapt(study, datasets={"cifar10": "emnist"}).source == Dataset(name="emnist")
    variant = adapt(study, datasets={"cifar10": "mine"}).source
    assert variant == replace(Dataset(name="cifar10"), name="mine")
    own = Dataset(name="cifar10", augmentation="none", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert adapt(replace(study, source=own), datasets={"cifar10": "cifar100"}).source == replace(own, name="cifar100")


def test_seeds_quick_and_protocol_combine():
    """Every change of meaning is in the name; more seeds are more models."""
    changed = adapt(STUDY, protocol="thesis", datasets={"mnist": "other"}, seeds=2, quick=True)
    assert changed.name == "demo-thesis-other-quick"
    assert (changed.seeds, changed.protocol) == ((0, 1), "thesis")
    assert len(changed.models()) == 2 * len(STUDY.models())
    assert changed.target == Dataset(name="emnist", train=256, test=64, orientation="stored", split="overlapping")


@pytest.mark.parametrize("seeds", [0, -1, 1_001, 10**12])
def test_a_study_has_one_to_a_thousand_seeds(seeds):
    """The message names the number."""
    with pytest.raises(RobbenchError, match=f"seeds: expected 1 to 1,000, got {seeds}"):
        adapt(STUDY, seeds=seeds)


def test_replacements_are_parsed():
    """In the order given."""
    assert parse_datasets(["emnist=emnist47", "mnist=a"]) == {"emnist": "emnist47", "mnist": "a"}
    assert parse_datasets([]) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["emnist"], r"dataset replacement: expected NAME=OTHER \(emnist=mydata\), got 'emnist'"),
        (["=a"], "got '=a'"),
        (["a="], "got 'a='"),
        (["a=b=c"], "got 'a=b=c'"),
        (["a=b", "a=c"], "expected 'a' once, got a=b and a=c"),
    ],
)
def test_malformed_replacements_are_refused(texts, message):
    """The message shows the form and what came."""
    with pytest.raises(RobbenchError, match=message):
        parse_datasets(texts)
