"""The estimator on clips: what is in the loss, and the two ways of testing."""

import copy
import warnings
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmpose.models import TopdownPoseEstimator
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import skippose
from skippose.layers import SkipConv2d, gated_layers

SIZE, MAP, JOINTS = 64, 16, 5
CODEC = dict(type="MSRAHeatmap", input_size=(SIZE, SIZE), heatmap_size=(MAP, MAP), sigma=1)
HEAD = dict(
    type="HeatmapHead",
    in_channels=4,
    out_channels=JOINTS,
    deconv_out_channels=None,
    loss=dict(type="KeypointMSELoss", use_target_weight=True),
    decoder=CODEC,
)
NORM = dict(type="InputNormGate", eps=0.3)
GUMBEL = dict(type="GumbelGate", init_open=0.0, block_mode="fixed")
Forms = Callable[..., nn.Module]


@pytest.fixture
def build(small_extra: dict, make_video: Callable, settle: Callable) -> Forms:
    """``build(gate, reference, **keywords)``: a small estimator whose gates are live."""

    def make(
        gate: dict | None = NORM,
        reference: str = "hold",
        dtype: torch.dtype = torch.float64,
        test_cfg: dict | None = None,
        **keywords: object,
    ) -> nn.Module:
        torch.manual_seed(0)
        backbone = dict(type="SkipHRNet", extra=small_extra, gate=gate, reference=reference)
        config = dict(
            type="SkipTopdownPoseEstimator", backbone=backbone, head=HEAD, test_cfg=test_cfg
        )
        config.update(keywords)
        net = MODELS.build(copy.deepcopy(config)).to(dtype)
        return settle(net, make_video(2, 4, SIZE, dtype))

    return make


def sample(clip: int, frame: int, labelled: bool = True) -> PoseDataSample:
    """One frame's sample, with a target that differs from frame to frame."""
    draw = torch.Generator().manual_seed(100 * clip + frame)
    one = PoseDataSample(
        metainfo=dict(
            clip_id=f"clip{clip}",
            frame=frame,
            labelled=labelled,
            input_size=(SIZE, SIZE),
            input_center=np.array([SIZE / 2, SIZE / 2]),
            input_scale=np.array([SIZE, SIZE], float),
            flip_indices=[0, 2, 1, 4, 3],
        )
    )
    one.gt_instances = InstanceData(
        bboxes=np.array([[0, 0, SIZE, SIZE]], float),
        bbox_scores=np.ones(1),
        # Where mmpose 1.1 looks for the crop.
        bbox_centers=np.array([[SIZE / 2, SIZE / 2]]),
        bbox_scales=np.array([[SIZE, SIZE]], float),
    )
    one.gt_instance_labels = InstanceData(
        keypoint_weights=torch.rand(1, JOINTS, generator=draw, dtype=torch.float64)
    )
    one.gt_fields = PixelData(
        heatmaps=torch.rand(JOINTS, MAP, MAP, generator=draw, dtype=torch.float64)
    )
    return one


def samples(lengths: Sequence[int], unlabelled: Sequence[tuple[int, int]] = ()) -> list[list]:
    return [
        [sample(b, t, (b, t) not in unlabelled) for t in range(length)]
        for b, length in enumerate(lengths)
    ]


def to_float32(nested: list[list]) -> list[list]:
    for one in chain.from_iterable(nested):
        one.gt_fields.heatmaps = one.gt_fields.heatmaps.float()
        one.gt_instance_labels.keypoint_weights = one.gt_instance_labels.keypoint_weights.float()
    return nested


def predict(net: nn.Module, images: Tensor, nested: list[list], **test_cfg: object) -> list:
    net.test_cfg.clear()
    net.test_cfg.update(test_cfg)
    with torch.no_grad():
        return net(images, nested, mode="predict")


def identities(predictions: list) -> list[tuple[str, int]]:
    return [(p.metainfo["clip_id"], p.metainfo["frame"]) for p in predictions]


def assert_same(a: list, b: list, tolerance: float = 1e-9) -> None:
    """Same frames, coordinates, scores and costs."""
    assert identities(a) == identities(b)
    assert a
    for one, other in zip(a, b, strict=True):
        for key in ("keypoints", "keypoint_scores"):
            np.testing.assert_allclose(
                one.pred_instances[key], other.pred_instances[key], atol=tolerance, rtol=0
            )
        assert ("sparsity" in one) == ("sparsity" in other)
        if "sparsity" in one:
            assert_same_costs(one.sparsity, other.sparsity)


