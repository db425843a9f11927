"""Kernels, bytes and FLOPs of a program's text: by hand on a small text, and on a program of this machine."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from snnlth_jax.machine import hlo, kernels
from snnlth_jax.machine.accelerators import ACCELERATORS

# A step as XLA writes it for a GPU: a convolution and its work space, a kernel that joins two timesteps, one
# that writes into an array in place, a loop inside of the step, a branch, and a kernel of Pallas.
TEXT = (Path(__file__).parent / "samples" / "step.hlo").read_text()


@pytest.fixture(scope="module")
def step():
    return {kernel.name: kernel for kernel in kernels.kernels_of_step(TEXT)}


def test_what_starts_and_how_often(step):
    counts = {name: kernel.count for name, kernel in step.items()}
    assert counts == {"conv": 1, "fire": 1, "pallas_call.1": 1, "stored": 1, "turn": 5, "neg": 1}


def test_a_convolution_has_its_arithmetic_and_no_work_space(step):
    conv = step["conv"]
    assert conv.kind == "convolution"
    assert conv.flops == 2 * (2 * 16 * 16 * 4) * (3 * 3 * 8)
    assert conv.read == 2 * (2 * 16 * 16 * 8 + 4 * 3 * 3 * 8)
    assert conv.written == 2 * 2 * 16 * 16 * 4


def test_slices_count_for_each_part_that_reads_them(step):
    # `one` is computed for both parts: timestep 0 and the bias are read twice, timestep 1 once, 2 never
    assert step["fire"].read == 2 * (2 * 100 + 100 + 2 * 100)
    assert step["fire"].written == 2 * 200


def test_in_place_only_the_new_rows_move(step):
    assert step["stored"].read == 4 * 100 + 4
    assert step["stored"].written == 4 * 100


def test_classes_follow_the_source(step):
    kinds = {name: kernel.kind for name, kernel in step.items()}
    assert kinds.pop("conv") == "convolution"
    assert kinds == {
        "fire": "norm and fire",
        "pallas_call.1": "norm and fire",
        "stored": "optimiser and masks",
        "turn": "data",
        "neg": "optimiser and masks",
    }


def test_the_sums(step):
    sums = kernels.budget(step.values(), flops_per_second=1e6, bandwidth=1e6)
    assert sums.kernels == sums.small == 10
    assert sums.bytes["data"] == 5 * 2 * 40
    assert sums.bytes_outside == sum(k.bytes for k in step.values()) - step["conv"].bytes
    slow = step["conv"].flops / 1e6  # bound by its arithmetic, the others by their bytes
    assert sums.seconds == pytest.approx(slow + sums.bytes_outside / 1e6)


@pytest.mark.parametrize(
    ("line", "flops"),
    [
        ("bf16[2,16,16,8]{3,2,1,0} custom-call(%y, %k), dim_labels=b01f_o01i->b01f, custom_call_target="
         '"__cudnn$convBackwardInput"', 2 * (2 * 16 * 16 * 4) * (3 * 3 * 8)),
        ("bf16[4,3,3,8]{3,2,1,0} custom-call(%x, %y), dim_labels=b01f_o01i->b01f, custom_call_target="
         '"__cudnn$convBackwardFilter"', 2 * (2 * 16 * 16 * 4) * (3 * 3 * 8)),
        ("f32[5,7]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 5 * 11 * 7),
        ("f32[5,7]{1,0} custom-call(%a, %b), custom_call_target=\"__cublas$gemm\"", 2 * 5 * 11 * 7),
    ],
)  # fmt: skip
def test_arithmetic_of_products(line, flops):
    text = f"""
ENTRY %main (p: f32[]) -> f32[] {{
  %p = f32[] parameter(0)
  ROOT %w = f32[] while(%p), condition=%c, body=%body
}}

