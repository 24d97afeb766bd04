"""The `lxmert-fast` command. Every sub-command imports what it needs when it runs, so help is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .commands import bench, checkpoint, data, features
from .commands.doctor import doctor
from .commands.plan import plan
from .commands.verify import verify
from .errors import Diverged, InputError
from .kernels.configs import WrongVariable, check_environment

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
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(bench.app, name="bench")
app.command("verify")(verify)
app.command("plan")(plan)
app.command("doctor")(doctor)

Config = Annotated[Path, typer.Argument(help="A YAML file; the package ships some in train/configs.")]
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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


@app.command()
def pretrain(config: Config, overrides: Overrides = None) -> None:
    """Pre-train with the five tasks of the paper; run it again to go on after an interruption."""
    from .train.pretrain import pretrain as run
    from .train.settings import PretrainSettings, load_settings

    _report(run(load_settings(PretrainSettings, config, overrides)))


@app.command()
def finetune(config: Config, overrides: Overrides = None) -> None:
    """Fine-tune on a question-answering data set; run it again to go on after an interruption."""
    from .train.finetune import finetune as run
    from .train.settings import FinetuneSettings, load_settings

    _report(run(load_settings(FinetuneSettings, config, overrides)))


@app.command()
def evaluate(
    model: Model,
    questions: Questions,
    regions: RegionFiles,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    compiled: Compile = False,
    int8: Int8 = False,
) -> None:
    """Score a fine-tuned model on labelled questions, by answer type and question type."""
    from .train.evaluate import evaluate_files, score_table

    scores = evaluate_files(
        model, questions, regions, batch_size=batch_size, device=device, compiled=compiled, int8=int8
    )
    _console().print(score_table(scores))


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
) -> None:
    """Answer questions, labelled or not, and write [{"answer", "question_id"}, ...]."""
    from .train.evaluate import predict_files

    count = predict_files(
        model, questions, out, regions, batch_size=batch_size, device=device, compiled=compiled, int8=int8
    )
    typer.echo(f"{count} answers written to {out}")


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="A data-set folder of yours in the generic format; easy-vqa if absent."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/demo"),
) -> None:
    """Pre-train, fine-tune and answer questions about unseen pictures, from raw images, in minutes."""
    from .train.demo import run_demo

    run_demo(output, data)


def _console():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console()


def _report(summary: dict) -> None:
    import json

    typer.echo(json.dumps(summary, indent=2))


def main() -> None:
    """Entry point: a mistake in the input is one line on standard error and exit code 2.

    So is what the machine refuses: a folder that may not be written, a full disk.
    """
    try:
        check_environment()
        app()
    except (InputError, WrongVariable) as error:
        typer.echo(f"lxmert-fast: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # a rename names its target second; the first is a scratch file that nobody asked for
        place = error.filename2 or error.filename or "file system"
        typer.echo(f"lxmert-fast: {place}: {error.strerror or error}", err=True)
        sys.exit(2)
    except Diverged as error:
        typer.echo(f"lxmert-fast: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
