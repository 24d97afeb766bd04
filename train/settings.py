"""Configuration files: one readable YAML a task, checked key by key, overridable on the command line.

`lxmert-fast finetune vqa --with zero2 optimisation.lr=5e-5 run.output=runs/mine` reads the file, puts the
other file and then the overrides on top, and refuses what it does not know, naming the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lxmert_fast.errors import InputError
from lxmert_fast.pretraining_tasks import TASKS, TaskName

from .config_files import find_config, read_config

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


def _listed(given: Any) -> Any:
    """One path, a list of them, or null for none."""
    if given is None:
        return []
    return [given] if isinstance(given, (str, Path)) else given


Files = Annotated[list[Path], BeforeValidator(_listed)]
"""One path or a list of them."""
Subset = Literal["tiny", "fast", "full"]
"""All of the data, or what is said about the first images of every file: 512 or 5,000 of them (pre-training:
500 or 5,000), to try a recipe out. The files, not the region store, say which images are first."""
IMAGES_PER_FILE = {"tiny": 512, "fast": 5000, "full": None}
"""Of a `Subset` in fine-tuning (reference 4)."""


class Section(BaseModel):
    """A section of a configuration file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSettings(Section):
    """Size of a new model, or where to start from. Defaults are the paper's."""

    start_from: Path | None = None
    """A Hugging Face folder or an original `.pth`; the sizes below are then read from it."""
    start_answers: Path | None = None
    """The answers of its head (`all_ans.json`), for an original `.pth`; a folder of ours holds its own."""
    bert: Path | None = None
    """A text-only BERT, folder or file, for the embeddings and first `l_layers` layers of a new model; its
    width, heads and vocabulary must be the model's."""
    hidden_size: Count = 768
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    l_layers: Annotated[int, Field(ge=0)] = 9
    r_layers: Annotated[int, Field(ge=0)] = 5
    x_layers: Annotated[int, Field(ge=0)] = 5
    max_position_embeddings: Count = 512
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    initializer_range: Annotated[float, Field(gt=0.0)] = 0.02
    """Standard deviation of new weights; narrow models learn faster with about 0.7 / sqrt(hidden_size)."""
    random_padding_rows: bool = True
    """Row 0 of the embedding tables starts as noise (the original) or as zeros (Hugging Face)."""

    @model_validator(mode="after")
    def _one_start(self) -> ModelSettings:
        if self.bert is not None and self.start_from is not None:
            raise ValueError("start_from holds a whole model and bert a part of one: wanted one of them")
        return self


class GuardSettings(Section):
    """What happens to an update whose loss or gradient is not finite, or far above the others.

    By default the run stops at the first that is not finite, with its last checkpoint intact.
    """

    spike: Annotated[float, Field(gt=1.0)] | None = None
    """A loss of more than this many times the median of the last 100 updates is bad too; None: never."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Bad updates in a row that are left out: weights and optimizer stay as they were."""
    roll_backs: Annotated[int, Field(ge=0)] = 0
    """How often, after that, the run returns to its last checkpoint and goes on behind the bad data."""


class ZeroSettings(Section):
    """How the launcher's ranks share what training holds (Rajbhandari et al. 2020)."""

    stage: Annotated[int, Field(ge=0, le=3)] = 1
    """0: every rank holds everything. 1: the optimizer's state is cut over the ranks, 2: gradients too,
    3: parameters too."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the host's memory, and update there."""
    offload_parameters: bool = False
    """Keep the parameters' partitions in the host's memory; stage 3."""

    @model_validator(mode="after")
    def _possible(self) -> ZeroSettings:
        if self.offload_parameters and self.stage < 3:
            raise ValueError(f"offload_parameters wants stage 3, found {self.stage}")
        if self.offload_optimizer and self.stage < 1:
            raise ValueError("offload_optimizer wants a stage from 1 on, found 0")
        return self


