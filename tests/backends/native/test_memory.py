"""Memory that the compiled library sees is what the library was told, or is refused."""

import ctypes

import pytest
import torch
from torch import nn

import skippose
from skippose import InputNormGate
from skippose.backends.native import memory
from skippose.backends.native.backend import NativeBackend

needs_library = pytest.mark.skipif(
    NativeBackend.unavailable() is not None,
    reason=f"no native backend: {NativeBackend.unavailable()}",
)


def test_an_address_is_that_of_the_values():
    made = memory.empty(2, 3)
    made.copy_(torch.arange(6.0).view(2, 3))
    pointer = memory.address(made, torch.float32, (2, 3))
    assert pointer[:6] == [0, 1, 2, 3, 4, 5]
    seen = memory.view(ctypes.addressof(pointer.contents), torch.float32, 3, 2)
    assert seen.data_ptr() == made.data_ptr() and seen.shape == (3, 2)


NEGATED = torch.zeros(2, 2, 3, dtype=torch.complex64).conj().imag[0]
"""Whose memory has the opposite values, as torch's views of conjugates have."""


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), "float64"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, 3, device="meta"), "meta"),
        (torch.zeros(3, 2).t(), r"strides \(1, 2\)"),
        (torch.zeros(2, 2), r"\(2, 2\)"),
        (torch.zeros(2, 4), r"\(2, 4\)"),
        (NEGATED, "negatives"),
    ],
)
def test_what_the_library_would_misread_is_refused_and_can_be_made_readable(tensor, found):
    with pytest.raises(ValueError, match=f"6 contiguous values of torch.float32 on a CPU.*{found}"):
        memory.address(tensor, torch.float32, (2, 3))
    if tensor.numel() == 6 and not tensor.is_meta:
        readable = memory.readable(tensor, torch.float32)
        memory.address(readable, torch.float32, (2, 3))
        assert torch.equal(readable, tensor.float())


def test_what_is_readable_is_not_copied():
    tensor = torch.zeros(2, 3)
    assert memory.readable(tensor, torch.float32).data_ptr() == tensor.data_ptr()


@needs_library
@pytest.mark.parametrize("form", ["as it is", "channels last", "strided", "negated", "parameter"])
def test_frames_in_any_form(form):
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), InputNormGate(0.0)).eval()
    frame = torch.rand(2, 3, 9, 10)
    given = {
        "as it is": frame,
        "channels last": frame.contiguous(memory_format=torch.channels_last),
        "strided": frame.repeat_interleave(2, -1)[..., ::2],
        "negated": torch.complex(frame, -frame).conj().imag,
        "parameter": nn.Parameter(frame),
    }[form]
    assert torch.equal(given, frame)
    with torch.no_grad():
        expected = net(frame)
    stream = skippose.Stream(net, backend="native")
    for _ in range(2):
        torch.testing.assert_close(stream(given), expected, rtol=1e-4, atol=1e-4)


@needs_library
def test_imposed_masks_of_another_size_are_refused_and_none_is_taken():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    net = skippose.convert(net, InputNormGate(0.0)).eval()
    stream = skippose.Stream(net, backend="native")
    frame = torch.rand(1, 3, 12, 12)
    stream(frame)
    masks = stream.masks()
    for mask in masks.values():
        mask.opened.fill_(False)
    masks["1"] = masks["1"]._replace(opened=masks["1"].opened[:, :-1])
    with pytest.raises(ValueError, match="the mask of layer '1' is .*expected"):
        stream.fix_masks(masks)
    with torch.no_grad():
        torch.testing.assert_close(stream(frame + 1), net(frame + 1), rtol=1e-4, atol=1e-4)
