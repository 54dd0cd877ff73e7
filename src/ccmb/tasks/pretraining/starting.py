"""What is settled before a run trains: its steps, the metric that it is judged by, its folder, its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccmb.core.config.recipe_files import load_recipe, save_recipe
from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.data.sample import Sample
from ccmb.objectives.config import Objectives, Side
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.pretraining.recipe import P, PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import in_stages
from ccmb.training.distributed import World

BuildNetwork = Callable[[PretrainRecipe, Iterable[Sample]], tuple[R2D2Model, R2D2Processor]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands around a training, where it is one stage of a run.

    Attributes:
        label: of its progress.
        begin: done by the first rank once the stage has a folder.
        on_line: done by the first rank with each line of its log.
        reads_tokens: sides whose token states some stage reads, so that they are to be stored with the pooled ones.
    """

    label: str = "train"
    begin: Callable[[], None] = lambda: None
    on_line: Callable[[dict[str, float]], None] = lambda line: None
    reads_tokens: frozenset[Side] = frozenset()


ALONE = Surroundings()


def check_batch(recipe: PretrainRecipe, joined: World) -> None:
    """Check that the images of a batch have their texts, and that the processes can share it.

    Raises:
        UsageError: not evenly.
    """
    batch, texts = recipe.training.batch_size, recipe.data.texts_per_image
    if batch % (texts * joined.size) and texts > 1:
        where = f" on {joined.size} processes" if joined.size > 1 else ""
        raise UsageError(f"training.batch_size={batch} is no multiple of data.texts_per_image={texts}{where}")
    if batch % joined.size:
        raise UsageError(f"training.batch_size={batch} cannot be shared evenly by {joined.size} processes")


def in_steps(recipe: P, samples: Sequence[Sample]) -> P:
    """The recipe with its epochs as steps."""
    texts = sum(len(sample.texts) for sample in samples)
    return recipe.model_copy(update={"training": recipe.training.in_steps(texts)})


def pretraining_log(objectives: Objectives) -> list[str]:
    """Metrics that objectives of pre-training log."""
    on = objectives.on()
    return [*on, "temperature", *(["teacher_agreement"] if {"tgd", "fgd"} & {*on} else [])]


def check_best(recipe: PretrainRecipe, logged: Sequence[str]) -> None:
    """Check that the metric that chooses the best checkpoint will be logged.

    Args:
        logged: metrics of the run's task and of its validation.

    Raises:
        UsageError: it will not; the message lists those that will.
    """
    best, known = recipe.training.best, ["loss", *logged, "gradient_norm"]
    if best and best.metric not in known:
        hint = did_you_mean(best.metric, known)
        raise UsageError(
            f"training.best.metric={best.metric}: not in the log of this run{hint}; known: {', '.join(known)}"
        )


def prepare_run(recipe: PretrainRecipe, out: Path) -> None:
    """Make the run folder with its resolved recipe; a folder that holds another recipe's run is refused."""
    check_same_recipe(recipe, out)
    save_recipe(recipe, out / "recipe.yaml")


def stage_folder(out: Path, number: int, name: str) -> Path:
    """The run folder of a stage, which is numbered from 1, within that of the run."""
    return out / "stages" / f"{number}-{name}"


def check_same_recipe(recipe: PretrainRecipe, out: Path) -> None:
    """Check that a folder holds no run, or one of this recipe; epochs, also of its stages, may have become steps.

    Raises:
        CcmbError: it holds a run of another recipe.
    """
    path = out / "recipe.yaml"
    if not path.exists():
        return
    try:
        before = load_recipe(
            type(recipe), path, settled=False
        )  # keys that an older version did not know have their defaults
    except CcmbError:
        before = None
    if before is not None and before.training.epochs is None and recipe.training.epochs is not None:
        recipe = recipe.model_copy(update={"training": recipe.training.with_steps(before.training.steps)})
    if before is not None and len(before.stages) == len(recipe.stages):
        stages = [
            one.with_steps(
                saved.training.get("steps", 0) if whole.training.epochs is not None else whole.training.steps
            )
            for one, whole, saved in zip(recipe.stages, in_stages(recipe), before.stages, strict=True)
        ]
        recipe = recipe.model_copy(update={"stages": stages})
    if before != recipe:
        raise CcmbError(f"{out}: this folder holds a run of another recipe; choose another --out or remove it")
