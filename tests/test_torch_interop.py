import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnlth_jax.interop.torch import from_state_dict, to_state_dict
from snnlth_jax.models import VGG, ResNet

SMALL_VGG = VGG(features=(2, "M", 3, "M"), num_classes=4)
SMALL_RESNET = ResNet(stage_sizes=(1, 1), widths=(2, 3), stem=2, hidden=4, num_classes=4)
IMAGES = jax.ShapeDtypeStruct((1, 8, 12, 3), jnp.float32)


def state_dict_of(model, images=IMAGES, dtype=np.float32):
    """Random entries of the right names and shapes."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, num_timesteps=1), images)
    rng = np.random.default_rng(0)
    return to_state_dict(model, jax.tree.map(lambda s: rng.normal(size=s.shape).astype(dtype), shapes))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
def test_round_trip_is_bitwise(model, dtype):
    state_dict = state_dict_of(model, dtype=dtype)
    back = to_state_dict(model, from_state_dict(model, state_dict, IMAGES))
    assert back.keys() == state_dict.keys()
    for name, array in state_dict.items():
        assert back[name].dtype == dtype
        assert back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("name", ["vgg_small", "resnet_small"])
def test_names_and_shapes_are_the_authors(name, golden):
    vectors = np.load(golden / f"{name}.npz")
    expected = {key[5:]: vectors[key].shape for key in vectors.files if key.startswith("init/")}
    if name == "vgg_small":
        model = VGG(features=(8, "M", 16, 16, "M", 16, "M"))
    else:
        model = ResNet(stage_sizes=(1, 2), widths=(12, 16), stem=8, hidden=16)
    state_dict = state_dict_of(model, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    assert {key: array.shape for key, array in state_dict.items()} == expected


def test_readout_sees_the_flattened_map():
    """PyTorch flattens C, H, W and we flatten H, W, C; the logits are the same."""
    state_dict = state_dict_of(SMALL_VGG)
    variables = from_state_dict(SMALL_VGG, state_dict, IMAGES)
    maps = np.random.default_rng(1).normal(size=(5, 3, 2, 3)).astype(np.float32)  # B, C, H, W
    theirs = maps.reshape(5, -1) @ state_dict["classifier.weight"].T
    ours = maps.transpose(0, 2, 3, 1).reshape(5, -1) @ variables["params"]["readout"]["kernel"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_kernels_are_transposed():
    state_dict = state_dict_of(SMALL_RESNET)
    params = from_state_dict(SMALL_RESNET, state_dict, IMAGES)["params"]
    kernel = params["block2_1"]["shortcut"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, state_dict["layer2.0.shortcut.0.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["hidden"]["kernel"], state_dict["fc1.weight"].T)


def test_prefix_and_counters_are_ignored():
    state_dict = state_dict_of(SMALL_VGG)
    theirs = {f"module.{name}": array for name, array in state_dict.items()}
    theirs["module.features.1.num_batches_tracked"] = np.array(3)
    jax.tree.map(
        np.testing.assert_array_equal,
        from_state_dict(SMALL_VGG, theirs, IMAGES),
        from_state_dict(SMALL_VGG, state_dict, IMAGES),
    )


def test_other_trees_of_the_same_structure():
    """Masks: None for what is not prunable is left out, booleans stay booleans."""
    params = from_state_dict(SMALL_VGG, state_dict_of(SMALL_VGG), IMAGES)["params"]
    masks = jax.tree.map(lambda p: p > 0 if p.ndim > 1 else None, params)
    exported = to_state_dict(SMALL_VGG, {"params": masks})
    assert set(exported) == {"features.0.weight", "features.4.weight", "classifier.weight"}
    assert all(mask.dtype == bool for mask in exported.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("features.1.running_var"), r"^features.1.running_var is missing .* shape \(2,\)$"),
        (lambda d: d.update({"fc.weight": np.ones(2)}), r"^fc.weight, shape \(2,\) .* is not in the model$"),
        (
            lambda d: d.update({"classifier.weight": np.ones((4, 3))}),
            r"^classifier.weight has shape \(4, 3\) in the state dict, \(4, 18\) in the model$",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_what_does_not_fit_is_named(change, message):
    state_dict = state_dict_of(SMALL_VGG)
    change(state_dict)
    with pytest.raises(ValueError, match=message):
        from_state_dict(SMALL_VGG, state_dict, IMAGES)
