"""The variants of a network that a search trains, and their programs, compiled once.

A *variant* is one architecture with an activation and a number of timesteps; its parameters depend on
neither. The process keeps programs by the inputs of their compilation, so that further seeds and further
searches compile nothing.
"""

import contextlib
import functools
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from snnlth_jax import configs, data, losses, masks, models, networks, neurons
from snnlth_jax.analysis import activity, tracing, wiring
from snnlth_jax.analysis.flops import macs
from snnlth_jax.analysis.wiring import Wiring
from snnlth_jax.configs import EarlyTime
from snnlth_jax.data.augment import Augmentation, choose
from snnlth_jax.data.frames import as_input, split_shape
from snnlth_jax.errors import InputError
from snnlth_jax.machine import hosts, sharding
from snnlth_jax.masks import trees
from snnlth_jax.models import own
from snnlth_jax.run.results import FlopsPerImage
from snnlth_jax.search.measure import (
    Measurement,
    images_to_count_on,
    measure,
    spike_counter,
    spikes_of_layers,
)
from snnlth_jax.train import Program, TrainState, compile_program, init_state, optimizers

__all__ = [
    "TWIN",
    "Programs",
    "Variant",
    "Variants",
    "connections",
    "full_variant",
    "network",
    "parameters",
    "variables",
]

log = logging.getLogger(__name__)

PyTree = Any


class Variant(NamedTuple):
    """A network variant: the activation and the number of timesteps."""

    activation: str
    num_timesteps: int

    def __str__(self) -> str:
        return f"{self.activation} T={self.num_timesteps}"


TWIN = Variant("relu", 1)  # the same layers without time


def full_variant(config: configs.ResolvedTrain) -> Variant:
    """The variant of the tickets, at the full T."""
    return Variant(config.activation, config.num_timesteps)


def network(config: configs.ResolvedTrain, num_classes: int, kernels: str = "auto") -> nn.Module:
    """The network of a configuration, at activation "lif"; all that it depends on are names and numbers.

    Args:
      config: resolved, or any object with the fields of `configs.Network` and `configs.Neuron` and `dtype`,
        such as the completed identity of a run.
      num_classes: number of logits.
      kernels: see `models.create`.

    Raises:
      InputError: a network of the user's own that cannot be built.

    >>> import dataclasses
    >>> from types import SimpleNamespace
    >>> resolved = configs.resolve(configs.ImpConfig(neuron="plif", norm="bntt"))
    >>> network(SimpleNamespace(**dataclasses.asdict(resolved)), 10) == network(resolved, 10)
    True
    """
    dtype = None if config.dtype == "float32" else jnp.dtype(config.dtype)
    if own.is_own(config.arch):
        return own.build(config.arch, num_classes, own.options_of(config.arch_option), dtype)
    neuron = neurons.create(
        config.neuron,
        config.neuron_tau,
        config.v_threshold,
        None if config.v_reset == "none" else config.v_reset,
        config.surrogate,
        config.surrogate_scale,
    )
    return models.create(
        config.arch,
        num_classes,
        width=config.width,
        neuron=neuron,
        dtype=dtype,
        norm=config.norm,
        norm_timesteps=config.num_timesteps if config.norm == "bntt" else None,
        kernels=kernels,
    )


def parameters(
    config: configs.ResolvedTrain, dataset: data.Dataset, model: nn.Module | None = None
) -> PyTree:
    """The parameters of a network as `jax.ShapeDtypeStruct`; no device computes anything.

    Args:
      config: resolved.
      dataset: loaded.
      model: Flax module with the arguments of `snnlth_jax.models`; by default the configuration's.
    """
    return variables(config, dataset, model)["params"]


def variables(
    config: configs.ResolvedTrain, dataset: data.Dataset, model: nn.Module | None = None
) -> dict[str, PyTree]:
    """Parameters and batch statistics, as `parameters`."""
    shapes = _init_shapes(model or network(config, dataset.num_classes), dataset.image_shape)
    return {kind: shapes.get(kind, {}) for kind in ("params", "batch_stats")}


class Programs:
    """A cache of compiled programs by the inputs of their compilation; the least recently used go first.

    Args:
      most: largest number of programs that it keeps.

    Attributes:
      most: that number.
      compilations: number of programs compiled so far.
    """

    def __init__(self, most: int = 16):
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self.most = most
        self.compilations = 0

    def get(self, key: Hashable, compile_program: Callable[[], Any]) -> tuple[Any, float]:
        """The program of a key and the seconds of compiling it: 0 if it was in the cache."""
        key = (key, _settings())
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key], 0.0
        started = time.perf_counter()
        program = self._kept[key] = compile_program()
        self.compilations += 1
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return program, time.perf_counter() - started

    def clear(self) -> None:
        """Forget all programs, to free their memory."""
        self._kept.clear()


