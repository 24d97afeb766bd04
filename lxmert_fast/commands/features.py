"""`lxmert-fast features`: make, check and describe region files."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lxmert_fast.errors import InputError

app = typer.Typer(
    help="Image regions: convert the original's TSV, make a grid without a detector, check, describe.",
    no_args_is_help=True,
)


class FeatureType(str, enum.Enum):
    """How features are stored."""

    float16 = "float16"
    float32 = "float32"


RegionFile = Annotated[Path, typer.Argument(metavar="OUT.h5", help="The region file to write.")]
Stored = Annotated[
    FeatureType, typer.Option("--dtype", help="Stored feature type; float16 halves the file and its reading.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Report each bad one, leave it out and go on, instead of stopping.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace OUT.h5 if it exists (only once the new file is complete).")
]


@app.command()
def convert(
    tsv: Annotated[Path, typer.Argument(metavar="IN.tsv", help="The original's ten-column region TSV.")],
    out: RegionFile,
    dtype: Stored = FeatureType.float16,
    skip_bad: SkipBad = False,
    force: Force = False,
    feature_size: Annotated[
        int | None, typer.Option(min=1, help="Numbers a feature; by default what most rows have.")
    ] = None,
    objects: Annotated[int, typer.Option(min=1, help="Object classes; ids must be below.")] = 1600,
    attributes: Annotated[int, typer.Option(min=1, help="Attribute classes; ids must be below.")] = 400,
) -> None:
    """Convert the original's TSV to a region file.

    Needs the memory of one row whatever the file's size. Work happens in OUT.h5.partial: after a kill or a
    full disk, run the same command again and it goes on where it stopped. A bad row stops it, with the row,
    the column, what was found and what was wanted.
    """
    from lxmert_fast.commands.progress import progress
    from lxmert_fast.data.region_writer import require_writable
    from lxmert_fast.data.tsv import TsvIndex
    from lxmert_fast.data.tsv import convert as convert_tsv

    require_writable(out, force)
    bad = _BadRows() if skip_bad else None
    with progress("Scanning", tsv.stat().st_size if tsv.is_file() else None, "bytes") as advance:
        index = TsvIndex.scan(tsv, feature_size=feature_size, report=bad, advance=advance)
    with progress("Converting", len(index)) as advance:
        written, _ = convert_tsv(
            index,
            out,
            dtype.value,
            num_objects=objects,
            num_attributes=attributes,
            report=bad,
            overwrite=force,
            advance=advance,
        )
    typer.echo(f"{out}: {written:,} images" + (f", bad rows left out: {bad.count:,}" if bad else ""))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A region file (.h5) or a TSV.")],
    objects: Annotated[int, typer.Option(min=1, help="Object classes, for a TSV.")] = 1600,
    attributes: Annotated[int, typer.Option(min=1, help="Attribute classes, for a TSV.")] = 400,
) -> None:
    """Validate every row of a region file or a TSV and name each bad one.

    Region files: checksums and values. TSV: columns, base64, lengths, ids and values. Exit code 0 when all
    is well, 1 when rows are bad, 2 when the file as a whole cannot be read.
    """
    from lxmert_fast.commands.progress import progress
    from lxmert_fast.data.regions import RegionStore
    from lxmert_fast.data.tsv import TsvIndex
    from lxmert_fast.errors import InputError

    bad = _BadRows()
    if _is_region_file(file):
        with RegionStore(file) as store, progress("Checking", len(store)) as advance:
            rows = len(store)
            for fault in store.faults():
                if fault:
                    bad(InputError(fault))
                advance(1)
    else:
        with progress("Scanning", file.stat().st_size if file.is_file() else None, "bytes") as advance:
            index = TsvIndex.scan(file, report=bad, advance=advance)
        rows = len(index) + bad.count
        with progress("Checking", len(index)) as advance:
            for _, image in index.decode(num_objects=objects, num_attributes=attributes):
                if isinstance(image, InputError):
                    bad(image)
                advance(1)
    typer.echo(f"{file}: {rows:,} rows, {bad.count:,} bad")
    if bad.count:
        raise typer.Exit(1)


@app.command()
def grid(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of pictures; ids are file stems.")],
    out: RegionFile,
    rows: Annotated[int, typer.Option(min=1, help="Cells down.")] = 4,
    cols: Annotated[int, typer.Option(min=1, help="Cells across.")] = 4,
    size: Annotated[int, typer.Option(min=1, help="Pixels a side that the CNN sees.")] = 128,
    backbone: Annotated[
        str,
        typer.Option(
            help="efficientnet-lite0, or MODULE:NAME of a torch module (or a function that returns one) "
            "mapping pictures (I, 3, S, S), scaled (x - 127) / 128, to (I, F, h, w)."
        ),
    ] = "efficientnet-lite0",
    objects: Annotated[int, typer.Option(min=1, help="Object pseudo-classes (clusters of features).")] = 64,
    attributes: Annotated[
        int, typer.Option(min=1, help="Attribute pseudo-classes (clusters of colours).")
    ] = 32,
    dtype: Stored = FeatureType.float16,
    seed: Annotated[int, typer.Option(help="Seed of the clustering.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    device: Annotated[str, typer.Option(help="Torch device of the CNN.")] = "cpu",
    skip_bad: SkipBad = False,
    force: Force = False,
) -> None:
    """Make regions without a detector: the cells of a pre-trained CNN's feature map.

    Every picture gets ROWS x COLS boxes. Object and attribute ids are pseudo-labels from clustering, named so
    in the file. Like convert, it resumes from OUT.h5.partial when run again.
    """
    import sys

    from lxmert_fast.commands.progress import progress
    from lxmert_fast.data.grid import grid_regions, pictures_in

    pictures = pictures_in(images)
    # A module beside the user, as `python -m` would find it; an installed command does not look there.
    sys.path.insert(0, "")
    bad = _BadRows() if skip_bad else None
    with progress("Viewing", len(pictures)) as advance:
        written, _ = grid_regions(
            pictures,
            out,
            rows,
            cols,
            size=size,
            backbone=backbone,
            objects=objects,
            attributes=attributes,
            dtype=dtype.value,
            seed=seed,
            workers=workers,
            device=device,
            report=bad,
            overwrite=force,
            progress=advance,
        )
    typer.echo(
        f"{out}: {written:,} images" + (f", unreadable pictures left out: {bad.count:,}" if bad else "")
    )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.h5", help="A region file.")],
) -> None:
    """Describe a region file, one fact a line: images, boxes, feature size, type, bytes, origin."""
    from lxmert_fast.data.regions import RegionStore

    with RegionStore(file) as store:
        (attributes,) = store.attributes
        fewest, most = store.counts.min(initial=store.max_objects), store.max_objects
        facts = {
            "images": f"{len(store):,}",
            "boxes": f"{store.counts.sum():,} ({fewest} to {most} an image)",
            "feature size": store.feature_size,
            "dtype": store.dtype.name,
            "bytes": f"{file.stat().st_size:,}",
            "object classes": store.num_objects,
            "attribute classes": store.num_attributes,
        }
    known = {"feature_size", "num_objects", "num_attributes"}
    facts |= {key.replace("_", " "): value for key, value in attributes.items() if key not in known}
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


class _BadRows:
    """Prints each bad row's error, above the progress bar, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: InputError) -> None:
        self.count += 1
        typer.echo(error)


def _is_region_file(file: Path) -> bool:
    import h5py

    return file.suffix in {".h5", ".hdf5", ".partial"} or (file.is_file() and bool(h5py.is_hdf5(file)))
