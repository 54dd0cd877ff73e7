"""The model card: README.md in a model folder, written from the run that trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ccmb.core.choices import OBJECTIVE_NAMES
from ccmb.core.files import atomic_write, read_json_lines
from ccmb.r2d2.folders.source_card import front_matter, section
from ccmb.r2d2.folders.weight_sources import Source, public_name
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import in_words, layers_of
from ccmb.tasks.pretraining.lora import lora_in_words
from ccmb.training.recipe import ModelRecipe

if TYPE_CHECKING:
    from ccmb.tasks.pretraining.recipe import PretrainRecipe

CARD_FILE = "README.md"  # the last file of a finished run
CARD = """\
---
language: zh
library_name: transformers
tags: [ccmb, {kind}, image-text-retrieval, chinese]
{front_matter}---

# {title}

{kind_zh}，用 CCMB 训练（[论文](https://arxiv.org/abs/2205.03860)）。{kind_en}, trained with CCMB ([paper](https://arxiv.org/abs/2205.03860)).

## 用法 · Use

```python
import ccmb.r2d2  # 让 Auto 类认识 R2D2 · lets the Auto classes know R2D2
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("FOLDER_OR_HUB_ID").eval()
processor = AutoProcessor.from_pretrained("FOLDER_OR_HUB_ID")
scores = model(**processor(images=["picture.jpg"], text=["一只红色的小船"]), rank=True).scores  # (texts, images)
```

## 网络 · Network

| | |
|---|---|
{network}

{sources}
## 训练 · Training

{training}

{metrics}"""


TABLE = "| | |\n|---|---|\n"


def write_model_card(
    folder: Path,
    model: R2D2Model,
    recipe: PretrainRecipe,
    run: Path,
    retrieval: Mapping[str, Any] | None = None,
    stages: Mapping[str, tuple[PretrainRecipe, Path]] | None = None,
) -> None:
    """Write the card of a finished run.

    Args:
        folder: the model folder.
        run: the run folder, whose `metrics.jsonl` tells the last losses.
        retrieval: what `ccmb evaluate` found, if it did: its metrics go into the card.
        stages: recipe and run folder of each stage by its name, if the run went in stages; `recipe` is the last one's.
    """
    kind = "R2D2" if model.can_rank else "PRD2"
    text = CARD.format(
        kind=kind.lower(),
        title=f"{kind}: {recipe.data.name}",
        kind_zh="中文图文双塔与两个交叉编码器" if model.can_rank else "中文图文双塔",
        kind_en="Two Chinese image-text towers" + (" and two cross encoders" if model.can_rank else ""),
        front_matter=front_matter(model.config.sources),
        sources=section(model.config.sources),
        network=_table(_network(model)),
        training=_stages(model, stages) if stages else TABLE + _table(_training(model, recipe, run)),
        metrics=_metrics(retrieval) if retrieval else "此卡尚无评测结果。 No evaluation is recorded here yet.\n",
    )
    with atomic_write(folder / CARD_FILE) as file:
        file.write(text)


def _network(model: R2D2Model) -> dict[str, object]:
    config = model.config
    vision, words = config.vision_config, config.text_config
    return {
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "image tower": f"{vision.model_type}, {len(layers_of(model.image_tower))} layers of {config.image_width}, "
        f"{config.image_size} x {config.image_size} pixels",
        "text tower": f"{words.model_type}, {words.num_hidden_layers} layers of {words.hidden_size}, "
        f"{words.vocab_size:,} tokens, texts of up to {config.max_text_tokens}",
        "cross encoders": f"{config.cross_layers} layers each" if model.can_rank else "none",
        "embedding": f"{config.embed_dim} numbers",
        "ranking rule": config.ranking_rule if model.can_rank else "-",
    }


def _stages(model: R2D2Model, stages: Mapping[str, tuple[PretrainRecipe, Path]]) -> str:
    """A table for each stage; every one but the first started from the model of the one before."""
    parts, before = [], ""
    for number, (name, (recipe, run)) in enumerate(stages.items(), start=1):
        values = _training(model, recipe, run) | ({"started from": f"stage {number - 1}, {before}"} if before else {})
        size = {"images": f"{recipe.model.image_size} x {recipe.model.image_size} pixels"}
        values |= size if recipe.model.image_size else {}
        parts.append(f"### 阶段 {number} · Stage {number}: {name}\n\n{TABLE}{_table(values)}")
        before = name
    return "\n\n".join(parts)


def _training(model: R2D2Model, recipe: PretrainRecipe, run: Path) -> dict[str, object]:
    training, objectives = recipe.training, recipe.objectives
    lines = [line for _, line in read_json_lines(run / "metrics.jsonl")]
    last = lines[-1] if lines else {}
    losses = {OBJECTIVE_NAMES[name]: last[name] for name in objectives.on() if name in last}
    texts = ", ".join(recipe.data.languages or recipe.data.fields)
    return {
        "data": f"{recipe.data.name}, split {recipe.data.split}, texts {texts}",
        "started from": _origin(recipe.model, model.config.sources),
        "steps x batch": f"{training.steps:,} x {training.batch_size}",
        "objectives": ", ".join(OBJECTIVE_NAMES[name] for name in objectives.on()),
        "switched off": ", ".join(OBJECTIVE_NAMES[name] for name in objectives.off()) or "nothing",
        "last losses": ", ".join(f"{name} {value:.3f}" for name, value in losses.items()) or "-",
        "seed": training.seed,
        **({"weights": f"moving average of decay {ema:g}"} if (ema := training.model_ema_decay) else {}),
        **({"adapters": lora} if (lora := lora_in_words(recipe.model)) else {}),
        **({"frozen": frozen} if (frozen := frozen_parts(model, recipe.model)) else {}),
    }


def frozen_parts(model: R2D2Model, recipe: ModelRecipe) -> str:
    """The parts of a network that a recipe freezes, in words; an empty string if it freezes none."""
    towers: dict[str, nn.Module] = {"image": model.image_tower, "text": model.text_tower}
    return "; ".join(f"{name} tower: {in_words(towers[name], frozen)}" for name, frozen in recipe.frozen().items())


def _origin(model: ModelRecipe, sources: Sequence[Source]) -> str:
    if model.init_from or not isinstance(model.vision, str):
        return public_name(model.init_from) if model.init_from else "random weights"
    return " and ".join(source["name"] for source in sources)


def _metrics(retrieval: Mapping[str, Any]) -> str:
    lines = [
        f"## 检索 · Retrieval\n\n{retrieval['gallery']:,} images, {retrieval['texts']:,} texts, "
        f"top {retrieval['depth']} ranked; recalls in percent, convention {retrieval.get('convention', 'unknown')}.\n",
        "| direction | stage | R@1 | R@5 | R@10 |\n|---|---|--:|--:|--:|",
    ]
    for direction in ("text_to_image", "image_to_text"):
        for stage, recalls in retrieval.get(direction, {}).items():  # of sets like MUGE only by text
            if recalls:
                metrics = " | ".join(f"{value:.1f}" for value in recalls.values())
                lines.append(f"| {direction.replace('_', ' ')} | {stage.replace('_', '-')} | {metrics} |")
    return "\n".join(lines) + "\n"


def _table(values: Mapping[str, object]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())
