"""The architectures: their published sizes, every layout of an image, every norm, every image size."""

import numpy as np
import pytest
import torch
from torch import nn

from samlib.models import MODELS, NORMS, Residual, build_model, image_shape

IMAGE_MODELS = [name for name in MODELS if name != "mlp"]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962),  # as counted for the CIFAR-10 variant with a 3x3 stem
        ("wrn28_2", 1_467_610),  # Oliver et al. 2018: 1.5 million
        ("vgg11", 9_231_114 - 2_752),  # the usual CIFAR-10 count less the biases that BatchNorm makes idle
        ("resnet9", 6_573_130),  # Page 2018: 6.6 million
        ("vit_tiny", 5_362_762),  # DeiT-Ti's 12 layers of 444,864
        ("cnn", 72_954),
    ],
)
def test_sizes_are_the_published_ones(name, count):
    with torch.device("meta"):
        assert parameters(build_model(name, (32, 32, 3), 10)) == count


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_layouts_of_an_image_are_one_function(name):
    x = torch.randn(2, 3, 8, 8)
    logits = []
    for shape, inputs in (((3, 8, 8), x), ((8, 8, 3), x.permute(0, 2, 3, 1).contiguous())):
        torch.manual_seed(0)
        model = build_model(name, shape, 4).eval()
        logits.append(model(inputs))
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    grey = build_model(name, (8, 8), 4).eval()
    assert grey(x[:, 0]).shape == (2, 4)


def test_channels_last_images_reach_the_convolutions_without_a_copy():
    x = torch.randn(2, 8, 8, 3)
    y = build_model("cnn", (8, 8, 3), 4)[0](x)
    assert y.data_ptr() == x.data_ptr()
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 7), (1, 5, 7)),
        ((5, 7, 3), (3, 5, 7)),
        ((5, 7, 1), (1, 5, 7)),
        ((3, 5, 7), (3, 5, 7)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_image_shapes(shape, expected):
    assert image_shape(shape) == expected


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains_and_has_only_its_own_layers(name, norm):
    torch.manual_seed(0)
    model = build_model(name, (8, 8, 3), 4, norm=norm)
    found = [type(m).__name__ for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    expected = {"batch": {"BatchNorm2d"}, "group": {"GroupNorm"}, "none": set()}[norm]
    assert set(found) == (expected if name != "vit_tiny" else set())
    x, y = torch.randn(6, 8, 8, 3), torch.arange(6) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if not losses:
            idle = [name for name, p in model.named_parameters() if p.grad is None]
            assert not idle
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", ["resnet9", "resnet18", "wrn28_2"])
def test_without_norm_residual_branches_start_at_zero(name):
    model = build_model(name, (8, 8, 3), 4, norm="none")
    block = next(m for m in model.modules() if isinstance(m, Residual))
    x = torch.randn(2, next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels, 4, 4)
    convs = [m for m in block.branch.modules() if isinstance(m, nn.Conv2d)]
    assert not convs[-1].weight.any()
    assert convs[0].weight.any() or len(convs) == 1
    assert torch.equal(block.branch(x), torch.zeros_like(block.branch(x)))


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("side", [8, 28, 64])
def test_other_image_sizes(name, side):
    with torch.device("meta"):
        model = build_model(name, (side, side), 7)
        assert model(torch.empty(2, side, side)).shape == (2, 7)


def test_initial_weights_follow_torchs_seed():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(torch.cat([p.flatten() for p in build_model("cnn", (8, 8), 4).parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgg", (8, 8), 4), "model must be one of 'mlp', 'cnn', .*, not 'vgg'"),
        (("cnn", (446,), 4), r"model 'cnn' takes images: an input of shape \(446,\) is no image"),
        (("vit_tiny", (30, 30, 3), 4), "sides of a multiple of 4 pixels, not 30x30"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(*arguments)
    with pytest.raises(ValueError, match="norm must be one of 'batch', 'group', 'none', not 'layer'"):
        build_model("cnn", (8, 8), 4, norm="layer")
