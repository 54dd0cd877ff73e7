"""Images a core downloads, makes smaller and stores in a second, beside img2dataset, from one server on this machine.

    python -m venv elsewhere && elsewhere/bin/pip install img2dataset
    python benchmarks/corpus_download.py --img2dataset elsewhere/bin/python --json corpus_download.json

Both do the same: fetch over HTTP, decode, make the short side 256, encode as JPEG of quality 92, hash by SHA-256, write
tars and a Parquet index. Without --img2dataset its loop is run as a plain reference: urllib in a pool of threads, each
image decoded whole by Pillow. Each runs as a process of its own; what counts is that process's seconds of CPU (those
of the server do not), and of a long run less those of a short one, so that imports and starting do not count either.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ccmb.corpus.download.parts import Link
from ccmb.corpus.download.resize import StoredForm
from ccmb.corpus.download.run import DownloadOptions, download
from ccmb.corpus.simulation.server import serve
from ccmb.data.images.source import decode
from ccmb.fetch.fetcher import HttpOptions
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import random_scene
from paired import Contestant, claim, median_ratio, write_report

SIDE, QUALITY, AT_ONCE, SHORT = 256, 92, 64, 20
SIZES = ((480, 360), (640, 480), (800, 600), (1200, 900), (1600, 1200))
FASTER = 1.5
HERE = Path(__file__).parent


@dataclass(slots=True)
class Runner:
    """A way to download, as a command for a process of its own.

    Attributes:
        cpu: its seconds are those of the CPU, of the long runs less those of the short ones.
        wall: likewise, by the clock.
        files: images stored by the last long run.
    """

    command: list[str]
    cpu: Contestant
    wall: list[float] = field(default_factory=list)
    files: int = 0


def ccmb_download(links: str, out: str) -> None:
    urls = Path(links).read_text().splitlines()
    network = HttpOptions(connections=AT_ONCE, connections_per_host=AT_ONCE, host_delay=0, allow_private=("127.0.0.1",))
    options = DownloadOptions(
        network=network, resize=StoredForm(image_size=SIDE, jpeg_quality=QUALITY), decode_threads=1
    )
    download([Link(str(row), url) for row, url in enumerate(urls)], len(urls), Path(out), options)


def plain_loop(links: str, out: str) -> None:
    """img2dataset's loop in a few lines."""
    Path(out).mkdir()

    def one(row_url: tuple[int, str]) -> None:
        row, url = row_url
        with urllib.request.urlopen(urllib.request.Request(url), timeout=10) as answer:
            image = decode(answer.read())
        scale = SIDE / min(image.size)
        buffer = io.BytesIO()
        small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        small.save(buffer, "JPEG", quality=QUALITY)
        (Path(out) / f"{row:09d}.jpg").write_bytes(buffer.getvalue())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, enumerate(Path(links).read_text().splitlines())))


def img2dataset(links: str, out: str) -> None:
    """Run by the Python that has img2dataset, which does not have this package."""
    import img2dataset as other

    other.download(
        url_list=links, output_folder=out, input_format="txt", image_size=SIDE, resize_mode="keep_ratio",
        resize_only_if_bigger=True, encode_quality=QUALITY, output_format="webdataset", processes_count=1,
        thread_count=AT_ONCE, extract_exif=False, compute_hash="sha256", number_sample_per_shard=10_000,
    )  # fmt: skip


