"""The augmentation against its definition: windows, mirrors and squares, and how often each is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnlth_jax.data.augment import Augmentation, augment, normalise

PLAIN = Augmentation(mean=(0.0, 0.0), std=(1 / 255, 1 / 255))  # gives the pixel values themselves
B, H, W, C = 4000, 6, 5, 2
# no zeros, and all pixels of a channel different, so that a window says where it was taken
IMAGE = np.arange(1, H * W * C + 1, dtype=np.uint8).reshape(H, W, C)
IMAGES = jnp.broadcast_to(jnp.asarray(IMAGE), (B, H, W, C))

compiled = jax.jit(augment, static_argnums=(2, 3))


def run(key=0, **options):
    augmentation = Augmentation(PLAIN.mean, PLAIN.std, **options)
    return np.rint(np.asarray(compiled(jax.random.key(key), IMAGES, augmentation))).astype(np.uint8)


def evenly(counts, outcomes):
    """Whether counts of equally likely outcomes pass a chi-squared test (5 standard deviations)."""
    assert len(counts) == outcomes
    expected = sum(counts) / outcomes
    chi2 = sum((count - expected) ** 2 / expected for count in counts)
    return chi2 < (outcomes - 1) + 5 * np.sqrt(2 * (outcomes - 1))


def test_all_off_is_normalise():
    augmentation = Augmentation((0.3, 0.6), (0.2, 0.5))
    images = IMAGES[:8]
    alone = jax.jit(normalise, static_argnums=1)(images, augmentation)
    np.testing.assert_array_equal(compiled(jax.random.key(0), images, augmentation), alone)
    np.testing.assert_array_equal(run(), IMAGES)


def test_normalise_against_numpy():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    mean, std = (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)
    want = (images / 255 - np.array(mean)) / np.array(std)
    for shape in ((3, 4, 5, 3), (12, 5, 3), (60, 3)):
        got = normalise(jnp.asarray(images).reshape(shape), Augmentation(mean, std))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want.reshape(shape), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_round_only_once(dtype):
    narrow = compiled(jax.random.key(0), IMAGES[:8], PLAIN, dtype)
    np.testing.assert_array_equal(narrow, compiled(jax.random.key(0), IMAGES[:8], PLAIN).astype(dtype))


def test_double_precision(x64):
    images = jnp.arange(256, dtype=jnp.uint8)[:, None]
    got = normalise(images, Augmentation((0.3,), (0.7,)), jnp.float64)
    np.testing.assert_allclose(got[:, 0], (np.arange(256) / 255 - 0.3) / 0.7, rtol=1e-14, atol=1e-15)
    assert compiled(jax.random.key(0), IMAGES[:2], PLAIN, jnp.float64).dtype == jnp.float64


def test_crops_are_windows_of_the_padded_image_and_equally_likely():
    p = 2
    padded = np.pad(IMAGE, ((p, p), (p, p), (0, 0)))
    windows = {
        padded[i : i + H, j : j + W].tobytes(): (i, j) for i in range(2 * p + 1) for j in range(2 * p + 1)
    }
    assert len(windows) == 25
    drawn = [windows[image.tobytes()] for image in run(crop_padding=p)]  # a KeyError: not a window
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert evenly(counts, 25)


def test_flip_mirrors_half_of_the_images():
    images = run(flip=True)
    mirrored = (images == IMAGE[:, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal((images == IMAGE).all((1, 2, 3)), ~mirrored)
    assert evenly([mirrored.sum(), (~mirrored).sum()], 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 20])
def test_cutout_clears_a_clipped_square_with_a_uniform_centre(size):
    images = run(cutout=size)
    squares = {}
    for u in range(H):
        for v in range(W):
            top, left = u - size // 2, v - size // 2
            want = IMAGE.copy()
            want[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
            squares.setdefault(want.tobytes(), []).append((u, v))
    drawn = dict.fromkeys(squares, 0)
    for image in images:
        drawn[image.tobytes()] += 1  # a KeyError: not a clipped square
    expected = {square: B * len(centres) / (H * W) for square, centres in squares.items()}
    for square, count in drawn.items():
        assert abs(count - expected[square]) <= 5 * np.sqrt(expected[square])
    if size == 4:  # areas by hand: along 6 rows 2 3 4 4 4 3, along 5 columns 2 3 4 4 3
        area = (images == 0).all(-1).sum((1, 2))
        assert area.min() == 4
        assert area.max() == 16
        assert area.mean() == pytest.approx(20 / 6 * 16 / 5, rel=0.02)


def test_what_is_cleared_is_black_before_normalising():
    augmentation = Augmentation((0.25, 0.5), (0.5, 2.0), cutout=20, crop_padding=1)
    out = compiled(jax.random.key(0), IMAGES[:4], augmentation)
    np.testing.assert_array_equal(out, jnp.broadcast_to(jnp.array([-0.5, -0.25]), out.shape))


def test_draws_are_independent_of_each_other():
    images = run(crop_padding=1, flip=True)
    outcomes = {}
    for image in (IMAGE, IMAGE[:, ::-1]):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        outcomes |= {padded[i : i + H, j : j + W].tobytes(): 0 for i, j in np.ndindex(3, 3)}
    for image in images:
        outcomes[image.tobytes()] += 1
    assert evenly(list(outcomes.values()), 18)


def test_same_key_same_images():
    options = {"crop_padding": 2, "flip": True, "cutout": 3}
    np.testing.assert_array_equal(run(0, **options), run(0, **options))
    assert (run(0, **options) != run(1, **options)).any((1, 2, 3)).mean() > 0.9
    assert len(np.unique(run(0, **options), axis=0)) > 500  # of equal images: each has its own draws


def test_eager_jit_and_vmap_give_the_same_numbers():
    augmentation = Augmentation((0.4, 0.5), (0.2, 0.3), crop_padding=2, flip=True, cutout=3)
    keys = jax.random.split(jax.random.key(3), 3)
    images = IMAGES[:24].reshape(3, 8, H, W, C)
    one_by_one = [compiled(key, batch, augmentation) for key, batch in zip(keys, images, strict=True)]
    mapped = jax.jit(jax.vmap(functools.partial(augment, augmentation=augmentation)))(keys, images)
    np.testing.assert_allclose(mapped, jnp.stack(one_by_one), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(augment(keys[0], images[0], augmentation), one_by_one[0], rtol=1e-5, atol=1e-6)


def test_a_batch_spread_over_devices_gives_the_same_numbers():
    augmentation = Augmentation((0.0, 0.0), (1.0, 1.0), crop_padding=2, flip=True, cutout=3)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(IMAGES[:64], jax.NamedSharding(mesh, jax.P("batch")))
    np.testing.assert_array_equal(
        compiled(jax.random.key(0), spread, augmentation),
        compiled(jax.random.key(0), IMAGES[:64], augmentation),
    )


@pytest.mark.parametrize("images", [IMAGES[:1].astype(jnp.float32), IMAGES[:1, ..., :1]])
def test_images_of_another_kind(images):
    with pytest.raises(ValueError, match="expected uint8 images of 2 channels"):
        augment(jax.random.key(0), images, PLAIN)


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": (0.5,), "std": (0.5, 0.5)},
        {"mean": (0.5,), "std": (0.0,)},
        {"mean": (0.5,), "std": (0.5,), "crop_padding": -1},
        {"mean": (0.5,), "std": (0.5,), "cutout": -1},
    ],
)
def test_impossible_augmentations(fields):
    with pytest.raises(ValueError, match=r"per channel|must be >= 0"):
        Augmentation(**fields)
