"""`ccmb quickstart`: a synthetic corpus, pre-training, an evaluation of both stages, a search index, and a report.

In full it also trains a captioner and an image generator. Everything goes into one folder. Finished parts are skipped,
so that the same command goes on after any stop and ends in the same metrics.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ccmb.core.config.retired_keys import renamed_overrides, renamed_values
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write, read_json, read_json_lines, write_json
from ccmb.core.journal import Journal
from ccmb.core.logs import LOGGER
from ccmb.demos.quickstart_generative import Generative, describe_images, paint_images, painted_uris

if TYPE_CHECKING:
    from ccmb.r2d2.modeling import R2D2Model
    from ccmb.r2d2.processing import R2D2Processor
    from ccmb.scenes.classification import Attribute
    from ccmb.tasks.pretraining.recipe import PretrainRecipe


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a quickstart: images and training."""

    recipe: str
    train_scenes: int
    gallery: int = 1000
    validation: int = 500
    depth: int = 16
    images_per_kind: int = 40
    images_per_colour: int = 130
    generative: Generative | None = None


QUICK = Size("quickstart", train_scenes=30_000)
FULL = Size("quickstart-full", train_scenes=60_000, generative=Generative())
SAMPLES_SHOWN = 4
# Keys of the corpus, which is drawn.
DRAWN = ("data", *(f"data.{key}" for key in ("dataset", "folder", "shards", "pairs", "images", "split")))
LIBRARIES = ("ccmb", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "pymilvus", "milvus-lite")


