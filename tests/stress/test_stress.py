"""The kill test and the crowd test, small."""

from __future__ import annotations

import random
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import crowd
import kill
import lose
import mutate
import project

pytestmark = pytest.mark.stress

SMALL = {"epochs": 2, "images": 120, "steps": 3, "attacked": 12, "drawn": False}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder of a run that nothing disturbed."""
    folder = project.write(tmp_path_factory.mktemp("alone") / "project", **SMALL)
    process = project.start(folder)
    process.join()
    assert process.exitcode == 0
    return folder


def test_a_suite_that_is_killed_twice_ends_as_if_it_had_not_been(alone, tmp_path):
    """Weights, histories, p*, robust accuracies and passes of every stage are those of the undisturbed run."""
    folder, expected = project.write(tmp_path / "killed", **SMALL), project.stages(alone)
    said = []
    kills = kill.round_of_kills(folder, random.Random(0), 0.5, said.append, at_most=2)
    assert len(kills) == 2
    assert said[-1] == "  done, exit status 0"
    assert len(expected) == 18
    assert project.differences(expected, project.stages(folder)) == []


@pytest.mark.parametrize("lost", ["worker", "cut"])
def test_a_suite_that_loses_a_worker_or_its_network_ends_as_one_process_does(alone, tmp_path, lost):
    """Nothing is shared with the workers: weights, records and saved states travel through the scheduler."""
    folder, expected = lose.write(tmp_path / "lost", **SMALL), project.stages(alone)
    machines = lose.Machines(tmp_path, 2)
    try:
        said = lose.run(folder, machines, lost, random.Random(0), 1.0)
    finally:
        machines.end()
    assert said[-1] == "exit status 0"
    assert project.differences(expected, project.stages(folder)) == []


def test_three_processes_on_the_same_folders_do_what_one_does(alone, tmp_path):
    """Every stage made once, the same tables and report files, and no lock or temporary file left behind.

    Two begin at once, the third when they have made three stages.
    """
    folder, processes = project.write(tmp_path / "crowd", **SMALL), []
    for log, made in enumerate((0, 0, 3)):
        project.wait_for_stages(folder, made)
        processes.append(project.start(folder, log=str(log)))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    expected = crowd.results(alone, ["log.txt"])
    assert len(expected["made"]) == 18
    assert expected["left behind"] == expected["other tables"] == []
    assert project.differences(expected, crowd.results(folder, ["0", "1", "2"])) == []


def test_differences_are_found():
    """Wherever two results differ, and nowhere else."""
    assert project.differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []
    assert project.differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ["/a/1/b: 2 is not 3"]
    assert len(project.differences({"a": [1], "b": 0}, {"a": [1, 2], "c": 0})) == 3


def test_what_is_compared_of_reports_says_nothing_of_the_machine():
    """Neither its seconds nor how busy it was, as a paragraph of its own."""
    free = "TL#1 is kept\n\ntrained in 1.5 s\n\n| model | seconds |\n| --- | --- |\n| a | 2 |\n"
    busy = free.replace("1.5", "9").replace("\n\n|", "\n\n**Measured on a busy machine** (training: a 20% …).\n\n|")
    assert project.without_seconds(free) == project.without_seconds(busy)
    assert project.without_seconds(free) != project.without_seconds(free.replace("TL#1", "TL#2"))


def test_every_equivalent_mutation_is_one_that_the_rules_make():
    """An entry whose line has changed would hide nothing, and say so to nobody."""
    listed = [
        (each["module"], each["function"], each["before"], each["after"])
        for each in tomllib.loads(mutate.EQUIVALENT.read_text())["mutation"]
    ]
    made = {mutation.key for module in mutate.TESTS for mutation in mutate.mutations(module)}
    assert [key for key in listed if key not in made] == []
    assert len(set(listed)) == len(listed)
