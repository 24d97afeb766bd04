"""ZeRO stage 3: layers get their weights whole, layer by layer.

Stage 3 holds a share of each weight and gathers it by hooks on the calls of modules. A layer of this model
reads the weights of several of its modules in one operation (query, key and value; a product's bias with
the LayerNorm after it). As a leaf of DeepSpeed's it is gathered for as a whole, its modules carry no hooks,
and it runs as fast as ever. What is no leaf is right too: its linear layers are called one by one, and a
LayerNorm's weights are gathered when they are read.

A leaf's gradients are taken when the gradient of its input arrives (`register_full_backward_hook`). So a
layer whose input has none, because all before it is frozen, is not marked; nor are the embeddings, whose
inputs are data, nor a head with the word embedding's weights, which get their gradient in two places.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertEncoder, LxmertModel


def prepare_for_zero3(model: nn.Module) -> None:
    """Mark the layers of a model as leaves, before `deepspeed.initialize`; other stages take no notice.

    Call it after the last `requires_grad_`.

    Args:
        model: one of this library's models, or one of transformers' after `accelerate`.

    Raises:
        InputError: another kind of model.
    """
    from deepspeed.utils import set_z3_leaf_module

    backbones = [module for module in model.modules() if isinstance(module, LxmertModel)]
    if not backbones:
        raise InputError(f"prepare_for_zero3 got a {type(model).__name__}, wanted a model of this library")
    for backbone in backbones:
        encoder = backbone.encoder
        for layer in (*encoder.layer, *encoder.r_layers, *encoder.x_layers):
            set_z3_leaf_module(layer, False)
        for layer in _with_gradient(backbone.embeddings, encoder):
            set_z3_leaf_module(layer, True)


def _with_gradient(embeddings: nn.Module, encoder: LxmertEncoder) -> Iterator[nn.Module]:
    """The layers whose input has a gradient."""
    reached = {}
    for first, layers in ((embeddings, encoder.layer), (encoder.visn_fc, encoder.r_layers)):
        reached[first] = _trains(first)
        for layer in layers:
            if reached[first]:
                yield layer
            reached[first] |= _trains(layer)
    meets = any(reached.values())
    for layer in encoder.x_layers:
        if meets:
            yield layer
        meets |= _trains(layer)


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
