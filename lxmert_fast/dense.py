"""Linear layers that read the same rows, as one matrix product.

    [q k v] = x [W_q W_k W_v]^T + [b_q b_k b_v]

The parameters stay where Hugging Face keeps them. In training their weights are joined anew at each call, a
copy that is small beside the product. Without gradients on a CPU the joined weights are kept in the layout
that oneDNN reads fastest, with bias and GELU in the same pass over the result, until a weight changes.

A layer that is more than a plain `nn.Linear` (an adapter, one with hooks) is called as it is, unless its
class knows how to go `together` with its like. Of weights that ZeRO-3 gathers for a call nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .kernels.bias_gelu import bias_gelu, gelu_linear
from .kernels.changes import optimizer_steps, version
from .kernels.dispatch import autocasts, use_operators


def dense(x: Tensor, *layers: nn.Module) -> Tensor:
    """Rows (N, H) through each layer, the results side by side: (N, sum of the layers' widths)."""
    plain = _plain(layers)
    if plain is None:
        together = getattr(type(layers[0]), "together", None)
        if together is not None and len({type(layer) for layer in layers}) == 1:
            return together(x, layers)
        outputs = [layer(x) for layer in layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    if _may_prepare(x, plain):
        weight, bias = _prepared(plain)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    weights, biases = [layer.weight for layer in plain], [layer.bias for layer in plain]
    if _may_keep(x, plain):
        return nn.functional.linear(x, *_prepared(plain, for_onednn=False))
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # whoever changes weights may come between this call and the next one without gradients, unseen
        forget_joined_weights(plain[0])
    if len(plain) > 1 and torch.is_grad_enabled() and _keeps_dtype(x, biases):
        return _JoinedLinear.apply(len(plain), x, *weights, *biases)
    return nn.functional.linear(x, *_joined(plain))


def product(x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """W x, and b where the next operation is an operator that adds it; else W x + b and None."""
    if not leaves_bias(x, layer):
        return dense(x, layer), None
    plain = cast(nn.Linear, layer)
    return nn.functional.linear(x, plain.weight), plain.bias


def leaves_bias(x: Tensor, *layers: nn.Module) -> bool:
    """Whether operators follow these layers' products and add their biases."""
    if not use_operators(x) or autocasts(x):
        return False
    plain = _plain(layers)
    return plain is not None and plain[0].bias is not None


def dense_gelu(x: Tensor, layer: nn.Module) -> Tensor:
    """gelu(W x + b), exact GELU: (N, H) to (N, width)."""
    plain = _plain((layer,))
    if plain is not None and _may_prepare(x, plain):
        weight, bias = _prepared(plain)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return bias_gelu(layer(x))


def gelu_dense(u: Tensor, layer: nn.Module) -> Tensor:
    """W gelu(u) + b, exact GELU, keeping u alone for backward: (N, inner) to (N, width)."""
    plain = _plain((layer,))
    if plain is None or plain[0].bias is None or autocasts(u):
        return layer(bias_gelu(u))
    return gelu_linear(u, plain[0].weight, plain[0].bias)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its `forward`."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _plain(layers: tuple[nn.Module, ...]) -> tuple[nn.Linear, ...] | None:
    for layer in layers:
        if type(layer) is not nn.Linear or has_hooks(layer):
            return None
    plain = cast(tuple[nn.Linear, ...], layers)
    # all with a bias or all without: only those can be joined
    return plain if len({layer.bias is None for layer in plain}) == 1 else None


def _joined(layers: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor | None]:
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    weight = torch.cat([layer.weight for layer in layers])
    if layers[0].bias is None:
        return weight, None
    return weight, torch.cat([layer.bias for layer in layers])


def _keeps_dtype(x: Tensor, biases: Sequence[Tensor | None]) -> bool:
    return None not in biases and not torch.compiler.is_compiling() and not autocasts(x)


class _JoinedLinear(torch.autograd.Function):
    """The product with joined weights, which are joined again in backward and not kept until then."""

    @staticmethod
    def forward(ctx: Any, count: int, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(x, *parameters[:count])
        return nn.functional.linear(x, torch.cat(parameters[:count]), torch.cat(parameters[count:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        (grad,) = grads
        _, of_x, *of_parameters = ctx.needs_input_grad
        widths = [len(weight) for weight in weights]
        nothing = [None] * ctx.count
        return (
            None,
            grad @ torch.cat(weights) if of_x else None,
            *((grad.t() @ x).split(widths) if any(of_parameters[: ctx.count]) else nothing),
            *(grad.sum(0).split(widths) if any(of_parameters[ctx.count :]) else nothing),
        )


def _may_keep(x: Tensor, layers: tuple[nn.Linear, ...]) -> bool:
    """Whether operators follow, which no other layout of the weights would help."""
    return (
        len(layers) > 1
        and use_operators(x)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not autocasts(x)
        and not is_partitioned(layers)
    )


def _may_prepare(x: Tensor, layers: tuple[nn.Linear, ...]) -> bool:
    if use_operators(x):
        return False
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu" or not x.numel():
        return False
    return (
        x.dtype is torch.float32
        and all(layer.weight.dtype is torch.float32 for layer in layers)
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not is_partitioned(layers)
    )


def is_partitioned(layers: Iterable[nn.Module]) -> bool:
    """Whether ZeRO-3 holds the weights and gathers them for each call: none may be kept after it."""
    return any(hasattr(p, "ds_id") for layer in layers for p in layer.parameters())


class _Prepared(NamedTuple):
    """Joined weights in oneDNN's layout, and what tells whether they still are the layers'."""

    mark: tuple[object, ...]
    samples: Tensor
    weight: Tensor
    bias: Tensor | None


_SAMPLES = 64
_KEPT: WeakKeyDictionary[nn.Module, dict[int, _Prepared]] = WeakKeyDictionary()


def _prepared(layers: tuple[nn.Linear, ...], for_onednn: bool = True) -> tuple[Tensor, Tensor | None]:
    """The joined weights of plain layers, prepared anew where one has changed.

    A change shows in the tensors' identities and version counters, and an optimizer's in the number of
    steps, if it goes around these. Another one through `.data` shows in a sample of the numbers: new weights
    differ everywhere. A GPU would have to wait for the sample; there a call with gradients forgets what was
    kept, and whoever writes through `.data` by hand between two calls without gradients has to call
    `forget_joined_weights`.
    """
    parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    mark = (for_onednn, optimizer_steps(), *((id(p), p.data_ptr(), version(p)) for p in parameters))
    samples = torch.cat([_sample(p) for p in parameters]) if for_onednn else parameters[0].new_empty(0)
    kept = _KEPT.setdefault(layers[0], {}).get(len(layers))
    if kept is None or kept.mark != mark or (for_onednn and not torch.equal(kept.samples, samples)):
        with torch.no_grad():
            weight, bias = _joined(layers)
            if for_onednn:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        kept = _Prepared(mark, samples, weight, None if bias is None else bias.detach().clone())
        _KEPT[layers[0]][len(layers)] = kept
    return kept.weight, kept.bias


def joined_parameters(layers: tuple[nn.Module, ...]) -> tuple[Tensor, Tensor]:
    """Weights and biases of plain layers side by side, kept until one changes. Without gradients only."""
    plain = cast(tuple[nn.Linear, ...], layers)
    weight, bias = _joined(plain) if is_partitioned(plain) else _prepared(plain, for_onednn=False)
    assert bias is not None
    return weight, bias


def kept_weights(model: nn.Module) -> list[Tensor]:
    """What is joined and kept of a model's layers now."""
    return [
        tensor
        for module in model.modules()
        for kept in _KEPT.get(module, {}).values()
        for tensor in (kept.weight, kept.bias)
        if tensor is not None
    ]


def forget_joined_weights(first: nn.Module | None = None) -> None:
    """Join weights anew at the next call without gradients: of layers led by this one, or all."""
    if first is None:
        _KEPT.clear()
    elif _KEPT:
        _KEPT.pop(first, None)


def _sample(p: Tensor) -> Tensor:
    flat = p.detach().view(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)]
