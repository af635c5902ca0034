"""The loop, the clip form, its chunks and the step form: one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skippose.gates import (
    ExactNormGate,
    Gate,
    GumbelGate,
    GumbelNormGate,
    InputNormGate,
    OutputNormGate,
)
from skippose.layers import SkipConv2d
from skippose.ops import GatedConvolution, skip_conv_clip, skip_conv_loop, skip_conv_step

REFERENCES = ("hold", "previous")
GATES: dict[str, Callable[..., Gate]] = {
    "input": lambda **k: InputNormGate(0.3, train_gates=True, **k),
    "input-p2-absolute": lambda **k: InputNormGate(
        0.3, p=2, scale="absolute", train_gates=True, **k
    ),
    "input-inf": lambda **k: InputNormGate(0.6, p="inf", train_gates=True, **k),
    "input-raw": lambda **k: InputNormGate(
        4.0, scale="absolute", normalize=False, train_gates=True, **k
    ),
    "output": lambda **k: OutputNormGate(0.5, train_gates=True, **k),
    "exact": lambda **k: ExactNormGate(0.3, train_gates=True, **k),
    "gumbel": lambda **k: GumbelGate(init_open=0.0, **k),
    "gumbel-rectified": lambda **k: GumbelGate(init_open=0.0, rectify=True, **k),
    "gumbel-norm": lambda **k: GumbelNormGate(0.3, **k),
}
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "3x3": dict(kernel_size=3, padding=1),
    "3x3/2 without bias": dict(kernel_size=3, padding=1, stride=2, bias=False),
    "dilated, grouped": dict(kernel_size=3, padding=2, dilation=2, groups=2),
    "depthwise": dict(kernel_size=3, padding=1, groups=4, out_channels=4),
    "1x1": dict(kernel_size=1),
    "1x1/2": dict(kernel_size=1, stride=2),
    "unpadded 5x5/3": dict(kernel_size=5, stride=3),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "replicate, uneven": dict(kernel_size=(3, 1), padding=(1, 0), padding_mode="replicate"),
    "circular, same": dict(kernel_size=(2, 3), padding="same", padding_mode="circular"),
    "zeros, same, even kernel": dict(kernel_size=(2, 4), padding="same"),
}


def layer_of(
    gate: Gate, reference: str, block: int, x: Tensor, **conv: Any
) -> tuple[SkipConv2d, GatedConvolution]:
    """A layer in x's dtype, with blocks of ``block`` outputs."""
    arguments = {"out_channels": 6, **conv}
    module = SkipConv2d(x.shape[2], gate=gate, reference=reference, **arguments).to(x.dtype)
    height, width = x.shape[-2:]
    return module, module.gated((4 * height, 4 * width), height, width)


def stirred(x: Tensor) -> Tensor:
    """x, whose pixels all change a little from frame to frame, or not at all in a still frame.

    A learned gate takes a block's largest score, and its gradient goes to where that is. Outputs
    whose input did not change tie for it at zero, and rounding would break the tie.
    """
    noise = 1e-3 * torch.randn_like(x)
    for t in range(1, x.shape[1]):
        still = (x[:, t] == x[:, t - 1]).flatten(1).all(1)
        noise[still, t] = noise[still, t - 1]
    return x + noise


def by_steps(x: Tensor, layer: GatedConvolution, dense: Tensor) -> tuple[Tensor, Tensor]:
    state, zs, gates = None, [], []
    for t in range(x.shape[1]):
        result = skip_conv_step(x[:, t], layer, state, dense[:, t])
        state = result.state
        zs.append(result.z)
        gates.append(result.gate.to(torch.float64))
    return torch.stack(zs, 1), torch.stack(gates, 1)


def by_clip(x: Tensor, layer: GatedConvolution, dense: Tensor) -> tuple[Tensor, Tensor]:
    result = skip_conv_clip(x, layer, None, dense, keep_state=False)
    assert result.state is None
    return result.z, result.gate.to(torch.float64)


def by_chunks(x: Tensor, layer: GatedConvolution, dense: Tensor) -> tuple[Tensor, Tensor]:
    state, zs, gates = None, [], []
    for part in (slice(0, 2), slice(2, 3), slice(3, None)):
        result = skip_conv_clip(x[:, part], layer, state, dense[:, part])
        state = result.state
        zs.append(result.z)
        gates.append(result.gate.to(torch.float64))
    return torch.cat(zs, 1), torch.cat(gates, 1)


