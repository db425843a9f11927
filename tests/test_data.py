"""Datasets, read through the public surface from tiny ones written here as TFDS lays them out."""

import importlib.machinery
import io
import json
import os
import shutil
import sys
import types
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from snnlth_jax import data
from snnlth_jax.data import cache as npz
from snnlth_jax.errors import InputError

SIZES = {"train": 60, "test": 24}  # in two shards each
SHARD = "cifar10-train.array_record-00001-of-00002"


def write_dataset(root, name="cifar10", version="3.0.2", seed=0, classes=10, shape=None, form="array_record"):
    """Random images, as `download_and_prepare(file_format="array_record")` would leave them."""
    directory = root / name / version
    directory.mkdir(parents=True)
    shape = shape or data.spec(name).stored_shape
    rng = np.random.default_rng(seed)
    splits, arrays = [], {}
    for split, size in SIZES.items():
        images = rng.integers(0, 256, (size, *shape), np.uint8)
        labels = rng.permutation(np.arange(size) % classes)
        for shard in range(2):
            writer = ArrayRecordWriter(
                f"{directory}/{name}-{split}.{form}-{shard:05d}-of-00002", "group_size:1"
            )
            for i in range(shard * size // 2, (shard + 1) * size // 2):
                coded = io.BytesIO()
                Image.fromarray(images[i].squeeze()).save(coded, "PNG")
                record = tf_example_pb2.Example()
                record.features.feature["image"].bytes_list.value.append(coded.getvalue())
                record.features.feature["label"].int64_list.value.append(labels[i])
                writer.write(record.SerializeToString())
            writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(size // 2)] * 2
        splits.append({"name": split, "filepathTemplate": template, "numBytes": "1", "shardLengths": lengths})
        arrays[split] = images, labels
    info = {"name": name, "version": version, "fileFormat": form, "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    label = tfds.features.ClassLabel(num_classes=10)
    tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), "label": label}).save_config(
        directory
    )
    return arrays


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    return root, write_dataset(root)


