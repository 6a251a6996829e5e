"""Break one line of the package at a time and see whether the tests notice.

Every mutation that the rules of ``variants`` make of a module is listed, a seeded sample of its lines is drawn, and for each
the module's own tests run on a scratch copy of the package with that line broken: it is caught when one of them
fails. What no test could or should see is left out of the list: annotations, docstrings, text of messages, assertions,
how classes are declared, and on which device a tensor is made. What is left and changes nothing all the same is named,
with a reason, in ``equivalent.toml`` beside this script, and counted apart.

    python tests/stress/mutate.py --seed 2 --lines 12

Ends with 1 when fewer than 90 % of the others are caught. Runs where ``fork`` exists.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")

TESTS = {
    "gate.verdicts": ["gate/test_verdicts.py"],
    "store.store": ["store"],
    "stages.resumable": ["stages/test_resuming.py"],
    "attacks.pgd": ["attacks"],
    "training.loop": ["training"],
    "training.updates": ["training"],
    "training.optimisers": ["training"],
    "training.early_stopping": ["training"],
    "estimation.bisection": ["estimation"],
    "estimation.shrinking_ball": ["estimation"],
    "training.transfer": ["training"],
}
"""The test files, or folders of them, that are meant to catch what breaks in a module."""

GOAL = 0.9

SWAPPED: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}

NAMES = {"min": "max", "amin": "amax", "minimum": "maximum", "any": "all"}
NAMES |= {other: name for name, other in NAMES.items()}

TEXT = (ast.JoinedStr, ast.Assert)


@dataclass(frozen=True)
class Mutation:
    """One change of one module."""

    module: str
    line: int
    function: str
    before: str
    after: str
    source: bytes
    """The whole module, broken."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names it in ``equivalent.toml``: no line number, which any edit above would change."""
        return self.module, self.function, self.before, self.after


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""

    def changed(**fields: object) -> ast.AST:
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    match node:
        case ast.Compare(ops=[operator]):
            yield from (changed(ops=[other()]) for other in SWAPPED[type(operator)])
        case ast.Compare(ops=operators):
            for place, operator in enumerate(operators):
                for other in SWAPPED[type(operator)]:
                    yield changed(ops=[*operators[:place], other(), *operators[place + 1 :]])
        case ast.BinOp(op=ast.Div()) if any("folder" in name or "path" in name for name in names(node)):
            return  # of paths
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.AugAssign(op=operator):
            yield from (changed(op=other()) for other in SWAPPED.get(type(operator), []))
        case ast.Subscript(slice=ast.Constant(value=0 | 1 as place)):
            yield changed(slice=ast.Constant(1 - place))
        case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 or 1.0)
        case ast.If() | ast.While():
            yield from (changed(test=ast.Constant(value)) for value in (True, False))
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.comprehension(ifs=[_, *_]):
            yield changed(ifs=[])
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for kind in kinds:
                yield changed(type=ast.Tuple([other for other in kinds if other is not kind]))
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield changed(attr=NAMES[name])
        case ast.keyword(arg=str(name)) if name != "device":
            yield ast.keyword(None, ast.Dict([], []))  # no argument at all
            if name in NAMES:
                yield changed(arg=NAMES[name])


def names(node: ast.AST) -> Iterator[str]:
    """All names in an expression."""
    for inner in ast.walk(node):
        yield getattr(inner, "attr", "") or getattr(inner, "id", "")


def places(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """The nodes that may be broken, with the function or class around them."""
    if isinstance(node, TEXT):
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    yield node, function
    called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Raise) or called in ("field", "isinstance"):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (
            name == "keywords" and isinstance(node, ast.ClassDef)
        ):
            continue
        if isinstance(node, ast.Subscript) and isinstance(value, ast.Constant):
            continue  # the subscript as a whole stands for it
        if called == "require" and name == "args":
            value = value[:1]  # the others are the message's
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from places(child, function)


def path_of(module: str) -> Path:
    """Where a module of the package lies: ``training.loop``."""
    return Path("robbench", *module.split(".")).with_suffix(".py")


