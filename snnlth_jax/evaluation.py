"""A trained network on the test images of a dataset: accuracy, by class, over time; spikes and operations.

The accuracy is computed by the program that evaluates during a search, in batches of the same size, so that
it is that of result.json to the last image.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from etils import epath

from snnlth_jax import configs, data, losses, masks
from snnlth_jax.analysis.energy import energy
from snnlth_jax.data.augment import normalise
from snnlth_jax.data.frames import as_input
from snnlth_jax.errors import InputError
from snnlth_jax.machine import numerics
from snnlth_jax.networks import Classifier, classifier
from snnlth_jax.run.results import LayerRecord
from snnlth_jax.search import programs
from snnlth_jax.search.measure import Measurement, images_to_count_on, measure, spike_counter
from snnlth_jax.train import TrainState, compile_evaluation

__all__ = ["Evaluated", "evaluate", "load_dataset", "text", "to_json"]

PyTree = Any
log = logging.getLogger(__name__)
_LARGEST = 65_536  # images at a time that a file may ask for


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The evaluation of a network.

    Attributes:
      dataset: name of the dataset.
      dataset_fingerprint: its fingerprint.
      test_examples: number of test images.
      num_timesteps: T.
      batch_size: number of images at a time.
      kept: number of prunable weights that are left.
      total: number of prunable weights.
      sparsity: 1 - kept / total.
      test_correct: number of test images that are classified correctly.
      test_accuracy: share of these.
      test_loss: mean loss, that of the search.
      accuracy_by_class: accuracy on the images of each class, by its name; None for a class without images.
      accuracy_over_time: accuracy of the sum of the first t logits, for t = 1 ... T.
      measured_images: number of images that spikes were counted on.
      synops_per_image: additions that spikes cause, over layers and timesteps; None without measured layers.
      macs_per_image: multiply-accumulates, likewise.
      energy_nanojoules: energy of both for one image, see `analysis.energy`.
      layers: spikes and operations of each layer, as in result.json; empty for a network of its author's own.
      correct: whether each test image is classified correctly, `[N]`; not in the JSON.
    """

    dataset: str
    dataset_fingerprint: str
    test_examples: int
    num_timesteps: int
    batch_size: int
    kept: int
    total: int
    sparsity: float
    test_correct: int
    test_accuracy: float
    test_loss: float
    accuracy_by_class: dict[str, float | None]
    accuracy_over_time: tuple[float, ...]
    measured_images: int
    synops_per_image: float | None
    macs_per_image: float | None
    energy_nanojoules: float | None
    layers: tuple[LayerRecord, ...]
    correct: np.ndarray


def load_dataset(
    network: Classifier,
    dataset: str | None = None,
    data_dir: str | None = None,
    test_examples: int | None = None,
) -> data.Dataset:
    """The dataset to evaluate on; by default that of the search, with its cap on test images.

    Raises:
      InputError: no dataset is named here or in the file, or as `data.load`.
    """
    known = network.provenance.get("dataset")
    if dataset is None and not isinstance(known, str):
        raise InputError("`dataset`", problem="the file names none", allowed="one of the datasets")
    # a file alone calls no function and names no file
    if dataset is None and known not in data.dataset.SPECS:
        problem = f"the network was trained on {known!r:.80}, no dataset of this package"
        raise InputError("`dataset`", problem=problem, allowed="yours, as for its search")
    config = configs.Data(
        dataset=str(known if dataset is None else dataset), data_dir=data_dir, test_examples=test_examples
    )
    capped = network.provenance.get("test_examples")
    if test_examples is None and isinstance(capped, int) and configs.dataset_name(config) == known:
        config = dataclasses.replace(config, test_examples=capped)
    return configs.load_dataset(config)


