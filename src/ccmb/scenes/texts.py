"""Chinese texts about a synthetic scene: a search query, a title, a long content, five captions and a few details.

A caption names the background and every thing with its colour, amount and place, in varied words and order. So it is
true of its scene alone. A detail names all attributes of a single thing. Details teach a model many times faster which
attribute belongs to which thing: in a caption, the colours of the other things reveal a masked one. Queries and titles
contain less, like those that people write.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ccmb.scenes.scene import Place, Scene, Thing

MEASURES = {
    "帆船": "艘", "汽车": "辆", "房子": "座", "松树": "棵", "花朵": "朵", "鲤鱼": "条", "鸽子": "只", "猫咪": "只",
    "皮球": "个", "星星": "颗", "气球": "个", "雨伞": "把", "茶杯": "个", "椅子": "把", "旗子": "面", "蘑菇": "朵",
    "帽子": "顶", "钥匙": "把", "台灯": "盏", "书本": "本", "闹钟": "个", "苹果": "个", "火箭": "枚", "飞机": "架",
    "蝴蝶": "只", "爱心": "颗",
}  # fmt: skip
NUMBERS = {"big": "一", "small": "一", "two": "两", "three": "三"}
SIZES = {"big": "大", "small": "小", "two": "", "three": ""}
PLACES: dict[Place, tuple[str, ...]] = {
    "left": ("左边", "左侧"),
    "right": ("右边", "右侧"),
    "top": ("上面", "上方"),
    "bottom": ("下面", "下方"),
    "top_left": ("左上角", "左上方"),
    "top_right": ("右上角", "右上方"),
    "middle": ("中间", "正中"),
}
GROUNDS = {
    "草地": ("草地上", "草坪上"),
    "沙滩": ("沙滩上", "海滩上"),
    "雪地": ("雪地里", "雪地上"),
    "沙漠": ("沙漠里", "沙漠中"),
    "街道": ("街道上", "城市街头"),
    "山谷": ("山谷里", "山谷中"),
}
TIMES = {False: ("白天", "白天", "晴天"), True: ("夜晚", "夜里", "晚上")}
CAPTIONS = 5
DETAILS = 2  # of each thing
FILLERS = (
    "画面简洁清楚,适合用作插图。",
    "这张图由程序绘制,没有实物照片。",
    "整幅画颜色鲜明,轮廓分明。",
    "物体之间留有空隙,互不遮挡。",
)


@dataclass(frozen=True, slots=True)
class SceneTexts:
    """The texts of one scene."""

    query: str
    title: str
    content: str
    captions: tuple[str, ...]
    details: tuple[str, ...]


def describe(scene: Scene, rng: random.Random) -> SceneTexts:
    """All texts of a scene, in words that `rng` chooses."""
    query = short_query(scene, rng.choice(scene.things), rng)
    title = f"{_where(scene, rng, '')}的{_list([_thing(thing, rng) for thing in scene.things])}"
    captions = [caption(scene, family, rng) for family in range(CAPTIONS)]
    rng.shuffle(captions)
    content = f"{caption(scene, 0, rng)}{rng.choice(FILLERS)}{_inventory(scene)}"
    details = [detail(thing, rng) for thing in scene.things for _ in range(DETAILS)]
    return SceneTexts(query, title, content, tuple(captions), tuple(details))


def short_query(scene: Scene, thing: Thing, rng: random.Random) -> str:
    """A query of somebody who looks for a thing of the scene."""
    return rng.choice(
        (f"{thing.colour}色{thing.kind}", _thing(thing, rng), f"{_where(scene, rng, '')}的{thing.colour}色{thing.kind}")
    )


def caption(scene: Scene, family: int, rng: random.Random) -> str:
    """One full caption. Equal `family` and state of `rng` give a swapped scene the same words but for the swap."""
    where = _where(scene, rng)
    clauses = [(rng.choice(PLACES[thing.place]), _thing(thing, rng)) for thing in scene.things]
    backwards = rng.random() < 0.3
    if family >= 3 and len(clauses) == 2:
        (place, one), (other_place, other) = clauses
        if backwards:
            place, one, other = other_place, other, one
        return f"{where},{one}在{other}的{place}。" if family == 3 else f"{where},{other}的{place}有{one}。"
    if backwards:
        clauses.reverse()
    if family == 0:
        return f"{where},{','.join(f'{place}有{thing}' for place, thing in clauses)}。"
    if family == 1:
        time = rng.choice(TIMES[scene.night])
        return f"{','.join(f'{place}是{thing}' for place, thing in clauses)},背景是{time}的{scene.background}。"
    if family == 2:
        return f"{where},{','.join(f'{thing}在{place}' for place, thing in clauses)}。"
    if family == 3:
        return f"图中{','.join(f'{place}画着{thing}' for place, thing in clauses)},{where}。"
    return f"{where}的画面:{','.join(f'{thing}位于{place}' for place, thing in clauses)}。"


def detail(thing: Thing, rng: random.Random) -> str:
    """A text about one thing, such as 左边有一艘红色的大帆船。"""
    place, what = rng.choice(PLACES[thing.place]), _thing(thing, rng)
    return rng.choice((f"{place}有{what}。", f"{place}是{what}。", f"{what}在{place}。", f"{place}画着{what}。"))


def _thing(thing: Thing, rng: random.Random) -> str:
    """The words for a thing, such as 一艘红色的大帆船 or 两把蓝色雨伞."""
    amount = f"{NUMBERS[thing.amount]}{MEASURES[thing.kind]}"
    particle = "的" if rng.random() < 0.5 else ""
    return f"{amount}{thing.colour}色{particle}{SIZES[thing.amount]}{thing.kind}"


def _where(scene: Scene, rng: random.Random, particle: str = "的") -> str:
    """The words for time and background, such as 夜晚的草地上."""
    return f"{rng.choice(TIMES[scene.night])}{particle}{rng.choice(GROUNDS[scene.background])}"


def _list(items: list[str]) -> str:
    return "、".join(items[:-1]) + "和" + items[-1]


def _inventory(scene: Scene) -> str:
    colours = ",".join(f"{thing.kind}是{thing.colour}色的" for thing in scene.things)
    return f"图中共有{'两三'[len(scene.things) - 2]}种物体:{colours}。"
