"""TensorBoard and the demo's videos, opened in a real browser.

Needs Chromium and its driver (Debian: apt-get install chromium chromium-driver). Screenshots are
kept in work_dirs/screenshots, to be looked at.
"""

import base64
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mmpose")
pytest.importorskip("tensorboard")

import cv2

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "work_dirs" / "screenshots"
CONFIG = ROOT / "configs" / "demo" / "skip_hrnet_small.py"
CHECKPOINT = ROOT / "configs" / "demo" / "hrnet_small_synthetic.pth"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromedriver") is None,
        reason="no Chromium with its driver (apt-get install chromium chromium-driver)",
    ),
]

# TensorBoard's pages are made of components, each with a document of its own.
WALK = """
const found = [];
const walk = root => {
  for (const e of root.querySelectorAll('*')) {
    if (matches(e)) found.push(tell(e));
    if (e.shadowRoot) walk(e.shadowRoot);
  }
};
walk(document);
return found;
"""
IMAGES = (
    "const matches = e => e.tagName === 'IMG' && e.src.includes('individualImage') && e.complete;"
    "const tell = e => [e.src, e.naturalWidth, e.naturalHeight];" + WALK
)
CHARTS = (
    "const matches = e => e.tagName === 'CANVAS' || e.tagName === 'path';"
    "const tell = e => e.getBoundingClientRect().width;" + WALK
)


class Browser:
    """A page in headless Chromium, by the WebDriver protocol."""

    def __init__(self, driver: str) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"args": [*flags, "--window-size=1600,1300"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        session = self._call("POST", f"{driver}/session", capabilities=wanted)["sessionId"]
        self._at = f"{driver}/session/{session}"

    @staticmethod
    def _call(method: str, address: str, /, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(
            address, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]

    def open(self, url: str) -> None:
        self._call("POST", f"{self._at}/url", url="about:blank")  # a new fragment loads nothing
        self._call("POST", f"{self._at}/url", url=url)

    def run(self, script: str) -> Any:
        return self._call("POST", f"{self._at}/execute/sync", script=script, args=[])

    def until(self, script: str, enough: Callable[[Any], bool], seconds: float = 60) -> Any:
        """What a script returns once it is enough."""
        end = time.monotonic() + seconds
        while True:
            found = self.run(script)
            if enough(found):
                return found
            assert time.monotonic() < end, f"the page shows only {found}"
            time.sleep(0.5)

    def screenshot(self, name: str) -> np.ndarray:
        """(H, W, 3) BGR, also kept as a file."""
        png = base64.b64decode(self._call("GET", f"{self._at}/screenshot"))
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / f"{name}.png").write_bytes(png)
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)

    def close(self) -> None:
        self._call("DELETE", self._at)


def started(command: list[str], pattern: str, stream: str) -> tuple[subprocess.Popen, str]:
    """A server, and what it says of where it listens."""
    process = subprocess.Popen(command, text=True, **{stream: subprocess.PIPE})
    for line in getattr(process, stream):
        if found := re.search(pattern, line):
            rest = getattr(process, stream)
            threading.Thread(target=rest.read, daemon=True).start()  # so that it never blocks
            return process, found[1]
    raise AssertionError(f"{command[0]} did not start")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    process, port = started(["chromedriver", "--port=0"], r"on port (\d+)\.", "stdout")
    page = None
    try:
        page = Browser(f"http://127.0.0.1:{port}")
        yield page
    finally:
        if page is not None:
            page.close()
        process.terminate()
        process.wait()


def run(*command: object, **env: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in env.items()},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    run("tools/dataset_converters/synthetic.py", "--out", out, "--clips", 8, "--seed", 3)
    return out


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[str]:
    """A short training as `make demo` does it, served; the address."""
    logs = tmp_path_factory.mktemp("logs")
    loaders = [
        f"{name}_dataloader.{key}"
        for name in ("train", "val")
        for key in ("num_workers=0", "persistent_workers=False")
    ]
    options = [*loaders, "train_dataloader.batch_size=1", "default_hooks.logger.interval=1"]
    hook = "custom_hooks.2.interval=1"
    run(
        "tools/train.py", CONFIG, "--work-dir", logs, "--cfg-options", hook, *options,
        SKIPPOSE_SYNTHETIC=clips,
    )  # fmt: skip
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", "0"]
    process, url = started(
        [*command, "--host", "127.0.0.1"], r"(http://127\.0\.0\.1:\d+)", "stderr"
    )
    yield url
    process.terminate()
    process.wait()


