"""The teacher, the weighted queue, TgD and FgD against loops in float64."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.objectives.distillation import EmaTeacher, FeatureQueue, fgd_loss, tgd_loss, weighted_targets
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import tiny_batch, tiny_model

pytestmark = PROOFS


def unit_rows(count: int, seed: int, dim: int = 4) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


# --- the queue


@given(st.integers(1, 7), st.lists(st.integers(1, 9), max_size=6))
def test_queue_holds_the_latest_features_with_weights_by_age(size: int, batches: list[int]) -> None:
    queue, history = FeatureQueue(size, 4, decay=0.5), []
    for step, count in enumerate(batches):
        image, text, ids = unit_rows(count, 2 * step), unit_rows(count, 2 * step + 1), torch.arange(count) + 10 * step
        queue.push(image, text, ids)
        history += [(step, *item) for item in zip(image, text, ids, strict=True)]
    # From the oldest slot on, the queue reads like the end of the history.
    order = [(int(queue.cursor) + slot) % size for slot in range(size)]
    written = [slot for slot in order if queue.weight[slot] > 0]
    kept = history[-size:]
    assert len(written) == len(kept)
    for slot, (step, image, text, image_id) in zip(written, kept, strict=True):
        assert torch.equal(queue.image[slot], image)
        assert torch.equal(queue.text[slot], text)
        assert queue.image_ids[slot] == image_id
        assert float(queue.weight[slot]) == 0.5 ** (len(batches) - step)


def test_features_one_step_old_weigh_the_decay_and_those_of_the_batch_one() -> None:
    """What is queued decays by 0.99 every iteration: after one step it weighs 0.99, after two 0.99 squared."""
    queue, seen = FeatureQueue(6, 4), []
    for step in range(3):
        ids = torch.tensor([10 * step, 10 * step + 1])
        seen.append(weighted_targets(ids, ids, queue)[1].tolist())
        queue.push(unit_rows(2, step), unit_rows(2, step + 9), ids)
    assert seen[0] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert seen[1] == same([1, 1, 0.99, 0.99, 0, 0, 0, 0])
    assert seen[2] == same([1, 1, 0.99**2, 0.99**2, 0.99, 0.99, 0, 0])


# --- TgD


def filled_queue() -> FeatureQueue:
    """Five slots, four of them written: images 7 and 1 two steps ago, 8 and 1 one step ago."""
    queue = FeatureQueue(5, 4, decay=0.5)
    queue.push(unit_rows(2, 10), unit_rows(2, 11), torch.tensor([7, 1]))
    queue.push(unit_rows(2, 12), unit_rows(2, 13), torch.tensor([8, 1]))
    return queue


def plain_tgd(
    image: Tensor, text: Tensor, teacher_image: Tensor, teacher_text: Tensor, ids: list[int],
    queue: list[tuple[Tensor, Tensor, int, float]], temperature: Tensor, alpha: float,
) -> Tensor:  # fmt: skip
    """Entries of the queue as (image, text, image id, weight); only those written."""
    total, count = torch.zeros((), dtype=torch.double), len(ids)
    column_ids = ids + [entry[2] for entry in queue]
    weights = [1.0] * count + [entry[3] for entry in queue]
    for student, teacher, columns in (
        (image, teacher_image, [*teacher_text, *(entry[1] for entry in queue)]),
        (text, teacher_text, [*teacher_image, *(entry[0] for entry in queue)]),
    ):
        for i in range(count):
            exponentials = [w * (student[i].dot(c) / temperature).exp() for w, c in zip(weights, columns, strict=True)]
            its = [
                w * float((teacher[i].dot(c) / temperature.detach()).exp())
                for w, c in zip(weights, columns, strict=True)
            ]
            mass = [w * (column == ids[i]) for w, column in zip(weights, column_ids, strict=True)]
            for j in range(len(columns)):
                target = alpha * its[j] / sum(its) + (1 - alpha) * mass[j] / sum(mass)
                total = total - target * (exponentials[j] / sum(exponentials)).log() / (2 * count)
    return total


@settings(max_examples=15)
@given(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4), st.sampled_from([0.0, 0.4, 1.0]), st.booleans())
def test_tgd_and_its_gradients_equal_the_plain_sum(ids: list[int], alpha: float, empty: bool) -> None:
    queue = FeatureQueue(5, 4) if empty else filled_queue()
    entries = [
        (queue.image[i].double(), queue.text[i].double(), int(queue.image_ids[i]), float(queue.weight[i]))
        for i in range(5)
        if queue.weight[i] > 0
    ]
    students = [unit_rows(len(ids), 0).requires_grad_(), unit_rows(len(ids), 1).requires_grad_()]
    teachers = [unit_rows(len(ids), 2), unit_rows(len(ids), 3)]
    temperature = torch.tensor(0.3, requires_grad=True)
    inputs = [*students, temperature]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]

    loss = tgd_loss(
        *students,
        teacher_image_BD=teachers[0],
        teacher_text_BD=teachers[1],
        image_ids_B=torch.tensor(ids),
        queue=queue,
        temperature=temperature,
        alpha=alpha,
    )
    plain = plain_tgd(doubles[0], doubles[1], *(t.double() for t in teachers), ids, entries, doubles[2], alpha)
    assert_same(loss.double(), plain)
    for gradient, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, doubles), strict=True):
        assert_same(gradient.double(), expected)


def test_empty_entries_count_for_nothing_even_at_the_lowest_temperature() -> None:
    student, teacher, ids = unit_rows(2, 0), -unit_rows(2, 0), torch.arange(2)
    losses = [
        tgd_loss(
            student,
            student,
            teacher_image_BD=teacher,
            teacher_text_BD=teacher,
            image_ids_B=ids,
            queue=FeatureQueue(size, 4),
            temperature=torch.tensor(0.001),
        )
        for size in (1, 1000)
    ]
    assert_same(losses[0], losses[1])


def test_labels_reach_queued_features_of_the_same_image_by_weight() -> None:
    labels, weights = weighted_targets(torch.tensor([1, 2]), torch.tensor([1, 2]), filled_queue())
    assert weights.tolist() == [1, 1, 0.25, 0.25, 0.5, 0.5, 0]
    assert_same(labels[0] * 1.75, torch.tensor([1.0, 0, 0, 0.25, 0, 0.5, 0]))
    assert labels[1].tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_nothing_flows_into_the_teacher() -> None:
    student, teacher = unit_rows(2, 0).requires_grad_(), unit_rows(2, 1).requires_grad_()
    loss = tgd_loss(
        student,
        student,
        teacher_image_BD=teacher,
        teacher_text_BD=teacher,
        image_ids_B=torch.arange(2),
        queue=filled_queue(),
        temperature=torch.tensor(0.1),
    )
    (loss + fgd_loss(student, teacher)).backward()
    assert student.grad is not None
    assert teacher.grad is None


# --- FgD


def test_fgd_and_its_gradient_equal_one_minus_the_mean_cosine() -> None:
    student, teacher = unit_rows(3, 0).requires_grad_(), unit_rows(3, 1)
    doubles = student.detach().double().requires_grad_()
    plain = sum((1 - s.dot(t) for s, t in zip(doubles, teacher.double(), strict=True)), torch.zeros(())) / 3
    loss = fgd_loss(student, teacher)
    assert_same(loss.double(), plain)
    (gradient,), (expected,) = torch.autograd.grad(loss, student), torch.autograd.grad(plain, doubles)
    assert_same(gradient.double(), expected)
    assert float(fgd_loss(teacher, teacher)) == same(0)


# --- the teacher


def test_teacher_starts_as_the_student_and_follows_at_its_rate() -> None:
    student = tiny_model()
    teacher = EmaTeacher(student)
    batch = tiny_batch(2)
    with torch.no_grad():
        assert torch.equal(
            teacher.encode_image(batch.pixel_values).embed, student.encode_image(batch.pixel_values).embed
        )
        before = copy.deepcopy(dict(teacher.named_parameters()))
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    teacher.update(student, 0.9)
    for name, parameter in teacher.named_parameters():
        assert_same(parameter, 0.9 * before[name] + 0.1 * student.get_parameter(name))


def test_teacher_copies_buffers() -> None:
    student = tiny_model()
    for name in EmaTeacher.PARTS:
        setattr(student, name, nn.BatchNorm1d(2))
    teacher = EmaTeacher(student)
    student.get_submodule("image_tower")(torch.randn(8, 2))
    teacher.update(student, 0.9)
    for name, buffer in student.named_buffers():
        assert torch.equal(teacher.get_buffer(name), buffer)


def test_teacher_stays_in_evaluation_mode_and_never_learns() -> None:
    teacher = EmaTeacher(tiny_model().train())
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
