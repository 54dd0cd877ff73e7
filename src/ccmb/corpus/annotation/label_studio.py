"""Tasks in the form that Label Studio imports, and answers in the form that it exports (JSON).

out/tasks.json, out/label-config.xml, out/pictures/    for Label Studio, whose local files are set to `out`
out/drawn.json                                         the expected label of each task; annotators do not see it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write, read_json, write_json
from ccmb.corpus.annotation.annotators import Annotators
from ccmb.corpus.annotation.tasks import AnnotationTask
from ccmb.corpus.assembly.write_shards import SHARDS
from ccmb.data.images.source import ImageSource

TASKS, DRAWN, CONFIG, IMAGES = "tasks.json", "drawn.json", "label-config.xml", "pictures"
FITS, DIFFERS, UNSURE = "符合", "不符合", "无法判断"
LABELS = {FITS: 1, DIFFERS: 0}
_XML = f"""<View>
  <Image name="image" value="$image"/>
  <Text name="text" value="$text"/>
  <Header value="文本是否符合图片？"/>
  <Choices name="fits" toName="image" choice="single" showInline="true">
    <Choice value="{FITS}"/><Choice value="{DIFFERS}"/><Choice value="{UNSURE}"/>
  </Choices>
  <Header value="没有文本时，请写一句描述图片的话"/>
  <TextArea name="caption" toName="image" maxSubmissions="1" rows="2"/>
