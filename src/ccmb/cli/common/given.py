"""Whether an option was given, whatever its value: one that would do nothing is refused by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import typer

from ccmb.core.errors import UsageError

GIVEN = ("COMMANDLINE", "ENVIRONMENT")  # where click says that a value is from


def given(context: typer.Context, *names: str) -> list[str]:
    """The flags, as the user writes them, of those of some options that the running command was given.

    Args:
        names: of the command function's parameters.
    """
    flags = {str(of.name): _flag(of, context.params) for of in context.command.params}
    return [flags[name] for name in names if getattr(context.get_parameter_source(name), "name", "") in GIVEN]


def refuse_given(context: typer.Context, what_they_are: str, *names: str, instead: str = "leave {} out") -> None:
    """Raise a UsageError that names those of some options that were given, if one was.

    Args:
        what_they_are: such as "of captions".
        instead: what to do, with a place for "it" or "them".
    """
    refuse(given(context, *names), what_they_are, instead)


def refuse(flags: Iterable[str], what_they_are: str, instead: str = "leave {} out") -> None:
    """Raise a UsageError that names some options, if there is one."""
    flags = list(flags)
    if flags:
        one = len(flags) == 1
        names = flags[0] if one else f"{', '.join(flags[:-1])} and {flags[-1]}"
        raise UsageError(f"{names} {'is' if one else 'are'} {what_they_are}; {instead.format('it' if one else 'them')}")


def _flag(parameter: object, values: dict[str, object]) -> str:
    """The longest form, of a switch the one for its value."""
    plain: list[str] = list(getattr(parameter, "opts", ()))
    off: list[str] = list(getattr(parameter, "secondary_opts", ()))
    forms = off if off and values.get(str(getattr(parameter, "name", ""))) is False else plain
    return max(forms, key=len, default=str(getattr(parameter, "name", "")))


def refuse_unread(context: typer.Context, mode: str, reads: Mapping[str, Collection[str]]) -> None:
    """Raise a UsageError that names the options that were given and that a mode does not read, if there are any.

    Args:
        mode: one of `reads`, in words that follow "of".
        reads: the options of each mode; those of no mode are of all.
    """
    others = {name for names in reads.values() for name in names} - {*reads[mode]}
    for name in sorted(others):
        flags = given(context, name)
        modes = [other for other, names in reads.items() if name in names]
        add = " or ".join(other for other in modes if other.startswith("--"))
        instead = "leave {} out" + (f", or add {add}" if add else "")
        refuse(flags, f"of {' and of '.join(modes)}, and does nothing with {mode}", instead)


def need_second_stage(context: typer.Context, can_rank: bool, model: str, *names: str) -> None:
    """Raise a UsageError that names those of some options of the second stage that were given, if there is none."""
    if not can_rank:
        refuse_given(context, f"of the second stage, which {model} has not (PRD2: no cross encoders)", *names)
