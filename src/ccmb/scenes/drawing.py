"""Rendering a scene with Pillow: 26 kinds of things on six backgrounds by day and night."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from ccmb.scenes.scene import Amount, Place, Scene

RGB = tuple[int, int, int]
Point = tuple[float, float]

FILLS: dict[str, RGB] = {
    "红": (222, 32, 36), "橙": (250, 140, 16), "黄": (250, 226, 40), "绿": (30, 160, 60),
    "蓝": (36, 84, 226), "紫": (150, 48, 190), "白": (250, 250, 250), "黑": (28, 28, 32),
}  # fmt: skip
SKIES: dict[bool, RGB] = {False: (186, 222, 246), True: (38, 44, 84)}
GROUND_FILLS: dict[str, RGB] = {
    "草地": (150, 206, 120), "沙滩": (240, 222, 170), "雪地": (234, 240, 248),
    "沙漠": (224, 178, 116), "街道": (160, 160, 168), "山谷": (176, 186, 140),
}  # fmt: skip
# Colours of accents, such as roofs, leaves, windows and faces. They help to distinguish the kinds.
BROWN, LEAF, PINK, GREY, CYAN = (134, 82, 36), (140, 215, 60), (255, 150, 190), (140, 146, 156), (110, 225, 235)
MAROON, TEAL, LILAC, OLIVE, TAN = (130, 24, 60), (0, 128, 128), (200, 168, 250), (122, 122, 36), (214, 178, 132)
ACCENTS: dict[str, RGB] = {
    "帆船": TAN, "汽车": CYAN, "房子": BROWN, "松树": BROWN, "花朵": LEAF, "鲤鱼": PINK, "鸽子": LILAC, "猫咪": PINK,
    "皮球": LILAC, "星星": TAN, "气球": TEAL, "雨伞": TEAL, "茶杯": CYAN, "椅子": BROWN, "旗子": GREY, "蘑菇": TAN,
    "帽子": MAROON, "钥匙": GREY, "台灯": OLIVE, "书本": LILAC, "闹钟": GREY, "苹果": LEAF, "火箭": MAROON,
    "飞机": TEAL, "蝴蝶": OLIVE, "爱心": PINK,
}  # fmt: skip
OVERSAMPLING = 2
# Centre of each place, and half the side of a big thing there, as shares of the image's side.
CENTRES: dict[Place, Point] = {
    "left": (0.26, 0.52), "right": (0.74, 0.52), "top": (0.5, 0.26), "bottom": (0.5, 0.75),
    "top_left": (0.25, 0.27), "top_right": (0.75, 0.27),
}  # fmt: skip
REACH = 0.24
# A close-up shows one thing in the middle.
CLOSE_CENTRE, CLOSE_REACH = (0.5, 0.5), 0.42
# How far a thing may be from the centre of its place, as a share of the side, and the range of its scale.
SHIFT, SCALES = 0.025, (0.9, 1.05)
# Offsets of the copies in units of the reach, and their half side in the same units.
AMOUNT_SHAPES: dict[Amount, tuple[tuple[Point, ...], float]] = {
    "big": (((0.0, 0.0),), 1.0),
    "small": (((0.0, 0.0),), 0.55),
    "two": (((-0.5, -0.36), (0.5, 0.36)), 0.54),
    "three": (((-0.52, 0.5), (0.52, 0.5), (0.0, -0.46)), 0.5),
}


class Pen:
    """Draws in the coordinates of a thing: -1 .. 1 in both directions, with y downwards."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, centre: Point, half: float, fill: RGB, accent: RGB, line: RGB
    ) -> None:
        self.draw, self.centre, self.half = draw, centre, half
        self.fill, self.accent, self.line = fill, accent, line
        self.width = max(1, round(half / 11))

    def _points(self, points: Sequence[Point]) -> list[Point]:
        return [(self.centre[0] + self.half * x, self.centre[1] + self.half * y) for x, y in points]

    def polygon(self, *points: Point, accent: bool = False) -> None:
        self.draw.polygon(
            self._points(points), fill=self.accent if accent else self.fill, outline=self.line, width=self.width
        )

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, accent: bool = False) -> None:
        box = self._points([(x0, y0), (x1, y1)])
        self.draw.ellipse(
            [*box[0], *box[1]], fill=self.accent if accent else self.fill, outline=self.line, width=self.width
        )

    def box(self, x0: float, y0: float, x1: float, y1: float, accent: bool = False) -> None:
        self.polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1), accent=accent)

    def stroke(self, *points: Point, width: float = 1.0) -> None:
        self.draw.line(self._points(points), fill=self.line, width=max(1, round(self.width * width)))

    def pie(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, accent: bool = False) -> None:
        """A filled slice of an ellipse; angles in degrees, clockwise from the right."""
        box = self._points([(x0, y0), (x1, y1)])
        fill = self.accent if accent else self.fill
        self.draw.pieslice([*box[0], *box[1]], start, end, fill=fill, outline=self.line, width=self.width)


