"""The embedded study as ``error_rates.py`` reads it: every seed tested on the same images, all 250 of each test set.

Runs on request only: ``pytest -m suite suites/gate/test_embedded_runs.py --robbench-seeds=12``.
"""

from dataclasses import replace

import pytest

from suites.test_embedded import STUDY as EMBEDDED

STUDY = replace(
    EMBEDDED.with_datasets(lambda dataset: replace(dataset, test=EMBEDDED.estimate.images)),
    name="embedded-runs",
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
