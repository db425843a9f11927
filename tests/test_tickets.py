import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnlth_jax import masks, models, pruning, tickets
from snnlth_jax.errors import InputError


@pytest.fixture
def ticket():
    model = models.VGG(features=(3, "M", 5), num_classes=3)
    variables = jax.jit(lambda key: model.init(key, jnp.ones((1, 4, 4, 1)), num_timesteps=1))(
        jax.random.key(0)
    )
    params = variables["params"]
    sparse = pruning.prune(pruning.magnitude(params), masks.make(params), 0.4)
    return tickets.Ticket(sparse, params, variables["batch_stats"], {"round": 3, "why": "a test, β"})


def test_round_trip(ticket, tmp_path):
    path = tmp_path / "deep" / "ticket.safetensors"
    tickets.save(path, ticket)
    loaded = tickets.load(path)
    assert loaded.provenance == ticket.provenance
    chex.assert_trees_all_equal(loaded, jax.device_get(ticket))
    assert [p.name for p in path.parent.iterdir()] == ["ticket.safetensors"]


def test_other_programs_can_read_it(ticket, tmp_path):
    """By names and NumPy alone, as the module says."""
    from safetensors.numpy import load_file

    tickets.save(tmp_path / "t.safetensors", ticket)
    tensors = load_file(tmp_path / "t.safetensors")
    kernel = np.asarray(ticket.params["layer02"]["conv"]["kernel"])
    np.testing.assert_array_equal(tensors["params/layer02/conv/kernel"], kernel)
    bits = np.unpackbits(tensors["mask/layer02/conv/kernel"], count=kernel.size).reshape(kernel.shape)
    np.testing.assert_array_equal(bits, ticket.masks["layer02"]["conv"]["kernel"])
    assert "mask/layer02/conv/bias" not in tensors


def test_any_keys(tmp_path):
    """Haiku's names have slashes."""
    params = {"net/~/conv": {"w": jnp.ones((2, 3)), "100%2F": jnp.zeros(3)}}
    ticket = tickets.Ticket(masks.make(params), params, {}, {})
    tickets.save(tmp_path / "t", ticket)
    chex.assert_trees_all_equal(tickets.load(tmp_path / "t"), jax.device_get(ticket))


def test_other_safetensors_files_and_no_file(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not a ticket file"):
        tickets.load(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no such ticket file"):
        tickets.load(tmp_path / "nothing.safetensors")


def test_describe(ticket):
    text = tickets.describe(ticket)
    assert "round: 3" in text
    assert f"{100 * masks.sparsity(ticket.masks):.2f} %" in text.splitlines()[-1]


def test_a_ticket_of_another_network(ticket):
    """All of the weights that differ, with counts."""
    tickets.check("t", ticket, jax.eval_shape(lambda: ticket.params))
    other = models.VGG(features=(4, "M", 5), num_classes=3)
    shapes = jax.eval_shape(lambda: other.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)), num_timesteps=1))
    wrong = r"layer01/conv/bias is \(3,\), here \(4,\); layer01/conv/kernel is .*, here \(3, 3, 1, 4\)"
    with pytest.raises(InputError, match=f"^t: a ticket of another network: {wrong}"):
        tickets.check("t", ticket, shapes["params"])
    fewer, more = dict(ticket.params), {**ticket.params, "extra": [jnp.ones(2)] * 14}
    del fewer["readout"]
    with pytest.raises(
        InputError, match=r"network: 2 unexpected: readout/bias \(3,\), readout/kernel \(20, 3\)$"
    ):
        tickets.check("t", ticket, fewer)
    with pytest.raises(InputError, match=r"network: 14 missing: extra/0 \(2,\), .* and 4 more$"):
        tickets.check("t", ticket, more)