def assert_same_costs(a: skippose.Report, b: skippose.Report) -> None:
    assert (a.frames, a.first_frames) == (b.frames, b.first_frames)
    assert [x.name for x in a.layers] == [x.name for x in b.layers]
    assert a.gmacs == pytest.approx(b.gmacs, rel=1e-6, nan_ok=True)
    assert a.densities == pytest.approx(b.densities, abs=1e-6, nan_ok=True)


# -- loss ----------------------------------------------------------------------------------------


def mse_by_hand(heatmaps: Tensor, labelled: list[PoseDataSample]) -> Tensor:
    """Mean squared error, weighted per joint, over frames, joints and pixels."""
    target = torch.stack([s.gt_fields.heatmaps for s in labelled])
    weight = torch.cat([s.gt_instance_labels.keypoint_weights for s in labelled])
    return ((heatmaps - target).square() * weight[..., None, None]).mean()


def test_the_loss_is_over_labelled_real_frames(build: Forms, make_video: Callable) -> None:
    net = build(dict(NORM, train_gates=True)).eval()  # batch norms must not mix frames here
    images = make_video(3, 4, SIZE, torch.float64)
    nested = samples([4, 2, 3], unlabelled=[(0, 1), (2, 0), (2, 2)])
    losses = net(images, nested, mode="loss")
    with torch.no_grad(), skippose.clips(4, [4, 2, 3]) as run:
        heatmaps = net(images)
    rows = [0, 2, 3, 4, 5, 9]
    flat = [nested[b][t] for b, t in [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (2, 1)]]
    torch.testing.assert_close(losses["loss_kpt"], mse_by_hand(heatmaps[rows], flat))
    assert losses["loss_kpt"] > 0
    assert 0.05 < run.gate_loss() < 0.95
    torch.testing.assert_close(losses["gate_share"], run.gate_loss())


def test_an_unlabelled_frame_is_input_all_the_same(build: Forms, make_video: Callable) -> None:
    net = build().eval()
    images = make_video(1, 4, SIZE, torch.float64)
    nested = samples([4], unlabelled=[(0, 0)])
    loss = net(images, nested, mode="loss")["loss_kpt"]
    images[0] += 3.0  # the frame that the others refer to
    assert not torch.allclose(net(images, nested, mode="loss")["loss_kpt"], loss)


def test_what_an_unlabelled_frame_carries_is_not_in_the_loss(
    build: Forms, make_video: Callable
) -> None:
    net = build().eval()
    images = make_video(1, 3, SIZE, torch.float64)
    nested = samples([3], unlabelled=[(0, 1)])
    loss = net(images, nested, mode="loss")["loss_kpt"]
    nested[0][1].gt_fields.heatmaps.fill_(1e6)
    assert torch.equal(net(images, nested, mode="loss")["loss_kpt"], loss)
    nested[0][2].gt_fields.heatmaps.fill_(1e6)
    assert net(images, nested, mode="loss")["loss_kpt"] > 1e6


def test_a_batch_without_labels_is_an_error(build: Forms, make_video: Callable) -> None:
    net = build()
    nested = samples([2], unlabelled=[(0, 0), (0, 1)])
    with pytest.raises(ValueError, match="no frame of the batch is labelled"):
        net(make_video(1, 2, SIZE, torch.float64), nested, mode="loss")


def test_the_gate_loss_is_added_where_gates_learn(build: Forms, make_video: Callable) -> None:
    net = build(GUMBEL, gate_loss=dict(type="GateLoss", weight=0.5)).train()
    images, nested = make_video(2, 3, SIZE, torch.float64), samples([3, 3])
    torch.manual_seed(7)
    losses = net(images, nested, mode="loss")
    assert 0.05 < losses["gate_share"] < 0.95
    torch.testing.assert_close(
        losses["loss_gate"].detach().double(), 0.5 * losses["gate_share"].double()
    )
    assert not losses["gate_share"].requires_grad
    total, log = net.parse_losses(losses)
    torch.testing.assert_close(total.double(), (losses["loss_kpt"] + losses["loss_gate"]).double())
    assert "gate_share" in log, "the share is logged, and no part of the loss"
    losses["loss_gate"].backward()
    for name, layer in net.named_modules():
        if isinstance(layer, SkipConv2d):
            # What a gate's threshold moves is its own density, which costs; all shares push alike.
            assert layer.gate.bias.grad > 0, name
            assert layer.weight.grad is None or name != "head.final_layer"


