"""Whether an option was given, whatever its value: one that would do nothing is refused by its name."""

from __future__ import annotations

import typer

from ccmb.core.options import refuse

GIVEN = ("COMMANDLINE", "ENVIRONMENT")  # where click says that a value is from


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the running command was given the option of this parameter of its function."""
    return getattr(context.get_parameter_source(name), "name", "") in GIVEN


def given(context: typer.Context, *names: str) -> list[str]:
    """The flags of the options that the running command was given, as the user writes them.

    Args:
        names: of the command function's parameters.
    """
    flags = {str(parameter.name): _flag(parameter, context.params) for parameter in context.command.params}
    return [flags[name] for name in names if was_given(context, name)]


def refuse_given(context: typer.Context, what_they_are: str, *names: str, instead: str = "leave {} out") -> None:
    """Refuse options that were given: raise a UsageError that names them; see `refuse`."""
    refuse(given(context, *names), what_they_are, instead)


def _flag(parameter: object, values: dict[str, object]) -> str:
    """The longest form of a flag; for a switch the form of its value."""
    plain: list[str] = list(getattr(parameter, "opts", ()))
    off: list[str] = list(getattr(parameter, "secondary_opts", ()))
    forms = off if off and values.get(str(getattr(parameter, "name", ""))) is False else plain
    return max(forms, key=len, default=str(getattr(parameter, "name", "")))


def need_second_stage(context: typer.Context, can_rank: bool, model: str, *names: str) -> None:
    """Refuse options of the second stage that were given, if there is none: raise a UsageError that names them."""
    if not can_rank:
        refuse_given(context, f"of the second stage, which {model} has not (PRD2: no cross encoders)", *names)
