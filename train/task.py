"""What is trained: a model, its examples and how well it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import LxmertConfig, PreTrainedModel

from lxmert_fast.batch_sizes import batch_sizes
from lxmert_fast.data.batches import Batch
from lxmert_fast.data.sharing import Runs
from lxmert_fast.flops import TRAINING, forward_flops

from .engine import Engine
from .shares import Counts


class Task(ABC):
    """What the loop asks of pre-training and of fine-tuning."""

    title: str
    """Two words for the progress bar."""
    model: PreTrainedModel
    train: Any
    """A map-style data set whose items are whole `Batch`es, see `lxmert_fast.data.batches`."""
    notes: Sequence[str] = ()
    """Lines about what was read, for the beginning of a run."""

    @abstractmethod
    def num_examples(self) -> int:
        """Training examples in an epoch."""

    def runs(self) -> Runs | None:
        """Training examples that stand together in an epoch; None shuffles each on its own."""
        return None

    def facts(self) -> dict[str, Any]:
        """What must be the same on all ranks: name to something printable about the data."""
        return {"number of examples": self.num_examples()}

    def counts(self, batch: Batch) -> Counts:
        """What each loss of this batch is a mean over, by the names of `losses` ("loss" for the only one);
        "pairs", "tokens" and "flops" (model FLOPs of forward and backward) for the log."""
        pairs = float(len(batch.example_ids))
        return {"loss": pairs, "pairs": pairs}

    def divisors(self, batch: Batch, counts: Counts) -> Counts:
        """What the model divides each loss of this batch by; `counts` but where it divides by padding too."""
        return counts

    def forward_options(self, epoch: int, share: Counts) -> dict[str, Any]:
        """Arguments of the model beside the batch, such as loss weights.

        Args:
            epoch: from 0.
            share: by loss, this pass's share of the mean over the update (`shares.py`).
        """
        return {}

    def weighed(self, output: Any, share: Counts) -> Tensor:
        """The loss of a pass times its share; as it is where `forward_options` has weighed it."""
        return output.loss * share["loss"]

    @abstractmethod
    def losses(self, output: Any) -> dict[str, Tensor]:
        """Detached losses of one batch by name, for the log."""

    @abstractmethod
    def validate(self, epoch: int, engine: Engine) -> dict[str, Any]:
        """Metrics on the validation examples, {} where there are none; the same on every rank.

        Args:
            engine: whose ranks share the work; under ZeRO 3 all must run the model equally often.
        """

    @abstractmethod
    def better(self, metrics: dict[str, Any], best: dict[str, Any]) -> bool:
        """Whether one validation beats another."""

    def description(self) -> dict[str, Any]:
        """Of the model, in plain values, for whoever takes it out of a checkpoint; {} where nobody can."""
        return {}

    @abstractmethod
    def save_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the model, with these fp32 weights, and whatever is needed to use it again."""

    def training_flops(self, batch: Batch) -> float:
        """Model FLOPs of a batch's forward and backward pass, for a model of this library."""
        shared = bool(self.model.base_model.share_in_training)
        config = cast(LxmertConfig, self.model.config)
        return TRAINING * forward_flops(config, *batch_sizes(batch.inputs, shared=shared))

    def late_parameters(self) -> dict[str, int]:
        """Prefixes of parameters' names to the first epoch in which they get a gradient."""
        return {}
