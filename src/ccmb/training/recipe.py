"""Typed recipes: YAML files with `key=value` overrides, checked by pydantic, with errors that name the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ccmb.core.choices import Strategy
from ccmb.core.config.base import ConfigBase
from ccmb.core.config.recipe_files import RECIPES, check_recipe, find_recipe, load_recipe, save_recipe
from ccmb.core.config.retired_keys import Retired, renamed_here
from ccmb.core.errors import UsageError
from ccmb.data.images.transforms import Augmentation
from ccmb.data.languages import all_fields, parse_languages, tag_of
from ccmb.training.model_recipe import ModelRecipe

__all__ = [
    "RECIPES",
    "BestRecipe",
    "ConfigBase",
    "DataRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "TrainingRecipe",
    "check_recipe",
    "find_recipe",
    "load_recipe",
    "save_recipe",
]  # fmt: skip


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _languages(value: Any) -> Any:
    """`zh,en` or [zh, en] mean languages with their usual fields; tags are written as BCP 47 writes them."""
    try:
        if isinstance(value, str):
            value = parse_languages(value)
        if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            value = parse_languages(",".join(value))
        if isinstance(value, dict):
            return {tag_of(str(tag)): _one_or_several(fields) for tag, fields in value.items()}
    except UsageError as error:
        raise PydanticCustomError("languages", "{error}", {"error": str(error)}) from None
    return value


class MiningRecipe(ConfigBase):
    """Hard negatives for every batch, from all samples."""

    group: int = Field(8, gt=1, description="samples that stand together: one and some of its nearest others")
    neighbors: int = Field(24, gt=0, description="nearest others of a sample that its group is drawn from")
    texts: int = Field(4, gt=0, description="texts of a sample that are encoded to find them")
    every: int | None = Field(
        None, gt=0, description="look for them anew after so many steps, by the weights of then; by default once"
    )
    max_similarity: float = Field(
        1.0,
        gt=0,
        le=1,
        description="others whose cosine is above this are taken for the same sample, and are no neighbours",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_on(cls, value: Any) -> Any:
        """`mining: on` means the defaults."""
        return {} if value is True else value


class DataRecipe(ConfigBase):
    """The training data: custom pairs in a folder, a published dataset in its folder, or shards."""

    RETIRED: ClassVar = {"set": "dataset", "lanes": "streams", "shuffle": "shuffle_buffer", "workers": "num_workers"}
    dataset: str | None = Field(
        None, description="name of the published set that is in the folder, see `ccmb data list`; without it own pairs"
    )
    folder: str | None = Field(None, description="folder of own pairs or of the set; also looked for under $CCMB_DATA")
    shards: Annotated[list[str], BeforeValidator(_one_or_several)] = Field(
        [],
        validate_default=True,
        description="instead of a folder: folders, tars, globs, brace ranges or URLs of WebDataset shards; local ones "
        "are also looked for under $CCMB_DATA",
    )
    streams: int = Field(
        4,
        gt=0,
        description="of shards: parts that are read side by side, with equally many samples in each batch; the order "
        "depends on their number, not on that of ranks and workers",
    )
    shuffle_buffer: int = Field(1000, gt=0, description="of shards: samples that each stream holds to draw from")
    samples_per_epoch: int | None = Field(None, gt=0, description="of shards: end an epoch after so many samples")
    pairs: str = Field(
        "pairs.jsonl",
        description="the JSON-lines file in the folder; of several, a.jsonl+b.jsonl, lines are joined by image",
    )
    images: str = Field(
        "images.tar",
        description="the tar or sub-folder of images in the folder; of a set, where it is there, instead of the "
        "published place",
    )
    fields: list[str] = Field(["texts"], min_length=1, description="text fields that are trained on together")
    languages: Annotated[dict[str, list[str]] | None, BeforeValidator(_languages)] = Field(
        None,
        description="of a folder: text fields by language (BCP 47), in the place of data.fields, such as "
        "{zh: [captions, mt_baidu], en: [en]}; or zh,en for fields of these names, or for texts that say so",
    )
    language_temperature: float = Field(
        1.0,
        ge=1,
        description="how evenly languages are drawn: by their number of texts to the power of 1 / temperature; 1 draws "
        "each text as often",
    )
    balance_languages: bool = Field(
        False, description="a batch holds as many texts of each language, as far as its images have them"
    )
    field_starts: list[float] | None = Field(
        None,
        description="share of the training after which each of the fields joins; the texts of a batch are then all of "
        "one field, drawn evenly from those that have joined; without it each pair draws from all fields",
    )
    field_weights: list[float] | None = Field(
        None, description="how often each of the fields is drawn from; without it each text is as likely"
    )
    split: str = Field("train", description="of a folder")
    max_images: int | None = Field(
        None,
        gt=0,
        description="of a folder: train on so many of its images, those whose names' hashes come first; by default all",
    )
    group_start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="of a folder: share of the training after which near-duplicates stand together in a batch",
    )
    mining: MiningRecipe | None = Field(
        None,
        description="of a folder: fill batches with groups of samples that the towers, as they are at the start, find "
        "alike; such as {group: 8, neighbors: 24}, or on",
    )
    texts_per_image: int = Field(
        1,
        gt=0,
        description="of a folder: texts that each image of a batch comes with, as rows of the batch; the image is "
        "augmented alike for all of them",
    )
    num_workers: int = Field(
        1, ge=0, description="processes that read and augment ahead; 0 reads in the training process"
    )
    augmentation: Augmentation = Augmentation()

    @field_validator("shards")
    @classmethod
    def _folder_or_shards(cls, shards: list[str], info: ValidationInfo) -> list[str]:
        if bool(shards) == (info.data.get("folder") is not None):
            raise ValueError("give either data.folder or data.shards")
        return shards

    @field_validator("field_weights")
    @classmethod
    def _one_weight_for_each_field(cls, weights: list[float] | None, info: ValidationInfo) -> list[float] | None:
        count = len(info.data.get("languages") or info.data.get("fields", ()))
        if weights is not None and (len(weights) != count or min(weights) < 0 or not any(weights)):
            raise ValueError(f"needs one weight for each of the {count} fields, none below 0 and one above")
        if weights is not None and info.data.get("field_starts") is not None:
            raise ValueError("goes without data.field_starts, by which a whole batch draws from one field")
        return weights

    @field_validator("field_starts")
    @classmethod
    def _one_start_for_each_field(cls, starts: list[float] | None, info: ValidationInfo) -> list[float] | None:
        count = len(info.data.get("languages") or info.data.get("fields", ()))
        if starts is not None and (len(starts) != count or min(starts) != 0 or max(starts) > 1):
            raise ValueError(f"needs one share in [0, 1] for each of the {count} fields, at least one of them 0")
        return starts

    @model_validator(mode="after")
    def _languages_or_fields(self) -> Self:
        if self.languages is None:
            return self
        if "fields" in self.model_fields_set and self.fields != ["texts"]:
            raise ValueError("give either data.languages or data.fields")
        if self.balance_languages and (self.field_starts or self.field_weights or self.language_temperature != 1):
            raise ValueError(
                "data.balance_languages goes without data.language_temperature, data.field_weights, data.field_starts"
            )
        if self.field_weights is not None and self.language_temperature != 1:
            raise ValueError("give either data.language_temperature or data.field_weights")
        return self

    @property
    def text_fields(self) -> list[str]:
        """The fields that texts are read from."""
        return self.fields if self.languages is None else all_fields(self.languages)

    @property
    def name(self) -> str:
        """The name of the data for people."""
        if self.dataset:
            return self.dataset
        return Path(self.folder or re.sub(r"\.(tar|tar\.gz|tgz)$", "", self.shards[0])).name


class OptimizerRecipe(ConfigBase):
    """The optimiser and the schedule of its learning rates."""

    RETIRED: ClassVar = {
        "muon": "muon_lr_scale",
        "vector_decay": "vector_weight_decay",
        "bias_lr": "bias_lr_scale",
        "bias_decay": "bias_weight_decay",
        "warmup": "warmup_steps",
        "warmup_from": "warmup_start_factor",
        "stairs": "lr_decay_stages",
        "final_lr": "min_lr_factor",
        "clip": "max_grad_norm",
    }
    lr: float = Field(
        5e-4, gt=0, description="peak learning rate of projections and temperature, and by default of the towers"
    )
    cross_lr: float | None = Field(None, gt=0, description="peak of the cross encoders and heads; by default lr")
    image_lr: float | None = Field(None, gt=0, description="peak of the image tower; by default lr")
    text_lr: float | None = Field(None, gt=0, description="peak of the text tower; by default lr")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise decay of the towers' learning rates: the top layer has the whole rate, each layer "
        "below it the rate of the one above times this, and what stands before the layers once more",
    )
    muon_lr_scale: float | None = Field(
        None,
        gt=0,
        description="train the matrices with Muon, at this multiple of their learning rate; without it all is AdamW's",
    )
    weight_decay: float = Field(0.05, ge=0, description="of matrices and lookup tables")
    vector_weight_decay: float = Field(
        0.0, ge=0, description="weight decay of norms and other weights that are no matrices"
    )
    bias_lr_scale: float = Field(1.0, gt=0, description="multiple of the learning rate for biases")
    bias_weight_decay: float = Field(0.0, ge=0, description="weight decay of biases")
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["cosine", "triangular"] = Field(
        "cosine",
        description="after the warm-up a cosine to the end; or over and over, up in warmup_steps and down in as many",
    )
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up, for each group from its own start")
    warmup_start_factor: float = Field(0.0, ge=0, le=1, description="share of the peak at which the warm-up begins")
    lr_decay_stages: int | None = Field(
        None,
        gt=0,
        description="let the cosine fall in so many stages, one an epoch in the official code, instead of every step",
    )
    min_lr_factor: float = Field(
        0.0, ge=0, le=1, description="share of the peak at which the cosine ends, or to which the triangles go down"
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; empty for none")


# Metrics of which more is better, whatever `val_` stands before them; of losses less is.
HIGHER = re.compile(r"recall|R@|auc|accuracy|agreement|CIDEr|BLEU|ROUGE|match_score|samples_per_second")


class BestRecipe(ConfigBase):
    """The metric that chooses the best checkpoint."""

    RETIRED: ClassVar = {"figure": "metric", "lower": Retired("mode", {True: "min", False: "max"})}
    metric: str = Field("loss", description="name of a metric of metrics.jsonl")
    mode: Literal["min", "max"] = Field(
        "min", description="whether the lowest or the highest is best; by default what it is of such a metric"
    )

    @model_validator(mode="before")
    @classmethod
    def _metric_alone(cls, values: Any) -> Any:
        """`gcpr` is short for {metric: gcpr}; the mode follows from the metric, unless it is given."""
        values = {"metric": values} if isinstance(values, str) else values
        if isinstance(values, dict):
            values, _ = renamed_here(cls, values)
            if isinstance(values.get("metric"), str) and "mode" not in values:
                values |= {"mode": "max" if HIGHER.search(values["metric"]) else "min"}
        return values


# The default of a key that must be given unless another one is.
REQUIRED: Any = None


class TrainingRecipe(ConfigBase):
    """The settings of the training loop."""

    RETIRED: ClassVar = {"batch": "batch_size", "chunk": "grad_cache_chunk", "keep": "save_total_limit"}
    epochs: float | None = Field(
        None,
        gt=0,
        description="of a folder: instead of steps, how often as many texts are seen as there are; becomes steps "
        "before the run",
    )
    steps: int = Field(REQUIRED, gt=0, validate_default=True, description="optimiser steps")
    batch_size: int = Field(128, gt=1)
    grad_cache_chunk: int | None = Field(
        None,
        gt=0,
        description="pairs whose activations are held at a time; each chunk is computed anew in the backward pass, so "
        "that large batches fit into small memory with the same gradient, for one more forward pass",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep what goes into each layer of towers and cross encoders alone, and compute the layer anew in "
        "the backward pass: the same gradient in less memory, for one more forward pass",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="of the network (losses are float32 always); auto is bf16 where the device computes it natively",
    )
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    parallel: Strategy = Field(
        "ddp", description="under torchrun: ddp (weights on every process) or fsdp (weights spread over the processes)"
    )
    threads: int | None = Field(None, gt=0, description="CPU threads; results repeat exactly only with the same number")
    pack_texts: bool = Field(
        True, description="compute no token of padding; without it texts are computed as long as the batch's longest"
    )
    frozen_states: Literal["auto"] | bool = Field(
        "auto",
        description="compute what frozen towers or frozen lower layers give once, and read it from the user's cache "
        "($CCMB_CACHE) in all later epochs; auto does where images repeat (unaugmented, or with "
        "data.augmentation.num_views) and the run draws them more than once",
    )
    frozen_states_gb: float = Field(
        20.0, gt=0, description="largest size of the cache of all runs, in GB; what was used longest ago goes first"
    )
    compile: bool = Field(False, description="compile the layers of towers and cross encoders, each by itself")
    log_every: int = Field(10, gt=0)
    checkpoint_every: int = Field(500, gt=0)
    save_total_limit: int = Field(2, gt=0, description="newest checkpoints kept")
    best: BestRecipe | None = Field(
        None,
        description="the checkpoint with the best metric is kept too, as in {metric: gcpr, mode: min}, or gcpr for "
        "short; the sum of the losses grows where an objective joins, so name one that is on from the start",
    )
    model_ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep an exponential moving average of the trained weights, at this rate once it has warmed up; "
        "it is what is validated and what the finished model is, while the training goes on with the raw weights",
    )
    tensorboard: bool = Field(True, description="write event files for TensorBoard into the run folder")
    peak_tflops: float | None = Field(
        None, gt=0, description="what the device could do, for the log's mfu; known for some GPUs, in bf16"
    )

    @field_validator("steps", mode="wrap")
    @classmethod
    def _steps_or_epochs(cls, steps: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> int:
        """Steps are 0 until epochs have become steps, see `in_steps`."""
        epochs = info.data.get("epochs")
        if epochs is None:
            if steps is REQUIRED and "epochs" in info.data:
                raise PydanticCustomError("missing", "Field required")
            return int(check(steps))
        if steps:
            raise ValueError("give either training.steps or training.epochs; the other empty, as in training.epochs=")
        return 0

    def in_steps(self, texts: int) -> Self:
        """The recipe with epochs of so many texts converted to steps.

        The texts at the end of an epoch that do not fill a batch are left out, as in the official code.
        """
        if self.epochs is None:
            return self
        return self.with_steps(max(1, round(self.epochs * max(1, texts // self.batch_size))))

    def with_steps(self, steps: int) -> Self:
        """The recipe with so many steps instead of epochs."""
        return self.model_copy(update={"epochs": None, "steps": steps})
