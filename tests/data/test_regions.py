"""The region file: exact round trips, many files as one, workers, faults, damage, full disks."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from region_files import assert_same_image, new_writer, random_image, write_images

from lxmert_fast.data.region_format import FORMAT, ImageRegions
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError

COUNTS = (3, 1, 5, 5, 2, 4)


@pytest.fixture(scope="module")
def images() -> list[ImageRegions]:
    return [random_image(seed, boxes) for seed, boxes in enumerate(COUNTS)]


@pytest.fixture
def file(tmp_path: Path, images: list[ImageRegions]) -> Path:
    return write_images(tmp_path / "regions.h5", images)


def refusal(path: Path) -> str:
    """The one line with which a store refuses a file."""
    with pytest.raises(InputError) as caught:
        len(RegionStore(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


class TestReading:
    def test_images_come_back_exactly(self, file: Path, images: list[ImageRegions]) -> None:
        with RegionStore(file) as store:
            assert list(store.image_ids) == [image.image_id for image in images]
            assert (len(store), store.feature_size, store.max_objects) == (6, 8, 5)
            assert (store.num_objects, store.num_attributes) == (50, 20)
            for row, image in enumerate(images):
                assert_same_image(store.image(row), image)

    @pytest.mark.parametrize(
        "rows", [[0], [1, 2, 3], [3, 2], [5, 0, 5, 4, 0], [2, 3], [0, 1, 2, 3, 4, 5], []]
    )
    def test_any_order_with_padding(self, file: Path, images: list[ImageRegions], rows: list[int]) -> None:
        regions = RegionStore(file).read(np.array(rows))
        objects = max((COUNTS[row] for row in rows), default=0)
        assert regions.features.shape == (len(rows), objects, 8)
        assert regions.counts.tolist() == [COUNTS[row] for row in rows]
        for i, row in enumerate(rows):
            image, count = images[row], COUNTS[row]
            size = np.array([image.width, image.height], np.float32)
            np.testing.assert_array_equal(regions.features[i, :count], image.features)
            # The original's arithmetic: float32 division, column by column.
            np.testing.assert_array_equal(regions.boxes[i, :count], image.boxes / np.tile(size, 2))
            np.testing.assert_array_equal(regions.object_ids[i, :count], image.object_ids)
            np.testing.assert_array_equal(regions.attribute_ids[i, :count], image.attribute_ids)
            np.testing.assert_array_equal(regions.object_confidences[i, :count], image.object_confidences)
            np.testing.assert_array_equal(
                regions.attribute_confidences[i, :count], image.attribute_confidences
            )
            for padded in (
                regions.features,
                regions.boxes,
                regions.object_ids,
                regions.attribute_confidences,
            ):
                assert not padded[i, count:].any()
        assert regions.sizes.tolist() == [[images[r].width, images[r].height] for r in rows]
        assert regions.object_ids.dtype == regions.counts.dtype == regions.sizes.dtype == np.int64

    def test_mask_only_when_counts_differ(self, file: Path) -> None:
        store = RegionStore(file)
        assert store.read(np.array([2, 3])).mask is None
        mask = store.read(np.array([0, 1])).mask
        assert mask is not None
        assert mask.dtype == np.float32
        assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]

    def test_rows_by_id(self, file: Path) -> None:
        store = RegionStore(file)
        assert store.rows(["image-0004", "image-0000"]).tolist() == [4, 0]
        assert "image-0005" in store
        assert "image-0006" not in store
        assert store["image-0001"].counts.tolist() == [1]
        for ask in (store.row, store.__getitem__, lambda image_id: store.rows([image_id])):
            with pytest.raises(InputError, match=f"{file}.*'image-0006'"):
                ask("image-0006")
        with pytest.raises(IndexError):
            store.read(np.array([6]))
        with pytest.raises(IndexError):
            store.read(np.array([-1]))

    def test_several_files_are_one_table(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        first = write_images(tmp_path / "a.h5", images[:2])
        second = write_images(tmp_path / "b.h5", images[2:])
        whole = RegionStore(write_images(tmp_path / "c.h5", images))
        joined = RegionStore(first, second)
        assert list(joined.image_ids) == list(whole.image_ids)
        rows = np.array([5, 0, 2, 1, 3, 1])
        for name, wanted in vars(whole.read(rows)).items():
            np.testing.assert_array_equal(getattr(joined.read(rows), name), wanted)
        assert list(joined.faults()) == [None] * 6

    def test_files_that_do_not_go_together(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        first = write_images(tmp_path / "a.h5", images[:3])
        overlap = write_images(tmp_path / "b.h5", images[2:])
        with pytest.raises(InputError, match=r"b\.h5: image id 'image-0002' is also in .*a\.h5"):
            len(RegionStore(first, overlap))
        narrow = write_images(tmp_path / "n.h5", [random_image(9, 2, features=4)])
        with pytest.raises(InputError, match=r"n\.h5: found feature size 4, wanted 8"):
            len(RegionStore(first, narrow))
        half = write_images(tmp_path / "h.h5", [random_image(9, 2, dtype=np.float16)])
        with pytest.raises(InputError, match=r"h\.h5: found dtype float16, wanted float32"):
            len(RegionStore(first, half))
        with pytest.raises(InputError, match="no region file"):
            RegionStore()

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        big = [random_image(seed, 36, features=256) for seed in range(400)]
        path = write_images(tmp_path / "big.h5", big)
        del big
        bound = 2_000_000
        assert path.stat().st_size > 7 * bound
        store = RegionStore(path)
        tracemalloc.start()
        for start in range(0, len(store), 20):
            store.read(np.arange(start, start + 20))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Two batches of 20 x 36 x 256 float32 at most: the one returned and the one before it.
        assert peak < bound

    def test_pickles_as_its_paths(self, file: Path) -> None:
        store = RegionStore(file)
        assert len(store) == 6
        copy = pickle.loads(pickle.dumps(store))
        assert copy.paths == store.paths
        assert "_files" not in vars(copy)
        store.close()
        assert store.read(np.array([0])).counts.tolist() == [3]


class _Rows(torch.utils.data.Dataset):
    def __init__(self, store: RegionStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.store.read(np.array([row])).features


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers(file: Path, images: list[ImageRegions], start: str) -> None:
    store = RegionStore(file)
    assert len(store) == 6  # open in the parent: a forked worker inherits it
    loader = torch.utils.data.DataLoader(
        _Rows(store), batch_size=None, num_workers=2, multiprocessing_context=start
    )
    for found, image in zip(loader, images, strict=True):
        np.testing.assert_array_equal(found[0], image.features)


class TestRefusedFiles:
    def test_missing_folder_empty_other(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "none.h5")
        assert "is not a file" in refusal(tmp_path)
        (tmp_path / "empty.h5").touch()
        assert "empty" in refusal(tmp_path / "empty.h5")
        (tmp_path / "text.h5").write_text("img_id\timg_h\n")
        assert "not an HDF5 file" in refusal(tmp_path / "text.h5")
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["features"] = np.zeros(3)
        assert f"wanted '{FORMAT}'" in refusal(tmp_path / "other.h5")

    def test_truncated_anywhere(self, file: Path) -> None:
        data = file.read_bytes()
        for length in np.linspace(1, len(data) - 1, 40).astype(int):
            file.write_bytes(data[:length])
            assert any(word in refusal(file) for word in ("truncated", "not an HDF5"))

    def test_newer_version(self, file: Path) -> None:
        with h5py.File(file, "r+") as opened:
            opened.attrs["format_version"] = 2
        assert "found format version 2, this lxmert-fast reads up to 1" in refusal(file)

    def test_incomplete(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        writer = new_writer(tmp_path / "a.h5", images)
        writer.write(0, images[0])
        writer.sync()
        writer.close()
        assert "5 of 6 images were never written" in refusal(writer.partial)

    def test_compressed(self, file: Path) -> None:
        with h5py.File(file, "r+") as opened:
            features = opened["features"][...]
            del opened["features"]
            opened.create_dataset("features", data=features, compression="gzip")
        assert "chunked or compressed" in refusal(file)

    @pytest.mark.parametrize("name", ["features", "boxes", "offsets", "marks", "image_ids", "checksums"])
    def test_missing_dataset(self, file: Path, name: str) -> None:
        with h5py.File(file, "r+") as opened:
            del opened[name]
        assert "damaged" in refusal(file)


def test_damage_is_found(file: Path, images: list[ImageRegions]) -> None:
    """A changed byte is refused, reported, or lies where it changes nothing that is read."""
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    # Half of the bytes from the data proper, which padding outweighs.
    with h5py.File(file) as opened:
        spans = [(data.id.get_offset(), data.nbytes) for data in opened.values()]
    places = [start + int(rng.integers(length)) for start, length in spans for _ in range(8)]
    places += rng.integers(0, len(content), 100).tolist()
    reported, refusals = 0, []
    for place in places:
        flip = int(rng.integers(1, 256))
        content[place] ^= flip
        file.write_bytes(content)
        content[place] ^= flip
        try:
            with RegionStore(file) as store:
                faults = [fault for fault in store.faults() if fault]
                if not faults:
                    assert len(store) == len(images)
                    for row, image in enumerate(images):
                        assert_same_image(store.image(row), image)
                assert all(fault.startswith(f"{file}: row ") for fault in faults)
                reported += len(faults)
        except InputError as error:
            refusals.append(str(error))
    assert all(message.startswith(str(file)) and "\n" not in message for message in refusals)
    assert reported > 20


class TestWriting:
    def test_the_name_appears_only_when_complete(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        path = tmp_path / "a.h5"
        with pytest.raises(RuntimeError), new_writer(path, images) as writer:  # noqa: PT012
            writer.write(0, images[0])
            raise RuntimeError
        assert not path.exists()
        with new_writer(path, images) as writer:
            assert writer.resumed
            assert writer.pending.tolist() == [1, 2, 3, 4, 5]
            for row in writer.pending:
                writer.write(row, images[row])
        assert os.listdir(tmp_path) == ["a.h5"]

    def test_images_missing_at_the_end(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        with (
            pytest.raises(ValueError, match="5 of 6 images"),
            new_writer(tmp_path / "a.h5", images) as writer,
        ):
            writer.write(2, images[2])

    def test_rejected_images_are_left_out(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        with new_writer(tmp_path / "a.h5", images) as writer:
            for row, image in enumerate(images):
                if row in (1, 5):
                    writer.reject(row)
                else:
                    writer.write(row, image)
        store = RegionStore(tmp_path / "a.h5")
        assert list(store.image_ids) == ["image-0000", "image-0002", "image-0003", "image-0004"]
        assert_same_image(store.image(1), images[2])
        assert list(store.faults()) == [None] * 4

    def test_wrong_image_or_shape(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        writer = new_writer(tmp_path / "a.h5", images)
        with pytest.raises(ValueError, match="image-0000"):
            writer.write(0, images[1])
        writer.close()

    def test_never_replaces_unasked(self, file: Path, images: list[ImageRegions]) -> None:
        before = file.read_bytes()
        with pytest.raises(InputError, match="exists already"):
            new_writer(file, images)
        with pytest.raises(RuntimeError), new_writer(file, images[:2], overwrite=True):
            raise RuntimeError
        assert file.read_bytes() == before
        with pytest.raises(InputError, match="does not exist"):
            new_writer(file.parent / "none" / "a.h5", images)

    def test_resumes_its_own_source_only(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        new_writer(tmp_path / "a.h5", images).close()
        for change in ({"fingerprint": "2"}, {"dtype": np.float16}, {"num_objects": 51}):
            with pytest.raises(InputError, match="another source or other settings"):
                new_writer(tmp_path / "a.h5", images, **change)
        with pytest.raises(InputError, match="another source or other settings"):
            new_writer(tmp_path / "a.h5", images[:3])
        (tmp_path / "a.h5.partial").write_bytes(b"damaged")
        with pytest.raises(InputError, match="cannot be resumed"):
            new_writer(tmp_path / "a.h5", images)

    def test_one_writer_at_a_time(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        writer = new_writer(tmp_path / "a.h5", images)
        with pytest.raises(InputError, match="another process"):
            new_writer(tmp_path / "a.h5", images)
        writer.close()
        new_writer(tmp_path / "a.h5", images).close()

    def test_same_images_same_bytes(self, tmp_path: Path, images: list[ImageRegions]) -> None:
        with new_writer(tmp_path / "b.h5", images, sync_every=1) as writer:
            for row in (4, 0, 5, 1, 3, 2):
                writer.write(row, images[row])
        assert (tmp_path / "b.h5").read_bytes() == write_images(tmp_path / "a.h5", images).read_bytes()


def _write_830_kilobytes(mount: str, folder: Path, prelude: str) -> subprocess.CompletedProcess[str]:
    """Begins a file in `folder`, in its own process (and, with `mount`, mount namespace), after `prelude`."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from region_files import new_writer, random_image\n{prelude}\n"
        f"new_writer(Path({str(folder / 'a.h5')!r}), [random_image(i, 36, 256) for i in range(20)])"
    )
    command = [sys.executable, "-c", script]
    if mount:
        shell = f"{mount}; {shlex.join(command)}; code=$?; ls {folder}; exit $code"
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", shell]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class TestFullDisk:
    def test_beyond_a_limit_on_file_size(self, tmp_path: Path) -> None:
        run = _write_830_kilobytes(
            "", tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
        )
        message = run.stderr.splitlines()[-1]
        assert f"InputError: {tmp_path / 'a.h5'}.partial: no room to write: 8" in message
        assert "bytes wanted" in message
        assert "a limit on file size" in message
        assert os.listdir(tmp_path) == []

    def test_on_a_small_disk(self, tmp_path: Path) -> None:
        """In a mount namespace of its own, which the rest of the machine does not see."""
        if not shutil.which("unshare"):
            pytest.skip("needs the unshare command")
        mount = f"mount -t tmpfs -o size=400k none {tmp_path} || exit 77; echo mine > {tmp_path}/mine"
        run = _write_830_kilobytes(mount, tmp_path, "pass")
        if run.returncode == 77 or "unshare failed" in run.stderr:
            pytest.skip(f"needs the right to mount in a namespace: {run.stderr.strip()}")
        message = run.stderr.splitlines()[-1]
        assert re.search(r"no room to write: 8\d\d,\d\d\d bytes wanted, \d{3},\d{3} bytes free$", message)
        assert run.stdout.split() == ["mine"]

    @pytest.mark.parametrize("call", ["pwrite", "fsync"])
    def test_in_the_middle(
        self, tmp_path: Path, images: list[ImageRegions], monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """A disk that fills all the same (copy on write, a quota) costs unmarked images only."""
        writer = new_writer(tmp_path / "a.h5", images, sync_every=2)
        full_disk = pytest.raises(InputError, match="no room to write")
        with monkeypatch.context() as patched, full_disk, writer:
            for row in range(3):
                writer.write(row, images[row])

            def full(*_: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            patched.setattr(os, call, full)
            writer.write(3, images[3])
        with new_writer(tmp_path / "a.h5", images) as writer:
            assert writer.pending.tolist() == [2, 3, 4, 5]
            for row in writer.pending:
                writer.write(row, images[row])
        whole = write_images(tmp_path / "b.h5", images)
        assert (tmp_path / "a.h5").read_bytes() == whole.read_bytes()