class OptimisationSettings(Section):
    """Optimiser, schedule and batch. The recipe of a task stands in its configuration file."""

    optimizer: Literal["bertadam", "lamb", "adamw"] = "bertadam"
    lr: Annotated[float, Field(gt=0.0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the updates over which the learning rate rises."""
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest global L2 norm of the gradients."""
    epochs: Count = 20
    batch_size: Count = 256
    """Pairs of one update, over all ranks: the run is the same whatever they are cut into."""
    micro_batch_size: Count | None = None
    """Pairs in one forward pass on one rank, at most; an update has as many passes as that takes. None: one
    pass."""
    loss_mean: Literal["global", "pass"] = "global"
    """"global": each loss is a mean over all that the update's pairs hold (all masked words, all answers).
    "pass": a mean of every forward pass's mean, as the original's `DataParallel` has it, where a masked word
    of a pass with few of them weighs more."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In one process and at stage 0, "bf16" runs the products under autocast, weights stay fp32. At stages 1
    to 3 weights and gradients are bf16 or fp16, with fp32 masters in the optimizer; with fp16 the loss is
    scaled."""
    zero: ZeroSettings = ZeroSettings()
    """Used where a launcher has started the run."""
    deepspeed: dict[str, Any] = {}
    """DeepSpeed's own options, put on top of what follows from these settings."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """Run the encoders through `torch.compile`; the first updates take minutes."""
    share_in_training: bool = True
    """Texts and images that several pairs share draw their dropout once; False draws it for every pair."""
    guard: GuardSettings = GuardSettings()


class RunSettings(Section):
    """Where a run writes, how often, and what makes it repeatable."""

    output: Path
    seed: int = 9595
    device: str = "auto"
    """"auto" (a GPU where there is one), "cpu", "cuda", "cuda:1"."""
    workers: Annotated[int, Field(ge=0)] = 1
    log_every: Count = 20
    """Updates between two lines of metrics."""
    checkpoint_every: Count = 500
    """Updates between two resumable checkpoints; one more is written at the end of every epoch."""
    keep: Count = 2
    """Resumable checkpoints kept."""
    heartbeat: Annotated[float, Field(gt=0.0)] = 45.0
    """Seconds after which a rank that has not been heard of ends the run, on all ranks."""
    timeout: Annotated[float, Field(gt=0.0)] = 1800.0
    """Seconds after which a rank that lives, but does not take part, ends the run."""
    start_timeout: Annotated[float, Field(gt=0.0)] = 300.0
    """Seconds in which all ranks must have come."""
    node_local: Path | None = None
    """Copy the region stores to this folder of every host first, and read them there."""
    wandb: Annotated[str, Field(min_length=1)] | None = None
    """Project at Weights & Biases that gets the same scalars; WANDB_MODE=offline keeps them in `output`."""
    trace: bool = False
    """Write down which examples each update saw, in `trace/`."""


class PretrainingData(Section):
    """Files of pre-training."""

    train: Annotated[list[Path], Field(min_length=1)]
    """Aggregated JSON files (reference 3.3)."""
    valid: list[Path] = []
    subset: Subset = "full"
    regions: Annotated[list[Path], Field(min_length=1)]
    vocabulary: Path
    answers: Path | None = None
    """The joint table (`all_ans.json`) or a list of answers; the labels of the training files when absent."""
    max_length: Count = 20
    sentences_per_image: Count = 1
    """Sentences of an image that stand in a batch together, at most. 1 draws each on its own, as the original
    does; more read and encode an image once for all of them, which then share its hidden objects."""
    word_mask_rate: Rate = 0.15
    object_mask_rate: Rate = 0.15
    label_masked_only: bool = False
    """Label losses on masked objects only (the paper) instead of all objects (the original's code)."""
    tasks: Annotated[list[TaskName], Field(min_length=1)] = list(TASKS)
    """What is learnt; the model has no object and answer heads but those of its tasks. Words and objects are
    hidden by their rates whatever the tasks, as the original does; without "qa" questions are but text."""
    answer_from_epoch: Annotated[int, Field(ge=0)] = 0
    """First epoch with image question answering; the paper's two-phase schedule trains 10 epochs without."""
    answer_weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor of the question-answering loss; 2 in the paper's second phase."""

    @model_validator(mode="after")
    def _each_once(self) -> PretrainingData:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks wants each task once, found {self.tasks}")
        return self


class VqaData(Section):
    """Files of question answering: a data-set folder, or each file by name."""

    folder: Path | None = None
    """Holds train.json, perhaps valid.json, regions.h5, vocab.txt and the answer map."""
    train: Files = []
    valid: Files = []
    regions: Files = []
    vocabulary: Path | None = None
    answers: Path | None = None
    """`label2ans.json`; the labels of the training files when absent. An `ans2label.json` beside it must
    agree."""
    subset: Subset = "full"
    unknown_answers: Literal["error", "ignore"] = "error"
    max_length: Count = 20
    questions_per_image: Count = 1
    """Questions of an image that stand in a training batch together, at most, so that it is read and encoded
    once for them. 1 draws every question on its own, as the original does."""
    blind: bool = False
    """Zero every region: the question-only model, the figure to report beside any result."""

    @model_validator(mode="after")
    def _folder_or_files(self) -> VqaData:
        if self.folder is None and not (self.train and self.regions and self.vocabulary):
            raise ValueError("wants `folder`, or `train`, `regions` and `vocabulary`")
        return self


class Nlvr2Data(Section):
    """Files of NLVR2, as `lxmert-fast data nlvr2` writes them."""

    train: Annotated[Files, Field(min_length=1)]
    valid: Files = []
    regions: Annotated[Files, Field(min_length=1)]
    vocabulary: Path
    subset: Subset = "full"
    max_length: Annotated[int, Field(ge=3)] = 20
    pairs_per_sentence: Count = 1
    """Pairs of images of a sentence that stand in a training batch together, at most, so that it is read and
    encoded once for them. 1 draws every pair on its own, as the original does."""


class PretrainSettings(Section):
    """`lxmert-fast pretrain`."""

    task: Literal["pretrain"] = "pretrain"
    model: ModelSettings = ModelSettings()
    data: PretrainingData
    optimisation: OptimisationSettings = OptimisationSettings()
    run: RunSettings


class FinetuneSettings(Section):
    """`lxmert-fast finetune`."""

    task: Literal["vqa", "gqa", "nlvr2", "nlvr", "daquar", "easyvqa"] = "vqa"
    loss: Literal["binary", "categorical"] = "binary"
    """Cross entropy of every answer's soft score, or of the best answer alone (GQA's `--mceLoss`) times the
    number of answers."""
    model: ModelSettings = ModelSettings()
    data: VqaData | Nlvr2Data
    optimisation: OptimisationSettings = OptimisationSettings(
        lr=5e-5, warmup=0.1, clip=5.0, epochs=4, batch_size=32
    )
    run: RunSettings

    @field_validator("data", mode="before")
    @classmethod
    def _of_the_task(cls, value: Any, info: ValidationInfo) -> VqaData | Nlvr2Data:
        # a union would tell of both sections where one key is wrong
        return (Nlvr2Data if info.data.get("task") == "nlvr2" else VqaData).model_validate(value)


S = TypeVar("S", bound=Section)


def load_settings(
    kind: type[S],
    source: str | Path,
    overrides: Sequence[str] | None = None,
    on_top: Sequence[str | Path] | None = None,
) -> S:
    """Read a configuration, put other files on top, then `section.key=value` overrides; check every key.

    Args:
        source: a path, or the name of a configuration that ships, such as "vqa".
        on_top: likewise, files of a few keys, such as "zero2"; a later one goes above an earlier one.

    Raises:
        InputError: a missing or unreadable file, an override that is not `key=value`, an unknown key or a
            value outside its range; the line names file and key.
    """
    files = [find_config(source, whole=True), *(find_config(layer, whole=False) for layer in on_top or [])]
    tree = read_config(files)
    for override in overrides or []:
        _apply(tree, override)
    return check_settings(kind, tree, " with ".join(map(str, files)))


def check_settings(kind: type[S], tree: dict[str, Any], source: str) -> S:
    """Turn a tree of plain values into settings; `source` names it in the error line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        key = ".".join(str(part) for part in first["loc"])
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        found = "" if isinstance(first["input"], dict) else f", found {first['input']!r}"
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(f"{source}: {key}: {reason}{found}{more}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: wanted section.key=value, such as optimisation.lr=5e-5")
    *sections, last = key.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise InputError(f"override {override!r}: {section} is not a section")
        tree = child
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"override {override!r}: {value!r} is not a YAML value") from None
