"""Captioning as fine-tuning sees it: the captioner of an R2D2, and CIDEr-D on held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ccmb.core.choices import Decode
from ccmb.core.config.given_keys import is_given
from ccmb.core.errors import UsageError
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.objectives.batch import Batch
from ccmb.objectives.captioning import Captioning
from ccmb.objectives.pretraining import sharding_units
from ccmb.objectives.step import PretrainAux
from ccmb.r2d2.generative.captioner import R2D2Captioner, has_captioner, load_captioner
from ccmb.r2d2.pretrained.towers import is_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.captioning.decoding import Decoding
from ccmb.tasks.captioning.evaluate import CaptionResults, caption_dataset, captioning_report, drawn_metrics
from ccmb.tasks.captioning.predict import decoding_for, longest_caption
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.finetuning.finetuner import DrawnMetrics
from ccmb.tasks.finetuning.pairs import PairFinetuner
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.frozen_states import FrozenStates
from ccmb.tasks.pretraining.model import load_start, refuse_sizes
from ccmb.tasks.pretraining.parameter_groups import cross_start, parameter_groups
from ccmb.tasks.pretraining.run import build_network, make_pretraining, prepare_network
from ccmb.tasks.pretraining.states_pass import Trained
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.trainer import Task

MAIN = "CIDEr-D"


class CaptioningTask:
    """Captioning as the trainer sees it."""

    def __init__(self, captioning: Captioning, recipe: FinetuneRecipe) -> None:
        self.captioning, self.recipe = captioning, recipe

    @property
    def module(self) -> nn.Module:
        return self.captioning

    def units(self) -> list[nn.Module]:
        pretraining = self.captioning.pretraining
        return sharding_units(self.captioning.model, pretraining.teacher if pretraining else None)

    def groups(self) -> list[ParameterGroup]:
        """The parameter groups of pre-training, and the decoder, which learns as fast as the cross encoders."""
        model, optimizer = self.captioning.model, self.recipe.optimizer
        decoder = list(model.decoder.parameters())
        ids = set(map(id, decoder))
        groups = [
            ParameterGroup([p for p in group.parameters if id(p) not in ids], group.lr, group.start)
            for group in parameter_groups(model, optimizer, cross_start(self.recipe.objectives))
        ]
        return [*groups, ParameterGroup(decoder, optimizer.cross_lr or optimizer.lr)]

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.captioning.total(losses)

    def after_step(self) -> None:
        if self.captioning.pretraining is not None:
            self.captioning.pretraining.after_step()

    def report(self, aux: PretrainAux) -> dict[str, float]:
        return {"temperature": float(self.captioning.model.temperature.detach())}

    def describe(self, batch: Batch) -> dict[str, Any]:
        return batch.describe()


class CaptioningFinetuner(PairFinetuner[R2D2Captioner]):
    """See `Finetuner`. The data is that of retrieval: images with texts of their own."""

    metrics = (MAIN, "BLEU-4", "ROUGE-L")
    labels: ClassVar[Mapping[str, tuple[str, str]]] = {
        name: (f"{name}，按字", f"{name} on characters") for name in ("BLEU-4", "ROUGE-L", MAIN)
    }

    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        return ["captioning", "temperature", *recipe.objectives.on()]

    def network(self, recipe: FinetuneRecipe) -> tuple[R2D2Captioner, R2D2Processor]:
        start = str(recipe.model.init_from)
        if self.knows(start):
            refuse_sizes(recipe.model, "a captioner")
            captioner, processor = load_start(recipe.model, load_captioner)
            for key in is_given(recipe.captioning, "text_layers", "cross_layers", "standardize_states"):
                wanted, own = getattr(recipe.captioning, key), getattr(captioner.shape, key)
                if wanted not in (None, own):
                    raise UsageError(f"captioning.{key}={wanted}: the decoder of {start} has {own}; leave it out")
            return captioner, processor
        model, processor = build_network(recipe, ())
        options = recipe.captioning
        shape = options.text_layers, options.cross_layers, options.standardize_states
        return R2D2Captioner.from_r2d2(model, processor, *shape), processor

    def load(self, out: Path) -> tuple[R2D2Captioner, R2D2Processor]:
        return load_captioner(out)

    def knows(self, start: str) -> bool:
        return not is_chinese_clip(start) and has_captioner(start)

    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> RetrievalSet:
        return _several(super().open_held_out(recipe, split))

    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> RetrievalSet:
        return _several(super().open_also(spec, split, fields))

    def task(self, model: R2D2Captioner, processor: R2D2Processor, recipe: FinetuneRecipe) -> CaptioningTask:
        prepare_network(model, recipe)
        pretraining = (
            make_pretraining(model, processor, recipe, has_other_loss=True) if recipe.objectives.on() else None
        )
        return CaptioningTask(
            Captioning(model, recipe.captioning, pretraining, recipe.training.grad_cache_chunk), recipe
        )

    def stored(
        self, samples: list[Sample], images: ImageSource, recipe: FinetuneRecipe, task: Task
    ) -> tuple[Trained, FrozenStates]:
        assert isinstance(task, CaptioningTask)
        reads_texts = task.captioning.pretraining is not None
        return task.captioning, FrozenStates(
            samples, images, recipe, tokens=frozenset({"image", "text"}), texts=reads_texts
        )

    def validate(
        self, model: R2D2Captioner, processor: R2D2Processor, held_out: RetrievalSet, recipe: FinetuneRecipe
    ) -> dict[str, float]:
        metrics = _write(model, processor, held_out, _decoding(model, recipe, "greedy")).scores().metrics()
        return {name: metrics[name] for name in self.metrics}

    def measure(
        self,
        model: R2D2Captioner,
        processor: R2D2Processor,
        held_out: RetrievalSet,
        recipe: FinetuneRecipe,
        heads: bool = True,
    ) -> DrawnMetrics:
        if not heads:  # a decoder that was never trained
            return DrawnMetrics({}, {}, {})
        options = _decoding(model, recipe, "beam")
        written = _write(model, processor, held_out, options)
        scores, names = written.scores(), tuple(reversed(self.metrics))  # the main one last
        drawn, values = drawn_metrics(scores), scores.metrics()
        return DrawnMetrics(
            {name: values[name] for name in names},
            {name: drawn[name] for name in names},
            captioning_report(written, options, reranked=False),
            len(written.captions),
        )


def _several(dataset: RetrievalSet) -> RetrievalSet:
    """The set, if its captions can be measured.

    Raises:
        UsageError: it is of one image.
    """
    if len({sample.image for sample in dataset.samples}) < 2:
        raise UsageError(f"{dataset.name}, split {dataset.split}: one image; CIDEr-D needs two or more")
    return dataset


def _decoding(model: R2D2Captioner, recipe: FinetuneRecipe, decode: Decode) -> Decoding:
    longest = min(recipe.captioning.max_length, longest_caption(model))
    return decoding_for(model, longest, decode=decode)


def _write(model: R2D2Captioner, processor: R2D2Processor, held_out: RetrievalSet, options: Decoding) -> CaptionResults:
    return caption_dataset(model, processor, held_out, options)