def _boat(pen: Pen) -> None:
    pen.stroke((0, -0.95), (0, 0.35), width=1.5)
    pen.polygon((0.08, -0.95), (0.85, 0.25), (0.08, 0.25), accent=True)
    pen.polygon((-0.08, -0.8), (-0.7, 0.25), (-0.08, 0.25), accent=True)
    pen.polygon((-0.98, 0.34), (0.98, 0.34), (0.6, 0.95), (-0.6, 0.95))


def _car(pen: Pen) -> None:
    pen.polygon((-0.65, 0.0), (-0.42, -0.7), (0.42, -0.7), (0.7, 0.0))
    pen.polygon((-0.45, -0.05), (-0.3, -0.55), (0.3, -0.55), (0.5, -0.05), accent=True)
    pen.box(-0.98, -0.05, 0.98, 0.5)
    pen.ellipse(-0.78, 0.2, -0.18, 0.8, accent=True)
    pen.ellipse(0.18, 0.2, 0.78, 0.8, accent=True)


def _house(pen: Pen) -> None:
    pen.box(-0.75, -0.1, 0.75, 0.95)
    pen.polygon((-0.98, 0.0), (0, -0.98), (0.98, 0.0), accent=True)
    pen.box(-0.25, 0.35, 0.25, 0.95, accent=True)


def _pine(pen: Pen) -> None:
    pen.box(-0.3, 0.3, 0.3, 0.98, accent=True)
    pen.polygon((0, -0.98), (0.6, -0.2), (-0.6, -0.2))
    pen.polygon((0, -0.5), (0.9, 0.45), (-0.9, 0.45))


def _flower(pen: Pen) -> None:
    pen.polygon((0, 0.95), (-0.75, 0.5), (-0.1, 0.4), accent=True)
    pen.polygon((0, 0.95), (0.75, 0.5), (0.1, 0.4), accent=True)
    pen.stroke((0, 0.1), (0, 0.98), width=2)
    for x, y in ((0, -0.68), (0.42, -0.38), (0.27, 0.07), (-0.27, 0.07), (-0.42, -0.38)):
        pen.ellipse(x - 0.3, y - 0.27, x + 0.3, y + 0.27)
    pen.ellipse(-0.28, -0.52, 0.28, 0.0, accent=True)


def _fish(pen: Pen) -> None:
    pen.polygon((0.15, 0), (0.98, -0.75), (0.98, 0.75), accent=True)
    pen.ellipse(-0.98, -0.55, 0.5, 0.55)
    pen.ellipse(-0.8, -0.3, -0.4, 0.1, accent=True)


def _dove(pen: Pen) -> None:
    pen.polygon((0.35, 0.2), (0.98, 0.05), (0.98, 0.5))
    pen.ellipse(-0.6, -0.15, 0.55, 0.65)
    pen.ellipse(-0.85, -0.65, -0.2, 0.0)
    pen.polygon((-0.98, -0.3), (-0.8, -0.42), (-0.8, -0.18), accent=True)
    pen.polygon((-0.3, 0.25), (0.7, -0.95), (0.6, 0.4), accent=True)


def _cat(pen: Pen) -> None:
    pen.polygon((-0.9, -0.98), (-0.1, -0.5), (-0.8, 0.0), accent=True)
    pen.polygon((0.9, -0.98), (0.1, -0.5), (0.8, 0.0), accent=True)
    pen.ellipse(-0.85, -0.6, 0.85, 0.9)
    pen.ellipse(-0.45, 0.1, 0.45, 0.75, accent=True)
    pen.ellipse(-0.5, -0.25, -0.25, 0.0, accent=True)
    pen.ellipse(0.25, -0.25, 0.5, 0.0, accent=True)


