"""Nested random subsets of a finished corpus: the images whose sample position is below the share.

See `ccmb.corpus.base.sampling`.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccmb.core.config.recipe_files import load_recipe, save_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import sole_use
from ccmb.core.progress import progress
from ccmb.corpus.analysis.reader import IndexedImage, indexed_images
from ccmb.corpus.assembly.data_card import write_cards
from ccmb.corpus.assembly.manifest import CORPUS_MANIFEST, read_corpus_manifest, write_corpus_manifest
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.corpus.assembly.schema import images_schema, pairs_schema, write_rows
from ccmb.corpus.assembly.write_shards import INDEX, SHARDS, location_in_shards, sample_json, shard_name
from ccmb.corpus.base.funnel import read_funnel
from ccmb.data.images.source import ImageSource
from ccmb.data.shards.locate import MANIFEST
from ccmb.data.shards.write import write_manifest, write_shard

OUTSIDE = "not in the subset"
ROWS_PER_INDEX = 100_000


def sample_corpus(corpus: Path, share: float, out: Path) -> dict[str, Any]:
    """Write about a share of the images as a corpus with its own shards, index, cards and manifest.

    If `corpus` is itself a subset, the share still means a share of the whole corpus. So subsets are nested.

    Returns:
        The manifest.

    Raises:
        UsageError: the share is not in (0, 1], or greater than the share of `corpus`.
        CcmbError: `corpus` is incomplete, `out` holds a corpus already, or no image is in the subset.
    """
    manifest = read_corpus_manifest(corpus)
    recipe = load_recipe(ZeroRecipe, corpus / "recipe.yaml", settled=False)
    corpus_share = manifest.get("share", 1.0)
    if not 0 < share <= corpus_share:
        raise UsageError(
            f"--share {share}: give a share greater than 0 and at most {corpus_share}, the share of this corpus"
        )
    if (out / CORPUS_MANIFEST).exists():
        raise CcmbError(f"{out}: this folder holds a corpus already; remove it or choose another one")
    with sole_use(out, "writes into this folder"):
        for folder in (out / SHARDS, out / INDEX):
            shutil.rmtree(folder, ignore_errors=True)
        return _Subset(corpus, share, out, recipe).write(manifest)


class _Subset:
    def __init__(self, corpus: Path, share: float, out: Path, recipe: ZeroRecipe) -> None:
        self.corpus, self.share, self.out, self.recipe = corpus, share, out, recipe
        self.fields: Counter[str] = Counter()
        self.images = 0
        self._open: tuple[str, ImageSource] | None = None

    def write(self, manifest: dict[str, Any]) -> dict[str, Any]:
        shards, chosen = [], self._chosen(manifest["pictures"])
        for shard_index in itertools.count():
            files = [files for _, files in itertools.islice(chosen, self.recipe.shards.samples_per_shard)]
            if not files:
                break
            shards.append(write_shard(self.out / SHARDS / shard_name(shard_index), files))
        if not shards:
            raise CcmbError(f"{self.corpus}: none of {manifest['pictures']:,} images is in a share of {self.share}")
        write_manifest(self.out / SHARDS / MANIFEST, shards)
        pairs = sum(self.fields.values())
        funnel = read_funnel(self.corpus / "funnel.json")
        funnel.add("subset", "pictures", {None: self.images, OUTSIDE: manifest["pictures"] - self.images})
        funnel.add("pairs of the subset", "pairs", {None: pairs, OUTSIDE: manifest["pairs"] - pairs})
        funnel.write(self.out / "funnel.json")
        save_recipe(self.recipe, self.out / "recipe.yaml")
        counts = {
            "pictures": self.images, "pairs": pairs, "shards": len(shards),
            "pairs_by_field": {name: self.fields[name] for name in manifest["pairs_by_field"] if self.fields[name]},
            "model": manifest["model"], "share": self.share,
        }  # fmt: skip
        write_cards(self.out, counts, funnel, self.recipe)
        write_corpus_manifest(self.out, counts)
        return read_corpus_manifest(self.out)

    def _chosen(self, total: int) -> Iterator[tuple[IndexedImage, dict[str, Any]]]:
        """The images of the subset with their files. Their index is written after the last one of a part."""
        with progress("sample", total, "images") as advance:
            images = self._below(advance)
            for part_index in itertools.count():
                part = list(itertools.islice(images, ROWS_PER_INDEX))
                if not part:
                    return
                for image in part:
                    location = location_in_shards(self.images, self.recipe.shards.samples_per_shard)
                    yield image, self._files(image, location["sample"])
                    image.row.update(location)
                    self.images += 1
                    self.fields.update(pair["field"] for pair in image.pairs)
                rows, pairs = [image.row for image in part], [pair for image in part for pair in image.pairs]
                write_rows(rows, images_schema(), self.out / INDEX / f"pictures-{part_index:06d}.parquet")
                write_rows(pairs, pairs_schema(), self.out / INDEX / f"pairs-{part_index:06d}.parquet")

    def _below(self, advance: Any) -> Iterator[IndexedImage]:
        for image in indexed_images(self.corpus):
            if image.row["place"] < self.share:
                yield image
            advance(1)

    def _files(self, image: IndexedImage, key: str) -> dict[str, Any]:
        shard = image.row["shard"]
        if self._open is None or self._open[0] != shard:
            self._open = shard, ImageSource.open(self.corpus / SHARDS / shard)
        data = self._open[1].raw(f"{image.row['sample']}.jpg")
        return {"__key__": key, "jpg": data, "json": sample_json(image.row["key"], image.texts)}
