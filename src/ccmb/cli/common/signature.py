"""Commands whose flags come from classes of options: each is said once, where it is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any

import typer

from ccmb.cli.common.given import was_given
from ccmb.core.options import Options


def takes(*classes: type[Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose `**given` are the given options of some classes.

    Where classes share a name, the first says how it is shown. In the help the options come before the function's
    keyword-only parameters. The function's first parameter is the context.
    """
    flags: dict[str, Parameter] = {}
    for options in classes:
        flags |= {name: shown for name, shown in _parameters(options).items() if name not in flags}

    def command_of(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        first = [one for one in own if one.kind is not Parameter.KEYWORD_ONLY]
        last = [one for one in own if one.kind is Parameter.KEYWORD_ONLY]
        every = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in (*first, *flags.values(), *last)]

        @wraps(function)
        def command(**values: Any) -> None:
            context = values[first[0].name]
            unused = [name for name in flags if not was_given(context, name)]
            function(**{name: value for name, value in values.items() if name not in unused})

        command.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
        return command

    return command_of


def _parameters(options: type[Options]) -> dict[str, Parameter]:
    """The parameters of options, as Typer reads them."""
    parameters = {}
    for name, (of_type, default, flag) in options.table().items():
        shown = typer.Option(*flag.forms, min=flag.min, help=flag.help, show_default=flag.show_default)
        hint: Any = Annotated[of_type, shown]
        parameters[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
    return parameters
