"""`snnlth compile` on devices that are here: the same program, counted."""

import io

import jax
import pytest
from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.machine import aot
from snnlth_jax.search import ahead, phases


@pytest.fixture(scope="module")
def compiled():
    """The program of a tiny search, for this machine's CPU in place of an absent GPU."""
    patch = pytest.MonkeyPatch()
    patch.setattr(aot, "prepare", lambda: None)
    patch.setattr(aot, "devices_of", lambda topology: jax.local_devices()[:1])
    config = configs.ImpConfig(
        dataset="digits", arch="vgg5", width=0.05, num_timesteps=2, batch_size=48, train_examples=96,
        rounds=3, epochs=4, rewind_epoch=1,
    )  # fmt: skip
    try:
        yield config, ahead.compile_for("h100", config)
    finally:
        patch.undo()


def test_a_step_has_the_arithmetic_of_its_layers(compiled):
    _, found = compiled
    # the first convolution has no gradient of its images: less than three forward passes
    assert 0.5 * found.flops_per_step < found.budget.flops <= 1.5 * found.flops_per_step
    assert found.memory.arguments > 96 * 64  # the images at least
    assert found.device_memory == 84929347584


def test_every_class_has_its_kernels(compiled):
    _, found = compiled
    kinds = {kernel.kind for kernel in found.kernels}
    assert {"convolution", "norm and fire", "optimiser and masks", "data"} <= kinds
    assert sum(kernel.bytes for kernel in found.kernels) == pytest.approx(sum(found.budget.bytes.values()))


def test_the_search_has_its_epochs(compiled):
    config, found = compiled
    resolved = configs.resolve(config)
    assert len(phases.of(resolved)) >= 3
    assert found.search_epochs == 4 + 2 * (4 - 1)
    # a step's time for each step of each epoch, and the evaluations
    steps = found.search_epochs * 96 / 48
    assert found.search_seconds > steps * found.budget.seconds


def test_what_it_prints(compiled):
    output = io.StringIO()
    ahead.show(compiled[1], Console(file=output, width=200))
    text = output.getvalue()
    assert "norm and fire" in text
    assert "10 epochs" in text
