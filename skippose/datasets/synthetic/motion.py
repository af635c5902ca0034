"""Twelve motions as smooth trajectories of joint angles.

A motion is made for a clip of T frames: a dictionary of `skeleton.REST`'s names, each (T,). All
have pauses, in which the angles do not change at all, and random timing, extent and side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from .skeleton import REST, Array, Pose

Keys = list[tuple[float, dict[str, float]]]
Rng = np.random.Generator
SLOW = 20.0  # frames that a motion like a throw takes at least
TURNS = 0.8  # share of the clips in which the person turns round
QUICK = 14.0  # likewise, one that repeats or is slow anyway


def make_motion(name: str, frames: int, rng: Rng) -> Pose:
    """Draw a motion of the named kind.

    Args:
        name: one of `MOTIONS`.
        frames: T.
        rng: where all choices come from.

    Raises:
        ValueError: an unknown name, or fewer than two frames.
    """
    if name not in MOTIONS:
        raise ValueError(f"motion must be one of {sorted(MOTIONS)}, found {name!r}")
    if frames < 2:
        raise ValueError(f"a motion needs at least 2 frames, found {frames}")
    lead = round(frames * rng.uniform(0.3, 0.5)) if name not in ("walk", "run", "jump") else 0
    if lead < 8 or frames - lead < 14 or rng.random() < 0.4:
        lead = 0
    pose = {key: np.full(frames - lead, value) for key, value in REST.items()}
    pose.update(MOTIONS[name](frames - lead, rng))
    if lead:
        pose = _walk_up(pose, lead, rng)
    if rng.random() < TURNS:
        pose["yaw"] = pose["yaw"] + _turn(frames, rng)
    if rng.random() < 0.5:
        pose = mirrored(pose)
    for key in REST:  # nobody stands like anybody else
        if key not in ("yaw", "up", "go", "strafe"):
            pose[key] = pose[key] + rng.normal(0, 2.0)
    pose["yaw"] = pose["yaw"] + _facing(name, rng)
    return pose


def mirrored(pose: Pose) -> Pose:
    """The same motion with left and right exchanged."""
    swap = {"r_": "l_", "l_": "r_"}
    pose = {swap.get(key[:2], key[:2]) + key[2:]: value for key, value in pose.items()}
    for key in ("yaw", "side", "twist", "turn", "strafe"):
        pose[key] = -pose[key]
    return pose


def _facing(name: str, rng: Rng) -> float:
    """The direction that the person faces at first: mostly to the side or to the front."""
    sideways = 0.8 if name in ("walk", "run") else 0.35
    if rng.random() < sideways:
        return float(rng.choice([-1.0, 1.0]) * rng.uniform(55, 105))
    if rng.random() < 0.08:
        return float(180 + rng.uniform(-30, 30))
    return float(rng.uniform(-45, 45))


def _turn(frames: int, rng: Rng) -> Array:
    """Degrees (T,) by which the person turns round at some time."""
    start = rng.uniform(0, 0.2)
    t = np.clip((np.linspace(0, 1, frames) - start) / rng.uniform(0.25, 0.4), 0, 1)
    return rng.choice([-1.0, 1.0]) * rng.uniform(100, 200) * t**2 * (3 - 2 * t)


def _progress(frames: int, rng: Rng, least: float) -> Array:
    """The motion's own time (T,), from 0 to 1: still at the ends and perhaps once in between.

    The whole takes ``least`` frames at least; a clip that is too short for it shows a part.
    """
    start, end, middle = rng.uniform(0, 0.05), rng.uniform(0, 0.15), 0.0
    if rng.random() < 0.4:
        middle = rng.uniform(0.08, 0.2)
    where = rng.uniform(0.35, 0.7)
    moving = 1 - start - end - middle
    times = [0.0, start, start + where * moving, start + where * moving + middle, 1 - end, 1.0]
    values = [0.0, 0.0, where, where, 1.0, 1.0]
    for i in range(1, len(times)):
        times[i] = max(times[i], times[i - 1] + 1e-6)
    span = min(1.0, moving * frames / max(least, 1e-6))
    begin = rng.uniform(0, 1 - span)
    return begin + span * np.interp(np.linspace(0, 1, frames), times, values)


def _keyed(keys: Keys, frames: int, rng: Rng, least: float = SLOW) -> Pose:
    """Key poses (time 0 to 1, what differs from rest) -> angles, smooth, flat where they repeat."""
    progress = _progress(frames, rng, least)
    extent = rng.uniform(1.0, 1.25)
    pose = {}
    times = [time for time, _ in keys]
    for name in sorted({name for _, values in keys for name in values}):
        rest = REST[name]
        values = [rest + extent * (value.get(name, rest) - rest) for _, value in keys]
        pose[name] = PchipInterpolator(times, values)(progress)
    return pose


def _strides(frames: int, rng: Rng, period: tuple[float, float]) -> tuple[Array, Array]:
    """The phase (T,) of a cyclic motion in radians and its strength (T,) from 0 to 1."""
    t = np.arange(frames)
    strength = np.ones(frames)
    if rng.random() < 0.35:  # comes to a halt, or sets off
        ramp, at = rng.uniform(4, 8), rng.uniform(0.55, 0.85) * frames
        strength = np.clip((at - t) / ramp, 0, 1)
        if rng.random() < 0.5:
            strength = strength[::-1]
        strength = strength**2 * (3 - 2 * strength)
    speed = 2 * np.pi / rng.uniform(*period)
    phase = rng.uniform(0, 2 * np.pi) + speed * np.cumsum(np.maximum(strength, 0.0))
    return phase, strength


def _gait(phase: Array, strength: Array, hip: float, knee: float, arm: float) -> Pose:
    """Legs and arms of somebody who walks (swings in degrees)."""
    pose = {}
    for side, shift in (("r", 0.0), ("l", np.pi)):
        swing = np.clip(np.cos(phase + shift + 0.35), 0, None) ** 1.4
        pose[f"{side}_hip"] = 1 + strength * (hip * np.sin(phase + shift) + 0.15 * hip)
        pose[f"{side}_knee"] = 4 + strength * (0.1 * knee + knee * swing)
        pose[f"{side}_arm"] = 4 - strength * arm * np.sin(phase + shift)
    pose["twist"] = strength * 0.2 * arm * np.sin(phase)
    return pose


def _steps(pose: Pose, frames: int, rng: Rng, chance: float) -> Pose:
    """Perhaps lets the person take a few steps while the arms do something else."""
    if rng.random() >= chance:
        return pose
    phase, strength = _strides(frames, rng, (16, 24))
    gait = _gait(phase, strength, rng.uniform(20, 28), 50, 0)
    for name in ("r_hip", "l_hip", "r_knee", "l_knee"):
        pose[name] = pose.get(name, np.full(frames, REST[name])) + gait[name] - REST[name]
    return pose


def _walk_up(pose: Pose, lead: int, rng: Rng) -> Pose:
    """Lets the person walk for ``lead`` frames before the motion begins."""
    strength = np.clip((lead - np.arange(lead)) / 5, 0, 1)
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi / rng.uniform(15, 22) * np.cumsum(strength)
    before = _gait(phase, strength, rng.uniform(24, 32), 55, rng.uniform(15, 35))
    near = np.exp(-(((np.arange(lead + len(pose["up"])) - lead + 0.5) / 4) ** 2) * 2)
    near[near < 0.02] = 0.0  # far from the change nothing is touched: pauses stay pauses
    whole = {}
    for key, value in pose.items():
        joined = np.concatenate([before.get(key, np.full(lead, REST[key])), value])
        smooth = gaussian_filter1d(joined, 2.0, mode="nearest")
        whole[key] = joined + near * (smooth - joined)
    return whole


def walk(frames: int, rng: Rng) -> Pose:
    """Walks, perhaps with a halt."""
    phase, strength = _strides(frames, rng, (17, 26))
    pose = _gait(phase, strength, rng.uniform(22, 30), 52, rng.uniform(15, 40))
    pose["r_elbow"] = pose["l_elbow"] = 18 + strength * rng.uniform(0, 25)
    return pose


def run(frames: int, rng: Rng) -> Pose:
    """Runs with bent arms; both feet leave the ground in every step."""
    phase, strength = _strides(frames, rng, (13, 19))
    pose = _gait(phase, strength, rng.uniform(34, 44), 88, rng.uniform(35, 50))
    pose["lean"] = 4 + strength * rng.uniform(5, 14)
    pose["r_elbow"] = pose["l_elbow"] = 30 + strength * rng.uniform(40, 65)
    pose["up"] = strength * 0.07 * np.abs(np.cos(phase)) ** 2
    pose["go"] = np.cumsum(strength * rng.uniform(0.01, 0.03))
    return pose


def jump(frames: int, rng: Rng) -> Pose:
    """Crouches, jumps up or forward with arms thrown up, lands."""
    crouch: dict[str, float] = dict(lean=38)
    flight: dict[str, float] = dict(lean=4)
    for side in "rl":
        crouch |= {f"{side}_hip": 80, f"{side}_knee": 105, f"{side}_arm": -25}
        flight |= {f"{side}_hip": 12, f"{side}_knee": 22, f"{side}_arm": 85, f"{side}_out": 20}
    landing = {name: 0.75 * value for name, value in crouch.items()} | dict(r_arm=50, l_arm=50)
    tuck = flight | dict(r_hip=55.0, l_hip=55, r_knee=75, l_knee=75)
    apex = (tuck if rng.random() < 0.4 else flight) | dict(r_arm=150, l_arm=150)
    keys: Keys = [(0, {}), (0.25, crouch), (0.4, flight), (0.55, apex), (0.72, landing), (0.95, {})]
    keys.append((1, {}))
    state = rng.bit_generator.state
    pose = _keyed(keys, frames, rng)
    rng.bit_generator.state = state  # the same timing once more, for the flight
    progress = _progress(frames, rng, SLOW)
    air = np.clip((progress - 0.38) / 0.3, 0, 1)
    pose["up"] = rng.uniform(0.3, 0.55) * 4 * air * (1 - air)
    pose["go"] = rng.choice([0.0, 1.0]) * rng.uniform(0.5, 1.4) * air
    return pose


def wave(frames: int, rng: Rng) -> Pose:
    """Raises an arm and waves, perhaps walking."""
    cycles = rng.uniform(1.0, 1.8) * frames / 20
    up: dict[str, float] = dict(r_arm=85, r_out=rng.uniform(70, 110), r_inward=0, side=5)
    keys: Keys = [(0, {}), (0.16, up | dict(r_elbow=60))]
    count = max(2, round(2 * cycles))
    for i in range(count):
        to = dict(r_elbow=15 if i % 2 else 105, side=-6 if i % 2 else 8)
        keys.append((0.16 + 0.68 * (i + 1) / count, up | to))
    keys.append((1, {} if rng.random() < 0.6 else up | dict(r_elbow=60)))
    return _steps(_keyed(keys, frames, rng, QUICK), frames, rng, 0.8)


def throw(frames: int, rng: Rng) -> Pose:
    """Draws an arm back, steps forward and throws overarm."""
    back: dict[str, float] = dict(
        r_arm=100, r_out=85, r_elbow=105, r_inward=-30, twist=-45, lean=-12,
        l_arm=75, l_elbow=15, l_hip=45, l_knee=60, r_knee=15, yaw=-15,
    )  # fmt: skip
    step = back | dict(l_hip=38, l_knee=12, r_hip=-18, twist=-20)
    out: dict[str, float] = dict(
        r_arm=105, r_out=15, r_elbow=8, twist=35, lean=38, l_arm=-30, l_elbow=40,
        l_hip=42, l_knee=25, r_hip=-28, r_knee=12, go=0.35,
    )  # fmt: skip
    end = out | dict(r_arm=25, lean=50, r_hip=10, r_knee=25, l_hip=30, go=0.55)
    last: dict[str, float] = dict(go=0.65)
    keys: Keys = [(0, {}), (0.3, back), (0.42, step), (0.62, out), (0.76, end), (1, last)]
    return _steps(_keyed(keys, frames, rng), frames, rng, 0.25)


def pick(frames: int, rng: Rng) -> Pose:
    """Bends or squats, picks something up and lifts it."""
    down: dict[str, float] = dict(lean=58, r_arm=72, l_arm=40, r_out=5, r_elbow=5, nod=-15)
    for side in "rl":
        if rng.random() < 0.6:
            down |= {f"{side}_hip": 95, f"{side}_knee": 105}
        else:
            down |= {f"{side}_hip": 55, f"{side}_knee": 60}
    lift: dict[str, float] = dict(r_arm=70, r_elbow=80, l_arm=60, l_elbow=85)
    if rng.random() < 0.5:
        lift = dict(r_arm=165, l_arm=160, r_elbow=15, l_elbow=15)
    keys: Keys = [(0, {}), (0.35, down), (0.5, down), (0.8, lift), (1, lift)]
    return _steps(_keyed(keys, frames, rng), frames, rng, 0.25)


def sit(frames: int, rng: Rng) -> Pose:
    """Sits down, or gets up from a seat."""
    seat: dict[str, float] = dict(lean=6, r_arm=35, l_arm=35, r_elbow=50, l_elbow=50)
    half: dict[str, float] = dict(lean=48, r_arm=45, l_arm=45)
    for side in "rl":
        seat |= {f"{side}_hip": 88, f"{side}_knee": 88}
        half |= {f"{side}_hip": 62, f"{side}_knee": 70}
    keys: Keys = [(0, {}), (0.4, half), (0.75, seat | dict(lean=20)), (0.9, seat), (1, seat)]
    if rng.random() < 0.4:
        keys = [(1 - time, value) for time, value in keys[::-1]]
    return _keyed(keys, frames, rng, QUICK)


def clap(frames: int, rng: Rng) -> Pose:
    """Claps with wide movements, perhaps above the head, perhaps walking."""
    height = rng.choice([55.0, 95.0, 150.0])
    apart: dict[str, float] = {}
    together: dict[str, float] = {}
    for side in "rl":
        apart |= {f"{side}_arm": height, f"{side}_out": 62, f"{side}_elbow": 40}
        together |= {f"{side}_arm": height, f"{side}_out": -8, f"{side}_elbow": 32}
        apart[f"{side}_inward"] = together[f"{side}_inward"] = 60.0
    count = max(3, round(frames / rng.uniform(5, 8)))
    keys: Keys = [(0, {} if rng.random() < 0.7 else apart)]
    for i in range(count):
        keys.append((0.15 + 0.85 * i / (count - 1), together if i % 2 else apart))
    return _steps(_keyed(keys, frames, rng, QUICK), frames, rng, 0.75)


def swing(frames: int, rng: Rng) -> Pose:
    """Swings both hands from one side to the other, as with a bat or a club."""
    low = rng.random() < 0.5  # golf rather than baseball
    lean = 32.0 if low else 14.0
    legs = dict(r_hip=20.0, l_hip=20.0, r_knee=28.0, l_knee=28.0, lean=lean)
    legs |= dict(r_open=14, l_open=14)
    address = legs | dict(r_arm=45, l_arm=45, r_out=-10, l_out=-10, r_elbow=8, l_elbow=8)
    if not low:
        address |= dict(r_arm=75, l_arm=75, r_elbow=75, l_elbow=75)
    back = legs | dict(twist=-75, r_arm=95, l_arm=110, l_out=-35, r_out=35, r_elbow=75, yaw=-20)
    back |= dict(l_elbow=10, r_inward=0, side=-6)
    hit = legs | dict(twist=10, r_arm=55, l_arm=55, r_out=-5, l_out=-5, r_elbow=5, l_elbow=5)
    end = dict(twist=85.0, r_arm=120.0, l_arm=100.0, r_out=-35.0, l_out=40.0)
    end |= dict(l_elbow=85, r_elbow=20)
    end |= dict(
        yaw=45, lean=4, go=0.25, strafe=0.3, r_hip=-12, r_knee=35, l_hip=8, l_knee=5, side=5
    )
    keys: Keys = [(0, address), (0.3, back), (0.42, back), (0.55, hit), (0.72, end), (1, end)]
    return _keyed(keys, frames, rng)


def kick(frames: int, rng: Rng) -> Pose:
    """Runs up a step or two and kicks."""
    first: dict[str, float] = dict(l_hip=-20, r_hip=30, r_knee=45, l_knee=8, lean=10, go=0.25)
    back: dict[str, float] = dict(
        r_hip=-42, r_knee=85, l_hip=20, l_knee=22, l_arm=70, l_out=45, r_arm=-30, lean=12, go=0.5
    )
    hit: dict[str, float] = dict(
        r_hip=48, r_knee=12, l_hip=6, l_knee=10, l_arm=-35, r_arm=50, r_out=30, lean=-6, go=0.8
    )
    end = hit | dict(r_hip=rng.uniform(65, 95), r_knee=18, lean=-10, go=0.85)
    last: dict[str, float] = dict(go=1.05, l_hip=12, r_hip=-10)
    keys: Keys = [(0, {}), (0.2, first), (0.4, back), (0.6, hit), (0.7, end), (0.9, last)]
    return _keyed([*keys, (1, last)], frames, rng)


def punch(frames: int, rng: Rng) -> Pose:
    """Boxes: both hands in turn, weaving and stepping."""
    guard: dict[str, float] = dict(
        r_arm=45, l_arm=55, r_elbow=125, l_elbow=115, r_out=15, l_out=15, lean=14,
        l_hip=28, l_knee=30, r_hip=-4, r_knee=28,
    )  # fmt: skip
    right = guard | dict(r_arm=88, r_elbow=6, twist=42, lean=24, go=0.18, yaw=12)
    left = guard | dict(l_arm=92, l_elbow=6, twist=-32, lean=20, go=0.1, yaw=-12)
    duck = guard | dict(l_hip=70, r_hip=50, l_knee=85, r_knee=85, lean=38, side=15)
    count = max(3, round(frames / rng.uniform(6, 9)))
    keys: Keys = [(0, guard if rng.random() < 0.3 else {})]
    for i in range(count):
        # the person gains ground with every blow
        blow = [right, left, duck, guard][int(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15]))]
        keys.append((0.1 + 0.9 * i / (count - 1), blow | dict(go=0.16 * i + blow.get("go", 0.0))))
    return _keyed(keys, frames, rng, QUICK)


def jumping_jack(frames: int, rng: Rng) -> Pose:
    """Jumps with arms and legs apart and together."""
    t = np.arange(frames)
    phase, strength = _strides(frames, rng, (13, 20))
    phase = phase - phase[0]
    wide = strength * (0.5 - 0.5 * np.cos(phase))
    arms, legs = rng.uniform(125, 155), rng.uniform(22, 34)
    pose = {}
    for side in "rl":
        pose[f"{side}_out"] = 9 + arms * wide
        pose[f"{side}_elbow"] = 12 + 15 * wide
        pose[f"{side}_inward"] = np.full(len(t), 80.0)
        pose[f"{side}_open"] = 5 + legs * wide
        pose[f"{side}_knee"] = 4 + 18 * strength * np.cos(phase) ** 2
        pose[f"{side}_hip"] = 2 + 9 * strength * np.cos(phase) ** 2
    pose["up"] = 0.14 * strength * np.sin(phase) ** 2
    pose["strafe"] = rng.uniform(-0.035, 0.035) * np.cumsum(strength)
    pose["go"] = rng.uniform(-0.02, 0.03) * np.cumsum(strength)
    return pose


MOTIONS: dict[str, Callable[[int, Rng], Pose]] = {
    function.__name__: function
    for function in (
        clap, jump, jumping_jack, kick, pick, punch, run, sit, swing, throw, walk, wave,
    )
}  # fmt: skip
"""The classes of the data set: name -> function."""
