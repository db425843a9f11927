"""Predictions of a trained network for image files, as a table, CSV or JSON."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence

import jax
import numpy as np

from snnlth_jax.networks.classifier import Classifier
from snnlth_jax.networks.images import read

__all__ = ["FORMATS", "Prediction", "predict"]

_AT_A_TIME = 100


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for an image.

    Attributes:
      image: name of the file, with the number of the image if it has several.
      label: class of the largest logit.
      name: name of the class; its number if no names are known.
      probabilities: softmax of the logits, which are summed over time, `[classes]`.
    """

    image: str
    label: int
    name: str
    probabilities: tuple[float, ...]


def predict(network: Classifier, paths: Sequence[str]) -> list[Prediction]:
    """Predict the classes of all images in some files; all are read before anything is computed.

    Args:
      network: the network, see `classifier`.
      paths: pictures, .npy and .npz files.

    Raises:
      InputError: a file that cannot be read, or whose images do not fit the network.
    """
    files = [read(path, network.recipe.image_shape) for path in paths]
    names = [name for of_file, _ in files for name in of_file]
    images = np.concatenate([images for _, images in files])
    predictions: list[Prediction] = []
    for start in range(0, len(images), _AT_A_TIME):
        batch = images[start : start + _AT_A_TIME]
        filled = np.resize(batch, (min(_AT_A_TIME, len(images)), *batch.shape[1:]))  # one compilation
        logits = network(filled)[: len(batch)]
        labels, probabilities = np.argmax(logits, axis=-1), np.asarray(jax.nn.softmax(logits))
        for name, label, own in zip(names[start:], labels.tolist(), probabilities.tolist(), strict=False):
            predictions.append(Prediction(name, label, network.recipe.classes[label], tuple(own)))
    return predictions


def _table(predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    width = max(len(p.image) for p in predictions)
    names = max(len("class"), *(len(p.name) for p in predictions))
    lines = [f"{'image':{width}}  {'class':{names}}  probability"]
    lines += [f"{p.image:{width}}  {p.name:{names}}  {p.probabilities[p.label]:.4f}" for p in predictions]
    return "\n".join(lines)


def _csv(predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "class", "probability", *(f"p({name})" for name in classes)])
    for p in predictions:
        writer.writerow([p.image, p.label, p.name, p.probabilities[p.label], *p.probabilities])
    return text.getvalue().rstrip("\n")


def _json(predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    entries = [
        {
            "image": p.image,
            "label": p.label,
            "class": p.name,
            "probability": p.probabilities[p.label],
            "probabilities": dict(zip(classes, p.probabilities, strict=True)),
        }
        for p in predictions
    ]
    return json.dumps(entries, indent=2)


FORMATS: dict[str, Callable[[Sequence[Prediction], Sequence[str]], str]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
}
