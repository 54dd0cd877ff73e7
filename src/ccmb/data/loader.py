"""Batches in an order that depends on the seed and the step alone, so that a run resumes exactly.

Nothing here remembers a position: the batch of step n can be made without those before it.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ccmb.core.errors import CcmbError
from ccmb.data.batch_plan import Plan
from ccmb.data.images.source import ImageSource, UnreadableImageError
from ccmb.data.images.transforms import Augmentation, augment, fixed_view, speaks_of_sides, square
from ccmb.data.languages import weighted_order
from ccmb.data.sample import Sample
from ccmb.data.states.images import StoredImages


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """Chooses the text field of a step's batch, evenly among the fields that have joined.

    Attributes:
        joins: the step at which each field joins; one of them is 0.
        seed: for the random choice.
    """

    joins: tuple[int, ...]
    seed: int

    def __call__(self, step: int, row: int = 0, turn: int = 0) -> int:
        joined = [field for field, join in enumerate(self.joins) if step >= join]
        return random.Random(f"{self.seed}/field/{step}").choice(joined)


# A time (such as the epoch), a sample's index, a text field or None for all, and which of several texts it is; by
# default the first.
Key = tuple[int, int, int | None] | tuple[int, int, int | None, int]


class TrainingSet(Dataset[tuple[np.ndarray | bytes, str, int] | str]):
    """Samples by key: augmented pixels, one of the texts, and the sample's index.

    If the image cannot be read, the item is a line with its name and the reason. A sample without a text in the field
    gives a text of another field.

    Args:
        alike: whether all samples of an image are augmented alike within an epoch. Then a batch that holds the image
            several times needs to store and encode it only once.
        spread: whether the texts that a sample comes with are of different fields, as of different languages.
        stored: whose keys the items hold in place of pixels; the images are not opened then.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        images: ImageSource,
        size: int,
        augmentation: Augmentation,
        seed: int,
        weights: Sequence[float] | None = None,
        alike: bool = False,
        spread: bool = False,
        stored: StoredImages | None = None,
    ) -> None:
        self.stored = stored
        self.samples, self.images, self.size = samples, images, size
        self.augmentation, self.seed, self.weights, self.alike = augmentation, seed, weights, alike
        self.spread = spread
        # Texts that speak of left or right. Those of near-duplicates count too: in a batch they are the image's
        # positives and negatives.
        self._sided = {_kin(sample) for sample in samples if any(map(speaks_of_sides, sample.texts))}

    def may_mirror(self, sample: Sample) -> bool:
        """Whether no text of the sample's image, nor of its near-duplicates, speaks of left or right."""
        return _kin(sample) not in self._sided

    def __getitem__(self, key: Key) -> tuple[np.ndarray | bytes, str, int] | str:
        epoch, index, field, *turn = key
        sample = self.samples[index]
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        text = choose_text(sample, rng, field, self.weights, *turn, spread=self.spread)
        if self.alike:
            rng = random.Random(f"{self.seed}/{epoch}/{sample.image}")
        view = rng.randrange(self.augmentation.num_views) if self.augmentation.num_views else 0
        if self.stored is not None:
            key_or_reason = self.stored.key(sample.image, view, self.may_mirror(sample))
            return key_or_reason if isinstance(key_or_reason, str) else (key_or_reason, text, index)
        try:
            return self.pixels(sample.image, rng, view, self.may_mirror(sample)), text, index
        except UnreadableImageError as error:
            return str(error)

    def pixels(self, name: str, rng: random.Random, view: int, may_mirror: bool) -> np.ndarray:
        """The image's variation (size, size, 3): a new one of `rng`, or the fixed one of number `view`.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        data = self.images.raw(name)
        image = self.images.decoded(name, data)
        if not self.augmentation.num_views:
            return augment(image, self.size, self.augmentation, rng, may_mirror)
        if not view:
            return square(image, self.size)
        rng = fixed_view(hashlib.sha256(data).digest(), view)
        return augment(image, self.size, self.augmentation, rng, may_mirror, mirrored=bool(view % 2))

    def fixed_pixels(self, name: str, view: int, may_mirror: bool) -> np.ndarray:
        """The pixels of a fixed variation, or of an image that is not varied; see `pixels`."""
        assert self.augmentation.num_views or not self.augmentation.varies
        return self.pixels(name, random.Random(0), view, may_mirror)


def training_batches(
    dataset: TrainingSet,
    plan: Plan,
    start: int,
    stop: int,
    collate: Callable[[list[Any]], Any],
    workers: int = 0,
    field_of: Callable[[int, int, int], int] | None = None,
    texts: int = 1,
) -> Iterator[Any]:
    """The collated batches of steps start .. stop - 1; `workers` processes read ahead without changing the order.

    Args:
        field_of: the text field of a step, of a row of the whole batch, and of which of its texts; without it each pair
            draws from all fields.
        texts: how many texts each sample of a batch comes with.

    Raises:
        CcmbError: a worker was killed.
    """
    first_row = plan.rows.start or 0
    loader = DataLoader(
        dataset,
        batch_sampler=(
            [
                (time, index, field_of(step, row, turn) if field_of else None, turn)
                for row, (time, index) in enumerate(batch, start=first_row)
                for turn in range(texts)
            ]
            for step, batch in zip(range(start, stop), plan.batches(start, stop), strict=True)
        ),
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_signals_to_the_trainer,
    )
    yield from read_ahead(loader)


def read_ahead(loader: DataLoader[Any]) -> Iterator[Any]:
    """The items of a loader.

    Raises:
        CcmbError: a worker was killed.
    """
    _end_workers_at_exit()
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise CcmbError("a process that reads images was killed, perhaps for memory; lower data.num_workers") from None


@cache
def _end_workers_at_exit() -> None:
    """Let no worker outlive this process: the exit would wait for one that an error left behind, for ever.

    Workers ignore the signal by which they are told to end, see `leave_signals_to_the_trainer`.
    """

    def end() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report each as an error
        for process in multiprocessing.active_children():
            if process.daemon:
                process.kill()

    atexit.register(end)  # before the one by which multiprocessing waits, since that was registered first


def choose_text(
    sample: Sample,
    rng: random.Random,
    field: int | None = None,
    weights: Sequence[float] | None = None,
    turn: int = 0,
    *,
    spread: bool = False,
) -> str:
    """One of a sample's texts at random.

    It is a text of `field`, if the sample has any there. Otherwise `weights` decide the field; without them every text
    is equally likely.

    Args:
        turn: the turns 0, 1, 2 ... of equal states of `rng` give different texts, as long as there are any.
        spread: turns also give different fields, as long as there are any.
    """
    if spread and weights and not (field is not None and sample.fields[field]):
        available = [weight if texts else 0.0 for texts, weight in zip(sample.fields, weights, strict=True)]
        if order := weighted_order(rng, available):
            field, turn = order[turn % len(order)], turn // len(order)
    texts = _choices(sample, rng, field, weights)
    first = rng.choice(range(len(texts)))
    if not turn:
        return texts[first]
    others = [text for index, text in enumerate(texts) if index != first]
    random.Random(rng.random()).shuffle(others)
    return (texts[first], *others)[turn % len(texts)]


def _choices(sample: Sample, rng: random.Random, field: int | None, weights: Sequence[float] | None) -> Sequence[str]:
    """The texts of a sample that one is chosen from."""
    if field is not None and sample.fields[field]:
        return sample.fields[field]
    if weights:
        available = [(texts, weight) for texts, weight in zip(sample.fields, weights, strict=True) if texts and weight]
        if available:
            fields, available_weights = zip(*available, strict=True)
            chosen: Sequence[str] = rng.choices(fields, available_weights)[0]
            return chosen
    return sample.texts


def _kin(sample: Sample) -> str:
    return sample.group or sample.image


def leave_signals_to_the_trainer(worker: int) -> None:
    """Make a worker ignore SIGINT and SIGTERM.

    Ctrl-C reaches the whole process group, but the trainer still needs the batches of the current step.
    """
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