def test_consistency_is_the_distance_from_the_own_dense_answer(
    build: Forms, make_video: Callable
) -> None:
    gate = dict(NORM, train_gates=True)
    images, nested = make_video(2, 4, SIZE, torch.float64), samples([4, 3])
    nets = [build(gate).eval(), build(gate, consistency=0.7).eval()]
    plain, found = (net(images, nested, mode="loss") for net in nets)
    with torch.no_grad():
        dense = nets[1](images)
        with skippose.clips(4, [4, 3]):
            gated = nets[1](images)
    square = (gated - dense).square().mean((1, 2, 3))
    torch.testing.assert_close(
        found["loss_consistency"].detach().double(),
        0.7 * square[[1, 2, 3, 5, 6]].mean(),
        rtol=1e-4,
        atol=0,
    )
    assert square.max() > 0
    assert "loss_consistency" not in plain
    torch.testing.assert_close(found["loss_kpt"], plain["loss_kpt"])
    net = nets[1].train()
    net(images, nested, mode="loss")["loss_consistency"].backward()
    assert net.head.final_layer.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="consistency.*-1"):
        build(gate, consistency=-1)


def test_the_gate_share_is_the_share_of_macs(build: Forms, make_video: Callable) -> None:
    net = build(GUMBEL, gate_loss=dict(type="GateLoss", weight=1.0)).train()
    images, nested = make_video(2, 4, SIZE, torch.float64), samples([4, 2])
    torch.manual_seed(7)
    share = net(images, nested, mode="loss")["gate_share"]
    net.zero_grad()
    torch.manual_seed(7)
    with torch.no_grad(), skippose.clips(4, [4, 2]) as run:
        net(images)
    report = run.report(net)
    assert (report.frames, report.first_frames) == (4, 2)
    spent = sum(x.macs * report.density(x) for x in report.layers if x.gated)
    by_hand = spent / sum(x.macs for x in report.layers if x.gated)
    assert float(share) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("gate", [NORM, dict(NORM, train_gates=True)])
def test_norm_gates_have_a_share_but_no_loss(
    build: Forms, make_video: Callable, gate: dict
) -> None:
    net = build(gate).train()
    losses = net(make_video(2, 3, SIZE, torch.float64), samples([3, 3]), mode="loss")
    assert "loss_gate" not in losses
    if "train_gates" in gate:
        assert 0.02 < losses["gate_share"] < 0.98
    else:
        assert losses["gate_share"] == 1


@pytest.mark.parametrize(("gate", "found"), [(NORM, "InputNormGate"), (None, "none")])
def test_a_gate_loss_without_gates_that_learn_is_an_error(
    build: Forms, make_video: Callable, gate: dict | None, found: str
) -> None:
    net = build(gate, gate_loss=dict(type="GateLoss", weight=0.5)).train()
    with pytest.raises(ValueError, match=f"needs gates that learn .* found {found}"):
        net(make_video(1, 2, SIZE, torch.float64), samples([2]), mode="loss")


def test_a_whole_training_step_learns(build: Forms, make_video: Callable) -> None:
    net = build(GUMBEL, gate_loss=dict(type="GateLoss", weight=0.01)).train()
    images, nested = make_video(2, 3, SIZE, torch.float64), samples([3, 3])
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    values = []
    for _ in range(8):
        torch.manual_seed(0)
        optimiser.zero_grad()
        losses = net(images, nested, mode="loss")
        total, _ = net.parse_losses(losses)
        total.backward()
        optimiser.step()
        values.append(losses["loss_kpt"].item())
    assert np.isfinite(values).all()
    assert np.mean(values[-3:]) < 0.7 * values[0]


# -- testing -------------------------------------------------------------------------------------

