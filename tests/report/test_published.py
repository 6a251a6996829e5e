"""The published rows, and which of our models they stand beside."""

import runpy
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from factories import make_facts

from robbench.report.published import published_row, published_rows
from robbench.spec import Study
from robbench.spec.recipes import with_protocol


def test_all_rows_are_read_once_each() -> None:
    """The nine tables hold 125 models, no two alike."""
    rows = published_rows()
    assert len(rows) == 125
    assert len({row.key for row in rows}) == 125


def test_a_transfer_finds_its_row() -> None:
    """TL#5 of CNN-7 is the published 86.70 % after 106 seconds and 15 epochs."""
    row = published_row(make_facts("transfer", "emnist", 5))
    assert (row.accuracy, row.train_seconds, row.epochs) == (0.867, 106, 15)


@pytest.mark.parametrize(
    ("facts", "printed", "shown"),
    [
        (make_facts("transfer", "emnist", 5), 0.27, 0.275),
        (make_facts("pgd", "mnist", architecture="cnn4"), 0.381, 0.386),
        (make_facts("pgd", "cifar10", architecture="resnet18"), 0.027, 0.028),
    ],
    ids=["EMNIST", "a grid offset by 0.001", "CIFAR"],
)
def test_medians_are_one_grid_step_above_the_printed_ones(facts, printed, shown) -> None:
    """Printed is the highest ε that failed, p* is the smallest that succeeded."""
    row = published_row(facts)
    assert (row.median_failing, row.median_pstar) == (printed, shown)


def test_published_ratios_are_of_the_medians_that_are_shown() -> None:
    """TL#5 of CNN-7: 0.275 ÷ 0.41 of its source, 0.275 ÷ 0.42 of the model from scratch."""
    row = published_row(make_facts("transfer", "emnist", 5))
    assert (row.retention, row.relative) == (0.275 / 0.41, 0.275 / 0.42)


@pytest.mark.parametrize(
    "facts",
    [
        make_facts("pgd", "emnist47"),
        make_facts("transfer", "emnist", 5, source="glyphs10"),
        make_facts("transfer", "emnist", 5, kept="finetuned"),
        make_facts("transfer-adversarial", "emnist", 5, kept="warm"),
        make_facts("transfer-adversarial", "cifar100", 3, source="cifar10", architecture="resnet34"),
        make_facts("transfer", "emnist", 5, source_method="standard"),
        make_facts("transfer", "emnist", 5, head="mlp1"),
        make_facts("transfer", "emnist", 5, objective="trades"),
        make_facts("transfer", "emnist", 5, variant="split"),
        make_facts("checkpoint", "mnist"),
    ],
)
def test_other_data_and_other_transfers_have_no_row(facts) -> None:
    """A figure made with other data, or in a way nobody published, stands beside nothing."""
    assert published_row(facts) is None


# --- the suites ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studies():
    """The two full studies, as their suite files declare them."""
    folder = Path(__file__).parents[2] / "suites"
    return [runpy.run_path(str(folder / f"test_{name}.py"))["STUDY"] for name in ("mnist_emnist", "cifar10_cifar100")]


def models_of_rows(studies: Sequence[Study]) -> dict[tuple, list[tuple[str, str]]]:
    """Suite and id of the models that stand for each published row."""
    found = defaultdict(list)
    for name, model in ((study.name, model) for study in studies for model in study.models()):
        transfer, source = model.transfer, model.source
        facts = make_facts(
            model.method,
            model.dataset.name,
            architecture=model.architecture,
            k=transfer.k if transfer else None,
            head=transfer.head if transfer else "linear",
            kept=transfer.kept if transfer else None,
            source=source.dataset.name if source else None,
            source_method=source.method if source else None,
            variant=model.variant,
        )
        if row := published_row(facts):
            found[row.key].append((name, model.id))
    return found


def test_every_published_row_is_one_model_of_one_suite(studies):
    """Under the thesis protocol, complete and one-to-one: 125 rows, 125 models."""
    found = models_of_rows([with_protocol(study, "thesis") for study in studies])
    assert [found[row.key] for row in published_rows() if len(found[row.key]) != 1] == []
    assert len({cases[0] for cases in found.values()}) == 125
    warm = [cases[0][1] for cases in found.values() if cases[0][1].endswith("-warm")]
    assert len(warm) == 12
    assert found["cnn7", "transfer", "mnist", "emnist", 5, "linear"] == [("mnist-emnist-thesis", "cnn7-emnist-TL5")]
    assert found["resnet34", "transfer", "cifar10", "cifar100", 2, "mlp3"] == [
        ("cifar10-cifar100-thesis", "resnet34-cifar100-TL2-mlp3")
    ]


def test_the_sound_protocol_leaves_out_the_noted_rows_only(studies):
    """Adversarial retraining of CIFAR-100 was not frozen, and TL#2 of a ResNet is TL#1 over again: the notes say so."""
    found = models_of_rows(studies)
    unfrozen = [row for row in published_rows() if (row.method, row.dataset) == ("transfer-adversarial", "cifar100")]
    missing = [row for row in published_rows() if row.key not in found and row not in unfrozen]
    assert {(row.architecture, row.k) for row in missing} == {(f"resnet{depth}", 2) for depth in (18, 34, 50)}
    assert (len(missing), len(unfrozen)) == (6, 12)
    assert not [row for row in unfrozen if row.key in found]
    assert all(len(cases) == 1 for cases in found.values())
    notes = studies[1].notes()
    assert sum("the published code retrained the whole network" in note for note in notes) == 1
    assert not [note for note in with_protocol(studies[1], "thesis").notes() if "whole network" in note]
    for row in missing:
        assert sum(note.startswith(f"{row.architecture}: block 'avg_pool'") and "TL#2" in note for note in notes) == 1
