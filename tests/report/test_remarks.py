"""What remarks name: few images, busy machines, missing models, data and machines."""

import msgspec
from factories import make_group, transfer

from robbench.record import Record, Seconds
from robbench.report.remarks import busy, data_table, environment_table, few_images, missing_models


def test_few_correct_images_are_called_out() -> None:
    """Below thirty, with the fewest of a model's seeds; thirty are enough."""
    enough, few = [1] * 30 + [-1] * 10, [1] * 29 + [-1] * 11
    records = transfer(1, enough) + transfer(2, few) + transfer(2, [1] * 7 + [-1] * 33, seed=1)
    assert few_images(make_group(*records)) == {"TL#2": 7}


def test_models_that_were_measured_on_a_busy_machine_are_called_out() -> None:
    """By stage, with the largest share of a model's seeds; a free machine is nothing to speak of."""

    def measured(k: int, training: float, estimation: float, seed: int = 0) -> list[Record]:
        one, other = transfer(k, [1] * 40, seed=seed)
        return [
            msgspec.structs.replace(one, seconds=Seconds(training=10.0, waiting_for_core=training)),
            msgspec.structs.replace(other, seconds=Seconds(estimation=10.0, waiting_for_core=estimation)),
        ]

    records = measured(1, 1.0, 5.0) + measured(2, 3.0, 0.0) + measured(2, 2.0, 0.0, seed=1)
    assert busy(make_group(*records)) == {"training": {"TL#2": 0.3}, "p\\*": {"TL#1": 0.5}}
    assert busy(make_group(*measured(1, 1.0, 1.0))) == {}


def test_missing_models_of_a_study() -> None:
    """Each once, by architecture; another study's are left out."""
    names = [f"demo/{case}.{stage}" for case in ("cnn7-a", "cnn4-b") for stage in ("training", "robustness")]
    assert missing_models([*names, "more/cnn7-c.training"], "demo") == {"cnn7": ["cnn7-a"], "cnn4": ["cnn4-b"]}


def test_data_and_environment_are_listed_once() -> None:
    """Two stages on one set and one machine make one line and one column."""
    records = transfer(1, [1])
    assert data_table(records).values.tolist() == [["emnist", "400", "100", "1", "`emnist000000`"]]
    frame = environment_table(records)
    assert list(frame.columns) == ["Property", "cpu-2core"]
    shown = dict(frame.values.tolist())
    assert (shown["cuda"], shown["cores"], shown["stages"]) == ("–", "2", "2")