POLICIES = [
    pytest.param(NORM, "hold", id="hold-norm"),
    pytest.param(dict(NORM, block=4), "hold", id="hold-norm-blocks"),
    pytest.param(NORM, "previous", id="previous-norm"),
    pytest.param(GUMBEL, "hold", id="hold-gumbel"),
    pytest.param(dict(type="ExactNormGate", eps=0.2), "previous", id="previous-exact"),
]
RULES = [
    pytest.param({}, id="plain"),
    pytest.param(dict(flip_test=True, flip_mode="heatmap", shift_heatmap=False), id="flip"),
    pytest.param(dict(refresh_every=3), id="refresh"),
    pytest.param(dict(cut=0.85), id="cut"),
]


@pytest.mark.pairwise
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("gate", "reference"), POLICIES)
def test_stream_is_clip(
    build: Forms, make_video: Callable, gate: dict, reference: str, rules: dict
) -> None:
    net = build(gate, reference)
    images = make_video(2, 5, SIZE, torch.float64)
    images[3:5] += torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)  # a cut, in one of the clips
    in_clips = predict(net, images, samples([5, 4]), mode="clip", **rules)
    streamed = predict(net, images, samples([5, 4]), mode="stream", **rules)
    assert len(in_clips) == 9
    assert 0.02 < in_clips[0].sparsity.sparsity < 0.98
    assert_same(in_clips, streamed)


@pytest.mark.pairwise
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("gate", "reference"), POLICIES[1:4])
def test_chunks_are_the_whole(
    build: Forms, make_video: Callable, gate: dict, reference: str, rules: dict
) -> None:
    net = build(gate, reference)
    images = make_video(2, 7, SIZE, torch.float64)
    images[3:5] += torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    whole = predict(net, images, samples([7, 2]), **rules)
    for chunk in (1, 3, 100):
        assert_same(predict(net, images, samples([7, 2]), chunk=chunk, **rules), whole)


@pytest.mark.parametrize("mode", ["clip", "stream"])
def test_cut_and_refresh_do_something(build: Forms, make_video: Callable, mode: str) -> None:
    net = build()
    images = make_video(1, 6, SIZE, torch.float64)
    images[3:] = make_video(1, 3, SIZE, torch.float64, seed=9)
    plain = predict(net, images, samples([6]), mode=mode)
    cut = predict(net, images, samples([6]), mode=mode, cut=0.7)
    refreshed = predict(net, images, samples([6]), mode=mode, refresh_every=2)
    every = predict(net, images, samples([6]), mode=mode, refresh_every=1)
    assert cut[0].sparsity.gmacs > plain[0].sparsity.gmacs
    assert refreshed[0].sparsity.gmacs > plain[0].sparsity.gmacs
    assert every[0].sparsity.gmacs == pytest.approx(every[0].sparsity.dense_gmacs)
    assert cut[0].sparsity.first_frames == 1, "a cut counts as a dense frame, not a first one"


@pytest.mark.parametrize("mode", ["clip", "stream"])
def test_flip_test_by_hand(build: Forms, make_video: Callable, mode: str) -> None:
    """The mean of two runs of the network, over the clip and over the mirrored clip."""
    net = build()
    images, nested = make_video(1, 4, SIZE, torch.float64), samples([4])
    rules = dict(flip_test=True, flip_mode="heatmap", shift_heatmap=False, output_heatmaps=True)
    flipped = predict(net, images, nested, mode=mode, **rules)
    with torch.no_grad():
        with skippose.clips(4) as run:
            seen = net(images)
        with skippose.clips(4) as mirrored:
            back = net(images.flip(-1)).flip(-1)[:, [0, 2, 1, 4, 3]]
    for t, prediction in enumerate(flipped):
        torch.testing.assert_close(prediction.pred_fields.heatmaps, (seen[t] + back[t]) / 2)
    report = flipped[0].sparsity
    expected = run.report(net).gmacs + mirrored.report(net).gmacs
    assert report.gmacs == pytest.approx(expected, rel=1e-6)
    assert report.dense_gmacs == pytest.approx(2 * run.report(net).dense_gmacs)


