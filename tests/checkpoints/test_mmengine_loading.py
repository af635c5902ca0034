"""mmengine's ways to load a checkpoint, while `checkpoints_run_no_code` holds."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from skippose.checkpoints import CheckpointError, checkpoints_run_no_code, places
from skippose.checkpoints import load_checkpoint as our_load_checkpoint

from .evil import Writes, evil_checkpoint


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


@pytest.fixture
def evil(tmp_path: Path, ran: Path) -> Path:
    return evil_checkpoint(tmp_path / "evil.pth", ran, state_dict=nn.Conv2d(1, 1, 1).state_dict())


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """As mmpose publishes: in the old format, weights and a description of the data with arrays."""
    path = tmp_path / "net-81c58e40_20220909.pth"
    meta = dict(epoch=3, dataset_meta=dict(sigmas=np.ones(3, np.float32)))
    content = dict(meta=meta, state_dict=nn.Conv2d(1, 1, 1).state_dict())
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the test's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def by_loader(path: str) -> Any:
    return CheckpointLoader.load_checkpoint(path, map_location="cpu")


def by_init_cfg(path: str) -> Any:
    class Net(BaseModule):
        def __init__(self) -> None:
            super().__init__(init_cfg=dict(type="Pretrained", checkpoint=path))
            self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))

    return Net().init_weights()


WAYS = {
    "CheckpointLoader": by_loader,
    "load_checkpoint": lambda path: load_checkpoint(nn.Conv2d(1, 1, 1), path, map_location="cpu"),
    "init_cfg": by_init_cfg,
    "a part of it": lambda path: PretrainedInit(path, prefix="x.")(nn.Conv2d(1, 1, 1)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["file", "address"])
def test_nothing_runs(way, where, evil, ran, server):
    place = str(evil) if where == "file" else f"{server}/evil.pth"
    with checkpoints_run_no_code(), pytest.raises(CheckpointError, match="--allow-checkpoint-code"):
        WAYS[way](place)
    assert not ran.exists()


@pytest.mark.parametrize("way", ["CheckpointLoader", "load_checkpoint", "init_cfg"])
@pytest.mark.parametrize("where", ["file", "address"])
def test_what_is_published_loads(way, where, good, server):
    with checkpoints_run_no_code():
        WAYS[way](str(good) if where == "file" else f"{server}/{good.name}")


def test_an_address_is_downloaded_once(good, server, tmp_path, capsys):
    address = f"{server}/{good.name}"
    first = our_load_checkpoint(address)
    assert f"Downloading: {address}" in capsys.readouterr().err
    good.unlink()
    again = our_load_checkpoint(address)
    assert capsys.readouterr().err == ""
    assert torch.equal(first["state_dict"]["weight"], again["state_dict"]["weight"])
    assert [p.name for p in (tmp_path / "hub" / "checkpoints").iterdir()] == [good.name]
    with pytest.raises(URLError):
        our_load_checkpoint(f"{server}/nothing.pth")


@pytest.mark.parametrize(
    "name",
    ["torchvision://net", "modelzoo://net", "open-mmlab://net", "openmmlab://net", "mmcls://net"],
)
def test_names_that_mmengine_knows(name, good, server, monkeypatch):
    scheme = name.partition(":")[0]
    monkeypatch.setitem(places._NAMES, scheme, lambda: {"net": f"{server}/{good.name}"})
    with checkpoints_run_no_code():
        found = by_loader(name)
    # A classifier's backbone alone, of which this file has none.
    assert list(found["state_dict"]) == ([] if scheme == "mmcls" else ["weight", "bias"])


@pytest.mark.parametrize("name", ["torchvision://no-such-net", "s3://bucket/x.pth", "pavi://x"])
def test_names_that_nobody_knows(name):
    with (
        checkpoints_run_no_code(),
        pytest.raises(FileNotFoundError, match=f"{name}.*give the file"),
    ):
        by_loader(name)


def test_the_text_of_a_config_is_not_run(tmp_path, ran):
    """A runner that resumes would run what stands there, to compare numbers of GPUs."""
    path = tmp_path / "made.pth"
    meta = dict(epoch=1, iter=1, config=f"open({str(ran)!r}, 'w')", cfg="x = 1")
    torch.save(dict(meta=meta, state_dict={}), path)
    with checkpoints_run_no_code():
        assert by_loader(str(path))["meta"] == dict(epoch=1, iter=1, cfg="x = 1")


def test_mmengine_is_as_before_afterwards(evil, ran, good):
    before = dict(CheckpointLoader._schemes)
    with checkpoints_run_no_code():
        assert set(CheckpointLoader._schemes) == set(before)
    assert CheckpointLoader._schemes == before
    with pytest.raises(KeyError), checkpoints_run_no_code():
        raise KeyError
    assert CheckpointLoader._schemes == before


def test_the_flag_leaves_mmengine_as_it_is(evil, ran):
    with checkpoints_run_no_code(allow_checkpoint_code=True):
        by_loader(str(evil))
    assert ran.exists()


def test_the_checkpoint_does_run_code_without(tmp_path, ran):
    """So that the tests here show something."""
    path = tmp_path / "made.pth"
    torch.save({"x": Writes(ran)}, path)
    by_loader(str(path))
    assert ran.exists()
