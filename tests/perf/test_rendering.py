"""The report of the performance suite."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from factories import ENVIRONMENT

import suites.perf
from suites.perf import rendering
from suites.perf.rendering import main, read, write

EXAMPLE = Path(suites.perf.__file__).parents[2] / "reports" / "examples" / "perf" / "perf-cpu-2core-intel-xeon.json"

STEP = {
    "device": ENVIRONMENT.slug,
    "group": "attack step",
    "case": "cnn7, batch 256, PGD-10",
    "images": 256,
    "milliseconds_per_image": 2.5,
    "passes_per_image": 10,
    "peak_gflops": 300.0,
    "gflops": 165.0,
    "share_of_peak": 0.55,
    "ratios": {"torchattacks": 1.5, "Foolbox": 2.0},
    "references": {},
    "rounds": 5,
}


def grown(axis, value, search, milliseconds, passes):
    """One case of a search that grows."""
    case = {"group": "growth", "case": f"{value:,} {axis}, {search} search", "milliseconds_per_image": milliseconds}
    return STEP | {"axis": axis, "value": value, "search": search, "images": 1, "passes_per_image": passes} | case


@pytest.fixture
def benchmarks(tmp_path):
    """Writes what pytest-benchmark saves: machine info and one benchmark for each set of figures."""

    def save(*figures, name="run.json", commit="a" * 40, date="2026-03-01T10:00:00"):
        infos = [{"extra_info": {"perf": values}} for values in figures]
        machine = msgspec.to_builtins(ENVIRONMENT) | {"commit": commit}
        content = {"machine_info": machine, "datetime": date, "benchmarks": [*infos, {"extra_info": {}}]}
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return save


def cells(text):
    """The cells of every line of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_the_committed_report_is_made_again_from_its_figures(tmp_path, monkeypatch):
    """Its text, all kinds of tables included, and its figures; its pictures are named and drawn."""
    drawn = []
    quiet = {
        name: (kind, alt, lambda members, path: drawn.append(path.name))
        for name, (kind, alt, _) in rendering.PICTURES.items()
    }
    monkeypatch.setattr(rendering, "PICTURES", quiet)
    (performance,) = read([EXAMPLE])
    path = write(tmp_path, performance)
    assert path.read_text() == EXAMPLE.with_suffix(".md").read_text()
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(EXAMPLE.read_text())
    assert sorted(drawn) == sorted(picture.name for picture in EXAMPLE.parent.glob("*.png"))


def test_growth_is_by_the_smallest_case_and_fitted(benchmarks, tmp_path):
    """In the order of size; the exponent of time over images, and the passes that a doubling of grid points costs."""
    line = [grown("images", n, "fast", 3.0 * n**1.5, 40) for n in (1_024, 64, 256)]
    line += [grown("grid points", n, "reference", 100, passes) for n, passes in ((10, 100), (20, 141), (80, 223))]
    path = write(tmp_path / "out", *read([benchmarks(*line)]))
    rows = cells(path.read_text())
    assert ["64 images, fast search", "1,536", "× 1", "40", "165", "55%"] in rows
    assert ["256 images, fast search", "12,288", "× 8", "40", "165", "55%"] in rows
    assert ["images, fast search", "1.50", "–"] in rows
    assert ["grid points, reference search", "–", "+41, +41"] in rows
    images = [row[0] for row in rows if "images" in row[0] and "× " in row[2]]
    assert images == [f"{n} images, fast search" for n in ("64", "256", "1,024")]
    assert (path.parent / f"perf-{ENVIRONMENT.slug}-growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_quality_leaves_out_what_is_past_the_grid(benchmarks, tmp_path):
    """Such a median has no place on its axis; the table says it."""
    points = [
        {"method": method, "passes_per_image": passes, "median_pstar": value, "seconds": 1.0, "ratio": 2.5}
        | {"gflops": 120.0, "share_of_peak": 0.4}
        for method, passes, value in (("fast", 80.0, 0.355), ("reference", 76.0, None))
    ]
    quality = STEP | {"group": "p* quality", "case": "cnn7, pgd, mnist", "quality": points}
    path = write(tmp_path / "out", *read([benchmarks(quality)]))
    assert ["cnn7, pgd, mnist: reference", "76", "past the grid", "1.0", "× 2.5", "120", "40%"] in cells(
        path.read_text()
    )
    assert (path.parent / f"perf-{ENVIRONMENT.slug}-quality.png").is_file()


def test_a_target_that_was_missed_stands_out(benchmarks, tmp_path):
    """Beside what was measured."""
    targets = [{"what": "against Foolbox", "value": 2.0, "least": 1.8}, {"what": "share", "value": 0.5, "least": 0.6}]
    rows = cells(write(tmp_path, *read([benchmarks(STEP | {"targets": targets})])).read_text())
    assert ["cnn7, batch 256, PGD-10", "against Foolbox", "1.8", "2", "yes"] in rows
    assert ["cnn7, batch 256, PGD-10", "share", "0.6", "0.5", "**no**"] in rows


def test_a_column_without_any_figure_is_left_out(benchmarks, tmp_path):
    """Not where one row has it."""
    bare = STEP | {"case": "bare", "gflops": None, "share_of_peak": None, "passes_per_image": None, "ratios": {}}
    header = cells(write(tmp_path / "one", *read([benchmarks(bare)])).read_text())[0]
    assert header == ["case", "ms an image"]
    rows = cells(write(tmp_path / "two", *read([benchmarks(bare, STEP)])).read_text())
    assert ["bare", "2.500", "–", "–", "–", "–", "–", "–"] in rows
    assert ["cnn7, batch 256, PGD-10", "2.500", "10", "× 1.5", "× 2", "165", "300", "55%"] in rows


def test_runs_of_one_machine_make_one_report(benchmarks, capsys, tmp_path):
    """What two of them have counts as in the last one given; each is named with its commit and what comes from it."""
    transfer = STEP | {"group": "transfer", "case": "cnn7, TL#2"}
    first = benchmarks(STEP, transfer)
    second = benchmarks(
        STEP | {"milliseconds_per_image": 9.0}, name="later.json", commit="b" * 40, date="2026-03-02T09:00:00"
    )
    assert main([str(first), str(second), "-o", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / f"perf-{ENVIRONMENT.slug}.md"
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text()
    assert "commit aaaaaaa, 2026-03-01: transfer (1)\n" in text
    assert "commit bbbbbbb, 2026-03-02: attack step (1)\n" in text
    assert "| 9.000 |" in " ".join(text.split())


def test_a_file_without_measurements_is_bad_input(benchmarks, capsys, tmp_path):
    """One line, status 2; so is one that is not there."""
    for path in (benchmarks(), tmp_path / "none.json"):
        assert main([str(path), "-o", str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert (captured.out, len(captured.err.splitlines())) == ("", 1)
        assert str(path) in captured.err
