"""`lxmert-fast plan`."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lxmert_fast.errors import InputError

if TYPE_CHECKING:
    from transformers import LxmertConfig

    from lxmert_fast.train.plan_inputs import Assumptions, Cluster, Run


def plan(
    config: Annotated[
        str | None,
        typer.Argument(
            help="A pre-training YAML, or the name of one that ships, for sizes, batch, micro batch, epochs, "
            "optimizer, precision and ZeRO; options win over it. The paper's sizes if absent."
        ),
    ] = None,
    on_top: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="CONFIG",
            help="A YAML file to go on top of CONFIG (`pretrain` if absent), or the name of one that ships; "
            "repeatable.",
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="In a node.")] = 8,
    batch: Annotated[int | None, typer.Option(min=1, help="Pairs of an update, over all ranks.")] = None,
    gpu: Annotated[str, typer.Option(help="H100, H200, B200, A100-80, A100-40, V100-32, ...")] = "H100",
    gpu_memory: Annotated[float | None, typer.Option(help="GB, in place of the named GPU's.")] = None,
    gpu_tflops: Annotated[float | None, typer.Option(help="Dense peak, in place of the named GPU's.")] = None,
    gpu_bandwidth: Annotated[
        float | None, typer.Option(help="GB/s of its memory, in place of the named GPU's.")
    ] = None,
    network: Annotated[float, typer.Option(min=0.001, help="Gbit/s of a node.")] = 100.0,
    zero: Annotated[
        int | None,
        typer.Option(help="Stage 0 to 3; if absent CONFIG's, or the fastest that fits where it names none."),
    ] = None,
    offload: Annotated[
        bool | None,
        typer.Option(
            "--offload/--no-offload", help="Optimizer (and at stage 3 weights) in the host's memory."
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; bf16 without CONFIG.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="bertadam, adamw or lamb.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Compute layers twice.")
    ] = None,
    micro: Annotated[int | None, typer.Option(min=1, help="Pairs of a forward pass on a rank.")] = None,
    bucket: Annotated[
        int | None, typer.Option(min=1, help="DeepSpeed's bucket, elements; the one that training sets.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Of an epoch; the paper's if absent.")] = None,
    tokens: Annotated[float | None, typer.Option(min=2, help="Mean of a text.")] = None,
    sentences_per_image: Annotated[float, typer.Option(min=1, help="That share an image in a batch.")] = 1.0,
    hidden_size: Annotated[int | None, typer.Option(min=1)] = None,
    intermediate_size: Annotated[int | None, typer.Option(min=1)] = None,
    layers: Annotated[str | None, typer.Option(help="Language, relation, cross: 9,5,5.")] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Another value of what is ASSUMED, repeatable, in bytes and seconds: utilisation, overhead, "
            "hooks, update_bytes, network_share, intra, hop, pcie, host, reserve.",
        ),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Plot efficiency up to 1,024 GPUs here, a table beside it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of tables.")] = False,
) -> None:
    """Estimate what pre-training needs on a cluster: memory, network, data rate, days. Measures nothing.

    Recommends a ZeRO stage and a micro batch. Bytes and FLOPs follow from formulas (train/memory.py, wire.py,
    activations.py); seconds from those and from what is assumed, which the last line repeats.
    """
    run, cluster = (
        _run(config, on_top or []),
        _cluster(nodes, gpus, gpu, gpu_memory, gpu_tflops, gpu_bandwidth, network),
    )
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size} | _layers(layers)
    pair = run.pair._replace(sentences_per_image=sentences_per_image)
    run = _with(
        replace(
            run,
            config=_resized(run.config, sizes),
            pair=pair if tokens is None else pair._replace(tokens=tokens),
        ),
        {
            "stage": zero,
            "micro": micro,
            "bucket": bucket,
            "checkpointing": checkpointing,
            "offload_optimizer": offload,
            "offload_parameters": offload,
            "batch": batch,
            "precision": precision,
            "optimizer": optimizer,
            "epochs": epochs,
            "pairs": pairs,
        },
    )
    run = replace(run, offload_parameters=run.offload_parameters and run.stage == 3)
    assumed = _assumed(assume or [])
    _show(run, cluster, assumed, as_json)
    if curves is not None:
        _draw(run, cluster, assumed, curves)


def _run(config: str | None, on_top: list[str]) -> Run:
    from transformers import LxmertConfig

    from lxmert_fast.pretraining_tasks import task_flags
    from lxmert_fast.train.plan_inputs import Pair, Run
    from lxmert_fast.train.settings import PretrainSettings, load_settings

    if config is None and not on_top:
        return Run(LxmertConfig())
    settings = load_settings(PretrainSettings, config or "pretrain", on_top=on_top)
    sizes = settings.model.model_dump(exclude={"start_from", "start_answers", "bert"})
    how, tasks = settings.optimisation, settings.data.tasks
    return Run(
        LxmertConfig(**sizes, **task_flags(tasks)),
        pair=Pair(tasks=tuple(tasks)),
        batch=how.batch_size,
        precision=how.precision,
        optimizer=how.optimizer,
        # a stage that nobody has written down is for the plan to choose
        stage=how.zero.stage if "stage" in how.zero.model_fields_set else None,
        micro=how.micro_batch_size,
        offload_optimizer=how.zero.offload_optimizer,
        offload_parameters=how.zero.offload_parameters,
        checkpointing=how.gradient_checkpointing,
        epochs=how.epochs,
    )


def _cluster(
    nodes: int,
    gpus: int,
    gpu: str,
    memory: float | None,
    tflops: float | None,
    bandwidth: float | None,
    network: float,
) -> Cluster:
    from lxmert_fast.flops import device_peak
    from lxmert_fast.train.plan_inputs import GPUS, Cluster

    def known(option: str, given: float | None, unit: float, of_name: float | None) -> float:
        value = of_name if given is None else given * unit
        if value is None:
            raise InputError(f"--gpu {gpu}: unknown, wanted one of {', '.join(GPUS)}, or {option}")
        return value

    room, speed = GPUS.get(gpu.upper(), (None, None))
    return Cluster(
        nodes,
        gpus,
        known("--gpu-memory", memory, 1e9, room),
        known("--gpu-tflops", tflops, 1e12, device_peak(gpu)),
        known("--gpu-bandwidth", bandwidth, 1e9, speed),
        network,
    )


def _layers(text: str | None) -> dict[str, int | None]:
    if text is None:
        return {}
    names = "l_layers", "r_layers", "x_layers"
    numbers = text.split(",")
    if len(numbers) != len(names) or not all(number.strip().isdigit() for number in numbers):
        raise InputError(f"--layers {text}: wanted three numbers such as 9,5,5")
    return dict(zip(names, map(int, numbers), strict=True))


def _resized(config: LxmertConfig, sizes: dict[str, int | None]) -> LxmertConfig:
    from transformers import LxmertConfig

    return LxmertConfig(**(config.to_diff_dict() | {k: v for k, v in sizes.items() if v is not None}))


def _assumed(given: list[str]) -> Assumptions:
    from lxmert_fast.train.plan_inputs import DIVISORS, Assumptions

    names = [one.name for one in fields(Assumptions)]
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in names:
            raise InputError(f"--assume {text}: wanted NAME=VALUE of {', '.join(names)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--assume {text}: {value!r} is not a number") from None
        if not math.isfinite(found[name]) or found[name] < 0 or (name in DIVISORS and not found[name]):
            least = "above 0" if name in DIVISORS else "of 0 or more"
            raise InputError(f"--assume {text}: wanted a finite number {least}")
    return Assumptions(**found)


def _with(run: Run, given: dict[str, Any]) -> Run:
    return replace(run, **{name: value for name, value in given.items() if value is not None})


def _show(run: Run, cluster: Cluster, assumed: Assumptions, as_json: bool) -> None:
    from lxmert_fast.train.plan import estimate, model_size
    from lxmert_fast.train.plan_tables import memory_lines, stage_lines, time_lines, to_json

    size = model_size(run.config)
    found = estimate(run, cluster, assumed, size)
    stages = [estimate(replace(run, stage=stage), cluster, assumed, size) for stage in run.stages]
    if as_json:
        answer = to_json(found, assumed) | {"parameters": size.parameters}
        typer.echo(json.dumps(answer | {"stages": [to_json(one, assumed) for one in stages]}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 160
    console.print(
        f"ESTIMATE, not a measurement: {size.parameters:,} parameters in {run.precision}, {cluster.nodes} x "
        f"{cluster.gpus} GPUs of {cluster.memory / 1e9:g} GB and {cluster.peak / 1e12:g} TFLOP/s, "
        f"{cluster.network:g} Gbit/s a node"
    )
    for titles, lines in (memory_lines(found), time_lines(found), stage_lines(stages)):
        table = Table(*titles)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    if found.fits:
        chosen = f"optimisation.zero.stage={found.stage} optimisation.micro_batch_size={found.micro}"
        console.print(f"Recommended: {chosen} (accumulation {found.accumulation})")
    else:
        console.print("Does not fit: try --checkpointing, a smaller --micro, more nodes, or --offload")
    assumptions = ", ".join(f"{one.name} {getattr(assumed, one.name):g}" for one in fields(assumed))
    console.print(f"Assumed, not measured: {assumptions}")


def _draw(run: Run, cluster: Cluster, assumed: Assumptions, path: Path) -> None:
    from lxmert_fast.files import replace_text
    from lxmert_fast.train.curves import draw, points, points_table

    found = points(run, cluster, assumed)
    title = f"{run.batch:,} pairs on {cluster.ranks:,} GPUs as the start, {run.precision}"
    draw(found, path, title)
    beside = path.with_suffix(".md")
    replace_text(beside, points_table(found) + "\n")
    typer.echo(f"{path} and {beside}: model, not measured", err=True)
