"""The sources of a network's weights in its model card: keys of the front matter, and a section."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from ccmb.r2d2.folders.weight_sources import OTHER, UNKNOWN, Source, combined_license

HEADING = "## 权重来源 · Where the weights come from"
PARTS = {
    "image_tower": "图像塔 · image tower",
    "text_tower": "文本塔 · text tower",
    "model": "整个模型 · whole model",
    "generator": "生成器 · generator",
}
# The identifiers that the hub takes for `license`; a card gives any other licence as `other` with its name.
_ON_THE_HUB = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1
    lgpl-3.0 llama2 llama3 llama3.1 llama3.2 llama3.3 mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++
    osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
ON_THE_HUB = frozenset(_ON_THE_HUB.split())


def front_matter(sources: Sequence[Source]) -> str:
    """The lines of `license`, `license_name` and `base_model` (YAML), each ending a line; without sources none.

    `base_model` names those that are from the hub, since it must lead there.
    """
    values: dict[str, object] = {}
    if license := combined_license(sources):
        values["license"] = license.lower() if license.lower() in ON_THE_HUB else OTHER
    if values.get("license") == OTHER:
        named = dict.fromkeys(source["license"].lower() for source in sources)
        values["license_name"] = re.sub(r"[^a-z0-9.]+", "-", "-and-".join(named)).strip("-")
    if bases := list(dict.fromkeys(source["name"] for source in sources if "revision" in source)):
        values["base_model"] = bases
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else ""


def section(sources: Sequence[Source]) -> str:
    """The section of a card about the sources of the weights (Markdown), ending a line."""
    if not sources:
        return f"{HEADING}\n\n没有记录来自其他模型的权重。 No weights of other models are recorded.\n"
    lines = [HEADING, "", "| 部分 · part | 名称 · name | 许可证 · licence | 版本 · version |", "|---|---|---|---|"]
    for source in sources:
        version = next((f"{key} {source[key]}" for key in ("revision", "sha256") if key in source), "-")
        cells = PARTS[source["part"]], source["name"], source["license"], version
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    license = combined_license(sources)
    if license in (OTHER, UNKNOWN):
        words = "许可证不一致或有未知的，使用前请逐一确认。 The licences differ or are not all known: check each."
    else:
        words = f"各部分的许可证相同：{license}。 All parts have the same licence: {license}."
    return "\n".join([*lines, "", words]) + "\n"
