"""A stream is for one thread at a time: whoever comes second is told, and nothing is changed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose import InputNormGate
from skippose import stream as stream_module
from skippose.backends import BACKENDS
from skippose.backends.native.backend import NativeBackend
from skippose.backends.torch_blocks.backend import BlocksBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.one_at_a_time import OneAtATime
from skippose.plan.capture import CaptureError, capture
from skippose.plan.errors import BackendError

torch.set_num_threads(1)

PATIENCE = 60.0
"""Seconds that a thread waits for another before the test fails."""
TWO_THREADS = "two threads at once; each thread needs one of its own"
WITHIN = "from within one of its own calls"


@pytest.fixture(params=["eager", "torch", "functional", "native", "auto"])
def backend(request, monkeypatch) -> str:
    """What streams are made with; ``functional`` serves as torch, as it does on a GPU."""
    if request.param == "native" and NativeBackend.unavailable() is not None:
        pytest.skip(f"no native backend: {NativeBackend.unavailable()}")
    if request.param == "functional":
        monkeypatch.setattr(BlocksBackend, "make", lambda *given, **named: MapsBackend(*given))
        return "torch"
    return request.param


class Net(nn.Module):
    """Two convolutions, and whatever else is to happen in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.meanwhile: Callable[[Tensor], Any] = lambda x: None

    def forward(self, x: Tensor) -> Tensor:
        self.meanwhile(x)
        return self.head(self.conv(x).relu())


def make_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return skippose.convert_(Net(), InputNormGate(0.05)).eval()


def make_video(frames: int = 5) -> Tensor:
    """(T, 2, 3, 8, 9)."""
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, 2, 3, 8, 9, generator=generator).repeat(frames, 1, 1, 1, 1)
    for t in range(1, frames):
        video[t, :, :, t : t + 3, :4] += torch.rand(2, 3, 3, 4, generator=generator)
    return video


