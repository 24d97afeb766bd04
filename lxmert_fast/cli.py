"""The `lxmert-fast` command. Every sub-command imports what it needs when it runs, so help is instant."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from .commands import bench, checkpoint, data, features, nlvr2, official, score, score_nlvr
from .commands.ablation import ablation
from .commands.augment import augment
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.explain import explain
from .commands.plan import plan
from .commands.report import report
from .commands.score_daquar import daquar
from .commands.verify import verify
from .errors import Diverged, InputError, RanksLost
from .kernels.configs import WrongVariable, check_environment

CRASHED = 70
"""Exit code of a rank that ended with a traceback: unlike 1 and 2, worth another start."""

ONEDNN_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""oneDNN keeps its last 1,024 products, each with its scratch memory. Packed batches rarely have the same
number of tokens twice, so on a CPU that is gigabytes for nothing; one update of LXMERT has some fifty."""

app = typer.Typer(
    name="lxmert-fast",
    help="LXMERT rebuilt for speed: convert features, pre-train, fine-tune, evaluate, answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(features.app, name="features")
app.add_typer(data.app, name="data")
data.app.add_typer(official.app)
data.app.command("augment")(augment)
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(bench.app, name="bench")
app.add_typer(score.app, name="score")
data.app.command("nlvr2")(nlvr2.nlvr2)
score.app.command("nlvr2")(score_nlvr.nlvr2)
score.app.command("nlvr")(score_nlvr.nlvr)
score.app.command("daquar")(daquar)
app.command("verify")(verify)
app.command("plan")(plan)
app.command("ablation")(ablation)
app.command("doctor")(doctor)
app.command("demo")(demo)
app.command("explain")(explain)
app.command("report")(report)

Config = Annotated[
    str | None,
    typer.Argument(
        help="A YAML file, or the name of one that ships, such as vqa; if absent, the command's name."
    ),
]
OnTop = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="CONFIG",
        help="A YAML file of a few keys, to go on top of CONFIG and below the overrides; or the name of one "
        "that ships: zero1, zero2, zero3, zero3_offload. Repeatable, a later one goes above an earlier one.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="section.key=value, such as optimisation.lr=5e-5 or run.output=runs/mine."),
]
Model = Annotated[Path, typer.Argument(help="A fine-tuned model folder, such as runs/NAME/best.")]
Questions = Annotated[Path, typer.Argument(help="Questions in the VQA JSON format.")]
RegionFiles = Annotated[list[Path], typer.Option("--regions", help="Region store(s) that hold their images.")]
BatchSize = Annotated[int, typer.Option(help="Questions in one forward pass.", min=1)]
Compile = Annotated[bool, typer.Option("--compile", help="Run the encoders through torch.compile.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit products on the CPU: faster, not exact.")]
Workers = Annotated[int, typer.Option(help="Processes that read ahead of the model.", min=0)]
Format = Annotated[
    Literal["vqa", "gqa", "nlvr"],
    typer.Option(
        "--format",
        help="vqa: answer and question_id; gqa: prediction and questionId, a string; nlvr: IDENTIFIER,true.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


@app.command()
def pretrain(config: Config = None, overrides: Overrides = None, on_top: OnTop = None) -> None:
    """Pre-train with the five tasks of the paper; run it again to go on after an interruption."""
    from .train.pretraining import pretrain as run
    from .train.settings import PretrainSettings, load_settings

    _report(run(load_settings(PretrainSettings, *_files("pretrain", config, overrides), on_top)))


@app.command()
def finetune(config: Config = None, overrides: Overrides = None, on_top: OnTop = None) -> None:
    """Fine-tune on a question-answering data set or NLVR2; run it again to go on after an interruption."""
    from .train.finetuning import finetune as run
    from .train.settings import FinetuneSettings, load_settings

    _report(run(load_settings(FinetuneSettings, *_files("finetune", config, overrides), on_top)))


@app.command(context_settings={"allow_interspersed_args": True})
def launch(
    command: Annotated[Literal["pretrain", "finetune"], typer.Argument(help="What to run on every rank.")],
    config: Config = None,
    overrides: Overrides = None,
    on_top: OnTop = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks of this host; its GPUs if absent.", min=1)] = None,
    hostfile: Annotated[Path | None, typer.Option(help="Several hosts: `name slots=N` a line.")] = None,
    node_rank: Annotated[
        int | None, typer.Option(help="This host's line of the hostfile, from 0, where ssh is not used.")
    ] = None,
    master_addr: Annotated[str | None, typer.Option(help="Address of the first host.")] = None,
    master_port: Annotated[int, typer.Option(help="Port on which the ranks meet.")] = 29500,
    max_restarts: Annotated[
        int, typer.Option(help="Start a run whose rank died again, this often without progress.", min=0)
    ] = 0,
) -> None:
    """Train on several GPUs or hosts with DeepSpeed; again goes on, also on other hosts."""
    if find_spec("deepspeed") is None:
        raise InputError("launch wants DeepSpeed, which is not installed: install lxmert-fast[deepspeed]")
    from .train.settings import FinetuneSettings, PretrainSettings, load_settings
    from .train.supervisor import Hosts, supervise

    hosts = Hosts(ranks, hostfile, node_rank, master_addr, master_port)
    kind: type[PretrainSettings] | type[FinetuneSettings]
    kind = PretrainSettings if command == "pretrain" else FinetuneSettings
    config, overrides = _files(command, config, overrides)
    output = load_settings(kind, config, overrides, on_top).run.output
    code = supervise(
        command,
        ["--config", config, *(word for layer in on_top or [] for word in ("--with", layer)), *overrides],
        hosts,
        max_restarts=max_restarts,
        checkpoints=output / "checkpoints",
    )
    raise typer.Exit(code)


@app.command()
def evaluate(
    model: Model,
    questions: Questions,
    regions: RegionFiles,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    compiled: Compile = False,
    int8: Int8 = False,
    workers: Workers = 1,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write the answers here, as `predict` does.")
    ] = None,
    form: Format = "vqa",
    blind: Annotated[
        bool, typer.Option("--blind", help="Zero every region, for a model trained with data.blind=true.")
    ] = False,
) -> None:
    """Score a fine-tuned model on labelled questions, by answer type and question type.

    The score is the label's of each answer, as the original reports it; `score vqa` has the official one.
    A model of NLVR2 is scored on the list that `lxmert-fast data nlvr2` writes: accuracy and consistency.
    """
    from .answering import is_pair_folder

    how = _how(batch_size, device, compiled, int8, workers)
    if is_pair_folder(model):
        from .metrics.nlvr import score_table as pair_table
        from .train.evaluate_pairs import evaluate_pairs

        if predictions is not None:
            raise InputError(f"{predictions}: evaluate writes none of a model of image pairs, predict does")
        if blind:
            raise InputError(f"{model}: --blind is not for a model of image pairs")
        _console().print(pair_table(evaluate_pairs(model, questions, regions, **how)))
        return
    from .metrics.scores import score_table
    from .train.evaluate import evaluate_files

    found = evaluate_files(model, questions, regions, predictions=predictions, form=form, blind=blind, **how)
    _console().print(score_table(found.scores))
    if found.unknown:
        typer.echo(f"{found.unknown:,} answers of the labels are not among the model's, so never given")


@app.command()
def predict(
    model: Model,
    questions: Questions,
    out: Annotated[Path, typer.Argument(help="The file that evaluation servers take.")],
    regions: RegionFiles,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    compiled: Compile = False,
    int8: Int8 = False,
    workers: Workers = 1,
    form: Format = "vqa",
) -> None:
    """Answer questions, labelled or not, into the file that the task's evaluation server takes.

    Run it again after an interruption and it goes on. The original calls the file minival_predict.json or
    test_predict.json (VQA), testdev_predict.json or submit_predict.json (GQA). A model of NLVR2 writes the
    lines that its official script reads: IDENTIFIER,True or IDENTIFIER,False.
    """
    from .answering import is_pair_folder

    how = _how(batch_size, device, compiled, int8, workers)
    if is_pair_folder(model):
        from .train.evaluate_pairs import predict_pairs

        count, kind = predict_pairs(model, questions, out, regions, **how), "NLVR2"
    else:
        from .train.predict import predict_files

        count, kind = predict_files(model, questions, out, regions, form=form, **how), form.upper()
    typer.echo(f"{count:,} answers written to {out}, {kind} format")


def _files(command: str, config: str | None, overrides: list[str] | None) -> tuple[str, list[str]]:
    """The configuration and the overrides, where the first word may be an override already."""
    words = [word for word in (config, *(overrides or [])) if word is not None]
    if words and ("=" not in words[0] or Path(words[0]).is_file()):
        return words[0], words[1:]
    return command, words


def _how(batch_size: int, device: str, compiled: bool, int8: bool, workers: int) -> dict[str, Any]:
    """The options that every model is run with."""
    return {
        "batch_size": batch_size,
        "device": device,
        "compiled": compiled,
        "int8": int8,
        "workers": workers,
    }


def _console():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console()


def _report(summary: dict) -> None:
    import json

    if os.environ.get("RANK", "0") != "0":
        return
    if summary["stopped"]:
        typer.echo(
            f"stopped by {summary['stopped']} after update {summary['updates']}; the same command goes on"
        )
    typer.echo(json.dumps(summary, indent=2))


def main() -> None:
    """Entry point: a mistake in the input is one line on standard error and exit code 2.

    So is what the machine refuses: a folder that may not be written, a full disk. A run that diverged leaves
    with 1, one that lost another rank with 3.
    """
    os.environ.setdefault(*ONEDNN_CACHE)
    try:
        check_environment()
        app()
    except (InputError, WrongVariable) as error:
        _leave(str(error), 2)
    except OSError as error:
        # a rename names its target second; the first is a scratch file that nobody asked for
        place = error.filename2 or error.filename or "file system"
        _leave(f"{place}: {error.strerror or error}", 2)
    except Diverged as error:
        _leave(str(error), 1)
    except RanksLost as error:
        _leave(str(error), 3)
    except Exception:
        if not _one_of_many():
            raise
        traceback.print_exc()
        _end(CRASHED)


def from_launcher(command: str) -> None:
    """Entry point of `train/pretrain.py` and `train/finetune.py`, one process of many.

    The launcher's own arguments (`--local_rank`) say what it says in the environment too.
    """
    arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    if "--config" in arguments:
        arguments.remove("--config")
    sys.argv = ["lxmert-fast", command, *(word.removeprefix("--config=") for word in arguments)]
    main()


def _leave(line: str, code: int) -> NoReturn:
    typer.echo(f"lxmert-fast: {line}", err=True)
    if _one_of_many():
        _end(code)
    sys.exit(code)


def _one_of_many() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _end(code: int) -> NoReturn:
    """Without the interpreter's own end, which would wait for collectives that never come to theirs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
