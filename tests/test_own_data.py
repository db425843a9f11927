"""Datasets of the user's own: npz files, folders of images, prepared by TFDS, idx files, functions."""

import gzip
import io
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
import small
from PIL import Image
from rich.console import Console
from test_data import one_line, write_dataset

from snnlth_jax import configs, data, report
from snnlth_jax.cli import main
from snnlth_jax.commands import words
from snnlth_jax.data import own
from snnlth_jax.data.augment import Augmentation, choose
from snnlth_jax.errors import InputError
from snnlth_jax.search import imp

LABELS = np.arange(24) % 3
SPLITS = ("train", "test", "validation")


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def arrays(**changes):
    made = {"train_images": pixels(24, 8, 8), "train_labels": LABELS}
    made |= {"test_images": pixels(9, 8, 8, seed=1), "test_labels": LABELS[:9]}
    return {name: value for name, value in (made | changes).items() if value is not None}


def save(file, **changes):
    np.savez(file, **arrays(**changes))
    return str(file)


def save_folder(top, mode="L", classes=("ant", "bee", "cat"), splits=("train", "test"), size=(8, 8)):
    count = 0
    for split in splits:
        for label, name in enumerate(classes):
            (top / split / name).mkdir(parents=True)
            for number in range(4):
                count += 1
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                image = Image.fromarray(pixels(1, *shape, seed=100 * label + count)[0])
                image.save(top / split / name / f"{number}.png")
    return str(top)


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNNLTH_CACHE_DIR", str(tmp_path / "cache"))
    own._kept.clear()


# ---------------------------------------------------------------- arrays


