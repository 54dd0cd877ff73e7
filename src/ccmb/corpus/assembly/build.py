"""Zero: from logs, pages and link lists to a corpus of shards. The steps run in order; each goes on after a stop.

out/recipe.yaml            the recipe, resolved
out/shards/, out/index/    see `ccmb.corpus.assembly.write_shards`
out/funnel.json            what each step kept, and what it dropped and why
out/README.md, .zh.md      the data card
out/manifest.json          every file with its checksum; written last
out/work/                  results of the steps: pairs, downloads, statuses; may be removed when all is done
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ccmb.core.config.recipe_files import save_recipe
from ccmb.core.config.retired_keys import renamed_recipe
from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, sole_use, write_json
from ccmb.core.hashing import sha256_of_file
from ccmb.core.journal import first_difference
from ccmb.corpus.assembly.clip_scores import Scorer, write_scores
from ccmb.corpus.assembly.data_card import write_cards
from ccmb.corpus.assembly.deduplicate_images import write_image_statuses
from ccmb.corpus.assembly.filter_pairs import write_filtered_pairs
from ccmb.corpus.assembly.held_out import HeldOutImages
from ccmb.corpus.assembly.manifest import CORPUS_MANIFEST, read_corpus_manifest, write_corpus_manifest
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.corpus.assembly.write_shards import INDEX, SHARDS, CorpusWriter, WrittenCorpus
from ccmb.corpus.base.daft_engine import run_in_process
from ccmb.corpus.base.funnel import read_funnel
from ccmb.corpus.base.recipe import FIELDS
from ccmb.corpus.download.run import download
from ccmb.corpus.inputs.tables import Inputs
from ccmb.corpus.pairs.build import FUNNEL, PAIRS, build_pairs
from ccmb.corpus.pairs.by_image import count_links, read_links
from ccmb.data.images.perceptual_hash import ImageFingerprints, fingerprints_of_images, join_fingerprints


@dataclass(slots=True)
class Extras:
    """Optional settings of a build, beside its inputs and its recipe.

    Attributes:
        ray: address of a Ray cluster that works on the tables.
        test_images: images that the corpus must not hold.
        scorer: a model that scores each pair.
        retry_failed: whether to fetch links again that failed but may succeed another day.
    """

    ray: str | None = None
    test_images: list[HeldOutImages] = field(default_factory=list)
    scorer: Scorer | None = None
    retry_failed: bool = False


def build_corpus(inputs: Inputs, recipe: ZeroRecipe, out: Path, extras: Extras | None = None) -> dict[str, Any]:
    """Build the corpus, or go on with it, and return its manifest. The same inputs and answers give the same bytes.

    It starts processes. So a script that calls it needs the guard `if __name__ == "__main__":`.

    Raises:
        CcmbError: an input cannot be read, nothing is left, or `out` holds another corpus or is in use.
    """
    extras = extras or Extras()
    with sole_use(out, "builds into this folder"):
        return _Build(inputs, recipe, out, extras).run()


class _Build:
    def __init__(self, inputs: Inputs, recipe: ZeroRecipe, out: Path, extras: Extras) -> None:
        self.inputs, self.recipe, self.out, self.extras = inputs, recipe, out, extras
        self.work = out / "work"
        self.downloads = self.work / "downloads"
        self.statuses_file = self.work / "verdicts.parquet"

    def run(self) -> dict[str, Any]:
        self._check_settings()
        self._sweep()
        build_of_pairs = (self.inputs, self.recipe.pair_recipe(), self.work / "pairs", self.extras.ray)
        run_in_process(build_pairs, *build_of_pairs)
        pairs = self.work / "pairs" / PAIRS
        links = count_links(pairs)
        download(read_links(pairs), links, self.downloads, self.recipe.download, self.extras.retry_failed)
        if self._is_whole():
            return read_corpus_manifest(self.out)
        if not self.statuses_file.exists():
            write_image_statuses(self.downloads, self._test_fingerprints(), self.recipe.image_dedup, self.statuses_file)
        write_filtered_pairs(pairs, self.downloads, self.statuses_file, self.recipe, self.work / "judged")
        if (scorer := self.extras.scorer) is not None:
            write_scores(
                self.work / "judged", self.downloads, scorer, self.recipe.score.batch_size, self.work / "scores"
            )
        writer = CorpusWriter(self.work, self.out, self.recipe.shards.samples_per_shard, self.recipe.score.min_score)
        return self._close(writer.write(), links)

    def _close(self, written: WrittenCorpus, links: int) -> dict[str, Any]:
        """Write funnel, cards and manifest, and return the manifest."""
        if not written.samples:
            kept = ", ".join(f"{count:,} {status}" for status, count in written.images.most_common())
            raise CcmbError(f"{self.out}: no image is left of {links:,} links ({kept})")
        funnel = read_funnel(self.work / "pairs" / FUNNEL)
        images = {None if status == "ok" else status: count for status, count in written.images.items()}
        funnel.add("pictures", "pictures", images, links)
        funnel.add("pairs with pictures", "pairs", written.reasons, funnel["pairs"].kept)
        funnel.write(self.out / FUNNEL)
        save_recipe(self.recipe, self.out / "recipe.yaml")
        counts = {
            "pictures": written.samples, "pairs": sum(written.pairs.values()), "shards": written.shards,
            "pairs_by_field": {name: written.pairs[name] for name in FIELDS if written.pairs[name]},
            "model": self.extras.scorer.name if self.extras.scorer else None,
        }  # fmt: skip
        write_cards(self.out, counts, funnel, self.recipe)
        write_corpus_manifest(self.out, counts)
        return read_corpus_manifest(self.out)

    def _check_settings(self) -> None:
        """Note what the corpus depends on. Refuse a folder that holds another corpus."""
        scorer = self.extras.scorer
        settings = {
            "recipe": self.recipe.result_settings(),
            # Without patterns the key is left out, as in folders that are older than it.
            "inputs": self.inputs.model_dump(mode="json", exclude=None if self.inputs.exclude else {"exclude"}),
            "test_pictures": [
                [held_out.name, len(held_out.names or held_out.images.names)] for held_out in self.extras.test_images
            ],
            "model": scorer.fingerprint if scorer else None,
        }
        path = self.work / "corpus.json"
        if not path.exists():
            write_json(path, settings)
        elif difference := first_difference(renamed_recipe(ZeroRecipe, read_json(path)), settings):
            raise CcmbError(f"{self.out}: holds a corpus with another {difference}; choose another --out or remove it")

    def _sweep(self) -> None:
        """Remove incomplete files of a killed process."""
        for left in self.out.rglob(".*.tmp"):
            if left.is_file():
                left.unlink()

    def _is_whole(self) -> bool:
        """Whether the corpus is finished with the present downloads.

        If more links have been fetched since, the results that depend on the older downloads are removed.
        """
        parts = sorted(self.downloads.glob("part-*.parquet"))
        digests = {path.name: sha256_of_file(path) for path in parts}
        note = self.work / "downloads.json"
        if note.exists() and read_json(note) != digests:
            (self.out / CORPUS_MANIFEST).unlink(missing_ok=True)
            self.statuses_file.unlink(missing_ok=True)
            for folder in (
                self.out / INDEX,
                self.out / SHARDS,
                *(self.work / entry for entry in ("judged", "scores", "shards")),
            ):
                shutil.rmtree(folder, ignore_errors=True)
        write_json(note, digests)
        if not (self.out / CORPUS_MANIFEST).exists():
            return False
        files = read_corpus_manifest(self.out)["files"]
        sizes = {path: path.stat().st_size for entry in files if (path := self.out / entry["name"]).exists()}
        return all(sizes.get(self.out / entry["name"]) == entry["bytes"] for entry in files)

    def _test_fingerprints(self) -> ImageFingerprints:
        fingerprints = [
            fingerprints_of_images(held_out.images, held_out.names or held_out.images.names)
            for held_out in self.extras.test_images
        ]
        if not fingerprints:
            return join_fingerprints([])
        return ImageFingerprints(
            *(np.concatenate([getattr(held_out, name) for held_out in fingerprints]) for name in ("shapes", "colours"))
        )
