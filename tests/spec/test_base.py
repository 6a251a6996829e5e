"""Specs are values: frozen, equal by their fields, hashable, and the same after a copy."""

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from specs import ESTIMATE, RECIPE, SOURCE, TARGET

from robbench.spec import Dataset, EpsilonGrid


@pytest.mark.parametrize("spec", [RECIPE, SOURCE, TARGET, ESTIMATE], ids=lambda spec: type(spec).__name__)
def test_a_spec_is_a_value(spec):
    """Copies and pickles are equal to it and hash as it does; its fields cannot be set."""
    for copy in (replace(spec), pickle.loads(pickle.dumps(spec))):  # noqa: S301
        assert copy == spec
        assert hash(copy) == hash(spec)
        assert type(copy) is type(spec)
    with pytest.raises(FrozenInstanceError):
        spec.seed = 1


def test_a_copy_derives_its_own_values():
    """What is computed once, as a grid's radii or a digest, belongs to one spec and is no field."""
    grid = EpsilonGrid(stop=0.2, step=0.1)
    assert grid.values == (0.0, 0.1, 0.2)
    assert replace(grid, stop=0.1).values == (0.0, 0.1)
    assert replace(TARGET, seed=1).digest != TARGET.digest


def test_numbers_become_plain_floats():
    """Integers and NumPy's floats are taken where a number is expected."""
    for mean in ((0.5, 1), (np.float64(0.5), np.float64(1))):
        taken = Dataset(name="x", mean=mean, std=(1, 1)).mean
        assert taken == (0.5, 1.0)
        assert {type(value) for value in taken} == {float}


def test_declaring_a_study_imports_nothing_heavy():
    """Neither torch nor scipy, pandas, matplotlib or pytest; the bare package not even the library that checks specs."""
    heavy = "{'torch', 'torchvision', 'timm', 'scipy', 'pandas', 'matplotlib', 'pytest', 'pydantic'}"
    program = (
        f"import sys, robbench\nprint(sorted({heavy} & {{*sys.modules}}))\n"
        f"import robbench.spec.command_line, robbench.record\nrobbench.recipes\nprint(sorted({heavy} & {{*sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['pydantic']"]
