"""Options of the command line as a table: a dataclass says of each its type, default, bounds and help, once.

The command line is made from such classes (`ccmb.cli.common.signature`), and what a command was given is read into one:
it knows which of its options were given, whatever their value, so that one that would do nothing is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, NamedTuple, Self, get_args, get_origin, get_type_hints

from ccmb.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Flag:
    """How the command line shows an option.

    Attributes:
        help: what it means.
        min: smallest value of a number.
        forms: as the user writes it; by default `--NAME`.
        show_default: whether the help tells the default besides.
    """

    help: str
    min: float | None = None
    forms: tuple[str, ...] = ()
    show_default: bool = True

    def written(self, name: str, value: object) -> str:
        """The longest form of the flag; for a switch, the form for its value."""
        forms = [form.split("/") for form in self.forms or (f"--{name.replace('_', '-')}",)]
        return max((form[-1] if value is False else form[0] for form in forms), key=len)


class Option(NamedTuple):
    """One option: its type, its default, and how it is shown."""

    type: Any
    default: Any
    flag: Flag


@dataclass(frozen=True, kw_only=True)
class Options:
    """The base of all classes of options.

    Attributes:
        flags_given: the options that the user gave, by name, as they were written; the others have their defaults.
    """

    flags_given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    @cache
    def table(cls) -> dict[str, Option]:
        """The options by name; each is a field `NAME: Annotated[TYPE, Flag(...)] = DEFAULT`."""
        hints = get_type_hints(cls, include_extras=True).items()
        shown = {name: get_args(hint) for name, hint in hints if get_origin(hint) is Annotated}
        return {name: Option(of_type, getattr(cls, name), flag) for name, (of_type, flag) in shown.items()}

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """The options with the given values; values of other options are ignored."""
        own = {name: value for name, value in given.items() if name in cls.table()}
        return cls(**own, flags_given=flags_of(own, [cls]))

    def is_given(self, name: str) -> bool:
        return name in self.flags_given

    def refuse(self, what_they_are: str, *names: str, instead: str = "leave {} out") -> None:
        """Raise a UsageError that names the given ones of some options, if there are any; see the function `refuse`."""
        refuse((self.flags_given[name] for name in names if self.is_given(name)), what_they_are, instead)

    def need_second_stage(self, can_rank: bool, model: str, *names: str) -> None:
        """Refuse options of the second stage if the model has no second stage."""
        if not can_rank:
            self.refuse(f"of the second stage, which {model} has not (PRD2: no cross encoders)", *names)


def flags_of(given: Mapping[str, Any], classes: Iterable[type[Options]]) -> dict[str, str]:
    """The flags of the given options as they were written, by the names of the options."""
    flags = {name: option.flag for one in classes for name, option in one.table().items()}
    return {name: flags[name].written(name, value) for name, value in given.items()}


def refuse(flags: Iterable[str], what_they_are: str, instead: str = "leave {} out") -> None:
    """Raise a UsageError that names the given flags, if there are any.

    Args:
        what_they_are: such as "of captions".
        instead: what to do, with a place for "it" or "them".
    """
    flags = list(flags)
    if flags:
        one = len(flags) == 1
        names = flags[0] if one else f"{', '.join(flags[:-1])} and {flags[-1]}"
        raise UsageError(f"{names} {'is' if one else 'are'} {what_they_are}; {instead.format('it' if one else 'them')}")


def refuse_unread(given: Mapping[str, str], mode: str, reads: Mapping[str, Collection[str]]) -> None:
    """Raise a UsageError that names the first given option that a mode does not read, if there is one.

    Args:
        given: the options' flags by their names.
        mode: one of `reads`, in words that follow "of".
        reads: the options of each mode; those of no mode are of all.
    """
    for name in sorted({name for names in reads.values() for name in names} - {*reads[mode]}):
        modes = [other for other, names in reads.items() if name in names]
        add = " or ".join(other for other in modes if other.startswith("--"))
        instead = "leave {} out" + (f", or add {add}" if add else "")
        refuse(
            [given[name]] if name in given else (),
            f"of {' and of '.join(modes)}, and does nothing with {mode}",
            instead,
        )
