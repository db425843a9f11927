import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("spike", "expected"),
    [
        (surrogate.atan(2.0), lambda u: 1 / (1 + (np.pi * u) ** 2)),
        (surrogate.sigmoid(4.0), lambda u: 1 / np.cosh(2 * u) ** 2),
        (surrogate.fast_sigmoid(10.0), lambda u: 1 / (1 + 10 * abs(u)) ** 2),
        (surrogate.triangle(0.3), lambda u: 0.3 * np.maximum(0, 1 - abs(u))),
        (surrogate.rectangle(1.0), lambda u: (abs(u) < 0.5) * 1.0),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_surrogates(spike, expected, x64):
    u = jnp.array([-1.7, -0.6, -0.2, 0.0, 0.1, 0.4, 2.3])
    np.testing.assert_array_equal(spike(u), u >= 0)
    np.testing.assert_allclose(jax.vmap(jax.grad(spike))(u), expected(u), rtol=1e-12)
    np.testing.assert_allclose(jax.jvp(spike, (u,), (jnp.ones_like(u),))[1], expected(u), rtol=1e-12)


@pytest.mark.parametrize("factory", [getattr(surrogate, n) for n in surrogate.__all__ if n != "SpikeFn"])
def test_surrogates_are_identical_when_equal(factory):
    assert factory(2.0) is factory(2.0)
    assert factory(2.0) is not factory(3.0)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        factory(0.0)


def test_gradient_of_the_hard_reset():
    """Attached, the reset carries -v ds/dv; detached, it carries nothing."""
    for detach in (True, False):
        neuron = dataclasses.replace(LIF(), detach_reset=detach)
        slope = jax.grad(lambda x, neuron=neuron: lif_step(neuron, jnp.zeros(()), x)[0])(jnp.array(2.0))
        dv = 0.75
        expected = 0.0 if detach else -1.5 * dv / (1 + (np.pi * 0.5) ** 2)
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "message"), [({"tau": 0.5}, "tau must be at least 1"), ({"v_threshold": 0.0}, "above v_reset")]
)
def test_impossible_neurons(field, message):
    with pytest.raises(ValueError, match=message):
        LIF(**field)
