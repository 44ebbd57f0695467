"""The ``delineate`` command: a verb is a file in the ``tasks`` room.

Exit codes: 0 done · 1 something the user can act on · 2 the audit blocks · 3 some cases failed ·
4 the folder is in use · 70 a fault in Delineate · 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import delineate
from delineate.core import catalog, processes
from delineate.core.errors import ConfigError, DelineateError

ABOUT = "Delineate: from a folder of medical images to a model, its figures and its report."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after the program's name; default: those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    tied = processes.TIED in words
    words = [word for word in words if word not in ("--debug", processes.TIED)]
    if tied:  # started by a benchmark
        processes.end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A terminal without Unicode is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        return _run(words)
    except SystemExit as end:  # argparse has printed a help text
        return end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        return 0
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    except Exception as error:
        _complain(str(error) if isinstance(error, DelineateError) else _bug(error))
        if debug:
            traceback.print_exception(error)
        return error.exit_code if isinstance(error, DelineateError) else 70


def verbs() -> dict[str, str]:
    """Every verb and its one line, read from the source without running it.

    A verb is a public file of the ``tasks`` room with a function of the same name.
    """
    folder = Path(importlib.import_module("delineate.tasks").__path__[0])
    found = {}
    for name in catalog.members("tasks"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                text = ast.get_docstring(node) or ""
                found[name.replace("_", "-")] = text.split("\n")[0].rstrip(".")
    return found


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        _print(f"delineate {delineate.__version__}")
        return 0
    verb, name = words[0], words[0].replace("-", "_")
    known = verbs()
    if name.replace("_", "-") not in known:
        from delineate.core.config import nearest

        raise ConfigError(
            f"expected a verb, got {verb!r}", fix=nearest(verb, known), code="unknown-verb"
        )
    from delineate.cli import _arguments, _terminal

    function = getattr(catalog.load("tasks", name), name)
    arguments = _arguments.parse(function, f"delineate {verb}", words[1:])
    terminal = _terminal.Terminal()
    terminal.show(function(**arguments, **_arguments.injected(function, terminal)))
    return 0


def _overview() -> str:
    lines = verbs()
    width = max(map(len, lines), default=0)
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return (
        f"{ABOUT}\n\nusage: delineate VERB [ARGUMENTS]\n\nverbs:\n{listed}\n\n"
        "delineate VERB --help   what a verb takes\n"
        "delineate --version     the version\n"
        "delineate VERB --debug  a full traceback when something fails"
    )


def _print(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}{text}{plain}", file=sys.stderr, flush=True)


def _bug(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error}\n"
        "  -> this is a bug in Delineate; run it again with --debug and report what it prints"
    )
