"""The page on search for many: its files name what exists, its tables are what the script prints."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any

import pytest
import yaml

from tests.helpers.pages import ROOT, blocks, parse, read

sys.path.insert(0, str(ROOT / "benchmarks"))

import search_cost

PAGES = ("docs/search-at-scale.md", "docs/search-at-scale.zh.md")
FILES = ROOT / "deploy" / "search"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    # A variable that is not set stands for a folder.
    text = re.sub(r"\$\{\w+:\?\}", "/data", (FILES / "compose.yaml").read_text(encoding="utf-8"))
    return yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text))


def test_every_command_of_a_container_exists(compose: dict[str, Any]) -> None:
    own = {name: service for name, service in compose["services"].items() if service.get("image") == "ccmb"}
    assert set(own) == {"server-1", "server-2", "server-3", "index"}
    verbs = {name: parse(shlex.join(["ccmb", *service["command"]])) for name, service in own.items()}
    assert {verb for verb, _ in verbs.values()} == {"serve", "index"}
    port = verbs["server-1"][1]["port"]
    assert all(values["fast"] for _, values in verbs.values())
    assert f"server-1:{port}" in (FILES / "prometheus.yaml").read_text()
    proxy = compose["services"]["proxy"]["networks"]["default"]["ipv4_address"]
    assert verbs["server-1"][1]["proxy"] == proxy


def test_services_volumes_and_files_that_are_named_exist(compose: dict[str, Any]) -> None:
    services = compose["services"]
    caddy = (FILES / "Caddyfile").read_text()
    scraped = yaml.safe_load((FILES / "prometheus.yaml").read_text())
    named = set(re.findall(r"\b([\w-]+):8000", caddy))
    scraped_targets = [job["static_configs"][0]["targets"] for job in scraped["scrape_configs"]]
    named |= {target.split(":")[0] for targets in scraped_targets for target in targets}
    for service in services.values():
        named |= set(service.get("depends_on", ()))
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("/data") or source in compose["volumes"] or (FILES / source).is_file()
        if "build" in service:
            assert (FILES / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert named <= set(services)
    assert caddy.count("{") == caddy.count("}")


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_those_of_the_script(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    search_cost.main([])
    assert capsys.readouterr().out in read(page)
    [line] = [line for block in blocks(page, "bash") for line in block.splitlines() if "search_cost" in line]
    search_cost.main(shlex.split(line)[2:])
    assert "| pictures | 5,000,000 |" in capsys.readouterr().out


def test_measured_inputs_are_those_of_the_page() -> None:
    for item, part in (("images", "image tower"), ("pairs", "both cross encoders")):
        [int8] = re.findall(rf"^\| {part}, {item}/s .*\| ([\d.]+) \([\d.]+\) \|$", read("docs/fast.md"), re.MULTILINE)
        assert search_cost.INPUTS[f"{item}_per_core"].value == float(int8)


def test_states_that_are_kept_save_the_image_tower() -> None:
    values = {name: given.value for name, given in search_cost.INPUTS.items()}
    tables = [search_cost.tables(values | {"states_held": share}) for share in (0.0, 1.0)]
    seconds = [float(re.findall(r"a query, ranked \| ([\d.,]+)", table)[0].replace(",", "")) for table in tables]
    opened = values["depth"] * (1 / values["images_per_core"] + 1 / values["opened_per_core"])
    assert seconds[0] - seconds[1] == pytest.approx(opened, rel=0.02)
