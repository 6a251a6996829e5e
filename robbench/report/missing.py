"""What a study asks for and these records lack, a line per family of models instead of a line per stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from robbench.report.markdown import escape, whole_ranges

_KINDS = {
    ("training",): "not trained",
    ("robustness",): "not tested",
    ("robustness", "training"): "neither trained nor tested",
}


def missing_section(missing: Sequence[str], cases: Iterable[str]) -> str | None:
    """Missing stages (``case.stage``) of a study by architecture and kind of model; None where nothing is missing.

    ``cases`` are those with a record: an architecture without any becomes one line.
    """
    if not missing:
        return None
    stages: dict[str, list[str]] = {}
    for name in missing:
        case, _, stage = name.rpartition(".")
        stages.setdefault(case, []).append(stage)
    present = {_architecture(case) for case in cases}
    lines = []
    for architecture in dict.fromkeys(map(_architecture, stages)):
        own = {case: found for case, found in stages.items() if _architecture(case) == architecture}
        if architecture not in present:
            lines.append(f"- {escape(architecture)}: none of its {len(own)} models")
            continue
        lines += [f"- {line}" for line in _families(own)]
    count = f"{len(missing)} stage{'s' * (len(missing) != 1)}"
    return f"Missing, without a result here: {count}.\n\n" + "\n".join(lines)


def _architecture(case: str) -> str:
    return case.partition("-")[0]


def _families(stages: dict[str, list[str]]) -> list[str]:
    """``cnn7-emnist-TL#k, k = 1–7, seeds 0–2: neither trained nor tested``."""
    families: dict[tuple[str, tuple[str, ...]], tuple[set[int], set[int]]] = {}
    for case, found in stages.items():
        family = re.sub(r"-seed\d+(?=-|$)", "", re.sub(r"-TL\d+(?=-|$)", "-TL#k", case))
        ks, seeds = families.setdefault((family, tuple(sorted(found))), (set(), set()))
        ks.update(int(number) for number in re.findall(r"-TL(\d+)(?=-|$)", case))
        seeds.update(int(number) for number in re.findall(r"-seed(\d+)(?=-|$)", case) or ["0"])
    several = any(seeds != {0} for _, seeds in families.values())
    lines = []
    for (family, kind), (ks, seeds) in families.items():
        parts = [escape(family)]
        parts += [f"k = {whole_ranges(ks)}"] if ks else []
        parts += [f"seed{'s' * (len(seeds) > 1)} {whole_ranges(seeds)}"] if several else []
        lines.append(f"{', '.join(parts)}: {_KINDS.get(kind, ', '.join(kind))}")
    return lines
