"""Frozen towers computed once: before the training their states are stored, and every step reads them.

What a frozen tower gives is a function of its weights and of the image or text alone. The states lie in the user's
cache, in a folder for all that they depend on but the items, so that other runs read them too.

Masked texts differ each time and are computed. Images that are augmented anew each time are, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.progress import progress
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.data.states.cache_folder import STATES, CacheFolder, user_cache
from ccmb.data.states.images import StoredImages
from ccmb.data.states.store import StateStore
from ccmb.objectives.config import Side
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.stillness import Frozen, frozen_depth
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.states_items import ImagePass, TextPass
from ccmb.tasks.pretraining.states_pass import StatesPass, Trained, fill
from ccmb.training.distributed import all_reduce_max, launched, world

GB = 10**9
Batches = Callable[[int, int], Iterator[Any]]


def check_frozen_states(recipe: PretrainRecipe) -> None:
    """Refuse to store states that cannot be.

    Raises:
        UsageError: `training.frozen_states` asks for it.
    """
    if recipe.training.frozen_states is not True:
        return
    if "image" in recipe.model.frozen() and not _repeats(recipe):
        raise UsageError(
            "training.frozen_states=on: images are augmented anew each time; give data.augmentation.num_views=4, or "
            "training.frozen_states=auto"
        )
    if recipe.training.parallel == "fsdp" and launched():
        raise UsageError(
            "training.frozen_states=on: a tower that is spread over processes is not computed alone; give "
            "training.parallel=ddp"
        )


class FrozenStates:
    """The stored states of a run: what its batches hold in place of what frozen towers would compute.

    Args:
        tokens: sides whose token states are stored even if the recipe's objectives do not read them, since another loss
            does.
        texts: whether texts are encoded at all.

    Attributes:
        images: keys of the images by name; None where images are computed.
        image_store, text_store: the states; None where they are computed.
        image_rows: how many rows of an image's states are read; None: all.
    """

    def __init__(
        self,
        samples: list[Sample],
        images: ImageSource,
        recipe: PretrainRecipe,
        tokens: frozenset[Side] = frozenset(),
        texts: bool = True,
    ) -> None:
        self.samples, self.source, self.recipe, self.texts = samples, images, recipe, texts
        self.tokens = tokens | recipe.objectives.reads_tokens()
        self.image_rows: int | None = None
        self.images: StoredImages | None = None
        self.image_store: StateStore | None = None
        self.text_store: StateStore | None = None
        self._folders: list[CacheFolder] = []  # in use as long as the run

    def before(self, batches: Batches, trained: Trained, processor: R2D2Processor) -> Batches:
        """The same batches, before the first of which the states are stored.

        Only then the network has the weights that it trains with, and is on its device.
        """

        def first_store(start: int, stop: int) -> Iterator[Any]:
            self.store(trained, processor, stop - start)
            return batches(start, stop)

        return first_store

    def store(self, trained: Trained, processor: R2D2Processor, steps: int) -> None:
        """Store the states that a number of steps reads.

        Raises:
            UsageError: they do not fit into the cache, or cannot be stored, and the recipe asks for it.
            CcmbError: the cache cannot be written, likewise.
        """
        setting, frozen = self.recipe.training.frozen_states, self.recipe.model.frozen()
        sharded = self.recipe.training.parallel == "fsdp" and world().size > 1
        if setting is False or not frozen or sharded:
            return
        draws, model = steps * self.recipe.training.batch_size, trained.model
        if "image" in frozen and _repeats(self.recipe):
            count = len({sample.image for sample in self.samples}) * (self.recipe.data.augmentation.num_views or 1)
            if setting is True or draws > count:
                depth = frozen_depth(model.image_tower)
                of_images = ImagePass(
                    trained,
                    processor,
                    self.recipe,
                    self.samples,
                    self.source,
                    depth=depth,
                    tokens="image" in self.tokens,
                )
                self.image_store = self._stored("image", of_images, depth)
                self.images = of_images.names if self.image_store is not None else None
        if "text" in frozen and self.texts:
            texts = {text for sample in self.samples for text in sample.texts}
            if setting is True or draws > len(texts):
                depth = frozen_depth(model.text_tower)
                of_texts = TextPass(trained, processor, self.recipe, texts, depth=depth, tokens="text" in self.tokens)
                self.text_store = self._stored("text", of_texts, depth)

    def _stored(self, name: str, states: StatesPass, depth: Frozen | None) -> StateStore | None:
        """The filled store of a tower, or None, after a line that says why there is none."""
        try:
            if depth is None:
                raise UsageError(f"parts of the frozen {name} tower are trained")
            return self._filled(name, states)
        except CcmbError as error:
            if self.recipe.training.frozen_states is True:
                what = f"training.frozen_states=on: the frozen {name} tower cannot be stored"
                raise type(error)(f"{what} ({error}); give training.frozen_states=auto") from None
            if world().is_main:
                print(f"ccmb: the frozen {name} tower is computed each time ({error})", file=sys.stderr, flush=True)
            states.leave()
            return None

    def _filled(self, name: str, states: StatesPass) -> StateStore:
        states.find_boundary()
        error = None
        try:
            folder, store, wanted = self._opened(name, states)
        except CcmbError as one:  # on this rank alone, perhaps
            error = one
        if all_reduce_max(int(error is not None)):
            raise error or CcmbError("another process could not open its cache")
        with progress(f"states of the {name} tower", len(store.missing(wanted)), f"{name}s") as advance:
            reason = fill(store, states, wanted, advance)
        if reason is not None:
            folder.close()
            raise CcmbError(reason)
        self._folders.append(folder)
        return store

    def _opened(self, name: str, states: StatesPass) -> tuple[CacheFolder, StateStore, list[bytes]]:
        limit = self.recipe.training.frozen_states_gb
        folder = CacheFolder(user_cache() / STATES, f"{name}-{states.key()}")
        store, wanted, max_bytes = StateStore(folder.path), states.wanted(), int(limit * GB)
        size = states.size(store.missing(wanted))
        fits = folder.make_room(size, max_bytes)
        if not fits and len(store) and states.size(wanted) <= max_bytes and folder.clear():  # it held other data
            store, size = StateStore(folder.path), states.size(wanted)
            fits = folder.make_room(size, max_bytes)
        if not fits:
            folder.close()
            raise UsageError(
                f"its states need {size / GB:.2g} GB, for which training.frozen_states_gb={limit:g} or the disk has no "
                "room"
            )
        return folder, store, wanted


def _repeats(recipe: PretrainRecipe) -> bool:
    """Whether the training sees the same pixels of an image again."""
    augmentation = recipe.data.augmentation
    return not augmentation.varies or augmentation.num_views is not None