@numerics.pinned()
def evaluate(
    source: epath.PathLike | Classifier,
    dataset: data.Dataset | None = None,
    *,
    num_timesteps: int | None = None,
    batch_size: int | None = None,
    model: nn.Module | None = None,
    arch: str | None = None,
) -> Evaluated:
    """Evaluate a network on test images.

    Args:
      source: path of a network file, or a network from `networks.classifier`.
      dataset: dataset; by default that of the search.
      num_timesteps: T, for a path; by default that of the network.
      batch_size: number of images at a time; by default that of the search.
      model: the network, for a path; by default that of the file.
      arch: for a path, the `module:function` of a network of your own, see `networks.classifier`.

    Raises:
      InputError: not a network file, a dataset of other images or classes, numbers that are not allowed, or
        settings for a network that is made already.
    """
    if isinstance(source, Classifier):
        given = {"num_timesteps": num_timesteps, "model": model, "arch": arch}
        if late := [name for name, value in given.items() if value is not None]:
            allowed = "with the path of a file, or given to networks.classifier"
            raise InputError(f"`{late[0]}`", problem="the network is made already", allowed=allowed)
        network = source
    else:
        network = classifier(source, num_timesteps=num_timesteps, model=model, arch=arch)
    searched = network.provenance.get("batch_size", 128)
    size = searched if batch_size is None else batch_size
    dataset = load_dataset(network) if dataset is None else dataset
    # the search's own may be larger than the test set
    most = max(len(dataset.test.labels), 1024, min(searched, _LARGEST) if isinstance(searched, int) else 0)
    if not isinstance(size, int) or not 1 <= size <= most:
        raise InputError("`batch_size`", f"{size!r:.80}", allowed=f"1 to {most}")
    search = network.provenance.get("dataset_fingerprint", dataset.fingerprint)
    if search != dataset.fingerprint:
        log.warning("the network was trained on other data, %s", f"{search!s:.80}")
    _check_dataset(network, dataset)
    recipe, test = network.recipe, jax.tree.map(jnp.asarray, dataset.test)
    state = TrainState(
        jnp.zeros((), jnp.int32), network.variables["params"], network.variables["batch_stats"], {}, ()
    )
    run = compile_evaluation(
        network.model,
        state,
        test,
        augmentation=recipe.normalisation,
        batch_size=size,
        num_timesteps=recipe.num_timesteps,
        loss_fn=_loss(network.provenance),
    )
    metrics, correct = jax.device_get(run(state, test))
    correct = np.asarray(correct)
    labels = np.asarray(dataset.test.labels)
    over_time = np.asarray(
        _over_time(
            network.variables,
            test,
            model=network.model,
            normalisation=recipe.normalisation,
            batch_size=size,
            num_timesteps=recipe.num_timesteps,
        )
    )
    # the last is that of the search's own program, to the last image
    by_time = [float(row.mean()) for row in over_time[:-1]] + [int(metrics.correct) / len(labels)]
    kept, total = map(int, masks.count(network.masks))
    measured = _measure(network, dataset)
    operations = energy(measured.layers) if measured.connected else None
    return Evaluated(
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        test_examples=len(labels),
        num_timesteps=recipe.num_timesteps,
        batch_size=size,
        kept=kept,
        total=total,
        sparsity=1 - kept / total if total else 0.0,
        test_correct=int(metrics.correct),
        test_accuracy=int(metrics.correct) / len(labels),
        test_loss=float(metrics.loss) / len(labels),
        accuracy_by_class={
            name: float(correct[labels == label].mean()) if (labels == label).any() else None
            for label, name in enumerate(recipe.classes)
        },
        accuracy_over_time=tuple(by_time),
        measured_images=measured.measured_images,
        synops_per_image=operations and operations.synops,
        macs_per_image=operations and operations.macs,
        energy_nanojoules=operations and operations.picojoules / 1e3,
        layers=measured.layers,
        correct=correct,
    )


def _loss(provenance: Mapping[str, Any]) -> losses.Loss:
    """The loss of the search; the paper's if the file names none."""
    search = configs.completed(provenance)
    try:
        return losses.Loss(search.get("loss", "mean-ce"), search.get("label_smoothing", 0.0))
    except (TypeError, ValueError) as error:
        raise InputError("provenance", problem=str(error), allowed="the loss of a search") from error


