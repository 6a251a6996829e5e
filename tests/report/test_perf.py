"""The performance suite's results: read, checked, and rendered as tables and pictures."""

import json

import msgspec
import pytest
from factories import ENVIRONMENT

from robbench.cli import main
from robbench.errors import RobbenchError
from robbench.report import read_bundle, read_performance, write_performance

STEP = {
    "device": "cpu-2core-test",
    "group": "attack step",
    "case": "cnn7, batch 256, PGD-10",
    "images": 256,
    "milliseconds_per_image": 2.5,
    "passes_per_image": 10,
    "precision": "float32",
    "peak_gflops": 300.0,
    "gflops": 165.0,
    "share_of_peak": 0.55,
    "ratios": {"torchattacks": 1.5, "Foolbox": 2.0},
}
SEARCH = STEP | {
    "group": "p*",
    "case": "cnn7, pgd, mnist, fast search",
    "milliseconds_per_image": 20.0,
    "passes_per_image": 80.0,
    "gflops": None,
    "share_of_peak": None,
    "ratios": {"sequential": 16.0, "reference": 3.0},
    "reference_passes_per_image": 300.0,
    "reference_over_sequential": 5.3,
    "reference_equal_to_sequential": 0.99,
    "fast_at_most_one_step_above_reference": 0.995,
    "fast_minus_reference_mean_steps": -33.5,
    "fast_minus_reference_standard_error": 1.5,
    "median_pstar": {"fast": 0.355, "reference": 0.515, "sequential": 0.515},
}
POINTS = [
    {"method": method, "passes_per_image": passes, "median_pstar": value, "seconds": 1.0}
    for method, passes, value in (("fast", 80.0, 0.355), ("reference", 76.0, 0.56), ("reference", 300.0, 0.515))
]
QUALITY = STEP | {"group": "p* quality", "case": "cnn7, pgd, mnist", "quality": POINTS, "ratios": {}}
GROWN = [
    STEP
    | {
        "group": "growth",
        "case": f"{n} images",
        "axis": "images",
        "value": n,
        "images": n,
        "search": "fast",
        "ratios": {},
    }
    for n in (64, 128)
]


@pytest.fixture
def benchmarks(tmp_path):
    """Writes what pytest-benchmark saves: machine info and one benchmark for each set of figures."""

    def write(*figures, name="run.json"):
        path = tmp_path / name
        found = [{"name": "test", "extra_info": {"perf": values}} for values in figures]
        machine = msgspec.to_builtins(ENVIRONMENT)
        path.write_text(json.dumps({"machine_info": machine, "benchmarks": [*found, {"extra_info": {}}]}))
        return path

    return write


def test_every_figure_is_in_the_text(benchmarks, tmp_path):
    """Times, ratios, arithmetic, and what both searches found."""
    path = write_performance(tmp_path / "out", read_performance(benchmarks(STEP, SEARCH, QUALITY, *GROWN)))
    text = path.read_text()
    assert path.name == f"perf-{ENVIRONMENT.slug}.md"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["cnn7, batch 256, PGD-10", "2.500", "× 1.5", "× 2", "165", "300", "55%"] in rows
    assert ["cnn7, pgd, mnist, sequential", "320.0", "–", "× 1", "0.515"] in rows
    assert ["cnn7, pgd, mnist, reference", "60.0", "300", "× 5.3", "0.515"] in rows
    assert ["cnn7, pgd, mnist, fast", "20.0", "80", "× 16", "0.355"] in rows
    assert ["cnn7, pgd, mnist", "99.0%", "99.5%", "-33.50 ± 1.50"] in rows
    assert ["cnn7, pgd, mnist: fast", "80", "0.355", "1.0"] in rows
    assert ["64 images", "160", "10"] in rows
    for kind in ("quality", "growth"):
        picture = path.with_name(f"{path.stem}-{kind}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"({picture.name})" in text


def test_a_report_is_made_again_from_its_own_figures(benchmarks, tmp_path):
    """The same bytes, and nothing of the machine's folders among them."""
    first = write_performance(tmp_path / "one", read_performance(benchmarks(STEP, SEARCH, QUALITY, *GROWN)))
    again = write_performance(tmp_path / "two", read_performance(first.with_suffix(".json")))
    files = {file.name: file.read_bytes() for file in first.parent.iterdir()}
    assert files == {file.name: file.read_bytes() for file in again.parent.iterdir()}
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]


def test_without_quality_and_growth_there_are_no_pictures(benchmarks, tmp_path):
    """Only what was measured is shown."""
    path = write_performance(tmp_path / "out", read_performance(benchmarks(STEP)))
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".md"]
    assert "growth" not in path.read_text()


def test_the_command_renders_it_beside_the_file(benchmarks, capsys):
    """``robbench report FILE`` tells performance results from a bundle."""
    path = benchmarks(STEP)
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path.with_name(f"perf-{ENVIRONMENT.slug}.md"))


def test_runs_of_one_machine_make_one_report(benchmarks, capsys, tmp_path):
    """What both have counts as in the later one."""
    first = benchmarks(STEP, SEARCH)
    second = benchmarks(STEP | {"milliseconds_per_image": 9.0}, QUALITY, name="later.json")
    assert main(["report", str(first), str(second), "-o", str(tmp_path / "out")]) == 0
    (path,) = capsys.readouterr().out.split()
    again = read_performance(tmp_path / "out" / f"perf-{ENVIRONMENT.slug}.json")
    assert str(again and path) == str(tmp_path / "out" / f"perf-{ENVIRONMENT.slug}.md")
    assert [(m.group, m.milliseconds_per_image) for m in again.measurements] == [
        ("attack step", 9.0),
        ("p*", 20.0),
        ("p* quality", 2.5),
    ]


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ((), "expected at least one measurement"),
        (({key: value for key, value in STEP.items() if key != "case"},), "case"),
        ((STEP | {"images": "many"},), "images"),
    ],
)
def test_what_is_no_result_is_refused(benchmarks, figures, message):
    """One error that names the file and the field."""
    path = benchmarks(*figures)
    with pytest.raises(RobbenchError, match=message) as caught:
        read_performance(path)
    assert str(path) in str(caught.value)


def test_another_file_is_left_to_others(tmp_path):
    """A bundle, a file that is no JSON, and none at all are no performance results."""
    bundle = tmp_path / "records.json"
    bundle.write_text('{"schema": "robbench.bundle/1"}')
    other = tmp_path / "other.json"
    other.write_text("no JSON")
    assert [read_performance(path) for path in (bundle, other, tmp_path / "none.json")] == [None] * 3
    with pytest.raises(RobbenchError):
        read_bundle(other)
