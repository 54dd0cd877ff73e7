"""torch.compile of a network's layers one by one: a layer compiles in seconds, and layers of one kind share the result.

Names of parameters do not change, so checkpoints fit the network compiled or not.
"""

from __future__ import annotations

import torch
from torch import nn

from ccmb.r2d2.cross_encoder import CrossLayer


def compile_blocks(module: nn.Module) -> int:
    """Compile all layers that stand in a ModuleList, in place, and return how many there are."""
    stacks = [stack for stack in module.modules() if isinstance(stack, nn.ModuleList)]
    layers = {layer for stack in stacks for layer in stack}
    for layer in layers:
        if isinstance(layer, CrossLayer):  # it is used by its two halves
            layer.attend_self = torch.compile(layer.attend_self)  # type: ignore[method-assign]
            layer.attend_other = torch.compile(layer.attend_other)  # type: ignore[method-assign]
        else:
            layer.compile()
    return len(layers)
