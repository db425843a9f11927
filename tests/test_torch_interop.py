import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnlth_jax.interop.torch import from_state_dict, to_state_dict
from snnlth_jax.models import VGG, ResNet

SMALL_VGG = VGG(features=(2, "M", 3, "M"), num_classes=4)
SMALL_RESNET = ResNet(stage_sizes=(1, 1), widths=(2, 3), stem=2, hidden=4, num_classes=4)
SMALL_ALEXNET = SMALL_VGG.clone(features=(2, "M", 3), stride=2, hidden=(5, 6))
SMALL_RESNET34 = SMALL_RESNET.clone(hidden=None, strides=(2, 1, 2))
IMAGES = jax.ShapeDtypeStruct((1, 8, 12, 3), jnp.float32)


def state_dict_of(model, images=IMAGES, dtype=np.float32):
    """Random entries of the right names and shapes."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, num_timesteps=1), images)
    rng = np.random.default_rng(0)
    return to_state_dict(model, jax.tree.map(lambda s: rng.normal(size=s.shape).astype(dtype), shapes))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "model",
    [SMALL_VGG, SMALL_RESNET, SMALL_ALEXNET, SMALL_RESNET34],
    ids=["vgg", "resnet", "alexnet", "resnet34"],
)
def test_round_trip_is_bitwise(model, dtype):
    state_dict = state_dict_of(model, dtype=dtype)
    back = to_state_dict(model, from_state_dict(model, state_dict, IMAGES))
    assert back.keys() == state_dict.keys()
    for name, array in state_dict.items():
        assert back[name].dtype == dtype
        assert back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("model", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
def test_arrays_are_owned_both_ways(model):
    """Filling a tensor made of an exported array changes no parameter; imported ones follow no tensor."""
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, num_timesteps=1))(jnp.ones((1, 8, 12, 3)))
    before = jax.tree.map(lambda x: np.array(x), variables)
    state_dict = to_state_dict(model, variables)
    imported = from_state_dict(model, state_dict, IMAGES)
    for array in (*state_dict.values(), *jax.tree.leaves(imported)):
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.flags.c_contiguous
    for array in state_dict.values():
        array.fill(7)
    jax.tree.map(np.testing.assert_array_equal, (variables, imported), (before, before))


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


def test_names_of_the_networks_that_the_authors_do_not_show():
    names = list(state_dict_of(SMALL_ALEXNET))
    layers = ["features.0", "features.1", "features.4", "features.5"]
    layers += [f"classifier.{i}" for i in (0, 1, 3, 4, 6)]
    assert {name.rsplit(".", 1)[0] for name in names} == set(layers)
    names = list(state_dict_of(SMALL_RESNET34))
    assert {"fc.weight", "fc.bias", "layer2.0.shortcut.0.weight"} <= set(names)
    assert not any(name.startswith(("fc1", "fc2", "layer1.0.shortcut")) for name in names)


def test_the_first_hidden_layer_alone_sees_the_flattened_map():
    state_dict = state_dict_of(SMALL_ALEXNET)
    params = from_state_dict(SMALL_ALEXNET, state_dict, IMAGES)["params"]
    maps = np.random.default_rng(1).normal(size=(5, 3, 2, 3)).astype(np.float32)  # B, C, H, W
    theirs = maps.reshape(5, -1) @ state_dict["classifier.0.weight"].T
    ours = maps.transpose(0, 2, 3, 1).reshape(5, -1) @ params["layer03"]["linear"]["kernel"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(params["layer04"]["linear"]["kernel"], state_dict["classifier.3.weight"].T)
    np.testing.assert_array_equal(params["readout"]["kernel"], state_dict["classifier.6.weight"].T)


def test_kernels_are_transposed():
    state_dict = state_dict_of(SMALL_RESNET)
    params = from_state_dict(SMALL_RESNET, state_dict, IMAGES)["params"]
    kernel = params["block2_1"]["shortcut"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, state_dict["layer2.0.shortcut.0.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["hidden"]["kernel"], state_dict["fc1.weight"].T)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)


PREFIXES = ["", "module.", "_orig_mod.", "module.module.", "_orig_mod.module.", "module._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("around", [None, "state_dict", "net", "model", "model_state_dict"])
def test_checkpoints_prefixes_and_counters(prefix, around):
    state_dict = state_dict_of(SMALL_VGG)
    theirs = {f"{prefix}{name}": array for name, array in state_dict.items()}
    theirs[f"{prefix}features.1.num_batches_tracked"] = np.array(3)
    if around is not None:
        theirs = {"epoch": 3, "arch": "vgg", around: theirs, "optimizer": {"state": {}}, "best": 0.5}
    same(from_state_dict(SMALL_VGG, theirs, IMAGES), from_state_dict(SMALL_VGG, state_dict, IMAGES))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(PREFIXES), min_size=14, max_size=14))
def test_a_prefix_of_its_own_for_each_name(prefixes):
    """`features` compiled or in parallel, and the classifier not."""
    state_dict = state_dict_of(SMALL_VGG)
    assert len(state_dict) == 14
    theirs = {}
    for prefix, (name, array) in zip(prefixes, state_dict.items(), strict=True):
        module, rest = name.split(".", 1)
        theirs[f"{module}.{prefix}{rest}"] = array
    same(from_state_dict(SMALL_VGG, theirs, IMAGES), from_state_dict(SMALL_VGG, state_dict, IMAGES))


class Tensor:
    """Behaviour of PyTorch's tensors, and what they refuse."""

    def __init__(self, array, dtype=None, device="cpu", requires_grad=False):
        self.array, self.device, self.requires_grad = array, device, requires_grad
        self.dtype = f"torch.{dtype or array.dtype}"

    def detach(self):
        return Tensor(self.array, self.dtype[6:], self.device)

    def cpu(self):
        return Tensor(self.array, self.dtype[6:], "cpu", self.requires_grad)

    def float(self):
        return Tensor(self.array.astype(np.float32), None, self.device, self.requires_grad)

    def numpy(self):
        if self.requires_grad:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            )
        if self.device != "cpu":
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if self.dtype.startswith(("torch.bfloat", "torch.float8")):
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_tensors(dtype, device, requires_grad):
    """On any device, with or without gradients, in PyTorch's dtypes; not a bit is lost, nothing is shared."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    state_dict = {name: array.astype(kind) for name, array in state_dict_of(SMALL_RESNET).items()}
    tensors = {name: Tensor(array, dtype, device, requires_grad) for name, array in state_dict.items()}
    imported = from_state_dict(SMALL_RESNET, tensors, IMAGES)
    same(to_state_dict(SMALL_RESNET, imported), state_dict)
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(imported)]
    for array in state_dict.values():
        array.fill(0)  # PyTorch trains on
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(imported), leaves)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mask_dtype", [np.float32, bool])
def test_pruned_by_pytorch(dtype, mask_dtype):
    """torch.nn.utils.prune leaves the weights and a mask; the network computes with their product."""
    pruned = {name: array.astype(dtype) for name, array in state_dict_of(SMALL_VGG).items()}
    expected = dict(pruned)
    for name in ("features.0.weight", "features.0.bias", "classifier.weight"):
        mask = np.random.default_rng(1).random(pruned[name].shape) < 0.5
        expected[name] = pruned[name] * mask.astype(dtype)
        pruned[f"{name}_orig"], pruned[f"{name}_mask"] = pruned.pop(name), mask.astype(mask_dtype)
    same(from_state_dict(SMALL_VGG, pruned, IMAGES), from_state_dict(SMALL_VGG, expected, IMAGES))


def test_other_trees_of_the_same_structure():
    """Masks: None for what is not prunable is left out, booleans stay booleans."""
    params = from_state_dict(SMALL_VGG, state_dict_of(SMALL_VGG), IMAGES)["params"]
    masks = jax.tree.map(lambda p: p > 0 if p.ndim > 1 else None, params)
    exported = to_state_dict(SMALL_VGG, {"params": masks})
    assert set(exported) == {"features.0.weight", "features.4.weight", "classifier.weight"}
    assert all(mask.dtype == bool for mask in exported.values())


def change(**entries):
    """A good state dict with other entries; None takes one away. A dot is spelled `__`."""
    state_dict = state_dict_of(SMALL_VGG)
    for name, array in entries.items():
        if array is None:
            del state_dict[name.replace("__", ".")]
        else:
            state_dict[name.replace("__", ".")] = array
    return state_dict


ONES = np.ones((2, 3, 3, 3), np.float32)
WRONG = {
    "missing": (
        change(features__1__running_var=None),
        r"features.1.running_var is missing from the state dict; the model has it with shape \(2,\)",
    ),
    "unexpected": (
        change(fc__weight=np.ones(2)),
        r"fc.weight, shape \(2,\) in the state dict, is not in the model",
    ),
    "shape": (
        change(classifier__weight=np.ones((4, 3))),
        r"classifier.weight has shape \(4, 3\) in the state dict, \(4, 18\) in the model",
    ),
    "flax's layout": (
        change(classifier__weight=np.ones((18, 4)), features__0__weight=ONES.T),
        r"features.0.weight has shape \(3, 3, 3, 2\) .*; classifier.weight has shape \(18, 4\) .*",
    ),
    "several": (
        change(
            features__0__bias=None, classifier__bias=None, a=ONES, b=ONES, features__1__weight=np.ones(())
        ),
        r"features.1.weight has shape \(\) .*; 2 are missing from the state dict: features.0.bias, "
        r"classifier.bias; 2 of the state dict are not in the model: a, b",
    ),
    "another network": (
        state_dict_of(SMALL_RESNET),
        r"14 are missing from the state dict: .* and 4 more; 39 of the .* not in the model: .* and 29 more",
    ),
    "nothing": ({}, r"14 are missing from the state dict: .* and 4 more"),
    "an empty checkpoint": ({"state_dict": {}}, r"14 are missing from the state dict: .* and 4 more"),
    "no dict": ([ONES], r"state_dict must be a dict of arrays by name, got list"),
    "no arrays": (
        {**change(), "fc.weight": None, "a": "text", "b": {}, "c": object()},
        r"no arrays of numbers in the state dict: fc.weight \(NoneType\), a \(str\), b \(dict\), .*",
    ),
    "another checkpoint": (
        {"epoch": 3, "weights": state_dict_of(SMALL_VGG)},
        r"no arrays of numbers in the state dict: weights \(dict\); allowed: tensors by name, or .*",
    ),
    "several state dicts": (
        {"model": change(), "net": change()},
        r"the checkpoint has several state dicts, model, net: give one of them",
    ),
    "a module in a checkpoint": (
        {"net": object()},
        r"no arrays of numbers in the state dict: net \(object\); .*",
    ),
    "twice": (
        {**change(), "module.classifier.bias": np.ones(4)},
        r"classifier.bias is in the state dict twice, under prefixes that are ignored",
    ),
    "half a pruned weight": (
        change(features__0__weight=None, features__0__weight_orig=ONES),
        r"features.0.weight is missing .*; features.0.weight_orig, shape .*, is not in the model",
    ),
    "another mask": (
        change(features__0__weight=None, features__0__weight_orig=ONES, features__0__weight_mask=ONES[:1]),
        r"features.0.weight_orig has shape \(2, 3, 3, 3\), features.0.weight_mask \(1, 3, 3, 3\)",
    ),
    "a product too many": (
        change(features__0__weight_orig=ONES, features__0__weight_mask=ONES),
        r"features.0.weight is in the state dict beside features.0.weight_orig and .*_mask, .*",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named(what):
    """All of it, in one line."""
    state_dict, message = WRONG[what]
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        from_state_dict(SMALL_VGG, state_dict, IMAGES)
    assert len(str(caught.value).splitlines()) == 1


VARIABLES = from_state_dict(SMALL_VGG, state_dict_of(SMALL_VGG), IMAGES)


def altered(path, leaf):
    """The variables of the small VGG with another leaf, or without it."""
    copied = jax.tree.map(lambda x: x, VARIABLES)
    *above, name = path.split("/")
    tree = copied
    for key in above:
        tree = tree.setdefault(key, {})
    if leaf is None:
        del tree[name]
    else:
        tree[name] = leaf
    return copied


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (VARIABLES["params"], "variables must have params, batch_stats or both, nested dicts of arrays"),
        ({"params": [1]}, "variables must have params, batch_stats or both, nested dicts of arrays"),
        (None, "variables must have params, batch_stats or both, nested dicts of arrays"),
        (
            altered("params/layer01/conv/bias", np.ones((8, 2))),
            r"params/layer01/conv/bias has shape \(8, 2\) in the variables, \(2,\) in the model",
        ),
        (
            jax.tree.map(lambda x: np.stack([x, x]), VARIABLES),
            r"params/.* has shape .* and 4 more of another shape",
        ),
        (
            altered("params/readout/kernel", np.ones((4, 18))),
            r"params/readout/kernel has shape \(4, 18\) in the variables, \(3, 4\) in the model",
        ),
        (
            altered("params/layer02/norm/scale", None),
            r"params/layer02/norm/scale is missing from the variables; the model has it with shape \(3,\)",
        ),
        (
            altered("params/layer09/conv/kernel", np.ones(2)),
            r"params/layer09/conv/kernel, shape \(2,\) in the variables, is not in the model",
        ),
        (
            from_state_dict(SMALL_RESNET, state_dict_of(SMALL_RESNET), IMAGES),
            r".*; 37 of the variables are not .*",
        ),
    ],
)
def test_variables_of_another_model(variables, message):
    """No axis is exchanged of what is not the weight it stands for."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        to_state_dict(SMALL_VGG, variables)


