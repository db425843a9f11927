"""Problems of this machine or environment that would keep a run from starting, or slow it down.

Each function judges one thing and names a remedy. It trains no network. It compiles the kernels of a GPU or
TPU and the calls of oneDNN, and reads images only of a user's own dataset, which is then kept in the cache.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax import data
from snnlth_jax.data import own, tfds
from snnlth_jax.errors import InputError, flag, one_line
from snnlth_jax.models import _onednn
from snnlth_jax.models.norm_fire import Normed, norm_fire, takes
from snnlth_jax.neurons import LIF

__all__ = [
    "Finding",
    "compilation_cache",
    "convolutions",
    "devices",
    "disk_space",
    "examine",
    "frameworks",
    "hardware",
]
__all__ += ["images", "report", "training_kernels", "versions"]

# A checkpoint of VGG16: 59 MB each of weights, momentum and rewind weights, and 15 MB of masks, 0.19 GB.
# Three are kept, and a fourth exists while it is written.
_PLENTY, _TOO_LITTLE = 2**30, 0.3 * 2**30
_SHOWN = ["python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy"]
_SHOWN += ["tensorflow-datasets", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"]
_UNSEEN = {
    "gpu": "pip install -U 'jax[cuda13]'; where that is installed, jax.devices('cuda') says why",
    "tpu": "pip install -r requirements-tpu.txt; where that is done, jax.devices('tpu') says why",
}


class Finding(NamedTuple):
    """A judgement: "ok", a "warning" (it could be better) or an "error" (a run would fail or crawl)."""

    level: str
    what: str
    remedy: str = ""


def report(findings: Iterable[Finding]) -> str:
    """A line for each finding.

    >>> print(report([Finding("ok", "8 devices: cpu"), Finding("error", "no disk", "buy one")]))
    ok       8 devices: cpu
    error    no disk: buy one
    """
    return "\n".join(f"{level:<8} {what}" + (remedy and f": {remedy}") for level, what, remedy in findings)


def examine(dataset: str, data_dir: str | None = None, workdir: str | None = None) -> list[Finding]:
    """Run every check on this machine, for a run in `workdir` with a dataset from `data_dir`."""
    installed, present = _installed(), hardware()
    checks: list[Callable[[], list[Finding]]] = [
        lambda: versions(installed, _requirements(installed)),
        lambda: devices(_devices(), present, installed, os.environ),
        lambda: convolutions(_onednn.library(), jax.default_backend()),
        training_kernels,
        lambda: frameworks(installed, present),
        lambda: compilation_cache(jax.config.values["jax_compilation_cache_dir"]),
        lambda: disk_space(workdir or "runs"),
        lambda: images(dataset, data_dir),
    ]
    findings = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # damaged packages, failing file systems: continue with the rest
            findings.append(Finding("error", f"cannot be examined, {one_line(error)}", "mend that first"))
    return findings


def versions(installed: Mapping[str, str], requirements: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Check that packages are installed in versions that fit each other.

    Args:
      installed: versions by name (small letters, hyphens), "python" included.
      requirements: lines of a package's metadata, by package. Of the extras, `search` is checked, which the
        commands need, and libtpu and the libraries of CUDA, if they are installed.

    >>> print(report(versions({"numpy": "1.26.4"}, {"snnlth_jax": ["numpy>=2.0"]})))
    error    numpy 1.26.4 is installed, snnlth_jax needs numpy>=2.0: pip install 'numpy>=2.0'
    """
    unfit: dict[str, Finding] = {}
    for package, line in [(package, line) for package, lines in requirements.items() for line in lines]:
        [(name, specifier, marker)] = re.findall(r"^([\w.-]+)(?:\[.*?\])? *([^;]*?) *(?:; *(.*))?$", line)
        version = installed.get(name := _normal(name))
        marker = marker.removesuffix('extra == "search"').removesuffix(" and ")
        if "extra ==" in marker:
            required = bool(version and re.match("libtpu|nvidia-", name))
        else:
            required = marker in ("", f'sys_platform == "{sys.platform}"')
        if required and not (version and _fits(version, specifier)):
            what = f"{name} {version} is installed" if version else f"{name} is not installed"
            remedy = f"pip install '{name}{specifier}'" if name != "python" else "an environment with that"
            unfit.setdefault(name, Finding("error", f"{what}, {package} needs {name}{specifier}", remedy))
    jax_version, jaxlib_version = installed.get("jax"), installed.get("jaxlib")
    fit = [f"{name} {installed[name]}" for name in _SHOWN if name in installed and name not in unfit]
    findings = [*([Finding("ok", ", ".join(fit))] if fit else []), *unfit.values()]
    if jax_version != jaxlib_version and not unfit.keys() & {"jax", "jaxlib"}:
        what = f"jax {jax_version} runs on jaxlib {jaxlib_version}"
        findings.append(Finding("warning", what, "pip install -U jax jaxlib, for equal versions"))
    if jax_version in ("0.11.1", "0.11.2"):
        what = f"flax.nnx is broken on jax {jax_version}; this package does without it"
        findings.append(Finding("warning", what, "another jax, if code of yours uses flax.nnx"))
    return findings