%body (q: f32[]) -> f32[] {{
  %q = f32[] parameter(0)
  %x = bf16[2,16,16,8]{{3,2,1,0}} constant({{...}})
  %y = bf16[2,16,16,4]{{3,2,1,0}} constant({{...}})
  %k = bf16[4,3,3,8]{{3,2,1,0}} constant({{...}})
  %a = f32[5,11]{{1,0}} constant({{...}})
  %b = f32[11,7]{{1,0}} constant({{...}})
  ROOT %product = {line}
}}
"""
    (kernel,) = kernels.kernels_of_step(text)
    assert kernel.flops == pytest.approx(flops)


def test_arrays_on_the_chip_of_a_tpu_move_nothing():
    (computation,) = hlo.parse(
        "%c (x: f32[8]) -> f32[8] {\n  ROOT %x = f32[8]{0:T(128)S(1)} parameter(0)\n}"
    ).values()
    assert computation["x"].shapes[0].on_chip


ARGUMENTS = (((64, 48), jnp.float32), ((48, 48), jnp.float32), ((), jnp.int32))


def test_a_program_of_this_machine():
    """A loop of one product and one pass over its result."""

    def loop(a, b, count):
        def body(_, carry):
            return jnp.tanh(carry @ b)

        return jax.lax.fori_loop(0, count, body, a)

    shapes = (jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in ARGUMENTS)
    found = kernels.kernels_of_step(jax.jit(loop).lower(*shapes).compile().as_text())
    assert sum(kernel.flops for kernel in found) == 2 * 64 * 48 * 48
    least = 4 * (2 * 64 * 48 + 48 * 48)
    assert least <= sum(kernel.bytes for kernel in found) <= 4 * least


def test_a_program_without_a_loop_is_refused():
    with pytest.raises(ValueError, match="no loop of steps"):
        kernels.kernels_of_step("ENTRY %main (p: f32[]) -> f32[] {\n  ROOT %p = f32[] parameter(0)\n}")


@pytest.mark.parametrize("name", [name for name, card in ACCELERATORS.items() if card.gpu])
def test_the_target_of_a_gpu_is_complete(name):
    card = ACCELERATORS[name]
    text = card.gpu.target_config(card.bandwidth)
    assert text.count("{") == text.count("}") == 4
    assert f"memory_bandwidth: {int(card.bandwidth)}\n" in text
    assert card.flops["bfloat16"] >= card.flops["float32"] > 1e13


def test_a_budget_says_which_figures_got_worse(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import hlo_budget

    found = hlo_budget.figures(kernels.kernels_of_step(TEXT), "h100", "bfloat16")
    assert found["kernels"] == 10
    assert hlo_budget.worse("h100", found, found) == []
    more = found | {"kernels": 11, "gigabytes": found["gigabytes"] * 1.02}
    assert hlo_budget.worse("h100", found, more) == ["h100: kernels 11, worse than 10"]
    assert hlo_budget.worse("h100", more, found) == []


@pytest.mark.parametrize(("on_chip", "read", "written"), [("", 1024, 1024), ("S(1)", 1024, 0)])
def test_an_asynchronous_slice_reads_its_part(on_chip, read, written):
    """As TPUs fetch a part of an array: the result names the whole array once more."""
    text = f"""
%body (p: (s8[8192])) -> (s8[8192]) {{
  %p = (s8[8192]{{0}}) parameter(0)
  %x = s8[8192]{{0}} get-tuple-element(%p), index=0
  %start = ((s8[8192]{{0}}), s8[1024]{{0:T(1024){on_chip}}}, s32[]) slice-start(%x), slice={{[0:1024]}}
  %done = s8[1024]{{0}} slice-done(%start)
  ROOT %t = (s8[8192]{{0}}) tuple(%x)
}}

ENTRY %main (p: (s8[8192])) -> (s8[8192]) {{
  %p = (s8[8192]{{0}}) parameter(0)
  ROOT %w = (s8[8192]{{0}}) while(%p), condition=%cond, body=%body
}}"""
    [kernel] = kernels.kernels_of_step(text)
    assert (kernel.read, kernel.written) == (read, written)
