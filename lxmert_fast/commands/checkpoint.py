"""`lxmert-fast checkpoint`: convert and describe model files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Model files: convert between Hugging Face folders and the original's .pth files, describe one.",
    no_args_is_help=True,
)

Heads = Annotated[
    int | None, typer.Option(min=1, help="Attention heads of a .pth file whose heads are not 64 wide.")
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Take a file that fits its model only in part, such as a BERT: the rest stays random.",
    ),
]


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A Hugging Face model folder or an original .pth file.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="NAME.pth for an original file; anything else is a folder.")
    ],
    partial: Partial = False,
    heads: Heads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Convert a checkpoint, either way.

    The original's files are taken in all their forms: pre-training, VQA, GQA, NLVR2 and BERT, from one GPU
    or several. The suffix of OUT says what is written.
    """
    from lxmert_fast.checkpoint import open_model, save_airsplay, save_folder
    from lxmert_fast.errors import InputError

    if target.exists() and not force:
        raise InputError(f"{target}: exists already; --force replaces it")
    if target.suffix == ".pth" and target.is_dir():
        raise InputError(f"{target}: a folder, wanted the name of a .pth file")
    model, summary = open_model(source, allow_partial=partial, num_attention_heads=heads)
    if target.suffix == ".pth":
        save_airsplay(model, target)
    else:
        save_folder(model, target)
    typer.echo(f"{source}: {summary}")
    typer.echo(f"{target}: written")


@app.command()
def weights(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run (its newest checkpoint), or one of its checkpoints."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="NAME.pth for an original file; anything else is a folder.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Take the model out of a training checkpoint, whatever ranks and ZeRO stage wrote it."""
    from lxmert_fast.errors import InputError
    from lxmert_fast.train.export import export

    if target.exists() and not force:
        raise InputError(f"{target}: exists already; --force replaces it")
    checkpoint = export(source, target)
    typer.echo(
        f"{checkpoint.folder}: update {checkpoint.manifest['update']}, {checkpoint.layout}, "
        f"{checkpoint.num_ranks} ranks"
    )
    typer.echo(f"{target}: written")


@app.command()
def info(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A Hugging Face model folder or an original .pth file.")
    ],
    heads: Heads = None,
) -> None:
    """Describe a checkpoint, one fact a line: model, sizes, layers, answers, and what it lacks."""
    from lxmert_fast.checkpoint import read_checkpoint
    from lxmert_fast.loading import compare

    checkpoint = read_checkpoint(path, num_attention_heads=heads)
    config, tensors = checkpoint.config, checkpoint.state.values()
    numbers = sum(tensor.numel() for tensor in tensors)
    broken = sum(int((~tensor.isfinite()).sum()) for tensor in tensors)
    facts = {
        "file": checkpoint.path,
        "model": checkpoint.model_class.__name__,
        "entries": f"{len(tensors):,} with {numbers:,} numbers in "
        + ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        "not finite": f"{broken:,}",
        "layers": f"{config.l_layers} language, {config.r_layers} relationship, "
        f"{config.x_layers} cross-modality",
        "hidden size": f"{config.hidden_size}, {config.num_attention_heads} heads, "
        f"feed-forward {config.intermediate_size}",
        "vocabulary": f"{config.vocab_size:,} words, {config.max_position_embeddings} positions",
        "regions": f"{config.visual_feat_dim} numbers a feature, {config.num_object_labels:,} object and "
        f"{config.num_attr_labels:,} attribute classes",
        "answers": f"{config.num_qa_labels:,}",
        "fit": compare(checkpoint.skeleton(), checkpoint.state),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")
