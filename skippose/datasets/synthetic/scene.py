"""Where a person is: rooms and places outdoors, as one large still picture (the backdrop).

The backdrop is larger than a frame on every side, so that a camera can move over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .texture import bgr, colour, octaves

Array = np.ndarray
Rng = np.random.Generator


@dataclass
class Scene:
    """A place and its light.

    Attributes:
        backdrop: BGR float32 (H + 2 margin, W + 2 margin, 3).
        margin: how far the backdrop reaches beyond the frame on each side, pixels (x, y).
        horizon: the row of the backdrop where the floor begins.
        light: unit vector towards the light (3,): right, up, towards the viewer.
        tint: the light's colour (3,), about 1.
        ambient: share of light without direction.
        indoors: whether it is a room.
    """

    backdrop: Array
    margin: tuple[int, int]
    horizon: float
    light: Array
    tint: Array
    ambient: float
    indoors: bool


def make_scene(
    rng: Rng, width: int, height: int, floor: float, margin: tuple[int, int] = (120, 36)
) -> Scene:
    """Draw a scene.

    Args:
        rng: where all choices come from.
        width: of a frame, pixels.
        height: of a frame.
        floor: the row of the frame on which the person stands.
        margin: as in `Scene`.
    """
    w, h = width + 2 * margin[0], height + 2 * margin[1]
    feet = floor + margin[1]
    horizon = float(np.clip(feet - rng.uniform(18, 75), 0.35 * h, h - 30))
    indoors = bool(rng.random() < 0.5)
    image = np.zeros((h, w, 3), np.float32)
    (_room if indoors else _outdoors)(rng, image, int(horizon))
    x, y = np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32)
    slope = rng.uniform(-0.15, 0.15, 2)
    image *= (1 + slope[0] * x[None] + slope[1] * y[:, None])[..., None]
    image *= (1 + 0.03 * octaves(rng, h, w, 120, 2))[..., None]
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(0.2, 0.9), rng.uniform(0.35, 1.0)])
    exposure = rng.uniform(0.7, 1.12)
    tint = exposure * (1 + rng.uniform(-0.08, 0.08) * np.array([1.0, 0.0, -1.0]))
    image *= tint.astype(np.float32)
    grain = (
        rng.standard_normal((h, w, 1), dtype=np.float32) + 0.7 * octaves(rng, h, w, 4, 2)[..., None]
    )
    image *= 1 + rng.uniform(0.01, 0.045) * grain
    backdrop = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.8))
    return Scene(
        np.clip(backdrop, 0, 255).astype(np.float32),
        margin,
        horizon,
        light / np.linalg.norm(light),
        tint,
        float(rng.uniform(0.35, 0.62)),
        indoors,
    )


def _grained(rng: Rng, shape: tuple[int, int], base: Array, grain: float, size: float) -> Array:
    """A surface of one colour with multi-octave grain, (h, w, 3)."""
    return base * (1 + grain * octaves(rng, *shape, size, 5, 0.7))[..., None]


def _floor(rng: Rng, image: Array, horizon: int, texture: Array) -> None:
    """Lay a square texture on the floor, in perspective."""
    h, w = image.shape[:2]
    n = texture.shape[0]
    spread = rng.uniform(1.5, 3.0)
    target = np.array(
        [[0, horizon], [w, horizon], [w / 2 + spread * w, h + 40], [w / 2 - spread * w, h + 40]],
        np.float32,
    )
    source = np.array([[0, 0], [n, 0], [n, n], [0, n]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    laid = cv2.warpPerspective(
        texture, matrix, (w, h), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
    )
    image[horizon:] = laid[horizon:]


def _tiles(rng: Rng, base: Array, n: int = 640) -> Array:
    """Planks or tiles as a square texture (n, n, 3)."""
    step_x, step_y = int(rng.integers(20, 60)), int(rng.integers(30, 160))
    ys, xs = np.mgrid[0:n, 0:n]
    column = xs // step_x
    row = (ys + (column % 2) * (step_y // 2)) // step_y
    tone = 1 + rng.uniform(0.03, 0.14) * rng.standard_normal((64, 64))[row % 64, column % 64]
    joint = (xs % step_x < 2) | ((ys + (column % 2) * (step_y // 2)) % step_y < 2)
    tone = np.where(joint, rng.uniform(0.55, 0.9), tone) + 0.05 * octaves(rng, n, n, 24, 4)
    return (base * tone[..., None]).astype(np.float32)


def _box(rng: Rng, image: Array, x: float, y: float, w: float, h: float, base: Array) -> None:
    """A piece of furniture seen from the front: lit top, panels or shelves, a shadow beneath."""
    x0, y0, x1, y1 = int(x), int(y), int(x + w), int(y + h)
    cv2.ellipse(image, (int(x + w / 2), y1), (int(w * 0.56), 7), 0, 0, 360, bgr(base * 0.25), -1)
    rows, cols = max(y1 - y0, 2), max(x1 - x0, 2)
    body = _grained(rng, (rows, cols), base, 0.06, 18)
    body *= np.linspace(1.06, 0.86, rows, dtype=np.float32)[:, None, None]
    cy0, cx0 = max(y0, 0), max(x0, 0)
    view = image[cy0 : max(y1, 0), cx0 : max(x1, 0)]
    view[:] = body[cy0 - y0 : cy0 - y0 + view.shape[0], cx0 - x0 : cx0 - x0 + view.shape[1]]
    cv2.rectangle(image, (x0, y0), (x1, y0 + 4), bgr(np.minimum(base * 1.25, 250)), -1)
    kind = rng.random()
    if kind < 0.45:  # shelves with books
        for top in np.arange(y0 + 8, y1 - 16, rng.uniform(18, 30)):
            cv2.rectangle(image, (x0 + 3, int(top)), (x1 - 3, int(top) + 15), bgr(base * 0.4), -1)
            left = x0 + 4.0
            while left < x1 - 8:
                wide, tall = rng.uniform(3, 7), rng.uniform(9, 14)
                a, b = (int(left), int(top + 15 - tall)), (int(left + wide), int(top + 15))
                cv2.rectangle(image, a, b, bgr(colour(rng, value=(0.2, 0.85))), -1)
                left += wide + rng.uniform(0.5, 3)
    elif kind < 0.8:  # doors or drawers
        for edge in np.linspace(x0, x1, int(rng.integers(2, 5)) + 1)[:-1]:
            a, b = (int(edge) + 3, y0 + 8), (int(edge + w / 4), y1 - 5)
            cv2.rectangle(image, a, b, bgr(base * 0.8), 1)
            cv2.circle(image, (int(edge) + 8, (y0 + y1) // 2), 2, bgr(base * 0.5), -1)


def _window(rng: Rng, image: Array, x: int, y: int, w: int, h: int, base: Array) -> None:
    """A window with panes and a curtain, or a framed picture."""
    frame = np.clip(base * rng.uniform(0.6, 1.3), 20, 245)
    cv2.rectangle(image, (x - 4, y - 4), (x + w + 4, y + h + 4), bgr(frame), -1)
    view = image[max(y, 0) : y + h, max(x, 0) : x + w]
    if not view.size:
        return
    sky = colour(rng, (0.5, 0.62), (0.05, 0.45), (0.6, 1.0))
    picture = _grained(rng, (view.shape[0], view.shape[1]), sky, rng.uniform(0.05, 0.25), 30)
    view[:] = np.clip(picture, 5, 250)
    for i in range(1, int(rng.integers(1, 4))):
        cv2.line(image, (x + i * w // 3, y), (x + i * w // 3, y + h), bgr(frame), 2)
    if rng.random() < 0.4:
        cv2.line(image, (x, y + h // 2), (x + w, y + h // 2), bgr(frame), 2)


def _room(rng: Rng, image: Array, horizon: int) -> None:
    """A wall, a floor, furniture before it."""
    h, w = image.shape[:2]
    wall = colour(rng, saturation=(0.03, 0.45), value=(0.35, 0.9))
    image[:horizon] = _grained(rng, (horizon, w), wall, rng.uniform(0.015, 0.05), 50)
    kind = rng.random()
    ys, xs = np.mgrid[0:horizon, 0:w]
    if kind < 0.25:  # bricks
        tall, wide = int(rng.integers(8, 14)), int(rng.integers(18, 32))
        shift = (ys // tall % 2) * (wide // 2)
        brick = 1 + 0.1 * rng.standard_normal((64, 64))[ys // tall % 64, (xs + shift) // wide % 64]
        joint = (ys % tall == 0) | ((xs + shift) % wide == 0)
        image[:horizon] *= np.where(joint, 1.2, brick)[..., None].astype(np.float32)
    elif kind < 0.5:  # wallpaper
        period = rng.uniform(8, 30)
        stripes = 1 + rng.uniform(0.03, 0.12) * np.sign(np.sin(2 * np.pi * xs / period))
        image[:horizon] *= stripes[..., None].astype(np.float32)
    elif kind < 0.65:  # panels
        image[int(horizon * rng.uniform(0.55, 0.75)) : horizon] *= rng.uniform(0.55, 0.8)
    wood = colour(rng, (0.02, 0.12), (0.1, 0.6), (0.25, 0.75))
    if rng.random() < 0.6:
        floor = _tiles(rng, wood)
    else:
        carpet = colour(rng, saturation=(0.05, 0.6), value=(0.2, 0.7))
        floor = _grained(rng, (640, 640), carpet, rng.uniform(0.06, 0.16), 40)
    _floor(rng, image, horizon, floor.astype(np.float32))
    board = int(rng.integers(4, 9))
    image[horizon - board : horizon] = np.clip(wall * rng.uniform(0.6, 1.2), 0, 240)
    image[horizon - board] *= 0.7
    for _ in range(int(rng.integers(1, 4))):
        left, top = int(rng.uniform(0, w - 60)), int(rng.uniform(10, horizon * 0.4))
        _window(rng, image, left, top, int(rng.uniform(25, 110)), int(rng.uniform(25, 80)), wall)
    for _ in range(int(rng.integers(1, 4))):
        across, high = rng.uniform(35, 120), rng.uniform(30, min(130.0, horizon - 5.0))
        bottom = horizon + rng.uniform(-2, 10)
        base = colour(rng, (0.0, 0.15), (0.1, 0.7), (0.15, 0.8))
        _box(rng, image, rng.uniform(-20, w - 40), bottom - high, across, high, base)
    _shade_floor(image, horizon)


def _shade_floor(image: Array, horizon: int) -> None:
    """The floor is darker where it meets what stands on it."""
    rows = image.shape[0] - horizon
    image[horizon:] *= 1 - 0.25 * np.exp(-np.arange(rows, dtype=np.float32) / 12)[:, None, None]


def foliage(rng: Rng, height: int, width: int) -> Array:
    """Leaves, (height, width, 3)."""
    base = colour(rng, (0.2, 0.36), (0.3, 0.8), (0.2, 0.5))
    clumps = 0.3 * octaves(rng, height, width, 40, 3) + 0.22 * octaves(rng, height, width, 7, 3)
    return np.clip(base * np.clip(1 + clumps, 0.2, 2.2)[..., None], 5, 235)


def _outdoors(rng: Rng, image: Array, horizon: int) -> None:
    """Sky, something far away, ground."""
    h, w = image.shape[:2]
    sky = colour(rng, (0.53, 0.62), (0.05, 0.6), (0.65, 1.0))
    fade = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    image[:horizon] = sky * (1 - 0.5 * fade) + 0.5 * fade * np.array([235, 232, 228], np.float32)
    clouds = np.clip(octaves(rng, horizon, w, 110, 5) - rng.uniform(-0.3, 1.2), 0, 1)[..., None]
    image[:horizon] += 0.8 * clouds * (245 - image[:horizon])
    if rng.random() < 0.5:  # hills
        hills = horizon - rng.uniform(5, 60) * (1.2 + octaves(rng, 1, w, 160, 3)[0]) / 2
        tone = colour(rng, (0.22, 0.6), (0.1, 0.4), (0.35, 0.65))
        below = np.arange(horizon)[:, None] > hills[None]
        image[:horizon][below] = _grained(rng, (horizon, w), tone, 0.08, 20)[below]
    for _ in range(int(rng.integers(0, 4))):  # buildings
        wide, tall = int(rng.uniform(40, 150)), int(rng.uniform(30, max(31, horizon * 0.9)))
        left, top = int(rng.uniform(-20, w - 30)), horizon - tall
        wall = colour(rng, (0.0, 0.15), (0.02, 0.45), (0.35, 0.85))
        view = image[top:horizon, max(left, 0) : left + wide]
        view[:] = _grained(rng, view.shape[:2], wall, 0.04, 30)
        gap_x, gap_y = int(rng.integers(11, 22)), int(rng.integers(13, 26))
        glass = colour(rng, (0.5, 0.65), (0.05, 0.5), (0.15, 0.6))
        for y in range(top + 6, horizon - 12, gap_y):
            for left_edge in range(left + 5, left + wide - 9, gap_x):
                corner = (left_edge + gap_x // 2, y + gap_y // 2)
                cv2.rectangle(image, (left_edge, y), corner, bgr(glass), -1)
    if rng.random() < 0.7:  # trees or a hedge
        top = horizon - rng.uniform(8, 75) * (1 + 0.35 * octaves(rng, 1, w, 45, 4)[0])
        leaves = foliage(rng, horizon, w)
        inside = np.arange(horizon)[:, None] > top[None]
        if rng.random() < 0.5:
            inside &= (octaves(rng, 1, w, 90, 1)[0] > -0.3)[None]
        image[:horizon][inside] = leaves[inside]
    if rng.random() < 0.35:  # a fence
        y, step = horizon - int(rng.uniform(12, 34)), int(rng.integers(9, 26))
        paint = bgr(colour(rng, saturation=(0, 0.4), value=(0.2, 0.9)))
        for left in range(0, w, step):
            cv2.line(image, (left, y), (left, horizon + 1), paint, 2)
        cv2.line(image, (0, y + 3), (w, y + 3), paint, 2)
    ground = rng.random()
    if ground < 0.5:
        base = colour(rng, (0.19, 0.3), (0.3, 0.6), (0.3, 0.6))
        grain, size = rng.uniform(0.1, 0.22), 30.0
    elif ground < 0.8:
        base, grain, size = (
            colour(rng, (0, 1), (0, 0.12), (0.35, 0.7)),
            rng.uniform(0.04, 0.1),
            60.0,
        )
    else:
        base = colour(rng, (0.07, 0.13), (0.2, 0.5), (0.55, 0.85))
        grain, size = rng.uniform(0.05, 0.12), 60.0
    texture = _grained(rng, (640, 640), base, grain, size)
    if rng.random() < 0.4:  # lines on the ground, or the edge of a path
        at = int(rng.uniform(80, 560))
        cv2.line(texture, (at, 0), (at, 639), bgr(np.minimum(base * 1.5, 245)), 6)
        cv2.line(texture, (0, at), (639, at), bgr(np.minimum(base * 1.5, 245)), 5)
    _floor(rng, image, horizon, np.clip(texture, 5, 250).astype(np.float32))
    if rng.random() < 0.5:  # shadows of trees
        shadow = np.clip(octaves(rng, h - horizon, w, 50, 4) - 0.4, 0, 0.5)
        image[horizon:] *= (1 - 0.8 * shadow)[..., None]


def add_stool(rng: Rng, scene: Scene, x: float, seat: float, floor: float, width: float) -> None:
    """Paint a seat into the backdrop: ``x`` its middle, ``seat`` and ``floor`` rows (backdrop)."""
    base = colour(rng, (0.0, 0.12), (0.1, 0.7), (0.2, 0.75))
    image = scene.backdrop
    left, right = int(x - width / 2), int(x + width / 2)
    dark = bgr(base * 0.6)
    cv2.ellipse(image, (int(x), int(floor)), (int(width * 0.6), 5), 0, 0, 360, dark, -1)
    if rng.random() < 0.5:
        cv2.rectangle(image, (left, int(seat)), (right, int(floor)), bgr(base * 0.8), -1)
    else:
        for leg in (left + 3, right - 3):
            cv2.line(image, (leg, int(seat)), (leg, int(floor)), dark, 4)
    cv2.rectangle(image, (left - 2, int(seat) - 3), (right + 2, int(seat) + 4), bgr(base), -1)
