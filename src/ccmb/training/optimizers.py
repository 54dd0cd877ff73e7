"""Optimisers: AdamW, or Muon for matrices and AdamW for other weights; and the schedule of learning rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ccmb.training.parallel import put_together, shard_like
from ccmb.training.recipe import OptimizerRecipe


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with a peak learning rate, and the share of the training after which they start to learn."""

    parameters: list[nn.Parameter]
    lr: float
    start: float = 0.0


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose step for each matrix is made orthogonal, so that all directions move equally far.

    Of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the factor 0.2 * sqrt(longer side) that
    gives a step the size of an AdamW step (Liu et al. 2025, arXiv 2502.16982). A convolution counts as a matrix
    (out, in * height * width).

    torch.optim.Muon does the same, but for two-dimensional weights alone, one at a time and always in bfloat16, which
    processors without bfloat16 units compute many times slower.

    Args:
        params: weights of two or more dimensions that are not lookup tables, or groups of them.
        bf16: make the steps of float32 weights orthogonal in bfloat16, which is enough for them (Jordan et al.).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        bf16: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.bf16 = bf16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # Matrices of one shape are made orthogonal together: a small network has many small ones.
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                matrix = put_together(parameter.grad.lerp(average, group["momentum"])).flatten(
                    1
                )  # Nesterov's look ahead
                alike[matrix.shape].append((parameter, matrix))
            for shape, pairs in alike.items():
                matrices = torch.stack([matrix for _, matrix in pairs])
                half = self.bf16 and matrices.dtype == torch.float32
                steps = orthogonalise(matrices.bfloat16() if half else matrices).to(matrices.dtype)
                size = group["lr"] * 0.2 * math.sqrt(max(shape))
                for (parameter, _), step in zip(pairs, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(shard_like(step.view(parameter.shape), parameter), alpha=-size)


def orthogonalise(matrices_NRC: Tensor, iterations: int = 5) -> Tensor:
    """Nearly U V^T of each matrix U S V^T, by Newton-Schulz with the coefficients of Jordan et al.

    They leave singular values between about 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    groups: Iterable[ParameterGroup], options: OptimizerRecipe, module: nn.Module, bf16: bool = False
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters; with `options.muon_lr_scale`, Muon for matrices and AdamW for the others.

    Lookup tables do not count as matrices of Muon. Weight decay is on matrices only, unless `options` give biases or
    other vectors and scalars a decay of their own. Each group of the optimisers has `peak` and `start`, which
    `set_learning_rates` reads. With `bf16` Muon computes its steps in it.
    """
    tables = {layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding)}
    biases = (
        _biases(module)
        if options.bias_lr_scale != 1 or options.bias_weight_decay != options.vector_weight_decay
        else set()
    )
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []

    def add(to: list[dict[str, Any]], parameters: list[nn.Parameter], lr: float, decay: float, start: float) -> None:
        if parameters:
            to.append({"params": parameters, "weight_decay": decay, "peak": lr, "lr": lr, "start": start})

    for group in groups:
        trained = [p for p in group.parameters if p.requires_grad]
        wide = [p for p in trained if p.dim() > 1]
        matrices = [p for p in wide if p not in tables] if options.muon_lr_scale else []
        decay = options.weight_decay
        add(adamw, [p for p in wide if not options.muon_lr_scale or p in tables], group.lr, decay, group.start)
        vectors = [p for p in trained if p.dim() == 1 and p not in biases]
        add(adamw, vectors, group.lr, options.vector_weight_decay, group.start)
        own = [p for p in trained if p in biases]
        add(adamw, own, group.lr * options.bias_lr_scale, options.bias_weight_decay, group.start)
        # Scalars are never sharded, and an optimiser takes no sharded and whole weights together.
        add(adamw, [p for p in trained if p.dim() == 0], group.lr, options.vector_weight_decay, group.start)
        add(muon, matrices, group.lr * (options.muon_lr_scale or 1.0), decay, group.start)
    made: list[torch.optim.Optimizer] = []
    if adamw:
        made.append(torch.optim.AdamW(adamw, betas=options.betas, fused=True))
    if muon:
        made.append(Muon(muon, bf16=bf16))
    return made


def _biases(module: nn.Module) -> set[nn.Parameter]:
    return {weight for name, weight in module.named_parameters() if name.endswith("bias") and weight.dim() == 1}


def set_learning_rates(
    optimizers: Iterable[torch.optim.Optimizer], step: int, steps: int, options: OptimizerRecipe
) -> None:
    """Set the learning rate of every group for this step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * lr_factor(step, steps, group["start"], options)


def lr_factor(step: int, steps: int, start: float, options: OptimizerRecipe) -> float:
    """A group's learning rate as a share of its peak, counted from the group's own start; 0 before it.

    Linear warm-up, then a cosine to `min_lr_factor`, smooth or in stages; or triangles between `min_lr_factor` and the
    peak. A warm-up from 0 is one step ahead, so that the first step moves the weights; one from `warmup_start_factor`
    is not.
    """
    begin = round(start * steps)
    if step < begin:
        return 0.0
    done, total, rise = step - begin, max(1, steps - begin), max(1, options.warmup_steps)
    if options.schedule == "triangular":
        return options.min_lr_factor + (1 - options.min_lr_factor) * (1 - abs(done / rise % 2 - 1))
    risen = done if options.warmup_start_factor else done + 1
    warm = options.warmup_start_factor + (1 - options.warmup_start_factor) * min(1.0, risen / rise)
    if options.lr_decay_stages:
        done, total = done * options.lr_decay_stages // total, options.lr_decay_stages
    cosine = (1 + math.cos(math.pi * done / total)) / 2
    return warm * (options.min_lr_factor + (1 - options.min_lr_factor) * cosine)