SHARED = Programs()  # the programs of this process


def _settings() -> Hashable:
    """JAX's settings of numbers and randomness, on which a compiled program depends."""
    names = (
        "jax_enable_x64",
        "jax_default_matmul_precision",
        "jax_default_prng_impl",
        "jax_threefry_partitionable",
    )
    return tuple(str(getattr(jax.config, name)) for name in names)


def _shapes(tree: PyTree) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, str(x.dtype), getattr(x, "sharding", None)) for x in leaves)


class Variants:
    """The network of a search in all its variants: models, programs and FLOPs.

    Args:
      config: resolved.
      dataset: loaded.
      model: Flax module with the arguments of `snnlth_jax.models`; by default the configuration's.
      programs: cache of compiled programs; by default the one of this process.
      devices: devices of the programs; by default the configuration's, of this process.

    Attributes:
      dataset: the dataset.
      devices: devices of the programs, see `sharding.Devices`.
      tx: optimiser.
      loss: loss of training and evaluation.
      sample: image like those of the dataset, `[1, H, W, C]` or `[1, T, H, W, C]`.
    """

    def __init__(
        self,
        config: configs.ResolvedTrain,
        dataset: data.Dataset,
        model: nn.Module | None = None,
        programs: Programs | None = None,
        devices: sharding.Devices | None = None,
    ):
        self._config, self.dataset = config, dataset
        self._model = _checked(model, config, dataset)
        self.loss = losses.Loss(config.loss, config.label_smoothing)
        self._programs = SHARED if programs is None else programs
        self.tx: optax.GradientTransformationExtraArgs = optimizers.create(
            config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.devices = devices or sharding.Devices.of(hosts.devices(config.devices), config.parallel)
        if self.devices is not None and self.devices.count > 1:
            _check_shared(self._model, config, dataset)
        self.sample = jnp.zeros((1, *dataset.image_shape), jnp.float32)

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of the dataset, or the steps that the configuration has in place of it."""
        own, steps = self.dataset.augmentation, self._config.augment
        return own if steps is True else choose(own, steps or (), self.dataset.image_shape)

    def model(self, variant: Variant) -> nn.Module:
        """Flax module of a variant."""
        return own.cloned(self._model, activation=variant.activation)

    def recipe(self, variant: Variant) -> networks.Recipe:
        """Recipe by which a variant is built and called, for its network file."""
        return networks.describe(
            self.model(variant),
            image_shape=self.dataset.image_shape,
            normalisation=self.augmentation,
            num_timesteps=variant.num_timesteps,
            name=self._config.arch,
            width=self._config.width,
            options=own.options_of(self._config.arch_option),
            num_classes=self.dataset.num_classes,
            class_names=self.dataset.classes,
        )

    def init_state(self, key: jax.Array) -> TrainState:
        """A state with new weights, which fits all variants."""
        model = self.model(Variant(self._config.activation, 1))
        return init_state(key, model, self.tx, self.sample)

    # --- data on the devices

    def on_devices(self, split: data.Split) -> data.Split:
        """A split on the devices: its images whole on each, or divided among them (`--shard-data`)."""
        if not self._divided:
            whole: data.Split = sharding.replicate(split, self.devices)
            return whole
        return data.Split(
            sharding.shard(split.images, self.devices), sharding.replicate(split.labels, self.devices)
        )

    @functools.cached_property
    def _divided(self) -> bool:
        config, dataset = self._config, self.dataset
        if config.shard_data != "auto" or config.parallel != "shard_map":
            return config.shard_data == "yes"
        splits = (dataset.train, dataset.test, dataset.validation)
        size = sum(split.images.nbytes for split in splits if split is not None)
        memory: float = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
        return size > memory / 4

    @functools.cached_property
    def wiring(self) -> Wiring | None:
        """Connections of the network, see `connections`."""
        return connections(own.cloned(self._model, activation="lif"), self.dataset.image_shape)

    @property
    def _known_wiring(self) -> Wiring:
        if self.wiring is None:
            raise InputError("`arch`", self._config.arch, problem="its connections are not known")
        return self.wiring

    # --- programs

    def program(
        self,
        variant: Variant,
        state: TrainState,
        train_split: data.Split,
        test_split: data.Split,
        announce: Callable[[], None] = lambda: None,
    ) -> tuple[Program, float]:
        """Training and evaluation of a variant for arrays of these shapes, and the seconds of compiling.

        `announce` is called before the compilation; not if the cache has the program.
        """

        def announce_and_compile() -> Program:
            announce()
            return compile_program(
                model,
                self.tx,
                state,
                train_split,
                test_split,
                augmentation=self.augmentation,
                batch_size=self._config.batch_size,
                num_timesteps=variant.num_timesteps,
                devices=self.devices,
                loss_factor=factor,
                loss_fn=self.loss,
            )

        model, factor = self.model(variant), self.loss_factor(variant)
        key = (
            "train",
            model,
            variant.num_timesteps,
            factor,
            self.loss,
            self.tx,
            self.augmentation,
            self._config.batch_size,
        )
        shapes = _shapes((state, train_split, test_split))
        return self._programs.get((*key, self.devices, shapes), announce_and_compile)

    def loss_factor(self, variant: Variant) -> float:
        """Factor on the loss; 1, except for the authors' code at T' < T, whose mean over T' is one over T."""
        over_t = isinstance(self._config, EarlyTime) and self._config.early_time_loss == "over-t"
        return variant.num_timesteps / self._config.num_timesteps if over_t else 1.0

    def spike_counter(
        self, variant: Variant, state: TrainState, images: np.ndarray | None = None
    ) -> tuple[Callable[..., Any], float]:
        """Count the spikes of a spiking variant, see `activity.count_spikes`, and the seconds of compiling.

        It runs on one device of this host, which has the whole state; no host waits for another. It takes the
        variables and images of the shape of `images`, by default the test images to count on.
        """
        model = self.model(variant)
        images = images_to_count_on(self.dataset.test.images) if images is None else images
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _variables(state))
        image_shapes = jax.ShapeDtypeStruct(images.shape, images.dtype)
        count = spike_counter(
            model, self._known_wiring, variant.num_timesteps, self.augmentation, len(images)
        )
        return self._programs.get(
            ("spikes", model, variant.num_timesteps, self.augmentation, _shapes((shapes, image_shapes))),
            lambda: jax.jit(count).lower(shapes, image_shapes).compile(),
        )

    def scorer(self, key: Hashable, criterion: Callable[..., PyTree], *args: PyTree) -> tuple[Any, float]:
        """A criterion's scores as a compiled function of arguments like these, and the seconds of compiling.

        Args:
          key: everything that decides the criterion beside the network and the shapes of its arguments.
          criterion: function of the arguments.
          *args: the arguments; only their shapes matter.
        """
        return self._programs.get(
            ("scores", key, self._model, self.loss, self.sample.shape, self.augmentation, _shapes(args)),
            lambda: jax.jit(criterion).lower(*args).compile(),
        )

    # --- numbers

    def count_spikes(self, variant: Variant, state: TrainState, images: np.ndarray) -> activity.Spikes:
        """Spikes of every neuron of a spiking variant, see `activity.count_spikes`."""
        variables = jax.device_get(_variables(state))
        counter, _ = self.spike_counter(variant, state, images)
        spikes: activity.Spikes = jax.device_get(counter(variables, jnp.asarray(images)))
        return spikes

    def synops_by_weight(self, variant: Variant, state: TrainState) -> PyTree:
        """SynOps over each weight for training images, a tree like the masks.

        The images are 1,000 evenly spaced ones, or all if there are fewer.
        """
        counts = self.count_spikes(variant, state, images_to_count_on(self.dataset.train.images)).counts
        layers, kernels = self._known_wiring, wiring.by_name(state.masks)
        neurons = wiring.shapes(layers, kernels, split_shape(self.dataset.image_shape)[1])
        by_name = {
            c.name: activity.synops_by_weight(c, kernels[c.name].shape, neurons[c.source], counts)
            for c in layers
            if c.name is not None
        }
        return jax.tree_util.tree_map_with_path(
            lambda path, mask: jnp.asarray(by_name[trees.name_of(path)]), state.masks
        )

    def measure(self, variant: Variant, state: TrainState) -> Measurement:
        """Measure the layers of a trained network, see `snnlth_jax.search.measure`."""
        spikes, images = None, images_to_count_on(self.dataset.test.images)
        if self.wiring is not None and variant.activation == "lif":
            spikes = self.count_spikes(variant, state, images)
        measured = measure(
            self.wiring,
            state.masks,
            self.dataset.image_shape,
            variant.num_timesteps,
            spikes and spikes.counts,
            len(images) if spikes else 0,
        )
        if spikes is None or self.wiring is None:
            return measured
        return measured._replace(first_image=spikes_of_layers(self.wiring, spikes.first))

    def forward_flops(self, variant: Variant) -> int:
        """FLOPs of one image through the network: two per multiply-accumulate."""
        return self.flops_per_image.once + variant.num_timesteps * self.flops_per_image.per_timestep

    @functools.cached_property
    def flops_per_image(self) -> FlopsPerImage:
        """FLOPs of the forward pass of one image: those of all timesteps together, and of each."""

        model = own.cloned(self._model, activation="lif")
        if getattr(model, "norm", None) == "bntt":  # which may have too few timesteps; norms have no FLOPs
            model = model.clone(norm="timestep")
        one, two = (_forward_flops(model, steps, self.dataset.image_shape) for steps in (1, 2))
        return FlopsPerImage(once=2 * one - two, per_timestep=two - one)


