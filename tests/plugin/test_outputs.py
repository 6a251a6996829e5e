"""What a run leaves behind: bundle, terminal table, pytest-benchmark's JSON, JUnit XML; alone and with workers."""

import json
import re
import xml.etree.ElementTree as ElementTree

import msgspec

from robbench.report import read_bundle

ONE = "net.mlp-glyphs10-standard"

APART = """
import robbench.stages.robustness_stage
from robbench.store import Store

Store.identity = lambda store: "seen by no worker"
robbench.stages.robustness_stage.PART = 25
"""
"""Nothing is shared with the workers, and p* of 60 images is searched in three parts."""


def comparable(record):
    """A record without what no two runs share: times."""
    plain = msgspec.to_builtins(record)
    del plain["seconds"], plain["created"], plain["environment"]
    for epoch in plain["result"].get("epochs", []):
        del epoch["seconds"], epoch["validation_seconds"]
    return plain


def shown(result):
    """The rows of the table in the terminal, without their seconds."""
    lines = result.stdout.lines
    start = next(number for number, line in enumerate(lines) if line.startswith("model  "))
    rows = [re.split(r"  +", line.strip()) for line in lines[start + 2 : lines.index("", start)]]
    return [(row[0], row[1], row[2], row[4], row[6]) for row in rows]


def test_each_stage_runs_exactly_once(tiny, stages, cases):
    """Ten items, ten stages: what a stage needs of another comes from the store, wherever it ran first."""
    tiny("--robbench-update").assert_outcomes(passed=10)
    assert sorted(stages) == sorted(f"{case}.{stage}" for case in cases for stage in ("training", "robustness"))


def test_what_a_stage_needs_is_made_first(tiny, stages):
    """p* of the transferred network alone: its source and itself are trained, untimed, and not tested."""
    tiny("--robbench-update", "-k", "test_robustness and TL1").assert_outcomes(passed=1, deselected=9)
    assert sorted(stages) == [
        "net.mlp-glyphs10-pgd.training",
        "net.mlp-glyphs47-TL1.robustness",
        "net.mlp-glyphs47-TL1.training",
    ]


def test_the_bundle_is_written_and_named(tiny, pytester, cases):
    """Report, tables and records of every stage; its path is the last thing said."""
    result = tiny("--robbench-update")
    folder = pytester.path / "reports" / "tiny"
    assert {path.name for path in folder.iterdir()} >= {
        "report.html",
        "report.md",
        "results.csv",
        "classes.csv",
        "pstar.csv.gz",
        "records.json",
    }
    assert f"report: {folder / 'report.html'}" in result.stdout.lines
    bundle = read_bundle(folder)
    assert bundle.title == "tiny"
    assert re.fullmatch(r"pytest .*--robbench-update", bundle.command)
    assert {record.name for record in bundle.records} == {
        f"{case}.{stage}" for case in cases for stage in ("training", "robustness")
    }
    assert {verdict.mark for verdict in bundle.verdicts} == {"new"}
    assert bundle.notes == []


def test_a_part_of_a_study_says_what_is_missing(one, pytester):
    """And has what earlier runs left in the store."""
    one("--robbench-update")
    bundle = read_bundle(pytester.path / "reports" / "tiny")
    assert bundle.notes == []
    assert bundle.tolerances == {"tiny/training": {"seconds": 1000}, "tiny/robustness": {"seconds": 1000}}
    assert bundle.missing[0] == "tiny/net.mlp-glyphs47-standard.training"
    one("-k", "glyphs10-standard and test_training")
    assert read_bundle(pytester.path / "reports" / "tiny").records == bundle.records


