"""What of a tower is not trained: layers that are frozen, and batch norm that keeps to the statistics it has.

A frozen layer has no gradients, and computes as in evaluation: without dropout, its batch norm with running statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ccmb.core.errors import UsageError

Frozen = Literal["all"] | int  # the whole tower, or its lowest layers


def is_frozen(module: nn.Module) -> bool:
    """Whether none of its parameters is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def keep_still(tower: nn.Module, batch_norm: bool) -> None:
    """Put what is frozen of a tower into evaluation mode; with `batch_norm` all of its batch norm too."""
    for module in tower.modules():
        holds = next(module.parameters(), None) is not None
        if (batch_norm and isinstance(module, _BatchNorm)) or (holds and is_frozen(module)):
            module.eval()


def has_batch_norm(module: nn.Module) -> bool:
    """Whether batch norm is part of it."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def layers_of(tower: nn.Module) -> list[list[nn.Module]]:
    """A tower's layers from the lowest up, each as the modules it is made of: blocks of a transformer or of a
    convolutional network, or stages where the backbone keeps its blocks in stages.

    They are the outermost list of modules, the largest if there are several; lists of equal length are parts of the
    same layers, such as the patch embeddings and the blocks of each stage.
    """
    stacks = list(_outermost_lists(tower))
    if not stacks:
        return []
    largest = max(stacks, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters()))
    return [list(layer) for layer in zip(*(stack for stack in stacks if len(stack) == len(largest)), strict=True)]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)


def freeze(tower: nn.Module, frozen: Frozen, name: str) -> None:
    """Freeze a tower, or its lowest layers with all that stands before them.

    Args:
        frozen: "all", or N of its layers, see `layers_of`.
        name: of the tower, for messages.

    Raises:
        UsageError: it has fewer layers.
    """
    if frozen == "all":
        tower.requires_grad_(False)
        return
    layers = layers_of(tower)
    if not 0 < frozen <= len(layers):
        raise UsageError(
            f"model.freeze.{name}={frozen}: the {name} tower has {len(layers)} layers; give all"
            + (f", or 1 to {len(layers)}" if layers else "")
        )
    for parameter in chain.from_iterable(parameters_by_depth(tower)[: frozen + 1]):
        parameter.requires_grad_(False)


def parameters_by_depth(tower: nn.Module) -> list[list[nn.Parameter]]:
    """A tower's parameters: those before all layers, those of each of the L layers from the lowest up, and the others.

    What is registered before the first layer stands before all layers; there are L + 2 lists. All is "before" in a
    tower without layers.
    """
    layers = layers_of(tower)
    depth_of: dict[nn.Parameter, int] = {}
    for depth, layer in enumerate(layers, start=1):
        for parameter in chain.from_iterable(part.parameters() for part in layer):
            depth_of.setdefault(parameter, depth)
    by_depth: list[list[nn.Parameter]] = [[] for _ in range(len(layers) + 2)]
    outside = 0
    for parameter in tower.parameters():
        if parameter in depth_of:
            outside = len(layers) + 1
        by_depth[depth_of.get(parameter, outside)].append(parameter)
    return by_depth


def frozen_depth(tower: nn.Module) -> Frozen | None:
    """How much of a tower is frozen from its input on: all, so many of its lowest layers, or None."""
    if is_frozen(tower):
        return "all"
    by_depth = parameters_by_depth(tower)
    trained = [any(parameter.requires_grad for parameter in parameters) for parameters in by_depth]
    return next((count for count in range(len(by_depth) - 2, 0, -1) if not any(trained[: count + 1])), None)


def frozen_tensors(tower: nn.Module) -> dict[str, Tensor]:
    """What is frozen of a tower, by name: weights, and the buffers of modules whose weights are all frozen."""
    tensors: dict[str, Tensor] = {name: p.detach() for name, p in tower.named_parameters() if not p.requires_grad}
    for name, module in tower.named_modules():
        if next(module.parameters(), None) is not None and is_frozen(module):
            tensors |= {f"{name}.{inner}": buffer for inner, buffer in module.named_buffers()}
    return tensors


def in_words(tower: nn.Module, frozen: Frozen) -> str:
    """What `freeze` freezes of a tower, for people."""
    return "all" if frozen == "all" else f"the lowest {frozen} of {len(layers_of(tower))} layers"
