"""What the package asks of others agrees with itself, whichever installer reads it."""

from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def asked(name, extras=frozenset(), seen=None):
    """Every requirement of a distribution and of what it requires, as (who asks, requirement)."""
    seen = set() if seen is None else seen
    found = []
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})
        )
        if wanted:
            found.append((name, requirement))
            if (key := (canonicalize_name(requirement.name), frozenset(requirement.extras))) not in seen:
                seen.add(key)
                found += asked(requirement.name, key[1], seen)
    return found


@pytest.mark.parametrize("extras", [frozenset(), frozenset({"audit"})], ids=["plain", "audit"])
def test_nothing_pins_what_others_need_newer(extras):
    """Plain pip, which knows no overrides, could not install recent versions beside it."""
    found = asked("robbench", extras)
    assert {name.name for who, name in found if who == "robbench"} >= {"torch", *({"pyautoattack"} & extras)}
    refused = [
        f"{who} requires {requirement}, installed is {distribution(requirement.name).version}"
        for who, requirement in found
        if not requirement.specifier.contains(distribution(requirement.name).version, prereleases=True)
    ]
    assert refused == []
