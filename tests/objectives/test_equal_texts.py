"""Equal texts of several images in training: positives in the targets, never drawn as negatives, on any processes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccmb.data.equal_texts import KNOWN, known_texts, shared_texts, text_id
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.data.shards.stream import stream_batches
from ccmb.data.shards.write import convert_pairs
from ccmb.objectives.batch import Batch
from ccmb.objectives.collate import Collate
from ccmb.objectives.config import Objectives
from ccmb.objectives.distillation import FeatureQueue, teacher_agreement, tgd_loss
from ccmb.objectives.positives import among, identities, token_numbers
from ccmb.objectives.pre_ranking import gcpr_loss, multi_positive_targets
from ccmb.objectives.pretraining import PreTraining
from ccmb.objectives.ranking import draw_pairs, fgr_loss
from ccmb.training.distributed import all_reduce_sum, gather, world
from tests.helpers.processes import run_in_processes
from tests.helpers.shard_folders import open_folder, write_pairs
from tests.helpers.tiny import SIZE, TEXTS, tiny_batch, tiny_model, tiny_processor

# Image 0 has texts a and b, 1 has a, 2 has c, 3 has b and c; the batch shows 0 with b, 1 with a, 2 with c, 3 with b.
A, B, C = TEXTS[:3]
SAMPLES = [Sample("0", (A, B)), Sample("1", (A,)), Sample("2", (C,)), Sample("3", (B, C))]
SHOWN = (B, A, C, B)
TEXTS_OF_IMAGES = [
    [1, 1, 0, 1],
    [0, 1, 0, 0],
    [0, 0, 1, 0],
    [1, 0, 1, 1],
]  # does the column's text fit the row's image?


def batch_of(samples: list[Sample] = SAMPLES, shown: tuple[str, ...] = SHOWN) -> Batch:
    """The batch that training would make of these samples when it draws these texts."""
    pixels = np.random.default_rng(0).integers(0, 255, (len(samples), SIZE, SIZE, 3)).astype(np.uint8)
    items = [(pixels[index], text, index) for index, text in enumerate(shown)]
    batch, unreadable = Collate(tiny_processor(), samples)(items)  # type: ignore[arg-type]
    assert batch is not None
    assert not unreadable
    return batch


def test_a_text_fits_every_image_that_is_known_to_have_it() -> None:
    known = identities(batch_of())
    assert known.texts_of_images().long().tolist() == TEXTS_OF_IMAGES
    assert known.images_of_texts().long().tolist() == torch.tensor(TEXTS_OF_IMAGES).T.tolist()


def test_only_texts_of_several_images_are_told_and_each_once() -> None:
    number_of = {text: text_id(text) for text in (A, B, C)}
    assert shared_texts(SAMPLES) == {0: (number_of[A], number_of[B]), 1: (number_of[A],), 2: (number_of[C],),
                                     3: (number_of[B], number_of[C])}  # fmt: skip
    assert shared_texts([Sample("0", (A, A)), Sample("0", (A,)), Sample("1", (B,))]) == {}
    assert known_texts(A, (number_of[A], number_of[B])) == [number_of[A], number_of[B]] + [-1] * (KNOWN - 2)
    assert len(known_texts(A, range(100))) == KNOWN


@pytest.mark.parametrize("seed", range(3))
def test_among_equals_a_plain_search(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    known, values = torch.randint(-1, 9, (5, 3), generator=generator), torch.randint(-1, 9, (7,), generator=generator)
    wanted = [[value >= 0 and value in row for value in values.tolist()] for row in known.tolist()]
    assert among(known, values).tolist() == wanted


def test_texts_of_equal_tokens_are_equal_where_nobody_says() -> None:
    batch = tiny_batch(4)
    ids, mask = batch.input_ids, batch.attention_mask
    padded = torch.cat([ids, torch.zeros_like(ids)], 1), torch.cat([mask, torch.zeros_like(mask)], 1)
    assert torch.equal(token_numbers(ids, mask), token_numbers(*padded))
    assert len(token_numbers(ids, mask).unique()) == 4
    assert not torch.equal(token_numbers(ids, mask), token_numbers(ids.flip(1), mask.flip(1)))
    twice = batch.rows([0, 1, 0, 2])
    twice = replace(twice, image_ids=torch.arange(4))
    assert identities(twice).texts_of_images().long().tolist() == [
        [1, 0, 1, 0],
        [0, 1, 0, 0],
        [1, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_gcpr_shares_the_mass_among_equal_texts() -> None:
    """By hand: each row's target is even over what fits, and the two ways are each other's transpose."""
    known, image, text = identities(batch_of()), unit_rows(4, 8).double(), unit_rows(4, 8, seed=1).double()
    fits = torch.tensor(TEXTS_OF_IMAGES).double()
    expected = torch.zeros((), dtype=torch.double)
    for rows, columns, positives in ((image, text, fits), (text, image, fits.T)):
        log_probability = (rows @ columns.T / 0.1).log_softmax(1)
        expected -= (positives / positives.sum(1, keepdim=True) * log_probability).sum(1).mean() / 2
    targets = multi_positive_targets(known.texts_of_images()), multi_positive_targets(known.images_of_texts())
    loss = gcpr_loss(image, text, torch.tensor(0.1), targets[0], image_targets_RB=targets[1])
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)


def test_a_batch_of_one_text_has_nothing_to_learn_instead_of_ln_2() -> None:
    """Two images with one text: a perfect model has no loss left in FGR, and GCPR is at its least."""
    batch = batch_of([Sample("0", (A,)), Sample("1", (A,))], (A, A))
    known = identities(batch)
    fits, of_images = known.texts_of_images(), known.images_of_texts()
    assert fits.all()
    assert of_images.all()
    scores = torch.zeros(2, 2)
    pairs = draw_pairs(
        scores, scores, fits, torch.arange(2), torch.rand(2, 2), hardness=1.0, image_positives_RB=of_images
    )
    certain = torch.tensor([[-50.0, 50.0]]).expand(len(pairs.labels), 2)
    assert float(fgr_loss(certain, certain, pairs.labels)) == pytest.approx(0, abs=1e-6)
    before = draw_pairs(scores, scores, torch.eye(2, dtype=torch.bool), torch.arange(2), torch.rand(2, 2))
    level = torch.zeros(len(before.labels), 2)  # the same two inputs are labelled both ways
    assert float(fgr_loss(level, level, before.labels)) == pytest.approx(math.log(2))


def test_fgr_never_draws_an_equal_text_or_its_image() -> None:
    known = identities(batch_of())
    fits, of_images = known.texts_of_images(), known.images_of_texts()
    scores = 5 * fits.float()  # the likeliest to be drawn are those that must not be
    drawn_texts, drawn_images = set(), set()
    for seed in range(200):
        uniform = torch.rand(4, 2, generator=torch.Generator().manual_seed(seed))
        pairs = draw_pairs(scores, scores.T, fits, torch.arange(4), uniform, hardness=1.0, image_positives_RB=of_images)
        _, wrong_image, _ = pairs.image_index.view(3, 4)
        _, _, wrong_text = pairs.text_index.view(3, 4)
        drawn_texts |= {(row, int(text)) for row, text in enumerate(wrong_text)}
        drawn_images |= {(row, int(image)) for row, image in enumerate(wrong_image)}
    unfit = {(row, column) for row in range(4) for column in range(4) if not TEXTS_OF_IMAGES[row][column]}
    assert drawn_texts == unfit
    assert drawn_images == {(column, row) for row, column in unfit}


def test_tgd_knows_equal_texts_of_the_batch_and_of_the_queue() -> None:
    """With alpha 0 the targets are the labels: by hand, over a queue that holds text b of another image."""
    known, queue = identities(batch_of()), FeatureQueue(3, 8, decay=1.0).double()
    queue.push(unit_rows(3, 8, seed=5).double(), unit_rows(3, 8, seed=6).double(), torch.tensor([7, 8, 0]),
               torch.tensor([text_id(B), text_id("别的"), text_id(A)]))  # fmt: skip
    image, text, all_image, all_text = (unit_rows(4, 8, seed=seed).double() for seed in range(4))
    b, another = 1, 0
    queued_texts = [
        [b, another, 1],
        [0, another, 1],
        [0, another, 0],
        [b, another, 0],
    ]  # images 0 and 3 have b; 0, 1: a
    queued_images = [[b, another, 1], [0, another, 1], [0, another, 0], [b, another, 0]]  # rows say b, a, c, b
    queued_images[1][2] = 1  # a was the text of queued image 0
    fits = torch.tensor(TEXTS_OF_IMAGES)
    expected = torch.zeros((), dtype=torch.double)
    for rows, columns, positives, queued in (
        (image, torch.cat([all_text, queue.text]), fits, queued_texts),
        (text, torch.cat([all_image, queue.image]), fits.T, queued_images),
    ):
        all_positives = torch.cat([positives, torch.tensor(queued)], 1).double()
        log_probability = (rows @ columns.T / 0.2).log_softmax(1)
        expected -= (all_positives / all_positives.sum(1, keepdim=True) * log_probability).sum(1).mean() / 2
    loss = tgd_loss(
        image,
        text,
        teacher_image_BD=all_image,
        teacher_text_BD=all_text,
        image_ids_B=known.image_ids_B,
        queue=queue,
        temperature=torch.tensor(0.2),
        alpha=0.0,
        known=known,
    )
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)


def test_a_checkpoint_from_before_has_a_queue_of_unknown_texts() -> None:
    queue, state = FeatureQueue(3, 4), FeatureQueue(3, 4).state_dict()
    del state["text_ids"]
    queue.load_state_dict(state)
    assert queue.text_ids.tolist() == [-1, -1, -1]


def test_the_teacher_agrees_where_it_names_an_equal_text() -> None:
    known = identities(batch_of())
    images, texts = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]  # image 0 is nearest to text 1, and 1 to 0
    ids = known.image_ids_B, known.text_ids_BW
    # Image 0 has a, but image 1 has not b: of eight answers, image 1 to text 0 and text 0 to image 1 are wrong.
    assert float(teacher_agreement(images, texts, *ids)) == 0.75
    assert float(teacher_agreement(images, texts, ids[0])) == 0.5


def without_shared_texts() -> Batch:
    return batch_of([Sample(str(n), (text,)) for n, text in enumerate(TEXTS[:4])], TEXTS[:4])


def test_without_equal_texts_losses_are_what_they_were() -> None:
    """As where only the image tells positives, the rule of the paper."""
    batch = without_shared_texts()
    known = identities(batch)
    assert torch.equal(known.texts_of_images(), torch.eye(4, dtype=torch.bool))
    assert torch.equal(known.images_of_texts(), torch.eye(4, dtype=torch.bool))


def two_steps() -> dict[str, Tensor]:
    """Losses and the queue of this process's rows, after a first step that fills the queue, and who fits whom."""
    batch, ranks = batch_of(), world().size
    rows = world().rows(len(SHOWN) // ranks)
    batch = batch.rows(list(range(rows.start, rows.stop)))
    objectives = Objectives.model_validate({"tgd": {"queue_size": 6}})
    training = PreTraining(tiny_model(seed=1), objectives, tiny_processor().tokenizer.mask_token_id).train()
    for seed in (3, 4):
        losses, _ = training.losses(batch, 0.5, torch.Generator().manual_seed(seed))
    known, queue = identities(batch), training.queue
    assert queue is not None
    return {name: all_reduce_sum(loss.detach()) / ranks for name, loss in losses.items()} | {
        "texts of images": gather(known.texts_of_images()),
        "images of texts": gather(known.images_of_texts()),
        "queued texts": queue.text_ids.clone(),
    }


def test_two_processes_know_of_each_others_equal_texts(tmp_path: Path) -> None:
    """The batch is cut between images 1 and 2, so that each text has its equal on the other process."""
    one = two_steps()
    assert one["texts of images"].long().tolist() == TEXTS_OF_IMAGES
    assert one["queued texts"].tolist().count(text_id(B)) == 3  # of the second batch, and the end of the first
    for rank in run_in_processes(2, two_steps, tmp_path):
        for name, value in one.items():
            if value.is_floating_point():  # losses are float32: six digits, less what sums over another order cost
                assert float(rank[name]) == pytest.approx(float(value), rel=1e-5), name
            else:
                assert torch.equal(rank[name], value), name


def test_shards_tell_of_all_texts_of_a_sample(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 12)
    lines = [{"image": f"{number}.png", "texts": [A, f"第{number}句"]} for number in range(12)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert_pairs(pairs, ImageSource.open(pairs.parent / "images"), tmp_path / "shards", None, ["texts"], 12)
    stream = open_folder(tmp_path / "shards", 12, 1, 1)
    collate = Collate(tiny_processor())
    [(batch, _)] = stream_batches(stream, SIZE, 0, 1, collate, collate.merge)
    assert batch is not None
    assert batch.text_ids is not None
    assert {text_id(text) for text in batch.texts} == set(batch.text_ids[:, 0].tolist())
    assert all(text_id(A) in row for row in batch.text_ids.tolist())
    of_a = torch.tensor([text == A for text in batch.texts])
    assert 0 < of_a.sum() < 12
    assert identities(batch).texts_of_images()[:, of_a].all()  # every image has it, whatever was drawn for it
