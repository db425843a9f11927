"""Programs that stand in for compiled ones: what they compute takes no time and depends on all that matters.

A search that trains with them writes the same files at the same moments as a real one, so that whatever
concerns the protocol (resume, checkpoints, faults) can be tried at every moment of it.
"""

import functools

import jax
import numpy as np

from snnlth_jax.analysis import wiring
from snnlth_jax.analysis.activity import Spikes
from snnlth_jax.search import programs
from snnlth_jax.train import Evaluation, Metrics, Program

STEPS_PER_EPOCH = 2


class StubPrograms(programs.Programs):
    """Stubs in place of whatever is to be compiled; nothing is kept and nothing compiled."""

    def get(self, key, compile_program):
        stubs = {"train": PROGRAM, "spikes": functools.partial(_count, *key[1:3]), "scores": _score}
        return stubs[key[0]], 0.0


def _noise(like, seed):
    return np.random.default_rng(seed).normal(size=like.shape).astype(like.dtype)


def _train(state, metrics, split, key, learning_rate, start, stop):
    """Steps of noise that is keyed as training is; removed weights stay 0, momentum moves the others."""
    state, metrics = jax.device_get((state, metrics))
    words = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    for step in range(int(start), int(stop)):
        state = _step(state, float(learning_rate), [*words, step])
        metrics = Metrics(
            metrics.loss + np.float32(1), metrics.correct + np.int32(step), metrics.examples + 48
        )
    return (*jax.device_put((state, metrics)), np.int32(-1))


def _step(state, learning_rate, seed):
    momentum = np.float32(sum(float(x.sum()) for x in jax.tree.leaves(state.opt_state)) % 1)
    leaves, structure = jax.tree.flatten(state.params)
    kept = jax.tree.leaves(state.masks, is_leaf=lambda x: x is None)
    for i, leaf in enumerate(leaves):
        moved = leaf + np.float32(learning_rate) * (_noise(leaf, [*seed, i]) - momentum)
        leaves[i] = moved if kept[i] is None else np.where(kept[i], moved, np.float32(0))
    return state._replace(
        step=state.step + np.int32(1),
        params=jax.tree.unflatten(structure, leaves),
        batch_stats=jax.tree.map(lambda x: x + np.float32(1), state.batch_stats),
        opt_state=jax.tree.map(lambda x: x + np.asarray(0.3, x.dtype), state.opt_state),
    )


def _evaluate(state, split):
    total = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(jax.device_get(state.params)))
    examples = len(split.labels)
    correct = int(1000 * total) % examples
    metrics = Metrics(np.float32(total), np.int32(correct), np.int32(examples))
    return Evaluation(metrics, np.arange(examples) < correct)


def _statistics(state, split, key):
    return jax.tree.map(lambda x: _noise(x, x.size), state.batch_stats)


def _count(model, num_timesteps, variables, images):
    """No neuron ever fires."""
    connections = programs.connections(model, images.shape[-3:])
    shapes = wiring.shapes(connections, wiring.by_name(variables["params"]), images.shape[-3:])
    sites = {(c.source, c.poolings): wiring.received_shape(c, shapes[c.source]) for c in connections}
    sites |= {(c.target, 0): shapes[c.target] for c in connections}
    counts = {site: np.zeros((num_timesteps, *shape), np.int32) for site, shape in sites.items()}
    return Spikes(
        counts, {name: n.astype(np.uint8) for (name, poolings), n in counts.items() if not poolings}
    )


def _score(params, *arguments):
    return jax.tree.map(lambda leaf: np.abs(_noise(leaf, leaf.size)), params)


PROGRAM = Program(
    train=_train,
    evaluate=_evaluate,
    statistics=_statistics,
    steps_per_epoch=STEPS_PER_EPOCH,
    compile_seconds=0.0,
    memory=None,
)
