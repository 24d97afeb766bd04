"""What an ablation compares: a pre-training, fine-tunings, and arms that change some of their settings.

    task: ablation
    title: Vision tasks
    pretrain: {config: pretrain, overrides: [optimisation.epochs=20]}
    finetune:
      vqa: {config: vqa}
    arms:
      - {name: none, pretrain: ["data.tasks=[mask_lm, matched, qa]"], paper: table5/none}
      - {name: scratch, pretrain: null, finetune: [optimisation.lr=1.0e-4]}
    run: {output: runs/ablation}

Overrides are those of the command line; an arm's go above its configuration's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lxmert_fast.data.vqa import VqaFolder
from lxmert_fast.errors import InputError

from .config_files import quoted
from .published import ABLATIONS
from .settings import FinetuneSettings, PretrainSettings, Section, load_settings

Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""Of a folder."""
PRETRAINING = "pretrain"
#: Of a pre-training's `model`, what says where it starts and not what it is.
_STARTS = {"start_from", "start_answers", "bert"}


class Start(Section):
    """A configuration and what goes on top of it for all arms."""

    config: str
    overrides: tuple[str, ...] = ()


class Arm(Section):
    """One row of the table."""

    name: Name
    title: str = ""
    pretrain: tuple[str, ...] | None
    """Overrides of the pre-training; null: there is none, and fine-tuning starts from random weights, of a
    model of the pre-training's sizes."""
    finetune: tuple[str, ...] | dict[str, tuple[str, ...]] = ()
    """Overrides of all fine-tunings; or by fine-tuning, and then those that are not named are not run."""
    paper: str | None = None
    """The row of the paper's tables that it repeats, such as table5/none (`published.py`)."""

    def overrides_of(self, task: str) -> tuple[str, ...] | None:
        """Those of a fine-tuning, None where it is not run."""
        return self.finetune.get(task) if isinstance(self.finetune, dict) else self.finetune


class AblationRun(Section):
    """Where the runs go: OUTPUT/ARM/pretrain, OUTPUT/ARM/FINETUNING."""

    output: Path


class AblationSettings(Section):
    """`lxmert-fast ablation`."""

    task: Literal["ablation"]
    title: str
    pretrain: Start | None = None
    finetune: Annotated[dict[Name, Start], Field(min_length=1)]
    arms: Annotated[list[Arm], Field(min_length=1)]
    run: AblationRun

    @model_validator(mode="after")
    def _possible(self) -> AblationSettings:
        if PRETRAINING in self.finetune:
            raise ValueError(f"finetune wants another name than {PRETRAINING!r}")
        names = [arm.name for arm in self.arms]
        for arm in self.arms:
            if names.count(arm.name) > 1:
                raise ValueError(f"arms wants each name once, {arm.name!r} is there more often")
            if arm.pretrain is not None and self.pretrain is None:
                raise ValueError(f"arm {arm.name!r} is pre-trained, but there is no section `pretrain`")
            named = arm.finetune if isinstance(arm.finetune, dict) else {}
            if unknown := sorted(named.keys() - self.finetune.keys()):
                known = ", ".join(self.finetune)
                raise ValueError(f"arm {arm.name!r} fine-tunes on {unknown[0]!r}, wanted one of {known}")
            if arm.paper is not None and arm.paper not in ABLATIONS:
                known = ", ".join(ABLATIONS)
                raise ValueError(
                    f"arm {arm.name!r}: the paper has no row {arm.paper!r}, wanted one of {known}"
                )
        return self


@dataclass(frozen=True)
class Run:
    """One training of a grid.

    Attributes:
        name: "ARM/pretrain" or "ARM/FINETUNING", its folder under the grid's output.
        after: the pre-training that it starts from, if one of the grid's.
    """

    name: str
    settings: PretrainSettings | FinetuneSettings
    after: str | None = None

    def facts(self) -> dict[str, Any]:
        """The settings that its figures depend on, flat: "optimisation.lr" to 5e-5.

        Not where it lies or how it is watched; a model of the grid's own is known by the settings that it
        came from.
        """
        tree = self.settings.model_dump(mode="json")
        tree["run"] = {"seed": tree["run"]["seed"]}
        if self.after is not None:
            tree["model"]["start_from"] = self.after
        return dict(_flat(tree))


@dataclass(frozen=True)
class Grid:
    """Arms, and the runs that they are made of."""

    settings: AblationSettings
    pretrainings: dict[str, Run]
    finetunings: dict[str, Run]

    @property
    def runs(self) -> dict[str, Run]:
        """All, in an order in which they can be run."""
        return self.pretrainings | self.finetunings


def load_grid(source: str, overrides: list[str] | None = None) -> Grid:
    """Read an ablation and all configurations that it names; nothing is run.

    Arms whose pre-trainings have the same settings share one, under the first one's name.

    Args:
        source: a path, or the name of one that ships, such as "ablation_table5".
        overrides: key=value on top of the ablation itself, such as run.output=runs/mine.

    Raises:
        InputError: a wrong file, key or value; the line names the arm where it is an arm's.
    """
    settings = load_settings(AblationSettings, source, overrides)
    output, pretrainings = settings.run.output, dict[str, Run]()
    finetunings: dict[str, Run] = {}
    for arm in settings.arms:
        after = None
        if arm.pretrain is not None and settings.pretrain is not None:
            after = f"{arm.name}/{PRETRAINING}"
            run = Run(after, _load(PretrainSettings, arm, settings.pretrain, arm.pretrain, output / after))
            same = (name for name, other in pretrainings.items() if other.facts() == run.facts())
            after = next(same, after)
            pretrainings.setdefault(after, run)
        for task, start in settings.finetune.items():
            mine = arm.overrides_of(task)
            if mine is None:
                continue
            name = f"{arm.name}/{task}"
            begin = [f"model.start_from={quoted(output / after / 'best') if after else 'null'}"]
            begin += ["model.start_answers=null", *([] if after else _sizes(settings))]
            one = _load(FinetuneSettings, arm, start, [*begin, *mine], output / name)
            if not _has_validation(one):
                raise InputError(
                    f"arm {arm.name!r}: {start.config}: no validation questions, by which arms are compared; "
                    "wanted data.valid"
                )
            finetunings[name] = Run(name, one, after)
    return Grid(settings, pretrainings, finetunings)


def _load(kind: Any, arm: Arm, start: Start, overrides: Sequence[str], output: Path) -> Any:
    try:
        return load_settings(
            kind, start.config, [*start.overrides, *overrides, f"run.output={quoted(output)}"]
        )
    except InputError as error:
        raise InputError(f"arm {arm.name!r}: {error}") from None


def _has_validation(settings: FinetuneSettings) -> bool:
    folder = getattr(settings.data, "folder", None)
    return bool(settings.data.valid) or (folder is not None and VqaFolder(folder).valid is not None)


def _sizes(settings: AblationSettings) -> list[str]:
    """The pre-training's model as overrides, for an arm without it: the same model, not pre-trained."""
    if settings.pretrain is None:
        return []
    model = load_settings(PretrainSettings, settings.pretrain.config, settings.pretrain.overrides).model
    set_there = model.model_dump(mode="json", exclude_unset=True, exclude=_STARTS)
    return [f"model.{name}={value}" for name, value in set_there.items()]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) and value else [(name, value)]
    return found
