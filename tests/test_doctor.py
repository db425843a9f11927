"""Findings of the doctor, in machines made up here and in this one."""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from etils import epath

from snnlth_jax.machine import doctor
from snnlth_jax.machine.doctor import Finding
from snnlth_jax.models import _onednn

GIB = 2**30
INSTALLED = {"python": "3.11.4", "jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4.6", "msgspec": "0.20"}
INSTALLED |= {"array-record": "0.8"}
REQUIREMENTS = {
    "snnlth_jax": [
        "python>=3.11",
        "jax>=0.10",
        "numpy>=2.0",
        'msgspec>=0.19; extra == "search"',
        f'array_record>=0.7; sys_platform == "{sys.platform}" and extra == "search"',
        'colorama; sys_platform == "none" and extra == "search"',
        'snnlth_jax[search]; extra == "demo"',
        'nir>=1.0.8; extra == "nir"',
    ],
    "jax": [
        "jaxlib<=0.10.2,>=0.10.1",
        "NumPy (>=2.0)",
        'numpy>=9; python_version >= "3.99"',
        'jaxlib==0.10.1; extra == "minimum-jaxlib"',
        'libtpu==0.0.42.*; extra == "tpu"',
        'jaxlib<=0.10.2,>=0.10.2; extra == "cuda13"',
    ],
    "jax-cuda13-plugin": [
        'nvidia-cudnn-cu13<10.0,>=9.12.0.46; sys_platform == "linux" and extra == "with-cuda"'
    ],
}


def levels(findings):
    return [finding.level for finding in findings]


def only(findings, level):
    """The one finding of that level, and no worse or better one beside it but ok."""
    assert [finding.level for finding in findings if finding.level != "ok"] == [level], findings
    return next(finding for finding in findings if finding.level == level)


def test_a_report_has_a_line_for_each():
    findings = [
        Finding("ok", "2 devices: cpu"),
        Finding("warning", "slow", "wait"),
        Finding("error", "no", "go"),
    ]
    assert doctor.report(findings) == "ok       2 devices: cpu\nwarning  slow: wait\nerror    no: go"


# --- versions


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"python": "3.14.0rc1"},
        {"numpy": "2.0.0"},
        {"numpy": "2"},
        {"numpy": "10.1"},
        {"nir": "0.1"},  # of an extra that was not asked for
        {"libtpu": "0.0.42.3"},
        {"jax-cuda13-plugin": "0.10.2", "nvidia-cudnn-cu13": "9.12.1"},
    ],
    ids=str,
)
def test_versions_that_fit(change):
    installed = INSTALLED | change
    (finding,) = doctor.versions(installed, REQUIREMENTS)
    assert finding.level == "ok"
    for name in set(installed) - {"nir", "nvidia-cudnn-cu13", "array-record", "msgspec"}:
        assert f"{name} {installed[name]}" in finding.what


@pytest.mark.parametrize(
    ("change", "level", "what", "remedy"),
    [
        (
            {"python": "3.9.18"},
            "error",
            "python 3.9.18 is installed, snnlth_jax needs python>=3.11",
            "with that",
        ),
        ({"numpy": "1.26.4"}, "error", "numpy 1.26.4 is installed", "pip install 'numpy>=2.0'"),
        ({"msgspec": "0.18"}, "error", "msgspec 0.18 is installed, snnlth_jax needs msgspec>=0.19", "pip"),
        ({"array-record": None}, "error", "array-record is not installed, snnlth_jax needs", "pip install"),
        ({"numpy": None}, "error", "numpy is not installed", "pip install 'numpy>=2.0'"),
        (
            {"jax": "0.9.11", "jaxlib": "0.10.2"},
            "error",
            "snnlth_jax needs jax>=0.10",
            "pip install 'jax>=0.10'",
        ),
        ({"jaxlib": "0.10.1"}, "warning", "jax 0.10.2 runs on jaxlib 0.10.1", "pip install -U jax jaxlib"),
        ({"jaxlib": "0.10.0"}, "error", "jax needs jaxlib<=0.10.2,>=0.10.1", "pip install 'jaxlib<="),
        ({"jaxlib": "0.10.3"}, "error", "jax needs jaxlib<=0.10.2,>=0.10.1", "pip install 'jaxlib<="),
        ({"libtpu": "0.0.41"}, "error", "jax needs libtpu==0.0.42.*", "pip install 'libtpu==0.0.42.*'"),
        ({"nvidia-cudnn-cu13": "9.10.2"}, "error", "needs nvidia-cudnn-cu13<10.0,>=9.12.0.46", "pip install"),
        ({"nvidia-cudnn-cu13": "10.0"}, "error", "needs nvidia-cudnn-cu13<10.0,>=9.12.0.46", "pip install"),
    ],
    ids=str,
)
def test_versions_that_do_not_fit(change, level, what, remedy):
    installed = {name: version for name, version in (INSTALLED | change).items() if version}
    findings = doctor.versions(installed, REQUIREMENTS)
    finding = only(findings, level)
    assert what in finding.what
    assert remedy in finding.remedy
    if level == "error":  # what does not fit is not called fine
        assert not any(f.level == "ok" and f"{next(iter(change))} " in f.what for f in findings)


