"""One small spiking network as users of each framework write it: parameters, loss, own training loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState

from snnlth_jax import losses, masks, neurons

NUM_INPUTS, WIDTH, CLASSES, TIMESTEPS, BLOCKS = 6, 8, 3, 3, 4
X = jax.random.normal(jax.random.key(7), (10, NUM_INPUTS))
Y = jnp.arange(10) % CLASSES


@dataclasses.dataclass(frozen=True)
class Framework:
    """A framework.

    Attributes:
      init: `key -> params`.
      logits: `params -> logits` of `X`, `[T, B, classes]`.
      init_stacked: `key -> params` of a network with `BLOCKS` equal layers, stacked along the first axis.
      sum_of_stacked: `params -> scalar`: those layers one after the other, by a scan.
      start: `(params, tx) -> state` of the framework's training loop.
      step: `(state, **more) -> state`, one step of it; `more` goes to the optimiser.
      params: `state -> params`.
      replace_masks: `(state, masks) -> state`, between two rounds.
      jit, vmap: transformations for functions of its parameters.
    """

    init: Callable[[jax.Array], Any]
    logits: Callable[[Any], jax.Array]
    init_stacked: Callable[[jax.Array], Any]
    sum_of_stacked: Callable[[Any], jax.Array]
    start: Callable[[Any, Any], Any]
    step: Callable[..., Any]
    params: Callable[[Any], Any] = lambda state: state[0]
    replace_masks: Callable[[Any, Any], Any] = lambda state, kept: (
        state[0],
        masks.replace_masks(state[1], kept),
        *state[2:],
    )
    jit: Callable[..., Any] = jax.jit
    vmap: Callable[..., Any] = jax.vmap

    def loss(self, params: Any) -> jax.Array:
        return losses.cross_entropy(self.logits(params), Y).mean()


def fire(current: jax.Array) -> jax.Array:
    """Spikes of a layer that has the same current at every timestep."""
    return neurons.lif_scan(neurons.LIF(), jnp.stack([current] * TIMESTEPS))[1]


def own_loop(loss: Callable[[Any], jax.Array]) -> dict[str, Any]:
    """The usual loop with optax: `(params, opt_state)`, and the optimiser."""

    def step(state: Any, **more: Any) -> Any:
        params, opt_state, tx = state
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params, **more)
        return optax.apply_updates(params, updates), opt_state, tx

    return {"start": lambda params, tx: (params, tx.init(params), tx), "step": step}


# --- plain JAX: dicts of arrays


def _plain_init(key: jax.Array, inputs: int = NUM_INPUTS) -> Any:
    a, b = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(a, (inputs, WIDTH)), "b": jnp.zeros(WIDTH)},
        "readout": {"w": jax.random.normal(b, (WIDTH, CLASSES)), "b": jnp.zeros(CLASSES)},
    }


def _plain_logits(params: Any) -> jax.Array:
    spikes = fire(X @ params["hidden"]["w"] + params["hidden"]["b"][None])
    return spikes @ params["readout"]["w"] + params["readout"]["b"][None, None]


def _plain_stacked(params: Any) -> jax.Array:
    block = lambda h, p: (jnp.tanh(h @ p["w"] + p["b"][None]), None)  # noqa: E731
    return jax.lax.scan(block, jnp.ones((2, WIDTH)), params)[0].sum()


PLAIN = Framework(
    init=_plain_init,
    logits=_plain_logits,
    init_stacked=lambda key: jax.vmap(lambda key: _plain_init(key, WIDTH)["hidden"])(
        jax.random.split(key, BLOCKS)
    ),
    sum_of_stacked=_plain_stacked,
    **own_loop(lambda params: losses.cross_entropy(_plain_logits(params), Y).mean()),
)


# --- flax.linen: a FrozenDict-like dict, TrainState


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(fire(nn.Dense(WIDTH)(x)))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, h, _):
        return jnp.tanh(nn.Dense(WIDTH)(h)), None


LINEN_STACK = nn.scan(LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=BLOCKS)()


def _linen_logits(params: Any) -> jax.Array:
    return LinenNetwork().apply({"params": params}, X)


def _linen_step(state: TrainState, **more: Any) -> TrainState:
    grads = jax.grad(lambda params: losses.cross_entropy(_linen_logits(params), Y).mean())(state.params)
    if not more:
        return state.apply_gradients(grads=grads)
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, **more)
    return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)


LINEN = Framework(
    init=lambda key: LinenNetwork().init(key, X)["params"],
    logits=_linen_logits,
    init_stacked=lambda key: LINEN_STACK.init(key, jnp.ones((2, WIDTH)), None)["params"],
    sum_of_stacked=lambda params: LINEN_STACK.apply({"params": params}, jnp.ones((2, WIDTH)), None)[0].sum(),
    start=lambda params, tx: TrainState.create(apply_fn=None, params=params, tx=tx),
    step=_linen_step,
    params=lambda state: state.params,
    replace_masks=lambda state, kept: state.replace(opt_state=masks.replace_masks(state.opt_state, kept)),
)


# --- flax.nnx: an nnx.State, nnx.Optimizer


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(NUM_INPUTS, WIDTH, rngs=rngs)
        self.readout = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.readout(fire(self.hidden(x)))


def _nnx_logits(params: Any) -> jax.Array:
    return nnx.merge(nnx.graphdef(NNXNetwork(nnx.Rngs(0))), params)(X)


def _nnx_start(params: Any, tx: Any) -> Any:
    model = NNXNetwork(nnx.Rngs(0))
    nnx.update(model, params)
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def _nnx_step(state: Any, **more: Any) -> Any:
    model, optimizer = state
    grads = nnx.grad(lambda model: losses.cross_entropy(model(X), Y).mean())(model)
    optimizer.update(model, grads, **more)
    return state


def _nnx_replace(state: Any, kept: Any) -> Any:
    _, optimizer = state
    optimizer.opt_state = masks.replace_masks(optimizer.opt_state, kept)
    return state


def _nnx_block(rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(WIDTH, WIDTH, rngs=rngs)


def _nnx_stacked(params: Any) -> jax.Array:
    graph = nnx.graphdef(_nnx_block(nnx.Rngs(0)))
    block = lambda h, p: (jnp.tanh(nnx.merge(graph, p)(h)), None)  # noqa: E731
    return jax.lax.scan(block, jnp.ones((2, WIDTH)), params)[0].sum()


NNX = Framework(
    init=lambda key: nnx.state(NNXNetwork(nnx.Rngs(key)), nnx.Param),
    logits=_nnx_logits,
    init_stacked=lambda key: jax.vmap(lambda key: nnx.state(_nnx_block(nnx.Rngs(key)), nnx.Param))(
        jax.random.split(key, BLOCKS)
    ),
    sum_of_stacked=_nnx_stacked,
    start=_nnx_start,
    step=_nnx_step,
    params=lambda state: nnx.state(state[0], nnx.Param),
    replace_masks=_nnx_replace,
)


# --- Equinox: a module with functions among its leaves


class EquinoxNetwork(eqx.Module):
    hidden: eqx.nn.Linear
    readout: eqx.nn.Linear
    fire: Callable[[jax.Array], jax.Array]

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.hidden = eqx.nn.Linear(NUM_INPUTS, WIDTH, key=a)
        self.readout = eqx.nn.Linear(WIDTH, CLASSES, key=b)
        self.fire = fire

    def __call__(self, x):
        return jax.vmap(self.readout)(self.fire(self.hidden(x)))


def _equinox_logits(model: Any) -> jax.Array:
    return jax.vmap(model, out_axes=1)(X)


def _equinox_step(state: Any, **more: Any) -> Any:
    model, opt_state, tx = state
    grads = eqx.filter_grad(lambda model: losses.cross_entropy(_equinox_logits(model), Y).mean())(model)
    updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_array), **more)
    return eqx.apply_updates(model, updates), opt_state, tx


def _equinox_stacked(model: Any) -> jax.Array:
    arrays, rest = eqx.partition(model, eqx.is_array)
    block = lambda h, p: (jnp.tanh(jax.vmap(eqx.combine(p, rest))(h)), None)  # noqa: E731
    return jax.lax.scan(block, jnp.ones((2, WIDTH)), arrays)[0].sum()


EQUINOX = Framework(
    init=EquinoxNetwork,
    logits=_equinox_logits,
    init_stacked=lambda key: eqx.filter_vmap(lambda key: eqx.nn.Linear(WIDTH, WIDTH, key=key))(
        jax.random.split(key, BLOCKS)
    ),
    sum_of_stacked=_equinox_stacked,
    start=lambda model, tx: (model, tx.init(eqx.filter(model, eqx.is_array)), tx),
    step=_equinox_step,
    jit=eqx.filter_jit,
    vmap=eqx.filter_vmap,
)


# --- Haiku: a dict of dicts

HAIKU_NETWORK = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(CLASSES)(fire(hk.Linear(WIDTH)(x)))))
HAIKU_STACK = hk.without_apply_rng(
    hk.transform(
        lambda h: hk.experimental.layer_stack(BLOCKS)(lambda h: jnp.tanh(hk.Linear(WIDTH)(h)))(h).sum()
    )
)

HAIKU = Framework(
    init=lambda key: HAIKU_NETWORK.init(key, X),
    logits=lambda params: HAIKU_NETWORK.apply(params, X),
    init_stacked=lambda key: HAIKU_STACK.init(key, jnp.ones((2, WIDTH))),
    sum_of_stacked=lambda params: HAIKU_STACK.apply(params, jnp.ones((2, WIDTH))),
    **own_loop(lambda params: losses.cross_entropy(HAIKU_NETWORK.apply(params, X), Y).mean()),
)

FRAMEWORKS = {"plain": PLAIN, "linen": LINEN, "NNX": NNX, "Equinox": EQUINOX, "Haiku": HAIKU}