</View>
"""


@dataclass(frozen=True, slots=True)
class AnnotatorAnswer:
    """The answer of one annotator to one task.

    Attributes:
        label: of a matching task; None: the annotator could not decide.
        caption: of a caption task.
        named: whether the export names the annotator.
    """

    task: str
    annotator: str
    label: int | None = None
    caption: str | None = None
    named: bool = True


def export_tasks(corpus: Path, tasks: Sequence[AnnotationTask], out: Path) -> None:
    """Write everything that Label Studio needs, and the tasks with their expected labels.

    Raises:
        CcmbError: `out` holds tasks already, or a shard is missing.
    """
    if (out / DRAWN).exists():
        raise CcmbError(f"{out}: holds tasks already; choose another folder or remove it")
    shards: dict[str, ImageSource] = {}
    for task in tasks:
        shard = shards.setdefault(task.shard, ImageSource.open(corpus / SHARDS / task.shard))
        with atomic_write(out / IMAGES / f"{task.sample}.jpg", "wb") as file:
            file.write(shard.raw(f"{task.sample}.jpg"))
    write_tasks(out / TASKS, tasks)
    with atomic_write(out / CONFIG) as file:
        file.write(_XML)
    write_json(out / DRAWN, [asdict(task) for task in tasks])


def write_tasks(path: Path, tasks: Sequence[AnnotationTask]) -> None:
    """Write the tasks for Label Studio, without their expected labels."""
    image = "/data/local-files/?d={}"
    lines = [
        {"data": {"id": task.id, "image": image.format(f"{IMAGES}/{task.sample}.jpg"), "text": task.text}}
        for task in tasks
    ]
    write_json(path, lines)


def read_tasks(out: Path) -> list[AnnotationTask]:
    """Read the tasks with their expected labels.

    Raises:
        CcmbError: the folder holds no tasks.
    """
    if not (out / DRAWN).exists():
        raise CcmbError(f"{out}: no {DRAWN}; give the folder of ccmb corpus annotate export")
    return [AnnotationTask(**line) for line in read_json(out / DRAWN)]


def read_answers(paths: Path | Sequence[Path], tasks: Sequence[AnnotationTask]) -> list[AnnotatorAnswer]:
    """The answers of one export or of several.

    Skipped and empty answers are left out. If an annotator answered a task several times, the last answer counts.

    Raises:
        CcmbError: a file is not an export of Label Studio in JSON, or has other tasks.
    """
    known, annotators = {task.id: task for task in tasks}, Annotators()
    lines = [line for path in ([paths] if isinstance(paths, Path) else paths) for line in _lines(path, known)]
    for _, task_annotations in lines:
        for annotation in task_annotations:
            annotators.learn(annotation.get("completed_by"))
    latest: dict[tuple[str, str], AnnotatorAnswer] = {}
    for task, task_annotations in lines:
        unnamed = 0
        for annotation in task_annotations:
            name = annotators.name(annotation.get("completed_by"))
            unnamed += name is None
            if (answer := _answer(task, annotation, name, unnamed)) is not None:
                latest[task.id, answer.annotator] = answer
    return list(latest.values())


def _lines(path: Path, known: dict[str, AnnotationTask]) -> Iterator[tuple[AnnotationTask, list[dict[str, Any]]]]:
    """Each task of an export with its annotations."""
    lines = read_json(path)
    if not isinstance(lines, list):
        raise CcmbError(f"{path}: not an export of Label Studio; choose JSON there")
    for task_number, line in enumerate(lines, start=1):
        if isinstance(line, dict) and "annotator" in line and "annotations" not in line:
            raise CcmbError(f"{path}: an export in the form JSON-MIN; choose JSON in Label Studio")
        try:
            task, task_annotations = known[line["data"]["id"]], line["annotations"]
        except KeyError as error:
            raise CcmbError(
                f"{path}: task {task_number}: unknown or without {error}; is it an export of these tasks?"
            ) from None
        except (TypeError, IndexError):
            raise _no_task(path, task_number) from None
        if not isinstance(task_annotations, list) or not all(
            isinstance(annotation, dict) for annotation in task_annotations
        ):
            raise _no_task(path, task_number)
        yield task, task_annotations


def _no_task(path: Path, task_number: int) -> CcmbError:
    return CcmbError(f"{path}: task {task_number}: not a task of Label Studio with its annotations")


def _answer(task: AnnotationTask, annotation: dict[str, Any], name: str | None, unnamed: int) -> AnnotatorAnswer | None:
    """The answer of an annotation; None if it was skipped or is empty.

    Args:
        name: the annotator; None if the export names nobody.
        unnamed: how many answers to the task name nobody so far.
    """
    if annotation.get("was_cancelled"):
        return None
    annotator, named = name or f"unknown-{unnamed}", name is not None
    results = [result for result in annotation.get("result") or [] if isinstance(result, dict)]
    values = {result.get("from_name"): result.get("value") or {} for result in results}
    if task.question == "caption":
        lines = values.get("caption", {}).get("text") or []
        text = " ".join(map(str, [lines] if isinstance(lines, str) else lines)).strip()
        return AnnotatorAnswer(task.id, annotator, caption=text, named=named) if text else None
    choices = values.get("fits", {}).get("choices") or []
    return AnnotatorAnswer(task.id, annotator, LABELS.get(choices[0]), named=named) if choices else None


def needs(out: Path) -> list[str]:
    """Instructions for people who set up Label Studio: its configuration and its environment variables."""
    root = out.resolve()
    return [
        f"{CONFIG} shows $image and $text, which {TASKS} has for every task",
        "for the images start Label Studio with these variables:",
        "  LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true",
        f"  LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}",
        f"and add to the project a source storage of local files with the path {root / IMAGES}",
    ]


def as_export(tasks: Sequence[AnnotationTask], answers: Sequence[AnnotatorAnswer]) -> str:
    """Answers in the form that Label Studio exports; for tests and simulations."""
    names = {1: FITS, 0: DIFFERS, None: UNSURE}
    lines = []
    for task in tasks:
        annotations = []
        for answer in (answer for answer in answers if answer.task == task.id):
            result = (
                {"from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": [answer.caption]}}
                if task.question == "caption"
                else {
                    "from_name": "fits",
                    "to_name": "image",
                    "type": "choices",
                    "value": {"choices": [names[answer.label]]},
                }
            )
            annotations.append({"completed_by": {"id": 1, "email": answer.annotator}, "result": [result]})
        lines.append({"data": {"id": task.id}, "annotations": annotations})
    return json.dumps(lines, ensure_ascii=False)