@pytest.mark.parametrize("version", ["0.11.1", "0.11.2"])
def test_a_broken_nnx_is_a_warning(version):
    finding = only(doctor.versions({"jax": version, "jaxlib": version}, {}), "warning")
    assert f"flax.nnx is broken on jax {version}" in finding.what
    assert levels(doctor.versions({"jax": "0.11.3", "jaxlib": "0.11.3"}, {})) == ["ok"]


# --- devices


def fake(platform, kind=None, memory_stats=lambda: None):
    return SimpleNamespace(platform=platform, device_kind=kind or platform, memory_stats=memory_stats)


def unimplemented():
    raise RuntimeError("UNIMPLEMENTED")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([fake("cpu")], ["1 device: cpu"]),
        ([fake("cpu")] * 8, ["8 devices: cpu"]),
        (
            [fake("gpu", "H100", lambda: {"bytes_limit": 60 * GIB})] * 2,
            ["2 devices: gpu, H100, 60.0 GiB for JAX"],
        ),
        (
            [fake("tpu", "TPU v5e", dict), fake("tpu", "TPU v4")],
            ["1 device: tpu, TPU v5e", "1 device: tpu, TPU v4"],
        ),
        ([fake("gpu", "old", unimplemented)], ["1 device: gpu, old"]),
    ],
    ids=["one", "many", "memory", "kinds", "no memory"],
)
def test_devices_are_counted(found, expected):
    findings = doctor.devices(found, {found[0].platform} - {"cpu"}, {}, {})
    assert findings == [Finding("ok", what) for what in expected]


@pytest.mark.parametrize(
    ("present", "environment", "level", "remedy"),
    [
        ("gpu", {}, "error", "pip install -U 'jax[cuda13]'"),
        ("gpu", {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "0"}, "error", "pip install -U 'jax[cuda13]'"),
        ("gpu", {"JAX_PLATFORMS": "cpu"}, "warning", "unset JAX_PLATFORMS"),
        ("gpu", {"CUDA_VISIBLE_DEVICES": ""}, "warning", "CUDA_VISIBLE_DEVICES"),
        ("tpu", {}, "error", "pip install -r requirements-tpu.txt"),
        ("tpu", {"JAX_PLATFORMS": "cpu"}, "warning", "unset JAX_PLATFORMS"),
    ],
)
def test_an_accelerator_that_jax_does_not_see(present, environment, level, remedy):
    finding = only(doctor.devices([fake("cpu")], {present}, {}, environment), level)
    assert finding.what == f"there is a {present.upper()} that JAX does not see"
    assert remedy in finding.remedy


def test_devices_that_do_not_start_are_an_error():
    failure = RuntimeError("Unable to initialize backend 'cuda':\nout of memory " + 1000 * "x")
    finding = only(doctor.devices(failure, {"gpu"}, {}, {}), "error")
    assert "Unable to initialize backend 'cuda': out of memory" in finding.what
    assert len(finding.what) < 500
    assert "JAX_PLATFORMS=cpu" in finding.remedy


