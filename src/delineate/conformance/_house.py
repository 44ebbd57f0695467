"""What a room may touch outside itself, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

#: Things outside the program, and what of a source reaches for them.
OUTSIDE = {
    "the environment": {"os.environ", "os.getenv", "os.putenv"},
    "the network": {
        "urllib", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "ssl", "socket",
    },
    "other processes": {"subprocess", "multiprocessing", "os.fork", "os.system", "pty"},
}  # fmt: skip
#: What no part of a model does: files, clock, screen, code, global random state.
IMPURE = {
    "a file": {
        "open()",
        *(f"{of}.{verb}" for of in ("torch", "np", "numpy") for verb in ("save", "load")),
    },
    "the clock": {"time.time", "datetime.now", "datetime.datetime.now"},
    "the screen": {"print()", "input()", "breakpoint()"},
    "code": {"eval()", "exec()", "pickle", "dill", "joblib"},
    "global random state": {
        "np.random.seed", "numpy.random.seed", "random.seed", "random.random", "torch.manual_seed",
        "torch.seed", "torch.random.manual_seed",
    },
}  # fmt: skip
#: Methods of a path that touch its file.
_OF_PATHS = {"read_text", "write_text", "read_bytes", "write_bytes"}


def text(path: str | Path) -> str:
    """A source."""
    return Path(path).read_text(encoding="utf-8")


def reached(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What a source uses, with lines: modules imported, dotted names, and calls as ``open()``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield f"{node.func.id}()", node.lineno


def is_of(name: str, prefix: str) -> bool:
    """Whether a dotted name is a thing or lies in it."""
    return name == prefix or name.startswith(f"{prefix}.")


def reaches(source: str) -> list[str]:
    """What the source of a part reaches for outside itself, each with its line.

    Args:
        source: Python.
    """
    reached_for = set()
    for name, line in reached(ast.parse(source)):
        rules = {**OUTSIDE, **IMPURE}.items()
        broken = {
            what for what, prefixes in rules if any(is_of(name, prefix) for prefix in prefixes)
        }
        if name.rpartition(".")[2] in _OF_PATHS:
            broken.add("a file")
        reached_for |= {f"{what}: {name}, line {line}" for what in broken}
    return sorted(reached_for)
