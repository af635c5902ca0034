"""Norm gates against loops over output locations, written from the formulas and not the code."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import skippose
from skippose.gates import ExactNormGate, InputNormGate, OutputNormGate
from skippose.ops import Convolution

torch.set_num_threads(1)

PADS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
PS = [1, 2, math.inf]


def receptive_fields(image: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """(C, H, W) to (H', W', C, kh, kw): what each output location sees, padding included."""
    (ph, pw), (sh, sw), (dh, dw) = conv.padding, conv.stride, conv.dilation
    kh, kw = conv.kernel_size
    padded = np.pad(image, ((0, 0), (ph, ph), (pw, pw)), mode=PADS[conv.padding_mode])
    height = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    out = np.empty((height, width, image.shape[0], kh, kw), image.dtype)
    for i, j in itertools.product(range(height), range(width)):
        for a, b in itertools.product(range(kh), range(kw)):
            out[i, j, :, a, b] = padded[:, i * sh + a * dh, j * sw + b * dw]
    return out


def norm(values: np.ndarray, p: float, normalize: bool) -> float:
    """Mean |v|, root mean square or maximum; the raw sums without ``normalize``."""
    values = np.abs(values.astype(np.float64).ravel())
    if p == math.inf:
        return values.max()
    if p == 1:
        return values.mean() if normalize else values.sum()
    return math.sqrt((values**2).mean() if normalize else (values**2).sum())


def input_norms(
    images: torch.Tensor, conv: nn.Conv2d, p: float = 1, normalize: bool = True
) -> np.ndarray:
    """(N, C, H, W) to (N, H', W')."""
    maps = []
    for image in images.double().numpy():
        fields = receptive_fields(image, conv)
        rows, columns = fields.shape[:2]
        maps.append(
            [[norm(fields[i, j], p, normalize) for j in range(columns)] for i in range(rows)]
        )
    return np.array(maps)


CONVS = {
    "plain": dict(kernel_size=3, padding=1),
    "strided": dict(kernel_size=3, stride=2, padding=1),
    "dilated": dict(kernel_size=(3, 2), dilation=(2, 1), padding=(2, 0)),
    "grouped": dict(kernel_size=3, groups=2),
    "pointwise": dict(kernel_size=1),
    "reflect": dict(kernel_size=3, padding=(1, 2), padding_mode="reflect"),
    "replicate": dict(kernel_size=5, padding=2, stride=(1, 3), padding_mode="replicate"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
}


def make_conv(name: str) -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(4, 6, **CONVS[name]).double()


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("normalize", [True, False])
def test_input_norm_is_the_norm_over_the_receptive_field(name, p, normalize):
    conv = make_conv(name)
    change = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    gate = InputNormGate(0.1, p=p, normalize=normalize).for_layer(conv)
    score = gate.score(change, Convolution.of(conv))
    expected = input_norms(change, conv, p, normalize)
    assert score.shape == (2, 1, *expected.shape[1:])
    np.testing.assert_allclose(score[:, 0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["plain", "dilated", "grouped"])
@pytest.mark.parametrize("p", PS)
def test_output_norm_is_the_input_norm_times_the_mean_weight_norm(name, p):
    conv = make_conv(name)
    change = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    weight = conv.weight.detach().numpy()
    factor = np.mean([np.abs(weight[o]).sum() for o in range(conv.out_channels)])
    gate = OutputNormGate(0.1, p=p).for_layer(conv)
    score = gate.score(change, Convolution.of(conv))
    np.testing.assert_allclose(score[:, 0].numpy(), input_norms(change, conv, p) * factor)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("normalize", [True, False])
def test_exact_norm_is_the_norm_of_the_response_over_channels(p, normalize):
    conv = make_conv("plain")
    change = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    response = nn.functional.conv2d(change, conv.weight, padding=1).detach()
    score = ExactNormGate(0.1, p=p, normalize=normalize).score(response, Convolution.of(conv))
    expected = [
        [[norm(r[:, i, j], p, normalize) for j in range(6)] for i in range(5)]
        for r in response.numpy()
    ]
    np.testing.assert_allclose(score[:, 0].numpy(), np.array(expected), rtol=1e-12)


@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate, ExactNormGate])
def test_equal_to_the_threshold_stays_closed(gate_class):
    gate = gate_class(0.5, scale="absolute")
    score = torch.tensor([0.0, 0.5, 0.5000001, 0.4999999]).reshape(1, 1, 1, 4)
    assert gate.decide(score, None).flatten().tolist() == [False, False, True, False]


def test_relative_threshold_is_a_share_of_each_slots_scale():
    gate = InputNormGate(0.25)
    score = torch.tensor([1.0, 2.1]).repeat(2, 1).reshape(2, 1, 1, 2)
    opened = gate.decide(score, torch.tensor([4.0, 8.0]))
    assert opened.reshape(2, 2).tolist() == [[False, True], [False, True]]
    opened = gate.decide(score, torch.tensor([3.9, 8.5]))
    assert opened.reshape(2, 2).tolist() == [[True, True], [False, False]]


def test_relative_threshold_without_a_scale_says_so():
    with pytest.raises(ValueError, match="dense frame"):
        InputNormGate(0.1).decide(torch.zeros(1, 1, 2, 2), None)


def test_scale_is_the_mean_magnitude_of_the_input_or_of_the_output_without_bias():
    x, response = torch.randn(3, 4, 5, 5), torch.randn(3, 6, 5, 5)
    of_input = InputNormGate(0.1).measure(x, response)
    torch.testing.assert_close(of_input, x.abs().mean((1, 2, 3)))
    for gate_class in (OutputNormGate, ExactNormGate):
        of_output = gate_class(0.1).measure(x, response)
        torch.testing.assert_close(of_output, response.abs().mean((1, 2, 3)))
    assert InputNormGate(0.1, scale="absolute").measure(x, response) is None


@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("form", ["clip", "stream"])
def test_output_scale_leaves_the_bias_out(reference, form):
    # A bias of 1000 would raise the threshold so far that nothing ever opened; counted in the
    # change, it would open everything.
    conv = nn.Conv2d(2, 3, 1).double()
    nn.init.constant_(conv.bias, 1000.0)
    net = skippose.convert(nn.Sequential(conv), ExactNormGate(0.1), reference=reference).eval()
    frames = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    frames[3] = frames[2] + 1e-6
    if form == "clip":
        with skippose.clips(4) as run, torch.no_grad():
            net(frames)
        density = run.report(net).densities["0"]
    else:
        stream = skippose.Stream(net)
        for t in range(4):
            stream(frames[t : t + 1])
        density = stream.report().densities["0"]
    assert 0.6 < density <= 2 / 3


def test_calibrated_magnitude_takes_the_place_of_the_measured_one():
    gate = InputNormGate(0.1)
    gate.magnitude.fill_(7.0)
    x = torch.randn(3, 4, 5, 5)
    assert gate.measure(x, x).tolist() == [7.0] * 3


def test_calibrated_magnitude_decides_the_mask_and_travels_with_the_weights():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    net = skippose.convert(nn.Sequential(conv), InputNormGate(0.1)).eval()
    frames = torch.full((2, 1, 4, 4), 1.0)
    frames[1] += 0.15  # 15% of the frame's own magnitude, 5% of the calibrated one

    def density(network: nn.Module) -> float:
        with skippose.clips(2) as run, torch.no_grad():
            network(frames)
        return run.report(network).densities["0"]

    assert density(net) == 1.0
    net[0].gate.magnitude.fill_(3.0)
    assert density(net) == 0.0
    other = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)), InputNormGate(0.1))
    other.load_state_dict(net.state_dict())
    assert density(other.eval()) == 0.0


@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate, ExactNormGate])
@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_a_black_frame_does_not_make_everything_dense(gate_class, reference):
    net = skippose.convert(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), gate_class(0.1), reference=reference
    ).eval()
    frames = torch.zeros(4, 3, 8, 8)
    frames[1:] += 1e-6 * torch.rand(3, 3, 8, 8)  # noise far below anything visible
    with skippose.clips(4) as run, torch.no_grad():
        net(frames)
    assert run.report(net).densities["0"] == 0.0


def test_a_black_frame_does_not_keep_everything_closed():
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), InputNormGate(0.1)).eval()
    frames = torch.zeros(2, 3, 8, 8)
    frames[1] = 0.5
    with skippose.clips(2) as run, torch.no_grad():
        net(frames)
    assert run.report(net).densities["0"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate])
@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("name", ["plain", "dilated"])
def test_half_precision_norms_are_computed_in_float32(dtype, gate_class, p, name):
    # Sums and squares of these overflow float16, and lose all but 8 bits in bfloat16.
    conv = make_conv(name).to(dtype)
    change = (300 * torch.randn(2, 4, 7, 9)).to(dtype)
    gate = gate_class(0.1, p=p, normalize=False).for_layer(conv)
    score = gate.score(change, Convolution.of(conv))
    assert score.dtype == torch.float32
    expected = input_norms(change, conv, p, normalize=False)
    if gate_class is OutputNormGate:
        expected = expected * conv.weight.detach().double().abs().sum((1, 2, 3)).mean().item()
    np.testing.assert_allclose(score[:, 0].double().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["plain", "dilated"])
@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate])
def test_autocast_does_not_reach_the_norms(name, gate_class):
    conv = make_conv(name).float()
    change = torch.randn(2, 4, 7, 9)
    gate = gate_class(0.1).for_layer(conv)
    plain = gate.score(change, Convolution.of(conv))
    with torch.autocast("cpu", torch.bfloat16):
        cast = gate.score(change, Convolution.of(conv))
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_exact_norm_of_half_responses_is_float32():
    response = torch.full((1, 64, 2, 2), 300.0, dtype=torch.float16)
    gate = ExactNormGate(0.1, p=2, normalize=False)
    score = gate.score(response, Convolution.of(nn.Conv2d(1, 64, 1)))
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, torch.full((1, 1, 2, 2), 300.0 * 8))


def test_scale_of_half_precision_frames_is_float32():
    x = torch.full((1, 64, 64, 64), 3.0, dtype=torch.float16)  # their sum overflows float16
    measured = InputNormGate(0.1).measure(x, x)
    assert measured.dtype == torch.float32
    assert measured.item() == 3.0


@pytest.mark.parametrize(
    ("dtype", "step", "eps"), [(torch.float16, 32, 2048.5), (torch.bfloat16, 4, 256.5)]
)
@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("form", ["clip", "chunks", "stream"])
def test_half_precision_sums_are_not_rounded_before_the_threshold(
    dtype, step, eps, reference, form
):
    # 63 channels change by `step`, one by one more: a sum that half precision rounds below eps.
    gate = InputNormGate(eps, scale="absolute", normalize=False)
    net = skippose.convert(nn.Sequential(nn.Conv2d(64, 2, 1)), gate, reference=reference)
    net.eval().to(dtype)
    frames = torch.zeros(2, 64, 4, 4, dtype=dtype)
    frames[1] = step
    frames[1, 7] = step + 1
    if form == "stream":
        stream = skippose.Stream(net)
        for frame in frames:
            stream(frame[None])
        report = stream.report()
    else:
        state, report = None, skippose.Report()
        for part in frames.split(2 if form == "clip" else 1):
            with skippose.clips(len(part), state=state, keep_state=True) as run, torch.no_grad():
                net(part)
            state, report = run.state, report + run.report(net)
    assert report.densities["0"] == 1.0


@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("form", ["clip", "chunks"])
def test_a_pixel_that_no_output_reads_opens_no_block(reference, form):
    # Stride 2 leaves the last column out; the ragged last block's missing output would read it.
    conv = nn.Conv2d(2, 3, 2, stride=2)
    gate = InputNormGate(0.0, block=2, block_mode="fixed")
    net = skippose.convert(nn.Sequential(conv), gate, reference=reference).eval()
    frames = torch.rand(1, 2, 7, 7).repeat(2, 1, 1, 1)
    frames[1, :, :, 6] += 1
    frames[1, :, 6] += 1
    state, report = None, skippose.Report()
    for part in frames.split(2 if form == "clip" else 1):
        with skippose.clips(len(part), state=state, keep_state=True) as run, torch.no_grad():
            net(part)
        state, report = run.state, report + run.report(net)
    assert report.densities["0"] == 0.0


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("scale", ["relative", "absolute"])
@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate])
def test_masks_of_a_clip_are_those_of_a_plain_loop(gate_class, scale, reference, block):
    """Blocks take the largest norm of their locations; a held block remembers what it computed."""
    torch.manual_seed(block)
    conv = nn.Conv2d(2, 3, 3, padding=1, stride=1).double()
    drift = torch.randn(6, 2, 5, 7, dtype=torch.float64).cumsum(0)
    frames = torch.randn(1, 2, 5, 7, dtype=torch.float64) + 0.35 * drift
    factor = 1.0
    if gate_class is OutputNormGate:
        factor = conv.weight.detach().abs().sum((1, 2, 3)).mean().item()
    eps = 0.42 if reference == "hold" else 0.26
    if gate_class is OutputNormGate:
        eps *= 3 if scale == "relative" else factor
    if scale == "relative":
        seen = frames[0]
        if gate_class is OutputNormGate:
            seen = nn.functional.conv2d(frames[:1], conv.weight, padding=1).detach()
        threshold = eps * seen.abs().mean().item()
    else:
        threshold = eps

    gate = gate_class(eps, scale=scale, block=block, block_mode="fixed")
    net = skippose.convert(nn.Sequential(conv), gate, reference=reference).eval()
    with skippose.clips(6, keep_masks=True) as run, torch.no_grad():
        net(frames)
    (record,) = run.records.values()
    masks = record.gate[0, :, 0].numpy()

    fields = [receptive_fields(f.numpy(), conv) for f in frames]
    held = fields[0].copy()
    rows, columns = -(-5 // block), -(-7 // block)
    expected = np.ones((6, rows, columns), bool)
    for t in range(1, 6):
        for i, j in itertools.product(range(rows), range(columns)):
            here = np.s_[i * block : (i + 1) * block, j * block : (j + 1) * block]
            change = fields[t][here] - held[here]
            norms = [norm(c, 1, True) for line in change for c in line]
            expected[t, i, j] = factor * max(norms) > threshold
            if reference == "previous" or expected[t, i, j]:
                held[here] = fields[t][here]
    assert 0.1 < expected[1:].mean() < 0.97, "the example must have live gates"
    np.testing.assert_array_equal(masks, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(eps=-0.1), r"eps.*-0\.1"),
        (dict(eps=math.nan), "eps.*nan"),
        (dict(eps=math.inf), "eps.*inf"),
        (dict(eps="0.1"), "eps.*'0.1'"),
        (dict(eps=None), "eps.*None"),
        (dict(eps=0.1, block=0), "block.*0"),
        (dict(eps=0.1, block=1.5), r"block.*1\.5"),
        (dict(eps=0.1, block_mode="grid"), "block_mode.*scaled.*fixed.*'grid'"),
        (dict(eps=0.1, scale="big"), "scale.*relative.*absolute.*'big'"),
        (dict(eps=0.1, p=3), "p must.*3"),
        (dict(eps=0.1, source="flow"), "source.*residual.*frame.*'flow'"),
    ],
)
@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate, ExactNormGate])
def test_bad_arguments_name_what_was_found_and_expected(gate_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        gate_class(**arguments)


def test_infinite_p_can_be_written_in_a_config():
    assert InputNormGate(0.1, p="inf").p == math.inf


@pytest.mark.parametrize("train_gates", [False, True])
def test_norm_gates_in_training(train_gates):
    """Open while training unless they take part; live in evaluation in both cases."""
    gate = InputNormGate(0.5, train_gates=train_gates)
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), gate)
    frames = torch.rand(1, 2, 6, 6).repeat(3, 1, 1, 1)
    dense = net(frames)
    densities = {}
    for mode in (True, False):
        net.train(mode)
        with skippose.clips(3) as run:
            z = net(frames)
        torch.testing.assert_close(z, dense)
        densities[mode] = run.report(net).densities["0"]
    assert densities == {True: 0.0 if train_gates else 1.0, False: 0.0}


def test_a_gate_through_which_a_network_is_trained_passes_gradients_to_the_computed_outputs():
    gate = InputNormGate(0.5, train_gates=True)
    net = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)), gate).double().train()
    frames = torch.tensor([1.0, 1.1, 3.0, 3.2], dtype=torch.float64).reshape(4, 1, 1, 1)
    with skippose.clips(4):
        z = net(frames)
    # Computed at frames 1 and 3 (change of 2 > 0.5), held at 2 and 4.
    torch.testing.assert_close(z, frames[[0, 0, 2, 2]] * net[0].weight)
    z.sum().backward()
    assert net[0].weight.grad.item() == pytest.approx(1.0 + 1.0 + 3.0 + 3.0)
