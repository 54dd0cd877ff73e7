"""Tasks as Label Studio imports them, and answers as it exports them (JSON).

out/tasks.json, out/label-config.xml, out/pictures/    for Label Studio, with its local files pointed to `out`
out/drawn.json                                         what each task was drawn as; annotators do not see it
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
from ccmb.corpus.annotation.tasks import Task
from ccmb.corpus.assembly.write_shards import SHARDS
from ccmb.data.images.source import ImageSource

TASKS, DRAWN, CONFIG, PICTURES = "tasks.json", "drawn.json", "label-config.xml", "pictures"
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
class Answer:
    """What one annotator said of one task: a label (None: cannot be judged), or a caption; `named` is False where the
    export does not say who it was."""

    task: str
    annotator: str
    label: int | None = None
    caption: str | None = None
    named: bool = True


def export_tasks(corpus: Path, tasks: Sequence[Task], out: Path) -> None:
    """Write all that Label Studio needs, and what was drawn.

    Raises:
        CcmbError: `out` holds tasks already, or a shard is missing.
    """
    if (out / DRAWN).exists():
        raise CcmbError(f"{out}: holds tasks already; choose another folder or remove it")
    shards: dict[str, ImageSource] = {}
    for task in tasks:
        shard = shards.setdefault(task.shard, ImageSource.open(corpus / SHARDS / task.shard))
        with atomic_write(out / PICTURES / f"{task.sample}.jpg", "wb") as file:
            file.write(shard.raw(f"{task.sample}.jpg"))
    write_tasks(out / TASKS, tasks)
    with atomic_write(out / CONFIG) as file:
        file.write(_XML)
    write_json(out / DRAWN, [asdict(task) for task in tasks])


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """The tasks for Label Studio, which say nothing of what they were drawn as."""
    picture = "/data/local-files/?d={}"
    lines = [
        {"data": {"id": task.id, "image": picture.format(f"{PICTURES}/{task.sample}.jpg"), "text": task.text}}
        for task in tasks
    ]
    write_json(path, lines)


def read_tasks(out: Path) -> list[Task]:
    """What was drawn.

    Raises:
        CcmbError: the folder holds no tasks.
    """
    if not (out / DRAWN).exists():
        raise CcmbError(f"{out}: no {DRAWN}; give the folder of ccmb corpus annotate export")
    return [Task(**line) for line in read_json(out / DRAWN)]


def read_answers(paths: Path | Sequence[Path], tasks: Sequence[Task]) -> list[Answer]:
    """The answers of one export or of several; skipped and empty ones are left out, and of an annotator's several to a
    task the last counts.

    Raises:
        CcmbError: it is not an export of Label Studio in JSON, or of other tasks.
    """
    known, annotators = {task.id: task for task in tasks}, Annotators()
    lines = [line for path in ([paths] if isinstance(paths, Path) else paths) for line in _lines(path, known)]
    for _, of_task in lines:
        for annotation in of_task:
            annotators.learn(annotation.get("completed_by"))
    found: dict[tuple[str, str], Answer] = {}
    for task, of_task in lines:
        unnamed = 0
        for annotation in of_task:
            name = annotators.name(annotation.get("completed_by"))
            unnamed += name is None
            if (answer := _answer(task, annotation, name, unnamed)) is not None:
                found[task.id, answer.annotator] = answer
    return list(found.values())


def _lines(path: Path, known: dict[str, Task]) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    """Each task of an export with its annotations."""
    lines = read_json(path)
    if not isinstance(lines, list):
        raise CcmbError(f"{path}: not an export of Label Studio; choose JSON there")
    for number, line in enumerate(lines, start=1):
        if isinstance(line, dict) and "annotator" in line and "annotations" not in line:
            raise CcmbError(f"{path}: an export in the form JSON-MIN; choose JSON in Label Studio")
        try:
            task, of_task = known[line["data"]["id"]], line["annotations"]
        except KeyError as error:
            raise CcmbError(
                f"{path}: task {number}: unknown or without {error}; is it an export of these tasks?"
            ) from None
        except (TypeError, IndexError):
            raise _no_task(path, number) from None
        if not isinstance(of_task, list) or not all(isinstance(of, dict) for of in of_task):
            raise _no_task(path, number)
        yield task, of_task


def _no_task(path: Path, number: int) -> CcmbError:
    return CcmbError(f"{path}: task {number}: not a task of Label Studio with its annotations")


def _answer(task: Task, annotation: dict[str, Any], name: str | None, unnamed: int) -> Answer | None:
    """None where it was skipped or is empty.

    Args:
        name: of the annotator; without one it is the task's answer number `unnamed` that names nobody.
    """
    if annotation.get("was_cancelled"):
        return None
    annotator, named = name or f"unknown-{unnamed}", name is not None
    results = [of for of in annotation.get("result") or [] if isinstance(of, dict)]
    values = {of.get("from_name"): of.get("value") or {} for of in results}
    if task.question == "caption":
        lines = values.get("caption", {}).get("text") or []
        text = " ".join(map(str, [lines] if isinstance(lines, str) else lines)).strip()
        return Answer(task.id, annotator, caption=text, named=named) if text else None
    choices = values.get("fits", {}).get("choices") or []
    return Answer(task.id, annotator, LABELS.get(choices[0]), named=named) if choices else None


def needs(out: Path) -> list[str]:
    """What Label Studio has to be given, for people: the variables of the configuration and of its environment."""
    root = out.resolve()
    return [
        f"{CONFIG} shows $image and $text, which {TASKS} has for every task",
        "for the pictures start Label Studio with these variables:",
        "  LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true",
        f"  LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}",
        f"and add to the project a source storage of local files with the path {root / PICTURES}",
    ]


def as_export(tasks: Sequence[Task], answers: Sequence[Answer]) -> str:
    """Answers in the form in which Label Studio exports them; for tests and simulations."""
    names = {1: FITS, 0: DIFFERS, None: UNSURE}
    lines = []
    for task in tasks:
        annotations = []
        for answer in (of for of in answers if of.task == task.id):
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