@functools.lru_cache(maxsize=64)
def _forward_flops(model: nn.Module, num_timesteps: int, image_shape: tuple[int, ...]) -> int:
    *frames, height, width, channels = image_shape
    several = [max(2, *frames)] if frames else []  # so that both counts of timesteps have their frames
    images = _inputs(model, (*several, height, width, channels), num_timesteps)
    variables = jax.eval_shape(partial(model.init, num_timesteps=num_timesteps), jax.random.key(0), images)
    return 2 * macs(partial(model.apply, num_timesteps=num_timesteps), variables, images)


@functools.lru_cache(maxsize=16)
def connections(model: nn.Module, image_shape: tuple[int, ...]) -> Wiring | None:
    """Connections of a network, said by itself or traced; None, with a line in the log, if not known."""
    try:
        with contextlib.suppress(ValueError):
            return wiring.connections(model)
        variables = _init_shapes(model, image_shape)
        return tracing.trace(model, variables, masks.make(variables["params"]), image_shape)
    except Exception as error:  # the program is the user's, of any kind
        measures = "dead channels, spikes and SynOps are not measured"
        log.warning("%s: %s, since its layers are not known: %s", type(model).__name__, measures, error)
        return None


def _init_shapes(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    images = _inputs(model, image_shape, 1)
    return jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), images)


