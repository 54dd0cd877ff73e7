"""The methods and outputs of transformers' CLIPModel for R2D2, so that generic tools can use it.

Pipelines read `logits_per_image`, the Trainer `loss`, sentence-transformers `get_text_features` and
`get_image_features`; tools that add tokens or adapters ask for the word embeddings.

Shapes: B images or texts, D embedding width, T text tokens, W tower width.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils.generic import can_return_tuple

from ccmb.data.seen_images import FILE as SEEN_IMAGES
from ccmb.r2d2.configuration import HUB_ARGUMENTS, R2D2Config
from ccmb.r2d2.resized_positions import resized


@dataclass
class R2D2Output(ModelOutput):
    """The model's outputs for B_t texts and B_i images; an output that was not asked for is None.

    Attributes:
        loss: scalar, GCPR plus FGR (GCPR alone without cross encoders), see `ccmb.objectives.model_loss`.
        logits_per_image: (B_i, B_t) cosine over temperature, the logits of pre-ranking.
        logits_per_text: (B_t, B_i) the same.
        scores: (B_t, B_i) match scores of the second stage in [0, 1]; cosines if the model has no second stage.
        text_embeds, image_embeds: (B, D), L2-normalised.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    scores: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None


class CommonApi:
    """The methods of the common API, for a class that is also a TwoTowers and a PreTrainedModel.

    Attributes:
        resizable: whether `resized` can change the model's sizes.
    """

    resizable = True

    @classmethod
    def from_pretrained(
        cls, name: Any, *args: Any, image_size: int | None = None, max_text_tokens: int | None = None, **kwargs: Any
    ) -> Any:
        """Open a model folder or a model on the hub, as transformers does.

        The weights keep the folder's precision unless `dtype` says otherwise. Training, measuring and exporting open
        the model by `ccmb.r2d2.loading.load_model` instead, in float32.

        Args:
            image_size, max_text_tokens: open the model for images or texts of another size, see `resized`;
                give the processor the same sizes. The sizes of a given `config` count likewise.
        """
        config = kwargs.get("config")
        if name is not None and isinstance(config, R2D2Config):  # AutoModel puts what it is given into it
            where = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
            if R2D2Config.get_config_dict(name, **where)[0].get("model_type") != R2D2Config.model_type:
                return cast(Any, super()).from_pretrained(name, *args, **kwargs)  # other towers' weights
            stored = R2D2Config.from_pretrained(name, **where)
            image_size, max_text_tokens = image_size or config.image_size, max_text_tokens or config.max_text_tokens
            kwargs["config"] = config = copy.deepcopy(config)
            config.image_size, config.max_text_tokens = stored.image_size, stored.max_text_tokens
        opened = cast(Any, super()).from_pretrained(name, *args, **kwargs)
        if image_size is None and max_text_tokens is None:
            return opened
        if isinstance(opened, tuple):  # with transformers' report of what was loaded
            return resized(opened[0], image_size, max_text_tokens), *opened[1:]
        return resized(opened, image_size, max_text_tokens)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a model folder, as transformers does.

        Where the model was opened from a folder with a record of the images that it was trained on
        (`ccmb.data.seen_images`), that goes with it, and so to the hub.
        """
        opened_from, folder = str(cast(Any, self).name_or_path or ""), Path(save_directory)
        record = Path(opened_from, SEEN_IMAGES)
        if opened_from and record.is_file() and record.resolve() != (folder / SEEN_IMAGES).resolve():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record, folder / SEEN_IMAGES)
        cast(Any, super()).save_pretrained(save_directory, *args, **kwargs)  # last, for it may upload all

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Texts (B, T) to `pooler_output`, their embeddings (B, D), and `last_hidden_state` (B, T, W).

        The embeddings are L2-normalised, so that their products are cosines.

        Raises:
            ValueError: `token_type_ids` mark a second segment, which R2D2's texts do not have.
        """
        _check_one_segment(token_type_ids)
        texts = cast(Any, self).encode_text(input_ids, attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=texts.states, pooler_output=texts.embed)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Normalised images (B, 3, S, S) to `pooler_output`, their embeddings (B, D), and `last_hidden_state`.

        The embeddings are L2-normalised; the states are (B, tokens, W).
        """
        images = cast(Any, self).encode_image(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=images.states, pooler_output=images.embed)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_loss: bool | None = None,
        rank: bool = False,
        image_ids: Tensor | None = None,
    ) -> R2D2Output:
        """Score all pairs of images and texts.

        Args:
            pixel_values: (B_i, 3, S, S) normalised images.
            input_ids, attention_mask: (B_t, T) texts.
            token_type_ids: (B_t, T) zeros, as BERT's tokenizers add them.
            return_loss: whether to compute the loss of B pairs, image n with text n. By default it is computed in
                training if there are as many images as texts.
            rank: whether to compute the second stage's `scores` of all pairs: B_i x B_t passes of the cross encoders.
            image_ids: (B,) for the loss: pairs of equal ids show the same image, and so are positives of each other.

        Raises:
            ValueError: a loss is asked for, but the images and texts do not form pairs; see also `get_text_features`.
        """
        _check_one_segment(token_type_ids)
        model, paired = cast(Any, self), len(pixel_values) == len(input_ids)
        if return_loss and not paired:
            raise ValueError(f"a loss needs pairs; there are {len(pixel_values)} images and {len(input_ids)} texts")
        wants_loss = model.training and paired if return_loss is None else return_loss
        if wants_loss and model.training:
            model.clamp_temperature()  # before the step's first use, so that other training loops need not do it
        images, texts = model.encode_image(pixel_values), model.encode_text(input_ids, attention_mask)
        cosines = texts.embed @ images.embed.T
        loss = None
        if wants_loss:
            # Objectives import the network, not the reverse: so they are imported only where a caller wants a loss.
            from ccmb import model_loss

            loss = model_loss(model, images, texts, input_ids, image_ids)
        logits = cosines / model.temperature
        return R2D2Output(
            loss=loss,
            logits_per_image=logits.T,
            logits_per_text=logits,
            scores=(model.score_pairs(images, texts) if model.can_rank else cosines) if rank else None,
            text_embeds=texts.embed,
            image_embeds=images.embed,
        )

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings; the masked-language head shares them."""
        return cast(nn.Module, cast(Any, self).text_tower.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings; `resize_token_embeddings` changes their number."""
        cast(Any, self).text_tower.set_input_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Change the number of words of the text tower and of the masked-language head, as transformers does."""
        embeddings: nn.Embedding = cast(Any, super()).resize_token_embeddings(new_num_tokens, *args, **kwargs)
        head = getattr(self, "mlm_head", None)
        if head is not None and len(head.bias) != embeddings.num_embeddings:
            missing = embeddings.num_embeddings - len(head.bias)
            head.bias = nn.Parameter(F.pad(head.bias.detach(), (0, missing)), head.bias.requires_grad)
        return embeddings


def _check_one_segment(token_type_ids: Tensor | None) -> None:
    if token_type_ids is not None and bool(torch.any(token_type_ids != 0)):
        raise ValueError("token_type_ids mark a second segment; an R2D2 reads one text at a time")


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only the inputs of each layer in training, and compute the layer again in the backward pass."""
    # The first is the name in newer versions of transformers, where the second warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
