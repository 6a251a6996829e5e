"""A study as the command line asks for it."""

from dataclasses import replace

import pytest
from specs import make_study

from robbench.errors import RobbenchError
from robbench.spec import Dataset
from robbench.spec.command_line import adapt, names, parse_datasets

STUDY = make_study(target=Dataset(name="emnist", train=5000))


def test_without_options_a_study_is_as_declared():
    """Also where another study's dataset is replaced."""
    assert adapt(STUDY) is STUDY
    assert adapt(STUDY, datasets={"cifar10": "other"}) is STUDY


def test_another_dataset_shows_in_names_ids_and_digests():
    """Only the one that was replaced; sizes stay."""
    changed = adapt(STUDY, datasets={"emnist": "emnist47"})
    assert changed.name == "demo-emnist47"
    assert changed.datasets == (STUDY.source, Dataset(name="emnist47", train=5000))
    before, after = ({model.id: model.digest for model in study.models()} for study in (STUDY, changed))
    assert after.keys() == {name.replace("emnist", "emnist47") for name in before}
    assert before.keys() & after.keys() == {"cnn7-mnist-standard", "cnn7-mnist-pgd"}
    assert all((before[name] == after.get(name)) == (name in after) for name in before)


def test_source_and_target_can_be_exchanged():
    """All replacements are made at once, so that none is replaced again."""
    swapped = adapt(STUDY, datasets={"mnist": "emnist", "emnist": "mnist"})
    assert (swapped.source.name, swapped.target.name, swapped.name) == ("emnist", "mnist", "demo-emnist-mnist")
    assert names(adapt(STUDY, datasets={"mnist": "a", "a": "b"})) == {"a", "emnist"}


def test_a_known_dataset_brings_its_own_normalisation():
    """What a study declares itself stays, and an unknown dataset is taken for a variant of the replaced one."""
    study = make_study(source="cifar10", target="mnist", architectures=("resnet18",))
    changed = adapt(study, datasets={"cifar10": "cifar100", "mnist": "cifar10"})
    assert changed.datasets == (Dataset(name="cifar100"), Dataset(name="cifar10"))
    assert adapt(study, datasets={"cifar10": "emnist"}).source == Dataset(name="emnist")
    variant = adapt(study, datasets={"cifar10": "cifar10.1"})
    assert variant.name == "demo-cifar10_1"
    assert variant.source == replace(Dataset(name="cifar10"), name="cifar10.1")
    own = Dataset(name="cifar10", augmentation="none", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert adapt(replace(study, source=own), datasets={"cifar10": "cifar100"}).source == replace(own, name="cifar100")


@pytest.mark.parametrize("kind", ["folder", "hub"])
def test_pictures_take_the_size_of_the_dataset_in_whose_place_they_come(kind):
    """Its channels, numbers, split and augmentation, too; they are named after the end of their path."""
    changed = adapt(STUDY, datasets=parse_datasets("", [f"emnist={kind}:~/a=b/my letters"]), protocol="thesis")
    expected = Dataset(name="my_letters", train=5000, size=28, channels=1, augmentation="none")
    assert changed.target == replace(expected, **{kind: "~/a=b/my letters"})
    assert changed.name == "demo-thesis-my_letters"
    flowers = Dataset(name="flowers", folder="here", size=64, train=9)
    study = make_study(source=flowers, architectures=("resnet18",))
    other = adapt(study, datasets={"flowers": f"{kind}:there/roses"}).source
    assert other == Dataset(name="roses", size=64, train=9, **{kind: "there/roses"})
    assert adapt(study, datasets={"flowers": "cifar10"}).source == Dataset(name="cifar10", train=9)
    assert adapt(study, datasets={"flowers": "tulips"}).source == Dataset(name="tulips", size=64, train=9)
    with pytest.raises(RobbenchError, match="expected a data set of known size in its place, got 'mine'"):
        adapt(make_study(source="mine"), datasets={"mine": f"{kind}:there"})


def test_seeds_quick_and_protocol_combine():
    """Every change of meaning is in the name; more seeds are more models."""
    changed = adapt(STUDY, protocol="thesis", datasets={"mnist": "other"}, seeds=2, quick=True)
    assert changed.name == "demo-thesis-other-quick"
    assert (changed.seeds, changed.protocol) == ((0, 1), "thesis")
    assert len(changed.models()) == 2 * len(STUDY.models())
    assert changed.target == Dataset(name="emnist", train=256, test=64, orientation="stored")
    with pytest.raises(RobbenchError, match="seeds: expected an integer ≥ 1, got 0"):
        adapt(STUDY, seeds=0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["emnist"],
            r"--dataset: expected NAME=OTHER \(emnist=mydata, emnist=folder:PATH\), each name once, got 'emnist'",
        ),
        (["=a"], "got '=a'"),
        (["a="], "got 'a='"),
        (["a=b=c"], "got 'a=b=c'"),
        (["a=b", "a=c"], "got 'a=c'"),
    ],
)
def test_replacements_are_parsed(texts, message):
    """A malformed one is shown beside the form that is expected."""
    assert parse_datasets("--dataset", ["emnist=emnist47", "mnist=a"]) == {"emnist": "emnist47", "mnist": "a"}
    with pytest.raises(RobbenchError, match=message):
        parse_datasets("--dataset", texts)
