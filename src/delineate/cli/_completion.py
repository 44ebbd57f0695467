"""Tab completion: a script for bash, zsh or fish that knows every verb, option and choice.

The words are written into the script, so that a Tab waits for nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from delineate.cli import _arguments
from delineate.core.config import nearest
from delineate.core.errors import ConfigError

#: How each shell is told; the words of the README.
SHELLS = {
    "bash": 'eval "$(delineate completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(delineate completion zsh)"       # in ~/.zshrc',
    "fish": "delineate completion fish | source      # in ~/.config/fish/config.fish",
}
_BASH = """\
_delineate() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={verbs}
  else
    case "${{COMP_WORDS[1]}} $before" in
{choices}
    esac
    if [ -z "$words" ] && [ "${{word#-}}" != "$word" ]; then
      case "${{COMP_WORDS[1]}}" in
{options}
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -o bashdefault -F _delineate delineate
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def script(shell: str, verbs: dict[str, Callable[..., Any]], everywhere: dict[str, str]) -> str:
    """The script that a shell reads.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        verbs: The task of every verb.
        everywhere: Options of every verb, with their help.

    Raises:
        ConfigError: Another shell.
    """
    if shell not in SHELLS:
        raise ConfigError(
            f"expected bash, zsh or fish, got {shell!r}",
            where="delineate completion",
            fix=nearest(shell, SHELLS),
            code="usage",
        )
    known = {verb: _arguments.options(function) for verb, function in verbs.items()}
    if shell == "fish":
        return _fish(known, everywhere)
    return (_ZSH if shell == "zsh" else "") + _bash(known, everywhere)


def _bash(known: dict[str, list[_arguments.Option]], everywhere: dict[str, str]) -> str:
    flags = {verb: [option.flag for option in options] for verb, options in known.items()}
    return _BASH.format(
        verbs=shlex.quote(" ".join(known)),
        options="\n".join(
            f"        {verb}) words={shlex.quote(' '.join([*flags_of_verb, *everywhere]))} ;;"
            for verb, flags_of_verb in flags.items()
        ),
        choices="\n".join(
            f'      "{verb} {option.flag}") words={shlex.quote(" ".join(option.choices))} ;;'
            for verb, options in known.items()
            for option in options
            if option.choices
        ),
    )


def _fish(known: dict[str, list[_arguments.Option]], everywhere: dict[str, str]) -> str:
    lines = [
        f"complete -c delineate -n __fish_use_subcommand -f -a {shlex.quote(' '.join(known))}",
        *(f"complete -c delineate -l {flag[2:]} -d {_text(h)}" for flag, h in everywhere.items()),
    ]
    for verb, options in known.items():
        for option in options:
            values = f" -x -a {shlex.quote(' '.join(option.choices))}" if option.choices else ""
            if not option.choices and option.takes_value:
                values = " -r"
            lines.append(
                f"complete -c delineate -n '__fish_seen_subcommand_from {verb}' "
                f"-l {option.flag[2:]} -d {_text(option.help)}{values}"
            )
    return "\n".join(lines) + "\n"


def _text(help_text: str) -> str:
    first = help_text.split(". ")[0].split("; ")[0].rstrip(".")
    return shlex.quote(first.replace("``", ""))
