import copy
import dataclasses
import itertools
import pickle
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from snnlth_jax import surrogate
from snnlth_jax.neurons import LIF, lif_scan, lif_step

GOLDEN = {
    "paper": LIF(),
    "tau2": LIF(tau=2.0),
    "soft_reset": LIF(v_reset=None),
    "no_input_decay": LIF(tau=2.0, decay_input=False),
    "attached_reset": LIF(detach_reset=False),
    "v_reset_minus": LIF(v_reset=-0.25),
    "sigmoid": LIF(spike=surrogate.sigmoid(4.0)),
    "atan_alpha5": LIF(spike=surrogate.atan(5.0)),
}
SURROGATES = [getattr(surrogate, name) for name in surrogate.NAMES]


def own_spike(u):
    return surrogate.heaviside(u, jnp.exp(-(u**2)))


KINDS = [  # of reset and charge
    {"v_reset": v_reset, "decay_input": decay, "detach_reset": detach}
    for v_reset, decay, detach in itertools.product((None, -0.25), (True, False), (True, False))
]


def currents(*shape, seed=0):
    return 1.5 * jax.random.normal(jax.random.key(seed), shape) + 0.8


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize("unroll", [1, True])
def test_golden(case, unroll, golden, x64):
    vectors = np.load(golden / "lif.npz")

    def objective(xs):
        v, spikes = lif_scan(GOLDEN[case], xs, unroll=unroll)
        return jnp.sum(spikes * vectors["cotangent"]), (v, spikes)

    grad_x, (v, spikes) = jax.jit(jax.grad(objective, has_aux=True))(jnp.asarray(vectors["x"]))
    np.testing.assert_array_equal(spikes, vectors[f"{case}/spikes"])
    # the file keeps v of every timestep; the scan hands back the last
    expected_v = vectors[f"{case}/v"]
    vs, v_t = [], None
    for x in jnp.asarray(vectors["x"]):
        v_t, _ = lif_scan(GOLDEN[case], x[None], v_t)
        vs.append(v_t)
    np.testing.assert_allclose(jnp.stack(vs), expected_v, rtol=0, atol=1e-12)
    np.testing.assert_allclose(v, expected_v[-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grad_x, vectors[f"{case}/grad_x"], rtol=0, atol=1e-12)


def test_scan_is_stepping():
    xs = jax.random.normal(jax.random.key(0), (7, 3, 2)) + 1
    v = v_scan = jnp.zeros((3, 2))
    spikes = []
    for x in xs:
        v, s = lif_step(LIF(), v, x)
        spikes.append(s)
    # stopping after three timesteps and going on is the same as never stopping
    v_scan, first = lif_scan(LIF(), xs[:3])
    v_scan, second = lif_scan(LIF(), xs[3:], v_scan)
    np.testing.assert_allclose(v, v_scan, rtol=1e-6)
    np.testing.assert_array_equal(jnp.stack(spikes), jnp.concatenate([first, second]))


def test_constant_input_has_a_closed_form():
    """Below threshold, v_t = x (1 - (1 - 1/tau)^t); a constant input fires where that reaches 1."""
    tau, x = 2.0, 0.9
    v, spikes = lif_scan(LIF(tau=tau), jnp.full((6, 1), x))
    np.testing.assert_allclose(v, [x * (1 - 0.5**6)], rtol=1e-6)
    assert not spikes.any()


def test_soft_reset_keeps_what_is_above_the_threshold():
    v, spikes = lif_step(LIF(v_reset=None), jnp.zeros(1), jnp.array([2.0]))
    assert spikes[0] == 1
    np.testing.assert_allclose(v, [0.5])


def equations(neuron, v, x):
    """The equations of the module as they stand there, in floating-point numbers that all are finite."""
    rest = 0.0 if neuron.v_reset is None else neuron.v_reset
    v = v + (x - (v - rest)) / neuron.tau if neuron.decay_input else v - (v - rest) / neuron.tau + x
    s = neuron.spike(v - neuron.v_threshold)
    fired = jax.lax.stop_gradient(s) if neuron.detach_reset else s
    v = v - fired * neuron.v_threshold if neuron.v_reset is None else (1 - fired) * v + fired * rest
    return v, s


def objective(step, neuron, xs, cotangent, v):
    v, spikes = jax.lax.scan(lambda v, x: step(neuron, v, x), v, xs)
    return jnp.sum(v**2) + jnp.sum(cotangent * spikes), (v, spikes)


@partial(jax.jit, static_argnums=0)
def outcome(step, neuron, xs, cotangent, v):
    """The final potential, the spikes, and gradients with respect to the constants and the currents."""
    return jax.grad(partial(objective, step), (0, 1), has_aux=True)(neuron, xs, cotangent, v)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(tau=st.floats(1, 50), threshold=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_values_and_gradients_are_those_of_the_equations(kind, tau, threshold, seed):
    neuron = LIF(tau=tau, v_threshold=threshold, **kind)
    with jax.enable_x64(True):
        xs, cotangent = (np.random.default_rng([seed, i]).normal(0.8, 1.5, (4, 3)) for i in (0, 1))
        got, expected = (outcome(step, neuron, xs, cotangent, np.zeros(3)) for step in (lif_step, equations))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), got, expected)


# --- spike functions


@pytest.mark.parametrize(
    ("spike", "expected"),
    [
        (surrogate.atan(2.0), lambda u: 1 / (1 + (np.pi * u) ** 2)),
        (surrogate.sigmoid(4.0), lambda u: 1 / np.cosh(2 * u) ** 2),
        (surrogate.fast_sigmoid(10.0), lambda u: 1 / (1 + 10 * abs(u)) ** 2),
        (surrogate.triangle(0.3), lambda u: 0.3 * np.maximum(0, 1 - abs(u))),
        (surrogate.rectangle(1.0), lambda u: (abs(u) < 0.5) * 1.0),
    ],
    ids=["atan", "sigmoid", "fast_sigmoid", "triangle", "rectangle"],
)
def test_surrogates(spike, expected, x64):
    u = jnp.array([-1.7, -0.6, -0.2, 0.0, 0.1, 0.4, 2.3])
    np.testing.assert_array_equal(spike(u), u >= 0)
    np.testing.assert_allclose(jax.vmap(jax.grad(spike))(u), expected(u), rtol=1e-12)
    np.testing.assert_allclose(jax.jvp(spike, (u,), (jnp.ones_like(u),))[1], expected(u), rtol=1e-12)