def _ball(pen: Pen) -> None:
    pen.ellipse(-0.9, -0.9, 0.9, 0.9)
    pen.box(-0.82, -0.36, 0.82, 0.36, accent=True)


def _star(pen: Pen) -> None:
    pen.polygon(
        (0, -0.98), (0.24, -0.32), (0.95, -0.3), (0.38, 0.13), (0.59, 0.82),
        (0, 0.4), (-0.59, 0.82), (-0.38, 0.13), (-0.95, -0.3), (-0.24, -0.32),
    )  # fmt: skip
    pen.ellipse(-0.34, -0.36, 0.34, 0.32, accent=True)


def _balloon(pen: Pen) -> None:
    pen.stroke((0, 0.4), (0.12, 0.7), (-0.06, 0.98), width=1.5)
    pen.ellipse(-0.7, -0.98, 0.7, 0.45)
    pen.ellipse(-0.45, -0.8, 0.1, 0.0, accent=True)
    pen.polygon((0, 0.36), (0.2, 0.62), (-0.2, 0.62), accent=True)


def _umbrella(pen: Pen) -> None:
    pen.stroke((0, -0.1), (0, 0.8), (0.12, 0.95), (0.32, 0.85), width=2)
    pen.pie(-0.98, -0.85, 0.98, 0.95, start=180, end=360)
    pen.pie(-0.5, -0.85, 0.5, 0.95, start=180, end=360, accent=True)


def _cup(pen: Pen) -> None:
    pen.ellipse(0.1, -0.45, 0.98, 0.5, accent=True)
    pen.polygon((-0.85, -0.6), (0.6, -0.6), (0.42, 0.85), (-0.67, 0.85))
    pen.ellipse(-0.85, -0.9, 0.6, -0.35, accent=True)


def _chair(pen: Pen) -> None:
    pen.box(-0.62, -0.1, -0.36, 0.95, accent=True)
    pen.box(0.42, 0.1, 0.68, 0.95, accent=True)
    pen.box(-0.7, -0.95, -0.3, 0.0)
    pen.box(-0.7, -0.1, 0.8, 0.3)


def _flag(pen: Pen) -> None:
    pen.box(-0.85, -0.98, -0.5, 0.98, accent=True)
    pen.polygon((-0.5, -0.95), (0.98, -0.4), (-0.5, 0.2))


def _mushroom(pen: Pen) -> None:
    pen.polygon((-0.4, 0.0), (0.4, 0.0), (0.5, 0.98), (-0.5, 0.98), accent=True)
    pen.pie(-0.98, -0.95, 0.98, 1.0, start=180, end=360)
    pen.ellipse(-0.55, -0.5, -0.15, -0.12, accent=True)
    pen.ellipse(0.1, -0.68, 0.5, -0.28, accent=True)


def _hat(pen: Pen) -> None:
    pen.box(-0.55, -0.9, 0.55, 0.5)
    pen.box(-0.55, -0.1, 0.55, 0.45, accent=True)
    pen.ellipse(-0.98, 0.3, 0.98, 0.8)


def _key(pen: Pen) -> None:
    pen.box(-0.2, -0.2, 0.98, 0.2, accent=True)
    pen.box(0.45, 0.15, 0.68, 0.6, accent=True)
    pen.box(0.76, 0.15, 0.98, 0.6, accent=True)
    pen.ellipse(-0.98, -0.62, 0.2, 0.62)
    pen.ellipse(-0.62, -0.26, -0.16, 0.26, accent=True)


def _lamp(pen: Pen) -> None:
    pen.box(-0.15, 0.0, 0.15, 0.8, accent=True)
    pen.polygon((-0.4, -0.95), (0.4, -0.95), (0.85, 0.1), (-0.85, 0.1))
    pen.ellipse(-0.7, 0.55, 0.7, 0.98, accent=True)


