"""The networks of a run: one architecture, with time or without, each compiled once for all phases."""

import dataclasses
import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snnlth_jax import configs, cost, data, hosts, models, sharding, training
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.training import TrainState

__all__ = ["TWIN", "Network", "Networks"]


class Network(NamedTuple):
    """What makes a network of the architecture; the parameters do not depend on it."""

    activation: str
    num_timesteps: int

    def __str__(self) -> str:
        return f"{self.activation} T={self.num_timesteps}"


TWIN = Network("relu", 1)  # the same layers without time


class Networks:
    """Models, programs and costs of the networks of a run, made when they are asked for.

    Args:
      config: resolved.
      dataset: loaded.
      tx: the optimiser.
    """

    def __init__(
        self, config: configs.Resolved, dataset: data.Dataset, tx: optax.GradientTransformationExtraArgs
    ):
        self._config, self._dataset, self._tx = config, dataset, tx
        self._programs: dict[Network, training.Program] = {}
        self.devices = sharding.Devices.of(hosts.devices(config.devices), config.parallel)
        self.sample = jnp.zeros((1, *dataset.image_shape), jnp.float32)

    @property
    def augmentation(self) -> Augmentation:
        """Of the dataset, or none at all."""
        if self._config.augment:
            return self._dataset.augmentation
        return dataclasses.replace(self._dataset.augmentation, crop_padding=0, flip=False, cutout=0)

    def model(self, network: Network) -> Any:
        """Its Flax module."""
        config = self._config
        return models.create(
            config.arch,
            self._dataset.num_classes,
            width=config.width,
            activation=network.activation,
            dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        )

    def init_state(self, key: jax.Array) -> TrainState:
        """A state with new weights, which fits all networks."""
        model = self.model(Network(self._config.activation, 1))
        return training.init_state(key, model, self._tx, self.sample)

    def compiled(self, network: Network) -> bool:
        """Whether it has a program already."""
        return network in self._programs

    def program(
        self, network: Network, state: TrainState, train_split: data.Split, test_split: data.Split
    ) -> training.Program:
        """Its training and evaluation, compiled for arrays of these shapes the first time."""
        if network not in self._programs:
            self._programs[network] = training.compile_program(
                self.model(network),
                self._tx,
                state,
                train_split,
                test_split,
                augmentation=self.augmentation,
                batch_size=self._config.batch_size,
                num_timesteps=network.num_timesteps,
                devices=self.devices,
            )
        return self._programs[network]

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
            return 2 * cost.macs(partial(model.apply, num_timesteps=num_timesteps), variables, self.sample)

        one, two = flops(1), flops(2)
        return {"once": 2 * one - two, "per_timestep": two - one}
