"""`lxmert-fast data`: make and check the JSON files and vocabularies that training reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Questions and sentences: convert official downloads, export easy-vqa, learn a vocabulary, build "
    "pre-training files, check.",
    no_args_is_help=True,
)


@app.command()
def easyvqa(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data-set folder to write.")],
    images: Annotated[
        bool, typer.Option("--images", help="Also copy the 5,000 pictures to OUT/images, named by image id.")
    ] = False,
) -> None:
    """Write the data of the PyPI package easy-vqa as a data-set folder.

    OUT gets train.json (38,575 questions), test.json (9,673), ans2label.json and label2ans.json (13 answers).
    """
    from lxmert_fast.data.easyvqa import export

    pictures = export(out, copy_images=images)
    typer.echo(f"{out}: {len(pictures):,} images, questions in train.json and test.json")


@app.command()
def daquar(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of daquar_all.json, the lists of train and test images and features.npz."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data-set folder to write.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="BERT's vocab.txt, for models that start from BERT; else one is learnt."),
    ] = None,
) -> None:
    """Write DAQUAR (photos of rooms, people's questions) as a data-set folder.

    A tenth of the training images, whole scenes, is held out in valid.json; train_valid.json has all training
    questions. test.json holds the test questions with one answer, test_all.json all of them. For research
    only: do not pass the folder on.
    """
    from lxmert_fast.data.daquar import export

    for name, count in export(source, out, vocabulary).items():
        typer.echo(f"{out / name}: {count:,}")


@app.command()
def nlvr(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder with NLVR's files.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data-set folder to write.")],
    orders: Annotated[
        int, typer.Option(min=1, max=6, help="Orders of its three boxes in which a training scene is seen.")
    ] = 6,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="BERT's vocab.txt, for models that start from BERT; else one is learnt."),
    ] = None,
) -> None:
    """Make a data-set folder of NLVR v1: questions, regions drawn from the scenes, pictures.

    SOURCE holds train_scenes.jsonl, train_sentences.json, train_pairs.jsonl, dev.json and test.json.
    """
    from lxmert_fast.data.nlvr_folder import make_folder

    make_folder(source, out, orders=orders, vocabulary=vocabulary)
    typer.echo(f"{out}: regions.h5, vocab.txt and train, valid, test, pretrain and pretrain_valid.json")


@app.command()
def vocabulary(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="IN.json...", help="Question files or aggregated pre-training files."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.txt", help="The vocabulary to write, a token a line.")],
    size: Annotated[int, typer.Option(min=1, help="Largest number of tokens.")] = 30522,
) -> None:
    """Learn a WordPiece vocabulary from sentences and answers, for those without BERT's file.

    A model that starts from BERT or from the original's weights needs BERT's own vocabulary instead. The same
    files give the same vocabulary.
    """
    from lxmert_fast.data.text import learn_vocabulary, read_vocabulary

    learn_vocabulary((sentence for file in files for sentence in _sentences(file)), out, size)
    typer.echo(f"{out}: {len(read_vocabulary(out)):,} tokens")


@app.command()
def pretraining(
    questions: Annotated[Path, typer.Argument(metavar="IN.json", help="Labelled questions, VQA format.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The aggregated file to write.")],
) -> None:
    """Turn labelled questions into a pre-training file.

    Each image gets its questions with their labels, and as unlabelled sentences each question followed by its
    best answer ("what color is the circle? blue"): the stand-in for captions, without which a sentence would
    not tell which picture it belongs to.
    """
    from lxmert_fast.data.easyvqa import pretraining_entries
    from lxmert_fast.data.json_writing import write_entries
    from lxmert_fast.data.vqa import iter_questions

    entries = pretraining_entries(iter_questions(questions))
    write_entries(out, entries)
    typer.echo(f"{out}: {len(entries):,} images")


@app.command()
def check(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A data-set folder, or a question, pre-training or NLVR2 file."),
    ],
    regions: Annotated[
        list[Path] | None,
        typer.Option(
            "--regions", help="Region file(s) that must hold the images of a file; may be repeated."
        ),
    ] = None,
) -> None:
    """Check every entry of a data-set folder or JSON file; names each bad one and leaves with exit code 1.

    A folder holds train.json, test.json (or valid.json), and regions.h5 or images/; vocab.txt, label2ans.json
    and ans2label.json are checked where they are present.
    """
    from lxmert_fast.data.check import check_file, check_folder
    from lxmert_fast.data.regions import RegionStore

    if path.is_dir():
        faults = check_folder(path)
    else:
        faults = check_file(path, images=RegionStore(*regions) if regions else None)
    entries = bad = 0
    for fault in faults:
        entries += 1
        if fault is not None:
            bad += 1
            typer.echo(fault)
    if bad:
        typer.echo(f"{path}: {bad:,} faults", err=True)
        raise typer.Exit(1)
    typer.echo(f"{path}: {entries:,} entries, no fault")


def _sentences(file: Path) -> Iterator[str]:
    """Every sentence of either kind of file, and every answer: both are read as text in pre-training."""
    from lxmert_fast.data.examples import parse_sentences
    from lxmert_fast.data.json_list import read_entries
    from lxmert_fast.data.vqa import parse_question

    for place, entry in read_entries(file):
        if "sentf" in entry:
            image = parse_sentences(place, entry)
            for sentences in image.sentences.values():
                yield from sentences
            for labels in image.labels.values():
                for label in labels:
                    yield from label
        else:
            question = parse_question(place, entry)
            yield question.sentence
            yield from question.label or {}
