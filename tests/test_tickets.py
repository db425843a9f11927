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


def test_any_keys_and_no_other_trees(tmp_path):
    """Haiku's names have slashes."""
    params = {"net/~/conv": {"w": jnp.ones((2, 3)), "100%2F": jnp.zeros(3)}}
    ticket = tickets.Ticket(masks.make(params), params, {}, {})
    tickets.save(tmp_path / "t", ticket)
    chex.assert_trees_all_equal(tickets.load(tmp_path / "t"), jax.device_get(ticket))
    with pytest.raises(ValueError, match="nested dicts of arrays, got list"):
        tickets.save(tmp_path / "u", ticket._replace(params=[jnp.ones(2)]))
    with pytest.raises(ValueError, match="params/w: bfloat16 cannot be stored"):
        tickets.save(tmp_path / "u", ticket._replace(params={"w": jnp.ones(2, jnp.bfloat16)}))
    assert not (tmp_path / "u").exists()


def test_every_flipped_byte_is_noticed(ticket, tmp_path):
    path = tmp_path / "t.safetensors"
    tickets.save(path, ticket)
    good = path.read_bytes()
    intact = tickets.load(path)
    rng = np.random.default_rng(0)
    positions = [*range(16), *rng.choice(len(good), 150, replace=False)]
    noticed = 0
    for position in positions:
        damaged = bytearray(good)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            loaded = tickets.load(path)
        except InputError as error:
            message = str(error)
        else:  # white space in the header
            chex.assert_trees_all_equal(loaded, intact)
            continue
        noticed += 1
        assert "\n" not in message
        assert str(path) in message
    assert noticed > 0.95 * len(positions)


@pytest.mark.parametrize("keep", [0, 4, 8, 300, 0.5, -1])
def test_a_file_cut_short_is_noticed(ticket, tmp_path, keep):
    path = tmp_path / "t.safetensors"
    tickets.save(path, ticket)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"not a ticket file, or cut short|checksum"):
        tickets.load(path)


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
