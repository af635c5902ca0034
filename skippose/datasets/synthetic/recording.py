"""One synthetic clip: a person, a place, a camera, and what the camera records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .camera import Camera, make_camera
from .distractors import Sprite, make_distractors
from .figure import Look, Painter, View, draw
from .motion import make_motion
from .scene import Scene, add_stool, make_scene
from .sensor import Codec, Sensor
from .skeleton import JOINTS, Body, Skeleton, place

Array = np.ndarray
Rng = np.random.Generator
WIDTH, HEIGHT = 320, 240
LENGTHS = (24, 40)
"""The fewest and the most frames of a clip. JHMDB has 15 to 40; shorter clips leave less to see."""
_DISTANCE = 6.0  # metres from the camera to where the person is at first
_EYE = 1.2  # metres above the ground
_MARGIN = (120, 36)
_BORDER = 8.0  # pixels that the joints keep from the frame's border


@dataclass
class Recording:
    """Everything that is in front of, and in, the camera, for T frames.

    Attributes:
        action: name of the motion, one of `motion.MOTIONS`.
        joints: (T, 15, 2) pixels of the frame, 0-based (0 is the middle of the first pixel).
        camera: how the camera moves.
        scene: the place.
        sprites: other things that move.
        look: what the person looks like.
        views: the person in each frame.
        shadows: (T, 3) the shadow on the ground: middle and radius in pixels.
        sensor: noise and light.
        codec: the video codec, in its first state.
    """

    action: str
    joints: Array
    camera: Camera
    scene: Scene
    sprites: list[Sprite]
    look: Look
    views: list[View]
    shadows: Array
    sensor: Sensor
    codec: tuple[float, float]

    def __len__(self) -> int:
        return len(self.joints)

    @classmethod
    def sample(
        cls,
        action: str,
        seed: Sequence[int],
        frames: int | None = None,
        camera: str | None = None,
    ) -> Recording:
        """Draw a recording.

        Args:
            action: one of `motion.MOTIONS`.
            seed: numbers of at least 0; the same ones give the same recording.
            frames: T; drawn from `LENGTHS` if None.
            camera: one of `camera.KINDS`; drawn (still in half of the cases) if None.

        Raises:
            ValueError: an unknown action or camera, or fewer than two frames.
        """
        rngs = [np.random.default_rng([*seed, part]) for part in range(7)]
        count = int(rngs[0].integers(LENGTHS[0], LENGTHS[1] + 1))
        drawn = str(rngs[0].choice(["still", "pan", "shake"], p=[0.5, 0.3, 0.2]))
        body = Body.sample(rngs[0])
        pose = make_motion(action, count if frames is None else frames, rngs[1])
        skeleton = place(body, pose)
        kind = drawn if camera is None else camera
        seen, moves = _frame_person(rngs[2], skeleton, body, kind, (*seed, 6))
        scene = make_scene(rngs[3], WIDTH, HEIGHT, seen.floor - _MARGIN[1], _MARGIN)
        if action == "sit":
            _add_seat(rngs[3], scene, seen, skeleton)
        sprites = make_distractors(rngs[4], scene, len(pose["up"]))
        names = list(skeleton.points)
        pixels = moves.project(np.stack([seen.points[name] for name in names], axis=1))
        zoom = np.hypot(moves.affine[:, 0, 0], moves.affine[:, 0, 1])
        views = [
            View(
                {name: pixels[t, i] for i, name in enumerate(names)},
                {name: float(skeleton.points[name][t, 2]) for name in names},
                float(seen.scale[t] * zoom[t]),
                skeleton.trunk[t],
                skeleton.head[t],
                skeleton.pelvis[t],
            )
            for t in range(len(pixels))
        ]
        shadow = moves.project(seen.ground[:, None])[:, 0]
        radius = 0.36 * seen.scale * zoom / (1 + 2 * np.maximum(pose["up"], 0))
        sensor = Sensor.sample(rngs[5], len(pixels), (WIDTH, HEIGHT))
        codec = Codec.sample(rngs[5], float(sensor.noise[..., 1].std()))
        return cls(
            action,
            pixels[:, [names.index(joint) for joint in JOINTS]],
            moves,
            scene,
            sprites,
            Look.sample(rngs[2]),
            views,
            np.column_stack([shadow, radius]),
            sensor,
            (codec.step, codec.skip),
        )

    def light(self, t: int, person: bool = True) -> tuple[Array, Array]:
        """Frame ``t`` before the sensor: (H, W, 3) BGR float32, and the person's mask (H, W).

        ``person=False`` leaves out the person and the shadow (the mask is empty).
        """
        affine = self.camera.affine[t]
        backdrop = self.scene.backdrop
        if self.camera.kind == "still":
            x, y = self.scene.margin
            frame = backdrop[y : y + HEIGHT, x : x + WIDTH].copy()
        else:
            frame = cv2.warpAffine(backdrop, affine, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        for sprite in self.sprites:
            if not sprite.front:
                sprite.paint(frame, affine, t)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        if person:
            _cast_shadow(frame, self.shadows[t])
            scene = self.scene
            painter = Painter(frame, scene.light, scene.tint, scene.ambient)
            draw(painter, self.look, self.views[t])
            mask = painter.mask > 0.5
        for sprite in self.sprites:
            if sprite.front:
                sprite.paint(frame, affine, t)
        return frame, mask

    def record(self) -> tuple[Array, Array]:
        """All frames as the file has them: uint8 (T, H, W, 3) BGR, and masks, bool (T, H, W)."""
        codec = Codec(*self.codec)
        images = np.empty((len(self), HEIGHT, WIDTH, 3), np.uint8)
        masks = np.empty((len(self), HEIGHT, WIDTH), bool)
        for t in range(len(self)):
            frame, masks[t] = self.light(t)
            images[t] = codec(self.sensor.expose(frame, t))
        return images, masks


@dataclass
class _Seen:
    """A skeleton on the backdrop.

    Attributes:
        points: name -> (T, 2) backdrop pixels.
        scale: (T,) pixels per metre at the pelvis.
        ground: (T, 2) the point on the floor below the person.
        floor: the floor's row at the person's first place.
    """

    points: dict[str, Array]
    scale: Array
    ground: Array
    floor: float

    def moved(self, by: Array) -> _Seen:
        """The same, elsewhere on the backdrop."""
        points = {name: value + by for name, value in self.points.items()}
        return _Seen(points, self.scale, self.ground + by, self.floor + float(by[1]))


def _project(skeleton: Skeleton, pixels_per_metre: float) -> _Seen:
    """Perspective, with the first place of the pelvis' ground point at (0, 0)."""
    focal = pixels_per_metre * _DISTANCE

    def flat(point: Array) -> Array:
        depth = np.maximum(_DISTANCE - point[:, 2:], 1.0)
        return focal * np.column_stack([point[:, :1] / depth, (_EYE - point[:, 1:2]) / depth])

    pelvis = skeleton.points["pelvis"]
    soles = (skeleton.points["right_ankle"] + skeleton.points["left_ankle"]) / 2
    scale = focal / np.maximum(_DISTANCE - pelvis[:, 2], 1.0)
    points = {name: flat(point) for name, point in skeleton.points.items()}
    return _Seen(points, scale, flat(soles * [1, 0, 1]), pixels_per_metre * _EYE)


