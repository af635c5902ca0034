"""What a person looks like, and drawing them: shaded, textured limbs in order of depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .texture import colour, fabric, octaves, skin

Array = np.ndarray
Rng = np.random.Generator
SIDES = ("right", "left")
_TORSO = (64, 96)
_LIMB = (40, 64)


@dataclass
class Look:
    """A person's clothes, skin and hair.

    Attributes:
        textures: part -> (h, w, 3) BGR float32; parts are ``torso``, ``neck``, ``upper_arm``,
            ``forearm``, ``thigh``, ``shank``, ``foot``, ``hand`` and, with a skirt, ``skirt``.
        radii: part -> radius in metres at the part's beginning, middle and end.
        skin: BGR (3,).
        hair: BGR (3,).
        hairline: how far the hair reaches into the forehead (0 to 1).
        long_hair: metres of hair below the head; 0 for short hair.
        cap: colour of a cap, or None.
        beard: whether there is one.
        girth: stoutness, about 1.
    """

    textures: dict[str, Array]
    radii: dict[str, tuple[float, float, float]]
    skin: Array
    hair: Array
    hairline: float
    long_hair: float
    cap: Array | None
    beard: bool
    girth: float

    @classmethod
    def sample(cls, rng: Rng) -> Look:
        """Draw a person."""
        tone = skin(rng)
        girth = float(rng.uniform(0.88, 1.2))
        patterns = ["plain", "plain", "hoops", "stripes", "checks", "print", "print", "jacket"]
        pattern = str(rng.choice(patterns))
        shirt = colour(rng, value=(0.25, 0.95))
        trousers = colour(rng, saturation=(0.05, 0.6), value=(0.12, 0.75))
        if np.abs(shirt - trousers).max() < 40:
            trousers = np.where(trousers > 110, trousers * 0.55, trousers + 70)
        bare = np.broadcast_to(tone, (*_LIMB, 3)) * (
            1 + 0.03 * octaves(rng, *_LIMB, 12, 3)[..., None]
        )
        textures = {
            "torso": fabric(rng, _TORSO, shirt, pattern),
            "neck": bare,
            "hand": bare,
            "foot": fabric(rng, _LIMB, colour(rng, saturation=(0, 0.7), value=(0.1, 0.95))),
        }
        sleeve = pattern if pattern in ("hoops", "checks") else "plain"
        for part in ("upper_arm", "forearm"):
            textures[part] = fabric(rng, _LIMB, shirt, sleeve)
        for part in ("thigh", "shank"):
            textures[part] = fabric(rng, _LIMB, trousers)
        belt = int(_TORSO[0] * rng.uniform(0.8, 0.9))
        rows = _TORSO[0] - belt
        textures["torso"][belt:] = trousers * (1 + 0.05 * octaves(rng, rows, _TORSO[1]))[..., None]
        kind = rng.random()
        if kind < 0.45:  # short sleeves
            textures["upper_arm"][int(_LIMB[0] * rng.uniform(0.45, 0.9)) :] = tone
            textures["forearm"] = bare
        elif kind < 0.55:  # none
            textures["upper_arm"] = textures["forearm"] = bare
        legs = rng.random()
        skirt = legs > 0.87
        if legs < 0.3 or skirt:
            textures["thigh"][int(_LIMB[0] * rng.uniform(0.6, 0.95)) :] = tone
            textures["shank"] = bare.copy()
            if rng.random() < 0.6:  # socks
                sock = colour(rng, saturation=(0, 0.6), value=(0.2, 1.0))
                textures["shank"][int(_LIMB[0] * rng.uniform(0.4, 0.85)) :] = sock
        if skirt:
            textures["skirt"] = fabric(rng, _LIMB, trousers, str(rng.choice(patterns[:5])))
        loose = rng.uniform(0.95, 1.2)
        radii = {
            "torso": (0.115, 0.125, 0.125),
            "neck": (0.05, 0.05, 0.055),
            "upper_arm": (0.058 * loose, 0.054 * loose, 0.044 * loose),
            "forearm": (0.043, 0.042, 0.03),
            "hand": (0.03, 0.042, 0.03),
            "thigh": (0.092 * loose, 0.082 * loose, 0.06 * loose),
            "shank": (0.06 * loose, 0.06 * loose, 0.042 * loose),
            "foot": (0.05, 0.05, 0.036),
            "skirt": (0.14, 0.19, 0.24),
        }
        radii = {p: tuple(r * girth for r in rs) for p, rs in radii.items()}  # type: ignore[misc]
        hairs = [(0.05, 0.1), (0.08, 0.3), (0.06, 0.55), (0.12, 0.8), (0.0, 0.75)]
        hue, value = hairs[int(rng.choice(5, p=[0.35, 0.3, 0.15, 0.12, 0.08]))]
        return cls(
            textures={part: np.ascontiguousarray(t, np.float32) for part, t in textures.items()},
            radii=radii,
            skin=tone,
            hair=colour(rng, (hue, hue + 0.03), (0.05, 0.6), (value * 0.7, value)),
            hairline=float(rng.uniform(0.3, 0.62)),
            long_hair=float(rng.uniform(0.08, 0.3) * (rng.random() < 0.35)),
            cap=colour(rng) if rng.random() < 0.2 else None,
            beard=bool(rng.random() < 0.15),
            girth=girth,
        )


class Painter:
    """Draws onto an image and notes which pixels the person covers.

    Args:
        image: float32 (H, W, 3) BGR, changed in place.
        light: direction towards the light, unit vector (3,): right, up, towards the viewer.
        tint: colour of the light (3,), about 1.
        ambient: share of light that has no direction.
    """

    def __init__(self, image: Array, light: Array, tint: Array, ambient: float) -> None:
        self.image = image
        self.mask = np.zeros(image.shape[:2], np.float32)
        self.light = light
        self.tint = tint.astype(np.float32)
        self.ambient = ambient

    def _window(self, points: Array, margin: float) -> tuple[slice, slice] | None:
        """The part of the image around points (n, 2); None outside it."""
        low = np.floor(points.min(axis=0) - margin).astype(int)
        high = np.ceil(points.max(axis=0) + margin).astype(int) + 1
        height, width = self.image.shape[:2]
        x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def _blend(self, window: tuple[slice, slice], alpha: Array, colours: Array) -> None:
        view = self.image[window]
        view += alpha[..., None] * (colours * self.tint - view)
        mask = self.mask[window]
        np.maximum(mask, alpha, out=mask)

    def _shade(self, nx: Array, ny: Array, nz: Array) -> Array:
        """Brightness (h, w) of a surface with these normals (y downwards)."""
        light = self.light
        direct = np.maximum(nx * light[0] - ny * light[1] + nz * light[2], 0)
        return self.ambient + (1 - self.ambient) * direct + 0.12 * nz - 0.06

    def limb(
        self, a: Array, b: Array, radii: tuple[float, float, float], texture: Array, turn: float
    ) -> None:
        """Draw a rounded limb from ``a`` to ``b``.

        Args:
            a: beginning (2,) in pixels.
            b: end (2,).
            radii: at the beginning, in the middle and at the end, in pixels.
            texture: (h, w, 3), around (columns) and along (rows) the limb.
            turn: where the limb's front points, radians: 0 to the viewer, positive to the right of
                the image.
        """
        window = self._window(np.stack([a, b]), max(radii) + 1)
        if window is None:
            return
        y, x = np.mgrid[window].astype(np.float32)
        x -= a[0]
        y -= a[1]
        length = max(float(np.hypot(*(b - a))), 0.5)
        dx, dy = float(b[0] - a[0]) / length, float(b[1] - a[1]) / length
        along = (x * dx + y * dy) / length
        inside = np.clip(along, 0, 1)
        r0, r1, r2 = radii
        bulge = 4 * (r1 - (r0 + r2) / 2)
        radius = r0 + (r2 - r0) * inside + bulge * inside * (1 - inside)
        across = x * dy - y * dx
        beyond = (along - inside) * length
        distance = np.sqrt(across**2 + beyond**2) - radius
        alpha = np.clip(0.5 - distance, 0, 1)
        if not alpha.any():
            return
        u = np.clip(across / radius, -0.999, 0.999)
        cap = np.clip(beyond / radius, -1, 1)
        nz = np.sqrt(np.maximum(1 - u**2 - cap**2, 0.0))
        shade = self._shade(u * dy + cap * dx, -u * dx + cap * dy, nz)
        height, width = texture.shape[:2]
        columns = ((np.arcsin(u) - turn) / (2 * np.pi) + 0.5) % 1.0 * (width - 1)
        rows = inside * (height - 1)
        colours = cv2.remap(texture, columns, rows, cv2.INTER_LINEAR)
        self._blend(window, alpha, colours * shade[..., None])

    def head(self, centre: Array, axes: Array, scale: float, look: Look) -> None:
        """Draw a head: hair, face and nose by where the surface points in the head's own axes.

        Args:
            centre: (2,) pixels.
            axes: (3, 3) rows forward, left, up (world axes).
            scale: pixels per metre.
            look: whose head.
        """
        forward, left, up = axes
        face = np.array([1, -1])
        nose = centre + scale * 0.118 * forward[:2] * face - scale * 0.01 * up[:2] * face
        skin_patch = np.broadcast_to(look.skin, (2, 2, 3)).astype(np.float32)
        hair_patch = np.broadcast_to(look.hair, (2, 2, 3)).astype(np.float32)
        if look.long_hair:
            back = centre - scale * 0.05 * forward[:2] * face
            tip = back - scale * (0.05 + look.long_hair) * up[:2] * face
            if -0.2 < forward[2] <= 0.4:
                self.limb(back, tip, (0.08 * scale, 0.08 * scale, 0.05 * scale), hair_patch, 0.0)
        nose_radius = 0.017 * scale
        if forward[2] < 0.8:
            self.limb(centre, nose, (nose_radius,) * 3, skin_patch, 0.0)
        ry = 0.125 * scale
        rx = scale * float(np.hypot(0.088 * left[0], 0.108 * forward[0]) + 0.09 * abs(up[0]) * 0.3)
        rx = max(rx, 0.08 * scale)
        tall = up[:2] * face
        ry *= max(float(np.hypot(*tall)), 0.75)
        tall = tall / max(float(np.hypot(*tall)), 1e-6)
        wide = np.array([-tall[1], tall[0]])  # to the right of the image when the head is upright
        window = self._window(centre[None], max(rx, ry) + 1)
        if window is not None:
            y, x = np.mgrid[window].astype(np.float32)
            x -= centre[0]
            y -= centre[1]
            a, b = (x * wide[0] + y * wide[1]) / rx, (x * tall[0] + y * tall[1]) / ry
            r2 = np.sqrt(a**2 + b**2)
            alpha = np.clip(0.5 - (r2 - 1) * min(rx, ry), 0, 1)
            a, b = a / np.maximum(r2, 1), b / np.maximum(r2, 1)
            nz = np.sqrt(np.maximum(1 - a**2 - b**2, 0))
            nx, ny = a * wide[0] + b * tall[0], a * wide[1] + b * tall[1]
            colours = self._face(look, *(v[0] * nx - v[1] * ny + v[2] * nz for v in axes))
            self._blend(window, alpha, colours * self._shade(nx, ny, nz)[..., None])
        if look.long_hair and forward[2] <= -0.2:
            tip = centre - scale * (0.07 + look.long_hair) * up[:2] * face
            self.limb(centre, tip, (0.1 * scale, 0.1 * scale, 0.06 * scale), hair_patch, 0.0)
        if forward[2] >= 0.8:
            patch = np.broadcast_to(look.skin * 1.06, (2, 2, 3)).astype(np.float32)
            root = centre + scale * 0.1 * forward[:2] * face
            self.limb(root, nose, (nose_radius * 0.8,) * 3, patch, 0.0)
        if look.cap is not None and forward[2] > -0.5:
            patch = np.broadcast_to(look.cap * 0.85, (2, 2, 3)).astype(np.float32)
            root = centre + scale * (0.06 * forward[:2] + 0.06 * up[:2]) * face
            brim = centre + scale * (0.17 * forward[:2] + 0.05 * up[:2]) * face
            self.limb(root, brim, (0.035 * scale, 0.03 * scale, 0.02 * scale), patch, 0.0)

    @staticmethod
    def _face(look: Look, front: Array, side: Array, top: Array) -> Array:
        """Colours (h, w, 3) of a head at directions given in the head's axes (h, w)."""
        colours = np.broadcast_to(look.skin, (*front.shape, 3)).copy()
        eyes = (np.abs(np.abs(side) - 0.38) < 0.13) & (np.abs(top - 0.12) < 0.075) & (front > 0)
        brows = (np.abs(np.abs(side) - 0.38) < 0.17) & (np.abs(top - 0.27) < 0.045) & (front > 0)
        mouth = (np.abs(side) < 0.24) & (np.abs(top + 0.5) < 0.05) & (front > 0)
        if look.beard:
            colours[(top < -0.28) & (front > 0.1)] = look.hair
        colours[brows] = look.hair * 0.8
        colours[eyes] = (38, 34, 34)
        colours[mouth] = look.skin * np.array([0.6, 0.55, 0.78], np.float32)
        edge = np.where(front > 0, look.hairline + 0.12 * (front < 0.45), look.hairline)
        edge = np.where(front < 0.15, -0.15, edge) - 0.45 * (front < -0.25)
        hair = np.clip((top - edge) / 0.08, 0, 1)[..., None]
        colours += hair * (look.hair - colours)
        if look.cap is not None:
            on = np.clip((top - 0.38) / 0.06, 0, 1)[..., None]
            colours += on * (look.cap - colours)
        return colours


