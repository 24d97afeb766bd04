"""What a CPU user would pick today: Hugging Face's model exported to ONNX Runtime and to OpenVINO.

Both read the batch's fixed shapes and use as many threads as PyTorch. OpenVINO is asked for fp32: on CPUs
with bf16 units it would otherwise round to bf16, which the other contenders don't. They come with
`pip install lxmert-fast[peers]`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lxmert_fast.bench.parity import Values
from lxmert_fast.bench.race import Unavailable

#: Their fused operations sum in another order than PyTorch's.
TOLERANCE = 1e-4
INPUTS = ("input_ids", "visual_feats", "visual_pos", "attention_mask")


class _Scores(nn.Module):
    """A model as a function of tensors to one tensor, which is what exporters take."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        from lxmert_fast.bench.contenders import scores_of

        return scores_of(self.model(**dict(zip(self.names, tensors, strict=True))))


class _Exported:
    random = False
    name = ""
    tolerance = TOLERANCE

    def __init__(self, build: Callable[[], nn.Module], inputs: dict[str, Any]) -> None:
        self._build = build
        names = tuple(name for name in (*INPUTS, "labels") if name in inputs)
        self._names, self._tensors = names, tuple(inputs[name] for name in names)
        self._arrays = [tensor.numpy() for tensor in self._tensors]

    def _model(self) -> nn.Module:
        return _Scores(self._build(), self._names).eval()

    def prepare(self) -> None:
        raise NotImplementedError

    def _scores(self) -> np.ndarray:
        raise NotImplementedError

    def run(self) -> Values:
        """{"scores": (B, A)}."""
        return {"scores": torch.from_numpy(self._scores())}

    check = run


class Onnx(_Exported):
    """ONNX Runtime, all graph optimisations."""

    name = "onnxruntime"

    def prepare(self) -> None:
        """Export and load."""
        for package in ("onnx", "onnxscript"):
            _package(package)
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder, _quiet():
            file = Path(folder) / "model.onnx"
            torch.onnx.export(
                self._model(), self._tensors, file, dynamo=True, external_data=True, verbose=False
            )
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        wanted = [slot.name for slot in self._session.get_inputs()]
        # an input that the scores do not depend on (NLVR2's labels) is not part of the graph
        self._feed = dict(zip(wanted, self._arrays, strict=False))

    def _scores(self) -> np.ndarray:
        return self._session.run(None, self._feed)[0]


class OpenVino(_Exported):
    """OpenVINO's CPU plug-in."""

    name = "openvino"

    def prepare(self) -> None:
        """Trace, convert and compile."""
        openvino = _package("openvino")
        with _quiet():
            converted = openvino.convert_model(self._model(), example_input=self._tensors)
        shapes = {slot: array.shape for slot, array in zip(converted.inputs, self._arrays, strict=False)}
        converted.reshape(shapes)
        self._compiled = openvino.compile_model(
            converted,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        self._feed = self._arrays[: len(converted.inputs)]

    def _scores(self) -> np.ndarray:
        # a copy: the runtime writes the next result into the same memory
        return self._compiled(self._feed)[0].copy()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Unavailable(f"no {name} here: pip install lxmert-fast[peers]") from None


@contextlib.contextmanager
def _quiet() -> Any:
    """Exporters narrate; only their errors matter here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