@pytest.mark.pairwise
@pytest.mark.parametrize("rules", [*RULES, pytest.param(dict(chunk=2), id="chunk")])
@pytest.mark.parametrize("mode", ["clip", "stream"])
@pytest.mark.parametrize("padding", ["last frame", "noise"])
def test_padding_changes_nothing(
    build: Forms, make_video: Callable, mode: str, rules: dict, padding: str
) -> None:
    if mode == "stream" and "chunk" in rules:
        pytest.skip("a stream has no chunks")
    net = build()
    images = make_video(3, 5, SIZE, torch.float64).unflatten(0, (3, 5)).clone()
    lengths = [5, 2, 1]
    for b, n in enumerate(lengths):
        pad = images[b, n - 1] if padding == "last frame" else torch.randn_like(images[b, n:])
        images[b, n:] = pad
    together = predict(net, images.flatten(0, 1), samples(lengths), mode=mode, **rules)
    alone: list = []
    for b, n in enumerate(lengths):
        nested = samples(lengths)[b : b + 1]
        alone += predict(net, images[b, :n], nested, mode=mode, **rules)
    assert_same(together, alone)


@pytest.mark.parametrize("gate", [dict(NORM, train_gates=True), GUMBEL], ids=["norm", "gumbel"])
def test_padding_is_not_in_the_loss(build: Forms, make_video: Callable, gate: dict) -> None:
    loss = dict(type="GateLoss", weight=0.5) if gate is GUMBEL else None
    net = build(gate, gate_loss=loss).eval()
    images = make_video(2, 5, SIZE, torch.float64)
    losses = net(images, samples([5, 2]), mode="loss")
    images[7:] = torch.randn_like(images[7:])
    again = net(images, samples([5, 2]), mode="loss")
    assert losses.keys() == again.keys()
    for key, value in losses.items():
        torch.testing.assert_close(again[key], value, rtol=1e-12, atol=0)


def test_only_labelled_frames_are_predicted(build: Forms, make_video: Callable) -> None:
    net = build()
    images = make_video(3, 4, SIZE, torch.float64)
    unlabelled = [(0, 0), (1, 1), (2, 0), (2, 1)]
    every = predict(net, images, samples([4, 3, 2]))
    some = predict(net, images, samples([4, 3, 2], unlabelled))
    assert identities(some) == [
        ("clip0", 1),
        ("clip0", 2),
        ("clip0", 3),
        ("clip1", 0),
        ("clip1", 2),
    ]
    by_identity = dict(zip(identities(every), every, strict=True))
    for one in some:
        other = by_identity[(one.metainfo["clip_id"], one.metainfo["frame"])]
        np.testing.assert_array_equal(one.pred_instances.keypoints, other.pred_instances.keypoints)


@pytest.mark.parametrize("mode", ["clip", "stream"])
def test_the_first_prediction_of_each_clip_carries_its_costs(
    build: Forms, make_video: Callable, mode: str
) -> None:
    net = build()
    images = make_video(2, 4, SIZE, torch.float64)
    results = predict(net, images, samples([4, 3], unlabelled=[(1, 0)]), mode=mode)
    assert ["sparsity" in one for one in results] == [True, False, False, False, True, False]
    first, second = results[0].sparsity, results[4].sparsity
    assert isinstance(first, skippose.Report)
    # An unlabelled first frame is a first frame all the same.
    assert (first.frames, first.first_frames) == (3, 1)
    assert (second.frames, second.first_frames) == (2, 1)
    assert first.layers[0].name == "backbone.conv1"
    assert first.layers[-1].name == "head.final_layer"
    assert "sparsity" in results[0].to_dict()


def test_heatmaps_are_asked_for_as_in_mmpose(build: Forms, make_video: Callable) -> None:
    net = build()
    results = predict(
        net, make_video(1, 2, SIZE, torch.float64), samples([2]), output_heatmaps=True
    )
    assert results[1].pred_fields.heatmaps.shape == (JOINTS, MAP, MAP)


def test_metainfo_reaches_samples_of_clips(build: Forms, make_video: Callable) -> None:
    net = build()
    net.metainfo = dict(dataset_name="of clips")
    for result in predict(net, make_video(1, 2, SIZE, torch.float64), samples([2])):
        assert result.metainfo["dataset_name"] == "of clips"


# -- what did not run ----------------------------------------------------------------------------


def past_the_registry(net: nn.Module, layers: Sequence[nn.Module]) -> None:
    """These run as ordinary convolutions, whatever the pass."""
    for layer in layers:
        layer.forward = layer.dense