@pytest.mark.parametrize(
    ("platform", "present", "expected"),
    [
        ("cpu", set(), ["ok", "warning"]),
        ("cpu", {"tpu"}, ["ok", "error"]),
        ("tpu", set(), ["ok"]),
        ("tpu", {"tpu"}, ["ok"]),
    ],
)
def test_libtpu_without_a_tpu_is_a_warning(platform, present, expected):
    findings = doctor.devices([fake(platform)], present, {"libtpu": "0.0.42"}, {})
    assert levels(findings) == expected
    assert ("libtpu is installed where there is no TPU" in findings[-1].what) == ("warning" in expected)


def test_settings_of_the_gpu_memory_are_told():
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment |= {"XLA_FLAGS": "--xla_dump_to=/", "HOME": "/"}
    report = doctor.report(doctor.devices([fake("cpu")], set(), {}, environment)).splitlines()
    assert "ok       XLA_PYTHON_CLIENT_MEM_FRACTION is 0.5" in report
    assert "ok       XLA_PYTHON_CLIENT_PREALLOCATE is false" in report
    assert len(report) == 3


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], set()),
        (["dev/nvidia0"], {"gpu"}),
        (["dev/nvidia3", "dev/nvidiactl"], {"gpu"}),
        (["dev/nvidiactl"], set()),
        (["dev/accel0"], {"tpu"}),
        (["dev/accel/accel0"], set()),  # those of others
        (["dev/vfio/0", "sys/bus/pci/devices/05/vendor=0x1ae0"], {"tpu"}),
        (["dev/vfio/0", "sys/bus/pci/devices/05/vendor=0x8086"], set()),
        (["dev/vfio/vfio", "sys/bus/pci/devices/05/vendor=0x1ae0"], set()),
    ],
    ids=str,
)
def test_accelerators_are_found_by_their_files(files, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for file in files:
        path, _, content = file.partition("=")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content + "\n")
    assert doctor.hardware(str(tmp_path)) == expected


def nvidia_smi(directory, monkeypatch, says):
    script = directory / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


@pytest.mark.parametrize(
    ("says", "expected"), [("GPU 0: NVIDIA H100 (UUID: GPU-1)", {"gpu"}), ("NVIDIA-SMI has failed", set())]
)
def test_accelerators_are_found_by_the_driver(says, expected, tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, says)
    assert doctor.hardware(str(tmp_path)) == expected


@pytest.mark.subprocess
def test_a_driver_that_hangs_is_no_traceback(tmp_path, monkeypatch):
    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert doctor.hardware(str(tmp_path)) == set()


# --- other frameworks


@pytest.mark.parametrize(
    ("installed", "present", "level", "named"),
    [
        ({}, {"gpu"}, "ok", "no torch or tensorflow"),
        ({"torch": "2.13.0", "tensorflow": "2.21.0"}, set(), "ok", "torch 2.13.0 and tensorflow 2.21.0"),
        ({"torch": "2.13.0"}, {"gpu"}, "warning", "torch 2.13.0"),
        ({"tensorflow": "2.21.0"}, {"gpu"}, "warning", "tensorflow 2.21.0"),
        ({"torch": "2.13.0", "jax-cuda12-plugin": "0.10.2"}, set(), "warning", "torch 2.13.0"),
        ({"torch": "2.13.0+cpu"}, {"gpu"}, "ok", "torch 2.13.0+cpu"),
        ({"torch": "2.13.0+cpu", "tensorflow": "2.21.0"}, {"gpu"}, "warning", "tensorflow 2.21.0"),
        ({"torch": "2.13.0"}, {"tpu"}, "ok", "torch 2.13.0"),
    ],
    ids=str,
)
def test_other_frameworks(installed, present, level, named):
    (finding,) = doctor.frameworks(installed, present)
    assert finding.level == level
    assert named in finding.what
    assert bool(finding.remedy) == (level != "ok")


# --- places to write to


@pytest.mark.parametrize("unset", [None, ""])
def test_no_compilation_cache_is_a_warning(unset):
    (finding,) = doctor.compilation_cache(unset)
    assert finding.level == "warning"
    assert "export JAX_COMPILATION_CACHE_DIR=" in finding.remedy


