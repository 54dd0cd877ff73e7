"""Open any model by its name: own runs and folders, hub ids, two-tower models, open_clip, stored features."""

from __future__ import annotations

from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, urlencode

from torch import nn

from ccmb.core.choices import PLUS
from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError
from ccmb.fetch.hub import MODELSCOPE, local_name
from ccmb.inference.interface import TwoStageModel, load_network
from ccmb.inference.models.base import Model
from ccmb.inference.models.cross_encoder import CROSS_ENCODER, CrossEncoderRanker
from ccmb.inference.models.fg_clip2 import KIND as FG_CLIP2
from ccmb.inference.models.fg_clip2 import FgClip2Model
from ccmb.inference.models.late import LATE, LateInteraction, late_ranker, two_stages
from ccmb.inference.models.official_checkpoint import converted_folder, is_checkpoint
from ccmb.inference.models.open_clip import OPEN_CLIP, OpenClipModel
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.models.sentence_transformers import SENTENCE_TRANSFORMERS, SentenceTransformerModel, options_of
from ccmb.inference.models.stored_features import StoredFeatures, is_features
from ccmb.inference.models.three_stages import ThreeStages
from ccmb.inference.models.transformers_clip import TwoTowersModel, open_two_towers
from ccmb.inference.models.two_models import PairRanker, TwoModels
from ccmb.inference.models.wukong import WUKONG, open_wukong
from ccmb.inference.stages import DEFAULT_KEEP, EXACT_OPTIONS, RankOptions
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.export_manifest import is_export
from ccmb.r2d2.generative.captioner import has_captioner, load_captioner
from ccmb.r2d2.generative.generator import has_generator, load_generator
from ccmb.r2d2.loading import model_folder
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.sources import read_config
from ccmb.r2d2.processing import R2D2Processor

RANKERS = (CROSS_ENCODER, LATE)  # prefixes of second stages
PREFIXES = (OPEN_CLIP, SENTENCE_TRANSFORMERS, WUKONG, *RANKERS)  # of names that are no folders or hub ids


def open_model(
    name: str | Path, context_length: int | None = None, options: RankOptions = EXACT_OPTIONS, *, fast: bool = False
) -> Model:
    """Open a model by the name that a user gives.

    Args:
        name: a run, a model folder or a hub id, of R2D2 or of a two-tower model that transformers knows; an official
            checkpoint, `FILE.pth?tokenizer=vocab.txt`; a folder of stored features; `open_clip:ARCHITECTURE/WEIGHTS`;
            or `sentence_transformers:NAME`. `A + B` ranks the candidates of A by B, see `open_ranker`, and
            `A + late:B?keep=16 + C` the 16 of them that late interaction chooses. `LABEL=` in front gives it a name of
            its own.
        context_length: longest text in tokens; by default what the model was made for.
        options: how a second stage is computed, if there is one.
        fast: compute with an R2D2's int8 export, see `ccmb.r2d2.onnx.export.fast_export`.

    Raises:
        UsageError: it is a model of another kind, the context length does not suit it, or `fast` does not.
        CcmbError: it is not there or not whole; the message names it.
    """
    label, source = label_and_source(str(name))
    if source.startswith(MODELSCOPE):
        source = local_name(source)
    if PLUS in source:
        if options != EXACT_OPTIONS:
            raise UsageError(
                f"{source}: precision, cascade and ranking rule are of an R2D2's own second stage; leave them out"
            )
        return _open_stages(label, source, context_length, fast)
    if source.startswith(RANKERS):
        raise UsageError(f"{source}: ranks pairs and encodes nothing; give it as a second stage: MODEL + {source}")
    if is_checkpoint(source):
        source = str(converted_folder(label, source))
    source, dim = _without_dim(label, source)
    if is_r2d2(source):
        network, processor = _load(source, fast)
        cast(nn.Module, network).to(choose_device("auto"))
        return R2D2Stages(
            network,
            processor,
            name=label,
            context_length=context_length,
            options=options,
            source=source,
            dim=dim,
        )
    if dim is not None:
        raise UsageError(f"{label}: dim is of R2D2 and of sentence_transformers:NAME; leave it out")
    if fast:
        raise UsageError(f"--fast is of R2D2, of which there are int8 exports; leave it out for {source}")
    if source.startswith(OPEN_CLIP):
        return OpenClipModel(label, source.removeprefix(OPEN_CLIP), context_length)
    if source.startswith(SENTENCE_TRANSFORMERS):
        return SentenceTransformerModel(label, source.removeprefix(SENTENCE_TRANSFORMERS), context_length)
    if source.startswith(WUKONG):
        return open_wukong(label, source.removeprefix(WUKONG), context_length)
    if is_features(Path(source)):
        return StoredFeatures(label, Path(source), context_length)
    adapter = FgClip2Model if read_config(source).model_type == FG_CLIP2 else TwoTowersModel
    return open_two_towers(label, source, context_length, adapter)


