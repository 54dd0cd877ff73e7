"""Named choices that configurations, recipes and the command line share."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ccmb.core.errors import UsageError, did_you_mean

# The objectives of pre-training, in the order of the paper, and as it writes them; last, those that it does not have.
# See `ccmb.objectives.config`.
ObjectiveName = Literal["gcpr", "fgr", "mlm", "tgd", "fgd", "lm", "tokenwise"]
OBJECTIVE_NAMES: dict[ObjectiveName, str] = {
    "gcpr": "GCPR",
    "fgr": "FGR",
    "mlm": "MLM",
    "tgd": "TgD",
    "fgd": "FgD",
    "lm": "LM",
    "tokenwise": "Token-wise",
}
NOT_THE_PAPERS: tuple[ObjectiveName, ...] = ("lm", "tokenwise")

# How the second stage scores a pair; `ccmb.inference.scoring` defines each rule.
RankingRule = Literal["sum", "log_odds"]
# Which output of the image tower is projected into the shared space; see `R2D2Config`.
ImagePooling = Literal["first", "tower", "mean"]
# And which of the text tower.
TextPooling = Literal["first", "mean"]

# A licence: an identifier, as in SPDX's list, or an expression of several.
LICENSE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9.+() _-]{0,99}"

# The precision in which the second stage chooses; auto is bf16 if the processor computes it natively, else fp32.
Precision = Literal["auto", "fp32", "bf16", "int8"]

# The precision of the weights of an export; see `ccmb.r2d2.onnx.graphs`.
ExportPrecision = Literal["fp32", "int8"]

# How several processes train one network; see `ccmb.training.parallel`.
Strategy = Literal["ddp", "fsdp"]

# How padding counts in late interaction. "official", as in Wukong's code: a padded text token is a zero vector, and the
# best partner of an image token whose cosines are all negative. "exact": it is no partner.
Padding = Literal["exact", "official"]

# Whether a model has been trained on the set that it is measured on.
Setting = Literal["zero-shot", "fine-tuned", "unstated"]

# Which results of retrieval are right, and how ties count; see `ccmb.inference.answers`.
Convention = Literal["equal_texts", "official"]

# How a caption is decoded; see `ccmb.tasks.captioning.decoding`.
Decode = Literal["beam", "greedy", "sample"]

# How a flow is followed from noise to images; see `ccmb.r2d2.generative.diffusion`.
Solver = Literal["euler", "heun"]


def one_of(key: str, value: str, choices: Any) -> Any:
    """The value, if a Literal has it.

    Raises:
        UsageError: the Literal lacks the value; the message names the key and the choices.
    """
    known = list(get_args(choices))
    if value not in known:
        raise UsageError(f"{key} is {value!r}{did_you_mean(str(value), known)}; give one of {', '.join(known)}")
    return value


PLUS = " + "  # between the names of two models that are two stages