def test_places_that_can_be_written_and_others(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for examine in (doctor.compilation_cache, doctor.disk_space):
        for good in (tmp_path, tmp_path / "not" / "there" / "yet", "gs://bucket/x"):
            (finding,) = examine(str(good))
            assert finding.level == "ok"
            assert str(good) in finding.what
            assert finding.what.endswith("a bucket, not checked") == (good == "gs://bucket/x")
        for bad in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "gone"):
            (finding,) = examine(str(bad))
            assert finding.level == "error"
            assert f"{bad}: cannot be written, " in finding.what
            assert finding.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (100 * GIB, "ok"),
        (GIB, "ok"),
        (GIB - 1, "warning"),
        (GIB // 3, "warning"),
        (GIB // 4, "error"),
        (0, "error"),
    ],
)
def test_free_space(free, level, tmp_path):
    (finding,) = doctor.disk_space(str(tmp_path / "run"), free)
    assert finding.level == level
    assert f"{free / GIB:.2f} GiB free" in finding.what
    assert ("VGG16" in finding.remedy) == (level != "ok")


def test_free_space_is_that_of_the_disk(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=5))
    (finding,) = doctor.disk_space(str(tmp_path / "not" / "yet"))
    assert finding.level == "error"
    assert asked == [tmp_path]


# --- datasets


def write_dataset(root):
    """The files of a prepared CIFAR-10, with nothing to read in them."""
    directory = root / "cifar10" / "3.0.2"
    directory.mkdir(parents=True)
    splits = [
        {"name": name, "shardLengths": [count]} for name, count in (("train", "50000"), ("test", "10000"))
    ]
    info = {"name": "cifar10", "fileFormat": "array_record", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    for name in ("features.json", *(f"cifar10-{s['name']}.array_record-00000-of-00001" for s in splits)):
        (directory / name).write_text("not an image")
    return directory


def test_a_prepared_dataset_is_found_without_reading_it(tmp_path):
    directory = write_dataset(tmp_path)
    (finding,) = doctor.images("cifar10", str(tmp_path))
    assert finding.level == "ok"
    assert f"50,000 train and 10,000 test images in {directory}" in finding.what


def test_a_dataset_that_is_not_there_or_not_whole(tmp_path):
    missing = only(doctor.images("cifar10", str(tmp_path / "none")), "error")
    assert missing.what == f"--data-dir {tmp_path / 'none'}: no such directory"
    assert missing.remedy == f"prepare it with: snnlth data prepare cifar10 --data-dir {tmp_path / 'none'}"
    directory = write_dataset(tmp_path)
    (directory / "cifar10-test.array_record-00000-of-00001").unlink()
    damaged = only(doctor.images("cifar10", str(tmp_path)), "error")
    assert "1 of 3 files missing or empty, the first cifar10-test" in damaged.what
    assert damaged.remedy.startswith("delete that directory, then: snnlth data prepare cifar10")


def test_a_data_directory_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(epath.Path("/")), "iterdir", refuse)
    finding = only(doctor.images("cifar10", str(tmp_path)), "error")
    assert "cannot be read, PermissionError" in finding.what
    assert finding.remedy == "another --data-dir"


def test_an_unknown_dataset_and_one_without_its_package(monkeypatch):
    unknown = only(doctor.images("imagenette"), "error")
    assert unknown.what == "--dataset imagenette: unknown"
    assert unknown.remedy.startswith("one of digits, cifar10")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    bare = only(doctor.images("digits"), "error")
    assert bare.remedy == "pip install 'snnlth_jax[demo]'"


# --- all of it, on this machine


