"""TinyImageNet, from a small archive written here: 200 classes, three images of each."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from snnlth_jax import data
from snnlth_jax.cli import main
from snnlth_jax.configs import ImpConfig, resolve
from snnlth_jax.data import tiny_imagenet
from snnlth_jax.errors import InputError
from snnlth_jax.machine import doctor

CLASSES = [f"n{(7 * i) % 200:08d}" for i in range(200)]  # not sorted


def colour(label, image):
    return np.array([label, (17 * image + label) % 256, 255 - label], np.uint8)


def jpeg(label, image, mode="RGB", size=(64, 64)):
    """A picture of one colour, which JPEG keeps to a rounding error."""
    pixels = np.broadcast_to(colour(label, image), (*size[::-1], 3))
    coded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(coded, "JPEG", quality=100)
    return coded.getvalue()


def write_archive(root):
    """Two training images and a validation image of each class; every tenth class is grey."""
    top = root / "tiny-imagenet-200"
    (top / "val" / "images").mkdir(parents=True)
    (top / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    lines = []
    for label, name in enumerate(CLASSES):
        mode, folder = "L" if label % 10 == 0 else "RGB", top / "train" / name / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{name}_boxes.txt").write_text("")
        for image in range(2):
            (folder / f"{name}_{image}.JPEG").write_bytes(jpeg(label, image, mode))
        number = 199 - label
        (top / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(label, 2, mode))
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    return top


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_archive(root)
    return root


@pytest.fixture
def copy(written, tmp_path):
    """An archive to damage: the data directory, and the archive's folder."""
    shutil.copytree(written, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "tiny-imagenet-200"


def load(root, tmp_path):
    return data.load("tiny_imagenet", root, cache_dir=tmp_path / "cache")


def assert_coloured(split, images):
    """Each picture has the colour of its label and its number, or its grey."""
    for picture, label, image in zip(split.images, split.labels, images, strict=True):
        expected = colour(int(label), image)
        if label % 10 == 0:
            expected = np.full(3, expected @ (0.299, 0.587, 0.114))
        assert np.ptp(picture, (0, 1)).max() == 0
        assert abs(picture[0, 0] - expected.astype(float)).max() <= 3


def test_every_image_and_label(written, tmp_path, caplog, monkeypatch):
    loaded = load(written, tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    official = "where the official dataset has 100000 and 10000"
    assert warning == f"tiny_imagenet: 400 training and 200 test images, {official}"
    for split, size in ((loaded.train, 400), (loaded.test, 200)):
        assert (split.images.shape, split.images.dtype) == ((size, 64, 64, 3), np.uint8)
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(np.bincount(split.labels), size // 200)
    np.testing.assert_array_equal(loaded.train.labels, np.repeat(np.arange(200), 2))
    assert_coloured(loaded.train, [0, 1] * 200)
    assert_coloured(loaded.test, [2] * 200)
    assert (loaded.num_classes, loaded.image_shape) == (200, (64, 64, 3))
    assert loaded.fingerprint.startswith("tiny_imagenet-tiny-imagenet-200-")

    monkeypatch.setattr(tiny_imagenet, "decode", None)  # the cache is used
    again = load(written, tmp_path)
    np.testing.assert_array_equal(again.test.images, loaded.test.images)
    assert again.fingerprint == loaded.fingerprint


def test_images_next_to_the_boxes_and_no_list_of_classes(copy, tmp_path):
    root, top = copy
    for folder in (top / "train").iterdir():
        for file in (folder / "images").iterdir():
            file.rename(folder / file.name)
        (folder / "images").rmdir()
    flat = load(root, tmp_path)
    assert_coloured(flat.train, [0, 1] * 200)
    (top / "wnids.txt").unlink()
    by_name = load(root, tmp_path)
    order = np.argsort(CLASSES)
    np.testing.assert_array_equal(order[by_name.train.labels[::2]], order)
    np.testing.assert_array_equal(by_name.train.images[0], flat.train.images[2 * order[0]])
    assert by_name.fingerprint != flat.fingerprint


def test_a_changed_image_is_decoded_anew(copy, tmp_path):
    root, top = copy
    before = load(root, tmp_path)
    file = top / "val" / "images" / "val_199.JPEG"
    file.write_bytes(jpeg(100, 2))
    os.utime(file, (1, 1))
    after = load(root, tmp_path)
    changed = (before.test.images != after.test.images).any((1, 2, 3))
    assert changed.sum() == 1
    assert after.test.labels[changed] == 0
    assert after.fingerprint != before.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 2


# --- missing or damaged

FIRST = CLASSES[0]


def edit_annotations(top, change):
    file = top / "val" / "val_annotations.txt"
    file.write_text(change(file.read_text()))


DAMAGE = {
    "no folder": (lambda top: shutil.rmtree(top), "no directory"),
    "no train": (lambda top: shutil.rmtree(top / "train"), "FileNotFoundError"),
    "no validation": (lambda top: shutil.rmtree(top / "val" / "images"), "FileNotFoundError"),
    "no annotations": (lambda top: (top / "val" / "val_annotations.txt").unlink(), "val_annotations.txt"),
    "a class less": (
        lambda top: (top / "wnids.txt").write_text("\n".join(CLASSES[:9])),
        "9 classes, not 200",
    ),
    "a class without a folder": (lambda top: shutil.rmtree(top / "train" / FIRST), f"{FIRST} is not both in"),
    "a folder without a class": (lambda top: (top / "train" / "n9").mkdir(), "n9 is not both in wnids.txt"),
    "a class without images": (
        lambda top: [file.unlink() for file in (top / "train" / FIRST / "images").iterdir()],
        "no *.JPEG in",
    ),
    "an image missing": (
        lambda top: (top / "val" / "images" / "val_7.JPEG").unlink(),
        "val_7.JPEG is not both in val_annotations.txt and in val/images",
    ),
    "an image without a class": (
        lambda top: (top / "val" / "images" / "val_x.JPEG").write_bytes(jpeg(0, 0)),
        "val_x.JPEG is not both in",
    ),
    "an image twice": (
        lambda top: edit_annotations(top, lambda text: text + text[:30]),
        "has an image twice",
    ),
    "a wrong class": (
        lambda top: edit_annotations(top, lambda text: text.replace(CLASSES[9], "n99")),
        "has the class 'n99', which train does not have",
    ),
    "half a line": (
        lambda top: edit_annotations(top, lambda text: text[: text.rindex("\tn")]),
        "val_0.JPEG has the class ''",
    ),
    "an empty image": (
        lambda top: (top / "train" / FIRST / "images" / f"{FIRST}_1.JPEG").write_bytes(b""),
        f"1 empty files, the first {FIRST}_1.JPEG",
    ),
    "no image": (
        lambda top: (top / "train" / FIRST / "images" / f"{FIRST}_1.JPEG").write_bytes(b"no picture"),
        f"{FIRST}_1.JPEG, UnidentifiedImageError",
    ),
    "half an image": (
        lambda top: os.truncate(top / "val" / "images" / "val_5.JPEG", 500),
        "val_5.JPEG, ",
    ),
    "another size": (
        lambda top: (top / "val" / "images" / "val_5.JPEG").write_bytes(jpeg(3, 0, size=(32, 64))),
        "val_5.JPEG, ValueError: 64x32 pixels, not 64x64",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_missing_or_damaged_is_one_line(copy, tmp_path, how):
    root, top = copy
    change, say = DAMAGE[how]
    change(top)
    with pytest.raises(InputError) as caught:
        load(root, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"data_dir {root}: ")
    assert say in message
    assert message.endswith(f"unpack it in {root}, which this program does not do")
    assert not (tmp_path / "cache").exists()


def test_a_bucket_is_refused():
    with pytest.raises(
        InputError, match=r"^data_dir gs://b/data: the images of tiny_imagenet are not read from"
    ):
        data.locate("tiny_imagenet", "gs://b/data")


def test_prepare_says_where_to_get_it(written, tmp_path, capsys):
    assert main(["data", "prepare", "tiny_imagenet", "--data-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert tiny_imagenet.ADDRESS in line
    assert main(["data", "prepare", "tiny_imagenet", "--data-dir", str(written)]) == 0
    assert capsys.readouterr().out == f"tiny_imagenet: ready in {written / 'tiny-imagenet-200'}\n"


def test_the_doctor_looks_for_it(written, tmp_path):
    (finding,) = doctor.images("tiny_imagenet", str(written))
    assert finding.level == "ok"
    assert "400 train and 200 test images in" in finding.what
    (finding,) = doctor.images("tiny_imagenet", str(tmp_path))
    assert (finding.level, finding.remedy[:4]) == ("error", "get ")


def test_defaults_are_those_of_cifar_with_resnet34():
    config, cifar = (resolve(ImpConfig(dataset=name)) for name in ("tiny_imagenet", "cifar10"))
    assert config.arch == "resnet34"
    for name in ("num_timesteps", "epochs", "batch_size", "learning_rate", "rewind_epoch", "rounds"):
        assert getattr(config, name) == getattr(cifar, name)
