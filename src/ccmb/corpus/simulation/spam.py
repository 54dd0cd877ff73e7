"""Spam texts and small changes of texts for the simulated web. A good corpus holds neither."""

from __future__ import annotations

import random

_SPAM = (
    "点击查看大图",
    "图片加载中,请稍候",
    "暂无图片描述",
    "版权所有 转载请注明出处",
    "扫描下方二维码关注公众号",
    "共{n}张图片 第{m}张",
    "IMG_{n}{m}",
    "微信图片_2023{n}{m}",
    "厂家直销包邮,咨询电话138{n}{m}5",
    "需要的朋友加微信号: wx{n}{m}",
    "更多精彩图片请看 www.tupian{n}.com",
    "代开各类证明,联系邮箱 daikai{n}@example.com",
    "高价回收手机,热线010-6{m}{n}",
    "404 Not Found",
    "Untitled Document {n}",
    "加载失败,请返回首页",
)


def spam(rng: random.Random) -> str:
    """A phrase that stands on any page, whatever its images, or an advertisement."""
    return rng.choice(_SPAM).format(n=rng.randrange(1000, 9999), m=rng.randrange(100, 999))


def broken(text: str, rng: random.Random) -> str:
    """The text read in another encoding than it was written in."""
    return text.encode().decode(rng.choice(("gb18030", "latin-1")), errors="replace")


def slightly_changed(text: str, rng: random.Random) -> str:
    """The text with one small change: punctuation, a blank, a word added at an end, a character dropped or doubled."""
    at = rng.randrange(1, len(text) - 1)
    return rng.choice(
        (
            f"{text}!",
            f"【图】{text}",
            f"{text}图",
            f"{text[:at]} {text[at:]}",
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
        )
    )