def draw_images(folder: Path, count: int) -> None:
    """Drawn scenes at the sizes of images on the web, with the grain of a camera, which JPEG cannot do without."""
    rng, grain = random.Random(0), np.random.default_rng(0)
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        scene = np.asarray(render_scene(random_scene(rng), size[0], rng).resize(size), dtype=np.float32)
        noisy = scene + grain.normal(0, 4, (*scene.shape[:2], 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=85)


def time_run(runner: Runner, links: Path) -> tuple[float, float]:
    """Seconds of CPU and of the clock that a run in a fresh folder takes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        start = time.perf_counter()
        process = subprocess.Popen([*runner.command, str(links), str(out)], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{runner.cpu.name} ended with {process.returncode}")
        seconds = time.perf_counter() - start
        runner.files = stored_images(out)
        return used.ru_utime + used.ru_stime, seconds


def stored_images(out: Path) -> int:
    count = sum(1 for _ in out.glob("*.jpg"))
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            count += sum(name.endswith(".jpg") for name in tar.getnames())
    return count


def measure(runners: Sequence[Runner], base: str, folder: Path, options: argparse.Namespace) -> None:
    """Let all take turns; the rounds' seconds are of `count` images."""
    lists = []
    for count in (SHORT, SHORT + options.count):
        lists.append(folder / f"{count}.txt")
        lists[-1].write_text("".join(f"{base}{row % options.files}.jpg?{row}\n" for row in range(count)))
    for number in range(options.repeats):
        for runner in runners if number % 2 else reversed(runners):
            (short_cpu, short), (long_cpu, long) = (time_run(runner, links) for links in lists)
            if runner.files != SHORT + options.count:
                raise SystemExit(f"{runner.cpu.name} stored {runner.files} of {SHORT + options.count} images")
            runner.cpu.seconds.append(long_cpu - short_cpu)
            runner.wall.append(long - short)


def runner_of(name: str, python: str, function: str) -> Runner:
    paths = [str(HERE), str(HERE.parent / "src")]
    code = f"import sys; sys.path[:0] = {paths!r}; import corpus_download as c; c.{function}(*sys.argv[1:])"
    if function == "img2dataset":  # that Python cannot import this file: hand it the function alone
        settings = f"SIDE, QUALITY, AT_ONCE = {SIDE}, {QUALITY}, {AT_ONCE}"
        code = f"{settings}\n{inspect.getsource(img2dataset)}\nimport sys\nimg2dataset(*sys.argv[1:])"
    return Runner([python, "-c", code], Contestant(name, lambda round: None))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img2dataset", help="a Python that has img2dataset, in an environment of its own")
    parser.add_argument("--count", type=int, default=400, help="images of a run")
    parser.add_argument("--files", type=int, default=40, help="different images, which the links go through")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    other = ("img2dataset", options.img2dataset, "img2dataset")
    if not options.img2dataset:
        other = ("plain loop (urllib in threads, Pillow)", sys.executable, "plain_loop")
    runners = [runner_of("ours", sys.executable, "ccmb_download"), runner_of(*other)]
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary) / "pictures"
        images.mkdir()
        draw_images(images, options.files)
        with serve(images) as base:
            measure(runners, base, Path(temporary), options)
        mean_bytes = sum(path.stat().st_size for path in images.iterdir()) / options.files
    lines = [report_line(runner, options.count) for runner in runners]
    ratio, low, high = median_ratio(runners[1].cpu, runners[0].cpu)
    claims = [
        claim("pictures/s of one core, ours", lines[0]["per_core_second"], None, "pictures/s"),
        claim(f"pictures/s of one core, {runners[1].cpu.name}", lines[1]["per_core_second"], None, "pictures/s"),
        claim(f"pictures/s of one core, ours over {runners[1].cpu.name}", ratio, FASTER, "x"),
    ]
    results = {
        "count": options.count, "sizes": SIZES, "mean_bytes": mean_bytes, "side": SIDE, "runs": lines,
        "ratio_interval": [low, high],
    }  # fmt: skip
    write_report(options.json, claims, results, torch.device("cpu"))
    return {"claims": claims, "results": results}


def report_line(runner: Runner, count: int) -> dict[str, Any]:
    wall = sorted(runner.wall)[len(runner.wall) // 2]
    return {
        "name": runner.cpu.name, "per_core_second": count / runner.cpu.median, "per_second": count / wall,
        "cpu_seconds": runner.cpu.seconds, "wall_seconds": runner.wall,
    }  # fmt: skip


if __name__ == "__main__":
    main()
