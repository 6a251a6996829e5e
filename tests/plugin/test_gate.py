"""The gate: a missing, damaged or worse baseline fails exactly its item, with one readable line."""

import pytest

from robbench.report import read_bundle

ONE = "net.mlp-glyphs10-standard"


def fooled_at(values, index):
    """A baseline in which every correct image was fooled at one place of the grid."""
    values["pstar"] = [-1 if old == -1 else index for old in values["pstar"]]


def validated(values, correct):
    """A baseline of a training stage with so many of a thousand validation images correct."""
    values["accuracy"] = {"correct": correct, "total": 1000}
    values["data"]["validation"] = 1000


def all_right(values):
    """A baseline of a robustness stage in which every image is classified correctly."""
    values["pstar"] = [1 if old == -1 else old for old in values["pstar"]]
    values["accuracy"]["correct"] = values["accuracy"]["total"]


def test_a_missing_baseline_fails_and_names_the_option(one, pytester, errors):
    """Never silently passed."""
    result = one()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=2, deselected=8)
    text = errors(result)
    path = pytester.path / "baselines" / "tiny" / f"{ONE}.training.json"
    assert f"no baseline at {path}; write it with --robbench-update" in text
    assert "baseline missing" in text
    assert "2 figures fail, see above" in result.stdout.lines
    assert not (pytester.path / "baselines").exists()


def test_an_update_writes_what_the_next_run_passes(one, pytester):
    """Files of the same bytes if nothing changed but the seconds."""
    result = one("--robbench-update")
    result.assert_outcomes(passed=2, deselected=8)
    assert "baseline new" in result.stdout.str()
    assert len(list((pytester.path / "baselines" / "tiny").iterdir())) == 2
    result = one()
    assert result.ret == 0
    result.assert_outcomes(passed=2, deselected=8)
    assert "= all" in result.stdout.str()


def test_a_loss_of_robustness_fails_its_item_alone(updated, doctor, errors, pytester):
    """One line with both medians; exit status 1; the mark in the table and the bundle."""
    doctor("robustness", lambda values: fooled_at(values, 19))
    result = updated()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    errors(result)
    lines = [line for line in result.stdout.lines if line.startswith(f"FAILED test_tiny.py::test_robustness[{ONE}] - ")]
    assert len(lines) == 1
    told = [line for line in result.stdout.lines if line.startswith(f"tiny/{ONE}: median p* 0.95 → 0.")]
    assert len(told) == 1
    assert "tolerance 5% and one grid step of 0.05" in told[0]
    assert "1 figure fails, see above" in result.stdout.lines
    verdicts = read_bundle(pytester.path / "reports" / "tiny").verdicts
    assert [verdict.figure for verdict in verdicts if verdict.fails] == ["median p*"]
    assert "median p* - · " in result.stdout.str()


def test_a_terminal_that_has_no_arrows(updated, doctor, pytester, quick_workers, monkeypatch):
    """The table stands in lines, and the failing verdict says '->'."""
    doctor("robustness", lambda values: fooled_at(values, 19))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = pytester.runpytest_subprocess("-k", "glyphs10-standard")
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    result.stdout.fnmatch_lines([f"tiny/{ONE}: median p[*] 0.95 -> *", "model  *", f"{ONE}  *"])
    assert "\\u" not in result.stdout.str()


def test_baselines_of_what_is_no_longer_declared(updated, pytester, errors):
    """Named in the terminal and the report, and removed by an update; not those of other seeds, nor files of others."""
    folder = pytester.path / "baselines" / "tiny"
    kept = {*folder.iterdir()}

    def like(name):
        text = (folder / f"{ONE}.training.json").read_text().replace(f'"{ONE}"', f'"{name}"')
        (folder / f"{name}.training.json").write_text(text)
        return folder / f"{name}.training.json"

    gone, kept = [like("cnn7-glyphs10-pgd"), like("net.mlp-glyphs47-TL9-seed1")], kept | {like(f"{ONE}-seed1")}
    (folder / "notes.json").write_text("[]")
    kept |= {folder / "notes.json"}
    names = "cnn7-glyphs10-pgd.training, net.mlp-glyphs47-TL9-seed1.training"
    said = "study 'tiny' no longer declares their models or stages, {}: " + names
    result = updated()
    result.assert_outcomes(passed=2, deselected=8)
    assert said.format("--robbench-update removes these baselines") in errors(result)
    assert (
        said.format("--robbench-update removes these baselines")
        in read_bundle(pytester.path / "reports" / "tiny").notes
    )
    assert {*folder.iterdir()} == kept | {*gone}
    assert said.format("these baselines were removed") in errors(updated("--robbench-update"))
    assert {*folder.iterdir()} == kept


def test_a_gain_passes(updated, doctor):
    """It is shown with a plus."""
    doctor("robustness", lambda values: fooled_at(values, 0))
    doctor("training", lambda values: validated(values, 0))
    result = updated()
    result.assert_outcomes(passed=2, deselected=8)
    assert "validation accuracy +" in result.stdout.str()


