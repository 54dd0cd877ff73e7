"""Published models that are worth knowing: what `ccmb models` lists.

Licences, sizes and languages are those of mteb 2.26.24's registry, of November 2026, or of the model's repository,
unless `unchecked` is said;
figures are of the sources that are named.
"""

from __future__ import annotations

from dataclasses import dataclass

UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published model.

    Attributes:
        name: what `--model` takes, or `--ranker` for a second stage.
        licence: of the weights.
        parameters: how many.
        languages: of the texts.
        good_for: in a few words.
        ranks: whether it is a second stage.
    """

    name: str
    licence: str
    parameters: str
    languages: str
    good_for: str
    ranks: bool = False

    @property
    def fetch(self) -> str:
        """The shell command that fetches it; empty where its library does that by itself."""
        name = self.name.partition("?")[0].rpartition(":")[2]
        return "" if self.name.startswith("open_clip:") else f"hf download {name}"


KNOWN = (
    KnownModel(
        "OFA-Sys/chinese-clip-vit-base-patch16", UNCHECKED, "188M", "Chinese", "search on a CPU; the name people know"
    ),
    KnownModel(
        "qihoo360/fg-clip2-base",
        "Apache-2.0",
        "about 0.4B",
        "Chinese, English",
        "best of its size in Chinese: Flickr30k-CNA, text to image R@1 69.9 (its paper); long texts",
    ),
    KnownModel("google/siglip2-base-patch16-224", "Apache-2.0", "375M", "many", "search in many languages on a CPU"),
    KnownModel(
        "google/siglip-base-patch16-256-multilingual",
        "Apache-2.0",
        "371M",
        "many",
        "the same, older; XM3600 in Chinese, text to image R@1 47.2 (mteb's results)",
    ),
    KnownModel(
        "sentence_transformers:google/embeddinggemma-2",
        "Gemma terms",
        "440M",
        "many",
        "best of the small: XM3600 in Chinese, text to image R@1 68.0 (mteb's results); ?dim=256 for short vectors",
    ),
    KnownModel(
        "sentence_transformers:tencent/WeMM-Embedding-2B", "Apache-2.0", "2.2B", "Chinese, English", "quality on a GPU"
    ),
    KnownModel(
        "sentence_transformers:Qwen/Qwen3-VL-Embedding-2B",
        "Apache-2.0",
        "2.1B",
        "over 30",
        "quality on a GPU; MMEB-V2 73.2 (its report)",
    ),
    KnownModel(
        "cross_encoder:Qwen/Qwen3-VL-Reranker-2B",
        "Apache-2.0",
        "2.1B",
        "over 30",
        "ranks behind any first stage, on a GPU",
        ranks=True,
    ),
    KnownModel(
        "cross_encoder:jinaai/jina-reranker-m0", "CC-BY-NC-4.0", "2.4B", "many", "ranks; not for business", ranks=True
    ),
    KnownModel("open_clip:PE-Core-B-16/meta", UNCHECKED, UNCHECKED, "English", "English; open_clip needs torchvision"),
)


def which_model() -> str:
    """What to say where no model is named."""
    return f"name one with --model, such as {KNOWN[0].name}; `ccmb models` lists more"