def run_quickstart(out: Path, full: bool = False, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Do everything in the folder `out` and return the report, which is also in `report.json` and `report.html`.

    Args:
        full: pre-train two and a half times as long, and leave it to the second stage which attribute belongs to which
            thing, to show what that stage is for. Then learn to describe and generate images.
        overrides: `key=value` changes to the recipe.

    Raises:
        UsageError: diffusers is missing, which generating images needs, or an override names other data.
        CcmbError: the folder holds a quickstart of another size or recipe.
    """
    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.tasks.pretraining.recipe import PretrainRecipe

    for text, by_name_of_today in zip(overrides, renamed_overrides(PretrainRecipe, overrides)[0], strict=True):
        if by_name_of_today.partition("=")[0] in DRAWN:
            raise UsageError(f"override '{text}': quickstart draws its own corpus; for other data take `ccmb pretrain`")
    size = FULL if full else QUICK
    if size.generative is not None:
        from ccmb.r2d2.generative.generator import diffusers_classes

        diffusers_classes()  # fail now, not after an hour
    recipe = load_recipe(PretrainRecipe, find_recipe(size.recipe), overrides)
    # An absolute folder, so that the run can be continued from anywhere.
    data = recipe.data.model_copy(update={"folder": str((out / "corpus").resolve())})
    recipe = recipe.model_copy(update={"data": data})
    work = Quickstart(out, size, recipe, full)
    settings = {"size": size.recipe, **recipe.model_dump(mode="json", exclude={"data": {"folder"}})}
    with Journal(out / "quickstart.json", settings, "quickstart", settings_as_now) as journal:
        journal.part("draw", work.draw, [work.pairs, work.labelled, work.images])
        journal.part("train", work.train, [out / "run" / "model" / "model.safetensors"])
        journal.part("evaluate", work.evaluate, [work.evaluation])
        journal.part("calibrate", work.calibrate, [work.calibration])
        journal.part("classify", work.classify, [work.classification])
        journal.part("index", work.index, [out / "index"])
        if (generative := size.generative) is not None:
            journal.part("caption", lambda: work.caption(generative), [work.captions])
            journal.part("paint", lambda: work.paint(generative), [work.painted])
        journal.part("report", lambda: work.report(journal), [out / "report.json", out / "report.html"])
    report = read_json(out / "report.json")
    assert isinstance(report, dict)
    return report


def settings_as_now(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a quickstart that an older version began."""
    from ccmb.tasks.pretraining.recipe import PretrainRecipe

    renamed, _ = renamed_values(PretrainRecipe, settings)
    return renamed


@dataclass
class Quickstart:
    """The parts of the quickstart. Each writes files that later parts read, and can be repeated."""

    out: Path
    size: Size
    recipe: PretrainRecipe
    full: bool

    @property
    def pairs(self) -> Path:
        return self.out / "corpus" / "pairs.jsonl"

    @property
    def labelled(self) -> Path:
        return self.out / "corpus" / "labelled.jsonl"

    @property
    def images(self) -> Path:
        return self.out / "corpus" / "images.tar"

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluation.json"

    @property
    def calibration(self) -> Path:
        return self.out / "calibration.json"

    @property
    def classification(self) -> Path:
        return self.out / "classification.json"

    @property
    def captions(self) -> Path:
        return self.out / "captions.json"

    @property
    def painted(self) -> Path:
        return self.out / "painted.json"

    @cached_property
    def model(self) -> tuple[R2D2Model, R2D2Processor]:
        from ccmb.r2d2.loading import load_model

        return load_model(self.out / "run")

    def draw(self) -> None:
        from ccmb.scenes.corpus import write_scene_corpus
        from ccmb.scenes.matching import write_labelled_scenes

        size, seed, vision = self.size, self.recipe.training.seed, self.recipe.model.vision
        side = int(vision.get("image_size", 96)) if isinstance(vision, dict) else 96
        write_scene_corpus(
            self.pairs.parent,
            train=size.train_scenes,
            gallery=size.gallery,
            validation=size.validation,
            size=side,
            seed=seed,
        )
        write_labelled_scenes(self.pairs.parent, self.labelled, seed=seed)

    def train(self) -> None:
        from ccmb.tasks.pretraining.run import pretrain

        pretrain(self.recipe, self.out / "run")

    def evaluate(self) -> None:
        """Measure, and write the report and the examples, so that the page needs no model."""
        from ccmb.demos.report.examples import gather_examples
        from ccmb.inference.models.r2d2 import R2D2Stages
        from ccmb.tasks.pretraining.model_card import write_model_card
        from ccmb.tasks.retrieval.evaluate import evaluate, open_data

        model, processor = self.model
        depth = self.size.depth
        data = open_data(self.pairs, self.images, "test", ["captions"])
        evaluation = evaluate(R2D2Stages(model, processor), data, depth, texts_per_image=1)
        kept = {
            "report": {name: value for name, value in evaluation.report.items() if name != "seconds"},
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "examples": gather_examples(evaluation, model, depth, self.recipe.training.seed),
        }
        write_model_card(
            self.out / "run" / "model", model, self.recipe, self.out / "run", evaluation.report["retrieval"]
        )
        write_json(self.evaluation, kept)

    def calibrate(self) -> None:
        """Fit the match temperature on the validation scenes, so that a search can say how likely a match is.

        A network that cannot be calibrated, such as one without cross encoders, keeps its cosine or match score.
        """
        from ccmb.inference.models.r2d2 import R2D2Stages
        from ccmb.r2d2.folders.match_temperature import store_match_temperature
        from ccmb.tasks.matching.calibrate import calibrate

        model, processor = self.model
        try:
            report = calibrate(R2D2Stages(model, processor), self.pairs, self.images, split="val", fields=["captions"])
        except CcmbError as error:
            LOGGER.warning("not calibrated: %s", error)
            write_json(self.calibration, {"match_temperature": None, "error": str(error)})
            return
        store_match_temperature(self.out / "run" / "model", report["match_temperature"])
        write_json(self.calibration, report)

    def classify(self) -> None:
        """Measure how well the model recognises kinds and colours by name, beside the same network untrained."""
        import torch

        from ccmb.r2d2.modeling import R2D2Model
        from ccmb.tasks.classification.scenes import measure_drawn_classes

        (model, processor), size, seed = self.model, self.size, self.recipe.training.seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            untrained = R2D2Model(model.config)
        models = {"trained": model, "untrained": untrained}
        per_class: dict[Attribute, int] = {"kind": size.images_per_kind, "colour": size.images_per_colour}
        write_json(self.classification, measure_drawn_classes(models, processor, self.out / "classes", per_class, seed))

    def index(self) -> None:
        """Copy the held-out images into a folder, where users can look at hits, and index it."""
        from ccmb.data.images.source import ImageSource
        from ccmb.inference.models.r2d2 import R2D2Stages
        from ccmb.search.indexing.indexer import build_index

        images, gallery = ImageSource.open(self.images), self.out / "gallery"
        for _, line in read_json_lines(self.pairs):
            target = gallery / Path(line["image"]).name
            if line.get("split") == "test" and not target.exists():
                with atomic_write(target, "wb") as file:
                    file.write(images.raw(line["image"]))
        build_index([gallery], self.out / "index", R2D2Stages(*self.model, source=self.out / "run"))

    def caption(self, size: Generative) -> None:
        describe_images(self.out / "run", self.pairs.parent, self.out / "captioner", size, self.captions)

    def paint(self, size: Generative) -> None:
        run, out, seed = self.out / "run", self.out / "painter", self.recipe.training.seed
        paint_images(run, self.out / "close-ups", out=out, size=size, path=self.painted, seed=seed)

    def report(self, journal: Journal) -> None:
        from ccmb.core.choices import OBJECTIVE_NAMES
        from ccmb.data.images.source import ImageSource
        from ccmb.demos.report.galleries import images_shown
        from ccmb.demos.report.page import render_page
        from ccmb.report.markup import data_uri

        kept, drawn_classes = read_json(self.evaluation), read_json(self.classification)
        corpus = self._corpus()
        images = ImageSource.open(self.images)
        uris = {name: data_uri(images.load(name)) for name in images_shown(kept["examples"], corpus)}
        generative = None
        if self.size.generative is not None:
            captions, painted = generative = read_json(self.captions), read_json(self.painted)
            uris |= {example["picture"]: data_uri(images.load(example["picture"])) for example in captions["shown"]}
            uris |= painted_uris(self.out / "painter", painted)
        metrics = [line for _, line in read_json_lines(self.out / "run" / "metrics.jsonl")]
        objectives = self.recipe.objectives
        report = {
            **kept["report"],
            "classification": {**drawn_classes["colour"]["trained"], "drawn": drawn_classes},
            "objectives": [OBJECTIVE_NAMES[name] for name in objectives.on()],
            "objectives_off": [OBJECTIVE_NAMES[name] for name in objectives.off()],
            "model": {"parameters": kept["parameters"], "steps": self.recipe.training.steps},
            "seconds": journal.seconds(),
            "machine": _machine(self.recipe.training.device),
            "libraries": _versions(),
            "next": self._next_commands(),
        }
        if generative is not None:
            report |= {"captioning": generative[0]["figures"], "generation": generative[1]["figures"]}
        with atomic_write(self.out / "report.html") as file:
            file.write(
                render_page(report, kept["examples"], metrics=metrics, corpus=corpus, uris=uris, generative=generative)
            )
        write_json(self.out / "report.json", report)

    def _corpus(self) -> dict[str, Any]:
        """The number of images in each split, and some training samples, chosen by the seed."""
        counts: dict[str, int] = {}
        training = []
        for _, line in read_json_lines(self.pairs):
            split = line.get("split", "train")
            counts[split] = counts.get(split, 0) + 1
            if split == "train":
                training.append(line)
        rng = Random(self.recipe.training.seed)
        return {"counts": counts, "shown": rng.sample(training, min(SAMPLES_SHOWN, len(training)))}

    def _next_commands(self) -> list[dict[str, str]]:
        def path(*parts: str) -> str:
            return shlex.quote(str(self.out.joinpath(*parts)))

        lines = [line for _, line in read_json_lines(self.pairs) if line.get("split") == "test" and line.get("query")]
        query = Random(self.recipe.training.seed).choice(lines)["query"] if lines else "一只红色的小船"
        search = f"ccmb search {shlex.quote(query)} --index {path('index')}"
        own = f"ccmb index ~/Pictures --model {path('run')} --out my-index"
        commands = [
            ("在留出图库里检索", "Search the held-out gallery", search),
            ("把结果画成一张图", "See the hits as one image", f"{search} --sheet hits.png"),
            ("只用粗排，比较一下", "Compare with pre-ranking alone", f"{search} --no-rank"),
            ("索引自己的图片", "Index images of your own", own),
            (
                "重新评测", "Measure it again",
                f"ccmb evaluate --model {path('run')} --data {path('corpus', 'pairs.jsonl')} --text-field captions "
                f"--limit-texts 1 --depth {self.size.depth}",
            ),
            (
                "用另一种文本微调，看得失", "Fine-tune on texts of another kind: what is gained and lost",
                f"ccmb finetune retrieval data.folder={path('corpus')} data.fields=[title] training.epochs=1 "
                f"--model {path('run')} --out {path('titles')} --also captions={path('corpus', 'pairs.jsonl')} "
                "--also-field captions",
            ),
            (
                "用带标签的图文对微调匹配", "Fine-tune matching on labelled pairs",
                f"ccmb finetune matching data.folder={path('corpus')} training.epochs=1 --model {path('run')} "
                f"--out {path('matching')}",
            ),
            (
                "关掉一个目标，看看少了什么", "Switch an objective off and see what is lost",
                "ccmb quickstart --out without-fgr objectives.fgr=off",
            ),
        ]  # fmt: skip
        if self.size.generative is not None:
            image = path("gallery", Path(lines[0]["image"]).name)
            commands += [
                ("看图说话", "Describe pictures", f"ccmb caption {image} --model {path('captioner')}"),
                (
                    "按文字画图", "Paint what a text says",
                    f"ccmb generate 中间有一艘红色的大帆船。 --model {path('painter')} --best-of 4 --out grid.png",
                ),
            ]  # fmt: skip
        if not self.full:
            longer = "ccmb quickstart --full --out quickstart-full"
            commands.append(("把属性搭配留给第二阶段，看它的作用", "See what the second stage is for", longer))
        return [{"zh": chinese, "en": english, "command": command} for chinese, english, command in commands]


def closing_words(out: Path, report: dict[str, Any]) -> str:
    """Lines of text: where everything is, how long it took, and what to try next."""
    from ccmb.report.markup import duration

    off = report["objectives_off"]
    lines = [
        f"report  {out / 'report.html'}",
        f"metrics {out / 'report.json'}",
        f"model   {out / 'run' / 'model'}",
        f"index   {out / 'index'}",
        f"objectives: {', '.join(report['objectives'])}" + (f"; off: {', '.join(off)}" if off else ""),
        f"time: {duration(report['seconds']['total'])[1]}",
        "try next:",
        *(f"  {command['command']}" for command in report["next"]),
    ]
    return "\n".join(lines)


def _machine(device: str) -> dict[str, Any]:
    import torch

    from ccmb.core.device import choose_device

    chosen = choose_device(device)
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU {platform.machine()}"
    return {
        "system": platform.platform(), "device": name, "cores": os.cpu_count(), "python": platform.python_version(),
    }  # fmt: skip


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