def _book(pen: Pen) -> None:
    pen.polygon((0, -0.45), (-0.95, -0.65), (-0.95, 0.5), (0, 0.7))
    pen.polygon((0, -0.45), (0.95, -0.65), (0.95, 0.5), (0, 0.7))
    pen.polygon((-0.12, -0.2), (-0.78, -0.38), (-0.78, 0.28), (-0.12, 0.45), accent=True)
    pen.polygon((0.12, -0.2), (0.78, -0.38), (0.78, 0.28), (0.12, 0.45), accent=True)


def _clock(pen: Pen) -> None:
    pen.ellipse(-0.85, -0.98, -0.2, -0.4, accent=True)
    pen.ellipse(0.2, -0.98, 0.85, -0.4, accent=True)
    pen.ellipse(-0.82, -0.75, 0.82, 0.9)
    pen.ellipse(-0.5, -0.43, 0.5, 0.58, accent=True)
    pen.stroke((0, 0.08), (0, -0.4), width=2)
    pen.stroke((0, 0.08), (0.35, 0.25), width=2)


def _apple(pen: Pen) -> None:
    pen.ellipse(-0.88, -0.5, 0.25, 0.85)
    pen.ellipse(-0.25, -0.5, 0.88, 0.85)
    pen.draw.ellipse([*pen._points([(-0.5, -0.3)])[0], *pen._points([(0.5, 0.7)])[0]], fill=pen.fill)
    pen.stroke((0, -0.4), (0.1, -0.95), width=2)
    pen.ellipse(0.05, -0.98, 0.8, -0.45, accent=True)


def _rocket(pen: Pen) -> None:
    pen.polygon((-0.35, 0.0), (-0.95, 0.9), (-0.35, 0.7), accent=True)
    pen.polygon((0.35, 0.0), (0.95, 0.9), (0.35, 0.7), accent=True)
    pen.polygon((0, -0.98), (0.42, -0.4), (0.42, 0.75), (-0.42, 0.75), (-0.42, -0.4))
    pen.polygon((0, -0.98), (0.42, -0.4), (-0.42, -0.4), accent=True)


def _plane(pen: Pen) -> None:
    pen.polygon((-0.2, -0.1), (0.35, -0.98), (0.7, -0.98), (0.45, 0.0), accent=True)
    pen.polygon((0.6, -0.1), (0.8, -0.65), (0.98, -0.65), (0.95, 0.0), accent=True)
    pen.ellipse(-0.98, -0.28, 0.98, 0.32)
    pen.polygon((-0.2, 0.08), (0.45, 0.95), (0.75, 0.95), (0.45, 0.08), accent=True)


def _butterfly(pen: Pen) -> None:
    pen.ellipse(-0.95, -0.85, -0.05, 0.15)
    pen.ellipse(0.05, -0.85, 0.95, 0.15)
    pen.ellipse(-0.75, 0.0, -0.05, 0.8)
    pen.ellipse(0.05, 0.0, 0.75, 0.8)
    pen.ellipse(-0.22, -0.8, 0.22, 0.85, accent=True)
    pen.ellipse(-0.7, -0.6, -0.35, -0.15, accent=True)
    pen.ellipse(0.35, -0.6, 0.7, -0.15, accent=True)


def _heart(pen: Pen) -> None:
    curve = [(0, -0.45), (0.25, -0.8), (0.6, -0.85), (0.9, -0.55), (0.92, -0.15), (0.65, 0.3), (0, 0.9)]
    pen.polygon(*curve, *[(-x, y) for x, y in reversed(curve[1:-1])])
    pen.ellipse(-0.35, -0.45, 0.35, 0.25, accent=True)


DRAWERS: dict[str, Callable[[Pen], None]] = {
    "帆船": _boat, "汽车": _car, "房子": _house, "松树": _pine, "花朵": _flower, "鲤鱼": _fish, "鸽子": _dove,
    "猫咪": _cat, "皮球": _ball, "星星": _star, "气球": _balloon, "雨伞": _umbrella, "茶杯": _cup, "椅子": _chair,
    "旗子": _flag, "蘑菇": _mushroom, "帽子": _hat, "钥匙": _key, "台灯": _lamp, "书本": _book, "闹钟": _clock,
    "苹果": _apple, "火箭": _rocket, "飞机": _plane, "蝴蝶": _butterfly, "爱心": _heart,
}  # fmt: skip


