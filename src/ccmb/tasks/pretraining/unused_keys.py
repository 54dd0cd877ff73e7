"""Keys of a training recipe that would do nothing as it stands; see `ccmb.core.config.given_keys`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ccmb.core.choices import OBJECTIVE_NAMES
from ccmb.core.config.given_keys import Unused
from ccmb.objectives.config import Objectives
from ccmb.r2d2.pretrained.towers import FROM_CHINESE_CLIP, is_chinese_clip
from ccmb.tasks.pretraining.model import CHANGED, SETTLED
from ccmb.training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, TrainingRecipe

PARTS_OF_TASKS = ("matching", "captioning", "generation")
STATES = "training.frozen_states", "training.frozen_states_gb"
OF_SECOND_STAGE = (
    "model.cross_dropout",
    "model.standardize_states",
    "model.ranking_rule",
    "model.match_weight",
    "model.rerank_k",
    "optimizer.cross_lr",
)


class Trains(Protocol):
    """The parts of a recipe that are read here; recipes call these functions, which cannot import their classes."""

    data: DataRecipe
    model: ModelRecipe
    optimizer: OptimizerRecipe
    training: TrainingRecipe

    @property
    def objectives(self) -> Objectives: ...


class Tunes(Trains, Protocol):
    """The parts of a fine-tuning recipe that are read here."""

    task: Any
    validation: Any
    captioning: Any
    generation: Any


def unused_in_pretraining(recipe: Trains) -> Iterator[Unused]:
    """Unused keys of any recipe that trains a network."""
    yield from _of_data(recipe.data)
    yield from _of_network(recipe.model, recipe.objectives)
    yield from _of_objectives(recipe.objectives)
    yield from _of_frozen_states(recipe)
    yield from _of_towers(recipe.model)
    if recipe.optimizer.schedule == "triangular":
        keys = "optimizer.warmup_start_factor", "optimizer.lr_decay_stages"
        yield Unused(keys, "of the schedule cosine", ("optimizer.schedule",))


def unused_in_finetuning(recipe: Tunes) -> Iterator[Unused]:
    """Keys that a task, or the lack of validation, leaves unused."""
    task = recipe.task
    for part in PARTS_OF_TASKS:
        if task != part:
            yield Unused((part,), f"of the task {part}, and this is {task}", ("task",))
    if task in ("matching", "generation"):
        yield Unused(STATES, f"the task {task} computes its towers each time", ("task",))
        objectives = tuple(
            f"objectives.{name}.{key}"
            for name in OBJECTIVE_NAMES
            for key in type(getattr(recipe.objectives, name)).model_fields
            if key != "weight" or getattr(recipe.objectives, name).weight
        )
        yield Unused((*objectives, "objectives.ema_decay"), f"the task {task} has a loss of its own", ("task",))
    if task == "matching":
        fields = "data.fields", "data.languages", "data.field_starts", "data.field_weights", "validation.fields"
        yield Unused(fields, "a labelled pair has one text", ("task",))
    if task == "generation":
        of_towers = "optimizer.image_lr", "optimizer.text_lr", "optimizer.layer_decay"
        yield Unused(("model.lora", *of_towers), "the task generation trains no towers", ("task",))
        yield Unused(("training.model_ema_decay",), "the painter is averaged by generation.ema_decay", ("task",))
        yield Unused(("training.grad_cache_chunk",), "the task generation computes a batch at once", ("task",))
    if task != "retrieval":
        yield Unused(("data.mining",), f"the task {task} mines no negatives", ("task",))
        yield Unused(("validation.rerank_k",), "of the task retrieval", ("task",))
        yield Unused(("training.peak_tflops",), f"operations of the task {task} are not counted", ("task",))
    if task == "captioning" and not recipe.objectives.on():
        yield Unused(("captioning.owns_image_tower",), "no other objective is on", ("objectives", "task"))
    if recipe.generation.pipeline is not None:
        keys = tuple(
            f"generation.{key}" for key in ("patch_size", "channels", "layers_per_block", "attention_head_dim")
        )
        yield Unused(keys, "of a new painter, and the pipeline has its own", ("generation.pipeline",))
    if recipe.data.shards:
        yield Unused(("data.shards",), "fine-tuning reads folders; give data.folder", ())
    if recipe.data.dataset is not None:
        yield Unused(("validation.fields",), "of own pairs, and data.dataset is given", ("data.dataset",))
    if recipe.validation.split is None:
        keys = "validation.every", "validation.images"
        yield Unused(keys, "there is no validation.split to measure on", ("validation.split",))


def _of_data(data: DataRecipe) -> Iterator[Unused]:
    if data.shards:
        keys = tuple(
            f"data.{key}" for key in ("dataset", "pairs", "images", "split", "group_start", "mining", "languages")
        )
        yield Unused((*keys, "data.texts_per_image"), "of a folder, and data.shards is given", ("data.shards",))
        yield Unused(
            ("data.augmentation.num_views", *STATES), "of a folder, and data.shards is given", ("data.shards",)
        )
    else:
        keys = tuple(f"data.{key}" for key in ("streams", "shuffle_buffer", "samples_per_epoch"))
        yield Unused(keys, "of shards, and data.folder is given", ("data.folder",))
    if data.languages is None:
        keys = "data.language_temperature", "data.balance_languages"
        yield Unused(keys, "no data.languages are given", ("data.languages",))
    if data.mining is not None:
        yield Unused(("data.group_start",), "data.mining fills the batches", ("data.mining",))
    if data.dataset is not None:
        yield Unused(("data.pairs",), "of own pairs, and data.dataset is given", ("data.dataset",))


def _of_frozen_states(recipe: Trains) -> Iterator[Unused]:
    if not recipe.model.frozen():
        yield Unused(STATES, "no part of a tower is frozen", ("model.freeze", "model.freeze_image_tower"))
    elif recipe.training.frozen_states is False:
        yield Unused(STATES[1:], "training.frozen_states is off", STATES[:1])
    if not recipe.data.augmentation.varies:
        yield Unused(("data.augmentation.num_views",), "images are not augmented", ("data.augmentation",))


def _of_network(model: ModelRecipe, objectives: Objectives) -> Iterator[Unused]:
    if model.init_from:
        shape = "model.preset", "model.vision", "model.text", "model.vocab_size"
        yield Unused(shape, "the model of model.init_from has its own", ("model.init_from",))
        is_clip = is_chinese_clip(model.init_from)
        if is_clip:
            of_towers = "model.licenses.image", "model.licenses.text"
            why = "a Chinese-CLIP is one model, whose licence is model.licenses.model"
            yield Unused(of_towers, why, ("model.init_from",))
        own = (
            (*FROM_CHINESE_CLIP, "licenses.model")
            if is_clip
            else (*CHANGED, *SETTLED, "decoder_layers", "reduced_tokens", "max_text_tokens", "image_size", "licenses")
        )
        yield Unused(tuple(f"model.{key}" for key in own), "", ("model.init_from",), obeyed=True)
    elif isinstance(model.vision, str):
        new = "model.preset", "model.vocab_size"
        yield Unused(new, "of a new network, and the towers are given", ("model.vision", "model.text"))
        yield Unused(("model.licenses.model",), "each tower has its own", ("model.vision", "model.text"))
        for tower, key in (("vision", "image"), ("text", "text")):  # a file's licence is that of the file's tower
            yield Unused((f"model.licenses.{key}",), "", (f"model.{tower}",), obeyed=True)
    elif model.preset:
        towers = "model.vision", "model.text", "model.embed_dim", "model.cross_layers"
        yield Unused(towers, "model.preset gives it", ("model.preset",))
    if not model.init_from and not isinstance(model.vision, str):
        causes = "model.vision", "model.text", "model.preset"
        yield Unused(("model.licenses",), "a new network has no weights of other models", causes)
    if not model.init_from and model.projection_hidden is None:
        why = "the projections are linear"
        keys = "model.projection_dropout", "model.projection_heads"
        yield Unused(keys, why, ("model.projection_hidden",))
    by_preset = model.preset is not None and not model.init_from
    is_prd2 = str(model.preset).startswith("prd2") if by_preset else not model.cross_layers
    if is_prd2 and not objectives.lm.weight:
        why, causes = "the network has no second stage", ("model.cross_layers", "model.preset", "objectives.lm.weight")
        yield Unused(OF_SECOND_STAGE, why, causes)
    if not objectives.lm.weight:
        keys = "model.decoder_layers", "model.decoder_max_tokens"
        yield Unused(keys, "lm is off", ("objectives.lm.weight",))
    if not objectives.tokenwise.weight:
        yield Unused(("model.reduced_tokens",), "tokenwise is off", ("objectives.tokenwise.weight",))
    if model.ranking_rule == "sum":
        yield Unused(("model.match_weight",), "of the rule log_odds", ("model.ranking_rule",))


def _of_towers(model: ModelRecipe) -> Iterator[Unused]:
    frozen = [name for name, part in model.frozen().items() if part == "all"]
    causes = "model.freeze", "model.freeze_image_tower"
    for name in frozen:
        yield Unused((f"optimizer.{name}_lr",), f"the {name} tower is frozen", causes)
    if len(frozen) == 2:
        yield Unused(("optimizer.layer_decay",), "both towers are frozen", causes)


def _of_objectives(objectives: Objectives) -> Iterator[Unused]:
    for name in OBJECTIVE_NAMES:
        objective = getattr(objectives, name)
        if objective.weight:
            continue
        hides = name == "mlm" and objectives.fgd.weight > 0  # whose masked texts FgD reads
        keys = [key for key in type(objective).model_fields if key != "weight" and not (hides and key == "probability")]
        yield Unused(
            tuple(f"objectives.{name}.{key}" for key in keys), f"{name} is off", (f"objectives.{name}.weight",)
        )
    if objectives.fgr.weight and objectives.fgr.negatives == "all":
        of_sampled = tuple(f"objectives.fgr.{key}" for key in ("hardness", "harden_until", "batch_share"))
        yield Unused(of_sampled, "of sampled negatives, and fgr ranks all", ("objectives.fgr.negatives",))
    if objectives.fgr.enhanced_training and not objectives.mlm.weight:
        yield Unused(("objectives.fgr.enhanced_training",), "mlm is off", ("objectives.mlm.weight",))
    if not (objectives.tgd.weight or objectives.fgd.weight):
        yield Unused(
            ("objectives.ema_decay",), "tgd and fgd are off", ("objectives.tgd.weight", "objectives.fgd.weight")
        )
    if objectives.fgr.weight and 0 < objectives.fgr.harden_until <= objectives.fgr.start_at:
        why = "it is over before fgr starts"
        yield Unused(("objectives.fgr.harden_until",), why, ("objectives.fgr.start_at",))