@pytest.mark.parametrize("factory", SURROGATES)
def test_surrogates_are_equal_when_their_parameters_are(factory):
    assert factory(2.0) == factory(2.0)
    assert hash(factory(2.0)) == hash(factory(2.0))
    assert factory(2.0) != factory(3.0)
    assert factory(np.float32(2.0)) != factory(2.0)  # which has another dtype among bfloat16 currents
    assert len({f(2.0) for f in SURROGATES}) == len(SURROGATES)
    for again in (copy.deepcopy(factory(2.0)), pickle.loads(pickle.dumps(factory(2.0)))):
        assert again == factory(2.0)
    (parameter,) = (field.name for field in dataclasses.fields(factory))
    assert repr(factory(2.0)) == f"{factory.__name__}({parameter}=2.0)"


@pytest.mark.parametrize("factory", SURROGATES)
@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (0.0, "must be positive, got 0.0"),
        (-1, "must be positive, got -1"),
        (float("nan"), "must be positive, got nan"),
        (float("inf"), "must be finite, got inf"),
        (np.float32(-2), r"must be positive, got -2.0"),
        (np.array([1.0, 0.0]), r"must be positive, got 0.0 at \[1\]"),
        (jnp.array([[1.0, 2.0], [-3.0, 1.0]]), r"must be positive, got -3.0 at \[1, 0\]"),
        ("2", "must be a real number or an array of them, got '2'"),
        (1j, "must be a real number or an array of them, got 1j"),
    ],
    ids=repr,
)
def test_impossible_surrogates(factory, parameter, message):
    (name,) = (field.name for field in dataclasses.fields(factory))
    with pytest.raises(ValueError, match=f"^{name} {message}$"):
        factory(parameter)


@pytest.mark.parametrize("factory", SURROGATES)
def test_parameters_as_arrays(factory, x64):
    """Traced, one per channel or mapped over: the derivative is that of each number, the spike none of it."""
    u, parameters = jnp.linspace(-1.5, 1.5, 12).reshape(4, 3), jnp.array([0.5, 1.0, 3.0])

    def slope(spike):
        return jax.grad(lambda u: spike(u).sum())(u)

    expected = jnp.stack([slope(factory(float(p)))[:, i] for i, p in enumerate(parameters)], axis=1)
    np.testing.assert_allclose(slope(factory(parameters)), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(slope)(factory(parameters)), expected, rtol=1e-12)
    mapped = jax.vmap(lambda p: slope(factory(p)))(parameters)
    np.testing.assert_allclose(jnp.stack([mapped[i, :, i] for i in range(3)], 1), expected, rtol=1e-12)
    np.testing.assert_array_equal(factory(parameters)(u), u >= 0)
    assert not jax.grad(lambda p: factory(p)(u).sum())(parameters).any()
    with pytest.raises(ValueError, match=r"of shape \(3,\) does not broadcast to .*, of shape \(4,\)"):
        factory(parameters)(u[:, 0])


@pytest.mark.parametrize("factory", [surrogate.atan, surrogate.sigmoid, surrogate.fast_sigmoid])
def test_second_derivatives(factory, x64):
    """Derivatives of the spike and of its slope by the parameter, so that a sharpness can be trained."""
    u, eps = 0.3, 1e-6

    def slope(u, p):
        return jax.grad(factory(p))(u)

    for of, by in (((0,), lambda e: (u + e, 2.0)), ((1,), lambda e: (u, 2.0 + e))):
        numeric = (slope(*by(eps)) - slope(*by(-eps))) / (2 * eps)
        np.testing.assert_allclose(jax.grad(slope, of)(u, 2.0)[0], numeric, rtol=1e-6)
        np.testing.assert_allclose(jax.jacfwd(slope, of)(u, 2.0)[0], numeric, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spike", [surrogate.atan(), surrogate.sigmoid(jnp.full(3, 2.0)), own_spike])
def test_second_derivatives_through_time(kind, spike, x64):
    """Hessians of the scan are those of a loop of steps: a rule of `jax.custom_jvp` would be lost in it."""
    neuron = LIF(spike=spike, **kind)
    rng = np.random.default_rng(0)
    xs, weights = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 3)))

    def stepped(currents):
        v, spikes = jnp.full(3, neuron.v_reset or 0.0), []
        for x in currents:
            v, fired = lif_step(neuron, v, x)
            spikes.append(fired)
        return jnp.stack(spikes)

    def loss(spikes):
        return lambda w: (weights * spikes(w[None] * xs)).sum() ** 2

    def mapped(w):  # a scan over examples, as scores of a network are taken, computed again for the gradient
        return jax.lax.map(jax.checkpoint(lambda x: loss(lambda x: lif_scan(neuron, x)[1])(x)), w[None]).sum()

    scans = (
        loss(lambda x: lif_scan(neuron, x)[1]),
        loss(lambda x: lif_scan(neuron, x, unroll=True)[1]),
        mapped,
    )

    @jax.jit  # one program, since compiling is what takes time here
    def seconds(at):
        of_scans = [second(scan)(at) for scan in scans for second in (jax.hessian, reverse_over_reverse)]
        return jax.hessian(loss(stepped))(at), of_scans

    def reverse_over_reverse(f):
        return jax.jacrev(jax.grad(f))

    expected, of_scans = seconds(jnp.array([0.9, 1.1, 1.6]))
    assert abs(expected).max() > 1e-3
    for found in of_scans:
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_any_function_can_be_the_spike():
    relu = LIF(spike=jax.nn.relu)
    assert relu == LIF(spike=jax.nn.relu)
    assert jax.tree.leaves(relu) == [4 / 3, 1.0, 0.0]
    assert jax.tree.map(lambda leaf: leaf, relu) == relu
    np.testing.assert_allclose(lif_step(relu, jnp.zeros(1), jnp.array([2.0]))[1], [0.5])
    scaled = LIF(spike=jax.tree_util.Partial(lambda scale, u: scale * (u > 0), 3.0))  # a pytree itself
    assert jax.tree.leaves(scaled)[-1] == 3.0
    assert lif_scan(scaled, jnp.full((2, 1), 2.0, jnp.bfloat16))[1].dtype == jnp.bfloat16