def _without_dim(name: str, source: str) -> tuple[str, int | None]:
    """A name without `?dim=`, and the dimension; other libraries' names keep their options.

    Raises:
        UsageError: the dimension is no number, or there is another option.
    """
    if "?" not in source or source.startswith(PREFIXES) or PLUS in source:
        return source, None
    path, options = options_of(name, source, ("dim",))
    return path, _whole(name, "dim", options["dim"])


def _whole(name: str, key: str, value: str) -> int:
    """A number of 1 or more.

    Raises:
        UsageError: it is none.
    """
    if not value.isdigit() or not int(value):
        raise UsageError(f"{name}: {key}={value} is no number of 1 or more")
    return int(value)


def _open_stages(label: str, source: str, context_length: int | None, fast: bool) -> TwoModels:
    """A first stage with the stages behind it."""
    first, ranker = source.split(PLUS, 1)
    return _with_stages(open_model(first.strip(), context_length, fast=fast), ranker, label)


def _with_stages(first: Model, ranker: str, name: str = "") -> TwoModels:
    """A model with one stage behind it, or two of which the first is late interaction.

    Raises:
        UsageError: there are more, or one of them cannot stand where it stands.
    """
    names = [part.strip() for part in ranker.split(PLUS)]
    if len(names) > 2:
        raise UsageError(f"{first.name}{PLUS}{ranker}: {len(names) + 1} stages; there are three at most")
    keep, names[0] = _without_keep(names[0], last=len(names) == 1)
    rankers = [open_ranker(part, first) for part in names]
    if len(rankers) == 1:
        return two_stages(first, rankers[0], name)
    late, last = rankers
    if not isinstance(late, LateInteraction):
        raise UsageError(f"{names[0]}: cannot stand between two stages; late interaction can, {LATE}NAME")
    return ThreeStages(first, late, last, keep or DEFAULT_KEEP, name)


def _without_keep(ranker: str, last: bool) -> tuple[int | None, str]:
    """How many candidates a stage leaves to the one behind it, and its name without that.

    Raises:
        UsageError: it is no number, or the stage is the last one.
    """
    path, mark, query = ranker.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if LATE not in path or "keep" not in options:
        return None, ranker
    keep = _whole(ranker, "keep", options.pop("keep"))
    if last:
        raise UsageError(f"{ranker}: keep is of late interaction in front of another stage; leave it out")
    return keep, path + (mark + urlencode(options) if options else "")


def open_text_model(name: str, context_length: int | None = None) -> Model:
    """Open a model that reads texts, be it of images too or not, to search texts by texts.

    Raises:
        UsageError: it has two stages of two models, or see `open_model`.
        CcmbError: it is not there or not whole; the message names it.
    """
    label, source = label_and_source(name)
    if PLUS in source:
        raise UsageError(f"{name}: two models; give the second stage as --ranker")
    if source.startswith(SENTENCE_TRANSFORMERS):
        path = source.removeprefix(SENTENCE_TRANSFORMERS)
        return SentenceTransformerModel(label, path, context_length, reads=("text",))
    return open_model(name, context_length)


def with_ranker(model: Model, ranker: str) -> TwoModels:
    """An open model with another second stage, see `open_ranker`, or with two, `late:B?keep=16 + C`.

    Raises:
        UsageError: it has two models already, or a ranker cannot rank.
    """
    if isinstance(model, TwoModels):
        raise UsageError(f"{model.name}: has a ranker already; leave out --ranker {ranker}")
    return _with_stages(model, ranker)