@dataclass
class View:
    """A figure in one frame, as the camera sees it.

    Attributes:
        at: point -> (2,) pixels.
        depth: point -> metres towards the viewer.
        scale: pixels per metre.
        trunk: (3, 3) the chest's axes.
        head: (3, 3) the head's axes.
        pelvis: (3, 3) the pelvis' axes.
    """

    at: dict[str, Array]
    depth: dict[str, float]
    scale: float
    trunk: Array
    head: Array
    pelvis: Array


def draw(painter: Painter, look: Look, view: View) -> None:
    """Draw a person, the farthest parts first."""
    at, depth, scale = view.at, view.depth, view.scale
    turn = float(np.arctan2(view.trunk[0, 0], view.trunk[0, 2]))
    hip_turn = float(np.arctan2(view.pelvis[0, 0], view.pelvis[0, 2]))
    jobs: list[tuple[float, str, str, str, float]] = []
    for side in SIDES:
        pairs = (
            ("upper_arm", "shoulder", "elbow", turn, 0.03),
            ("forearm", "elbow", "wrist", turn, 0.06),
            ("hand", "wrist", "hand", turn, 0.05),
            ("thigh", "hip", "knee", hip_turn, 0.0),
            ("shank", "knee", "ankle", hip_turn, -0.01),
            ("foot", "ankle", "toe", hip_turn, 0.0),
        )
        for part, a, b, angle, bias in pairs:
            a, b = f"{side}_{a}", f"{side}_{b}"
            jobs.append(((depth[a] + depth[b]) / 2 + bias, part, a, b, angle))
    trunk_depth = (depth["neck"] + depth["belly"]) / 2
    jobs.append((trunk_depth + 0.04, "torso", "neck", "pelvis", turn))
    if look.long_hair and view.head[0, 2] > 0.4:  # seen from the front it hangs behind the trunk
        jobs.append((trunk_depth - 0.3, "hair", "head", "neck", turn))
    jobs.append((trunk_depth + 0.03, "neck", "neck", "head", turn))
    jobs.append((max(depth["head"], trunk_depth) + 0.05, "head", "head", "head", turn))
    if "skirt" in look.textures:
        jobs.append(((depth["right_knee"] + depth["left_knee"]) / 2 + 0.05, "skirt", "", "", turn))
    for _, part, a, b, angle in sorted(jobs, key=lambda job: job[0]):
        radii = look.radii.get(part, (0.0, 0.0, 0.0))
        pixels = (radii[0] * scale, radii[1] * scale, radii[2] * scale)
        if part == "head":
            painter.head(at["head"], view.head, scale, look)
        elif part == "hair":
            tip = at["head"] + (at["neck"] - at["head"]) * (0.6 + 4 * look.long_hair)
            patch = np.broadcast_to(look.hair, (2, 2, 3)).astype(np.float32)
            painter.limb(at["head"], tip, (0.11 * scale, 0.11 * scale, 0.08 * scale), patch, 0.0)
        elif part == "torso":
            _torso(painter, look, view, angle)
        elif part == "skirt":
            knees = (at["right_knee"] + at["left_knee"]) / 2
            hem = at["pelvis"] + 0.8 * (knees - at["pelvis"])
            spread = float(np.hypot(*(at["right_knee"] - at["left_knee"]))) / 2
            pixels = (pixels[0], pixels[1] * 0.8 + spread * 0.3, pixels[2] * 0.55 + spread * 0.8)
            painter.limb(at["pelvis"], hem, pixels, look.textures["skirt"], hip_turn)
        else:
            painter.limb(at[a], at[b], pixels, look.textures[part], angle)


def _torso(painter: Painter, look: Look, view: View, turn: float) -> None:
    """The trunk: shoulders, chest, waist and hips as wide as they are seen from here."""
    at, scale = view.at, view.scale
    broad = float(np.hypot(*(at["right_shoulder"] - at["left_shoulder"]))) / 2
    hips = float(np.hypot(*(at["right_hip"] - at["left_hip"]))) / 2
    thick = [r * scale for r in look.radii["torso"]]
    top = float(np.hypot(0.93 * broad, 0.85 * thick[0]))
    chest = float(np.hypot(0.72 * broad, thick[1]))
    bottom = float(np.hypot(hips + 0.035 * scale, 0.9 * thick[2]))
    neck, pelvis = at["neck"], at["pelvis"]
    axis = pelvis - neck
    length = max(float(np.hypot(*axis)), 1.0)
    # the caps are round: begin lower and end higher, so that they end at neck and seat
    start = neck + axis * min(0.8 * top / length, 0.45)
    end = pelvis - axis * min(0.25 * bottom / length, 0.3)
    painter.limb(start, end, (top, chest, bottom), look.textures["torso"], turn)