class Pause:
    """Something that stops when it is first called, until it is told to go on."""

    def __init__(self) -> None:
        self._reached, self._released = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self._reached.set()
        assert self._released.wait(PATIENCE), "nobody let it go on"

    def put_before(self, owner: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every call of this method stops first."""
        original = getattr(owner, method)

        def stopping(*args: Any, **options: Any) -> Any:
            self()
            return original(*args, **options)

        monkeypatch.setattr(owner, method, stopping)

    @contextmanager
    def reached_by(self, work: Callable[[], Any]) -> Iterator[list[Any]]:
        """Inside, another thread stands still in the midst of ``work``; after it, it is through.

        Yields:
            What will hold its result.
        """
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
        thread.start()
        try:
            assert self._reached.wait(PATIENCE), "it was never called"
            yield found
        finally:
            self._released.set()
            thread.join(PATIENCE)
        assert found, "the other thread failed"


def free(stream: skippose.Stream) -> None:
    """Imposes no masks, which eager cannot do either."""
    with suppress(BackendError):
        stream.fix_masks(None)


USES: dict[str, tuple[str, Callable[[skippose.Stream, Tensor, dict], Any]]] = {
    "call": ("step", lambda stream, frame, state: stream(frame)),
    "reset": ("report", lambda stream, frame, state: stream.reset()),
    "reset of a slot": ("forget", lambda stream, frame, state: stream.reset([1])),
    "report": ("report", lambda stream, frame, state: stream.report()),
    "masks": ("masks", lambda stream, frame, state: stream.masks()),
    "fix_masks": ("fix_masks", lambda stream, frame, state: free(stream)),
    "state_dict": ("state_dict", lambda stream, frame, state: stream.state_dict()),
    "load_state_dict": (
        "load_state_dict",
        lambda stream, frame, state: stream.load_state_dict(state),
    ),
}
"""By name, the backend's method that runs in the midst of it, and the use itself."""


@pytest.mark.parametrize("first", USES)
def test_a_second_thread_is_refused_and_nothing_is_changed(first, backend, monkeypatch):
    net, video = make_net(), make_video()
    stream, alone = (skippose.Stream(net, backend=backend) for _ in range(2))
    for one in (stream, alone):
        one(video[0])
        state = one.state_dict()
        one(video[1])
    inner, use = USES[first]
    expected = use(alone, video[2], state)
    pause = Pause()
    for kind in (*BACKENDS.values(), MapsBackend):
        pause.put_before(kind, inner, monkeypatch)
    with pause.reached_by(lambda: use(stream, video[2], state)) as found:
        for _, other in USES.values():
            with pytest.raises(RuntimeError, match=TWO_THREADS):
                other(stream, video[3] + 1, state)
    if isinstance(expected, Tensor):
        assert torch.equal(found[0], expected)
    for frame in video[3:]:
        assert torch.equal(stream(frame), alone(frame))
    assert stream.report() == alone.report()


def test_a_second_thread_is_refused_while_the_first_frame_is_prepared(backend):
    """Captured backends run the network's own code then."""
    alone, net, video = skippose.Stream(make_net(), backend=backend), make_net(), make_video()
    stream, pause = skippose.Stream(net, backend=backend), Pause()
    net.meanwhile = pause
    with pause.reached_by(lambda: stream(video[0])) as found:
        for _, use in USES.values():
            with pytest.raises(RuntimeError, match=TWO_THREADS):
                use(stream, video[1], {"version": 1, "frame": None})
        assert stream.slots is None
    assert torch.equal(found[0], alone(video[0]))
    for frame in video[1:]:
        assert torch.equal(stream(frame), alone(frame))


def test_a_network_that_calls_the_stream_it_runs_in_is_an_error_and_does_not_hang(backend):
    alone, net, video = skippose.Stream(make_net(), backend=backend), make_net(), make_video()
    stream = skippose.Stream(net, backend=backend)
    net.meanwhile = lambda x: stream(x.clone())
    with pytest.raises(RuntimeError, match=WITHIN):
        stream(video[0])
    assert stream.slots is None
    net.meanwhile = lambda x: None
    for frame in video:
        assert torch.equal(stream(frame), alone(frame))


def test_an_eager_network_that_resets_its_stream_in_a_later_frame_changes_nothing():
    net, video = make_net(), make_video()
    stream, alone = (skippose.Stream(net, backend="eager") for _ in range(2))
    assert torch.equal(stream(video[0]), alone(video[0]))
    net.meanwhile = lambda x: stream.reset([0])
    with pytest.raises(RuntimeError, match=WITHIN):
        stream(video[1])
    net.meanwhile = lambda x: None
    for frame in video[1:]:
        assert torch.equal(stream(frame), alone(frame))


def test_a_stream_is_free_again_after_an_error(backend):
    net, video = make_net(), make_video()
    stream = skippose.Stream(net, backend=backend)
    stream(video[0])
    for wrong in (lambda: stream(video[1] * torch.nan), lambda: stream.reset([7])):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(ValueError):
        stream.load_state_dict({"version": 0})
    done: list[Tensor] = []
    thread = threading.Thread(target=lambda: done.append(stream(video[1])))
    thread.start()
    thread.join(PATIENCE)
    assert len(done) == 1 and stream.report().frames == 2  # another thread, but not at once


def test_the_guard_itself():
    guard, tried = OneAtATime("a thing"), []
    for _ in range(2):
        with guard, pytest.raises(RuntimeError, match=f"a thing was used {WITHIN}"), guard:
            tried.append("inside twice")
        with pytest.raises(KeyError), guard:
            raise KeyError
    assert not tried


# -- streams within streams ------------------------------------------------------------------------


def streaming(seed: int, backend: str) -> tuple[Net, skippose.Stream]:
    """A network whose forward pass calls a stream of another one."""
    net, inner = make_net(seed), skippose.Stream(make_net(seed + 1), backend=backend)
    net.meanwhile = inner
    return net, inner


@pytest.mark.parametrize("inner_backend", ["eager", "torch", "auto"])
def test_a_network_that_uses_another_stream_runs_in_eager_alone(
    backend, inner_backend, monkeypatch
):
    """What it returns may depend on frames before, which is no part of a plan."""
    net, inner = streaming(1, inner_backend)
    video = make_video()
    stream = skippose.Stream(net, backend=backend)
    if backend in ("torch", "native"):
        with pytest.raises(CaptureError, match="uses a stream.*backend='eager'"):
            stream(video[0])
        assert inner.slots is None
        return
    monkeypatch.setattr(stream_module, "_said", set())
    says = pytest.warns(UserWarning, match="'eager'; .*uses a stream")
    with says if backend == "auto" else nullcontext():
        outputs = [stream(frame) for frame in video]
    assert stream.backend == "eager" and inner.report().frames == 2 * (len(video) - 1)
    alone = skippose.Stream(make_net(1), backend="eager")
    for frame, output in zip(video, outputs, strict=True):
        assert torch.equal(output, alone(frame))


def test_a_network_that_captures_in_another_thread_does_not_hang():
    """Not even where it waits for that thread."""
    outer, inner, frame = make_net(), make_net(1), make_video()[0]
    plans: list[Any] = []

    def elsewhere(_: Tensor) -> None:
        thread = threading.Thread(target=lambda: plans.append(capture(inner, frame)), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert plans, "the other thread waits for the one that waits for it"

    outer.meanwhile = elsewhere
    assert capture(outer, frame) is capture(outer, frame)
    assert plans[0] is capture(inner, frame)


def test_a_network_captured_by_two_threads_at_once_has_one_plan():
    net, frame, both = make_net(), make_video()[0], threading.Barrier(2)
    net.meanwhile = lambda x: both.wait(PATIENCE)
    plans: list[Any] = []
    threads = [
        threading.Thread(target=lambda: plans.append(capture(net, frame)), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(plans) == 2 and plans[0] is plans[1] is capture(net, frame)
