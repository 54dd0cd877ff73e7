"""Sets that mteb has no tasks of, as tasks of mteb that read local folders: Flickr30k-CN, COCO-CN, MUGE and others.

    task = local_task("flickr30k-cn=downloads/flickr30k-cn", "text_to_image")
    mteb.evaluate(model, [task], cache=None)

The right answers are those of `ccmb benchmark`: a text's own image, and the images of equal texts. The main score is
`hit_rate_at_1`, the R@1 of image-text work; mteb's `recall_at_1` is the share of a query's right answers that come
first, which is another number where it has several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from ccmb.core.choices import Convention
from ccmb.inference.gallery import Gallery
from ccmb.inference.raw_items import no_states
from ccmb.inference.two_stage import Direction
from ccmb.integrations.mteb_names import MAIN_SCORE, task_name
from ccmb.tasks.common.datasets import RetrievalSet, open_set, texts_and_pairs
from datasets import Dataset, Image


def local_task(
    spec: str,
    direction: Direction,
    split: str = "test",
    fields: Sequence[str] = ("texts",),
    images: Path | None = None,
    convention: Convention = "equal_texts",
) -> AbsTaskRetrieval:
    """A task of mteb over a set of ours.

    Args:
        spec: NAME=FOLDER of a published set, or NAME=FILE of own pairs, as `ccmb benchmark --data` takes it.
        fields, images: of own pairs, see `ccmb.tasks.common.datasets.open_set`.

    Raises:
        UsageError, CcmbError: see there.
    """
    return task_of_set(open_set(spec, split, fields, images), direction, convention)


def task_of_set(opened: RetrievalSet, direction: Direction, convention: Convention = "equal_texts") -> AbsTaskRetrieval:
    """A task of mteb over an open set."""
    by_text = direction == "text_to_image"

    class LocalTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=task_name(opened.name, direction),
            description=f"{opened.name}: {direction.replace('_', ' ')} retrieval with Chinese texts, from local files.",
            dataset={"path": f"local/{opened.name}", "revision": opened.revision},
            type="Any2AnyRetrieval",
            category="t2i" if by_text else "i2t",
            modalities=["text", "image"],
            eval_splits=[opened.split],
            eval_langs=["zho-Hans"],
            main_score=MAIN_SCORE,
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            if not self.data_loaded:
                self.dataset = {"default": {opened.split: _data(opened, by_text, convention)}}
                self.data_loaded = True

    return LocalTask()


def _data(opened: RetrievalSet, by_text: bool, convention: Convention) -> Any:
    """Queries, documents and right answers as mteb holds them."""
    of_images, pairs = texts_and_pairs(opened.samples, opened.queries)
    texts = [text for of_image in of_images for text in of_image]
    image_of_text = torch.tensor([row for row, of_image in enumerate(of_images) for _ in of_image])
    items = [no_states(torch.empty(count, 0)) for count in (len(opened.samples), len(texts))]
    gallery = Gallery(items[0], items[1], image_of_text, pairs).with_convention(texts, convention)
    names = [f"image-{row}" for row in range(len(opened.samples))]
    words = [f"text-{row}" for row in range(len(texts))]
    pictured = Dataset.from_dict(
        {"id": names, "image": [{"bytes": opened.images.raw(sample.image), "path": None} for sample in opened.samples]}
    ).cast_column("image", Image())
    written = Dataset.from_dict({"id": words, "text": texts})
    queries, documents = (words, names) if by_text else (names, words)
    relevant = {}
    for row, query in enumerate(queries):
        (right_G,) = gallery.relevant(by_text, torch.tensor([row]))
        relevant[query] = {documents[item]: 1 for item in right_G.nonzero()[:, 0].tolist()}
    corpus, asked = (pictured, written) if by_text else (written, pictured)
    return {"corpus": corpus, "queries": asked, "relevant_docs": relevant, "top_ranked": None}
