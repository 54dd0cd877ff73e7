"""Chinese prompt templates of zero-shot classification, our own: a class's name takes the place of `{}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.files import text_lines

PLACE = "{}"
PLAIN_TEMPLATE = "一张{}的照片。"
TEMPLATES = (
    PLAIN_TEMPLATE, "这是{}。", "图中有{}。", "一幅{}的图片。", "照片里是{}。", "画面中的{}。", "一张{}的特写照片。",
    "一张{}的近照。", "一张远处的{}的照片。", "一张拍得很清楚的{}的照片。", "一张模糊的{}的照片。",
    "一张明亮的{}的照片。", "一张光线昏暗的{}的照片。", "一张{}的黑白照片。", "一张{}的彩色照片。",
    "一张裁剪过的{}的照片。", "一张低分辨率的{}的照片。", "一张{}的高清大图。", "户外拍到的{}。", "在室内拍的{}。",
    "白色背景下的{}。", "人们身边的{}。", "一张{}的缩略图。", "一张大大的{}的照片。", "一张漂亮的{}的照片。",
    "一张奇怪的{}的照片。", "只露出一部分的{}。", "从侧面看到的{}。", "从上方俯拍的{}。", "镜头正对着{}。",
    "我拍下的{}。", "网友分享的{}图片。", "网上找到的{}配图。", "百科词条里的{}插图。", "商品页面上的{}图片。",
    "一幅画着{}的图画。", "{}的卡通图。", "{}的素描。", "一个{}造型的玩具。", "有很多{}的照片。",
    "随手拍的一张{}照片。", "{}实拍图。",
)  # fmt: skip
SETS: dict[str, tuple[str, ...]] = {"all": TEMPLATES, "plain": (PLAIN_TEMPLATE,)}


def fill(template: str, name: str) -> str:
    """The prompt of one name."""
    return template.replace(PLACE, name)


def read_templates(source: str) -> tuple[str, ...]:
    """The templates that a user names: `all`, `plain`, a template with `{}`, or a text file of one a line.

    Raises:
        UsageError: it is none of these.
        CcmbError: the file cannot be read, or one of its lines has not exactly one `{}`; the message names it.
    """
    if source in SETS:
        return SETS[source]
    if source.count(PLACE) == 1:
        return (source,)
    path = Path(source).expanduser()
    if not path.is_file():
        raise UsageError(f"'{source}': no such templates; give all, plain, a file, or a text with one {PLACE} in it")
    return check_templates([line.strip() for line in text_lines(path) if line.strip()], str(path))


def check_templates(templates: Sequence[str], where: str = "templates") -> tuple[str, ...]:
    """The templates, if there are some and each has exactly one place for the name.

    Raises:
        CcmbError: there are none, or one has not; the message names it.
    """
    if not templates:
        raise CcmbError(f"{where}: no templates; give one or more with {PLACE} for the name")
    for template in templates:
        if template.count(PLACE) != 1:
            raise CcmbError(f"{where}: '{template}' must have exactly one {PLACE} for the name")
    return tuple(templates)
