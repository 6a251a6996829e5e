"""The drop point predicted from the source, beside the one found on the target."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from factories import both_records, make_facts, make_group, training_record, transfer

from robbench.errors import RobbenchError
from robbench.record import FeatureDrift
from robbench.report.html import report_html
from robbench.report.page import report_text
from robbench.report.prediction import fit, predictions, predictor_tables

FOUND = {1: 3, 2: 4, 3: 4, 4: 1}
"""Grid index of every p* on the target by k: it falls after k = 3."""


def records(on_source, drifts):
    """A source, transfers on its data and on the target by k, and the drift of the latter."""
    found = both_records(make_facts(), [4] * 40)
    for k, index in on_source.items():
        found += both_records(make_facts("transfer", "mnist", k, trainable=1_000 * k), [index] * 40)
    for k, index in FOUND.items():
        found += (own := transfer(k, [index] * 40, trainable=1_000 * k))
        drift = FeatureDrift(epsilon=0.2, images=9, drift=drifts[k])
        found.append(msgspec.structs.replace(own[0], stage="drift", result=drift))
    return found


def test_each_predictor_is_held_to_the_drop_point_found():
    """The medians of the source, and the rise of drift; what is reached is a share of the best k."""
    group = make_group(*records({1: 4, 2: 3, 3: 3, 4: 0}, {1: 0.5, 2: 0.6, 3: 2.0, 4: 2.1}))
    found = {each.predictor: each for each in predictions(group)}
    measured, drift = found["as found on the source"], found["feature drift"]
    assert (measured.predicted, measured.found.k, measured.hit, measured.reached) == (3, 3, True, 1.0)
    assert (drift.predicted, drift.hit, drift.reached) == (2, False, 1.0)
    assert found["polynomial, fitted on the source"].predicted is not None
    assert "on the source's data" not in group.lines[0]


def test_retraining_of_another_kind_on_the_source_predicts_nothing():
    """Conventional models of the source's data change nothing for adversarial retraining, nor these for those."""
    conventional = records({1: 4, 2: 3, 3: 3, 4: 0}, {1: 0.5, 2: 0.6, 3: 2.0, 4: 2.1})
    on_source = [
        record
        for k, index in {1: 4, 2: 1, 3: 1, 4: 1}.items()
        for record in both_records(make_facts("transfer-adversarial", "mnist", k, trainable=1_000 * k), [index] * 40)
    ]
    assert predictions(make_group(*conventional, *on_source)) == predictions(make_group(*conventional))


def test_both_reports_have_the_table():
    """Predicted and found, and nothing of it in a study without predictors."""
    group = make_group(*records({1: 4, 2: 3, 3: 3, 4: 0}, {1: 0.5, 2: 0.6, 3: 2.0, 4: 2.1}))
    lines = [" ".join(line.split()) for line in report_text([group], {}, title="t").splitlines()]
    assert "| conventional retraining | feature drift | k = 2 | k = 3 | 100% |" in lines
    page = report_html([group], title="t")
    assert "<td>feature drift</td><td>k = 2</td><td>k = 3</td><td>100%</td>" in page
    plain = make_group(*(record for k, index in FOUND.items() for record in transfer(k, [index] * 40)))
    assert "drop point, the k" not in report_text([plain], {}, title="t")
    assert "feature drift" not in report_html([plain], title="t")


def test_the_predictors_are_counted_over_all_studies():
    """A line for each prediction of each network, and how often each predictor hit; without any, one clear error."""
    right = make_group(*records({1: 4, 2: 3, 3: 3, 4: 0}, {1: 0.5, 2: 0.6, 3: 2.0, 4: 2.1}))
    wrong = make_group(*records({1: 4, 2: 0, 3: 0, 4: 0}, {1: 0.5, 2: 0.6, 3: 0.7, 4: 2.1}))
    plain = make_group(*(record for k, index in FOUND.items() for record in transfer(k, [index] * 40)))
    table, counts = predictor_tables([right, plain, wrong])
    assert len(table) == 6
    assert counts.set_index("predictor").loc["as found on the source"].tolist() == ["1 of 2", "75%"]
    assert counts.set_index("predictor").loc["feature drift"].tolist() == ["1 of 2", "100%"]
    with pytest.raises(RobbenchError, match="predicted drop points: expected records of transfers"):
        predictor_tables([plain])


def test_the_polynomial_is_found_again():
    """Medians that are such a polynomial are predicted exactly, elsewhere too."""
    numbers = np.random.default_rng(0)
    known, wanted = numbers.random((8, 2)), numbers.random((3, 2))

    def exact(at):
        return 0.4 - 0.1 * at[:, 0] + 0.2 * at[:, 1] - 0.3 * at[:, 0] ** 2 - 0.05 * at[:, 1] ** 2

    assert fit(known, exact(known), wanted) == pytest.approx(exact(wanted))


def test_a_drift_without_a_training_record_is_no_error():
    """Nor a prediction: a drop point takes three tested k."""
    own = training_record(make_facts("transfer", "emnist", 1))
    drift = msgspec.structs.replace(own, stage="drift", result=FeatureDrift(epsilon=0.2, images=9, drift=0.1))
    assert predictions(make_group(drift)) == ()