def test_tensorboard_shows_scalars_masks_and_heat_map(browser: Browser, tensorboard: str) -> None:
    browser.open(f"{tensorboard}/#scalars&tagFilter=%5Egates")
    browser.until(CHARTS, lambda found: sum(width > 100 for width in found) >= 3)
    assert browser.screenshot("tensorboard_scalars").std() > 10

    with urllib.request.urlopen(f"{tensorboard}/data/plugin/scalars/tags") as answer:
        (tags,) = json.loads(answer.read()).values()
    groups = {tag.partition("/")[0] for tag in tags if tag.startswith("gates")}
    assert groups >= {"gates", "gates.stem", "gates.stage3", "gates.stage4", "gates.head"}

    browser.open(f"{tensorboard}/#images&tagFilter=%23")
    images = browser.until(IMAGES, lambda found: len(found) >= 6)
    browser.screenshot("tensorboard_images")
    by_tag = {}
    with urllib.request.urlopen(f"{tensorboard}/data/plugin/images/tags") as answer:
        ((run_name, tags),) = json.loads(answer.read()).items()
    for tag in tags:
        blob = f"{tensorboard}/data/plugin/images/images?run={run_name}&tag={tag}&sample=0"
        with urllib.request.urlopen(blob.replace("#", "%23")) as answer:
            by_tag[tag.rpartition("#")[2].partition("/")[2]] = json.loads(answer.read())[-1]
    assert by_tag.keys() >= {
        "pose", "cost", "layers_over_time", "macs_over_time", "density", "stem/conv1",
        "stage2/0/branch0/0/conv1", "stage3/0/branch0/0/conv1", "stage4/0/branch0/0/conv1",
        "head/final_layer",
    }  # fmt: skip
    shown = {}
    for tag in ("cost", "layers_over_time", "stem/conv1"):
        found = [image for image in images if by_tag[tag]["query"] in image[0]]
        assert found, f"{tag} is not on the page"
        shown[tag], width, height = found[0]
        assert width > 500 and height > 100

    # The picture of the first layer's gate as the browser got it: orange where computed, which is
    # everywhere in the first frame and somewhere in the last.
    with urllib.request.urlopen(shown["stem/conv1"]) as answer:
        strip = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)[40:]
    frames = np.split(strip.astype(int), 6, axis=1)
    coloured = [float((np.ptp(frame, axis=-1) > 8).mean()) for frame in frames]
    assert coloured[0] > 0.95
    assert all(0 < share < 0.8 for share in coloured[1:-1]), coloured


def test_the_demos_video_plays(browser: Browser, clips: Path, tmp_path: Path) -> None:
    """In the page, as a user would see it: its size, its length, and that time goes on."""
    frames = next(path.parent for path in sorted(clips.rglob("*.png")))
    count = len(list(frames.glob("*.png")))
    run(
        "tools/demo.py", frames, "--config", CONFIG, "--checkpoint", CHECKPOINT, "--whole-frame",
        "--out", tmp_path / "out.mp4",
    )  # fmt: skip
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    width, height = (
        int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == count
    (tmp_path / "index.html").write_text(
        "<body style='margin:0'><video id=v muted autoplay src=out.mp4></video>"
    )
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        browser.until(
            "const v = document.getElementById('v'); if (v.error) throw v.error.message;"
            "return v.ended",
            bool,
        )
        seen = browser.run(
            "const v = document.getElementById('v');"
            "return [v.videoWidth, v.videoHeight, v.duration, "
            "v.getVideoPlaybackQuality().totalVideoFrames]"
        )
        picture = browser.screenshot("demo_video")[:height, :width]
    finally:
        server.shutdown()
    assert seen[:2] == [width, height]
    assert seen[2] == pytest.approx(count / 25, abs=0.1)
    assert seen[3] > 0
    assert picture.std() > 20, "not black"