def mutations(module: str) -> list[Mutation]:
    """All of a module, in the order of its lines."""
    source = (ROOT / path_of(module)).read_bytes()
    tree = ast.parse(source)
    found = []
    for node, function in places(tree):
        for other in variants(node):
            broken = replaced(source, node, other)
            if broken == source:  # `while True`
                continue
            pairs = zip(source.splitlines(), broken.splitlines(), strict=False)
            line, (before, after) = next((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
            text = before.decode().strip(), after.decode().strip()
            found.append(Mutation(module, line, function, *text, broken))
    return sorted(found, key=lambda mutation: mutation.line)


def replaced(source: bytes, node: ast.AST, other: ast.AST) -> bytes:
    """The source with one node written anew; the head of a statement alone, not its body."""
    if isinstance(node, ast.If | ast.While):
        node, other = node.test, other.test
    if isinstance(node, ast.ExceptHandler):
        node, other = node.type, other.type
    if isinstance(node, ast.comprehension):
        first, last, text = node.ifs[0], node.ifs[-1], "True"
    else:
        first = last = node
        text = ast.unparse(ast.fix_missing_locations(other))
        text = text if isinstance(other, ast.stmt | ast.Constant | ast.keyword) else f"({text})"
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    begin = starts[first.lineno - 1] + first.col_offset
    end = starts[last.end_lineno - 1] + last.end_col_offset
    return source[:begin] + text.encode() + source[end:]


def sample(module: str, seed: int, lines: int) -> list[Mutation]:
    """One mutation each of so many lines, all of them drawn by the seed."""
    generator, by_line = random.Random(f"{seed} {module}"), {}
    for mutation in mutations(module):
        by_line.setdefault(mutation.line, []).append(mutation)
    chosen = generator.sample(sorted(by_line), min(lines, len(by_line)))
    return [generator.choice(by_line[line]) for line in sorted(chosen)]


def run_tests(scratch: Path, files: list[str], limit: float | None = None) -> str:
    """The first test that fails, ``timeout``, or nothing."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(scratch, files, sender))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return "timeout"
    return receiver.recv() if receiver.poll() else f"crash (exit {process.exitcode})"


def _child(scratch: Path, files: list[str], sender: multiprocessing.connection.Connection) -> None:
    import hypothesis
    import pytest

    failed = []

    class First:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid.partition("::")[2])

    os.chdir(scratch)
    sys.path.insert(0, str(scratch))
    with (scratch / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # The same examples every time, and no search for the smallest one that fails.
    phases = [phase for phase in hypothesis.Phase if phase not in (hypothesis.Phase.shrink, hypothesis.Phase.explain)]
    hypothesis.settings.register_profile("mutate", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutate")
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*options, *(f"tests/{file}" for file in files)], plugins=[First()])
    sender.send("" if code == 0 else failed[0] if failed else "import")


def check(module: str, chosen: list[Mutation], judged: dict[tuple[str, ...], str]) -> Counter[str]:
    """Run the module's tests on every mutation and print what became of it; how many came to which end."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in ("robbench", "suites", "tests"):
            shutil.copytree(ROOT / name, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, scratch / name)
        began = time.monotonic()
        if failed := run_tests(scratch, TESTS[module]):
            sys.exit(f"{module}: {failed} fails before anything is broken:\n{(scratch / 'output.txt').read_text()}")
        limit = 30 + 4 * (time.monotonic() - began)
        broken = scratch / path_of(module)
        for cached in (broken.parent / "__pycache__").glob(f"{broken.stem}.*"):
            cached.unlink()
        sys.dont_write_bytecode = True  # a broken module's would be taken for the next one's
        for mutation in chosen:
            broken.write_bytes(mutation.source)
            caught = run_tests(scratch, TESTS[module], limit)
            missed = f"equivalent: {judged[mutation.key]}" if mutation.key in judged else "SURVIVED"
            outcome = f"caught by {caught}" if caught else missed
            outcomes[outcome.split()[0].rstrip(":")] += 1
            print(f"{module}.py:{mutation.line} in {mutation.function or 'the module'}: {outcome}")
            print(f"  - {mutation.before}\n  + {mutation.after}", flush=True)
        sys.dont_write_bytecode = False
    return outcomes


def main() -> int:
    """Sample, run and print; 1 when too few are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[[], *TESTS], help="all of them by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, default=12, help="how many of each module")
    parser.add_argument("--list", action="store_true", help="list the mutations and run nothing")
    arguments = parser.parse_args()
    listed = tomllib.loads(EQUIVALENT.read_text())["mutation"] if EQUIVALENT.exists() else []
    judged = {(each["module"], each["function"], each["before"], each["after"]): each["why"] for each in listed}
    chosen = {module: sample(module, arguments.seed, arguments.lines) for module in arguments.modules or TESTS}
    if arguments.list:
        for each in (mutation for drawn in chosen.values() for mutation in drawn):
            print(
                f"{each.module}.py:{each.line} in {each.function or 'the module'}\n  - {each.before}\n  + {each.after}"
            )
        return 0
    for name in ("hypothesis", "pandas", "safetensors.torch", "scipy.stats", "timm", "torch._dynamo", "torch.testing"):
        importlib.import_module(name)  # here, once, rather than after every fork

    totals = {module: check(module, drawn, judged) for module, drawn in chosen.items()}
    totals["all"] = sum(totals.values(), Counter())
    print(f"\nseed {arguments.seed}\n{'module':<26}{'broken':>8}{'equivalent':>12}{'caught':>8}{'share':>8}")
    for module, counts in totals.items():
        real = counts["caught"] + counts["SURVIVED"]
        share = counts["caught"] / real if real else 1.0
        print(f"{module:<26}{counts.total():>8}{counts['equivalent']:>12}{counts['caught']:>8}{share:>8.0%}")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
