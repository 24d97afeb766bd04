"""`lxmert-fast data vqa`, `gqa` and their answers: official downloads to the files that training reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lxmert_fast.data.answers import AnswerMap
    from lxmert_fast.data.vqa import Question

app = typer.Typer()

Out = Annotated[Path, typer.Argument(metavar="OUT.json", help="The question file to write.")]
Folder = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the two files are written.")]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like", metavar="label2ans.json", help="A list of the same answers, whose order to take over."
    ),
]


@app.command()
def vqa(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS.json", help="v2_OpenEnded_mscoco_*_questions.json.")
    ],
    out: Out,
    annotations: Annotated[
        Path | None,
        typer.Option(help="v2_mscoco_*_annotations.json of the same split; without, there are no labels."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="trainval_label2ans.json: labels hold its answers only; without, every answer."),
    ] = None,
    minival: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Images of minival: the original's minival.json or a JSON list of image ids. OUT.json gets "
            "their questions, --rest all others.",
        ),
    ] = None,
    rest: Annotated[
        Path | None, typer.Option(metavar="NOMINIVAL.json", help="The questions of the other images.")
    ] = None,
) -> None:
    """Turn VQA v2's official questions and annotations into questions with soft scores.

    An answer that 1, 2, 3 or at least 4 of the ten annotators gave scores 0.3, 0.6, 0.9 or 1. Answers are
    spelt as the official evaluation spells them.
    """
    from lxmert_fast.data.answers import AnswerMap
    from lxmert_fast.data.official.splits import write_split
    from lxmert_fast.data.official.vqa import Counts, read_official_questions
    from lxmert_fast.errors import InputError

    if answers and not annotations:
        raise InputError(f"--answers {answers}: only labels have answers, wanted --annotations too")
    if (minival is None) != (rest is None):
        raise InputError("--minival and --rest: found one, wanted both or neither")
    counts = Counts()
    known = AnswerMap.from_files(None, answers) if answers else None
    found = read_official_questions(questions, annotations, known, counts)
    for path, number in write_split(found, out, minival, rest).items():
        typer.echo(f"{path}: {number:,} questions")
    if annotations:
        typer.echo(
            f"{counts.empty:,} of {counts.questions:,} questions have no answer in the list; "
            f"{counts.outside:,} of {counts.votes:,} votes are for answers outside it"
        )


@app.command("vqa-answers")
def vqa_answers(
    annotations: Annotated[
        list[Path],
        typer.Argument(metavar="ANNOTATIONS.json...", help="v2_mscoco_*_annotations.json of train and val."),
    ],
    out: Folder,
    like: Like = None,
    min_occurrence: Annotated[
        int, typer.Option(min=1, help="Questions that an answer must be the best of, at least.")
    ] = 9,
) -> None:
    """Collect VQA's answers: trainval_ans2label.json and trainval_label2ans.json, in string order.

    9 is bottom-up attention's rule, which leaves 3,129 answers of train and val.
    """
    from lxmert_fast.data.official.answer_lists import frequent_answers, ordered
    from lxmert_fast.data.official.vqa import read_annotations

    best = (found.best for path in annotations for found in read_annotations(path))
    _save(ordered(frequent_answers(best, min_occurrence), like, annotations), out)


@app.command()
def gqa(
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS", help="*_questions.json, or a folder of them (train_all_questions)."
        ),
    ],
    out: Out,
) -> None:
    """Turn GQA's official questions into ours, with labels where there are answers.

    Files of any size: submission_all_questions.json is read and written entry by entry.
    """
    from lxmert_fast.data.json_writing import write_entries
    from lxmert_fast.data.official.gqa import read_gqa_questions
    from lxmert_fast.data.vqa import entry_of

    count = write_entries(out, map(entry_of, read_gqa_questions(questions)))
    typer.echo(f"{out}: {count:,} questions")


@app.command()
def vgqa(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS.json", help="Visual Genome's question_answers.json.")
    ],
    out: Out,
) -> None:
    """Turn Visual Genome's questions into ours; `aggregate --visual7w` takes them."""
    from lxmert_fast.data.json_writing import write_entries
    from lxmert_fast.data.official.vgqa import read_vg_questions
    from lxmert_fast.data.vqa import entry_of

    count = write_entries(out, map(entry_of, read_vg_questions(questions)))
    typer.echo(f"{out}: {count:,} questions")


@app.command("aggregate")
def aggregate_files(
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The pre-training file to write.")],
    vqa: Annotated[list[Path] | None, typer.Option(help="Questions of `data vqa`.")] = None,
    gqa: Annotated[list[Path] | None, typer.Option(help="Questions of `data gqa`.")] = None,
    visual7w: Annotated[list[Path] | None, typer.Option(help="Questions of `data vgqa`.")] = None,
    captions: Annotated[list[Path] | None, typer.Option(help="COCO's captions_{train,val}2014.json.")] = None,
) -> None:
    """Put questions with their labels, and captions, into one pre-training file, image by image.

    Every option may be repeated. An image goes by its name: one that COCO and Visual Genome share comes
    twice, under both.
    """
    from lxmert_fast.data.aggregate import aggregate
    from lxmert_fast.data.json_writing import write_entries
    from lxmert_fast.data.official.captions import read_captions
    from lxmert_fast.data.vqa import SeenQuestions

    def asked(files: list[Path]) -> Iterator[Question]:
        seen = SeenQuestions()
        for file in files:
            yield from seen.read(file)

    given = {"vqa": vqa, "gqa": gqa, "visual7w": visual7w}
    entries = aggregate(
        {category: asked(files) for category, files in given.items() if files},
        {"mscoco": (pair for file in captions or [] for pair in read_captions(file))},
    )
    write_entries(out, entries)
    typer.echo(f"{out}: {len(entries):,} images")


@app.command("gqa-answers")
def gqa_answers(
    questions: Annotated[
        list[Path],
        typer.Argument(metavar="QUESTIONS...", help="{train,val}_balanced_questions.json."),
    ],
    out: Folder,
    like: Like = None,
) -> None:
    """Collect GQA's answers: trainval_ans2label.json and trainval_label2ans.json, in string order.

    Train and val balanced have 1,842.
    """
    from lxmert_fast.data.official.answer_lists import ordered
    from lxmert_fast.data.official.gqa import read_gqa_questions

    found = {
        answer
        for path in questions
        for question in read_gqa_questions(path)
        for answer in question.label or {}
    }
    _save(ordered(found, like, questions), out)


def _save(answers: AnswerMap, out: Path) -> None:
    from lxmert_fast.files import writing

    with writing(out):
        answers.save(out, prefix="trainval_")
    typer.echo(f"{out}: {len(answers):,} answers in trainval_ans2label.json and trainval_label2ans.json")
