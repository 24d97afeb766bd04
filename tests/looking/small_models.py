"""Model folders, a region store and pictures, small enough to look into in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cases import make_config, scatter
from PIL import Image
from region_files import random_image, write_images
from small_data import small_encoder

from lxmert_fast.answering import save_model_folder
from lxmert_fast.data.region_format import ImageRegions
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

FEATURES = 8
ANSWERS = [f"a{number}" for number in range(11)]
QUESTION = "w1 w2 w3 nonsense"


def make_images() -> list[ImageRegions]:
    """ "image-0000" of 5 boxes and "image-0001" of 7."""
    return [random_image(0, 5, FEATURES), random_image(1, 7, FEATURES)]


def write_model(folder: Path, kind: type = LxmertForQuestionAnswering, **sizes: object) -> Path:
    """A model folder of random weights: 2 cross-modality layers of 4 heads."""
    folder.mkdir(parents=True)
    text = small_encoder(folder.parent)
    fitting = {"vocab_size": 100, "visual_feat_dim": FEATURES, "max_position_embeddings": 20}
    config = make_config(**fitting | sizes)
    save_model_folder(scatter(kind(config)), text, ANSWERS, folder)
    return folder


def write_world(folder: Path) -> dict[str, Path]:
    """model, pretrained, regions and a folder of pictures."""
    folder.mkdir(exist_ok=True)
    images = make_images()
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for image in images:
        pixels = rng.integers(0, 255, (image.height, image.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{image.image_id}.png")
    return {
        "model": write_model(folder / "model"),
        "pretrained": write_model(folder / "pretrained", LxmertForPreTraining, num_object_labels=50),
        "regions": write_images(folder / "regions.h5", images),
        "pictures": folder / "pictures",
    }
