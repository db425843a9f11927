"""The networks of a run: one architecture, with time or without, each compiled once for all phases."""

import dataclasses
import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnlth_jax import configs, data, models, train
from snnlth_jax.analysis import activity, wiring
from snnlth_jax.analysis.flops import macs
from snnlth_jax.data.augment import Augmentation, normalise
from snnlth_jax.machine import hosts, sharding
from snnlth_jax.search.measure import measured, record
from snnlth_jax.train import TrainState, optimizers

__all__ = ["TWIN", "Network", "Networks"]


class Network(NamedTuple):
    """What makes a network of the architecture; the parameters do not depend on it."""

    activation: str
    num_timesteps: int

    def __str__(self) -> str:
        return f"{self.activation} T={self.num_timesteps}"


TWIN = Network("relu", 1)  # the same layers without time
_MEASURED_AT_A_TIME = 50  # images, whose spikes in all layers are in memory together


class Networks:
    """Models, programs and costs of the networks of a run, made when they are asked for.

    Args:
      config: resolved.
      dataset: loaded.

    Attributes:
      dataset: the same.
      devices: what they are spread over, see `sharding.Devices`.
      tx: the optimiser.
      sample: an image like those, `[1, H, W, C]`.
    """

    def __init__(self, config: configs.Resolved, dataset: data.Dataset):
        self._config, self.dataset = config, dataset
        self.tx = optimizers.create(
            config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self._programs: dict[Network, train.Program] = {}
        self._counters: dict[Network, Callable[..., Any]] = {}
        self.devices = sharding.Devices.of(hosts.devices(config.devices), config.parallel)
        self.sample = jnp.zeros((1, *dataset.image_shape), jnp.float32)

    @property
    def augmentation(self) -> Augmentation:
        """Of the dataset, or none at all."""
        if self._config.augment:
            return self.dataset.augmentation
        return dataclasses.replace(self.dataset.augmentation, crop_padding=0, flip=False, cutout=0)

    def model(self, network: Network) -> Any:
        """Its Flax module."""
        config = self._config
        return models.create(
            config.arch,
            self.dataset.num_classes,
            width=config.width,
            activation=network.activation,
            dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        )

    def init_state(self, key: jax.Array) -> TrainState:
        """A state with new weights, which fits all networks."""
        model = self.model(Network(self._config.activation, 1))
        return train.init_state(key, model, self.tx, self.sample)

    def placed(self, split: data.Split) -> data.Split:
        """A split on the devices: its images whole on each, or divided among them (`--shard-data`)."""
        if not self._divided:
            return sharding.placed(split, self.devices)
        return data.Split(
            sharding.spread(split.images, self.devices), sharding.placed(split.labels, self.devices)
        )

    @functools.cached_property
    def _divided(self) -> bool:
        config, dataset = self._config, self.dataset
        if config.shard_data != "auto" or config.parallel != "shard_map":
            return config.shard_data == "yes"
        splits = (dataset.train, dataset.test, dataset.validation)
        size = sum(split.images.nbytes for split in splits if split is not None)
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
        return size > memory / 4

    def compiled(self, network: Network) -> bool:
        """Whether it has a program already."""
        return network in self._programs

    def program(
        self, network: Network, state: TrainState, train_split: data.Split, test_split: data.Split
    ) -> train.Program:
        """Its training and evaluation, compiled for arrays of these shapes the first time."""
        if network not in self._programs:
            self._programs[network] = train.compile_program(
                self.model(network),
                self.tx,
                state,
                train_split,
                test_split,
                augmentation=self.augmentation,
                batch_size=self._config.batch_size,
                num_timesteps=network.num_timesteps,
                devices=self.devices,
            )
        return self._programs[network]

    def spike_counter(self, network: Network, state: TrainState) -> Callable[..., Any]:
        """Counts the spikes of spiking networks with such variables, see `activity.count_spikes`.

        Compiled the first time, for one device of this host: each has the whole state, and none waits.
        """
        if network not in self._counters:
            model, images = self.model(network), jnp.asarray(measured(self.dataset.test.images))
            count = partial(
                activity.count_spikes,
                model,
                wiring.connections(model),
                num_timesteps=network.num_timesteps,
                batch_size=min(_MEASURED_AT_A_TIME, len(images)),
                prepare=partial(normalise, augmentation=self.augmentation),
            )
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _variables(state))
            compiled = jax.jit(count).lower(shapes, images).compile()
            self._counters[network] = lambda variables: compiled(variables, images)
        return self._counters[network]

    def measure(self, network: Network, state: TrainState) -> dict[str, Any]:
        """What is recorded of a network once it is trained, see `snnlth_jax.analysis.record`."""
        counts, images = None, 0
        if network.activation == "lif":
            variables = jax.device_get(_variables(state))
            counts = jax.device_get(self.spike_counter(network, state)(variables))
            images = len(measured(self.dataset.test.images))
        return record(
            wiring.connections(self.model(network)),
            state.masks,
            self.dataset.image_shape,
            network.num_timesteps,
            counts,
            images,
        )

    def forward_flops(self, network: Network) -> int:
        """FLOPs of one image through the network: two per multiply-accumulate."""
        return self.by_timestep["once"] + network.num_timesteps * self.by_timestep["per_timestep"]

    @functools.cached_property
    def by_timestep(self) -> dict[str, int]:
        """FLOPs of one image, forward: "once", what all timesteps share, and "per_timestep"."""

        def flops(num_timesteps: int) -> int:
            model = self.model(Network("lif", num_timesteps))
            init = partial(model.init, num_timesteps=num_timesteps)
            variables = jax.eval_shape(init, jax.random.key(0), self.sample)
            return 2 * macs(partial(model.apply, num_timesteps=num_timesteps), variables, self.sample)

        one, two = flops(1), flops(2)
        return {"once": 2 * one - two, "per_timestep": two - one}


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}
