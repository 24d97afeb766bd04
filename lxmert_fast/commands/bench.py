"""`lxmert-fast bench`: what a call costs, what compiles, and the reports of `make bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Count a call's cost, compile for every GPU, report and compare what `make bench` measured.",
    no_args_is_help=True,
)

Results = Annotated[Path, typer.Argument(metavar="RUN.json", help="A result file of `make bench`.")]


@app.command()
def counts(
    workload: Annotated[str, typer.Option(help="vqa, gqa, nlvr2, captions or captions4.")] = "vqa",
    pairs: Annotated[int | None, typer.Option(help="Sentence-image pairs in the batch.")] = None,
    per_image: Annotated[float | None, typer.Option(help="Sentences an image.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of a table.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model, in seconds.")] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="As a GPU would run it: bf16, the operators, launches. Needs none.")
    ] = False,
) -> None:
    """Count FLOPs, operations, bytes moved, bytes saved for backward and peak memory.

    Of ours and of Hugging Face's eager model on the same batch: figures that are the same on every machine.
    """
    import json

    from lxmert_fast.bench.counts import count_workload
    from lxmert_fast.bench.device_counts import count_on_device
    from lxmert_fast.bench.report import Race, counts_lines
    from lxmert_fast.bench.workloads import config_for
    from lxmert_fast.bench.workloads import workload as named

    sized = named(workload).sized(pairs, per_image)
    counted = count_on_device if gpu else count_workload
    found = {
        mode: {name: row.to_json() for name, row in rows.items()}
        for mode, rows in counted(sized, config_for(sized, tiny=tiny)).items()
    }
    if as_json:
        result = {"workload": sized.name, "pairs": sized.pairs, "per_image": sized.per_image, "modes": found}
        typer.echo(json.dumps(result, indent=2))
        return
    races = [
        Race(sized.name, mode, sized.pairs, sized.per_image, 0.0, 0.0, {}, rows)
        for mode, rows in found.items()
    ]
    typer.echo(counts_lines(races))


@app.command()
def aot(
    arch: Annotated[
        list[int] | None, typer.Option(help="80, 90, 100 or 120, as often as you like; all if absent.")
    ] = None,
    kernel: Annotated[list[str] | None, typer.Option(help="A kernel, as often; all if absent.")] = None,
    every: Annotated[bool, typer.Option("--all", help="A table of every row.")] = False,
    json_to: Annotated[str | None, typer.Option("--json", help="JSON into a file, or - for here.")] = None,
) -> None:
    """Compile every Triton kernel for GPUs that need not be there, with every launch setting.

    Prints the kernel that fills a multiprocessor least, for each kernel and architecture, and every fault:
    spilled registers, too much shared memory, matrix units left unused. Exit code 1 if there is one.
    """
    import json

    from rich.console import Console

    from lxmert_fast.bench.aot import check_compiler, compile_all
    from lxmert_fast.bench.aot_rows import faults
    from lxmert_fast.bench.aot_specs import chosen_specs
    from lxmert_fast.bench.aot_table import aot_table
    from lxmert_fast.commands.progress import progress
    from lxmert_fast.files import replace_text

    check_compiler()
    specs = chosen_specs(arch, kernel)
    with progress("Compiling", len(specs), unit="kernels") as advance:
        rows = compile_all(specs, done=advance)
    wrong = [row for row in rows if faults(row)]
    text = json.dumps({"faults": len(wrong), "rows": [row.to_json() for row in rows]}, indent=2)
    if json_to == "-":
        typer.echo(text)
    else:
        console = Console()
        # a pipe has no width, and a table cut to 80 columns says little
        console.width = console.width if console.is_terminal else 200
        console.print(aot_table(rows, every))
        console.print(f"{len(rows)} kernels compiled, {len(wrong)} with faults", highlight=False)
        if json_to is not None:
            replace_text(Path(json_to), text + "\n")
    for row in wrong:
        typer.echo(f"{row.spec.name}: {'; '.join(faults(row))}", err=True)
    raise typer.Exit(1 if wrong else 0)


@app.command()
def traffic(
    workload: Annotated[
        list[str] | None, typer.Option(help="Repeatable; vqa and captions if absent.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Sentence-image pairs in the batch.")] = None,
    every: Annotated[bool, typer.Option("--all", help="A table of every kind of call, too.")] = False,
    json_to: Annotated[str | None, typer.Option("--json", help="JSON into a file, or - for here.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model, in seconds.")] = False,
) -> None:
    """Count the bytes that Triton's kernels load and store in a training step, over the least possible.

    Interpreted on the CPU at the model's own sizes in half precision, one or two minutes. Exit code 1 and a
    line each if a kernel exceeds its limit.
    """
    import json

    from lxmert_fast.bench.traffic import measure
    from lxmert_fast.bench.traffic_report import calls_table, kernels_table, rows_of, to_json
    from lxmert_fast.files import replace_text

    found = measure(workload or ["vqa", "captions"], pairs=pairs, tiny=tiny)
    text = json.dumps(to_json(found), indent=2)
    if json_to == "-":
        typer.echo(text)
    else:
        typer.echo("\n\n".join(([calls_table(found)] if every else []) + [kernels_table(found)]))
        if json_to is not None:
            replace_text(Path(json_to), text + "\n")
    over = [row.title for row in rows_of(found) if row.over]
    for line in over:
        typer.echo(line, err=True)
    raise typer.Exit(1 if over else 0)


@app.command()
def gpu(
    out: Annotated[Path, typer.Option(help="Folder of results.json.")] = Path("runs/gpu"),
    parts: Annotated[
        str, typer.Option(help="Some of small (parity at small odd shapes), parity, kernels, steps.")
    ] = "parity,kernels,steps",
    minutes: Annotated[float, typer.Option(min=0.0, help="Nothing begins that would take longer.")] = 10.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="On the CPU: tests this code alone.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the folder holds.")] = False,
) -> None:
    """Check every operator on this machine's GPU, then time kernels and whole steps.

    Run it again to go on where it stopped. Without a GPU it is a dry run. Exit code 1 if a value was wrong.
    """
    from lxmert_fast.bench.gpu.run import run

    chosen = [part.strip() for part in parts.split(",") if part.strip()]
    results = run(out, parts=chosen, minutes=minutes, dry_run=dry_run, fresh=fresh, say=typer.echo)
    raise typer.Exit(1 if any(row.get("failed") for row in results.rows.values()) else 0)


@app.command()
def tune(
    out: Annotated[Path, typer.Option(help="The table; LXMERT_FAST_CONFIGS=FILE loads it.")],
    workload: Annotated[
        list[str] | None, typer.Option(help="Repeatable; vqa and captions if absent.")
    ] = None,
) -> None:
    """Time launch settings of the kernels on this machine's GPU and write the best ones."""
    from lxmert_fast.files import replace_file
    from lxmert_fast.kernels.configs import write_table
    from lxmert_fast.kernels.tune import tune_model

    table = tune_model(workload or ["vqa", "captions"], say=typer.echo)
    replace_file(out, lambda beside: write_table(beside, table))
    typer.echo(out)


