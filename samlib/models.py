"""Model architectures as plain `torch.nn` modules."""

from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torch.nn import functional as F

from samlib.checks import as_choice
from samlib.disk import in_a_sentence

NORMS = ("batch", "group", "none")
WITHOUT_NORM = ("mlp", "vit_tiny")  # models that ignore norm; vit_tiny has LayerNorm


def build_model(
    name: str, in_shape: Sequence[int], n_classes: int, *, hidden: Sequence[int] = (128, 128), norm: str = "batch"
) -> nn.Module:
    """Build a model with fresh weights, drawn from torch's global random state.

    Parameters
    ----------
    name : str
        "mlp": fully connected, with ReLU between layers. All others take images, of any size but meant for 32 x 32:
        "cnn": a small net for CPUs, six 3x3 convolutions of width 16 to 64, the first of stride 2.
        "resnet9": Page 2018, "How to train your ResNet".
        "resnet18": He et al. 2016, with a 3x3 stem.
        "wrn28_2": Zagoruyko and Komodakis 2016.
        "vgg11": Simonyan and Zisserman 2015, with one linear layer.
        "vit_tiny": Touvron et al. 2021, with patches of 4 x 4 pixels, or 2 x 2 in images below 16 pixels.
    in_shape : sequence of int
        The shape of one input; for images as `image_shape` reads it.
    n_classes : int
        The number of logits.
    hidden : sequence of int
        The widths of the hidden layers of an "mlp".
    norm : str
        "batch"; "group" (Wu and He 2018), with at least 8 channels a group and at most 32 groups; or "none".
        Without norms, convolutions have biases and residual branches start at zero. "mlp" and "vit_tiny" ignore it.

    Returns
    -------
    nn.Module
        From float32 inputs of shape `in_shape`, batched, to logits (batch, n_classes).

    Raises
    ------
    ValueError
        If name or norm is unknown, or the model cannot take such inputs.

    Examples
    --------
    >>> model = build_model("cnn", (8, 8, 3), 10)
    >>> model(torch.zeros(2, 8, 8, 3)).shape
    torch.Size([2, 10])
    """
    as_choice("model", name, MODELS)
    as_choice("norm", norm, NORMS)
    if name == "mlp":
        return _mlp(in_shape, n_classes, hidden)
    with in_a_sentence(f"model {name!r} takes images: "):
        channels, height, width = image_shape(in_shape)
    if name == "vit_tiny":
        return nn.Sequential(ChannelsFirst(in_shape), ViT(channels, height, width, n_classes))
    model = nn.Sequential(ChannelsFirst(in_shape), *_CONVOLUTIONAL[name](channels, n_classes, norm))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He et al. 2015
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if norm == "none" and isinstance(module, Residual):
            # without normalization, variances would add up with depth, so branches start at zero (Zhang et al. 2019)
            nn.init.zeros_([m for m in module.branch.modules() if isinstance(m, nn.Conv2d)][-1].weight)
    return model


def image_shape(in_shape: Sequence[int]) -> tuple[int, int, int]:
    """The layout of one image.

    Parameters
    ----------
    in_shape : sequence of int
        (height, width), (height, width, 1 or 3) or (channels, height, width).

    Returns
    -------
    (channels, height, width)

    Raises
    ------
    ValueError
        For any other shape.

    Examples
    --------
    >>> image_shape((32, 32, 3))
    (3, 32, 32)
    """
    shape = tuple(in_shape)
    if len(shape) == 2:
        return (1, *shape)
    if len(shape) == 3:
        return (shape[2], *shape[:2]) if shape[2] in (1, 3) else shape
    raise ValueError(f"an input of shape {shape} is no image.")


class ChannelsFirst(nn.Module):
    """View a batch of images, in a layout of `image_shape`, as (batch, channels, height, width).

    Nothing is copied: images with the channels last get torch's channels_last memory format.
    """

    def __init__(self, in_shape: Sequence[int]):
        super().__init__()
        self.last = len(in_shape) == 3 and in_shape[2] in (1, 3)
        self.flat = len(in_shape) == 2

    def forward(self, x):
        return x.permute(0, 3, 1, 2) if self.last else x.unsqueeze(1) if self.flat else x


