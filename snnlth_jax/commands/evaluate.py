"""`snnlth eval` and `snnlth predict`: trained networks at work."""

import dataclasses

import tyro

from snnlth_jax.commands.output import show
from snnlth_jax.errors import InputError
from snnlth_jax.machine import compile_cache

__all__ = ["Eval", "Predict"]


@dataclasses.dataclass(frozen=True)
class Eval:
    """Evaluate a trained network: accuracy, by class and over timesteps; spikes, SynOps."""

    path: tyro.conf.Positional[str]
    """Network file: networks/NAME.safetensors in the directory of a run."""
    dataset: str | None = None
    """Dataset whose test images are taken. Default: that of the search, unless it is your own."""
    data_dir: str | None = None
    """Directory of the dataset, as for a search."""
    test_examples: int | None = None
    """Largest number of test images. Default: that of the search, on its dataset."""
    num_timesteps: int | None = None
    """T. Default: that of the network."""
    arch: str | None = None
    """MODULE:FUNCTION of a network of your own, as for its search; the file alone calls no function."""
    batch_size: int | None = None
    """Number of images at a time. Default: that of the search, with which the accuracy is that of result.json
    to the last image."""
    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        from snnlth_jax import evaluation, networks

        compile_cache.keep_programs()
        network = networks.classifier(self.path, num_timesteps=self.num_timesteps, arch=self.arch)
        dataset = evaluation.load_dataset(network, self.dataset, self.data_dir, self.test_examples)
        result = evaluation.evaluate(network, dataset, batch_size=self.batch_size)
        show(evaluation.to_json(result) if self.json else evaluation.text(result))


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict the classes of images by a trained network: a list of class and probabilities."""

    path: tyro.conf.Positional[str]
    """Network file: networks/NAME.safetensors in the directory of a run."""
    images: tyro.conf.Positional[list[str]]
    """Images: png files, or npy and npz files with uint8 [H, W], [H, W, C], [N, H, W] or [N, H, W, C]. Their
    size and channels are those of the network; nothing is resized."""
    num_timesteps: int | None = None
    """T. Default: that of the network."""
    arch: str | None = None
    """MODULE:FUNCTION of a network of your own, as for its search; the file alone calls no function."""
    json: bool = False
    """Print JSON."""
    csv: bool = False
    """Print CSV."""

    def run(self) -> None:
        from snnlth_jax import networks
        from snnlth_jax.networks import predictions

        if self.json and self.csv:
            raise InputError("`csv`", allowed="without `json`")
        if not self.images:
            raise InputError("images", problem="none are given", allowed="one or more png, npy or npz files")
        network = networks.classifier(self.path, num_timesteps=self.num_timesteps, arch=self.arch)
        form = "json" if self.json else "csv" if self.csv else "table"
        show(predictions.FORMATS[form](predictions.predict(network, self.images), network.recipe.classes))