def tree(directory):
    return {path: path.is_file() and path.read_bytes() for path in Path(directory).rglob("*")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, with a compilation cache of its own."""
    monkeypatch.chdir(tmp_path)
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_this_machine_can_run_digits_and_nothing_is_written(here):
    (here / "old").mkdir()
    (here / "old" / "config.json").write_text("{}")
    before = tree(here)
    for workdir in (None, "new/run", "old"):
        findings = doctor.examine("digits", workdir=workdir)
        assert "error" not in levels(findings), doctor.report(findings)
        report = doctor.report(findings)
        assert f"jax {metadata.version('jax')}" in report
        assert f"{len(jax.devices())} device" in report
        assert f"ok       compilation cache {here / 'cache'}\n" in report
        assert f"--workdir {workdir or 'runs'}: " in report
        assert "--dataset digits: comes with scikit-learn" in report
    assert tree(here) == before


def test_all_that_is_wrong_is_told_at_once(here, monkeypatch):
    """In a line each, with what to do, and the first failure hides none of the others."""

    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda':\n\nout of memory")

    monkeypatch.setattr(jax, "local_devices", fail)
    monkeypatch.setattr(metadata, "requires", lambda name: 1 // 0)
    (here / "file").touch()
    findings = doctor.examine("cifar10", str(here / "none"), str(here / "file"))
    errors = [finding for finding in findings if finding.level == "error"]
    expected = ["ZeroDivisionError", "JAX cannot start its devices, RuntimeError", "--workdir", "--data-dir"]
    assert [word for finding, word in zip(errors, expected, strict=True) if word in finding.what] == expected
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert len(doctor.report(findings).splitlines()) == len(findings)


@pytest.mark.parametrize(
    ("library", "level", "what"),
    [
        (("libdnnl.so.3", "3.2.0", ""), "ok", "convolutions by oneDNN 3.2.0 and XLA"),
        (("libdnnl.so.2", "", "version 3 is needed"), "warning", "(libdnnl.so.2): version 3 is needed: mend"),
        (("", "", "it is not installed"), "ok", "it is not installed: pip install 'snnlth_jax[cpu]'"),
        (("", "", "SNNLTH_ONEDNN is 0"), "ok", "not by oneDNN: SNNLTH_ONEDNN is 0"),
    ],
)
def test_what_computes_convolutions_on_a_cpu(library, level, what):
    findings = doctor.convolutions(_onednn.Library(*library), "cpu")
    assert levels(findings) == [level]
    assert what in doctor.report(findings)
    assert doctor.convolutions(_onednn.Library(*library), "gpu") == []


def test_kernels_are_compared_with_their_definition(monkeypatch):
    assert doctor.training_kernels() == []  # on a CPU
    for emulated in "interpret", "interpret-tpu":
        assert levels(doctor.training_kernels(emulated)) == ["ok"]
    right = doctor.norm_fire

    def wrong(layers, *args, kernels, **how):
        shift = 0.1 if kernels == "interpret" else 0.0
        moved = layers[0]._replace(bias=layers[0].bias + shift)
        return right([moved, *layers[1:]], *args, kernels="plain", **how)

    monkeypatch.setattr(doctor, "norm_fire", wrong)
    (finding,) = doctor.training_kernels("interpret")
    assert (finding.level, finding.remedy) == ("error", "--kernels plain")


def install(directory, **versions):
    """The metadata of packages, found before those that are there."""
    for name, version in versions.items():
        about = directory / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_what_is_installed_is_judged_by_its_metadata(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    install(here, chex="0.1.2", jax_cuda13_plugin="0.4.1", libtpu="0.0.1")
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.18")
    errors = sorted(finding.what for finding in doctor.examine("digits") if finding.level == "error")
    assert len(errors) == 4
    assert errors[0].startswith("chex 0.1.2 is installed, snnlth_jax needs chex>=")
    plugin = "jax-cuda13-plugin 0.4.1 is installed, jaxlib needs jax-cuda13-plugin=="
    assert errors[1] == plugin + metadata.version("jaxlib")
    assert errors[2].startswith("libtpu 0.0.1 is installed, jax needs libtpu==")
    assert errors[3].startswith("python 3.9.18 is installed, snnlth_jax needs python>=")


@pytest.mark.subprocess
def test_other_frameworks_are_seen_and_not_imported(here, monkeypatch):
    """In a process of its own, which could have imported nothing before."""
    install(here, torch="2.13.0", tensorflow="2.21.0")
    for name in ("torch", "tensorflow"):
        (here / f"{name}.py").write_text(f"open({str(here / 'imported')!r}, 'w').close()")
    nvidia_smi(here, monkeypatch, "GPU 0: NVIDIA H100")
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    program = "from snnlth_jax.machine import doctor; print(doctor.report(doctor.examine('digits')))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    report = run.stdout
    assert not (here / "imported").exists()
    assert "\nwarning  torch 2.13.0 and tensorflow 2.21.0 can break JAX's CUDA libraries: " in report
    assert "\nwarning  there is a GPU that JAX does not see: unset JAX_PLATFORMS" in report
    assert "error" not in report
