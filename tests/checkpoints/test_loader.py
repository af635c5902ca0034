"""The one loader: what it takes, what it refuses, and that nothing runs."""

import pickle
import tarfile
import threading
import warnings
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.logging import HistoryBuffer
from torch import nn

from skippose.checkpoints import CheckpointError, load_checkpoint, weights_of
from skippose.checkpoints import loader as module

from .evil import Writes

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs").rglob("*.pth"))
WAYS = [False, True] if module._NAMED_STAND_INS else [False]


@pytest.fixture(params=WAYS, ids=lambda new: "torch's list" if new else "as before torch 2.6")
def way(request, monkeypatch) -> None:
    """Both ways to load, in whatever torch there is; an old one has one."""
    monkeypatch.setattr(module, "_NAMED_STAND_INS", request.param)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """Saves in the format of now, and in that of before torch 1.6, as mmpose publishes."""

    def write(content: Any) -> Path:
        path = tmp_path / "made.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


def buffer() -> HistoryBuffer:
    found = HistoryBuffer()
    found.update(1.5)
    found.update(2, count=3)
    return found


ARRAYS = {
    "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "a part": np.arange(10)[::3],
    "floats": np.array([0.026, 0.1], np.float32),
    "words": np.array(["neck", "left_ankle"]),
    "no dimension": np.array(True),
    "nothing": np.zeros((0, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "states": np.arange(624, dtype=np.uint32),
    "complex": np.array([1 + 2j]),
    "number": np.float64(0.125),
    "whole number": np.int64(-7),
    "truth": np.bool_(True),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    if isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_numbers_of_numpy(way, save, name):
    value = ARRAYS[name]
    found = load_checkpoint(save({"here": value, "deeper": [({"x": value},)], "again": value}))
    assert same(found["here"], value) and same(found["deeper"][0][0]["x"], value)
    if isinstance(value, np.ndarray):
        assert found["here"] is found["again"], "what was one object stays one"
        found["here"][...] = found["here"]  # it can be written to


def test_what_mmengine_saves(way, save):
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.rand(1, 2, 4, 4)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    content = dict(
        state_dict=net.state_dict(),
        optimizer=optimizer.state_dict(),
        param_schedulers=[scheduler.state_dict()],
        message_hub=dict(
            log_scalars=OrderedDict({"train/loss": buffer(), "none": HistoryBuffer()})
        ),
        meta=dict(epoch=3, seed=np.int64(5), cfg="model = dict()", milestones=Counter([3, 3])),
        random_state=(3, (1, 2, 3), None, torch.get_rng_state()),
    )
    found = load_checkpoint(save(content))
    assert found.keys() == content.keys()
    for key, value in net.state_dict().items():
        assert same(found["state_dict"][key], value)
    assert found["state_dict"]._metadata == net.state_dict()._metadata
    assert same(found["random_state"][3], content["random_state"][3])
    assert found["meta"] == content["meta"]
    history = found["message_hub"]["log_scalars"]["train/loss"]
    assert type(history) is HistoryBuffer and history.max_length == 1000000
    for ours, theirs in zip(history.data, buffer().data, strict=True):
        assert same(ours, theirs)
    assert history.mean() == buffer().mean() and history.statistics("max") == 2
    assert len(found["message_hub"]["log_scalars"]["none"].data[0]) == 0
    torch.optim.AdamW(net.parameters()).load_state_dict(found["optimizer"])


def test_containers_that_hold_themselves(way, save):
    content: dict = {"x": [np.arange(3)]}
    content["x"].append(content["x"])
    deep: list = []
    for _ in range(30):
        deep = [deep, deep]  # 2 ** 30 leaves, if each is looked at
    found = load_checkpoint(save({"x": content["x"], "deep": deep}))
    assert found["x"][1] is found["x"] and same(found["x"][0], np.arange(3))


class Calls:
    """Whatever a pickle may call, from a function and its arguments, and a state to set."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


@pytest.fixture
def ran(tmp_path) -> Path:
    return tmp_path / "it_ran"


EVIL = {
    "open": lambda ran: Writes(ran),
    "exec": lambda ran: Calls(exec, (f"open({str(ran)!r}, 'w')",)),
    "eval": lambda ran: Calls(eval, (f"open({str(ran)!r}, 'w')",)),
    "os.system": lambda ran: Calls(__import__("os").system, (f"touch {ran}",)),
    "torch.load": lambda ran: Calls(torch.load, (str(ran),)),
    "getattr": lambda ran: Calls(getattr, (HistoryBuffer, "__init__")),
    "getattr of a method's globals": lambda ran: Calls(getattr, (HistoryBuffer.mean, "x")),
    "a method of HistoryBuffer": lambda ran: Calls(HistoryBuffer.register_statistics, (print,)),
    "object": lambda ran: object(),
    "a class": lambda ran: pickle.Unpickler,
    "a module of one's own": lambda ran: Calls(same, (1, 1)),
    "an array of objects": lambda ran: np.array([{}], object),
    "a record": lambda ran: np.zeros(2, "i4,i4"),
    "a number of objects": lambda ran: Calls(
        np.array(np.float64(1)).item().__class__, ("1",), {"x": 1}
    ),
    "a state for a class": lambda ran: Calls(OrderedDict, (), {"x": Writes(ran)}),
    "a network": lambda ran: nn.Conv2d(1, 1, 1),
    "path": lambda ran: Path(ran),
}


@pytest.mark.parametrize("kind", EVIL)
def test_what_asks_for_more_is_refused_in_a_line(way, save, ran, kind):
    path = save({"state_dict": nn.Conv2d(1, 1, 1).state_dict(), "extra": EVIL[kind](ran)})
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert not ran.exists()
    message = str(error.value)
    assert message.startswith(f"{path} is refused: it asks for more than weights (")
    assert "--allow-checkpoint-code (in Python allow_checkpoint_code=True)" in message
    assert "\n" not in message and len(message) < 400


def test_the_flag_allows_it(way, save, ran):
    path = save({"x": 1, "extra": Writes(ran)})
    assert load_checkpoint(path, allow_checkpoint_code=True)["x"] == 1
    assert ran.exists()


DAMAGED_ARRAYS = [
    (np.array, ([1],)),  # no stand-in of that name
    (np.ndarray, ((3,),)),  # memory that nobody has filled
    (np.dtype, ("O",), (3, "|", None, None, None, -1, -1, 63)),
    (np.float64(1).__reduce__()[0], (np.dtype("f8"), b"123")),
    (np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"),
     (1, (2**40,), np.dtype("f8"), False, b"12345678")),
    (np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"),
     (1, (-1,), np.dtype("f8"), False, b"12345678")),
    (np.empty(0).__reduce__()[0], (int, (0,), b"b")),
]  # fmt: skip


@pytest.mark.parametrize("parts", DAMAGED_ARRAYS, ids=range(len(DAMAGED_ARRAYS)))
def test_an_array_that_is_none_is_an_error(way, save, parts):
    """numpy itself would believe what a pickle says about memory."""
    with pytest.raises(CheckpointError):
        load_checkpoint(save({"x": Calls(*parts)}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint: invalid load key b''"),
        (b"# README\n", "no checkpoint: invalid load key b'# RE'"),
        (b"PK\x03\x04 and no more", "no checkpoint, or is damaged"),
        (b"\x80\x02 and no more", "is refused|no checkpoint, or is damaged"),
        (b"cos\nsystem\n(S'true'\ntR.", "no checkpoint: invalid load key"),
    ],
)
def test_what_is_no_checkpoint(way, tmp_path, content, message):
    path = tmp_path / "made.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="none.pth: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pth")


def test_a_checkpoint_that_was_cut_off(way, save):
    path = save({"x": torch.rand(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="no checkpoint, or is damaged"):
        load_checkpoint(path)


def test_torchscript_and_old_archives_are_no_checkpoints(way, tmp_path, recwarn):
    """TorchScript is code; torch before 2.6 ran it where weights alone were asked for."""
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), str(path))
    recwarn.clear()  # newer versions say that TorchScript is going away
    with pytest.raises(CheckpointError, match=r"is refused: .*\(TorchScript\)"):
        load_checkpoint(path)
    with tarfile.open(tmp_path / "old.tar", "w") as archive:
        archive.add(path, "pickle")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "old.tar")
    assert not recwarn.list


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_checkpoints_are_weights_alone(way, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = weights_of(load_checkpoint(path), path)
        # torch 2.1 says it of what it saved itself.
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        plain = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert found.keys() == plain.keys() and all(same(found[k], plain[k]) for k in found)


def test_something_is_shipped():
    assert len(SHIPPED) >= 6


def test_loading_says_nothing_and_leaves_torch_as_it_was(way, save):
    before = getattr(torch.serialization, "get_safe_globals", list)()
    path = save({"x": np.arange(3), "h": buffer()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(path)
        with pytest.raises(CheckpointError):
            load_checkpoint(save({"x": object()}))
    assert getattr(torch.serialization, "get_safe_globals", list)() == before


def test_threads_do_not_take_each_others_list(way, save):
    path = save({str(n): np.arange(n) for n in range(20)})
    failed = []

    def load() -> None:
        try:
            for _ in range(10):
                load_checkpoint(path)
        except CheckpointError as error:
            failed.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "found a list, expected weights by name"),
        ({"state_dict": 3}, "found a int, expected weights by name"),
        ({"state_dict": {3: torch.zeros(1)}}, "found a dict, expected weights by name"),
        ({"state_dict": {"w": [1.0]}}, "found a list as 'w', expected a tensor"),
        ({"epoch": 3}, "found a int as 'epoch', expected a tensor"),
    ],
)
def test_a_checkpoint_without_weights(content, message):
    with pytest.raises(CheckpointError, match=f"x.pth: {message}"):
        weights_of(content, "x.pth")


def test_weights_as_they_are():
    net = nn.BatchNorm2d(2)
    for content in ({"state_dict": net.state_dict(), "meta": 3}, net.state_dict()):
        found = weights_of(content, "x.pth")
        assert found.keys() == net.state_dict().keys()
        assert found._metadata == net.state_dict()._metadata