def _check_dataset(network: Classifier, dataset: data.Dataset) -> None:
    recipe = network.recipe
    for what, own, other in (
        ("images", "x".join(map(str, recipe.image_shape)), "x".join(map(str, dataset.image_shape))),
        ("classes", recipe.num_classes, dataset.num_classes),
    ):
        if own != other:
            problem = f"its {what} are {other}, those of the network {own}"
            allowed = f"a dataset with {own} {'classes' if what == 'classes' else 'images'}"
            raise InputError("`dataset`", dataset.name, problem=problem, allowed=allowed)


@partial(jax.jit, static_argnames=("model", "normalisation", "batch_size", "num_timesteps"))
def _over_time(
    variables: PyTree,
    split: data.Split,
    *,
    model: nn.Module,
    normalisation: Any,
    batch_size: int,
    num_timesteps: int,
) -> jax.Array:
    """Whether each image is classified correctly by the sum of the first t logits, `[T, N]`."""
    examples = len(split.labels)
    positions = jnp.arange(-(-examples // batch_size) * batch_size).reshape(-1, batch_size)

    def step(carry: None, indices: jax.Array) -> tuple[None, jax.Array]:
        chosen = jnp.minimum(indices, examples - 1)
        images = normalise(jnp.asarray(split.images)[chosen], normalisation)
        images = as_input(model, images, num_timesteps)
        logits: Any = model.apply(variables, images, num_timesteps=num_timesteps, train=False)
        labels = jnp.asarray(split.labels)[chosen]
        steps = range(1, num_timesteps + 1)
        return carry, jnp.stack([losses.correct(logits[:t], labels) for t in steps])

    _, correct = jax.lax.scan(step, None, positions)
    return correct.transpose(1, 0, 2).reshape(num_timesteps, -1)[:, :examples]


def _measure(network: Classifier, dataset: data.Dataset) -> Measurement:
    """Spikes and operations of the layers, as a search measures them."""
    model, recipe = network.model, network.recipe
    connections = programs.connections(model, recipe.image_shape)
    images, counts = images_to_count_on(dataset.test.images), None
    if recipe.activation == "lif" and connections is not None:
        count = spike_counter(model, connections, recipe.num_timesteps, recipe.normalisation, len(images))
        counts = jax.device_get(jax.jit(count)(network.variables, jnp.asarray(images)).counts)
    counted = 0 if counts is None else len(images)
    return measure(connections, network.masks, recipe.image_shape, recipe.num_timesteps, counts, counted)


def to_json(result: Evaluated) -> str:
    """The evaluation as JSON."""
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "correct"}
    return json.dumps(msgspec.to_builtins(fields), indent=2)


def text(result: Evaluated) -> str:
    """The evaluation as text to print."""
    lines = [
        f"dataset: {result.dataset_fingerprint}, {result.test_examples:,} test images",
        f"T: {result.num_timesteps}",
        f"sparsity: {100 * result.sparsity:.2f} %, {result.kept:,} of {result.total:,} weights",
        f"test accuracy: {result.test_accuracy:.4f} ({result.test_correct:,} correct), "
        f"loss {result.test_loss:.4f}",
        "over t = 1 ... T: " + ", ".join(f"{value:.4f}" for value in result.accuracy_over_time),
        "by class: "
        + ", ".join(
            f"{name}: {'none' if value is None else format(value, '.4f')}"
            for name, value in result.accuracy_by_class.items()
        ),
    ]
    if result.synops_per_image is not None:
        lines.append(
            f"per image: {result.synops_per_image:,.0f} SynOps, {result.macs_per_image:,.0f} MACs, "
            f"{result.energy_nanojoules:,.3g} nJ of arithmetic"
        )
        lines += [
            f"  {layer.name.removesuffix('/kernel')}: "
            + ("no spikes" if layer.spikes_per_image is None else f"{layer.spikes_per_image:,.1f} spikes")
            + f", {sum(layer.synops_per_image):,.0f} SynOps, {sum(layer.macs_per_image):,.0f} MACs"
            for layer in result.layers
        ]
    return "\n".join(lines)