def render_scene(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """Render a scene as a square RGB image of `size` pixels; `rng` moves and scales the things a little."""
    side = size * OVERSAMPLING
    image = Image.new("RGB", (side, side), SKIES[scene.night])
    draw = ImageDraw.Draw(image)
    _render_background(draw, side, scene, rng)
    for thing in scene.things:
        (x, y), reach = stand(thing.place)
        x, y = x + rng.uniform(-SHIFT, SHIFT), y + rng.uniform(-SHIFT, SHIFT)
        paint = (FILLS[thing.colour], ACCENTS[thing.kind], line_of(thing.colour))
        render_copies(
            draw,
            side,
            kind=thing.kind,
            amount=thing.amount,
            centre=(x, y),
            reach=reach,
            scale=rng.uniform(*SCALES),
            paint=paint,
        )
    return image.reduce(OVERSAMPLING)


def stand(place: Place) -> tuple[Point, float]:
    """Centre of a place, and half the side of a big thing there, as shares of the image's side."""
    return (CLOSE_CENTRE, CLOSE_REACH) if place == "middle" else (CENTRES[place], REACH)


def render_copies(
    draw: ImageDraw.ImageDraw,
    side: int,
    *,
    kind: str,
    amount: Amount,
    centre: Point,
    reach: float,
    scale: float,
    paint: tuple[RGB, RGB, RGB],
) -> None:
    """Draw all copies of a thing.

    Args:
        centre: the centre of all copies together, as a share of the image's side.
        reach: half the side of a big thing, as a share of the image's side.
        scale: the scale of each copy; the distance between copies is not scaled.
        paint: fill, accent and line.
    """
    offsets, share = AMOUNT_SHAPES[amount]
    half = side * reach * share * scale
    for dx, dy in offsets:
        at = (side * (centre[0] + reach * dx), side * (centre[1] + reach * dy))
        DRAWERS[kind](Pen(draw, at, half, *paint))


def line_of(colour: str) -> RGB:
    """The colour of the outline of a thing."""
    return (150, 150, 160) if colour == "黑" else (40, 40, 48)


def _render_background(draw: ImageDraw.ImageDraw, side: int, scene: Scene, rng: random.Random) -> None:
    ground = GROUND_FILLS[scene.background]
    if scene.night:
        ground = _dim(ground)
        draw.ellipse(_disc(0.5, 0.06, 0.045, side), fill=(236, 232, 200))
        for _ in range(7):
            draw.ellipse(_disc(rng.random(), 0.4 * rng.random(), 0.007, side), fill=(220, 220, 235))
    else:
        draw.ellipse(_disc(0.5, 0.05, 0.06, side), fill=(255, 244, 160))
    horizon = side * rng.uniform(0.46, 0.52)
    dim: Callable[[RGB], RGB] = _dim if scene.night else lambda colour: colour
    if scene.background == "山谷":
        for peak in (0.15, 0.55, 0.9):
            left, right = side * (peak - 0.4), side * (peak + 0.4)
            draw.polygon([(left, horizon), (side * peak, horizon * 0.35), (right, horizon)], fill=dim((128, 138, 158)))
    elif scene.background == "街道":
        for house in range(6):
            top = horizon * rng.uniform(0.35, 0.8)
            box = [side * house / 6, top, side * (house + 0.85) / 6, horizon]
            draw.rectangle(box, fill=dim((180, 170, 172)))
    elif scene.background == "沙滩":
        draw.rectangle([0, horizon * 0.75, side, horizon], fill=dim((90, 160, 205)))
    draw.rectangle([0, horizon, side, side], fill=ground)
    if scene.background == "沙漠":
        draw.pieslice([-0.3 * side, horizon - 0.1 * side, 0.7 * side, horizon + 0.2 * side], 180, 360, fill=ground)
        draw.pieslice([0.5 * side, horizon - 0.07 * side, 1.3 * side, horizon + 0.1 * side], 180, 360, fill=ground)


def _disc(x: float, y: float, radius: float, side: int) -> list[float]:
    return [side * (x - radius), side * (y - radius), side * (x + radius), side * (y + radius)]


def _dim(colour: RGB) -> RGB:
    """The colour by moonlight."""
    red, green, blue = colour
    return (round(red * 0.42), round(green * 0.44), round(blue * 0.52))