def _frame_person(
    rng: Rng, skeleton: Skeleton, body: Body, kind: str, seed: Sequence[int]
) -> tuple[_Seen, Camera]:
    """Choose the person's size and place so that all joints are in all frames, and the camera."""
    scale = rng.uniform(105, 200) / body.height
    across, down = rng.uniform(0.2, 0.8), rng.uniform(0.4, 1.0)
    room = np.array([WIDTH, HEIGHT]) - 1 - 2 * _BORDER
    while True:
        seen = _project(skeleton, scale)
        way = seen.points["pelvis"][:, 0] - seen.points["pelvis"][0, 0]
        camera = make_camera(np.random.default_rng(seed), kind, way, (WIDTH, HEIGHT), _MARGIN)
        points = np.stack(list(seen.points.values()), axis=1)
        crown = points[:, :1] * 0 + seen.points["head"][:, None] - [0, 0.13 * scale]
        points = camera.project(np.concatenate([points, crown], axis=1)).reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        if (high - low <= room).all():
            free = room - (high - low)
            target = _BORDER + free * [across, down]
            # exact for a camera that neither turns nor zooms; else within its few pixels of turn
            return seen.moved(target - low), camera
        scale *= min(0.97, *(room / (high - low)))


def _add_seat(rng: Rng, scene: Scene, seen: _Seen, skeleton: Skeleton) -> None:
    """Put a seat where the person sits."""
    t = int(skeleton.points["pelvis"][:, 1].argmin())
    pelvis, scale = seen.points["pelvis"][t], float(seen.scale[t])
    back = -skeleton.pelvis[t, 0, 0] * 0.05 * scale
    width = rng.uniform(0.4, 0.6) * scale
    floor = float(seen.ground[t, 1])
    add_stool(rng, scene, pelvis[0] + back, pelvis[1] + 0.11 * scale, floor, width)


def _cast_shadow(frame: Array, shadow: Array) -> None:
    """Darken the ground below the person."""
    x, y, radius = shadow
    flat = 0.3 * radius
    x0, x1 = max(int(x - 2 * radius), 0), min(int(x + 2 * radius) + 1, WIDTH)
    y0, y1 = max(int(y - 2 * flat), 0), min(int(y + 2 * flat) + 1, HEIGHT)
    if x0 >= x1 or y0 >= y1:
        return
    columns = ((np.arange(x0, x1) - x) / radius) ** 2
    rows = ((np.arange(y0, y1) - y) / flat) ** 2
    dark = 0.5 * np.exp(-1.5 * (columns[None] + rows[:, None])).astype(np.float32)
    frame[y0:y1, x0:x1] *= 1 - dark[..., None]
