"""Exponential moving averages of weights: what they are computed by, and the one of a training's own weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ccmb.training.parallel import shard_like


@torch.no_grad()
def move_average(averages: Sequence[Tensor], latest: Sequence[Tensor], rate: float) -> None:
    """averages = rate * averages + (1 - rate) * latest, for all tensors in one call; sharded ones in one of their own.

    An average that is equal to its latest value stays so, bit for bit.
    """
    update = get_ema_multi_avg_fn(rate)
    for sharded in (False, True):
        pairs = [pair for pair in zip(averages, latest, strict=True) if isinstance(pair[0], DTensor) == sharded]
        if pairs:
            update([average for average, _ in pairs], [value for _, value in pairs], None)


def warmed_up(decay: float, updates: int) -> float:
    """The rate of an average's update number `updates`, from 1 on: min(decay, (1 + updates) / (10 + updates)).

    In the beginning an average forgets faster, for the weights that it starts from are not worth keeping; as in
    TensorFlow's `ExponentialMovingAverage`.
    """
    return min(decay, (1 + updates) / (10 + updates))


class AveragedWeights:
    """The exponential moving average of a module's trained weights, beside the raw ones that the training goes on with.

    Polyak & Juditsky 1992 average all steps alike; the exponential form is that of Mean Teacher (Tarvainen & Valpola
    2017, arXiv 1703.01780). Buffers are not averaged: the latest ones go with either weights.

    Args:
        module: as it is trained, on its device and sharded if it is; the average is sharded likewise.
        decay: rate of the average, in (0, 1), once it has warmed up, see `warmed_up`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._weights.items()}

    def update(self, step: int) -> None:
        """Move the average after an optimiser step; `step` counts from 1."""
        rate = warmed_up(self.decay, step)
        move_average(list(self._averages.values()), list(self._weights.values()), rate)

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the averages where the raw weights are, and these where the averages were, bit for bit."""
        for name, weight in self._weights.items():
            raw = weight.clone()
            weight.copy_(self._averages[name])
            self._averages[name].copy_(raw)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averages within, and its raw weights afterwards."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, by the names of the weights."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load full averages.

        Raises:
            KeyError: one is missing.
            RuntimeError: the shape of one differs.
        """
        for name, average in self._averages.items():
            average.copy_(shard_like(state[name], average))
