"""`lxmert-fast explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    model: Annotated[
        Path, typer.Argument(help="A model folder that finetune or pretrain wrote, such as runs/NAME/best.")
    ],
    question: Annotated[str, typer.Argument(help="One sentence.")],
    image: Annotated[str, typer.Option(help="The image's id in the region store.")],
    regions: Annotated[list[Path], typer.Option(help="Region store(s), one of which holds the image.")],
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")],
    picture: Annotated[
        Path | None, typer.Option(help="The image's file, or a folder that holds it as ID.jpg, ID.png, ...")
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="A pre-training model folder that guesses hidden words, where MODEL cannot."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers, and guesses a word.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Look inside a model: who attends to whom for one question about one image.

    Writes OUT/explanation.html, a page that needs no other file and no network (cross attention of every
    layer and head, from words to boxes and from boxes to words, answers, guesses of hidden words), and
    words_to_boxes.png, boxes_to_words.png and, with a picture, attention.png.
    """
    import numpy as np

    from lxmert_fast.data.regions import RegionStore
    from lxmert_fast.errors import InputError
    from lxmert_fast.files import replace_file, replace_text, writing
    from lxmert_fast.looking.explainer import Explainer
    from lxmert_fast.looking.heatmaps import draw_heads
    from lxmert_fast.looking.page import explanation_page
    from lxmert_fast.looking.pictures import check_shape, open_picture, picture_of
    from lxmert_fast.train.engine import pick_device
    from lxmert_fast.train.figures import Look, plot_attention

    explainer = Explainer.from_pretrained(model, pretrained, pick_device(device))
    with RegionStore(*regions) as store:
        explainer.check(store)
        found = explainer(question, image, store, top)
    shown = None
    if picture is not None:
        path = picture_of(image, picture)
        if path is None:
            raise InputError(f"{picture}: no picture of image {image!r} in it")
        shown = open_picture(path, str(path))
        check_shape(shown, found.size, str(path))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    page = out / "explanation.html"
    with writing(page):
        replace_text(page, explanation_page(found, shown))
    both = {
        "words_to_boxes": (found.words_to_boxes, "Words read boxes: every line sums to 1"),
        "boxes_to_words": (found.boxes_to_words.swapaxes(2, 3), "Boxes read words: every column sums to 1"),
    }
    written = [page]
    for name, (weights, title) in both.items():
        written.append(out / f"{name}.png")
        draw_heads(weights, found.words, written[-1], title)
    if shown is not None:
        mean = found.words_to_boxes[-1].mean(0)
        answer = found.answers[0].text if found.answers else ""
        look = Look(np.asarray(shown), question, answer, None, found.words, mean, found.boxes)
        written.append(out / "attention.png")
        with writing(written[-1]):
            replace_file(written[-1], lambda beside: plot_attention([look], beside))
    for guess in found.answers:
        typer.echo(f"{guess.score:.3f}  {guess.text}")
    typer.echo(f"written under {out}: {', '.join(path.name for path in written)}")
