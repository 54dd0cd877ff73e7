"""Low-rank adapters on the layers of a tower (LoRA, Hu et al. 2021, arXiv 2106.09685), by peft.

An adapted layer with the weight W computes with W + alpha / rank * B A, of which A and B are trained. B begins at zero,
so that a network with new adapters computes what it did before. Merged, the sum is an ordinary weight again, and the
network an ordinary one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from ccmb.core.errors import UsageError, did_you_mean
from ccmb.r2d2.towers.stillness import layers_of

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Adapters:
    """What adapters are like, and where they are.

    Attributes:
        rank: of B A.
        alpha: the product is scaled by alpha / rank.
        dropout: of what goes into A, in [0, 1).
        targets: ALL_LINEAR for all linear modules of the layers, or the ends of the names of linear modules and
            convolutions, such as "query".
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: str | Sequence[str] = ALL_LINEAR


def check_peft() -> None:
    """Refuse adapters where peft is not installed.

    Raises:
        UsageError: it is not.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UsageError("model.lora needs peft; install it with pip install 'ccmb[lora]'") from None


def add_adapters(tower: nn.Module, adapters: Adapters, name: str, frozen: int = 0) -> None:
    """Put adapters on the layers of a tower, in place; all of its own weights are frozen.

    Args:
        name: of the tower, for messages.
        frozen: lowest layers that get no adapters.

    Raises:
        UsageError: peft is not installed, or there is nothing to adapt.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    names = _targets(tower, adapters.targets, name, frozen)
    tower.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=adapters.rank,
            lora_alpha=cast(Any, adapters.alpha),  # declared a whole number, and only divided
            lora_dropout=adapters.dropout,
            target_modules=names,
            bias="none",
        ),
        tower,
    )
    for parameter_name, parameter in tower.named_parameters():
        parameter.requires_grad_(".lora_" in parameter_name)


def _targets(tower: nn.Module, targets: str | Sequence[str], name: str, frozen: int) -> list[str]:
    """The names of the modules of a tower that get adapters."""
    within = {id(module) for layer in layers_of(tower)[frozen:] for part in layer for module in part.modules()}
    # Of subclasses it is not known that they compute with their weights as their base does.
    plain = {
        path: module
        for path, module in tower.named_modules()
        if id(module) in within and type(module) in (nn.Linear, nn.Conv2d)
    }
    if targets == ALL_LINEAR:
        names = [path for path, module in plain.items() if isinstance(module, nn.Linear)]
    else:
        names = [path for path in plain if path.endswith(tuple(targets)) and _ends(path, targets)]
    ends = list(dict.fromkeys(path.rpartition(".")[2] for path in plain if not _is_grouped(plain[path])))
    if not names:
        given = targets if isinstance(targets, str) else ", ".join(targets)
        hint = did_you_mean(targets[0], ends) if not isinstance(targets, str) else ""
        fix = f"name some of {', '.join(ends)}" if ends else f"name the other tower in model.lora.towers, not {name}"
        raise UsageError(f"model.lora.targets={given}: the layers of the {name} tower have none{hint}; {fix}")
    if grouped := [path for path in names if _is_grouped(plain[path])]:
        raise UsageError(f"model.lora.targets: {grouped[0]} of the {name} tower is a grouped convolution; leave it out")
    return names


def _ends(path: str, targets: str | Sequence[str]) -> bool:
    return any(path == end or path.endswith(f".{end}") for end in targets)


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def merge_adapters(model: nn.Module) -> None:
    """Merge all adapters into the weights that they adapt, in place; all ranks take part.

    The network is then of ordinary modules, under the names that it had before.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted: list[tuple[str, Any]] = [
        (path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    ]
    for path, module in adapted:
        module.merge()
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.get_base_layer())
    for part in model.modules():
        if hasattr(part, "peft_config"):
            del part.peft_config