# --- the neuron as a pytree, and as a constant


def test_leaves():
    neuron = LIF()
    assert jax.tree.leaves(neuron) == [4 / 3, 1.0, 0.0, 2.0]
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(neuron)]
    assert names == [".tau", ".v_threshold", ".v_reset", ".spike.alpha"]
    assert jax.tree.leaves(LIF(v_reset=None)) == [4 / 3, 1.0, 2.0]
    assert jax.tree.map(lambda leaf: leaf, LIF(v_reset=None, detach_reset=False)) == LIF(
        v_reset=None, detach_reset=False
    )


@pytest.mark.parametrize(
    "placeholder", [None, object(), 0, -1.0, "frozen", jax.ShapeDtypeStruct((2,), jnp.int8)]
)
def test_anything_can_be_a_leaf(placeholder):
    neuron = LIF(tau=2.0, v_reset=-1.0)
    structure = jax.tree.structure(neuron)
    other = jax.tree.unflatten(structure, [placeholder] * 4)
    assert other.tau is placeholder
    assert other.spike.alpha is placeholder
    if placeholder is not None:
        assert jax.tree.structure(other) == structure
    assert jax.tree.map(lambda _, leaf: leaf, neuron, neuron) == neuron
    assert jax.eval_shape(lambda n: n, neuron).tau.shape == ()


def test_equal_by_value():
    assert LIF(tau=2) == LIF(tau=2.0) != LIF(tau=3.0)
    assert hash(LIF(tau=2)) == hash(LIF(tau=2.0))
    assert LIF() != LIF(spike=surrogate.sigmoid(2.0))
    assert LIF() != LIF(v_reset=None)
    assert LIF() != surrogate.atan()
    assert LIF(tau=jnp.ones(3)) == LIF(tau=jnp.ones(3)) != LIF(tau=jnp.ones(4))
    assert LIF(tau=jnp.ones(3)) != LIF(tau=1.0)
    with pytest.raises(TypeError, match="unhashable"):
        hash(LIF(tau=jnp.ones(3)))
    for again in (copy.deepcopy(LIF()), pickle.loads(pickle.dumps(LIF()))):
        assert again == LIF()


def test_equal_neurons_compile_once():
    @partial(jax.jit, static_argnums=0)
    def potential(neuron, xs):
        assert isinstance(neuron.tau, float)
        return lif_scan(neuron, xs)[0]

    xs = currents(3, 2)
    for _ in range(3):
        potential(LIF(spike=surrogate.atan(3.0)), xs)
    assert potential._cache_size() == 1
    # equal numbers of another dtype are another program
    half = xs.astype(jnp.bfloat16)
    assert potential(LIF(tau=2.0), half).dtype == jnp.bfloat16
    assert potential(dataclasses.replace(LIF(), tau=2.0), half).dtype == jnp.bfloat16


def smooth(u):
    return jax.nn.sigmoid(3 * u)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_constants_against_finite_differences(kind, x64):
    """With a smooth spike, and nothing detached, the gradient is a derivative."""
    neuron = LIF(tau=1.7, v_threshold=0.9, **kind | {"detach_reset": False}, spike=smooth)
    xs, eps = currents(5, 4), 1e-6
    value = jax.jit(lambda neuron: objective(lif_step, neuron, xs, jnp.cos(xs), jnp.zeros(4))[0])
    got = jax.grad(value)(neuron)
    for name in ("tau", "v_threshold") + (() if kind["v_reset"] is None else ("v_reset",)):
        up, down = (
            value(dataclasses.replace(neuron, **{name: getattr(neuron, name) + e})) for e in (eps, -eps)
        )
        np.testing.assert_allclose(getattr(got, name), (up - down) / (2 * eps), rtol=1e-6)


def test_the_parameter_of_the_spike_has_no_gradient():
    assert jax.grad(lambda neuron: lif_scan(neuron, currents(4, 3))[1].sum())(LIF()).spike.alpha == 0


@pytest.mark.parametrize("kind", KINDS)
def test_constants_per_channel_are_channel_by_channel(kind, x64):
    xs = currents(5, 2, 3)
    tau, threshold, alpha = jnp.array([1.0, 1.5, 4.0]), jnp.array([0.5, 1.0, 1.5]), jnp.array([1.0, 2.0, 5.0])
    reset = None if kind["v_reset"] is None else jnp.array([-0.5, 0.0, 0.25])
    neuron = LIF(tau, threshold, **kind | {"v_reset": reset}, spike=surrogate.atan(alpha))
    (by_neuron, by_xs), (v, spikes) = outcome(lif_step, neuron, xs, jnp.cos(xs), jnp.zeros((2, 3)))
    for i in range(3):
        one, x = jax.tree.map(lambda leaf, i=i: leaf[i], neuron), xs[..., i]
        (one_neuron, one_xs), (one_v, one_spikes) = outcome(lif_step, one, x, jnp.cos(x), jnp.zeros(2))
        np.testing.assert_array_equal(spikes[..., i], one_spikes)
        np.testing.assert_allclose(v[..., i], one_v, rtol=1e-12)
        np.testing.assert_allclose(by_xs[..., i], one_xs, rtol=1e-9)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-9), by_neuron, one_neuron)