@pytest.mark.parametrize("mode", ["clip", "stream", "frozen", "loss"])
def test_an_estimator_of_which_nothing_was_gated_is_an_error(
    build: Forms, make_video: Callable, mode: str
) -> None:
    net = build().eval()
    past_the_registry(net, list(gated_layers(net).values()))
    images, nested = make_video(1, 3, SIZE, torch.float64), samples([3])
    with pytest.raises(ValueError, match=r"none of the \d+ gated layers of \w+ ran: 'backbone"):
        if mode == "loss":
            net(images, nested, mode="loss")
        else:
            predict(net, images, nested, mode=mode)


@pytest.mark.parametrize("mode", ["clip", "stream", "frozen", "loss"])
def test_layers_of_an_estimator_that_did_not_run_are_named(
    build: Forms, make_video: Callable, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skippose.layers.network._said", set())
    net = build().eval()
    past_the_registry(net, [net.head.final_layer])
    images, nested = make_video(1, 3, SIZE, torch.float64), samples([3])
    with pytest.warns(UserWarning, match=r"1 of the \d+ gated .* did not run: 'head.final_layer'"):
        if mode == "loss":
            net(images, nested, mode="loss")
        else:
            predict(net, images, nested, mode=mode)


def test_a_dense_estimator_has_no_share_to_learn_from(build: Forms, make_video: Callable) -> None:
    net = build(None).eval()
    assert not gated_layers(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = net(make_video(1, 3, SIZE, torch.float64), samples([3]), mode="loss")
    assert losses["gate_share"] == 0
    assert losses["loss_kpt"] > 0


# -- single images -------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_flat_samples_take_mmposes_own_path(
    build: Forms, make_video: Callable, small_extra: dict, flip: bool
) -> None:
    net = build()
    plain = MODELS.build(
        dict(
            type="TopdownPoseEstimator",
            backbone=dict(type="HRNet", extra=small_extra),
            head=copy.deepcopy(HEAD),
            test_cfg=dict(flip_test=flip, flip_mode="heatmap", shift_heatmap=False),
        )
    ).double()
    assert type(plain) is TopdownPoseEstimator
    lacking = plain.load_state_dict(net.state_dict(), strict=False)
    assert lacking.missing_keys == []
    assert all(".gate." in key for key in lacking.unexpected_keys)
    plain.eval()
    images = make_video(2, 2, SIZE, torch.float64)

    def flat() -> list[PoseDataSample]:
        return list(chain.from_iterable(samples([2, 2], unlabelled=[(1, 1)])))

    ours = net(images, flat(), mode="loss")
    theirs = plain(images, flat(), mode="loss")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    predicted = predict(
        net, images, flat(), flip_test=flip, flip_mode="heatmap", shift_heatmap=False
    )
    with torch.no_grad():
        expected = plain(images, flat(), mode="predict")
    assert len(predicted) == len(expected) == 4
    for one, other in zip(predicted, expected, strict=True):
        assert "sparsity" not in one
        np.testing.assert_array_equal(one.pred_instances.keypoints, other.pred_instances.keypoints)
        np.testing.assert_array_equal(
            one.pred_instances.keypoint_scores, other.pred_instances.keypoint_scores
        )
    assert torch.equal(net(images), plain(images, None))


# -- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test_cfg", "words"),
    [
        (dict(mode="video"), "'video'"),
        (dict(chunk=0), "got 0"),
        (dict(chunk=2.5), "got 2.5"),
        (dict(refresh_evry=8), "no 'refresh_evry'; there are mode, chunk, cut, refresh_every"),
    ],
)
def test_a_bad_test_cfg_is_an_error(build: Forms, test_cfg: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(test_cfg=test_cfg)


@pytest.mark.parametrize("rules", [dict(cut=2.0), dict(refresh_every=0)])
def test_a_bad_rule_is_an_error(build: Forms, make_video: Callable, rules: dict) -> None:
    for mode in ("clip", "stream"):
        with pytest.raises(ValueError, match=next(iter(rules))):
            predict(
                build(), make_video(1, 2, SIZE, torch.float64), samples([2]), mode=mode, **rules
            )


def test_a_stream_of_a_dense_network_is_an_error(build: Forms, make_video: Callable) -> None:
    net = build(None)
    with pytest.raises(ValueError, match="no gated convolution"):
        predict(net, make_video(1, 2, SIZE, torch.float64), samples([2]), mode="stream")


def test_a_dense_backbone_in_clips_costs_what_it_costs(build: Forms, make_video: Callable) -> None:
    """``gate=None``: the dense twin in the same pipeline, its MACs counted."""
    net = build(None)
    images = make_video(1, 3, SIZE, torch.float64)
    result = predict(net, images, samples([3]))
    report = result[0].sparsity
    assert report.gmacs == pytest.approx(report.dense_gmacs)
    assert report.reduction == pytest.approx(1)
    assert report.sparsity == 0
    assert report.layers[-1].name == "head.final_layer"


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (None, "InputNormGate"),  # the backbone's
        (dict(type="GumbelGate"), "GumbelGate"),
        (False, None),
    ],
)
def test_the_gate_of_the_head(small_extra: dict, gate: object, expected: str | None) -> None:
    net = MODELS.build(
        dict(
            type="SkipTopdownPoseEstimator",
            backbone=dict(type="SkipHRNet", extra=small_extra, gate=NORM, reference="previous"),
            head=copy.deepcopy(HEAD),
            gate=gate,
        )
    )
    last = net.head.final_layer
    if expected is None:
        assert type(last) is nn.Conv2d
    else:
        assert type(last.gate).__name__ == expected
        assert last.reference == "previous"
    assert net.backbone.conv1.gate.eps == NORM["eps"], "the backbone's own gates stay"


