"""A person's skeleton: from joint angles to points in space.

World axes: x to the right of the image, y up, z towards the viewer; metres. The person's own axes
are ``forward``, ``left`` and ``up``; with a yaw of 0 the person faces the viewer, and the person's
left is on the right of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray

JOINTS = (
    "neck", "belly", "head", "right_shoulder", "left_shoulder", "right_hip", "left_hip",
    "right_elbow", "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist",
    "right_ankle", "left_ankle",
)  # fmt: skip
"""JHMDB's joints, in its order."""

_ARM = dict(arm=4.0, out=9.0, elbow=12.0, inward=25.0)
_LEG = dict(hip=1.0, open=5.0, knee=3.0)
REST: dict[str, float] = {
    **dict(yaw=0.0, lean=2.0, side=0.0, twist=0.0, nod=0.0, turn=0.0),
    **{f"{side}_{name}": value for side in "rl" for name, value in {**_ARM, **_LEG}.items()},
    **dict(up=0.0, go=0.0, strafe=0.0),
}
"""The pose of someone who stands there. Degrees, except ``up``, ``go`` and ``strafe``: metres.

``yaw``: where the pelvis faces. ``lean``, ``side``, ``twist``: the trunk, forward, to the left,
shoulders to the left. ``nod``, ``turn``: the head, relative to the trunk. ``arm``: the upper arm,
from hanging (0) over forward (90) to up (180); ``out``: sideways; ``elbow``: flexion; ``inward``:
turns the plane of the elbow to the middle. ``hip``, ``open``, ``knee``: the leg, alike. ``up``: the
height of the feet above the ground; ``go``, ``strafe``: way covered forward and to the left,
beside what the feet cover by stepping.
"""

Pose = dict[str, Array]
"""A motion: for every name in `REST` an array (T,)."""


@dataclass(frozen=True)
class Body:
    """Lengths of a body in metres."""

    spine_low: float = 0.21
    spine_high: float = 0.32
    neck: float = 0.175
    shoulder: float = 0.175
    hip: float = 0.1
    upper_arm: float = 0.29
    forearm: float = 0.25
    thigh: float = 0.43
    shank: float = 0.42
    foot: float = 0.19
    heel: float = 0.075

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Body:
        """Draw a body: each length within 7% of the usual one, trunk and limbs of one sort."""
        limbs, trunk = rng.uniform(0.93, 1.06), rng.uniform(0.95, 1.06)
        lengths = {}
        for name, value in vars(cls()).items():
            long = name in ("upper_arm", "forearm", "thigh", "shank")
            lengths[name] = value * (limbs if long else trunk) * rng.uniform(0.97, 1.03)
        return cls(**lengths)

    @property
    def height(self) -> float:
        """From the sole to the crown when standing straight."""
        legs = self.heel + self.shank + self.thigh
        return legs + self.spine_low + self.spine_high + self.neck + 0.13


@dataclass
class Skeleton:
    """Where a body is in T frames.

    Attributes:
        points: name -> (T, 3) metres: `JOINTS` and ``pelvis``, ``<side>_hand``, ``<side>_toe``.
        trunk: the chest's axes, (T, 3, 3): rows forward, left, up.
        head: the head's axes, likewise.
        pelvis: the pelvis' axes, likewise.
    """

    points: dict[str, Array] = field(default_factory=dict)
    trunk: Array = field(default_factory=lambda: np.zeros((0, 3, 3)))
    head: Array = field(default_factory=lambda: np.zeros((0, 3, 3)))
    pelvis: Array = field(default_factory=lambda: np.zeros((0, 3, 3)))


def _mix(a: Array, b: Array, angle: Array) -> Array:
    """The unit vector ``angle`` (T,) radians from a towards b; a, b (T, 3) orthonormal."""
    return np.cos(angle)[:, None] * a + np.sin(angle)[:, None] * b


def _limb(
    axes: Array, swing: Array, out: Array, bend: Array, inward: Array, side: float, forwards: float
) -> tuple[Array, Array, Array]:
    """Directions (T, 3) of a limb's upper and lower segment and the lower one's forward normal.

    Args:
        axes: (T, 3, 3) forward, left, up of the part that the limb hangs from.
        swing: forward angle (T,).
        out: sideways angle (T,).
        bend: flexion (T,).
        inward: turn of the flexion's plane towards the middle (T,).
        side: 1 for the left, -1 for the right.
        forwards: 1 where the joint bends forward (elbow), -1 backward (knee).
    """
    forward, lateral, up = axes[:, 0], side * axes[:, 1], axes[:, 2]
    hang, ahead = _mix(-up, forward, swing), _mix(forward, up, swing)
    upper = _mix(hang, lateral, out)
    middle = -_mix(lateral, -hang, out)
    plane = _mix(ahead, middle, inward)
    lower = _mix(upper, forwards * plane, bend)
    return upper, lower, _mix(plane, -forwards * upper, bend)