@app.command()
def report(
    results: Results,
    out: Annotated[
        Path | None, typer.Option(help="Folder of report.md and the plots; beside RUN.json if absent.")
    ] = None,
    readme: Annotated[
        Path | None,
        typer.Option(help="A Markdown file whose part between the marks <!-- bench --> is replaced."),
    ] = None,
) -> None:
    """Write the Markdown report and the plots of a result file."""
    from lxmert_fast.bench.plots import draw
    from lxmert_fast.bench.report import markdown, put_into, read_report

    read = read_report(results)
    folder = out or results.parent
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(read, folder)
    links = "".join(f"\n![{plot.stem}]({plot.name})\n" for plot in plots)
    (folder / "report.md").write_text(markdown(read) + links, encoding="utf-8")
    if readme is not None:
        put_into(readme, read)
    for path in (folder / "report.md", *plots):
        typer.echo(path)


@app.command()
def compare(
    old: Results,
    new: Results,
    threshold: Annotated[float, typer.Option(min=0.0, help="Smaller changes of speed are noise.")] = 0.05,
) -> None:
    """Show what moved between two result files: speeds against Hugging Face's of the same run, and counts."""
    from lxmert_fast.bench.compare import compare as changes_between
    from lxmert_fast.bench.compare import warnings
    from lxmert_fast.bench.report import read_report

    before, after = read_report(old), read_report(new)
    for warning in warnings(before, after):
        typer.echo(warning, err=True)
    changes = changes_between(before, after, threshold)
    for change in changes:
        typer.echo(change.line())
    if not changes:
        typer.echo(f"nothing moved by more than {threshold:.0%}")