def gradients(module: SkipConv2d, x: Tensor, z: Tensor, gate: Tensor) -> list[Tensor]:
    """Of a loss that looks at every output and, for gates that learn, at the gates."""
    weights = torch.arange(z.numel(), dtype=z.dtype).reshape(z.shape).sin()
    loss = (z * weights).sum() + 3 * gate.to(z.dtype).mean()
    leaves = [x, *module.parameters()]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(leaves, found, strict=True)]


def assert_same_forms(module: SkipConv2d, layer: GatedConvolution, x: Tensor) -> float:
    """All forms against the loop, values, gates and gradients; returns the mean gate."""
    dense = torch.zeros(x.shape[:2], dtype=torch.bool)
    dense[0, -2] = True  # one clip begins anew near its end
    x.requires_grad_()
    torch.manual_seed(7)  # the same noise for every form
    z, gate = skip_conv_loop(x, layer, dense)
    expected = gradients(module, x, z, gate)
    for form in (by_clip, by_chunks, by_steps):
        torch.manual_seed(7)
        z_form, gate_form = form(x, layer, dense)
        assert torch.equal(gate_form, gate.to(gate_form.dtype)), form.__name__
        torch.testing.assert_close(z_form, z, rtol=1e-10, atol=1e-10)
        for got, want in zip(gradients(module, x, z_form, gate_form), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    return float(gate[:, 1:].detach().mean())


@pytest.mark.pairwise
@pytest.mark.parametrize("conv", CONVOLUTIONS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("reference", REFERENCES)
def test_forms_agree(reference: str, gate: str, conv: str, video: Callable[..., Tensor]) -> None:
    x = video()
    for block in (1, 3):
        template = GATES[gate](block=block, block_mode="fixed")
        module, layer = layer_of(template, reference, block, x.detach(), **CONVOLUTIONS[conv])
        seen = stirred(x.detach()) if "gumbel" in gate and block > 1 else x.detach().clone()
        share = assert_same_forms(module, layer, seen)
        assert 0.02 < share < 0.99, "the gate must be live for this test to say anything"


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("reference", REFERENCES)
def test_forms_agree_for_gates_that_look_at_frames(
    reference: str, gate: str, video: Callable[..., Tensor]
) -> None:
    x = video()
    template = GATES[gate](block=2, block_mode="fixed", source="frame")
    module, layer = layer_of(template, reference, 2, x, kernel_size=3, padding=1)
    assert_same_forms(module, layer, x)


@pytest.mark.parametrize("reference", REFERENCES)
def test_forms_agree_where_phi_is_a_matrix_product(
    reference: str, video: Callable[..., Tensor]
) -> None:
    """Kernels with no more taps than channels: those of all layers but the first."""
    x = stirred(video(channels=12))
    template = GumbelGate(init_open=0.0, block=2, block_mode="fixed")
    module, layer = layer_of(template, reference, 2, x, kernel_size=3, padding=1, stride=2)
    assert 0.02 < assert_same_forms(module, layer, x) < 0.99


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reference", REFERENCES)
def test_gumbel_forms_agree_in_evaluation_too(
    reference: str, training: bool, video: Callable[..., Tensor]
) -> None:
    x = video()
    template = GumbelGate(init_open=0.1, block=2, block_mode="fixed")
    module, layer = layer_of(template, reference, 2, x, kernel_size=3, padding=1)
    module.train(training)
    assert 0.05 < assert_same_forms(module, layer, x) < 0.95


@settings(max_examples=60, deadline=None)
@given(
    reference=st.sampled_from(REFERENCES),
    gate=st.sampled_from(sorted(GATES)),
    batch=st.integers(1, 3),
    frames=st.integers(4, 6),
    groups=st.sampled_from([1, 2]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 3),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    block=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_forms_agree_for_drawn_shapes(
    reference: str,
    gate: str,
    batch: int,
    frames: int,
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: int,
    padding: int,
    extra: tuple[int, int],
    block: int,
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    size = [dilation * (kernel[i] - 1) + 1 + extra[i] for i in (0, 1)]
    x = torch.randn(batch, frames, 2 * groups, *size, dtype=torch.float64)
    keep = torch.rand(batch, frames, 1, *size) < 0.5
    for t in range(1, frames):
        x[:, t] = torch.where(keep[:, t], x[:, t - 1], x[:, t - 1] + 0.5 * x[:, t])
    if "gumbel" in gate and block > 1:
        x = stirred(x)
    template = GATES[gate](block=block, block_mode="fixed")
    module, layer = layer_of(
        template,
        reference,
        block,
        x,
        kernel_size=kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
        bias=bias,
    )
    assert_same_forms(module, layer, x)


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gate", ["input", "output", "exact", "gumbel", "gumbel-rectified"])
def test_lower_precision_follows_the_loop_in_float64(
    gate: str, dtype: torch.dtype, reference: str, video: Callable[..., Tensor]
) -> None:
    """With masks as they fall in each precision, outputs stay within its rounding of the loop."""
    x = video(frames=8, dtype=dtype)
    module, layer = layer_of(GATES[gate](), reference, 1, x, kernel_size=3, padding=1)
    module.eval()
    if isinstance(module.gate, InputNormGate | ExactNormGate):
        module.gate.train_gates = True
    wide, wide_layer = layer_of(GATES[gate](), reference, 1, x.double(), kernel_size=3, padding=1)
    wide.load_state_dict(module.state_dict())
    wide.eval()
    truth, gates = skip_conv_loop(x.double(), wide_layer)
    dense = torch.zeros(x.shape[:2], dtype=torch.bool)
    step = 8 * torch.finfo(dtype).eps * float(truth.detach().abs().max())
    for form in (by_clip, by_steps):
        z, g = form(x, layer, dense)
        assert z.dtype == dtype
        same = (g == gates).all(1, keepdim=True)  # places whose masks agree in every frame
        assert same.double().mean() > 0.9
        difference = (z.double() - truth).abs() * same
        assert float(difference.detach().max()) < step


def test_the_first_frame_is_dense_and_the_bias_enters_once(video: Callable[..., Tensor]) -> None:
    x = video()
    for reference in REFERENCES:
        module, layer = layer_of(
            InputNormGate(1e9, scale="absolute"), reference, 1, x, kernel_size=3, padding=1
        )
        first = module.dense(x[:, 0])
        for form in (by_clip, by_steps):
            z, gate = form(x, layer, torch.zeros(x.shape[:2], dtype=torch.bool))
            assert gate[:, 0].all() and not gate[:, 1:].any()
            for t in range(x.shape[1]):
                torch.testing.assert_close(z[:, t], first)


def test_an_open_gate_gives_the_convolution(video: Callable[..., Tensor]) -> None:
    x = video(still=False)
    x = x + torch.rand(x.shape, dtype=x.dtype)  # every pixel changes
    for reference in REFERENCES:
        module, layer = layer_of(InputNormGate(0.0), reference, 1, x, kernel_size=3, padding=1)
        dense = module.dense(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        for form in (by_clip, by_chunks, by_steps):
            z, gate = form(x, layer, torch.zeros(x.shape[:2], dtype=torch.bool))
            assert gate.all()
            torch.testing.assert_close(z, dense, rtol=1e-10, atol=1e-10)


def test_states_share_no_memory_with_what_a_caller_may_overwrite(
    video: Callable[..., Tensor],
) -> None:
    x = video()
    for reference in REFERENCES:
        for gate in GATES.values():
            _, layer = layer_of(gate(), reference, 1, x, kernel_size=1)
            layer.gate.eval()  # type: ignore[attr-defined]
            whole = by_steps(x, layer, torch.zeros(x.shape[:2], dtype=torch.bool))[0]
            state = None
            for t in range(x.shape[1]):
                frame = x[:, t].clone()
                torch.manual_seed(7)
                result = skip_conv_step(frame, layer, state)
                torch.testing.assert_close(result.z, whole[:, t], rtol=1e-10, atol=1e-10)
                with torch.no_grad():
                    result.z.fill_(float("nan"))  # as an in-place activation would
                    frame.fill_(float("nan"))
                state = result.state


def test_in_place_activation_after_a_learned_gate_keeps_its_gradient(
    video: Callable[..., Tensor],
) -> None:
    for reference in REFERENCES:
        x = video()
        module, layer = layer_of(
            GumbelGate(init_open=0.0), reference, 1, x, kernel_size=3, padding=1
        )
        found = []
        for inplace in (False, True):
            torch.manual_seed(3)
            z = skip_conv_clip(x, layer, keep_state=False).z
            loss = torch.relu_(z).sum() if inplace else torch.relu(z).sum()
            found.append(torch.autograd.grad(loss, list(module.parameters())))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


def test_a_state_of_another_configuration_is_refused(video: Callable[..., Tensor]) -> None:
    x = video()
    _, norm = layer_of(InputNormGate(0.1), "hold", 1, x, kernel_size=1)
    _, gumbel = layer_of(GumbelGate(), "hold", 1, x, kernel_size=1)
    state = skip_conv_step(x[:, 0], norm).state
    with pytest.raises(ValueError, match="another configuration"):
        skip_conv_step(x[:, 1], gumbel, state)