def test_a_map_over_neurons_is_a_loop():
    neurons = [LIF(tau=2.0), LIF(tau=3.0, v_threshold=0.5), LIF(v_reset=-1.0, spike=surrogate.atan(4.0))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *neurons)
    xs = currents(4, 5)

    def slope(neuron):
        return jax.grad(lambda xs: jnp.sum(lif_scan(neuron, xs)[1] * xs))(xs)

    mapped = jax.jit(jax.vmap(slope))(stacked)
    np.testing.assert_allclose(mapped, jnp.stack([slope(neuron) for neuron in neurons]), rtol=1e-6)
    # some constants mapped over, others shared
    some = LIF(tau=jnp.array([2.0, 3.0]))
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, some)
    mapped = jax.vmap(slope, in_axes=(axes,))(some)
    np.testing.assert_allclose(mapped[1], slope(LIF(tau=3.0)), rtol=1e-6)


def test_optax_trains_constants():
    """The threshold and the time constants of another neuron are found from its smooth responses."""
    xs = currents(6, 64)

    def responses(neuron):
        return lif_scan(neuron, xs)[0]

    tx = optax.adam(0.05)
    true = LIF(tau=3.0, v_reset=None, v_threshold=1e9)  # never fires
    neuron = jax.tree.map(jnp.float32, LIF(tau=2.0, v_reset=None, v_threshold=1e9))

    @jax.jit
    def train(neuron):
        def step(carry, _):
            neuron, opt_state = carry
            grads = jax.grad(lambda n: jnp.mean((responses(n) - responses(true)) ** 2))(neuron)
            updates, opt_state = tx.update(grads, opt_state, neuron)
            return (optax.apply_updates(neuron, updates), opt_state), None

        return jax.lax.scan(step, (neuron, tx.init(neuron)), length=100)[0][0]

    np.testing.assert_allclose(train(neuron).tau, 3.0, rtol=1e-2)


class Layer(nn.Module):
    neuron: LIF = LIF()

    @nn.compact
    def __call__(self, xs):
        return lif_scan(self.neuron, nn.Dense(3)(xs))[1]


@pytest.mark.parametrize(
    "tau", [2.0, np.float32(2.0), jnp.array([2.0, 2.0, 2.0])], ids=["number", "numpy", "array"]
)
def test_field_of_a_flax_module(tau):
    xs = currents(3, 2, 4)
    layer, plain = Layer(LIF(tau=tau)), Layer(LIF(tau=2.0))
    variables = plain.init(jax.random.key(0), xs)
    np.testing.assert_array_equal(layer.apply(variables, xs), plain.apply(variables, xs))
    np.testing.assert_array_equal(jax.jit(layer.clone().apply)(variables, xs), plain.apply(variables, xs))
    traced = jax.grad(lambda tau: Layer(LIF(tau=tau)).apply(variables, xs).sum())(2.0)
    assert np.isfinite(traced)
    assert traced != 0


def test_field_of_an_equinox_module():
    class Own(eqx.Module):
        weights: jax.Array
        neuron: LIF

        def __call__(self, xs):
            return lif_scan(self.neuron, xs @ self.weights)[1]

    own = Own(jnp.eye(3), LIF(tau=jnp.full(3, 2.0)))
    grads = eqx.filter_jit(eqx.filter_grad(lambda own: own(currents(3, 2, 3)).sum()))(own)
    assert grads.neuron.tau.shape == (3,)
    assert grads.neuron.v_threshold is None  # a number of Python is no array


def test_constants_as_variables_of_nnx():
    class Own(nnx.Module):
        def __init__(self):
            self.tau = nnx.Param(jnp.full(3, 2.0))

        def __call__(self, xs):
            return lif_scan(LIF(tau=self.tau), xs)[1]

    xs = currents(3, 2, 3)
    np.testing.assert_array_equal(Own()(xs), lif_scan(LIF(tau=2.0), xs)[1])
    grads = nnx.jit(nnx.grad(lambda own: own(xs).sum()))(Own())
    assert grads["tau"][...].shape == (3,)
    with pytest.raises(ValueError, match=r"^tau must be at least 1 timestep, got 0.5 at \[0\]$"):
        LIF(tau=nnx.Param(jnp.full(3, 0.5)))


