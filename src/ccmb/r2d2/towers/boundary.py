"""Taking a tower up in the middle, from the states that its frozen lower layers have computed before.

Nothing is known of the kind of tower: its modules are watched while it reads one item. To take it up, what was called
of the lower layers gives tensors of the shapes that were seen, without computing them, and what was called last gives
the states; all else runs as ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ccmb.r2d2.towers.stillness import layers_of

CLOSE = 1e-3  # how far the outputs of both ways may differ, as a share of the greatest: a wrong way differs by far more


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor that a module gave for one item: its shape, and whether that was the shape of what went in."""

    shape: tuple[int, ...]
    as_input: bool


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a module of the lower layers: its name in the tower, items that went in, and the form of its output."""

    name: str
    items: int
    output: Any


@dataclass(frozen=True, slots=True)
class Boundary:
    """The border between the lowest layers of a tower, which are frozen, and all that comes after.

    Attributes:
        calls: of modules of the lowest layers for one item, in order; the last gives the states.
    """

    calls: tuple[_Call, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item's states; of a text that of the one that was watched."""
        return _first(self.calls[-1].output, _Seen).shape


class _Reached(Exception):
    """The boundary was reached, with these states."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def find_boundary(
    tower: nn.Module, count: int, one: dict[str, Any], several: dict[str, Any], stand_in: dict[str, Any]
) -> Boundary | None:
    """The boundary above a tower's lowest layers; None if it cannot be taken up there.

    The tower must be in evaluation mode.

    Args:
        count: number of layers, see `layers_of`.
        one: arguments of the tower for one item, which is watched.
        several: arguments for several items of another kind, for which both ways must come to the same.
        stand_in: the arguments that the tower is taken up with in place of `several`.
    """
    calls = _watch(tower, count, lambda: tower(**one))
    if not calls or any(_first(call.output, _Seen) is None for call in calls):
        return None
    boundary = Boundary(tuple(calls))
    try:
        states = lower_states(tower, boundary, lambda: tower(**several))
        whole = tower(**several)
        with taken_up(tower, boundary, states):
            resumed = tower(**stand_in)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
    ):  # whatever comes of shapes that do not fit
        return None
    names = "last_hidden_state", "pooler_output"
    pairs = [(getattr(whole, name, None), getattr(resumed, name, None)) for name in names]
    same = all(_same(first, second) for first, second in pairs if isinstance(first, Tensor))
    return boundary if same else None


def lower_states(tower: nn.Module, boundary: Boundary, run: Callable[[], object]) -> Tensor:
    """The states at the boundary; what comes after is not computed.

    Args:
        run: calls the tower.
    """
    last = boundary.calls[-1].name
    left = sum(call.name == last for call in boundary.calls)

    def stop(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Reached(_first(output, Tensor))

    module = tower.get_submodule(last)
    with _changed([module], _compiled_call_impl=None):  # compiled, a module does not stop
        handle = module.register_forward_hook(stop)
        try:
            run()
        except _Reached as reached:
            return reached.states
        finally:
            handle.remove()
    raise RuntimeError(f"{last} was not called as often as before")


@contextmanager
def taken_up(tower: nn.Module, boundary: Boundary, states: Tensor) -> Iterator[None]:
    """Within the context, calls of the tower begin with these states at the boundary.

    What the tower is called with decides on shapes and masks alone. One call is meant; another begins anew.
    """
    given: dict[str, deque[Callable[..., Any]]] = {}
    for call in boundary.calls:
        last = call is boundary.calls[-1]
        given.setdefault(call.name, deque()).append(partial(_stand_in, call, states if last else None))
    with ExitStack() as stack:
        for name, calls in given.items():
            forward = partial(_next_of, calls)
            stack.enter_context(_changed([tower.get_submodule(name)], forward=forward, _compiled_call_impl=None))
        yield


@contextmanager
def _changed(modules: Iterable[nn.Module], **values: Any) -> Iterator[None]:
    """Within the context, modules have other values of attributes."""
    before = [(module, {key: module.__dict__[key] for key in values if key in module.__dict__}) for module in modules]
    try:
        for module, _ in before:
            module.__dict__.update(values)
        yield
    finally:
        for module, own in before:
            for key in values:
                del module.__dict__[key]
            module.__dict__.update(own)


def _watch(tower: nn.Module, count: int, run: Callable[[], object]) -> list[_Call]:
    """The calls of the lowest layers' modules; none if a higher layer is called between them."""
    names = {module: name for name, module in tower.named_modules()}
    calls, above = list[_Call](), False
    interleaved = False

    def saw(is_lower: bool, module: nn.Module, given: Any, named: dict[str, Any], output: Any) -> None:
        nonlocal above, interleaved
        if not is_lower:
            above = True
            return
        interleaved |= above
        entered = _first((given, named), Tensor)
        shape = () if entered is None else tuple(entered.shape)
        calls.append(_Call(names[module], shape[0] if shape else 1, _form(output, shape)))

    parts = [
        (part, number < count)
        for number, layer in enumerate(layers_of(tower))
        for module in layer
        for part in _callable_parts(module)
    ]
    with _changed([part for part, _ in parts], _compiled_call_impl=None):
        handles = [part.register_forward_hook(partial(saw, is_lower), with_kwargs=True) for part, is_lower in parts]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
    return [] if interleaved else calls


def _callable_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or those of a list of modules, which is none that is called."""
    if isinstance(module, nn.ModuleList):
        for child in module:
            yield from _callable_parts(child)
    else:
        yield module


def _next_of(given: deque[Callable[..., Any]], *arguments: Any, **named: Any) -> Any:
    given.rotate(-1)
    return given[-1](*arguments, **named)


def _stand_in(call: _Call, states: Tensor | None, *arguments: Any, **named: Any) -> Any:
    """What a call of a lower layer gives without computing: the states, or empty tensors of the shapes seen."""
    entered = _first((arguments, named), Tensor)
    times = 1 if entered is None else entered.shape[0] // call.items
    left = [] if states is None else [states]

    def tensor(seen: _Seen) -> Tensor:
        if left:
            return left.pop()
        if seen.as_input and entered is not None:
            return entered
        blank = torch.zeros((), device=None if entered is None else entered.device)
        return blank.expand(seen.shape[0] * times, *seen.shape[1:])

    return _mapped(call.output, _Seen, tensor)


def _form(output: Any, entered: tuple[int, ...]) -> Any:
    return _mapped(output, Tensor, lambda tensor: _Seen(tuple(tensor.shape), tuple(tensor.shape) == entered))


def _mapped(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The nested value with the function applied to everything of a kind, in order."""
    if isinstance(value, kind):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(item, kind, function) for item in value)
    return value


def _first(value: Any, kind: type) -> Any:
    """The first thing of a kind in a nested value, or None."""
    if isinstance(value, kind):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((inner for part in parts if (inner := _first(part, kind)) is not None), None)


def _same(whole: Tensor, resumed: Any) -> bool:
    if not isinstance(resumed, Tensor) or resumed.shape != whole.shape:
        return False
    return bool((whole - resumed).abs().max() <= CLOSE * whole.abs().max())