@pytest.fixture
def copy(written, tmp_path):
    """A dataset to damage: its data directory, and the directory of its files."""
    shutil.copytree(written[0], tmp_path / "tfds")
    return tmp_path / "tfds", tmp_path / "tfds" / "cifar10" / "3.0.2"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def same(a, b):
    for x, y in zip((*a.train, *a.test), (*b.train, *b.test), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.fingerprint == b.fingerprint


def one_line(function, *args, say, **options):
    """Expects a one-line error that says all of these."""
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in say:
        assert str(part) in message


# ---------------------------------------------------------------- what is loaded


def test_every_pixel_and_label(written, cache):
    root, arrays = written
    loaded = data.load("cifar10", root, cache_dir=cache)
    for split, (images, labels) in ((loaded.train, arrays["train"]), (loaded.test, arrays["test"])):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert loaded.validation is None
    assert (loaded.name, loaded.num_classes, loaded.image_shape) == ("cifar10", 10, (32, 32, 3))
    assert loaded.augmentation == data.spec("cifar10").augmentation


def test_fashion_mnist_is_resized_and_stays_grey(tmp_path, cache):
    images, _ = write_dataset(tmp_path, "fashion_mnist", "3.0.1")["train"]
    loaded = data.load("fashion_mnist", tmp_path, cache_dir=cache)
    assert loaded.train.images.shape == (60, 32, 32, 1)
    first = Image.fromarray(images[0, :, :, 0])
    resized = first.resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(loaded.train.images[0, :, :, 0], resized)
    flipped = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # may as well come after resizing
    np.testing.assert_array_equal(
        flipped.resize((32, 32), Image.Resampling.BILINEAR), np.asarray(resized)[:, ::-1]
    )


def test_environment_names_the_directories(written, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(written[0]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SNNLTH_CACHE_DIR", raising=False)
    data.load("cifar10")
    assert len(list((tmp_path / "xdg" / "snnlth_jax").iterdir())) == 1
    monkeypatch.setenv("SNNLTH_CACHE_DIR", str(tmp_path / "chosen"))
    data.load("cifar10")
    assert len(list((tmp_path / "chosen").iterdir())) == 1


def test_other_sizes_than_the_official_ones_are_a_warning(written, cache, caplog):
    data.load("cifar10", written[0], cache_dir=cache)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    official = "where the official dataset has 50000 and 10000"
    assert warning == f"cifar10: 60 training and 24 test images, {official}"
    data.load("digits")
    assert len(caplog.records) == 1


def test_newest_version_is_read(copy, cache):
    root, _ = copy
    arrays = write_dataset(root, version="10.0.0", seed=1)
    (root / "cifar10" / "11.0.0").mkdir()  # holds nothing, so does not count
    loaded = data.load("cifar10", root, cache_dir=cache)
    np.testing.assert_array_equal(loaded.train.images, arrays["train"][0])
    assert "10.0.0" in loaded.fingerprint


def test_digits():
    loaded = data.load("digits")
    for split, size in ((loaded.train, 1437), (loaded.test, 360)):
        assert split.images.shape == (size, 8, 8, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert (split.images.min(), split.images.max()) == (0, 255)
        assert set(split.labels) == set(range(10))
    np.testing.assert_array_equal(np.bincount(loaded.test.labels), 36)
    assert loaded.fingerprint == "digits-scikit-learn-ff9f8ee0788c4257"  # the same split for good
    same(loaded, data.load("digits", seed=7))
    facts, pixels = data.spec("digits"), loaded.train.images / 255
    assert (facts.train_size, facts.test_size) == (1437, 360)
    assert pixels.mean() == pytest.approx(facts.augmentation.mean[0], abs=1e-3)
    assert pixels.std() == pytest.approx(facts.augmentation.std[0], abs=1e-3)


def test_specs_are_consistent():
    for name, facts in data.dataset.SPECS.items():
        assert facts is data.spec(name)
        assert facts.image_shape[-1] == facts.stored_shape[-1] == len(facts.augmentation.mean)
        hash(facts.augmentation)


# ---------------------------------------------------------------- training subset and validation split


def ids(split):
    """Key that tells the (random) images of a split apart."""
    return [image.tobytes() for image in split.images]


def test_split_and_cap(written, cache):
    def load(**options):
        return data.load("cifar10", written[0], cache_dir=cache, **options)

    full, cut = load(), load(validation_examples=20, train_examples=30, seed=3)
    truth = dict(zip(ids(full.train), full.train.labels, strict=True))
    for split, each in ((cut.train, 3), (cut.validation, 2)):
        np.testing.assert_array_equal(np.bincount(split.labels), [each] * 10)
        assert [truth[i] for i in ids(split)] == list(split.labels)
    assert not set(ids(cut.train)) & set(ids(cut.validation))
    assert (len(cut.test.labels), cut.fingerprint) == (24, full.fingerprint)
    same(cut, load(validation_examples=20, train_examples=30, seed=3))
    assert ids(cut.train) != ids(load(validation_examples=20, train_examples=30, seed=4).train)
    # the cap comes after the split, and smaller caps are parts of larger ones
    assert ids(load(validation_examples=20, seed=3).validation) == ids(cut.validation)
    assert set(ids(load(validation_examples=20, train_examples=7, seed=3).train)) < set(ids(cut.train))
    # a cap on the test images is the same whatever the seed
    few = load(test_examples=10, seed=5)
    np.testing.assert_array_equal(np.bincount(few.test.labels), [1] * 10)
    assert ids(few.test) == ids(load(test_examples=10).test)
    everything = load(validation_examples=20, train_examples=40)
    assert sorted(ids(everything.train) + ids(everything.validation)) == sorted(ids(full.train))


def test_uneven_classes_give_what_there_is():
    labels = np.repeat(np.arange(3, dtype=np.int32), [2, 18, 40])
    split = data.Split(np.zeros((60, 1, 1, 1), np.uint8), labels)
    taken, rest = data.dataset._draw(split, 15, (0, 0))
    assert sorted(np.bincount(taken.labels)) == [2, 6, 7]
    assert len(rest.labels) == 45


@pytest.mark.parametrize(
    ("options", "given", "allowed"),
    [
        ({"train_examples": 0}, "train_examples 0", "1 to 1437"),
        ({"train_examples": 1438}, "train_examples 1438", "1 to 1437"),
        ({"train_examples": 1400, "validation_examples": 100}, "train_examples 1400", "1 to 1337"),
        ({"test_examples": 0}, "test_examples 0", "1 to 360"),
        ({"test_examples": 361}, "test_examples 361", "1 to 360"),
        ({"validation_examples": -1}, "validation_examples -1", "0 to 1436"),
        ({"validation_examples": 1437}, "validation_examples 1437", "0 to 1436"),
        ({"seed": -1}, "seed -1", "0 or more"),
    ],
)
def test_numbers_out_of_range(options, given, allowed):
    one_line(data.load, "digits", **options, say=[given, allowed])


@pytest.mark.parametrize("function", [data.spec, data.load, data.prepare])
def test_unknown_name(function):
    known = "digits, cifar10, cifar100, svhn_cropped, fashion_mnist"
    one_line(function, "imagenet", say=["dataset imagenet", known])


def test_digits_without_scikit_learn(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    one_line(data.load, "digits", cache_dir=cache, say=["pip install 'snnlth_jax[demo]'"])

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(data.dataset, "version", not_installed)
    one_line(data.load, "digits", cache_dir=cache, say=["pip install 'snnlth_jax[demo]'"])


def test_digits_that_were_kept_are_those_of_scikit_learn(monkeypatch, cache):
    fresh = data.load("digits", cache_dir=cache)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    kept = data.load("digits", cache_dir=cache)
    assert kept.fingerprint == fresh.fingerprint
    np.testing.assert_array_equal(kept.train.images, fresh.train.images)


# ---------------------------------------------------------------- data that is missing or damaged


def fails(root, cache, *say):
    remedy = f"snnlth data prepare cifar10 --data-dir {root}"
    one_line(data.load, "cifar10", root, cache_dir=cache, say=[f"data_dir {root}", remedy, *say])
    assert not cache.exists()  # nothing is kept of it


def test_nothing_there(tmp_path, cache):
    fails(tmp_path / "none", cache, "no such directory")
    fails(tmp_path, cache, "dataset_info.json")
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    fails(tmp_path, cache, "dataset_info.json")
    (tmp_path / "cifar10" / "incomplete.ABCDEF_3.0.2").mkdir()
    fails(tmp_path, cache, "unfinished", "incomplete.ABCDEF_3.0.2")


@pytest.mark.parametrize("file", [SHARD, "features.json"])
def test_missing_or_empty_file(copy, cache, file):
    root, directory = copy
    (directory / file).write_bytes(b"")
    fails(root, cache, directory, "1 of 5 files missing or empty", file)
    (directory / file).unlink()
    fails(root, cache, directory, "1 of 5 files missing or empty", file)


@pytest.mark.parametrize(
    "text", ["", '{"name": "cif', "[]", "null", "{}", '{"name": "x", "splits": []}', "\0", "[" * 9999]
)
def test_damaged_dataset_info(copy, cache, text):
    root, directory = copy
    (directory / "dataset_info.json").write_text(text)
    fails(root, cache, directory, "dataset_info.json")


@pytest.mark.parametrize(
    ("lengths", "say"),
    [
        (["30", "29"], "30 instead of 29 images"),
        (["30", "31"], "30 instead of 31 images"),
        (["30", "x"], "dataset_info.json"),
        (["0", "0"], "no images in train"),
        (["31", "-1"], "2 files of train, of -1 images"),
        ([float("inf")], "dataset_info.json"),
    ],
)
def test_another_number_of_images(copy, cache, lengths, say):
    root, directory = copy
    info = json.loads((directory / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = lengths
    (directory / "dataset_info.json").write_text(json.dumps(info))
    fails(root, cache, directory, say)


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.7, 0.999])
def test_truncated_shard(copy, cache, kept):
    root, directory = copy
    os.truncate(directory / SHARD, int((directory / SHARD).stat().st_size * kept))
    fails(root, cache, directory)


@pytest.mark.parametrize("file", [SHARD, "features.json"])
def test_corrupt_file(copy, cache, file):
    root, directory = copy
    content = bytearray((directory / file).read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    (directory / file).write_bytes(content)
    fails(root, cache, directory)


def test_other_images(tmp_path, cache):
    write_dataset(tmp_path / "grey", shape=(32, 32, 1))
    fails(tmp_path / "grey", cache, "(32, 32, 1)", "(32, 32, 3)")
    write_dataset(tmp_path / "labels", classes=11)
    fails(tmp_path / "labels", cache, "label 10, not 0 to 9")
    write_dataset(tmp_path / "format", form="tfrecord")
    say = [f"data_dir {tmp_path / 'format'}", "tfrecord", "allowed: array_record"]
    one_line(data.load, "cifar10", tmp_path / "format", cache_dir=cache, say=say)


def test_directory_that_cannot_be_listed(written, monkeypatch):
    def refuse(path):
        raise PermissionError(f"not\nfor you: {path}")

    monkeypatch.setattr(type(epath.Path("/")), "iterdir", refuse)
    one_line(data.load, "cifar10", written[0], say=[f"data_dir {written[0]}: cannot be read", "for you"])


# ---------------------------------------------------------------- the cache


def of_the_cache(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "snnlth_jax.data.cache"]


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(tfds, "data_source", None)
    monkeypatch.setitem(sys.modules, "array_record.python", None)


DAMAGE = {
    "byte": lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 1]) + c[len(c) // 2 + 1 :],
    "truncated": lambda c: c[: len(c) // 2],
    "empty": lambda c: b"",
    "garbage": lambda c: b"not a zip archive" * 100,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_cache_is_noticed_and_rebuilt(written, cache, caplog, how, monkeypatch):
    first = data.load("cifar10", written[0], cache_dir=cache)
    (file,) = cache.iterdir()
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    same(first, data.load("cifar10", written[0], cache_dir=cache))
    (warning,) = of_the_cache(caplog)
    assert str(file) in warning
    assert list(cache.iterdir()) == [file]
    forbid_decoding(monkeypatch)
    same(first, data.load("cifar10", written[0], cache_dir=cache))


def test_damage_anywhere_in_the_cache_is_noticed_or_harmless(written, cache):
    first = data.load("cifar10", written[0], cache_dir=cache)
    (file,) = cache.iterdir()
    intact = file.read_bytes()
    expected = {"train_images": ((60, 32, 32, 3), np.uint8), "test_labels": ((24,), np.int32)}
    for position in [*range(0, 200, 7), *range(len(intact) - 400, len(intact), 7)]:
        content = bytearray(intact)
        content[position] ^= 0xFF
        file.write_bytes(content)
        if (arrays := npz.read(file, expected)) is not None:
            np.testing.assert_array_equal(arrays["train_images"], first.train.images)
            np.testing.assert_array_equal(arrays["test_labels"], first.test.labels)


def test_cache_of_other_arrays_is_rebuilt(written, cache, caplog):
    first = data.load("cifar10", written[0], cache_dir=cache)
    (file,) = cache.iterdir()
    np.savez(file, train_images=first.train.images)
    same(first, data.load("cifar10", written[0], cache_dir=cache))
    with np.load(file) as archive:
        fewer = {name: array[1:] for name, array in archive.items()}
    np.savez(file, **fewer)
    same(first, data.load("cifar10", written[0], cache_dir=cache))
    assert len(of_the_cache(caplog)) == 2


def test_changed_source_is_decoded_anew(copy, cache):
    root, directory = copy
    data.load("cifar10", root, cache_dir=cache)
    shutil.rmtree(directory)
    arrays = write_dataset(root, seed=5)
    loaded = data.load("cifar10", root, cache_dir=cache)
    np.testing.assert_array_equal(loaded.train.images, arrays["train"][0])
    for file in directory.iterdir():  # the same content at another time has the same fingerprint
        os.utime(file, (1, 1))
    same(loaded, data.load("cifar10", root, cache_dir=cache))
    assert len(list(cache.iterdir())) == 3


def test_cache_that_cannot_be_written_is_a_warning(written, cache, caplog):
    cache.write_text("a file, where a directory should be")
    assert len(data.load("cifar10", written[0], cache_dir=cache).train.labels) == 60
    assert "cannot keep" in caplog.records[-1].getMessage()


# ---------------------------------------------------------------- preparing


def test_prepare_when_there_is_nothing_to_do(written, caplog):
    caplog.set_level("INFO")
    assert data.prepare("digits") is None
    assert "nothing to prepare" in caplog.records[-1].getMessage()
    assert data.prepare("cifar10", written[0]) == written[0] / "cifar10" / "3.0.2"
    assert "prepared already" in caplog.records[-1].getMessage()


def test_prepare_in_a_bucket_is_refused_with_the_way_round():
    one_line(data.prepare, "cifar10", "gs://b/data", say=["cp --recursive DIR/cifar10 gs://b/data/"])


def test_prepare(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    one_line(data.prepare, "cifar10", tmp_path, say=["pip install tensorflow"])
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.__spec__ = importlib.machinery.ModuleSpec("tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)

    def builder(name, *, data_dir, file_format):
        return types.SimpleNamespace(
            download_and_prepare=lambda: write_dataset(data_dir, name, form=file_format)
        )

    monkeypatch.setattr(tfds, "builder", builder)
    assert data.prepare("cifar10", tmp_path) == tmp_path / "cifar10" / "3.0.2"

    def offline(name, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds, "builder", offline)
    one_line(data.prepare, "cifar100", tmp_path, say=["data prepare cifar100", "no route to host"])