# --- checks


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0.5}, "tau must be at least 1 timestep, got 0.5"),
        ({"tau": 0}, "tau must be at least 1 timestep, got 0"),
        ({"tau": np.float32(0.5)}, "tau must be at least 1 timestep, got 0.5"),
        ({"tau": np.int64(0)}, "tau must be at least 1 timestep, got 0"),
        ({"tau": np.float16("nan")}, "tau must be at least 1 timestep, got nan"),
        ({"tau": jnp.bfloat16(0.5)}, "tau must be at least 1 timestep, got 0.5"),
        ({"tau": jnp.array([2.0, 0.5])}, r"tau must be at least 1 timestep, got 0.5 at \[1\]"),
        ({"tau": True}, "tau must be a real number or an array of them, got True"),
        ({"tau": None}, "tau must be a real number or an array of them, got None"),
        ({"tau": [2.0]}, r"tau must be a real number or an array of them, got \[2.0\]"),
        ({"tau": np.array("2")}, r"tau must be a real number or an array of them, got .*"),
        ({"v_threshold": 0.0}, r"v_threshold must lie above v_reset \(0.0\), got 0.0"),
        ({"v_threshold": np.float64(-1)}, r"v_threshold must lie above v_reset \(0.0\), got -1.0"),
        ({"v_threshold": jnp.float32("nan")}, r"v_threshold must lie above v_reset \(0.0\), got nan"),
        ({"v_threshold": -1.0, "v_reset": None}, r"v_threshold must lie above v_reset \(0.0\), got -1.0"),
        ({"v_reset": np.array([0.0, 1.0, 2.0])}, r"v_threshold must lie above .* \(1.0\), got 1.0 at \[1\]"),
        ({"v_reset": jnp.array([jnp.nan])}, r"v_reset must be finite, got nan at \[0\]"),
        ({"v_reset": -float("inf")}, "v_reset must be finite, got -inf"),
        ({"v_threshold": np.ones(3), "v_reset": np.zeros(2)}, r"v_threshold .* \(3,\) and .* \(2,\).*"),
        ({"decay_input": "no"}, "decay_input must be True or False, got 'no'"),
        ({"detach_reset": None}, "detach_reset must be True or False, got None"),
        ({"spike": 2.0}, "spike must be a function of v - v_threshold, got 2.0"),
    ],
    ids=repr,
)  # fmt: skip
def test_impossible_neurons(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LIF(**fields)
    with pytest.raises(
        ValueError, match=f"^{message}"
    ):  # arrays with known values, while a program is traced
        jax.jit(lambda x: lif_scan(LIF(**fields), x))(jnp.ones((2, 3)))


def test_traced_constants_pass_the_checks():
    def potential(tau, v_threshold, v_reset, alpha):
        return lif_scan(LIF(tau, v_threshold, v_reset, spike=surrogate.atan(alpha)), jnp.ones((2, 3)))[0]

    jax.jit(potential)(0.5, -1.0, jnp.nan, -1.0)
    jax.vmap(potential)(*jnp.array([[0.5], [-1.0], [0.0], [-1.0]]))
    LIF(tau=jax.ShapeDtypeStruct((3,), jnp.float32))


@pytest.mark.parametrize(
    ("neuron", "xs", "v", "message"),
    [
        (LIF(), jnp.ones((3, 4, 2)), jnp.ones(3), r"v of shape \(3,\) .* a timestep, of shape \(4, 2\)"),
        (LIF(), jnp.ones((3, 2)), jnp.ones((4, 2)), r"v of shape \(4, 2\) .* of shape \(2,\)"),
        (LIF(tau=np.full(3, 2.0)), jnp.ones((3, 4, 2)), None, r"tau of shape \(3,\) .* of shape \(4, 2\)"),
        (LIF(v_threshold=np.ones((4, 1))), jnp.ones((3, 2)), None, r"v_threshold .* \(4, 1\) .* \(2,\)"),
        (LIF(v_reset=np.zeros(5)), jnp.ones((3, 2)), 0.0, r"v_reset of shape \(5,\) .* of shape \(2,\)"),
        (LIF(v_reset=np.zeros(5)), jnp.ones((3, 2)), None, r"v_reset of shape \(5,\) .* of shape \(2,\)"),
        (LIF(), jnp.float32(1), None, r"xs must be currents \[T, ...\] of .*, got shape \(\)"),
        (LIF(), jnp.ones((0, 3)), None, r"xs must be currents .*, got shape \(0, 3\)"),
        (LIF(), jnp.ones((2, 3), complex), None, "currents, potentials and constants must .* complex64"),
        (LIF(), jnp.ones((2, 3)), 1j, "currents, potentials and constants must .* complex64"),
    ],
)  # fmt: skip
def test_what_the_scan_refuses(neuron, xs, v, message):
    for scan in (lif_scan, jax.jit(lif_scan)):
        with pytest.raises(ValueError, match=rf"^{message}(\n|$)"):  # a note of JAX may follow
            scan(neuron, xs, v)


def test_what_the_step_refuses():
    for neuron, v, x in ((LIF(), jnp.ones(2), jnp.ones(3)), (LIF(), jnp.ones((3, 1)), jnp.ones(3))):
        with pytest.raises(ValueError, match=r"^v of shape .* does not broadcast to the currents .* \(3,\)"):
            lif_step(neuron, v, x)
    with pytest.raises(ValueError, match=r"^tau of shape \(3, 1\) does not broadcast .* \(3,\)"):
        lif_step(LIF(tau=np.full((3, 1), 2.0)), jnp.ones(3), jnp.ones(3))


# --- dtypes, shapes and modes


HALF = jnp.ones((2, 3), jnp.bfloat16)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize(
    ("neuron", "xs", "v", "dtype"),
    [
        (LIF(), HALF, None, "bfloat16"),
        (LIF(v_reset=None), HALF, 0.5, "bfloat16"),
        (LIF(tau=2, v_threshold=1, v_reset=0), HALF, 0, "bfloat16"),
        (LIF(), HALF, jnp.ones(3, jnp.bfloat16), "bfloat16"),
        (LIF(tau=jnp.bfloat16(2)), HALF, None, "bfloat16"),
        (LIF(tau=np.int32(2)), HALF, None, "bfloat16"),
        (LIF(tau=jnp.float32(2)), HALF, None, "float32"),
        (LIF(v_threshold=np.float32(2)), HALF, None, "float32"),
        (LIF(v_reset=jnp.zeros(3)), HALF, None, "float32"),
        (LIF(spike=surrogate.atan(jnp.full(3, 2.0))), HALF, None, "bfloat16"),
        (LIF(), HALF, jnp.ones(3), "float32"),
        (LIF(), jnp.ones((2, 3)), jnp.ones(3, jnp.bfloat16), "float32"),
        (LIF(), jnp.ones((2, 3), jnp.float16), np.float16(1), "float16"),
        (LIF(), jnp.ones((2, 3), jnp.int32), None, "float32"),
        (LIF(tau=2, v_threshold=1, v_reset=0), jnp.ones((2, 3), jnp.uint8), 1, "float32"),
        (LIF(), jnp.ones((2, 3), bool), None, "float32"),
        (LIF(), np.ones((2, 3)), np.zeros(3), "float32"),
    ],
)
def test_the_scan_has_the_promoted_dtype(neuron, xs, v, dtype, promotion):
    """From the first timestep on, for the potential and the spikes; gradients have that of the currents."""
    with jax.numpy_dtype_promotion(promotion):
        for last, spikes in (
            jax.eval_shape(partial(lif_scan, neuron), xs, v),
            jax.eval_shape(partial(lif_step, neuron), 0.0 if v is None else v, xs[0]),
        ):
            assert last.dtype == spikes.dtype == dtype
            assert last.shape == (3,)
            assert not last.weak_type
            assert not spikes.weak_type
        if jnp.issubdtype(xs.dtype, jnp.floating):
            xs = jnp.asarray(xs)
            grads = jax.eval_shape(jax.grad(lambda xs: lif_scan(neuron, xs, v)[1].sum()), xs)
            assert grads.dtype == xs.dtype


def test_lists_are_currents():
    assert lif_scan(LIF(), [[1.0, 2.0], [0.5, 3.0]])[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert lif_scan(LIF(), [2, 1], 0)[1].tolist() == [1.0, 0.0]


def test_double_precision(x64):
    xs = jnp.ones((2, 3))
    assert lif_scan(LIF(), xs.astype(jnp.float32))[0].dtype == jnp.float32
    assert lif_scan(LIF(), xs)[0].dtype == jnp.float64
    assert lif_scan(LIF(tau=np.full(3, 2.0)), xs.astype(jnp.float32))[0].dtype == jnp.float64
    assert lif_scan(LIF(), xs.astype(jnp.float32), np.zeros(3))[0].dtype == jnp.float64


@pytest.mark.parametrize(
    "v", [0.3, 1, np.float32(0.3), jnp.float32(0.3), np.array([0.3, 0.1, 0.2]), jnp.ones((4, 1))]
)
def test_the_first_potential_broadcasts(v):
    xs = currents(3, 4, 3)
    full = jnp.broadcast_to(jnp.asarray(v, jnp.float32), (4, 3))
    for got, expected in zip(lif_scan(LIF(), xs, v), lif_scan(LIF(), xs, full), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(lif_step(LIF(), v, xs[0]), lif_step(LIF(), full, xs[0]), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_number_is_the_current_of_all_neurons():
    assert lif_step(LIF(), jnp.zeros(3), 2.0)[1].tolist() == [1.0, 1.0, 1.0]
    assert lif_step(LIF(), 0.0, 2.0)[1].shape == ()


@pytest.mark.parametrize("arrays", [False, True], ids=["numbers", "arrays"])
@pytest.mark.parametrize("kind", [KINDS[1], KINDS[4], KINDS[7]])
def test_modes_of_jax_change_nothing(kind, arrays):
    """Strict promotion of dtypes and ranks, checks for NaN and for leaks."""
    neuron, xs, v = LIF(**kind), currents(3, 2, 3), jnp.zeros((2, 3))
    if arrays:
        neuron = jax.tree.map(lambda leaf: jnp.full(3, leaf), neuron)

    def scanned(neuron, v, xs):
        return lif_scan(neuron, xs, v)

    def total(neuron, xs, v):
        v, spikes = scanned(neuron, v, xs)
        return jnp.sum(spikes * jnp.cos(xs)) + jnp.sum(v)

    expected = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(neuron, xs, v)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.checking_leaks(),
    ):
        got = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(neuron, xs, v)
        lif_step(neuron, v, xs[0])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), got, expected)


@pytest.mark.parametrize("varying", ["currents", "potential", "tau", "v_reset", "alpha"])
def test_in_shard_map_anything_can_vary(varying, x64):
    """Populations of neurons over devices, or data: values and gradients are those of a loop."""
    arguments = {
        "currents": currents(3, 4),
        "potential": jnp.zeros(4),
        "tau": 2.0,
        "v_reset": 0.0,
        "alpha": 2.0,
    }
    arguments = {name: jnp.asarray(value)[None] for name, value in arguments.items()}
    arguments[varying] = jnp.concatenate([arguments[varying], arguments[varying] + 0.5])
    specs = {name: PartitionSpec("each" if name == varying else None) for name in arguments}

    def total(arguments):
        xs, v, tau, v_reset, alpha = (arguments[name][0] for name in specs)
        neuron = LIF(tau=tau, v_reset=v_reset, detach_reset=False, spike=surrogate.atan(alpha))
        v, spikes = lif_scan(neuron, xs, v)
        return jnp.sum(spikes * jnp.cos(xs)) + jnp.sum(v**2)

    def looped(arguments):
        return sum(total(arguments | {varying: arguments[varying][i : i + 1]}) for i in (0, 1))

    mesh = Mesh(np.array(jax.devices()[:2]), ("each",))
    mapped = jax.shard_map(
        lambda arguments: jax.lax.psum(total(arguments), "each"),
        mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec(),
    )  # fmt: skip
    got, expected = (jax.jit(jax.value_and_grad(way))(arguments) for way in (mapped, looped))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, expected)


