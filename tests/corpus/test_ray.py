"""A whole build whose tables are worked on by a Ray cluster of two nodes gives the bytes of one machine's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import ccmb
from ccmb.corpus.simulation.logs import simulate
from ccmb.corpus.simulation.pages import SimulatedWeb
from ccmb.corpus.simulation.server import Faults, serve
from tests.helpers.corpus_web import RECIPE, files_of
from tests.helpers.processes import free_port

ray = pytest.importorskip("ray", reason="a cluster needs ray: pip install 'daft[ray]'")

IMAGES, IMPRESSIONS = 80, 60_000


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of two nodes of one core each, on loopback."""
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(ccmb.__file__).parents[1])}
    with tempfile.TemporaryDirectory() as folder:  # the paths of Ray's sockets have to be short
        common = ["--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats"]
        head = ["--head", f"--port={address.split(':')[1]}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        head += ["--include-dashboard=false"]

        def run(*words: str) -> None:
            subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words], env=environment, check=True)

        try:
            run("start", *head, *common)
            run("start", f"--address={address}", *common)
            yield address
        finally:
            run("stop", "--force")


@pytest.mark.slow
def test_a_cluster_of_two_nodes_builds_the_same_corpus(cluster: str, tmp_path: Path) -> None:
    web = tmp_path / "web"
    with serve(web, Faults(), seed=3) as base:
        simulate(web, SimulatedWeb(images=IMAGES, impressions=IMPRESSIONS, base_url=base.rstrip("/")))
        (web / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

        def build(name: str, *options: str) -> Path:
            words = ["--impressions", str(web / "impressions"), "--pages", str(web / "pages.jsonl")]
            words += ["--out", str(tmp_path / name), *options]
            command = [sys.executable, "-m", "ccmb", "corpus", "build", str(web / "recipe.yaml"), *words]
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": str(Path(ccmb.__file__).parents[1])},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            return tmp_path / name

        alone, together = files_of(build("alone")), files_of(build("together", "--ray", cluster))
    nodes = [node for node in _nodes(cluster) if node["Alive"]]
    assert len(nodes) == 2
    assert len(alone) > 5
    assert together["manifest.json"] == alone["manifest.json"]
    assert together == alone


def _nodes(address: str) -> list[dict[str, object]]:
    ray.init(address=address, logging_level="ERROR")
    try:
        nodes: list[dict[str, object]] = ray.nodes()
        return nodes
    finally:
        ray.shutdown()