def _inputs(model: nn.Module, image_shape: tuple[int, ...], num_timesteps: int, batch: int = 1) -> Any:
    """The shape of an input of a network."""
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    return jax.eval_shape(partial(as_input, model, num_timesteps=num_timesteps), images)


def _checked(given: nn.Module | None, config: configs.ResolvedTrain, dataset: data.Dataset) -> nn.Module:
    """The network, once it can be searched: those with a name can."""
    model = network(config, dataset.num_classes, config.kernels) if given is None else given
    if given is None and not own.is_own(config.arch):
        return model
    name = config.arch if given is None else type(model).__name__
    # the search says which devices share statistics, and which neurons are those of a variant
    model = own.cloned(model, axis_name=None, activation=config.activation)
    least = min(2, len(dataset.train.labels) % config.batch_size or config.batch_size)
    inputs = partial(_inputs, model, dataset.image_shape, batch=least)
    own.check(name, model, dataset.num_classes, inputs, config.num_timesteps)
    dtype = getattr(model, "dtype", None) or jnp.float32
    with contextlib.suppress(TypeError):  # no number format
        dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise InputError("`arch`", name, problem=f"its dtype is {dtype}", allowed="float32, bfloat16")
    synflow = isinstance(config, configs.OneShotConfig) and config.criterion == "synflow"
    twin = synflow or isinstance(config, configs.TransferConfig) or config.activation == "relu"
    if twin and not hasattr(model, "activation"):
        raise InputError(
            "`arch`", name, problem="has no ReLU twin", allowed="a module with a field activation"
        )
    return model


def _check_shared(model: nn.Module, config: configs.ResolvedTrain, dataset: data.Dataset) -> None:
    """Refuse batch statistics that several devices cannot share."""
    if "batch_stats" in _init_shapes(model, dataset.image_shape) and not hasattr(model, "axis_name"):
        problem = f"{config.arch} has batch statistics and no field axis_name to share them over"
        raise InputError("`devices`", config.devices, problem=problem, allowed="1")


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}