def test_a_loss_of_accuracy_fails(updated, doctor, errors):
    """Validation accuracy of the training stage, test accuracy of the other."""
    doctor("training", lambda values: validated(values, 1000))
    doctor("robustness", all_right)
    result = updated()
    result.assert_outcomes(failed=2, deselected=8)
    text = errors(result)
    assert f"tiny/{ONE}: validation accuracy 100.0% → " in text
    assert f"tiny/{ONE}: accuracy 100.0% → " in text


def test_more_seconds_on_the_same_machine_fail(write_suite, pytester, doctor, errors):
    """With the marker's own tolerances, here none."""
    write_suite(("seconds=1000", "seconds=1, seconds_floor=0"))

    def run(*options):
        return pytester.runpytest_inprocess("-k", "glyphs10-standard", *options)

    run("--robbench-update")

    def faster(values):
        values["seconds"] = dict.fromkeys(values["seconds"], 1e-6) | {"nvidia-h200": 1e-9}

    doctor("training", faster)
    doctor("robustness", lambda values: values.update(seconds=dict.fromkeys(values["seconds"], 1e6)))
    result = run()
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    assert f"tiny/{ONE}: 0.0 s → " in errors(result)
    assert "seconds - · " in result.stdout.str()


def test_seconds_of_another_machine_do_not_fail(updated, doctor):
    """Shown as not comparable; an update keeps them beside its own."""
    path = doctor("training", lambda values: values.update(seconds={"nvidia-h200": 1e-9}))
    result = updated()
    result.assert_outcomes(passed=2, deselected=8)
    assert "seconds x · " in result.stdout.str()
    updated("--robbench-update")
    assert '"nvidia-h200": 1e-09' in path.read_text()
    assert path.read_text().count('"slug"') == 1


def test_a_damaged_baseline_is_named(updated, doctor, errors, pytester):
    """Before the stage runs, since it cannot be judged, nor renewed until it is removed."""
    path = doctor("training", lambda values: None)
    path.write_text("{")
    result = updated()
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    text = errors(result)
    assert f"baseline {str(path)!r}: expected a file of schema 'robbench.baseline/1'" in text
    assert "restore it from version control, or remove it and write it anew with --robbench-update" in text
    assert "**Failed: 1 stage without a result" in (pytester.path / "reports" / "tiny" / "report.md").read_text()
    updated("--robbench-update").assert_outcomes(passed=1, failed=1, deselected=8)
    assert path.read_text() == "{"
    path.unlink()
    updated("--robbench-update").assert_outcomes(passed=2, deselected=8)
    updated().assert_outcomes(passed=2, deselected=8)


def test_a_changed_estimate_is_not_comparable_and_fails(updated, write_suite, pytester, errors):
    """Other attack steps: the message names the field."""
    write_suite(("attack=PGD(steps=2, random_start=False)", "attack=PGD(steps=3, random_start=False)"))
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard")
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    assert "the baseline was estimated another way (attack.steps: 2 → 3); renew it with --robbench-update" in errors(
        result
    )


def test_a_changed_recipe_is_named_beside_the_loss(updated, write_suite, pytester, doctor, errors):
    """So that the reader sees the cause; seconds are not compared."""
    doctor("robustness", lambda values: fooled_at(values, 19))
    write_suite(
        (
            'STANDARD = Recipe(optimiser="adam", learning_rate=0.01',
            'STANDARD = Recipe(optimiser="adam", learning_rate=0.0101',
        )
    )
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard and test_robustness")
    result.assert_outcomes(failed=1, deselected=9)
    assert "; the specification changed: model.recipe.learning_rate: 0.01 → 0.0101" in errors(result)
    assert "seconds x" in result.stdout.str()


def test_a_networks_changed_code_is_named_beside_the_loss(updated, doctor, pytester, errors):
    """As a changed recipe is."""
    doctor("robustness", lambda values: fooled_at(values, 19))
    path = pytester.path / "net.py"
    path.write_text(path.read_text() + "\n# another digest\n")
    result = updated("-k", "glyphs10-standard and test_robustness")
    result.assert_outcomes(failed=1, deselected=9)
    assert "; the code behind net:mlp changed, its specification did not" in errors(result)


def test_other_test_images_are_not_comparable(updated, write_suite, pytester, errors):
    """Told by their checksum."""
    write_suite(('name="glyphs10", train=100, test=20', 'name="glyphs10", train=100, test=30'))
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard and test_robustness")
    result.assert_outcomes(failed=1, deselected=9)
    assert "the baseline was made with other images of 'glyphs10'" in errors(result)


def test_a_failing_source_fails_what_needs_it_at_once(write_suite, pytester, stages, errors):
    """A diverging source model is tried once, and its dependents give its reason."""
    write_suite(
        (
            'ADVERSARIAL = Recipe(\n    optimiser="adam", learning_rate=0.01, weight_decay=0',
            'ADVERSARIAL = Recipe(\n    optimiser="sgd", clip_norm=None, learning_rate=1e6, weight_decay=1e6',
        )
    )
    result = pytester.runpytest_inprocess("-k", "glyphs10-pgd or TL1", "--robbench-update")
    result.assert_outcomes(failed=4, deselected=6)
    assert stages.count("net.mlp-glyphs10-pgd.training") == 1
    text = errors(result)
    assert "training diverged: the loss is " in text
    assert not list((pytester.path / "baselines").rglob("*.json"))