def _turned(axes: Array, lean: Array, side: Array, twist: Array) -> Array:
    """Axes (T, 3, 3) after leaning forward, to the left, and twisting to the left."""
    forward, left, up = axes[:, 0], axes[:, 1], axes[:, 2]
    forward, up = _mix(forward, -up, lean), _mix(up, forward, lean)
    left, up = _mix(left, -up, side), _mix(up, left, side)
    forward, left = _mix(forward, left, twist), _mix(left, -forward, twist)
    return np.stack([forward, left, up], axis=1)


def place(body: Body, pose: Pose) -> Skeleton:
    """Joint angles to points: the feet stand on the ground (y = 0) and carry the body along.

    The foot that is lower stays where it is and the pelvis moves over it, so walking needs no
    speed of its own. The pelvis starts at x = z = 0.

    Raises:
        ValueError: names of the pose that are not `REST`'s.
    """
    if set(pose) != set(REST):
        raise ValueError(f"a pose has exactly REST's names; differs in {set(pose) ^ set(REST)}")
    rad = {name: np.deg2rad(value) for name, value in pose.items()}
    sin, cos, zero, one = np.sin(rad["yaw"]), np.cos(rad["yaw"]), 0 * rad["yaw"], 1 + 0 * rad["yaw"]
    pelvis = np.stack(
        [
            np.stack([sin, zero, cos], axis=1),
            np.stack([cos, zero, -sin], axis=1),
            np.stack([zero, one, zero], axis=1),
        ],
        axis=1,
    )
    low = _turned(pelvis, rad["lean"] / 2, rad["side"] / 2, rad["twist"] / 2)
    trunk = _turned(pelvis, rad["lean"], rad["side"], rad["twist"])
    head = _turned(trunk, rad["nod"], zero, rad["turn"])
    at: dict[str, Array] = {"pelvis": np.zeros((len(sin), 3))}
    at["belly"] = at["pelvis"] + body.spine_low * low[:, 2]
    at["neck"] = at["belly"] + body.spine_high * trunk[:, 2]
    at["head"] = at["neck"] + body.neck * head[:, 2] + 0.02 * head[:, 0]
    for name, side in (("right", -1.0), ("left", 1.0)):
        r = {key[2:]: value for key, value in rad.items() if key[:2] == f"{name[0]}_"}
        upper, lower, _ = _limb(trunk, r["arm"], r["out"], r["elbow"], r["inward"], side, 1.0)
        at[f"{name}_shoulder"] = (
            at["neck"] + side * body.shoulder * trunk[:, 1] - 0.05 * trunk[:, 2]
        )
        at[f"{name}_elbow"] = at[f"{name}_shoulder"] + body.upper_arm * upper
        at[f"{name}_wrist"] = at[f"{name}_elbow"] + body.forearm * lower
        at[f"{name}_hand"] = at[f"{name}_wrist"] + 0.08 * lower
        upper, lower, toes = _limb(pelvis, r["hip"], r["open"], r["knee"], zero, side, -1.0)
        at[f"{name}_hip"] = at["pelvis"] + side * body.hip * pelvis[:, 1] - 0.02 * pelvis[:, 2]
        at[f"{name}_knee"] = at[f"{name}_hip"] + body.thigh * upper
        at[f"{name}_ankle"] = at[f"{name}_knee"] + body.shank * lower
        toes = toes + 0.25 * lower  # from the ankle the toes lie ahead and a little lower
        at[f"{name}_toe"] = at[f"{name}_ankle"] + body.foot * toes / np.linalg.norm(
            toes, axis=1, keepdims=True
        )
    root = _root(body, at, pose, pelvis)
    return Skeleton({name: value + root for name, value in at.items()}, trunk, head, pelvis)


def _root(body: Body, at: dict[str, Array], pose: Pose, pelvis: Array) -> Array:
    """Where the pelvis is (T, 3), given the points relative to it."""
    soles = np.stack([at["right_ankle"], at["left_ankle"]], axis=1)  # (T, 2, 3)
    heights = np.stack(
        [
            np.minimum(at[f"{s}_ankle"][:, 1] - body.heel, at[f"{s}_toe"][:, 1] - 0.02)
            for s in ("right", "left")
        ],
        axis=1,
    )
    weight = np.exp((heights.min(axis=1, keepdims=True) - heights) / 0.015)
    weight /= weight.sum(axis=1, keepdims=True)
    step = -(weight[1:, :, None] * np.diff(soles, axis=0)).sum(axis=1)
    step[pose["up"][1:] > 0.02] = 0.0  # nobody pushes the ground away in the air
    root = np.zeros_like(at["pelvis"])
    root[1:] = np.cumsum(step, axis=0)
    for name, axis in (("go", 0), ("strafe", 1)):
        root[1:] += np.cumsum(np.diff(pose[name])[:, None] * pelvis[1:, axis], axis=0)
    root[:, 1] = pose["up"] - heights.min(axis=1)
    return root