def test_the_gate_of_the_estimator_is_that_of_a_backbone_without_one(small_extra: dict) -> None:
    config = dict(
        type="SkipTopdownPoseEstimator",
        backbone=dict(type="SkipHRNet", extra=small_extra, gate=None),
        head=copy.deepcopy(HEAD),
    )
    net = MODELS.build(copy.deepcopy(config | dict(gate=NORM)))
    found = {type(m.gate).__name__ for m in net.modules() if isinstance(m, SkipConv2d)}
    assert found == {"InputNormGate"}
    with pytest.raises(ValueError, match="None or False, got True"):
        MODELS.build(copy.deepcopy(config | dict(gate=True)))


def test_init_weights_leaves_gates_as_they_are(build: Forms) -> None:
    net = build(dict(type="GumbelGate", init_open=2.5))
    gates = {k: v.clone() for k, v in net.state_dict().items() if ".gate." in k}
    before = net.head.final_layer.weight.detach().clone()
    net.init_weights()
    assert not torch.equal(net.head.final_layer.weight, before)
    after = net.state_dict()
    assert "head.final_layer.gate.weight" in gates
    assert all(torch.equal(after[key], value) for key, value in gates.items())


def test_a_copy_runs_by_itself(build: Forms, make_video: Callable) -> None:
    """As mmengine's moving average of the weights makes one."""
    net = build()
    images = make_video(1, 4, SIZE, torch.float64)
    expected = predict(net, images, samples([4]))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert_same(predict(twin, images, samples([4])), expected)


RESNET = dict(
    type="SkipTopdownPoseEstimator",
    backbone=dict(type="ResNet", depth=18),
    head=dict(
        type="HeatmapHead",
        in_channels=512,
        out_channels=JOINTS,
        deconv_out_channels=(8, 8, 8),
        deconv_kernel_sizes=(4, 4, 4),
        loss=dict(type="KeypointMSELoss", use_target_weight=True),
        decoder=CODEC,
    ),
    gate=dict(type="InputNormGate", eps=0.5),
    reference="previous",
)


@pytest.mark.parametrize("mode", ["clip", "stream"])
def test_another_backbone_is_gated_by_the_estimator(
    make_video: Callable, settle: Callable, mode: str
) -> None:
    torch.manual_seed(0)
    net = MODELS.build(copy.deepcopy(RESNET))
    images = make_video(1, 3, SIZE)
    settle(net, images)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 21  # 20 of ResNet-18, and the last layer
    assert all(isinstance(m, SkipConv2d) and m.gate is not None for m in convolutions)
    assert {m.reference for m in convolutions} == {"previous"}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(images[:1])
    (first, *_) = predict(net, images, to_float32(samples([3])), mode=mode)
    report = first.sparsity
    assert report.dense_gmacs * 2e9 == pytest.approx(counter.get_total_flops(), rel=1e-12)
    dense = [layer.name for layer in report.layers if not layer.gated]
    assert dense == ["head.deconv_layers.0", "head.deconv_layers.3", "head.deconv_layers.6"]
    assert all(report.density(x) == 1 for x in report.layers if not x.gated)
    assert 0.02 < report.sparsity < 0.98