def test_mean_and_std_are_those_of_all_training_pixels():
    images = pixels(24, 9, 7, 3)
    mine = data.Dataset.from_arrays("mine", images, LABELS, images[:3], LABELS[:3])
    np.testing.assert_allclose(mine.augmentation.mean, (images / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(mine.augmentation.std, (images / 255).std((0, 1, 2)), atol=1e-6)
    assert (mine.num_classes, mine.image_shape, mine.train.labels.dtype) == (3, (9, 7, 3), np.int32)
    given = data.Dataset.from_arrays("mine", images, LABELS, images[:3], LABELS[:3], mean=[0, 0, 0.5])
    assert given.augmentation.mean == (0.0, 0.0, 0.5)
    assert given.augmentation.std == mine.augmentation.std
    assert given.fingerprint != mine.fingerprint


def test_a_fingerprint_follows_content_and_not_memory():
    images = pixels(24, 8, 8, 1)
    made = [
        data.Dataset.from_arrays("a", of, labels, images[:3], LABELS[:3]).fingerprint
        for of, labels in (
            (images, LABELS),
            (np.asfortranarray(images), LABELS.astype(np.uint8)),
            (images.squeeze(), list(LABELS)),
            (255 - images, LABELS),
        )
    ]
    assert len({*made[:3]}) == 1
    assert made[3] != made[0]


def test_steps_of_augmentation_have_the_size_of_the_dataset_or_the_usual_one():
    cifar = data.spec("cifar10").augmentation
    plain = Augmentation(cifar.mean, cifar.std)
    assert choose(plain, ("cutout", "flip", "crop"), (32, 32, 3)) == cifar
    assert choose(cifar, (), (32, 32, 3)) == plain
    tiny = data.spec("tiny_imagenet").augmentation
    assert choose(tiny, ["crop"], (64, 64, 3)).crop_padding == 8 == tiny.crop_padding


WRONG = {
    "train_images": [
        ({"train_images": pixels(24, 8, 8) / 255}, "train_images float64: allowed: uint8, 0 to 255"),
        ({"train_images": pixels(24, 64)}, "(24, 64): allowed: images [N, H, W] or [N, H, W, C]"),
        ({"train_images": pixels(24, 3, 8, 8)}, "channels come first"),
        ({"train_images": pixels(0, 8, 8), "train_labels": LABELS[:0]}, "no images"),
        ({"train_images": pixels(24, 8, 0)}, "no images"),
        ({"test_images": pixels(9, 8, 9)}, "test_images: 8x9x1 pixels; allowed: 8x8x1"),
        ({"test_images": pixels(9, 8, 8, 3)}, "8x8x3 pixels; allowed: 8x8x1"),
        ({"train_images": pixels(24, 8, 8).astype(bool)}, "train_images bool"),
        ({"train_images": pixels(24, 8, 8).astype(np.int64)}, "train_images int64"),
    ],
    "labels": [
        ({"train_labels": LABELS[:23]}, "train_labels: 23 labels; allowed: 24, one for each image"),
        ({"train_labels": LABELS - 1}, "train_labels: label -1 of image 0; allowed: 0 to 1"),
        ({"train_labels": LABELS + 1}, "no image of class 0; allowed: every label from 0 to 3"),
        ({"train_labels": 2 * LABELS}, "no image of class 1"),
        ({"train_labels": LABELS * 0}, "num_classes 1: allowed: 2 or more"),
        ({"train_labels": LABELS.astype(float)}, "train_labels float64: allowed: integers"),
        ({"train_labels": np.eye(3, dtype=int)[LABELS]}, "one-hot labels are not read"),
        ({"train_labels": LABELS[:, None]}, "train_labels (24, 1)"),
        ({"train_labels": LABELS.astype(np.int64) + 2**40}, "label 1099511627778"),
        (
            {"train_labels": np.where(LABELS == 1, np.uint64(2**64 - 1), np.uint64(0))},
            "label 18446744073709551615",
        ),
        ({"test_labels": LABELS[:9] + 1}, "test_labels: label 3 of image 2; allowed: 0 to 2"),
        ({"validation_images": pixels(3, 8, 8)}, "validation_labels: missing"),
        (
            {"validation_images": pixels(3, 8, 8), "validation_labels": [0, 1, 3]},
            "validation_labels: label 3",
        ),
    ],
    "facts": [
        ({"mean": [0.5, 0.5]}, "mean 0.5,0.5: allowed: 1 finite numbers"),
        ({"std": [1e-300]}, "std 1e-300: allowed: 1 finite numbers"),
        ({"mean": [1e308]}, "mean 1e+308: allowed: 1 finite numbers"),
        ({"mean": [1j]}, "mean [0.+1.j]: allowed: 1 finite numbers"),
        ({"std": [0.0]}, "std 0: allowed: 1 finite numbers, one for each channel, above 0"),
        ({"mean": [np.nan]}, "mean nan"),
        ({"classes": ["a", "b"]}, "label 2 of image 2; allowed: 0 to 1"),
        ({"classes": ["a", "b", "c", "d"]}, "no image of class 3 (d)"),
        ({"classes": ["a", "b", "b"]}, "classes a,b,b"),
        ({"mean": [0.5] * 5000}, "...: allowed: 1 finite numbers"),
    ],
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arrays_are_one_line_that_names_them_in_python_and_in_a_file(kind, tmp_path):
    for number, (changes, say) in enumerate(WRONG[kind]):
        one_line(data.Dataset.from_arrays, "mine", **arrays(**changes), say=[say])
        file = save(tmp_path / f"{kind}{number}.npz", **changes)
        one_line(data.load, file, say=[f"dataset {file}: ", say.replace(": allowed", "; allowed")])


@pytest.mark.parametrize("name", ["", "a/b", "my data", "..", "-x", "x" * 61, 3, None])
def test_a_name_is_safe_for_directories(name):
    one_line(data.Dataset.from_arrays, name, **arrays(), say=["name", "letters, digits"])


# ---------------------------------------------------------------- npz files


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_npz_file_gives_its_arrays(tmp_path, write):
    held = arrays(validation_images=pixels(6, 8, 8, seed=2), validation_labels=LABELS[:6])
    write(tmp_path / "my birds.npz", **held)
    mine = data.load("my birds.npz")
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(mine, split).images[..., 0], held[f"{split}_images"])
        np.testing.assert_array_equal(getattr(mine, split).labels, held[f"{split}_labels"])
    assert (mine.name, mine.num_classes, mine.image_shape) == ("my-birds", 3, (8, 8, 1))
    assert mine.fingerprint.startswith("my-birds-npz-")
    assert data.spec("my birds.npz") == mine.spec
    one_line(data.load, "my birds.npz", validation_examples=2, say=["allowed: 0, since my-birds has 6"])
    capped = data.load("my birds.npz", train_examples=6, test_examples=3)
    np.testing.assert_array_equal(np.bincount(capped.train.labels), [2, 2, 2])
    assert (len(capped.validation.labels), capped.fingerprint) == (6, mine.fingerprint)


def test_an_npz_file_may_say_name_classes_and_normalisation(tmp_path, caplog):
    save(tmp_path / "a.npz", name="insects", classes=["ant", "bee", "cat"], mean=[0.5], std=[0.25], extra=[1])
    mine = data.load("a.npz")
    assert (mine.name, mine.classes) == ("insects", ("ant", "bee", "cat"))
    assert mine.augmentation == Augmentation((0.5,), (0.25,), crop_padding=1)
    assert "not read: extra" in caplog.text
    save(tmp_path / "digits.npz")
    assert data.load("digits.npz").name == "digits_npz"  # which nobody takes for the digits


def test_a_changed_file_is_read_again(tmp_path):
    save(tmp_path / "a.npz")
    first = data.load("a.npz")
    assert data.load("a.npz").train.images.base is first.train.images.base  # read once
    save(tmp_path / "a.npz", train_images=pixels(24, 8, 8, seed=5))
    assert data.load("a.npz").fingerprint != first.fingerprint
    with pytest.raises(ValueError, match="read-only"):
        first.train.images[0] = 0


def npy(descr, shape, content=b""):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def with_entry(file, name, content):
    save(file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, kept in (entries | {f"{name}.npy": content}).items():
            archive.writestr(entry, kept)
    return str(file)


class Trap:
    ran = False

    def __reduce__(self):
        return setattr, (Trap, "ran", True)


def test_files_that_are_no_dataset(tmp_path):
    def refused(file, *say):
        one_line(data.load, str(file), say=[f"dataset {file}", *say])

    refused(tmp_path / "none.npz", "no such file")
    (tmp_path / "text.npz").write_text("train_images")
    refused(tmp_path / "text.npz", "is damaged or truncated", "allowed: an .npz file with train_images")
    (tmp_path / "empty.npz").write_bytes(b"")
    refused(tmp_path / "empty.npz", "is damaged or truncated")
    np.savez(tmp_path / "other.npz", x_train=LABELS, y_train=LABELS)
    refused(tmp_path / "other.npz", "no train_images (it holds x_train, y_train)")
    np.savez(tmp_path / "half.npz", **arrays(test_labels=None))
    refused(tmp_path / "half.npz", "no test_labels")
    np.savez(tmp_path / "pickle.npz", **arrays(train_labels=np.array([Trap()] * 24)))
    refused(tmp_path / "pickle.npz", "train_labels holds pickled objects", "could run code")
    assert not Trap.ran
    refused(with_entry(tmp_path / "lies.npz", "train_images", npy("|u1", (10**15, 8, 8))), "damaged")
    bomb = npy("|u1", (2**31, 1, 1)) + bytes(2**10)
    refused(with_entry(tmp_path / "short.npz", "train_images", bomb), "1024 bytes in place of 2147483648")


def test_a_zip_bomb_is_refused_by_its_size(tmp_path, monkeypatch):
    from snnlth_jax.data import arrays as npz

    monkeypatch.setattr(npz, "_LARGEST", 10**5)
    np.savez_compressed(tmp_path / "bomb.npz", **arrays(train_images=np.zeros((24, 100, 100), np.uint8)))
    one_line(data.load, "bomb.npz", say=["bomb.npz: train_images would have 240,000 bytes"])
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    one_line(data.load, "bomb.npz", say=["its arrays would have", "half of the memory of this machine"])
    save_folder(tmp_path / "a", size=(30, 30))
    one_line(data.load, "a", say=["24 images of 30x30 pixels would have 21,600 bytes; allowed: 5,000"])


def test_damaged_files_are_one_line_or_harmless(tmp_path):
    save(tmp_path / "a.npz")
    intact, whole = (tmp_path / "a.npz").read_bytes(), data.load("a.npz")
    rng, refused = np.random.default_rng(0), 0
    for number in range(120):
        content = bytearray(intact)
        at = int(rng.integers(0, len(content) - 20))
        if number % 3 == 0:
            del content[at:]
        elif number % 3 == 1:
            content[at] ^= 1 << int(rng.integers(0, 8))
        else:
            content[at : at + 16] = rng.bytes(16)
        (tmp_path / f"{number}.npz").write_bytes(content)
        try:
            read = data.load(f"{number}.npz")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
        else:
            np.testing.assert_array_equal(read.train.images, whole.train.images)
    assert refused > 100


# ---------------------------------------------------------------- folders


def test_a_folder_gives_its_images_by_sorted_classes(tmp_path):
    save_folder(tmp_path / "insects", splits=SPLITS)
    (tmp_path / "insects/train/ant/.DS_Store").write_text("not an image")
    (tmp_path / "insects/train/ant/._0.png").write_text("not an image")
    (tmp_path / "insects/train/ant/notes.txt").write_text("not an image")
    mine = data.load("insects")
    assert (mine.name, mine.classes, mine.image_shape) == ("insects", ("ant", "bee", "cat"), (8, 8, 1))
    np.testing.assert_array_equal(mine.train.labels, np.repeat([0, 1, 2], 4))
    for split in SPLITS:
        with Image.open(tmp_path / "insects" / split / "bee" / "2.png") as picture:
            np.testing.assert_array_equal(getattr(mine, split).images[6, ..., 0], picture)
    assert data.load("./insects/").fingerprint == mine.fingerprint


def test_a_link_back_gives_no_image_twice_and_none_of_another_class(tmp_path):
    save_folder(tmp_path / "a")
    before = data.load("a").train.labels
    for name, target in (("again", ".."), ("same", "."), ("everything", "/")):
        (tmp_path / "a/train/ant" / name).symlink_to(target, target_is_directory=True)
    np.testing.assert_array_equal(data.load("a").train.labels, before)


def test_one_colour_image_makes_all_rgb(tmp_path):
    save_folder(tmp_path / "a")
    grey = data.load("a").train.images
    Image.fromarray(pixels(1, 8, 8, 3)[0]).save(tmp_path / "a/train/cat/3.png")
    colour = data.load("a")
    assert colour.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(colour.train.images[:11], np.repeat(grey[:11], 3, axis=-1))


def test_a_folder_without_test_has_its_validation_images_there(tmp_path):
    save_folder(tmp_path / "a", splits=("train", "val"))
    mine = data.load("a")
    assert mine.validation is None
    assert len(mine.test.labels) == 12


def test_decoded_folders_are_cached_by_their_files(tmp_path, monkeypatch):
    save_folder(tmp_path / "a")
    first = data.load("a")
    own._kept.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        assert data.load("a").fingerprint == first.fingerprint
    Image.fromarray(pixels(1, 8, 8, seed=9)[0]).save(tmp_path / "a/test/ant/0.png")
    assert data.load("a").fingerprint != first.fingerprint
    (tmp_path / "cache").rename(tmp_path / "moved")
    (tmp_path / "cache").write_text("a file, where a directory should be")
    own._kept.clear()
    assert len(data.load("a").train.labels) == 12  # nothing need be written


def test_folders_that_are_no_dataset(tmp_path):
    intact = tmp_path / "intact"
    save_folder(intact)

    def refused(*say, change):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        shutil.copytree(intact, tmp_path / "a")
        change(tmp_path / "a")
        one_line(data.load, "a", say=["dataset a: ", *say])

    def write(name, image):
        return lambda top: image.save(top / name)

    refused("no folder train (it holds test)", change=lambda top: shutil.rmtree(top / "train"))
    refused("no folder test", "DIR/test/CLASS", change=lambda top: shutil.rmtree(top / "test"))
    refused("no images in train/bee", change=lambda top: [f.unlink() for f in top.glob("train/bee/*")])
    refused("test/bee", change=lambda top: shutil.rmtree(top / "test/bee"))
    refused("test/dog is no class of train", change=lambda top: (top / "test/dog").mkdir())
    refused("1 classes", change=lambda top: [shutil.rmtree(top / "train" / c) for c in ("ant", "bee")])
    other = Image.fromarray(pixels(1, 6, 9)[0])
    refused(
        "train/bee/2.png has 9x6 pixels, train/ant/0.png 8x8",
        "resize",
        change=write("train/bee/2.png", other),
    )
    refused("test/cat/3.png has 9x6", change=write("test/cat/3.png", other))
    deep = Image.fromarray(pixels(1, 8, 8)[0].astype(np.uint16) * 256)
    refused("train/ant/1.png has pixels of Pillow's mode I;16", change=write("train/ant/1.png", deep))
    refused(
        "train/ant/1.png cannot be read",
        change=lambda top: (top / "train/ant/1.png").write_bytes(b"not an image"),
    )
    half = (intact / "test/bee/0.png").read_bytes()[:-30]
    refused("test/bee/0.png cannot be read", change=lambda top: (top / "test/bee/0.png").write_bytes(half))
    refused("test/bee/0.png", change=lambda top: (top / "test/bee/0.png").write_bytes(b""))


# ---------------------------------------------------------------- tfds, idx, functions


def test_any_prepared_dataset_of_tfds(tmp_path):
    root = tmp_path / "tfds"
    written = write_dataset(root, "insects", "1.2.0", shape=(9, 7, 3))
    mine = data.load("tfds:insects", root)
    assert (mine.name, mine.num_classes, mine.image_shape) == ("insects", 10, (9, 7, 3))
    for split, (images, labels) in written.items():
        np.testing.assert_array_equal(getattr(mine, split).images, images)
        np.testing.assert_array_equal(getattr(mine, split).labels, labels)
    assert mine.fingerprint.startswith("insects-1.2.0-")
    # its validation split is one here, and without a test split it is that
    info = root / "insects/1.2.0/dataset_info.json"
    held = json.loads(info.read_text())
    held["splits"][1]["name"] = "validation"
    held["splits"][1]["filepathTemplate"] = "{DATASET}-test.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info.write_text(json.dumps(held))
    again = data.load("tfds:insects", root)
    np.testing.assert_array_equal(again.test.images, mine.test.images)
    one_line(data.load, "tfds:ants", root, say=["snnlth data prepare tfds:ants"])
    for name in ("tfds:", "tfds:../x", "tfds:a/b/c"):
        one_line(data.load, name, root, say=["allowed: tfds:NAME"])


@pytest.mark.parametrize(("size", "say"), [("-1", "same for all images"), ("x", "features.json")])
def test_tfds_images_of_several_sizes(tmp_path, size, say):
    write_dataset(tmp_path, "insects", "1.0.0", shape=(9, 7, 3))
    file = tmp_path / "insects/1.0.0/features.json"
    file.write_text(file.read_text().replace('"9"', f'"{size}"'))
    one_line(data.load, "tfds:insects", tmp_path, say=[say])


@pytest.mark.parametrize(
    ("file", "text", "other", "say"),
    [
        ("features.json", '"10"', '"1000000000"', "1000000000 classes for"),
        ("features.json", '"10"', '"-1"', "-1 classes for"),
        ("features.json", '"label"', '"../../label"', "'../../label.labels.txt' is no name of a file"),
        ("features.json", "{", "[" * 9999, "features.json, RecursionError"),
        ("dataset_info.json", '"insects"', '"../insects"', "'../insects-train"),
        ("dataset_info.json", "{SPLIT}", "{SPLIT:>9999999999}", "is no name of a file"),
        ("dataset_info.json", "{SPLIT}", "{SPLIT.__class__}", "is no name of a file"),
        ("dataset_info.json", "{SPLIT}", "{PLACE}", "is no name of a file"),
    ],
)
def test_files_of_tfds_that_say_what_cannot_be(tmp_path, file, text, other, say):
    write_dataset(tmp_path, "insects", "1.0.0", shape=(9, 7, 3))
    info = tmp_path / "insects/1.0.0/dataset_info.json"
    held = json.loads(info.read_text())
    for split in held["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info.write_text(json.dumps(held))
    changed = tmp_path / "insects/1.0.0" / file
    assert text in changed.read_text()
    changed.write_text(changed.read_text().replace(text, other))
    one_line(data.load, "tfds:insects", tmp_path, say=[say])


def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path):
    write_dataset(tmp_path, "insects", "1.0.0", shape=(9, 7, 3))
    save_folder(tmp_path / "folder")
    write_idx(tmp_path / "MNIST/raw", packed=False)
    (tmp_path / "tiny-imagenet-200/train").mkdir(parents=True)
    (tmp_path / "tiny-imagenet-200/wnids.txt").touch()
    for name, file in (
        ("tfds:insects", "insects/1.0.0/label.labels.txt"),
        ("tfds:insects", "insects/1.0.0/features.json"),
        ("tfds:insects", "insects/1.0.0/dataset_info.json"),
        (str(tmp_path / "folder"), "folder/train/ant/0.png"),
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte"),
        ("tiny_imagenet", "tiny-imagenet-200/wnids.txt"),
    ):
        (tmp_path / file).unlink(missing_ok=True)
        os.mkfifo(tmp_path / file)
        one_line(data.load, name, tmp_path, say=[file.rpartition("/")[2]])


def idx(array, packed):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    return gzip.compress(content) if packed else content


def write_idx(directory, packed=True, labels=LABELS):
    directory.mkdir(parents=True)
    held = {"train": pixels(24, 28, 28), "t10k": pixels(24, 28, 28, seed=1)}
    for prefix, images in held.items():
        end = ".gz" if packed else ""
        (directory / f"{prefix}-images-idx3-ubyte{end}").write_bytes(idx(images, packed))
        (directory / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(idx(labels.astype(np.uint8), packed))
    return held


@pytest.mark.parametrize(
    ("name", "below", "packed"),
    [
        ("fashion_mnist", "", True),
        ("fashion_mnist", "FashionMNIST/raw", False),
        ("mnist", "MNIST/raw", True),
        ("mnist", "", False),
    ],
)
def test_idx_files(tmp_path, name, below, packed):
    held = write_idx(tmp_path / "root" / below, packed)
    mine = data.load(name, tmp_path / "root")
    assert (mine.image_shape, mine.num_classes) == ((32, 32, 1), 10)
    assert mine.augmentation == data.spec(name).augmentation
    for images, split in ((held["train"], mine.train), (held["t10k"], mine.test)):
        resized = Image.fromarray(images[5]).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(split.images[5, ..., 0], resized)
        np.testing.assert_array_equal(split.labels, LABELS)
    assert data.prepare(name, tmp_path / "root") == tmp_path / "root" / below


def test_idx_files_that_are_damaged_or_of_the_other_dataset(tmp_path):
    intact = tmp_path / "intact"
    write_idx(intact)
    image, label = "t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
    content = gzip.decompress((intact / image).read_bytes())
    for number, (file, wrong, say) in enumerate(
        [
            (label, None, "is missing"),
            (image, b"", "is no idx file"),
            (image, content[:-1], f"holds {24 * 784 - 1} of {24 * 784} bytes"),
            (image, content + b"x", "holds more than"),
            (image, gzip.compress(content)[:-9], "is damaged or truncated"),
            (image, content.replace(struct.pack(">2I", 28, 28), struct.pack(">2I", 56, 14)), "24x56x14"),
            (image, idx(pixels(23, 28, 28), False), "24 labels for 23 images"),
            (image, content[:4] + b"\xff" * 4 + content[8:], "declares 4294967295"),
            (label, idx(np.full(24, 10, np.uint8), True), "holds the label 10"),
        ]
    ):
        top = tmp_path / str(number)
        shutil.copytree(intact, top)
        (top / file).unlink()
        if wrong is not None:
            (top / file).write_bytes(wrong)
        one_line(data.load, "mnist", top, say=[top, say])
    first = np.resize([9, 0, 0, 3, 0, 2, 7, 2, 5, 5], 24)
    write_idx(tmp_path / "fashion", labels=first)
    one_line(data.load, "mnist", tmp_path / "fashion", say=["holds fashion_mnist"])
    assert data.load("fashion_mnist", tmp_path / "fashion").num_classes == 10


def test_a_function_in_the_current_directory(tmp_path):
    (tmp_path / "my_insects.py").write_text(
        "import numpy as np\n"
        "from snnlth_jax import data\n"
        "images, labels = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8), np.arange(6) % 3\n"
        "def load(name='insects', **options):\n"
        "    return data.Dataset.from_arrays(name, images, labels, images, labels, **options)\n"
        "def flipped(): return load(augment=['flip'])\n"
        "def known(): return load('cifar10')\n"
        "def wrong(): return load(mean=[0.5, 0.5])\n"
        "def edited(): return load()._replace(test=(images, labels - 1))\n"
        "def nothing(): return images\n"
        "def broken(): return images[7]\n"
        "def leaves(): raise SystemExit('bye\\nbye')\n"
        "def asks(path): return path\n"
    )
    (tmp_path / "my_error.py").write_text("import no_such_package\n")
    (tmp_path / "my_syntax.py").write_text("def load(:\n")
    mine = data.load("my_insects:load")
    assert (mine.name, mine.num_classes, mine.train.images.shape) == ("insects", 3, (6, 8, 8, 1))
    assert data.load("my_insects:flipped").augmentation.flip
    assert data.load("my_insects:known").name == "cifar10_function"
    for name, say in {
        "my_insects:wrong": "mean 0.5,0.5",
        "my_insects:edited": "label -1",
        "my_insects:nothing": "returned a ndarray; allowed: a snnlth_jax.data.Dataset",
        "my_insects:broken": "IndexError: index 7 is out of bounds",
        "my_insects:leaves": "SystemExit: bye bye",
        "my_insects:asks": "TypeError: asks() missing 1 required",
        "my_insects:loud": "nearest: load",
        "my_insects:labels": "is a ndarray; allowed: a function",
        "my_insect:load": "no module my_insect",
        "my_error:load": "importing my_error failed, ModuleNotFoundError: No module named 'no_such_package'",
        "my_syntax:load": "SyntaxError",
    }.items():
        one_line(data.load, name, say=[f"dataset {name}: ", say])


# ---------------------------------------------------------------- in the commands


def test_defaults_of_own_data(tmp_path):
    for side, arch in ((32, "vgg16"), (31, "vgg9"), (28, "vgg9"), (15, "vgg5"), (3, "resnet7")):
        images = pixels(24, side, side)
        save(tmp_path / f"n{side}.npz", train_images=images, test_images=images[:9])
        config = configs.resolve(configs.ImpConfig(dataset=f"n{side}.npz"))
        assert (config.arch, config.workdir) == (arch, f"runs/imp_n{side}_{arch}_seed0")
    assert (config.epochs, config.batch_size, config.learning_rate, config.rewind_epoch) == (150, 24, 0.1, 20)
    short = configs.resolve(configs.ImpConfig(dataset="n32.npz", epochs=2, train_examples=12))
    assert (short.rewind_epoch, short.batch_size) == (1, 12)
    assert configs.resolve(configs.ImpConfig(dataset="n32.npz", epochs=1)).rewind_epoch == 0


def test_augmentation_has_one_spelling():
    def resolved(augment):
        return configs.resolve(configs.ImpConfig(augment=augment)).augment

    assert resolved(("cutout", "crop")) == ("crop", "cutout") == resolved(["crop", "cutout"])
    assert resolved(()) is False is resolved(False)
    assert resolved(True) is True
    one_line(resolved, ("crop", "blur"), say=["augment blur: allowed: crop, flip, cutout"])
    one_line(resolved, ("crop", "crop"), say=["each once"])


BAD = {
    "none.npz": "no such file or folder; allowed: FILE.npz",
    "float.npz": "train_images float64",
    "empty": "no folder train",
    "no_such_module:load": "no module no_such_module",
    "tfds:none": "no such directory",
    "gs://bucket/a.npz": "local copy",
}
BAD_FLAGS = {
    "--arch vgg9": "--arch vgg9: the 8x8 images of a are too small for its pools",
    "--validation-examples 3 --train-examples 30": "--train-examples 30: allowed: 1 to 21",
    "--augment blur": "--augment blur: allowed: crop, flip, cutout",
    "--batch-size 25": "--batch-size 25: allowed: 1 to 24",
}
COMMANDS = ("imp --devices 1 --dataset", "doctor --dataset", "data check")


@pytest.mark.parametrize(
    ("command", "say"),
    [(f"{command} {name}", say) for command in COMMANDS for name, say in BAD.items()]
    + [(f"eb --devices 1 --dataset a.npz {flags}", say) for flags, say in BAD_FLAGS.items()],
)
def test_bad_data_is_one_line_and_nothing_is_written(command, say, tmp_path, capsys):
    save(tmp_path / "a.npz")
    save(tmp_path / "float.npz", train_images=pixels(24, 8, 8) / 255)
    (tmp_path / "empty").mkdir()
    before = {*tmp_path.iterdir()}
    status = main([*command.split(), "--data-dir", "nowhere"])
    out, err = capsys.readouterr()
    if command.startswith("doctor"):
        assert status == 1
        assert say.split(";")[0] in out
    else:
        assert status == 2
        assert err.startswith("snnlth: error: ")
        assert err.count("\n") == 1
        assert say in err
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "augment"),
    [
        ("", True),
        ("--augment", True),
        ("--augment --epochs 3", True),
        ("--no-augment", False),
        ("--augment none", False),
        ("--augment flip", ("flip",)),
        ("--augment cutout,crop", ("cutout", "crop")),
    ],
)
def test_flags_of_augmentation(flags, augment):
    assert words.parse(["imp", *flags.split()])[1].augment == augment


def test_data_check_and_doctor_say_what_there_is(tmp_path, capsys):
    save(tmp_path / "a.npz", classes=["ant", "bee", "cat"])
    assert main(["data", "check", "a.npz"]) == 0
    out = capsys.readouterr().out
    for line in ("name          a", "classes       3: ant, bee, cat", "8x8x1", "24 images, 8 to 8", "crop"):
        assert line in out
    main(["doctor", "--dataset", "a.npz"])
    assert "--dataset a.npz: 24 train and 9 test images of 8x8x1, 3 classes" in capsys.readouterr().out


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The digits from a file with their own normalisation, and by their name: two searches."""
    top, digits = tmp_path_factory.mktemp("own"), data.load("digits")
    splits = (*digits.train, *digits.test)
    facts = {"mean": digits.augmentation.mean, "std": digits.augmentation.std}
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(top / "numbers.npz", **dict(zip(names, splits, strict=True)), **facts)
    changes = {**small.NETWORK, "rounds": 2, "num_timesteps": 2, "rewind_epoch": 1, "learning_rate": 0.1}
    file = str(top / "numbers.npz")
    return top, changes, [_search(top / "npz", file, changes), _search(top / "name", "digits", changes)]


def _search(directory, dataset, changes, **more):
    changes = {name: value for name, value in changes.items() if name != "width"} | more
    config = configs.ImpConfig(dataset=dataset, arch="vgg5", workdir=str(directory), **changes)
    console = Console(file=io.StringIO(), width=200)
    result = imp.search(configs.resolve(config), model=small.MODEL, console=console)
    return result, console.file.getvalue()


def test_a_search_on_the_same_images_from_a_file_is_the_same_search(searched):
    _, _, ((file, printed), (named, _)) = searched
    assert [row.final_test_accuracy for row in file.rounds] == [r.final_test_accuracy for r in named.rounds]
    assert [row.kept for row in file.rounds] == [row.kept for row in named.rounds]
    assert (file.config["dataset"], file.config["augment"]) == ("numbers", True)
    assert file.config["dataset_fingerprint"].startswith("numbers-npz-")
    assert "imp on numbers" in printed
    differs = {name for name in file.config if file.config[name] != named.config[name]}
    assert differs == {"dataset", "dataset_fingerprint"}


def test_a_finished_search_is_known_wherever_the_file_lies(searched, tmp_path):
    top, changes, _ = searched
    shutil.copy(top / "numbers.npz", tmp_path / "numbers.npz")
    _, printed = _search(top / "npz", "numbers.npz", changes)
    assert "this search is finished" in printed
    with np.load(top / "numbers.npz") as held:
        changed = {name: held[name] for name in held.files}
    changed["test_images"] = 255 - changed["test_images"]
    np.savez(tmp_path / "numbers.npz", **changed)
    one_line(_search, top / "npz", "numbers.npz", changes, say=["dataset_fingerprint"])


def test_chosen_steps_of_augmentation_are_a_part_of_the_identity(searched):
    top, changes, _ = searched
    other = {"augment": ("crop", "flip"), "say": ["augment True"]}
    one_line(_search, top / "npz", str(top / "numbers.npz"), changes, **other)


def test_the_report_warns_of_different_data_under_one_name(searched, tmp_path, caplog, capsys, monkeypatch):
    top, _, _ = searched
    monkeypatch.setattr(report, "draw", lambda *args: ([], []))  # the page without its plots
    shutil.copytree(top / "npz", tmp_path / "one")
    report.write([str(tmp_path / "one")], str(tmp_path / "alone"))
    assert "different data" not in (tmp_path / "alone/report.html").read_text() + caplog.text
    shutil.copytree(top / "npz", tmp_path / "two")
    for name in ("result.json", "config.json"):
        file = tmp_path / "two" / name
        file.write_text(file.read_text().replace("numbers-npz-", "numbers-npz-0"))
    assert main(["report", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path)]) == 0
    page, printed = (tmp_path / "report.html").read_text(), capsys.readouterr().out
    for text in (page, printed):
        assert "numbers, vgg5: searches on different data are put together" in text
        assert "numbers-npz-0" in text