def test_models_that_the_authors_do_not_have():
    for function in (lambda m: from_state_dict(m, {}, IMAGES), lambda m: to_state_dict(m, VARIABLES)):
        with pytest.raises(ValueError, match=r"^model must be a VGG or a ResNet, got object$"):
            function(object())


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (5, 7)])
def test_images_of_any_size(size):
    images = jax.ShapeDtypeStruct((1, *size, 2), jnp.float32)
    for model in (SMALL_VGG, SMALL_RESNET):
        state_dict = state_dict_of(model, images)
        same(to_state_dict(model, from_state_dict(model, state_dict, images)), state_dict)


@pytest.mark.parametrize(
    "of", [lambda v: jax.eval_shape(lambda: v), lambda v: jax.tree.map(lambda x: x.astype(object), v)]
)
def test_leaves_without_values_are_named(of):
    with pytest.raises(ValueError, match=r"^params/layer01/conv/bias: a \w+ has no values to convert$"):
        to_state_dict(SMALL_VGG, of(VARIABLES))
    with pytest.raises(ValueError, match=r"^params/layer01/conv/bias: a \w+ has no values to convert"):
        jax.jit(lambda v: to_state_dict(SMALL_VGG, v))(VARIABLES)


def test_what_is_no_image_and_what_is_no_name():
    with pytest.raises(ValueError, match=r"^sample_input must be images \[B, H, W, C\], got a str$"):
        from_state_dict(SMALL_VGG, {}, "images")
    with pytest.raises(
        ValueError, match=r"^no arrays of numbers in the state dict: module \(dict\); allowed: .*"
    ):
        from_state_dict(SMALL_VGG, {"module": {}}, IMAGES)


def test_a_network_without_convolutions():
    model, images = VGG(("M",), num_classes=3), np.ones((1, 4, 4, 2), np.float32)
    variables = model.init(jax.random.key(0), images, num_timesteps=1)
    same(
        from_state_dict(model, to_state_dict(model, variables), images)["params"]["readout"],
        variables["params"]["readout"],
    )


def test_other_byte_orders_become_the_machines():
    state_dict = {name: array.astype(">f4") for name, array in state_dict_of(SMALL_VGG).items()}
    leaves = jax.tree.leaves(from_state_dict(SMALL_VGG, state_dict, IMAGES))
    assert all(leaf.dtype.isnative for leaf in leaves)