def test_benchmark_json(one, pytester):
    """One round of the seconds that the stage measured, plain parameters, the figures, and the device in the machine info; strict JSON."""
    result = one("--robbench-update", "--benchmark-json=out.json")
    result.assert_outcomes(passed=2, deselected=8)
    assert "Min" not in result.stdout.str()  # its table leaves stages out: one round has no spread

    def refuse(name):
        raise AssertionError(name)

    saved = json.loads((pytester.path / "out.json").read_text(), parse_constant=refuse)
    records = {record.stage: record for record in read_bundle(pytester.path / "reports" / "tiny").records}
    assert [bench["extra_info"]["digest"] for bench in saved["benchmarks"]] == [
        records["training"].digest,
        records["robustness"].digest,
    ]
    for bench, record in zip(saved["benchmarks"], (records["training"], records["robustness"]), strict=True):
        assert (bench["stats"]["rounds"], bench["stats"]["iterations"]) == (1, 1)
        assert abs(bench["stats"]["mean"] - record.seconds.measured) < 1e-9
        assert (bench["group"], bench["params"]) == ("tiny", {"model": ONE})
        assert bench["extra_info"]["dataset"] == "glyphs10"
    training, robustness = (bench["extra_info"] for bench in saved["benchmarks"])
    assert training["epochs"] == 2
    assert training["validation_accuracy"] == records["training"].training.validation.share
    assert robustness["accuracy"] == records["robustness"].robustness.clean.share
    assert 0 < robustness["median_pstar"] == records["robustness"].robustness.median <= 1
    assert robustness["median_pstar_censored"] is False
    assert "node" in saved["machine_info"]
    assert saved["machine_info"]["robbench"] == msgspec.to_builtins(records["training"].environment)


def test_a_censored_median_is_no_figure_in_json(write_suite, pytester):
    """A grid on which nothing succeeds: None and a flag in place of infinity."""
    write_suite(("stop=1.0, step=0.05", "stop=2e-6, step=1e-6"))
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard", "--robbench-update", "--benchmark-json=out.json")
    result.assert_outcomes(passed=2, deselected=8)
    text = (pytester.path / "out.json").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    figures = json.loads(text)["benchmarks"][1]["extra_info"]
    assert (figures["median_pstar"], figures["median_pstar_censored"]) == (None, True)


def test_other_benchmarks_are_left_alone(pytester, write_suite):
    """A benchmark without a suite is calibrated, shown and saved as always."""
    write_suite()
    pytester.makepyfile(test_other="def test_sum(benchmark):\n    assert benchmark(sum, [1, 2]) == 3\n")
    options = ("--benchmark-min-time=0.000001", "--benchmark-max-time=0.01", "--benchmark-json=out.json")
    result = pytester.runpytest_inprocess("test_other.py", *options)
    result.assert_outcomes(passed=1)
    saved = json.loads((pytester.path / "out.json").read_text())
    assert saved["benchmarks"][0]["stats"]["rounds"] > 1
    assert "node" in saved["machine_info"]
    assert "test_sum" in result.stdout.str()
    assert "robbench:" not in "\n".join(line for line in result.stdout.lines if line.startswith("==="))


def test_benchmarking_can_be_disabled(updated, stages, pytester):
    """Stages run and are judged all the same."""
    updated("--benchmark-disable", "--robbench-fresh").assert_outcomes(passed=2, deselected=8)
    assert len(stages) == 2
    verdicts = read_bundle(pytester.path / "reports" / "tiny").verdicts
    assert sorted((verdict.figure, verdict.mark) for verdict in verdicts) == [
        ("accuracy", "="),
        ("median p*", "="),
        ("seconds", "="),
        ("seconds", "="),
        ("validation accuracy", "="),
    ]