def open_ranker(name: str, first: Model | None = None) -> PairRanker:
    """Open the second stage of a model by name: `cross_encoder:NAME`, an R2D2 with cross encoders or a decoder, or the
    tokens of any R2D2, `late:NAME`.

    Args:
        first: the first stage; a ranker of the same folder takes its weights.

    Raises:
        UsageError: it cannot rank.
        CcmbError: it is not there or not whole; the message names it.
    """
    label, source = label_and_source(name)
    if source.startswith(CROSS_ENCODER):
        return CrossEncoderRanker(label, source.removeprefix(CROSS_ENCODER))
    if source.startswith(LATE):
        path, options = options_of(label, source.removeprefix(LATE), ("dim", "bits"))
        numbers = {key: _whole(label, key, value) for key, value in options.items()}
        return late_ranker(label, _opened(path, first), **numbers)
    model = _opened(name, first)
    if not (isinstance(model, R2D2Stages) and model.can_rank):
        raise UsageError(f"{name}: has no second stage; rank by an R2D2 or by {CROSS_ENCODER}NAME")
    return model


def _opened(name: str, first: Model | None) -> Model:
    """A model, which is not opened again if it is the first stage as its folder has it."""
    source = label_and_source(name)[1]
    if not isinstance(first, R2D2Stages) or not Path(source).is_dir() or not is_r2d2(source):
        return open_model(name)
    whole = isinstance(first.network, R2D2Model) and first.options in (None, EXACT_OPTIONS)
    same = whole and first.source == str(model_folder(source).resolve())
    return first if same and first.context_length == first.network.config.max_text_tokens else open_model(name)


def is_r2d2(source: str) -> bool:
    """Whether a model is an R2D2, by its files; so is a folder that holds no whole model, as of a run.

    Raises:
        CcmbError: it is not there; the message names it.
    """
    if is_checkpoint(source):
        return True
    source = _without_dim(source, source)[0]
    folder = Path(source)
    if source.startswith(PREFIXES) or PLUS in source or is_features(folder):
        return False
    if folder.is_dir() and not (folder / "config.json").is_file():
        return True
    return read_config(source).model_type == R2D2Config.model_type


def is_exported(name: str) -> bool:
    """Whether a model is an ONNX export of this package."""
    folder = Path(label_and_source(name)[1].partition("?")[0])
    return is_export(folder) or is_export(folder / "model")


def may_rank(name: str) -> bool:
    """Whether a model may have a second stage, by its files; True for a model that cannot be opened."""
    source = label_and_source(name)[1]
    if PLUS in source or source.startswith(WUKONG):
        return True
    if source.startswith(PREFIXES) or is_features(Path(source)):
        return False
    if is_checkpoint(source):
        return True
    source = source.partition("?")[0]
    try:
        if Path(source).is_dir() and not (Path(source) / "config.json").is_file():  # a run
            source = str(model_folder(source))
        config = read_config(source)
    except CcmbError:
        return True  # which opening it will say better
    return bool(getattr(config, "match_heads", False) or getattr(config, "decoder_layers", 0))


def label_and_source(name: str) -> tuple[str, str]:
    """Split `LABEL=SOURCE`. The default label is the source; for a folder, its name or that of the run.

    Raises:
        UsageError: one of the two is empty.
    """
    label, equals, source = name.partition("=")
    named = equals and not Path(name).exists() and not {*":?"} & {*label}  # a folder may be called lr=0.1
    if not named and PLUS in name:
        return PLUS.join(label_and_source(part.strip())[0] for part in name.split(PLUS)), name
    if not named and is_checkpoint(name):
        return Path(name.partition("?")[0]).stem, name
    if not named and name.startswith(PREFIXES):  # a label has no path of this machine in it
        prefix, _, model = name.partition(":")
        where = Path(model.partition("?")[0])
        return f"{prefix}:{where.name if where.exists() else model}", name
    if not named:
        folder, mark, options = name.partition("?")
        path = Path(folder)
        last = path.parent.name if path.name in ("run", "model") and path.parent.name else path.name
        label, source = f"{last}{mark}{options}" if path.is_dir() else name, name
    if not label or not source:
        raise UsageError(f"'{name}' names no model; give a folder, a hub id, or LABEL=SOURCE")
    return label, source


def _load(source: str, fast: bool) -> tuple[TwoStageModel, R2D2Processor]:
    """Load an R2D2 with its decoder or its image generator, if it has one; or its int8 export."""
    if fast:
        return load_network(source, fast=True)
    if has_generator(source):
        return load_generator(source)
    return load_captioner(source) if has_captioner(source) else load_network(source)
