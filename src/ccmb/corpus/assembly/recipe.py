"""The recipe of a whole corpus: the recipe of its pairs, and the settings of its images and shards."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.recipe_files import RECIPES
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.download.run import DownloadOptions
from ccmb.data.images.near_duplicates import COLOUR, DISTANCE

CORPUS_RECIPES = RECIPES / "corpus"


class ImageDedupRecipe(ConfigBase):
    """Which images are near-duplicates, see `ccmb.data.images.near_duplicates`. Our choices, by measurement."""

    RETIRED: ClassVar = {"distance": "max_hamming_distance", "colour": "max_color_difference"}
    max_hamming_distance: int = Field(
        DISTANCE,
        ge=0,
        le=31,
        description="maximum number of different bits (of 64) between the shapes of near-duplicates",
    )
    max_color_difference: int = Field(
        COLOUR, ge=0, le=255, description="maximum difference in any cell of their colours"
    )
    merge_texts: bool = Field(
        True, description="the image that is kept gets the texts of the others; off: these are dropped"
    )


class ScoreRecipe(ConfigBase):
    """How a model scores pairs: by the cosine of image and text. The model is given when the corpus is built."""

    RETIRED: ClassVar = {"least": "min_score", "batch": "batch_size"}
    min_score: float | None = Field(
        None, ge=-1, le=1, description="pairs with a lower score are dropped; empty: scores are only noted"
    )
    batch_size: int = Field(64, gt=0, description="how many images or texts are encoded together")


class ShardRecipe(ConfigBase):
    RETIRED: ClassVar = {"samples": "samples_per_shard"}
    samples_per_shard: int = Field(5000, gt=0, description="images in each shard but the last")


class ZeroRecipe(CorpusRecipe):
    """From logs and pages to shards."""

    RETIRED: ClassVar = {"copies": "image_dedup"}
    download: DownloadOptions = DownloadOptions()
    image_dedup: ImageDedupRecipe = ImageDedupRecipe()
    score: ScoreRecipe = ScoreRecipe()
    shards: ShardRecipe = ShardRecipe()

    def pair_recipe(self) -> CorpusRecipe:
        """The settings that the pairs depend on. A change of the others does not rebuild the pairs."""
        return CorpusRecipe.model_validate({name: getattr(self, name) for name in CorpusRecipe.model_fields})

    def result_settings(self) -> dict[str, object]:
        """The settings that the corpus depends on. How fast images are fetched is not among them."""
        waits = {"network", "max_pending", "decode_threads", "deadline"}
        return self.model_dump(mode="json", exclude={"download": waits})


def find_corpus_recipe(name: str) -> Path:
    """The path of a recipe: as given, or of a shipped one by name; see `ccmb.core.config.recipe_files.find_recipe`."""
    from ccmb.core.config.recipe_files import find_recipe

    return find_recipe(name, CORPUS_RECIPES)
