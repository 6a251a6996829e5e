"""The performance suite's results: read, checked, and rendered as tables and pictures."""

import json

import msgspec
import pytest
from factories import ENVIRONMENT

from robbench.cli import main
from robbench.errors import RobbenchError
from robbench.report import merged, read_bundle, read_performance, write_performance

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
    "rounds": 5,
}
SEARCH = STEP | {
    "group": "p*",
    "case": "cnn7, pgd, mnist, fast search",
    "milliseconds_per_image": 20.0,
    "passes_per_image": 80.0,
    "data": "mnist",
    "rounds": 1,
    "gflops": 150.0,
    "share_of_peak": 0.5,
    "ratios": {"sequential": 16.0, "reference": 3.0},
    "references": {
        "sequential": {"passes_per_image": 301.0, "gflops": 30.0, "share_of_peak": 0.1},
        "reference": {"passes_per_image": 300.0, "gflops": 180.0, "share_of_peak": 0.6},
    },
    "targets": [
        {"what": "fast against sequential", "value": 16.0, "least": 7.0},
        {"what": "share of peak", "value": 0.5, "least": 0.6},
    ],
    "correct": 253,
    "reference_over_sequential": 5.3,
    "reference_equal_to_sequential": 0.99,
    "fast_at_most_one_step_above_reference": 0.995,
    "fast_minus_reference_mean_steps": -33.5,
    "fast_minus_reference_standard_error": 1.5,
    "median_pstar": {"fast": 0.355, "reference": 0.515, "sequential": 0.515},
}
BOUND = SEARCH | {"group": "bound of the fast search", "case": "cnn7-glyphs10-pgd", "data": "glyphs10", "targets": []}
POINTS = [
    {"method": method, "passes_per_image": passes, "median_pstar": value, "seconds": 1.0, "ratio": 2.5}
    | {"gflops": 120.0, "share_of_peak": 0.4}
    for method, passes, value in (("fast", 80.0, 0.355), ("reference", 76.0, 0.56), ("reference", 300.0, 0.515))
]
QUALITY = STEP | {"group": "p* quality", "case": "cnn7, pgd, mnist", "quality": POINTS, "ratios": {}}


def grown(axis, value, search, milliseconds, passes):
    """One case of a search that grows."""
    facts = {"axis": axis, "value": value, "search": search, "images": 1, "ratios": {}, "passes_per_image": passes}
    case = {"group": "growth", "case": f"{value:,} {axis}, {search} search", "milliseconds_per_image": milliseconds}
    return STEP | facts | case


GROWN = [
    *(grown("images", n, "fast", 3.0 * n**1.5, 40) for n in (1_024, 64, 256)),
    *(grown("grid points", n, "reference", 100, passes) for n, passes in ((10, 100), (20, 141), (80, 223))),
]


@pytest.fixture
def benchmarks(tmp_path):
    """Writes what pytest-benchmark saves: machine info and one benchmark for each set of figures."""

    def write(*figures, name="run.json", commit=ENVIRONMENT.commit, date="2026-03-01T10:00:00+00:00"):
        path = tmp_path / name
        found = [{"name": "test", "extra_info": {"perf": values}} for values in figures]
        machine = msgspec.to_builtins(ENVIRONMENT) | {"commit": commit}
        benches = [*found, {"extra_info": {}}]
        path.write_text(json.dumps({"machine_info": machine, "datetime": date, "benchmarks": benches}))
        return path

    return write


