"""Baselines on disk: what they hold, the same bytes for the same record, and files that are not what they should be."""

import json
from dataclasses import dataclass

import msgspec
import pytest
from factories import ENVIRONMENT, GRID, make_facts, robustness_record, training_record
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.gate.baselines import baseline_of, baseline_path, figures_of, read_baseline, write_baseline
from robbench.record import Counts

FACTS = make_facts("transfer", "emnist", 3)
CASE = "cnn7-emnist-TL3"


def on(slug, seconds, **changes):
    """A training record from another machine."""
    return training_record(FACTS, seconds, environment=msgspec.structs.replace(ENVIRONMENT, slug=slug), **changes)


@given(st.lists(st.integers(-1, len(GRID)), min_size=1, max_size=20))
def test_round_trip(tmp_path_factory, places):
    """What was written is read, and every statistic follows from it."""
    folder, record = tmp_path_factory.mktemp("baselines"), robustness_record(FACTS, places)
    write_baseline(folder, record)
    read = read_baseline(folder, "demo", CASE, "robustness")
    assert read == baseline_of(record)
    assert read.accuracy == record.robustness.clean
    assert (read.grid, read.pstar) == (GRID, places)


def test_a_baseline_lies_in_its_suites_folder(tmp_path):
    """One file per stage."""
    path = write_baseline(tmp_path, training_record(FACTS))
    assert path == tmp_path / "demo" / f"{CASE}.training.json" == baseline_path(tmp_path, "demo", CASE, "training")
    assert read_baseline(tmp_path, "demo", CASE, "training").accuracy == Counts(correct=50, total=100)
    assert read_baseline(tmp_path, "demo", CASE, "robustness") is None
    assert read_baseline(tmp_path, "other", CASE, "training") is None


def test_the_same_record_gives_the_same_bytes(tmp_path):
    """Whether the file is new or renewed; so an update without a change is an empty diff."""
    record = robustness_record(FACTS, [1, 2, 5, -1])
    first = write_baseline(tmp_path, record).read_bytes()
    assert write_baseline(tmp_path, record).read_bytes() == first
    shuffled = msgspec.structs.replace(record, spec=dict(reversed({**record.spec, "b": 1, "a": 2}.items())))
    ordered = msgspec.structs.replace(record, spec={"a": 2, "b": 1, **record.spec})
    assert write_baseline(tmp_path, shuffled).read_bytes() == write_baseline(tmp_path, ordered).read_bytes()


def test_a_baseline_is_readable_in_a_diff(tmp_path):
    """Sorted keys, a line for each figure, a line for a whole list of numbers, a newline at the end."""
    text = write_baseline(tmp_path, robustness_record(FACTS, [1, 2, 5, -1], notes=["ε"])).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert '  "grid": [0.0, 0.1, 0.2, 0.3, 0.4],' in lines
    assert '  "pstar": [1, 2, 5, -1],' in lines
    assert '    "correct": 3,' in lines
    assert text.endswith("}\n")
    keys = list(json.loads(text))
    assert keys == sorted(keys)
    assert len(lines) < 80


def test_lists_of_a_specification_read_back(tmp_path):
    """Of numbers, of words, nested, empty, and what only looks like one."""
    spec = {"numbers": [-1, 2.5, 1e-9], "nested": [[1, 2], [3]], "empty": [], "words": ["a", "b"], "text": "[\n1,\n2]"}
    write_baseline(tmp_path, training_record(FACTS, spec=spec))
    assert read_baseline(tmp_path, "demo", CASE, "training").spec == spec


def test_seconds_of_other_machines_stay_while_the_digest_does(tmp_path):
    """An update on one machine renews its own seconds only; a new digest makes all others meaningless."""
    for record in (on("cpu-2core", 10.0), on("nvidia-h200", 2.0), on("cpu-2core", 12.3456)):
        write_baseline(tmp_path, record)
    assert read_baseline(tmp_path, "demo", CASE, "training").seconds == {"cpu-2core": 12.346, "nvidia-h200": 2.0}
    write_baseline(tmp_path, on("cpu-2core", 9.0, digest="1" * 64))
    assert read_baseline(tmp_path, "demo", CASE, "training").seconds == {"cpu-2core": 9.0}


def test_a_checkpoint_without_validation_images_has_no_accuracy():
    """None of none is no figure."""
    record = training_record(FACTS)
    empty = msgspec.structs.replace(record.training, epochs=[], best=0, validation=Counts(correct=0, total=0))
    assert baseline_of(msgspec.structs.replace(record, result=empty)).accuracy is None


def doctored(path, **changes):
    """Change a JSON file's fields."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "expected a file of schema 'robbench.baseline/1' ("),
        (lambda path: doctored(path, schema="robbench.baseline/9"), "it has another schema"),
        (lambda path: doctored(path, accuracy="high"), "Expected `object | null`, got `str` - at `$.accuracy`"),
        (lambda path: doctored(path, colour="red"), "unknown field `colour`"),
        (lambda path: doctored(path, pstar=[1, 1]), "expected accuracy, grid and p* of one run"),
    ],
)
def test_a_damaged_baseline_is_named(tmp_path, damage, message):
    """With what is wrong and what to do; an update does not write over what is not ours."""
    record = robustness_record(FACTS, [1])
    path = write_baseline(tmp_path, record)
    damage(path)
    with pytest.raises(RobbenchError) as caught:
        read_baseline(tmp_path, "demo", CASE, "robustness")
    assert str(caught.value).startswith(f"baseline {str(path)!r}: ")
    assert message in str(caught.value)
    assert "--robbench-update" in str(caught.value)
    before = path.read_bytes()
    with pytest.raises(RobbenchError, match="restore it"):
        write_baseline(tmp_path, record)
    assert path.read_bytes() == before


def test_another_kind_of_stage_says_what_it_is_held_to(tmp_path):
    """Its baseline keeps those figures, by whatever names; without saying so there are only seconds."""

    @dataclass(frozen=True)
    class Weight:
        proven: int

    record = msgspec.structs.replace(training_record(FACTS), stage="weighing", result=Weight(proven=3))
    assert (baseline_of(record).accuracy, baseline_of(record).figures) == (None, {})
    figures_of.register(Weight, lambda result: {"figures": {"proven": result.proven}})
    path = write_baseline(tmp_path, record)
    assert json.loads(path.read_text())["figures"] == {"proven": 3}
    assert read_baseline(tmp_path, "demo", CASE, "weighing") == baseline_of(record)
