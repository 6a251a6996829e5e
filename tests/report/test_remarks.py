"""What remarks name: few images, data and machines."""

from factories import make_group, transfer

from robbench.report.remarks import data_table, environment_table, few_images, fewest_tested, normalisations


def test_few_correct_images_are_called_out() -> None:
    """Below thirty, with the fewest of a model's seeds; thirty are enough."""
    enough, few = [1] * 30 + [-1] * 10, [1] * 29 + [-1] * 11
    records = transfer(1, enough) + transfer(2, few) + transfer(2, [1] * 7 + [-1] * 33, seed=1)
    assert few_images(make_group(*records)) == {"TL#2": 7}


def test_a_study_on_less_than_a_thousand_images_is_named() -> None:
    """By the model with the fewest; a thousand are enough, and so is no estimate."""
    few, enough = make_group(transfer(1, [1] * 999), transfer(2, [1] * 1000)), make_group(transfer(1, [1] * 1000))
    assert fewest_tested([enough, few]) == 999
    assert fewest_tested([enough]) is None
    assert fewest_tested([make_group(transfer(1, [1])[:1])]) is None


def test_data_and_environment_are_listed_once() -> None:
    """Two stages on one set and one machine make one line and one column."""
    records = transfer(1, [1])
    assert data_table(records).values.tolist() == [["emnist", "400", "100", "1", "`emnist000000`"]]
    frame = environment_table(records)
    assert list(frame.columns) == ["Property", "cpu-2core"]
    shown = dict(frame.values.tolist())
    assert (shown["cuda"], shown["cores"], shown["stages"]) == ("–", "2", "2")


def test_models_are_listed_by_what_normalises_their_pixels() -> None:
    """Once a model, whatever its stages; plain pixels are none."""
    facts = {"mean": (0.5, 0.25, 0.125), "std": (0.2, 0.2, 0.2)}
    records = [*transfer(1, [1], **facts), *transfer(2, [1], **facts), *transfer(3, [1])]
    assert normalisations(records) == {
        "mean (0.5, 0.25, 0.125), std (0.2, 0.2, 0.2)": ["cnn7-emnist-TL1", "cnn7-emnist-TL2"]
    }
