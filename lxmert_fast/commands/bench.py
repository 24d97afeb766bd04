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
) -> None:
    """Count FLOPs, operations, bytes moved, bytes saved for backward and peak memory.

    Of ours and of Hugging Face's eager model on the same batch: figures that are the same on every machine.
    """
    import json

    from lxmert_fast.bench.counts import count_workload
    from lxmert_fast.bench.report import Race, counts_lines
    from lxmert_fast.bench.workloads import config_for
    from lxmert_fast.bench.workloads import workload as named

    sized = named(workload).sized(pairs, per_image)
    found = {
        mode: {name: row.to_json() for name, row in rows.items()}
        for mode, rows in count_workload(sized, config_for(sized, tiny=tiny)).items()
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
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write every row here as JSON; - is standard output."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="A table of every row.")] = False,
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
    from lxmert_fast.files import replace_file

    check_compiler()
    specs = chosen_specs(arch, kernel)
    with progress("Compiling", len(specs), unit="kernels") as advance:
        rows = compile_all(specs, done=advance)
    wrong = [row for row in rows if faults(row)]
    if json_file is not None:
        text = json.dumps({"rows": [row.to_json() for row in rows], "faults": len(wrong)}, indent=1)
        if str(json_file) == "-":
            typer.echo(text)
        else:
            replace_file(json_file, lambda beside: beside.write_text(text, encoding="utf-8"))
    if json_file is None or str(json_file) != "-":
        console = Console()
        # a pipe has no width; a table that is cut says less than a long line
        console.width = console.width if console.is_terminal else 200
        console.print(aot_table(rows, everything))
        console.print(f"{len(rows)} kernels compiled, {len(wrong)} with faults", highlight=False)
    if wrong:
        for row in wrong:
            typer.echo(f"{row.spec.name}: {'; '.join(faults(row))}", err=True)
        raise typer.Exit(1)


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