def devices(
    visible: Sequence[Any] | Exception,
    present: Collection[str],
    installed: Mapping[str, str],
    environment: Mapping[str, str],
) -> list[Finding]:
    """List the devices of JAX, and accelerators that it does not see.

    Args:
      visible: devices of JAX, or the error that it raised instead.
      present: accelerators of the machine, see `hardware`.
      installed: versions by name, as for `versions`.
      environment: environment variables.
    """
    settings = sorted(name for name in environment if name.startswith("XLA_PYTHON_CLIENT_"))
    findings = [Finding("ok", f"{name} is {environment[name]}") for name in settings]
    platforms: set[str] = set()
    if isinstance(visible, Exception):
        remedy = "end other processes that hold them, or JAX_PLATFORMS=cpu to do without"
        findings.append(Finding("error", f"JAX cannot start its devices, {one_line(visible)}", remedy))
    else:
        for kind, count in Counter(map(_describe, visible)).items():
            findings.append(Finding("ok", f"{count} device{'s' * (count > 1)}: {kind}"))
        platforms = {device.platform for device in visible}
        hidden = environment.get("JAX_PLATFORMS") or environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        for name in sorted({*present} - platforms):
            what, remedy = f"there is a {name.upper()} that JAX does not see", _UNSEEN[name]
            if hidden:
                remedy = "unset JAX_PLATFORMS and CUDA_VISIBLE_DEVICES, unless it is meant so"
            findings.append(Finding("warning" if hidden else "error", what, remedy))
    if "libtpu" in installed and "tpu" not in {*present, *platforms}:
        what = "libtpu is installed where there is no TPU, and makes noise"
        findings.append(Finding("warning", what, "pip uninstall libtpu, or an environment of its own for it"))
    return findings


def convolutions(library: _onednn.Library, backend: str) -> list[Finding]:
    """Say what computes convolutions on a CPU; nothing where JAX has another device.

    Args:
      library: oneDNN as this process found it.
      backend: platform of the devices of JAX.

    >>> from snnlth_jax.models._onednn import Library
    >>> print(report(convolutions(Library("libdnnl.so.3", "3.2.0"), "cpu")))
    ok       convolutions by oneDNN 3.2.0 and XLA
    """
    if backend != "cpu":
        return []
    if library.version:
        return [Finding("ok", f"convolutions by oneDNN {library.version} and XLA")]
    if library.file:
        what = f"convolutions by XLA, not by oneDNN ({library.file}): {library.reason}"
        remedy = "mend that for faster ones, or SNNLTH_ONEDNN=0 to do without"
        return [Finding("warning", what, remedy)]
    remedy = "" if "SNNLTH" in library.reason else "pip install 'snnlth_jax[cpu]' for faster ones"
    return [Finding("ok", f"convolutions by XLA, not by oneDNN: {library.reason}", remedy)]


