"""mmengine's checkpoints as plain types, and back."""

import copy
import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from skippose.checkpoints import from_plain, to_plain


def saved(content: Any) -> Any:
    """Through a file, which holds weights alone."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def checkpoint() -> dict[str, Any]:
    buffer = HistoryBuffer([0.5, 1.25], [1, 2], max_length=10)
    meta = dict(
        dataset_name="jhmdb",
        sigmas=np.array([0.026, 0.1], np.float32),
        keypoint_colors=np.array([[255, 128, 0]], np.uint8),
        skeleton_links=[(0, 1), (1, 2)],
        names=("neck", "head"),
    )
    return dict(
        meta=dict(epoch=3, dataset_meta=meta, seed=np.int64(7)),
        message_hub=dict(
            log_scalars=OrderedDict({"train/loss": buffer, "empty": HistoryBuffer()}),
            runtime_info=dict(best_score=np.float64(0.5), dataset_meta=meta, eta=1.0),
            resumed_keys={"train/loss": True},
        ),
        state_dict=torch.nn.BatchNorm2d(2).state_dict(),
        param_schedulers=[dict(last=np.float32(0.5))],
    )


def test_it_loads_as_weights_alone_and_comes_back():
    before, content = checkpoint(), checkpoint()
    found = saved({key: to_plain(value) for key, value in content.items()})
    from_plain(found)
    # Nothing was changed in what it was taken from.
    assert pickle.dumps(content["meta"]) == pickle.dumps(before["meta"])
    for part in (found["meta"], found["message_hub"]["runtime_info"]):
        theirs = before["meta"]["dataset_meta"]
        assert part["dataset_meta"].keys() == theirs.keys()
        for key, value in theirs.items():
            assert type(part["dataset_meta"][key]) is type(value), key
            np.testing.assert_array_equal(part["dataset_meta"][key], value)
        # As a runner compares them when it resumes.
        assert pickle.dumps(copy.deepcopy(part["dataset_meta"])) == pickle.dumps(
            copy.deepcopy(theirs)
        )
    for key, value in before["message_hub"]["log_scalars"].items():
        ours = found["message_hub"]["log_scalars"][key]
        assert type(ours) is HistoryBuffer and ours.max_length == value.max_length
        for a, b in zip(ours.data, value.data, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert type(found["message_hub"]["runtime_info"]["best_score"]) is float
    assert type(found["meta"]["seed"]) is int and found["param_schedulers"] == [{"last": 0.5}]


def test_what_is_plain_stays_the_same_object():
    content = checkpoint()
    state = content["state_dict"]
    assert to_plain(state) is state and hasattr(to_plain(state), "_metadata")
    for value in (3, "text", None, [1, (2, {"x": 3})], {"x": torch.zeros(2)}):
        assert to_plain(value) is value


def test_what_torch_has_no_type_for():
    assert to_plain(np.array(["a", "bc"])) == ["a", "bc"]
    assert to_plain(ConfigDict(x=dict(y=np.float32(0.5)))) == {"x": {"y": 0.5}}
    assert type(to_plain(ConfigDict(x=dict(y=1)))["x"]) is dict
    for array in (np.array([3, 4], dtype=">u2"), np.array([3, 4], np.uint16)):
        assert list(saved(to_plain(array))) == [3, 4]


@pytest.mark.parametrize(
    "content",
    [{}, {"meta": None}, {"message_hub": 3}, {"message_hub": {"log_scalars": 3}}, {"meta": {}}],
)
def test_a_checkpoint_without_them(content):
    before = copy.deepcopy(content)
    from_plain(content)
    assert content == before


def test_mmengines_own_checkpoints_are_left_as_they_are():
    content = checkpoint()
    buffer = content["message_hub"]["log_scalars"]["train/loss"]
    from_plain(content)
    assert content["message_hub"]["log_scalars"]["train/loss"] is buffer