# --- infinite currents and thresholds


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, "float32") for kind in KINDS] + [(KINDS[0], "bfloat16"), (KINDS[5], "float16")],
)
def test_infinities_make_no_nan(kind, dtype):
    """Neither values nor gradients, neither at once nor later, with constants as numbers or arrays."""
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.choice([-np.inf, np.inf, 1.5, 0.0, -1.0], (5, 40)), dtype)
    cotangent = jnp.asarray(3 * rng.normal(size=(5, 40)), dtype)
    numbers = LIF(**kind)
    neurons = [numbers, jax.tree.map(lambda leaf: jnp.full(40, leaf, dtype), numbers)]
    if not kind["detach_reset"]:
        neurons += [dataclasses.replace(numbers, spike=factory(2.0)) for factory in SURROGATES[1:]]

    @jax.jit
    def outcomes(xs):
        def total(neuron, xs):
            v, spikes = lif_scan(neuron, xs)
            return jnp.sum(spikes * cotangent) + jnp.sum(jnp.tanh(v) * cotangent[0]), (v, spikes)

        return [jax.grad(total, (0, 1), has_aux=True)(neuron, xs) for neuron in neurons]

    for grads, (v, spikes) in outcomes(xs):
        assert not any(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(grads))
        assert bool(jnp.isfinite(v).all())
        assert bool((spikes[0] == 1)[xs[0] == jnp.inf].all())
        assert not bool((spikes[0] == 1)[xs[0] == -jnp.inf].any())