def test_junit_xml_carries_the_figures(one, pytester):
    """As properties of each test case."""
    one("--robbench-update", "--junitxml=junit.xml")
    root = ElementTree.parse(pytester.path / "junit.xml").getroot()
    properties = {
        case.get("name"): {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        for case in root.iter("testcase")
    }
    robustness = next(
        record for record in read_bundle(pytester.path / "reports" / "tiny").records if record.stage == "robustness"
    )
    found = properties[f"test_robustness[{ONE}]"]
    assert float(found["median_pstar"]) == robustness.robustness.median
    assert float(found["accuracy"]) == robustness.robustness.clean.share
    assert found["digest"] == robustness.digest
    assert "validation_accuracy" in properties[f"test_training[{ONE}]"]


def test_workers_of_xdist_do_what_one_process_does(tiny, pytester, errors, quick_workers):
    """From empty stores: the same weights, records, verdicts and table, and one bundle from the controller."""
    part = ("-k", "glyphs10-pgd or TL1", "--robbench-update", "--robbench-device=cpu")

    def made(result, name):
        weights = {path.parent.name: path.name for path in (pytester.path / name).rglob("weights.*")}
        bundle = read_bundle(pytester.path / "reports" / "tiny")
        verdicts = [(verdict.case, verdict.figure, verdict.mark) for verdict in bundle.verdicts]
        return weights, [comparable(record) for record in bundle.records], verdicts, shown(result)

    alone = made(tiny(*part, "--robbench-store=alone"), "alone")
    many = pytester.runpytest_subprocess("-n", "2", *part, "--robbench-store=many")
    many.assert_outcomes(passed=4)
    assert made(many, "many") == alone
    assert len(alone[0]) == 2
    errors(many)


def test_two_workers_do_what_one_process_does(tiny, pytester, errors, quick_workers):
    """From empty stores: the same items, weights, records, verdicts and table, and one bundle."""
    options = ("--robbench-update", "--robbench-device=cpu", "-p", "no:cacheprovider")

    def made(result, name):
        result.assert_outcomes(passed=10)
        weights = {path.parent.name: path.name for path in (pytester.path / name).rglob("weights.*")}
        bundle = read_bundle(pytester.path / "reports" / "tiny")
        verdicts = [(verdict.case, verdict.figure, verdict.mark) for verdict in bundle.verdicts]
        return weights, [comparable(record) for record in bundle.records], verdicts, shown(result)

    alone = made(tiny(*options, "--robbench-store=alone"), "alone")
    with (pytester.path / "conftest.py").open("a") as file:
        file.write(APART)
    many = pytester.runpytest_subprocess("--robbench-workers=2", *options, "--robbench-store=many")
    assert made(many, "many") == alone
    assert len(alone[0]) == 5
    assert list((pytester.path / "many").rglob("state.safetensors")) == []
    assert "workers: 2 × " in errors(many)


def test_an_ablation_runs_its_variants_and_says_which_they_are(write_suite, pytester, stages):
    """A variant is an item; its record names the field and the source that the field changed; a note says what it does."""
    write_suite(('name="tiny",', 'name="tiny", ablate=("split",),'))
    result = pytester.runpytest_inprocess("--robbench-update", "-k", "TL1-split")
    result.assert_outcomes(passed=2, deselected=18)
    assert sorted(stages) == [
        "net.mlp-glyphs10-pgd-split.training",
        "net.mlp-glyphs47-TL1-split.robustness",
        "net.mlp-glyphs47-TL1-split.training",
    ]
    bundle = read_bundle(pytester.path / "reports" / "tiny")
    facts = {record.case: record.model for record in bundle.records}
    assert {name: (model.variant, model.source_case) for name, model in facts.items()} == {
        "net.mlp-glyphs10-pgd-split": ("split", None),
        "net.mlp-glyphs47-TL1-split": ("split", "net.mlp-glyphs10-pgd-split"),
    }
    assert any(note.startswith("variant 'split', as declared but for one field, 5 models") for note in bundle.notes)


def test_a_studys_accuracy_floor_reaches_its_report(write_suite, pytester):
    """Nothing less accurate is recommended there; without one, the report takes half of the conventional accuracy."""
    write_suite(('name="tiny",', 'name="tiny", accuracy_floor=0.5,'))
    pytester.runpytest_inprocess("--robbench-update", "-k", "test_training and glyphs10-standard")
    assert read_bundle(pytester.path / "reports" / "tiny").accuracy_floors == {"tiny": 0.5}


def test_the_final_test_stands_in_records_and_benchmark_json(write_suite, pytester):
    """Robust accuracy by attack and radius, of a stage whose seconds are the search's alone."""
    attacks = "PGD(epsilon=0.1, steps=1, random_start=False), PGD(epsilon=0.1, steps=2, random_start=False)"
    write_suite(("images=60)", f"images=60, final_test=({attacks}))"))
    options = ("--robbench-update", "--benchmark-json=b.json", "-k", "test_robustness and glyphs10-standard")
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=1, deselected=9)
    (benchmark,) = json.loads((pytester.path / "b.json").read_text())["benchmarks"]
    shares = {name: share for name, share in benchmark["extra_info"].items() if name.startswith("robust_accuracy")}
    assert list(shares) == ["robust_accuracy_fgsm_0.1", "robust_accuracy_pgd2_0.1"]
    records = read_bundle(pytester.path / "reports" / "tiny").records
    (record,) = (record for record in records if record.stage == "robustness")
    assert [entry.robust.share for entry in record.robustness.attacks] == list(shares.values())
    assert benchmark["stats"]["total"] == record.seconds.estimation
