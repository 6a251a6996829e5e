"""docs/use-a-model.md from its first line to its last: the studies at the quick scale, all else as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from safetensors.torch import save_file

from robbench.cli import main
from robbench.models import build, weights

PAGE = Path(__file__).parents[2] / "docs" / "use-a-model.md"
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_does_what_it_says(pytester, capsys):
    """A checkpoint is estimated and transferred; the result is exported and attacked."""
    network = build("cnn7", classes=10, shape=(1, 28, 28), seed=1)
    save_file(weights(network), "robust.safetensors")
    ran = []
    for language, text in BLOCKS:
        name = re.match(r"# (\w+\.py)\n", text)
        if language == "python" and name and name[1].startswith("test_"):
            Path(name[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, "block", "exec"), {})
            ran.append("python")
        else:
            command, *arguments = shlex.split(text.removeprefix("$ "))
            if command == "pytest":
                result = pytester.runpytest_inprocess(*arguments[:-1], "--robbench-quick")  # which writes no baseline
                result.assert_outcomes(passed={"test_mine.py": 1, "test_transfer.py": 6}[arguments[2]])
            elif command == "robbench":
                assert main([*arguments, "--quick"]) == 0
            ran.append(command)
    assert ran == ["pytest", "pytest", "robbench", "python"]
    printed = capsys.readouterr().out
    assert re.search(
        r"model\.safetensors: cnn7-glyphs47-TL3, 1×28×28 images in \[0, 1\], 47 classes; median p\*", printed
    )
    clean, attacked = (float(re.search(rf"^{name} ([\d.]+)$", printed, re.MULTILINE)[1]) for name in ("clean", "PGD.*"))
    assert 0 <= attacked <= clean <= 1
    report = Path("reports/transfer-quick/report.md").read_text(encoding="utf-8")
    assert "## a checkpoint → glyphs47, cnn7" in report
    assert "etention" not in report.partition("## How to read this")[0]