def _mlp(in_shape, n_classes, hidden):
    widths = (prod(in_shape), *hidden, n_classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


def _norm(kind: str, channels: int) -> list[nn.Module]:
    if kind == "group":
        return [nn.GroupNorm(min(32, channels // 8), channels)]
    return [nn.BatchNorm2d(channels)] if kind == "batch" else []


def _conv(fan_in, fan_out, norm, stride=1, size=3, relu=True):
    """Convolution, normalization, ReLU."""
    conv = nn.Conv2d(fan_in, fan_out, size, stride, size // 2, bias=norm == "none")
    return [conv, *_norm(norm, fan_out), *[nn.ReLU()] * relu]


class Halve(nn.Module):
    """Max pooling of 2 x 2. A side of one pixel stays."""

    def forward(self, x):
        return F.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])))


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


class Residual(nn.Module):
    """branch(x) + shortcut(x). Without layers of its own, the shortcut is x itself."""

    def __init__(self, branch, shortcut=()):
        super().__init__()
        self.branch, self.shortcut = nn.Sequential(*branch), nn.Sequential(*shortcut)

    def forward(self, x):
        return self.branch(x) + self.shortcut(x)


def _head(width, n_classes):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes)]


def _cnn(channels, n_classes, norm):
    layers = list[nn.Module]()
    # the stride makes it 3.4 times as fast on a CPU, at about the same accuracy on CIFAR-100's superclasses
    for fan_in, fan_out, stride in ((channels, 16, 2), (16, 32, 1), (32, 64, 1)):
        layers += [*_conv(fan_in, fan_out, norm, stride), *_conv(fan_out, fan_out, norm), Halve()]
    return [*layers[:-1], *_head(64, n_classes)]


def _resnet9(channels, n_classes, norm):
    def block(width):
        return Residual([*_conv(width, width, norm), *_conv(width, width, norm)])

    return [
        *_conv(channels, 64, norm),
        *_conv(64, 128, norm), Halve(), block(128),
        *_conv(128, 256, norm), Halve(),
        *_conv(256, 512, norm), Halve(), block(512),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, n_classes), Scale(0.125),
    ]  # fmt: skip


def _resnet18(channels, n_classes, norm):
    layers, width = _conv(channels, 64, norm), 64
    for out, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        branch = [*_conv(width, out, norm, stride), *_conv(out, out, norm, relu=False)]
        shortcut = _conv(width, out, norm, stride, 1, relu=False) if (stride, width) != (1, out) else ()
        layers, width = [*layers, Residual(branch, shortcut), nn.ReLU()], out
    return [*layers, *_head(512, n_classes)]


def _wrn28_2(channels, n_classes, norm):
    bias, width = norm == "none", 16
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=bias)]
    for out, first in ((32, 1), (64, 2), (128, 2)):
        for stride in (first, 1, 1, 1):
            before = [*_norm(norm, width), nn.ReLU()]
            branch = [*_conv(width, out, norm, stride), nn.Conv2d(out, out, 3, 1, 1, bias=bias)]
            if width == out:
                layers.append(Residual([*before, *branch]))
            else:  # the shortcut starts behind the activation, too
                layers += [*before, Residual(branch, [nn.Conv2d(width, out, 1, stride, bias=bias)])]
            width = out
    return [*layers, *_norm(norm, 128), nn.ReLU(), *_head(128, n_classes)]


def _vgg11(channels, n_classes, norm):
    layers, fan_in = list[nn.Module](), channels
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        layers += _conv(fan_in, width, norm) if width else [Halve()]
        fan_in = width or fan_in
    return [*layers, *_head(512, n_classes)]


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) of DeiT-Ti's size: width 192, 12 layers, 3 heads, no dropout."""

    def __init__(self, channels, height, width, n_classes, dim=192, depth=12, heads=3):
        super().__init__()
        patch = 4 if min(height, width) >= 16 else 2
        if height % patch or width % patch:
            raise ValueError(f"vit_tiny takes images with sides of a multiple of {patch} pixels, not {height}x{width}.")
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + height * width // patch**2, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(depth)), nn.LayerNorm(dim))
        self.head = nn.Linear(dim, n_classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT  # (batch, patches, dim)
        x = torch.cat([self.token.to(x.dtype).expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.layers(x)[:, 0])


class Layer(nn.Module):
    """One pre-norm transformer layer: attention, then two linear layers of four times the width."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mix = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        qkv = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, width of a head)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mix(x)


_CONVOLUTIONAL = {"cnn": _cnn, "resnet9": _resnet9, "resnet18": _resnet18, "wrn28_2": _wrn28_2, "vgg11": _vgg11}
MODELS = ("mlp", *_CONVOLUTIONAL, "vit_tiny")
