"""Whole networks against float64 vectors of PyTorch and SpikingJelly, see tests/golden/README.md."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snnlth_jax.interop.torch import from_state_dict, to_state_dict
from snnlth_jax.models import VGG, ResNet

MODELS = {
    "vgg_small": VGG(features=(8, "M", 16, 16, "M", 16, "M")),
    "resnet_small": ResNet(stage_sizes=(1, 2), widths=(12, 16), stem=8, hidden=16),
}


def load(path):
    vectors = dict(np.load(path))
    x = jnp.asarray(vectors["x_nchw"].transpose(0, 2, 3, 1))
    return vectors, x, int(vectors["num_timesteps"])


def below(vectors, prefix):
    return {key.removeprefix(prefix): v for key, v in vectors.items() if key.startswith(prefix)}


def assert_close(got, expected):
    # gradients that are zero in exact arithmetic (of a bias before batch norm) are noise of 1e-17
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12)


def assert_same_entries(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation(name, golden, x64):
    model = MODELS[name]
    vectors, x, num_timesteps = load(golden / f"{name}.npz")
    variables = from_state_dict(model, below(vectors, "init/"), x)
    logits = jax.jit(lambda v, x: model.apply(v, x, num_timesteps=num_timesteps))(variables, x)
    assert logits.dtype == jnp.float64
    assert_close(logits, vectors["eval_logits"])


@pytest.mark.parametrize("name", MODELS)
def test_two_steps_of_sgd(name, golden, x64):
    model = MODELS[name]
    vectors, x, num_timesteps = load(golden / f"{name}.npz")
    state = from_state_dict(model, below(vectors, "init/"), x)
    params, batch_stats = state["params"], state["batch_stats"]
    tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.3, momentum=0.9))
    opt_state = tx.init(params)
    labels = jnp.asarray(np.broadcast_to(vectors["labels"], (num_timesteps, *vectors["labels"].shape)))

    def loss_of(params, batch_stats):
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            x,
            num_timesteps=num_timesteps,
            train=True,
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, updates["batch_stats"])

    value_and_grad = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    for step in ("step0", "step1"):
        (loss, (logits, batch_stats)), grads = value_and_grad(params, batch_stats)
        assert_close(logits, vectors[f"{step}/logits"])
        assert_close(loss, vectors[f"{step}/loss"])
        assert_same_entries(to_state_dict(model, {"params": grads}), below(vectors, f"{step}/grad/"))
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        after = to_state_dict(model, {"params": params, "batch_stats": batch_stats})
        assert_same_entries(after, below(vectors, f"{step}/after/"))


def test_resnet_is_stepping_the_whole_network(golden, x64):
    """The vectors' hidden layer never fires in evaluation; here its bias makes it, and NumPy steps along."""
    model = MODELS["resnet_small"]
    vectors, x, num_timesteps = load(golden / "resnet_small.npz")
    weights = below(vectors, "step1/after/")
    weights["fc1.bias"] = weights["fc1.bias"] + 1.2
    variables = from_state_dict(model, weights, x)
    logits = jax.jit(lambda v, x: model.apply(v, x, num_timesteps=num_timesteps))(variables, x)

    potentials = {}

    def lif(name, current):
        v = 0.25 * potentials.get(name, 0.0) + 0.75 * current
        spikes = (v >= 1) * 1.0
        potentials[name] = v * (1 - spikes)
        return spikes

    def conv_norm(x, conv, norm, stride=1):
        kernel = weights[f"{conv}.weight"]
        size = kernel.shape[2]
        x = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
        y = np.einsum("bchwij,ocij->bohw", windows, kernel)
        mean, var, scale, bias = (
            weights[f"{norm}.{leaf}"][:, None, None]
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / np.sqrt(var + 1e-5) * scale + bias

    hidden_spikes = 0
    for t in range(num_timesteps):
        y = lif("stem", conv_norm(vectors["x_nchw"], "conv1", "bn1"))
        for block in ("layer1.0", "layer2.0", "layer2.1"):
            stride = 2 if block.endswith(".0") else 1
            path = lif(block + "a", conv_norm(y, f"{block}.conv1", f"{block}.bn1", stride))
            path = conv_norm(path, f"{block}.conv2", f"{block}.bn2")
            if stride == 2:
                y = conv_norm(y, f"{block}.shortcut.0", f"{block}.shortcut.1", stride)
            y = lif(block + "b", path + y)
        y = lif("hidden", y.mean((2, 3)) @ weights["fc1.weight"].T + weights["fc1.bias"])
        hidden_spikes += y.sum()
        assert_close(logits[t], y @ weights["fc2.weight"].T + weights["fc2.bias"])
    assert 0 < hidden_spikes < num_timesteps * y.size