def cells(text):
    """The cells of every line of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_every_figure_is_in_the_text(benchmarks, tmp_path):
    """Times, passes, ratios, arithmetic, and what both searches found."""
    measured = read_performance(benchmarks(STEP, SEARCH, BOUND, QUALITY, *GROWN))
    path = write_performance(tmp_path / "out", measured)
    text = path.read_text()
    assert path.name == f"perf-{ENVIRONMENT.slug}.md"
    rows = cells(text)
    assert ["cnn7, batch 256, PGD-10", "2.500", "10", "× 1.5", "× 2", "165", "300", "55%"] in rows
    assert ["cnn7, pgd, mnist, sequential", "320.0", "301", "× 1", "0.515", "30", "10%"] in rows
    assert ["cnn7, pgd, mnist, reference", "60.0", "300", "× 5.3", "0.515", "180", "60%"] in rows
    assert ["cnn7, pgd, mnist, fast", "20.0", "80", "× 16", "0.355", "150", "50%"] in rows
    assert ["cnn7, pgd, mnist", "253 of 256", "99.0%", "99.5%", "-33.50 ± 1.50"] in rows
    bound = [
        "cnn7-glyphs10-pgd",
        "253 of 256",
        "99.5%",
        "-33.50 ± 1.50",
        "0.515 → 0.355",
        "300 → 80",
        "× 3",
        "150",
        "50%",
    ]
    assert bound in rows
    assert ["cnn7, pgd, mnist: fast", "80", "0.355", "1.0", "× 2.5", "120", "40%"] in rows
    assert "Images: mnist (p\\*); glyphs10 (bound of the fast search)." in text
    for kind in ("quality", "growth"):
        picture = path.with_name(f"{path.stem}-{kind}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"({picture.name})" in text


def test_growth_is_by_the_smallest_case_and_fitted(benchmarks, tmp_path):
    """In the order of size; the exponent of time over images, and the passes that a doubling of grid points costs."""
    rows = cells(write_performance(tmp_path / "out", read_performance(benchmarks(*GROWN))).read_text())
    assert ["64 images, fast search", "1,536", "× 1", "40", "165", "55%"] in rows
    assert ["256 images, fast search", "12,288", "× 8", "40", "165", "55%"] in rows
    assert ["images, fast search", "1.50", "–"] in rows
    assert ["grid points, reference search", "–", "+41, +41"] in rows
    names = [row[0] for row in rows]
    images = [f"{n} images, fast search" for n in ("64", "256", "1,024")]
    assert [name for name in names if name in images] == images


@pytest.mark.parametrize(
    "line",
    [
        [grown("grid points", 10, "fast", 100, 40), grown("grid points", 10, "fast", 90, 41)],
        [grown("grid points", 0, "fast", 100, 40), grown("grid points", 10, "fast", 90, 41)],
        [grown("images", 0, "fast", 100, 40), grown("images", 64, "fast", 90, 41)],
        [grown("images", 64, "fast", 0, 40), grown("images", 256, "fast", 0, 41)],
        [grown("images", 64, "fast", 100, 40) | {"value": None}],
    ],
    ids=["the same size twice", "no grid", "no images", "no time", "no size"],
)
def test_growth_that_cannot_be_fitted_is_listed_all_the_same(benchmarks, tmp_path, line):
    """Every case has its row, and there is no exponent."""
    rows = cells(write_performance(tmp_path / "out", read_performance(benchmarks(*line))).read_text())
    names = [row[0] for row in rows]
    assert all(member["case"] in names for member in line)
    assert next(row for row in rows if row[0].endswith(", fast search") and row[0][0] in "gi")[1:] == []


def test_what_was_to_be_reached_stands_beside_what_was(benchmarks, tmp_path):
    """Both ways."""
    rows = cells(write_performance(tmp_path / "out", read_performance(benchmarks(SEARCH))).read_text())
    assert ["cnn7, pgd, mnist", "fast against sequential", "7", "16", "yes"] in rows
    assert ["cnn7, pgd, mnist", "share of peak", "0.6", "0.5", "**no**"] in rows


def test_a_column_without_any_figure_is_left_out(benchmarks, tmp_path):
    """Not where one row has it."""
    bare = STEP | {"case": "bare", "gflops": None, "share_of_peak": None, "passes_per_image": None, "ratios": {}}
    headers = [["case", "ms an image"], ["case", "ms an image", "passes an image", "against torchattacks"]]
    for number, (figures, header) in enumerate(zip([(bare,), (bare, STEP)], headers, strict=True)):
        text = write_performance(tmp_path / str(number), read_performance(benchmarks(*figures))).read_text()
        assert cells(text)[0][: len(header)] == header
        assert ("share" in cells(text)[0][-1]) == (len(figures) == 2)


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


def test_runs_that_are_put_together_keep_their_commits_and_dates(benchmarks, tmp_path):
    """Each is named with what comes from it, and nothing says that all came from the last."""
    transfer = STEP | {"group": "transfer", "ratios": {}}
    first = benchmarks(
        STEP, *(transfer | {"case": f"resnet18, TL#{k}, 128 images"} for k in (1, 4, 10)), commit="a" * 40
    )
    second = benchmarks(
        transfer | {"case": "resnet18, TL#2, 128 images"}, name="two.json", commit="b" * 40, date="2026-03-02T09:00:00"
    )
    (both,) = merged([read_performance(second), read_performance(first)])
    text = write_performance(tmp_path / "out", both).read_text()
    assert "at commit aaaaaaa, 2026-03-01: attack step (1), transfer (3)" in text
    assert "at commit bbbbbbb, 2026-03-02: transfer (1)" in text
    assert text.index("aaaaaaa") < text.index("bbbbbbb")
    assert [row[0] for row in cells(text) if "TL#" in row[0]] == [
        f"resnet18, TL#{k}, 128 images" for k in (1, 2, 4, 10)
    ]
    again = read_performance(tmp_path / "out" / f"perf-{ENVIRONMENT.slug}.json")
    assert merged([again]) == [both]
    (overtaken,) = merged(
        [read_performance(benchmarks(STEP, name="three.json", commit="c" * 40)), read_performance(first)]
    )
    assert [run.environment.commit for run in overtaken.runs] == ["a" * 40]


def test_a_report_of_the_first_kind_is_still_read(tmp_path):
    """One run without a date; the passes of the reference search had a place of their own."""
    old = SEARCH | {"reference_passes_per_image": 310.0}
    del old["references"], old["data"], old["rounds"], old["targets"], old["correct"]
    content = {"schema": "robbench.perf/1", "environment": msgspec.to_builtins(ENVIRONMENT), "measurements": [old]}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    read = read_performance(path)
    assert read.slug == ENVIRONMENT.slug
    text = write_performance(tmp_path / "out", read).read_text()
    assert ["cnn7, pgd, mnist, reference", "60.0", "310", "× 5.3", "0.515", "–", "–"] in cells(text)


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
