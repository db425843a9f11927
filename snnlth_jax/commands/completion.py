"""`snnlth completion`: a script that completes commands, flags and values in a shell."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tyro

from snnlth_jax.commands.fields import flags, is_positional, names

__all__ = ["SHELLS", "Completion", "script"]

SHELLS = ("bash", "zsh")
_SCRIPT = """\
_snnlth() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  local command="${{COMP_WORDS[1]}}"
  [ "$before" = "=" ] && before="${{COMP_WORDS[COMP_CWORD-2]}}"
  [ "$cur" = "=" ] && cur=""
  case " {groups} " in *" $command "*)
    [ "$COMP_CWORD" -gt 2 ] && command="$command ${{COMP_WORDS[2]}}" ;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands} help --help --version"
  else case "$command" in
{cases}
  esac fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _snnlth snnlth
"""


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, flags and names: `source <(snnlth completion bash)`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]


def script(shell: str, commands: Mapping[str, type[Any]], common: Sequence[str]) -> str:
    """The script for a shell, to be read by it: `source <(snnlth completion bash)`.

    Args:
      shell: one of `SHELLS`.
      commands: dataclass of each command, by its name of one word or two.
      common: flags that all commands have.
    """
    first = list(dict.fromkeys(name.split()[0] for name in commands))
    groups = list(dict.fromkeys(name.split()[0] for name in commands if " " in name))
    cases = []
    for group in groups:
        second = " ".join(name.split()[1] for name in commands if name.split()[0] == group)
        cases.append(f'    {group}) words="{second}" ;;')
    cases.append(f'    help) words="{" ".join(first)}" ;;')
    for name, command in commands.items():
        pattern = name.replace(" ", "\\ ")
        values = [
            f'{"|".join(flags(field)[:1])}) words="{" ".join(choices)}" ;;'
            for field in dataclasses.fields(command)
            if not is_positional(field) and (choices := names(command, field.name))
        ]
        plain = " ".join(
            word
            for field in dataclasses.fields(command)
            for word in (names(command, field.name) if is_positional(field) else flags(field))
        )
        every = f'words="{plain} {" ".join(common)}"'
        inner = f'case "$before" in {" ".join(values)} *) {every} ;; esac' if values else every
        cases.append(f"    {pattern}) {inner} ;;")
    text = _SCRIPT.format(groups=" ".join(groups), commands=" ".join(first), cases="\n".join(cases))
    return "autoload -U +X bashcompinit && bashcompinit\n" * (shell == "zsh") + text