def test_infinities_make_no_nan_on_the_way():
    """Operation by operation, each checked for NaN."""
    xs = jnp.array([[jnp.inf, -jnp.inf, 1.0], [jnp.inf, 1.0, -jnp.inf], [1.0, 2.0, 0.0]])
    for neuron in (LIF(), LIF(v_reset=None, v_threshold=float("inf"), detach_reset=False)):
        with jax.debug_nans(True), jax.disable_jit():
            jax.grad(lambda xs, neuron=neuron: sum(a.mean() for a in lif_scan(neuron, xs)))(xs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_infinite_threshold_is_never_reached(kind):
    """Without spikes, the neuron is a linear filter of all currents that are finite."""
    xs = jnp.zeros(4).at[1].set(1.0)

    @jax.jit
    def outcome(threshold, xs):
        def potential(xs):
            v, spikes = lif_scan(
                LIF(v_threshold=threshold, **kind | {"v_reset": kind["v_reset"] and 0.0}), xs
            )
            return v, spikes

        return jax.grad(potential, has_aux=True)(xs)

    for threshold in (jnp.inf, float("inf"), np.full((), np.inf)):
        slope, spikes = outcome(threshold, xs)
        assert not spikes.any()
        decay = 0.75 if kind["decay_input"] else 1.0
        np.testing.assert_allclose(slope, decay * 0.25 ** np.arange(3, -1, -1.0), rtol=1e-6)
    for neuron in (LIF(v_threshold=float("inf"), **kind), LIF(v_threshold=np.float32("inf"), **kind)):
        v, spikes = lif_step(neuron, jnp.zeros(2), jnp.array([jnp.inf, 1.0]))
        assert not spikes.any()
        assert bool(jnp.isfinite(v).all())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("spike", [*(factory() for factory in SURROGATES), surrogate.atan(jnp.float32(2.0))])
def test_far_from_the_threshold_all_derivatives_vanish(spike, dtype):
    """At infinity, and where squares overflow."""
    most = float(jnp.finfo(dtype).max)
    u = jnp.array([-jnp.inf, jnp.inf, -most, most, -most / 40, most / 40], dtype)
    for _ in range(4):
        assert jnp.isfinite(jax.vmap(spike)(u)).all()
        spike = jax.grad(spike)
    assert not jax.vmap(spike)(u).any()


def test_infinite_currents_are_the_largest_ones():
    largest = float(jnp.finfo(jnp.float32).max)
    for x in (jnp.inf, -jnp.inf, largest, -largest):
        v, _ = lif_step(LIF(tau=1.0, v_reset=None), 0.0, x)
        assert float(v) == np.sign(x) * largest


def test_an_infinite_time_constant_keeps_the_potential():
    """Without decay of the input, a perfect integrator; with it, no current matters."""
    xs = jnp.array([0.25, 0.5, -0.5, jnp.inf])
    for tau in (float("inf"), np.float32("inf"), jnp.array(jnp.inf)):
        assert lif_scan(LIF(tau=tau, decay_input=False), xs[:3])[0] == 0.25
        v, spikes = lif_scan(LIF(tau=tau), xs, 0.5)
        assert (float(v), float(spikes.sum())) == (0.5, 0.0)


def test_nan_stays_nan():
    v, spikes = lif_scan(LIF(), jnp.array([1.0, jnp.nan, 2.0]))
    assert jnp.isnan(v)
    assert spikes.tolist() == [0.0, 0.0, 0.0]


def test_the_backward_pass_keeps_three_numbers_of_a_neuron_and_timestep():
    """By JAX's own account: a spike's derivative, 1 - spike, and one that a compiler drops."""
    xs = currents(6, 50)

    def kept(neuron):
        program = jax.make_jaxpr(jax.grad(lambda xs: lif_scan(neuron, xs)[1].sum()))(xs)
        forward = next(eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "scan")
        return [str(v.aval) for v in forward.outvars[1:]]  # after the potential, its carry

    assert kept(LIF()) == ["float32[6,50]"] * 3
    assert kept(LIF(v_reset=None)) == ["float32[6,50]"] * 2
    assert kept(LIF(detach_reset=False)) == ["float32[6,50]"] * 4


# --- what is given besides arrays of one dtype


@pytest.mark.parametrize("tau", [2.0, np.full(3, 2.0, np.float32)], ids=["number", "array"])
@pytest.mark.parametrize("kind", KINDS[1::2])
def test_a_potential_may_be_a_number(kind, tau):
    neuron, x = LIF(tau=tau, **kind), currents(3)
    for v in (0, 0.0, -0.25):
        got, expected = lif_step(neuron, v, x), lif_step(neuron, jnp.full(3, v, jnp.float32), x)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("v", [jnp.inf, -jnp.inf, 1e300, jnp.array([jnp.inf, -jnp.inf])], ids=str)
@pytest.mark.parametrize("kind", KINDS[::3])
def test_potentials_beyond_all_numbers_are_the_largest(kind, v):
    neuron, xs = LIF(**kind), currents(4, 2)
    largest = float(jnp.finfo(jnp.float32).max)
    for got, expected in (
        (lif_scan(neuron, xs, v), lif_scan(neuron, xs, jnp.clip(jnp.asarray(v), -largest, largest))),
        (lif_step(neuron, v, xs[0]), lif_scan(neuron, xs[:1], v)),
    ):
        assert bool(jnp.isfinite(got[0]).all())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-6), got, expected)


