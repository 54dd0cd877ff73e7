"""The learning rate of each weight of an R2D2: of towers layer by layer, of projections, cross encoders and heads."""

from __future__ import annotations

from torch import nn

from ccmb.core.errors import UsageError
from ccmb.objectives.config import Objectives
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import is_frozen, layers_of, parameters_by_depth
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.recipe import OptimizerRecipe

CROSS_PARTS = (
    "image_to_cross",
    "text_image_encoder",
    "image_text_encoder",
    "text_image_match",
    "image_text_match",
    "mlm_head",
    "likelihood",
)


def parameter_groups(model: R2D2Model, optimizer: OptimizerRecipe, start: float = 0.0) -> list[ParameterGroup]:
    """Towers and projections, a group for each learning rate; then cross encoders and heads.

    The first group has `optimizer.lr`: at least the projections and the temperature are in it.

    Args:
        start: share of the training after which cross encoders and heads begin to learn, see `cross_start`.

    Raises:
        UsageError: a tower that is trained has no layers for `optimizer.layer_decay`.
    """
    lr_of = tower_rates(model, optimizer)
    groups: dict[float, list[nn.Parameter]] = {optimizer.lr: []}
    cross: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.startswith(CROSS_PARTS):
            cross.append(parameter)
        else:
            groups.setdefault(lr_of.get(parameter, optimizer.lr), []).append(parameter)
    towers = [ParameterGroup(parameters, lr) for lr, parameters in groups.items()]
    return [*towers, ParameterGroup(cross, optimizer.cross_lr or optimizer.lr, start)]


def cross_start(objectives: Objectives) -> float:
    """Share of the training after which the first objective that needs cross encoders, heads or a decoder joins."""
    ranking = [objective for objective in (objectives.fgr, objectives.mlm, objectives.lm) if objective.weight]
    return min((objective.start_at for objective in ranking), default=0.0)


def tower_rates(model: R2D2Model, optimizer: OptimizerRecipe) -> dict[nn.Parameter, float]:
    """The peak learning rate of each weight of both towers.

    Of L layers the one of number l from the bottom has rate * layer_decay^(L - l), what stands before the layers
    rate * layer_decay^L, what comes after them the whole rate; as in ELECTRA (Clark et al. 2020, arXiv 2003.10555) and
    BEiT (Bao et al. 2021, arXiv 2106.08254).

    Raises:
        UsageError: a tower that is trained has no layers for `optimizer.layer_decay`.
    """
    towers: dict[str, tuple[nn.Module, float | None]] = {
        "image": (model.image_tower, optimizer.image_lr),
        "text": (model.text_tower, optimizer.text_lr),
    }
    rates: dict[nn.Parameter, float] = {}
    for name, (tower, peak) in towers.items():
        count = len(layers_of(tower))
        if optimizer.layer_decay != 1 and not count and not is_frozen(tower):
            raise UsageError(
                f"optimizer.layer_decay={optimizer.layer_decay:g}: the {name} tower has no list of layers; give "
                f"optimizer.{name}_lr instead"
            )
        for depth, parameters in enumerate(parameters_by_depth(tower)):
            lr = (peak or optimizer.lr) * optimizer.layer_decay ** max(0, count - depth)
            rates |= dict.fromkeys(parameters, lr)
    return rates