def training_kernels(kernels: str = "auto") -> list[Finding]:
    """Compare the kernels that train on this GPU or TPU with their definition; nothing where there are none.

    Args:
      kernels: as of `models.norm_fire`.
    """
    if not takes(LIF(), kernels):
        return []
    numbers = np.random.default_rng(0)

    def computed(
        inputs: list[Any], weights: jax.Array, how: str, **options: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Spikes, and the gradients of the inputs one after another."""

        def loss(inputs: list[Any]) -> tuple[jax.Array, jax.Array]:
            outputs, _ = norm_fire(inputs, LIF(), 2, kernels=how, **options)
            height, width = outputs[0].shape[2:4]
            terms = [i * weights[:, :, :height, :width] * spikes for i, spikes in enumerate(outputs, 1)]
            return jnp.sum(jnp.stack(terms)), outputs[0]

        grads, spikes = jax.jit(jax.grad(loss, has_aux=True))(inputs)
        return spikes, jnp.concatenate([g.x if isinstance(g, Normed) else g for g in grads]).ravel()

    unequal, error = 0.0, 0.0  # rounding at a threshold may decide a few spikes
    options: dict[str, Any]
    for images, channels, others, options in ((16, 128, 0, {"pool": True}), (128, 16, 1, {"readers": 2})):
        x, weights, *more = (
            jnp.asarray(numbers.normal(size=(2, images, 4, 4, channels)), jnp.float32)
            for _ in range(2 + others)
        )
        inputs = [Normed(x, jnp.ones(channels), jnp.full(channels, 0.5)), *more]
        (spikes, gradient), (expected, slope) = (
            computed(inputs, weights, how, **options) for how in (kernels, "plain")
        )
        unequal = max(unequal, float(jnp.mean(spikes != expected)))
        error = max(error, float(jnp.linalg.norm(gradient - slope) / jnp.linalg.norm(slope)))
    if unequal < 1e-3 and error < 1e-2:
        return [Finding("ok", "kernels of norm, fire and pool compute their definition")]
    what = f"kernels of norm, fire and pool are wrong on this device: {unequal:.2%} of the spikes differ"
    return [Finding("error", what, "--kernels plain")]


def hardware(root: str = "/") -> set[str]:
    """The accelerators of this machine, whether JAX sees them or not: "gpu" (NVIDIA), "tpu"."""
    top, accelerators, listed = Path(root), set(), ""
    with suppress(OSError, subprocess.SubprocessError):  # it is missing, or it hangs
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10).stdout
    if listed.startswith("GPU ") or any(top.glob("dev/nvidia[0-9]*")):
        accelerators.add("gpu")
    # newer TPUs are reached through vfio, as other devices can be: one must be Google's
    vendors = (path.read_text().strip() for path in top.glob("sys/bus/pci/devices/*/vendor"))
    if any(top.glob("dev/accel[0-9]*")) or (any(top.glob("dev/vfio/[0-9]*")) and "0x1ae0" in vendors):
        accelerators.add("tpu")
    return accelerators


def frameworks(installed: Mapping[str, str], present: Collection[str]) -> list[Finding]:
    """Look for frameworks whose CUDA libraries have broken JAX's, without importing them.

    >>> [frameworks({"torch": "2.13.0"}, present)[0].level for present in ({"gpu"}, {})]
    ['warning', 'ok']
    """
    names = [name for name in ("torch", "tensorflow", "tensorflow-gpu", "tf-nightly") if name in installed]
    what = " and ".join(f"{name} {installed[name]}" for name in names) or "no torch or tensorflow"
    on_gpu = "gpu" in present or any(name.startswith("jax-cuda") for name in installed)
    if on_gpu and not all(installed[name].endswith("+cpu") for name in names):
        return [Finding("warning", f"{what} can break JAX's CUDA libraries", "an environment for each")]
    return [Finding("ok", f"{what} beside JAX")]


def compilation_cache(directory: str | None) -> list[Finding]:
    """Check that JAX keeps compiled programs for the next process, and can write them."""
    remedy = "export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/jax, and a resumed run compiles nothing"
    if not directory or not jax.config.values["jax_enable_compilation_cache"]:
        return [Finding("warning", "no compilation cache", remedy)]
    return [_writable(f"compilation cache {directory}", directory, remedy)]


def disk_space(workdir: str, free: int | None = None) -> list[Finding]:
    """Check that checkpoints can be written to `workdir`; `free` bytes in place of a measurement."""
    place = _writable(f"--workdir {workdir}", workdir, "another --workdir")
    if place.level == "error" or "://" in workdir:
        return [place]
    free = shutil.disk_usage(_nearest(workdir)).free if free is None else free
    level = "ok" if free >= _PLENTY else "warning" if free >= _TOO_LITTLE else "error"
    remedy = "make room, or another --workdir: a run with VGG16 keeps 0.6 GB of checkpoints, 0.8 at times"
    return [Finding(level, f"{place.what}: {free / 2**30:.2f} GiB free", remedy if level != "ok" else "")]


def images(dataset: str, data_dir: str | None = None) -> list[Finding]:
    """Check that all files of a dataset exist, without decoding them.

    A dataset of the user's own is read whole.

    >>> images("imagenet")[0].what
    '--dataset imagenet: unknown'
    """
    if dataset not in data.dataset.SPECS and own.is_own(dataset):
        return _own_images(dataset, data_dir)
    try:
        source = data.locate(dataset, data_dir)
        if source is None:
            if importlib.util.find_spec("sklearn"):
                return [Finding("ok", f"--dataset {dataset}: comes with scikit-learn")]
            remedy = "pip install 'snnlth_jax[demo]'"
            return [Finding("error", f"--dataset {dataset}: needs scikit-learn", remedy)]
    except InputError as error:
        if error.allowed:
            return [Finding("error", f"--dataset {dataset}: unknown", f"one of {error.allowed}")]
        what, separator, remedy = error.text(flag).rpartition("; ")
        if not separator:
            what, remedy = remedy, "another --data-dir"
        return [Finding("error", what, remedy)]
    sizes = " and ".join(f"{source.size(split):,} {split}" for split in tfds.SPLITS)
    return [Finding("ok", f"--dataset {dataset}: {sizes} images in {source.directory}")]


def _own_images(dataset: str, data_dir: str | None) -> list[Finding]:
    try:
        facts = data.spec(dataset, data_dir)
    except InputError as error:
        bare = InputError(error.what, error.value, problem=error.problem)
        return [Finding("error", bare.text(flag), error.allowed and f"allowed: {error.allowed}")]
    pixels = "x".join(map(str, facts.image_shape))
    sizes = f"{facts.train_size:,} train and {facts.test_size:,} test images"
    return [Finding("ok", f"--dataset {dataset}: {sizes} of {pixels}, {facts.num_classes} classes")]


# --- asking the machine


def _installed() -> dict[str, str]:
    facts = [distribution.metadata for distribution in metadata.distributions() if distribution.metadata]
    # if several have one name, the first on the path counts
    by_name = {_normal(fact["Name"]): fact["Version"] for fact in reversed(facts) if "Name" in fact}
    return {"python": platform.python_version()} | by_name


def _requirements(installed: Mapping[str, str]) -> dict[str, list[str]]:
    plugins = [name for name in installed if re.fullmatch(r"jax-.*-plugin", name)]
    lines = {name: metadata.requires(name) or [] for name in ("snnlth_jax", "jax", *plugins)}
    lines["snnlth_jax"].append(f"python{metadata.metadata('snnlth_jax')['Requires-Python']}")
    # JAX uses no other version, and only warns
    return lines | {"jaxlib": [f"{name}=={installed['jaxlib']}" for name in plugins if "cuda" in name]}


def _devices() -> list[jax.Device] | Exception:
    """The devices of this process, after sending a byte to each, or the error of JAX."""
    try:
        local: list[jax.Device] = jax.local_devices()
        jax.block_until_ready([jax.device_put(np.zeros(1, np.uint8), device) for device in local])
    except Exception as error:  # JAX and the drivers raise many kinds
        return error
    return local


def _describe(device: Any) -> str:
    memory = None
    with suppress(Exception):  # not every kind of device has this
        memory = (device.memory_stats() or {}).get("bytes_limit")
    size = [f"{memory / 2**30:.1f} GiB for JAX"] if memory else []
    return ", ".join([*dict.fromkeys((device.platform, device.device_kind)), *size])


def _nearest(directory: str) -> Path:
    path = Path(directory).absolute()
    return next(parent for parent in (path, *path.parents) if os.path.lexists(parent))


def _writable(what: str, directory: str, remedy: str) -> Finding:
    """Write a nameless file, in the directory or in its nearest parent that exists."""
    if "://" in directory:
        return Finding("ok", f"{what}: a bucket, not checked")
    try:
        if not (nearest := _nearest(directory)).is_dir():
            raise NotADirectoryError(f"{nearest} is not a directory")
        with tempfile.TemporaryFile(dir=nearest):
            return Finding("ok", what)
    except OSError as error:
        return Finding("error", f"{what}: cannot be written, {error.strerror or error}", remedy)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _fits(version: str, specifier: str) -> bool:
    """Whether a version meets a specifier such as `>=1.2,<2` or `==1.2.*`, in as many numbers as that has."""
    for test, bound in re.findall(r"([<>=]=|<)\s*([\d.]+)", specifier):
        numbers, wanted = ([int(number) for number in re.findall(r"\d+", text)] for text in (version, bound))
        numbers = (numbers + [0] * len(wanted))[: len(wanted)]
        holds = {
            ">=": numbers >= wanted,
            "<=": numbers <= wanted,
            "==": numbers == wanted,
            "<": numbers < wanted,
        }
        if not holds[test]:
            return False
    return True
