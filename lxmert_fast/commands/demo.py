"""`lxmert-fast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="A data-set folder of yours in the generic format; easy-vqa if absent."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/demo"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Instead, ask a model live in a browser (lxmert-fast[serve]).")
    ] = False,
    model: Annotated[Path | None, typer.Option(help="--serve: the model folder.")] = None,
    regions: Annotated[list[Path] | None, typer.Option(help="--serve: region store(s).")] = None,
    images: Annotated[
        Path | None, typer.Option(help="--serve: folder of the pictures, named <image id>.jpg, ...")
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="--serve: a pre-training model folder that guesses hidden words."),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="--serve: what makes regions of uploaded pictures, as for `features grid`.")
    ] = "efficientnet-lite0",
    host: Annotated[
        str, typer.Option(help="--serve: address to listen on; others than this machine reach 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="--serve: port, 0 for any.")] = 7860,
    device: Annotated[str, typer.Option(help="--serve: auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Pre-train, fine-tune and answer questions about unseen pictures, from raw images, in minutes.

    With --serve no training: a page on this machine, where images of a region store are searched, questions
    asked, answers and attention looked at, and pictures uploaded, if the store was made by `features grid`.
    """
    if not serve:
        from lxmert_fast.errors import InputError
        from lxmert_fast.train.demo import run_demo

        if model or regions or images or pretrained:
            raise InputError("demo: --model, --regions, --images and --pretrained want --serve")
        run_demo(output, data)
        return
    _serve(model, regions, images, pretrained, backbone, host, port, device)


def _serve(
    model: Path | None,
    regions: list[Path] | None,
    images: Path | None,
    pretrained: Path | None,
    backbone: str,
    host: str,
    port: int,
    device: str,
) -> None:
    from importlib.util import find_spec

    from lxmert_fast.errors import InputError

    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise InputError("demo --serve wants Starlette and uvicorn: install lxmert-fast[serve]")
    if model is None or not regions:
        raise InputError("demo --serve wants --model FOLDER and --regions FILE")
    from lxmert_fast.data.regions import RegionStore
    from lxmert_fast.looking.explainer import Explainer
    from lxmert_fast.looking.gallery import Gallery
    from lxmert_fast.looking.server import serve
    from lxmert_fast.train.engine import pick_device

    explainer = Explainer.from_pretrained(model, pretrained, pick_device(device))
    serve(Gallery(explainer, RegionStore(*regions), images, backbone), host, port, typer.echo)
