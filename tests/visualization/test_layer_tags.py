"""Names under which hundreds of layers can be found."""

import pytest

from skippose.visualization.layer_tags import choose_layers, layer_tag, part_of, scalar_tag


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("backbone.conv1", "stem/conv1"),
        ("backbone.layer1.0.downsample.0", "layer1/0/downsample/0"),
        ("backbone.stage3.0.branches.1.0.conv2", "stage3/0/branch1/0/conv2"),
        ("backbone.stage4.2.fuse_layers.0.3.0", "stage4/2/fuse0from3/0"),
        ("backbone.stage4.2.fuse_layers.2.0.1.0", "stage4/2/fuse2from0/1/0"),
        ("head.final_layer", "head/final_layer"),
        ("features.3.conv", "features/3/conv"),
        ("conv", "conv"),
        ("backbone", "backbone"),
    ],
)
def test_tags(name: str, tag: str) -> None:
    assert layer_tag(name) == tag
    assert part_of(name) == tag.split("/")[0]
    assert scalar_tag(name, "density") == f"gates.{tag}/density"


def test_layers_are_chosen_by_name_or_tag_in_the_networks_order() -> None:
    names = ["backbone.conv1", "backbone.stage2.0.branches.0.0.conv1", "head.final_layer"]
    assert choose_layers(names, ["head.*", "stage2/*"], 9) == names[1:]
    assert choose_layers(names, ["*"], 2) == names[:2]
    assert choose_layers(names, ["*.nothing"], 9) == []
