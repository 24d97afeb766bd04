"""One line that makes a transformers LXMERT run this library's encoders, and one that undoes it.

    handle = accelerate(model)        # a transformers LXMERT, before or after .to(), .half(), torch.compile
    ...
    handle.revert()

The module tree of both libraries is the same, so nothing is copied, wrapped or renamed: each module of the
instance changes its class to one that is transformers' and this library's at once. Parameters, buffers,
hooks, tied weights and adapters stay the objects that they are; a module put in the place of another later,
as adapters do, is simply called. Transformers' classes and other instances are not touched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers.models.lxmert import modeling_lxmert as huggingface

from . import heads, modeling, models
from .errors import InputError

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    huggingface.LxmertEmbeddings: modeling.LxmertEmbeddings,
    huggingface.LxmertVisualFeatureEncoder: modeling.LxmertVisualFeatureEncoder,
    huggingface.LxmertAttention: modeling.LxmertAttention,
    huggingface.LxmertAttentionOutput: modeling.LxmertResidual,
    huggingface.LxmertOutput: modeling.LxmertResidual,
    huggingface.LxmertSelfAttentionLayer: modeling.LxmertSelfAttentionLayer,
    huggingface.LxmertCrossAttentionLayer: modeling.LxmertCrossAttentionLayer,
    huggingface.LxmertIntermediate: modeling.LxmertIntermediate,
    huggingface.LxmertLayer: modeling.LxmertLayer,
    huggingface.LxmertXLayer: modeling.LxmertXLayer,
    huggingface.LxmertEncoder: modeling.LxmertEncoder,
    huggingface.LxmertPooler: modeling.LxmertPooler,
    huggingface.LxmertPredictionHeadTransform: heads.LxmertPredictionHeadTransform,
    huggingface.LxmertLMPredictionHead: heads.LxmertLMPredictionHead,
    huggingface.LxmertPreTrainingHeads: heads.LxmertPreTrainingHeads,
    huggingface.LxmertVisualObjHead: heads.LxmertVisualObjHead,
    huggingface.LxmertVisualAnswerHead: heads.LxmertVisualAnswerHead,
    huggingface.LxmertModel: modeling.LxmertModel,
    huggingface.LxmertForPreTraining: models.LxmertForPreTraining,
    huggingface.LxmertForQuestionAnswering: models.LxmertForQuestionAnswering,
}
_MODELS = (huggingface.LxmertModel, huggingface.LxmertForPreTraining, huggingface.LxmertForQuestionAnswering)


def _both(theirs: type[nn.Module], ours: type[nn.Module]) -> type[nn.Module]:
    """A class that is transformers' and behaves as ours; configurations are saved with its name."""
    names: dict[str, Any] = {"__module__": __name__, "__qualname__": f"swapped.{theirs.__name__}"}
    if theirs in _MODELS:
        names["forward"] = _swallowing(ours.forward)
    return type(theirs.__name__, (ours, theirs), names)


def _swallowing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Ignore keyword arguments that no one knows, as transformers does and its `Trainer` asks for."""
    signature = inspect.signature(forward)
    known = signature.parameters

    @functools.wraps(forward)
    def swallow(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{name: value for name, value in kwargs.items() if name in known})

    rest = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    cast(Any, swallow).__signature__ = signature.replace(parameters=[*known.values(), rest])
    return swallow


_SWAPPED = {theirs: _both(theirs, ours) for theirs, ours in _OURS.items()}
_STOCK = {swap: theirs for theirs, swap in _SWAPPED.items()}
_OPTIONS = ("padding_outputs", "share_in_training", "loss_only", "find_repeats")


class swapped:
    """The classes of swapped modules by their names, where pickle looks for them."""


for _class in _STOCK:
    setattr(swapped, _class.__name__, _class)


@dataclass(frozen=True)
class Handle:
    """A model that was accelerated, and the way back."""

    model: nn.Module

    def revert(self) -> nn.Module:
        """Make every module transformers' again and return the model; a second call does nothing."""
        for module in self.model.modules():
            stock = _STOCK.get(type(module))
            if stock is not None:
                module.__class__ = stock
                # options, and what `compile_model` put there
                for name in (*_OPTIONS, "run"):
                    module.__dict__.pop(name, None)
        return self.model


def accelerate(
    model: nn.Module,
    *,
    padding_outputs: bool = True,
    share_in_training: bool = True,
    loss_only: bool = False,
    find_repeats: bool = True,
) -> Handle:
    """Let a transformers LXMERT compute with this library, in place.

    The call stays the same and so do the outputs. An image or a text that stands in several pairs is computed
    once; the model also takes `image_index` and `text_index`, which say so and spare the search.

    Args:
        model: `LxmertModel`, `LxmertForPreTraining` or `LxmertForQuestionAnswering` of transformers, alone or
            inside another module (`torch.compile`, PEFT, DDP).
        padding_outputs: False leaves the outputs of `LxmertModel` at padding positions 0, unworked for;
            models with heads never compute what their heads do not read.
        share_in_training: False draws dropout for every pair, also where an image or a text is shared.
        loss_only: `LxmertForPreTraining` computes losses and matching scores alone; others are None.
        find_repeats: look for equal images and texts in a batch on the CPU (`repeats.py`).

    Returns:
        A handle whose `revert()` restores the model. A second call sets the options anew and nothing else.

    Raises:
        InputError: there is no transformers LXMERT in `model`.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    found = [module for module in modules if isinstance(module, _MODELS)]
    if not found:
        kind = type(model)
        raise InputError(
            f"accelerate got a {kind.__module__}.{kind.__qualname__}, wanted a transformers LXMERT: "
            + ", ".join(wanted.__name__ for wanted in _MODELS)
        )
    for module in modules:
        module.__class__ = _SWAPPED.get(type(module), type(module))
    chosen = (padding_outputs, share_in_training, loss_only, find_repeats)
    options = dict(zip(_OPTIONS, chosen, strict=True))
    for module in found:
        for name, value in options.items():
            if hasattr(type(module), name):
                module.__dict__[name] = value
    return Handle(model)
