"""Convolutions by oneDNN are those of the definition; without it nothing changes.

The machine that runs the suite must have it: elsewhere what needs it is skipped, and pytest says so.
"""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from small import MODEL

from snnlth_jax import masks, networks
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.interop import stablehlo
from snnlth_jax.models import _conv_cpu, _onednn

ROOT = Path(__file__).parent.parent
# images, height, width, channels in and out, size of the kernel, stride
SHAPES = [
    (3, 1, 3, 4, 5, 3, 2),
    (3, 3, 1, 4, 5, 3, 1),
    (2, 5, 4, 3, 7, 3, 1),
    (2, 5, 4, 3, 7, 3, 2),
    (2, 8, 8, 16, 32, 1, 1),
    (2, 7, 8, 16, 32, 1, 2),
    (5, 8, 8, 4, 6, 5, 2),
    (1, 9, 7, 1, 1, 3, 3),
    (4, 16, 16, 16, 32, 3, 1),
    (4, 6, 8, 128, 128, 3, 1),
    (4, 8, 8, 128, 256, 3, 2),
    (7, 3, 2, 64, 64, 7, 1),
]


@pytest.fixture(scope="module", autouse=True)
def with_library():
    """As in a process that has it, which is decided when a convolution is first traced."""
    chosen = os.environ.pop(_onednn.VARIABLE, None)
    _onednn.library.cache_clear()
    found = _onednn.library()
    jax.clear_caches()
    yield found
    _onednn.library.cache_clear()
    jax.clear_caches()
    if chosen is not None:
        os.environ[_onednn.VARIABLE] = chosen


@pytest.fixture
def decided_again():
    """Forget at the end of a test what it decided about the library, and with it what was traced so."""
    yield
    _onednn.library.cache_clear()
    jax.clear_caches()


@pytest.fixture
def needed(with_library):
    if not with_library.version:
        pytest.skip(f"oneDNN is not used: {with_library.reason}")


def test_where_it_is_installed_it_is_used(with_library):
    if not (any(_onednn._candidates()) and shutil.which("cc")):
        pytest.skip("neither `pip install 'snnlth_jax[cpu]'` nor a system's library and compiler are there")
    assert with_library.version.startswith("3."), with_library.reason


