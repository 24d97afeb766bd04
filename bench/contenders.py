"""Who is timed: Hugging Face's LXMERT as it comes and compiled, other runtimes, and this library's forms.

All of one race share the storage of one set of random weights. Hugging Face's eager model is the reference.
Contenders that need what is not there (a package, a compiler, a part of this library) say so and are skipped.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, PreTrainedModel
from transformers.models.lxmert import modeling_lxmert as huggingface

import lxmert_fast
from lxmert_fast.bench.parity import Values
from lxmert_fast.bench.race import Contender, Unavailable
from lxmert_fast.bench.workloads import Batches, Workload
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering
from lxmert_fast.verify import GRADIENTS, TOLERANCE, ImagePairsReference

Mode = Literal["inference", "step"]

OURS: dict[str, type[nn.Module]] = {
    "answers": LxmertForQuestionAnswering,
    "image_pairs": LxmertForImagePairs,
    "pretraining": LxmertForPreTraining,
}
THEIRS: dict[str, type[nn.Module]] = {
    "answers": huggingface.LxmertForQuestionAnswering,
    "image_pairs": ImagePairsReference,
    "pretraining": huggingface.LxmertForPreTraining,
}
#: Eight bits a weight: not equal, but near enough to answer the same.
INT8_TOLERANCE = 0.1

REFERENCE = "huggingface eager"
COMPILED = "huggingface compiled"
OURS_EAGER = "ours"
SWAP_IN = "swap-in"
#: Quick to make ready: nothing is compiled or exported.
EAGER = (REFERENCE, OURS_EAGER)


class Inference:
    """Scores of a batch in evaluation mode, without gradients."""

    random = False

    def __init__(
        self, name: str, build: Callable[[], nn.Module], inputs: dict[str, Any], tolerance: float = TOLERANCE
    ) -> None:
        self.name, self.tolerance = name, tolerance
        self._build, self._inputs = build, inputs

    def prepare(self) -> None:
        """Build the model."""
        self.model = self._build().eval()

    @torch.no_grad()
    def run(self) -> Values:
        """{"scores": (B, A)}."""
        return {"scores": scores_of(self.model(**self._inputs))}

    check = run


class Step:
    """Forward, loss and backward in training mode. The optimizer, which is the same for all, is left out."""

    random = True

    def __init__(self, name: str, build: Callable[[], nn.Module], inputs: dict[str, Any]) -> None:
        self.name, self.tolerance = name, TOLERANCE
        self._build, self.inputs = build, inputs

    def prepare(self) -> None:
        """Build the model."""
        self.model = self._build().train()

    def loss(self) -> Tensor:
        """Forward."""
        return self.model(**self.inputs)["loss"]

    def run(self) -> Values:
        """{"loss": (), and the gradients of `verify.GRADIENTS`}."""
        self.model.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        parameters = {name.removeprefix("_orig_mod."): p for name, p in self.model.named_parameters()}
        gradients = {label: parameters[name].grad for label, name in GRADIENTS.items() if name in parameters}
        return {"loss": loss.detach()} | {label: g for label, g in gradients.items() if g is not None}

    def check(self) -> Values:
        """The same without dropout."""
        with without_dropout(self.model):
            return self.run()


def modes(workload: Workload) -> list[Mode]:
    """What a workload is run in; pre-training predicts nothing that anyone reads in inference."""
    return ["step"] if workload.task == "pretraining" else ["inference", "step"]


def scores_of(output: Any) -> Tensor:
    """Answer scores (B, A), or NLVR2's (B/2, 2), of any model's output."""
    return output["question_answering_score" if "question_answering_score" in output else "logits"]


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Rate 0 in every module, in training mode; then the rates that were."""
    rates = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in ("p", "dropout_p")
        if isinstance(getattr(module, name, None), float)
    ]
    try:
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)


# one race after another wants the same one, and drawing 209 M numbers takes time
@functools.lru_cache(maxsize=1)
def random_model(task: str, config: str) -> nn.Module:
    """Hugging Face's model of a task with random weights; no bias is zero, no two LayerNorms are alike."""
    torch.manual_seed(0)
    model = THEIRS[task](LxmertConfig(**json.loads(config)))
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.02)
    return model


def sharing(kind: type[nn.Module], config: LxmertConfig, reference: nn.Module) -> nn.Module:
    """A model of `kind` on the reference's storage: its own gradients, no second copy of the weights."""
    with torch.device("meta"):
        model = kind(config)
    model.load_state_dict(reference.state_dict(), assign=True)
    if isinstance(model, PreTrainedModel):
        model.tie_weights()
    return model.requires_grad_()


def contenders(
    workload: Workload, config: LxmertConfig, batches: Batches, mode: Mode, names: Sequence[str] | None = None
) -> list[Contender]:
    """Everyone who can run a workload, the reference first; `names` picks some."""
    reference = random_model(workload.task, config.to_json_string(use_diff=False))

    def theirs() -> nn.Module:
        return sharing(THEIRS[workload.task], config, reference)

    def ours() -> nn.Module:
        return sharing(OURS[workload.task], config, reference)

    # a training loop reads the losses; what else a model of transformers computes it cannot leave out
    losses = {"loss_only": True} if workload.task == "pretraining" else {}
    forms: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
        REFERENCE: (theirs, batches.huggingface),
        COMPILED: (lambda: compiled(theirs()), batches.huggingface),
        OURS_EAGER: (ours, batches.ours | losses),
        "ours compiled": (lambda: _ours("compile_model", ours()), batches.ours | losses),
        SWAP_IN: (lambda: _swapped(theirs()), batches.huggingface | losses),
    }
    kind: Any = Inference if mode == "inference" else Step
    everyone: list[Any] = [kind(name, build, inputs) for name, (build, inputs) in forms.items()]
    if mode == "inference":
        from lxmert_fast.bench.peers import Onnx, OpenVino

        def eight_bits() -> nn.Module:
            return _ours("quantize", ours().eval())

        everyone.append(Inference("ours int8", eight_bits, batches.ours, INT8_TOLERANCE))
        everyone += [Onnx(theirs, batches.huggingface), OpenVino(theirs, batches.huggingface)]
    return [one for one in everyone if names is None or one.name in names]


def compiled(model: nn.Module, **options: Any) -> nn.Module:
    """`torch.compile` with its defaults, as Hugging Face's guide has it, or with other options."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise Unavailable("torch.compile needs a C++ compiler, found neither g++ nor clang++")
    return cast(nn.Module, torch.compile(model, **options))


def _ours(name: str, model: nn.Module) -> Any:
    """`lxmert_fast.<name>(model)`; what this version or this machine cannot do is said."""
    if not hasattr(lxmert_fast, name):
        raise Unavailable(f"lxmert_fast.{name} is not part of this version")
    try:
        return getattr(lxmert_fast, name)(model)
    except InputError as error:
        raise Unavailable(str(error)) from None


def _swapped(model: nn.Module) -> nn.Module:
    _ours("accelerate", model)
    return model