def test_resets_beyond_the_numbers_of_a_dtype_make_no_nan():
    xs = jnp.ones((3, 2), jnp.float16)
    assert bool(jnp.isfinite(lif_scan(LIF(v_reset=-1e5), xs)[0]).all())


@pytest.mark.parametrize("factory", SURROGATES)
def test_parameters_beyond_the_numbers_of_a_dtype_are_refused(factory):
    (name,) = vars(factory())
    with pytest.raises(ValueError, match=f"^{name} must be finite in float16, got 100000.0$"):
        factory(1e5)(jnp.float16(0.0))


def test_large_whole_numbers_are_numbers():
    """Beyond 32 bits, where JAX has no integers."""
    neuron = LIF(tau=3_000_000_000, v_threshold=2**60, v_reset=-(2**40))
    same = LIF(tau=3e9, v_threshold=2.0**60, v_reset=-(2.0**40))
    jax.tree.map(np.testing.assert_array_equal, *(lif_scan(n, currents(3, 2)) for n in (neuron, same)))
    assert float(jax.grad(surrogate.rectangle(2**40))(0.0)) == 2.0**-40


@pytest.mark.parametrize(
    "spike", [lambda u: (u > 0)[..., None], lambda u: jnp.ones(())], ids=["more", "fewer"]
)
def test_spikes_of_another_shape_are_refused(spike):
    message = (
        r"^spike must return an array of the shape of its argument, got \(.*\) for potentials of shape \(3,\)"
    )
    for call in (
        lambda: lif_step(LIF(spike=spike), 0.0, jnp.ones(3)),
        lambda: lif_scan(LIF(spike=spike), currents(2, 3)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: LIF(spike=surrogate.atan),
            "spike must be a function of v - v_threshold, got <class .*atan'>",
        ),
        (lambda: lif_scan({"tau": 2}, currents(2, 3)), r"neuron must be a LIF, such as LIF\(\), got a dict"),
        (lambda: lif_scan(LIF, currents(2, 3)), r"neuron must be a LIF, such as LIF\(\), got the class LIF"),
        (lambda: lif_step(currents(2), 0.0, LIF()), r"neuron must be a LIF, .*, got a ArrayImpl"),
        (lambda: lif_scan(LIF(), "xs"), "xs must be an array of real numbers, got 'xs'"),
        (lambda: lif_scan(LIF(), None), "xs must be an array of real numbers, got None"),
        (lambda: lif_step(LIF(), None, currents(2)), "v must be an array of real numbers, got None"),
        (lambda: lif_scan(LIF(), np.ones((2, 3), np.longdouble)), "xs must be .*, got ndarray of float128"),
        (lambda: LIF(tau=np.ones(3, np.longdouble)), "tau must be a real number or an array of them, got .*"),
        *(
            (
                lambda unroll=unroll: lif_scan(LIF(), currents(2, 3), unroll=unroll),
                f"unroll must be True or a whole number, 0 or more, got {unroll}",
            )
            for unroll in (2.5, -1)
        ),
    ],
)
def test_what_is_no_neuron_and_no_current_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


def test_other_byte_orders_and_narrow_types():
    xs = np.asarray(currents(4, 3))
    expected = lif_scan(LIF(tau=np.full(3, 2.0, np.float32)), xs)
    swapped = lif_scan(LIF(tau=np.full(3, 2.0, ">f4")), xs.astype(">f4"))
    jax.tree.map(np.testing.assert_array_equal, swapped, expected)
    for dtype, tau, promoted in (
        (jnp.float8_e4m3fn, 2.0, jnp.float8_e4m3fn),
        (jnp.float8_e5m2, np.float32(2.0), jnp.float32),
        (jnp.float8_e5m2, jnp.bfloat16(2.0), jnp.bfloat16),
        (jnp.int4, 2.0, jnp.float32),
        (jnp.uint4, jnp.float16(2.0), jnp.float16),
    ):
        v, spikes = lif_scan(LIF(tau=tau), jnp.ones((2, 3), dtype))
        assert v.dtype == spikes.dtype == promoted


def test_a_weak_constant_adapts_to_the_currents():
    """A number that is traced, as by `grad`, leaves the dtype of the currents as it is."""

    def last(tau):
        return lif_scan(LIF(tau=tau), jnp.ones((3, 2), jnp.bfloat16))[0]

    assert jax.jit(last)(2.0).dtype == jnp.bfloat16


@pytest.mark.parametrize("factory", SURROGATES)
def test_nothing_leaks_from_a_neuron_that_is_an_argument(factory):
    with jax.checking_leaks():
        spikes = jax.jit(lambda spike, u: spike(u))(factory(), jnp.ones(3))
        assert spikes.tolist() == [1.0] * 3
        slopes = jax.jit(jax.grad(lambda n, x: lif_scan(n, x)[1].sum(), (0, 1)))(
            LIF(spike=factory()), currents(3, 2)
        )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("mapped", ["currents", "constant", "both"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_any_of_them_may_be_divided_over_an_explicit_mesh(mapped, compiled):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    divided = {"currents": ("xs",), "constant": ("tau",), "both": ("xs", "tau")}[mapped]

    def on(name, array, *spec):
        spec = PartitionSpec(*spec) if name in divided else PartitionSpec()
        return jax.device_put(array, NamedSharding(mesh, spec))

    xs, tau = np.asarray(currents(5, 8)), np.linspace(1, 3, 8, dtype=np.float32)

    def scan(tau, xs):
        return lif_scan(LIF(tau=tau), xs)

    got = (jax.jit(scan) if compiled else scan)(on("tau", tau, "x"), on("xs", xs, None, "x"))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), got, scan(tau, xs))


def test_the_number_of_timesteps_may_be_a_symbol_of_an_export():
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("t, 3"), jnp.float32)
    exported = jax.export.export(jax.jit(lambda xs: lif_scan(LIF(), xs)[1]))(shape)
    xs = currents(7, 3)
    np.testing.assert_array_equal(exported.call(xs), lif_scan(LIF(), xs)[1])
