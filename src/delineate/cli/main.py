"""The ``delineate`` command: a verb is a file in the ``tasks`` room.

Exit codes: 0 done · 1 something the user can act on · 2 the audit blocks · 3 some cases failed ·
4 the folder is in use · 70 a fault in Delineate · 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import delineate
from delineate.core import catalog, processes, threads
from delineate.core.errors import ConfigError, DelineateError

#: Options of every verb.
EVERYWHERE = {
    "--debug": "a full traceback when something fails",
    "--json": "the answer as one JSON document on standard output, errors too",
    "--quiet": "no lines, no bars and no answer: errors alone",
}
ABOUT = "Delineate: from a folder of medical images to a model, its figures and its report."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after the program's name; default: those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options_given = {word for word in words if word in (*EVERYWHERE, processes.TIED)}
    words = [word for word in words if word not in options_given]
    debug, as_json, quiet = (option in options_given for option in EVERYWHERE)
    if processes.TIED in options_given:  # started by a benchmark
        processes.end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A terminal without Unicode is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        return _run(words, as_json, quiet)
    except SystemExit as end:  # argparse has printed a help text
        return end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        return 0
    except KeyboardInterrupt:
        code = _fail("stopped", 130, {"code": "stopped", "message": "stopped"}, as_json)
        return threads.leave(code)
    except DelineateError as error:
        if debug:
            traceback.print_exception(error)
        return _fault(error, as_json)
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        if fault := catalog.fault(error):
            return _fault(fault, as_json)
        return _fail(_bug(error), 70, {"code": "bug", "message": repr(error)}, as_json)


def verbs() -> dict[str, str]:
    """Every verb and its one line, read from the source without running it.

    A verb is a public file of the ``tasks`` room with a function of the same name.
    """
    folder = Path(importlib.import_module("delineate.tasks").__path__[0])
    lines = {}
    for name in catalog.members("tasks"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                text = ast.get_docstring(node) or ""
                lines[name.replace("_", "-")] = text.split("\n")[0].rstrip(".")
    return lines


def _run(words: list[str], as_json: bool, quiet: bool) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        _print(f"delineate {delineate.__version__}")
        return 0
    if words[0] == "completion":
        _print(_completion(words[1:]))
        return 0
    verb, name = words[0], words[0].replace("-", "_")
    known = verbs()
    if name.replace("_", "-") not in known:
        from delineate.core.config import nearest

        raise ConfigError(
            f"expected a verb, got {verb!r}", fix=nearest(verb, known), code="unknown-verb"
        )
    from delineate.cli import _arguments, _terminal

    function = _task(name)
    arguments = _arguments.parse(function, f"delineate {verb}", words[1:])
    terminal = _terminal.Terminal(quiet=quiet)
    result = function(**arguments, **_arguments.injected(function, terminal))
    if as_json:
        _print(_terminal.as_json(result))
    elif not quiet and not getattr(catalog.load("tasks", name), "SAYS_RESULT", False):
        terminal.show(result)
    return 0


def _task(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(catalog.load("tasks", name), name)
    return function


def _completion(words: list[str]) -> str:
    from delineate.cli import _completion

    if len(words) != 1:
        raise ConfigError(
            "expected the name of a shell: bash, zsh or fish",
            where="delineate completion",
            fix=_completion.SHELLS["bash"],
            code="usage",
        )
    tasks = {verb: _task(verb.replace("-", "_")) for verb in verbs()}
    return _completion.script(words[0], tasks, EVERYWHERE)


def _overview() -> str:
    lines = verbs()
    width = max(map(len, lines), default=0)
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return (
        f"{ABOUT}\n\nusage: delineate VERB [ARGUMENTS]\n\nverbs:\n{listed}\n\n"
        "delineate VERB --help   what a verb takes\n"
        "delineate --version     the version\n"
        "delineate completion    Tab completion for bash, zsh or fish\n\nwith every verb:\n"
        + "\n".join(f"  {option:<{width}}  {meaning}" for option, meaning in EVERYWHERE.items())
    )


def _print(text: str) -> None:
    print(text, flush=True)


def _fault(error: DelineateError, as_json: bool) -> int:
    """Say an error that the user can act on; the exit code."""
    facts = {k: getattr(error, k) for k in ("code", "message", "where", "fix")}
    return _fail(str(error), error.exit_code, facts, as_json)


def _fail(text: str, code: int, facts: dict[str, Any], as_json: bool) -> int:
    """Say what went wrong; the exit code."""
    red, reset = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}{text}{reset}", file=sys.stderr, flush=True)
    if as_json:
        _print(json.dumps({"error": {**facts, "exit_code": code}}, indent=1))
    return code


def _bug(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error}\n"
        "  -> this is a bug in Delineate; run it again with --debug and report what it prints"
    )