def conv(x, kernel, stride=1):
    return _conv_cpu.conv(x, kernel, (stride, stride), [(len(kernel) // 2,) * 2] * 2)


def reference(x, kernel, stride=1):
    padding = [(len(kernel) // 2,) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arguments(n, h, w, c, k, size, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    rows, columns = -(-h // stride), -(-w // stride)
    shapes = (n, h, w, c), (size, size, c, k), (n, rows, columns, k)
    return [jax.random.normal(key, shape, jnp.float32) for key, shape in zip(keys, shapes, strict=True)]


def outcome(f, x, kernel, grad):
    y, pullback = jax.vjp(f, x, kernel)
    return y, *pullback(grad)


def exactly(f, *arrays):
    """In double precision, which oneDNN does not take."""
    with jax.enable_x64(True):
        return jax.device_get(f(*(jnp.asarray(a, jnp.float64) for a in arrays)))


def assert_near(got, expected, error=1e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        assert np.abs(np.asarray(a, np.float64) - b).max() <= error * max(np.abs(b).max(), 1e-30)


@pytest.mark.usefixtures("needed")
class TestLibrary:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_values_and_gradients(self, shape):
        stride, arrays = shape[-1], arguments(*shape)
        program = jax.jit(lambda *a: outcome(lambda x, k: conv(x, k, stride), *a)).lower(*arrays)
        assert program.as_text().count("call @snnlth_convolution") == 3
        expected = exactly(lambda *a: outcome(lambda x, k: reference(x, k, stride), *a), *arrays)
        assert_near(program.compile()(*arrays), expected, 2e-6)

    def test_many_terms(self):
        """The gradient of a kernel sums over all pixels of all images: 65,536 terms."""
        arrays = arguments(64, 32, 32, 3, 16, 3, 1)
        got = outcome(conv, *arrays)
        expected = exactly(lambda *a: outcome(reference, *a), *arrays)
        assert_near(got[:2], expected[:2])
        assert_near(got[2], expected[2], 1e-5)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
    def test_other_precisions_are_computed_as_before(self, dtype, x64):
        x, kernel, _ = (a.astype(dtype) for a in arguments(2, 4, 4, 3, 5, 3, 1))
        assert "snnlth_convolution" not in jax.jit(conv).lower(x, kernel).as_text()

    @pytest.mark.parametrize("sizes", [(0, 4, 4, 3, 5, 3, 1), (16, 8, 8, 256, 256, 3, 1)], ids=str)
    def test_no_images_and_many_channels_are_computed_as_before(self, sizes):
        x, kernel, _ = arguments(*sizes)
        assert "snnlth_convolution" not in jax.jit(conv).lower(x, kernel).as_text()

    @pytest.mark.parametrize("stride", [1, 2])
    def test_derivatives_of_derivatives(self, stride):
        x, kernel, _ = arguments(3, 4, 4, 4, 5, 3, stride)
        tangents = jnp.cos(x), jnp.sin(kernel)

        def ways(f, *tangents):
            def objective(x, k):
                return jnp.sum(jnp.tanh(f(x, k, stride)) ** 2) + jnp.sum(f(x, k, stride))

            gradient = jax.grad(objective, (0, 1))
            return lambda *a: (
                jax.jvp(objective, a, tangents)[1],
                jax.jvp(gradient, a, tangents)[1],
                jax.grad(lambda *a: jax.jvp(objective, a, tangents)[1], (0, 1))(*a),
                jax.grad(lambda *a: jnp.vdot(gradient(*a)[0], tangents[0]), (0, 1))(*a),
                jax.grad(lambda *a: jnp.vdot(gradient(*a)[1], tangents[1]), (0, 1))(*a),
            )

        got = jax.jit(ways(conv, *tangents))(x, kernel)
        expected = exactly(lambda x, k, *t: ways(reference, *t)(x, k), x, kernel, *tangents)
        assert_near(got, expected, 1e-5)

    @pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (3, 2)], ids=str)
    def test_vmap(self, axes):
        x, kernel, _ = arguments(3, 4, 4, 4, 5, 3, 1)
        both = [
            a if axis is None else jnp.stack([a, -2 * a], axis)
            for a, axis in zip((x, kernel), axes, strict=True)
        ]

        def gradients(f):
            return jax.vmap(jax.grad(lambda x, k: jnp.sum(f(x, k) ** 3), (0, 1)), axes)

        assert_near(jax.jit(gradients(conv))(*both), exactly(gradients(reference), *both), 2e-6)

    def test_shard_map(self):
        x, kernel, _ = arguments(4, 8, 8, 4, 5, 3, 1)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))

        def each(x, kernel):
            return jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 3), (0, 1))(x, kernel)

        specs = (P("batch"), P())
        got = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=specs))(x, kernel)
        expected = exactly(jax.grad(lambda x, k: jnp.sum(reference(x, k) ** 3), (0, 1)), x, kernel)
        assert_near(got, expected, 2e-6)

    def test_arrays_that_jit_divides_itself(self):
        x, kernel, _ = arguments(4, 8, 8, 4, 5, 3, 1)
        for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
            mesh = jax.make_mesh((2,), ("batch",), (kind,), devices=jax.devices()[:2])
            rows = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("batch")))
            whole = jax.device_put(kernel, jax.sharding.NamedSharding(mesh, P()))
            assert_near(jax.jit(conv)(rows, whole), exactly(reference, x, kernel))

    def test_threads_of_one_process(self):
        """Each result is that of its own arguments, to the bit."""
        f = jax.jit(lambda *a: outcome(conv, *a))
        given = [
            arguments(8, 8, 8, 16, 16, 3, 1),
            arguments(8, 8, 8, 16, 16, 3, 1),
            arguments(2, 5, 4, 3, 7, 3, 1),
        ]
        given[1] = [2.5 * a for a in given[1]]
        expected = [jax.device_get(f(*arrays)) for arrays in given]
        wrong = []

        def repeat(arrays, wanted):
            for _ in range(20):
                got = jax.device_get(f(*arrays))
                wrong.extend(not np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))

        threads = [threading.Thread(target=repeat, args=pair) for pair in zip(given, expected, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wrong) == 180
        assert not any(wrong)


def run(program, **environment):
    """The standard output of a program in a process of its own, with the suite's environment."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


PROGRAM = """
    import sys, jax, jax.numpy as jnp, numpy as np
    from snnlth_jax.models import _conv_cpu, _onednn
    x, k = (np.random.default_rng(0).standard_normal(s, np.float32) for s in ((8, 8, 8, 4), (3, 3, 4, 8)))
    f = jax.jit(jax.grad(lambda k, x: jnp.sum(_conv_cpu.conv(x, k, (1, 1), [(1, 1), (1, 1)]) ** 2)))
    def result():
        return np.asarray(f(k, x)).tobytes().hex()
"""


@pytest.mark.subprocess
class TestProcesses:
    def test_programs_kept_on_disk(self, needed, tmp_path):
        """A program that a process compiled serves the next one; another is compiled without the library."""
        kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        program = PROGRAM + "    print(result())"
        first, second = (run(program, **kept)[0] for _ in range(2))
        names = {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}
        assert first == second
        without, _ = run(program, **kept, SNNLTH_ONEDNN="0")
        assert {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")} > names
        a, b = (np.frombuffer(bytes.fromhex(text), np.float32) for [text] in (first, without))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)

    def test_a_process_that_forks_continues(self, needed):
        """JAX itself computes nothing in the child, with the library or without."""
        forks = """
            import os
            expected = result()
            child = os.fork()
            if not child:
                os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), result() == expected)
        """
        assert run(textwrap.dedent(PROGRAM) + textwrap.dedent(forks))[0] == ["7", "True"]

    def test_without_a_compiler_xla_computes_and_a_line_says_so(self, needed):
        program = textwrap.dedent(PROGRAM) + "print(_onednn.library().version == '', len(result()) > 0)"
        said, errors = run(program, CC="no-such-compiler")
        assert said == ["True", "True"]
        assert "oneDNN is not used" in errors
        assert "there is no C compiler (no-such-compiler)" in errors

    def test_a_library_that_is_another_is_not_used(self, needed):
        program = """
            from snnlth_jax.models import _onednn
            for file in ("libm.so.6", "/no/such.so"):
                print(_onednn._opened(file).reason)
        """
        said, _ = run(program)
        assert said[:3] == ["it", "lacks", "dnnl_version"]
        assert "cannot open shared object file" in " ".join(said)


@pytest.mark.usefixtures("decided_again")
def test_switched_off_programs_are_those_without_it(monkeypatch):
    x, kernel, grad = arguments(4, 8, 8, 4, 5, 3, 1)

    def text():
        jax.clear_caches()
        _onednn.library.cache_clear()
        return jax.jit(lambda *a: outcome(conv, *a)).lower(x, kernel, grad).as_text()

    monkeypatch.setenv(_onednn.VARIABLE, "0")
    off = text()
    monkeypatch.delenv(_onednn.VARIABLE)
    monkeypatch.setattr(_onednn, "_candidates", lambda: iter(()))
    assert text() == off
    assert _onednn.library() == _onednn.Library("", reason="it is not installed")


@pytest.mark.usefixtures("needed")
def test_a_program_for_other_machines_does_not_call_it():
    """Whatever this process has traced before."""
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), num_timesteps=2)
    normalisation = Augmentation((0.5,), (0.5,))
    recipe = networks.describe(MODEL, image_shape=(8, 8, 1), normalisation=normalisation, num_timesteps=2)
    kept = masks.make(variables["params"])
    network = networks.Network(recipe, kept, variables["params"], variables["batch_stats"], {})
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1)).astype(np.uint8)
    logits = networks.classifier(network)(images)
    there = jax.export.deserialize(bytearray(stablehlo.from_network(network)))
    np.testing.assert_allclose(there.call(images), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("decided_again", "needed")
@pytest.mark.parametrize("wide", [True, False])
def test_the_gradient_of_a_kernel_is_by_the_library_where_it_is_as_fast(wide, with_library, monkeypatch):
    """With instructions of AVX-512; elsewhere minimal filtering takes half of its time."""
    monkeypatch.setattr(_onednn, "library", lambda: with_library._replace(wide=wide))
    x, kernel, grad = arguments(64, 4, 4, 128, 128, 3, 1)
    jax.clear_caches()
    program = jax.jit(lambda x, grad: jax.vjp(lambda k: conv(x, k), kernel)[1](grad)[0]).lower(x, grad)
    assert ("snnlth_convolution" in program.as_text()) == wide
    expected = exactly(lambda x, k, g: jax.vjp(lambda k: reference(x, k), k)[1](g)[0], x, kernel, grad)
    assert_near(program.compile()(x, grad), expected, 1e-5)
