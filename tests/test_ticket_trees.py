"""Any pytree comes back from a ticket file: containers, dtypes, and leaves that are no arrays."""

import collections
import dataclasses
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx, struct
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st

from snnlth_jax import masks, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.tickets import Ticket

NUMPY = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", ">f4", ">i2"]
ML_DTYPES = [name for name in dir(ml_dtypes) if name.startswith(("bfloat", "float", "int", "uint"))]
DTYPES = [*map(np.dtype, NUMPY), *(np.dtype(getattr(ml_dtypes, name)) for name in ML_DTYPES)]


class Layer(NamedTuple):
    kernel: Any
    bias: Any = None


def same(a, b):
    """Whether two trees are equal in types, keys, dtypes, shapes and bits."""
    if isinstance(a, (np.ndarray, jax.Array)):
        if not isinstance(b, (np.ndarray, jax.Array)) or a.shape != b.shape:
            return False
        a, b = np.asarray(a), np.asarray(b)
        native = [x.astype(x.dtype.newbyteorder("=")) for x in (a, b)]
        return native[0].dtype == native[1].dtype and native[0].tobytes() == native[1].tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return {*map(repr, a)} == {*map(repr, b)} and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)  # NaN, -0.0


def plain(tree):
    """Trees read without `like`: a NamedTuple comes back as a dict."""
    if isinstance(tree, Layer):
        return {name: plain(x) for name, x in tree._asdict().items()}
    if isinstance(tree, dict):
        return {key: plain(x) for key, x in tree.items()}
    return type(tree)(map(plain, tree)) if type(tree) in (list, tuple) else tree


def masks_of(params, seed=0):
    """Random masks for arrays with axes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.random(x.shape) < 0.5 if getattr(x, "ndim", 0) else None, params)


def reordered(tree):
    """The same tree, every dict filled in the opposite order."""
    if isinstance(tree, dict):
        return {key: reordered(tree[key]) for key in reversed(tree)}
    if isinstance(tree, Layer):
        return Layer(*map(reordered, tree))
    return type(tree)(map(reordered, tree)) if type(tree) in (list, tuple) else tree


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    if dtype.itemsize == 1 or dtype.kind == "b":  # not every byte is a value
        array = rng.integers(0, 2, shape).astype(dtype)
    else:
        array = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    way = draw(st.sampled_from(["C", "F", "reversed"]))
    return np.asarray(array, order="F") if way == "F" else array.T if way == "reversed" else array


VALUES = st.one_of(
    *(st.booleans(), st.integers(), st.floats(), st.complex_numbers()),
    *(st.text(max_size=3), st.binary(max_size=3)),
)
KEYS = st.one_of(st.text("ab/%~0é\n", max_size=3), st.sampled_from(["params", "%2F", "__metadata__"]))


def containers(trees):
    return st.one_of(
        st.dictionaries(KEYS, trees, max_size=3),
        st.dictionaries(st.integers(-2, 12), trees, max_size=3),
        st.lists(trees, max_size=3),
        st.lists(trees, max_size=2).map(tuple),
        st.builds(Layer, trees, trees),
    )


TREES = st.recursive(st.one_of(arrays(), arrays(), st.none(), VALUES), containers, max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(params=TREES, batch_stats=TREES, seed=st.integers(0, 99))
def test_any_tree_comes_back(params, batch_stats, seed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    ticket = Ticket(masks_of(params, seed), params, batch_stats, {"seed": seed})
    tickets.save(path, ticket)
    content = path.read_bytes()
    assert same(tickets.load(path)[:3], tuple(map(plain, ticket[:3])))
    assert same(tickets.load(path, like=ticket), ticket)
    assert same(tickets.load(path, like=params)[:3], (ticket.masks, params, plain(batch_stats)))
    assert tickets.describe(tickets.load(path))
    tickets.save(path, Ticket(*map(reordered, ticket)))
    assert path.read_bytes() == content


def written(tmp_path, ticket, like=None):
    tickets.save(tmp_path / "t.safetensors", ticket)
    return tickets.load(tmp_path / "t.safetensors", like)


def test_layers_of_one_shape_stay_layers(tmp_path):
    params = {"layers": [jnp.ones((2, 2)), jnp.zeros((2, 2))], "empty": {}, "none": None, "more": ([], ())}
    ticket = Ticket(masks.make(params), params, {"a": {}}, {})
    loaded = written(tmp_path, ticket)
    assert same(loaded, jax.device_get(ticket))
    assert loaded.masks["empty"] == {}
    assert loaded.masks["none"] is None


@pytest.mark.parametrize("tree", [np.ones((2, 3)), None, 3, [], (), {}, {"": np.ones(2)}, {0: {"": {}}}])
def test_the_smallest_trees(tree, tmp_path):
    ticket = Ticket(masks_of(tree), tree, tree, {})
    assert same(written(tmp_path, ticket), ticket)
    assert same(written(tmp_path, ticket, like=ticket), ticket)


@pytest.mark.parametrize("key", [0, "0", "", "a/b", "100%", "%2F", "a.b", "é", "\n", -1, 10**30])
def test_any_key(key, tmp_path):
    params = {key: {"w": np.ones((1, 2)), key: np.zeros(1)}}
    if isinstance(key, int):
        params = {key: {1: np.ones((1, 2)), key: np.zeros(1)}}
    ticket = Ticket(masks_of(params), params, {}, {})
    assert same(written(tmp_path, ticket), ticket)


def test_keys_that_read_the_same(tmp_path):
    """JAX sorts the keys of a dict and refuses this one; a file need not."""
    stats = {0: np.zeros(1), "0": np.ones(2), "0~": np.ones(3)}
    assert same(written(tmp_path, Ticket({}, {}, stats, {})).batch_stats, stats)


@dataclasses.dataclass
class Unregistered:
    kernel: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    kernel: Any
    bias: Any


@struct.dataclass
class Flax:
    kernel: Any
    bias: Any


@jax.tree_util.register_pytree_node_class
class Nameless:
    """A container that does not name its children."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, len(self.children)

    @classmethod
    def tree_unflatten(cls, count, children):
        return cls(*children)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def haiku_params():
    network = hk.transform(lambda x: hk.nets.MLP([3, 2])(x))
    return network.init(jax.random.key(0), jnp.ones((1, 2)))


FRAMEWORKS = {
    "haiku": haiku_params,
    "equinox": lambda: eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0)),
    "equinox arrays": lambda: eqx.filter(eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0)), eqx.is_array),
    "nnx state": lambda: nnx.state(Model(nnx.Rngs(0))),
    "nnx params": lambda: nnx.state(Model(nnx.Rngs(0)), nnx.Param),
    "nnx pure dict": lambda: nnx.to_pure_dict(nnx.state(Model(nnx.Rngs(0)), nnx.Param)),
    "nnx module": lambda: Model(nnx.Rngs(0)),
    "frozen dict": lambda: freeze({"a": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}}),
    "ordered dict": lambda: collections.OrderedDict(b=jnp.ones((2, 3)), a=[jnp.zeros(3)]),
    "named tuple": lambda: [Layer(jnp.ones((2, 3)), jnp.zeros(3)), Layer(jnp.ones((2, 3)))],
    "dataclass": lambda: {"a": Registered(jnp.ones((2, 3)), None)},
    "flax dataclass": lambda: Flax(jnp.ones((2, 3)), jnp.zeros(3)),
    "nameless": lambda: Nameless(jnp.ones((2, 3)), Nameless(), [jnp.zeros((1, 1))]),
    "optax state": lambda: optax.adam(0.1).init({"w": jnp.ones((2, 3))}),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_trees_of_frameworks(framework, tmp_path):
    """With `like` the whole tree comes back, structure included; without, its leaves by their names."""
    params = FRAMEWORKS[framework]()
    sparse = masks.tree_map(lambda m: np.arange(m.size).reshape(m.shape) % 3 > 0, masks.make(params))
    ticket = Ticket(sparse, params, {"stats": params}, {"framework": framework})
    loaded = written(tmp_path, ticket, like=ticket._replace(masks=None, provenance={}))
    for ours, theirs in zip(loaded[:3], ticket[:3], strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert all(map(same_leaf, jax.tree.leaves(ours), jax.tree.leaves(theirs)))

    names = {name: leaf for name, leaf in named(params).items() if not callable(leaf)}
    for loaded in (
        tickets.load(tmp_path / "t.safetensors"),
        tickets.load(tmp_path / "t.safetensors", like=params),
    ):
        assert names.keys() == {name for name, leaf in named(loaded.params).items() if not callable(leaf)}
        assert all(same_leaf(named(loaded.params)[name], leaf) for name, leaf in names.items())
        assert masks.by_layer(loaded.masks) == masks.by_layer(sparse)
        assert "framework: " + framework in tickets.describe(loaded)
        assert tickets.describe(loaded).splitlines()[2:] == masks.table(sparse).splitlines()


def named(tree):
    return {
        jax.tree_util.keystr(path, simple=True): x for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def same_leaf(a, b):
    if callable(a) or callable(b):
        return a is b
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return same(np.asarray(a), np.asarray(b))


def test_shapes_alone_are_a_structure(tmp_path):
    def network():
        return eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0))

    model = network()
    loaded = written(tmp_path, Ticket(masks.make(model), model, {}, {}), like=eqx.filter_eval_shape(network))
    assert eqx.tree_equal(
        eqx.filter(loaded.params, eqx.is_array), jax.device_get(eqx.filter(model, eqx.is_array))
    )
    assert loaded.params(np.ones(2)).shape == (3,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, tmp_path):
    array = np.arange(2).astype(dtype)
    trees = {
        "square": array[:, None] * array,
        "scalar": array[1:].reshape(()),
        "none": array[:0].reshape(3, 0),
    }
    trees["strided"] = np.stack([array, array])[:, ::-1].T
    loaded = written(tmp_path, Ticket(masks_of(trees), trees, trees, {}))
    assert same(loaded, Ticket(masks_of(trees), trees, trees, {}))
    assert all(x.flags.writeable and x.flags.c_contiguous for x in loaded.params.values())


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "int4", "uint4", "float8_e4m3fn", "float8_e5m2", "bool"]
)
def test_dtypes_of_jax(dtype, tmp_path):
    params = {"w": jnp.ones((2, 3), dtype)}
    loaded = written(tmp_path, Ticket(masks_of(params), params, {}, {}), like=params)
    assert loaded.params["w"].dtype == params["w"].dtype
    assert jnp.asarray(loaded.params["w"]).dtype == dtype
    np.testing.assert_array_equal(loaded.params["w"], params["w"])


@pytest.mark.parametrize("other", ["f16", "c32", "M8[ns]", "m8[s]", "U3", "S2", ">U2", "V5"])
def test_the_rest_of_numpy(other, tmp_path):
    stats = {"x": np.zeros((2, 2), other)}
    assert same(written(tmp_path, Ticket({}, {}, stats, {})).batch_stats, stats)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("shape", [(), (2,), (0,)])
def test_typed_keys(implementation, shape, tmp_path):
    params = {"key": jax.random.split(jax.random.key(3, impl=implementation), shape), "w": jnp.ones((2, 2))}
    ticket = Ticket(masks.make(params), params, {}, {})
    for like in (None, params, jax.eval_shape(lambda: params)):
        key = written(tmp_path, ticket, like).params["key"]
        assert key.dtype == params["key"].dtype
        assert jax.random.key_impl(key) == jax.random.key_impl(params["key"])
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(params["key"]))


@pytest.mark.parametrize(
    "leaf", [print, jax.jit(abs), int, jnp.float32, np.float32, np.dtype("f4"), object(), types]
)
def test_what_cannot_be_stored_comes_from_like(leaf, tmp_path):
    params = {"w": np.ones((1, 2)), "f": [leaf]}
    ticket = Ticket({"w": np.array([[True, False]]), "f": [None]}, params, {}, {})
    assert written(tmp_path, ticket).params["f"] == [None]
    assert written(tmp_path, ticket, like=params).params["f"][0] is leaf
    assert written(tmp_path, ticket, like={"w": params["w"], "f": [0.5]}).params["f"] == [0.5]
    with pytest.raises(InputError, match=r"f/0 is .*, in like float64 \(2,\)"):
        written(tmp_path, ticket, like={"w": params["w"], "f": [np.ones(2)]})


def test_values_of_python_are_those_of_the_file(tmp_path):
    params = {"rate": 0.1, "name": "a", "long": 10**5000}
    ticket = Ticket({"rate": None, "name": None, "long": None}, params, {}, {})
    assert written(tmp_path, ticket, like={"rate": 0.5, "name": "", "long": 0}).params == params
    with pytest.raises(InputError, match=r"rate is float, in like float32 \(\)"):
        written(tmp_path, ticket, like={**params, "rate": np.float32(0.1)})


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (Unregistered(np.ones(2)), "a Unregistered holds arrays and is not registered as a pytree"),
        (np.array([None, "a"]), "ndarray cannot be stored, allowed: "),
        (np.zeros(2, [("a", "f4"), ("b", "f4")]), "cannot be stored, allowed: "),
        (jax.ShapeDtypeStruct((2,), jnp.float32), "ShapeDtypeStruct cannot be stored, allowed: "),
    ],
)
def test_what_would_be_lost_is_an_error(leaf, message, tmp_path):
    ticket = Ticket({"a": [None]}, {"a": [leaf]}, {}, {})
    with pytest.raises(ValueError, match=f"^params/a/0: .*{message}"):
        tickets.save(tmp_path / "t", ticket)
    assert not list(tmp_path.iterdir())


def test_arrays_without_values_are_errors(tmp_path):
    def traced(x):
        tickets.save(tmp_path / "t", Ticket({"w": None}, {"w": x}, {}, {}))

    with pytest.raises(ValueError, match=r"^params/w: the values of a .*Tracer cannot be read"):
        jax.jit(traced)(jnp.ones(2))
    deleted = jnp.ones(2)
    deleted.delete()
    with pytest.raises(ValueError, match=r"^params/w: the values of a ArrayImpl cannot be read$"):
        traced(deleted)


def test_trees_without_end_are_errors(tmp_path):
    itself = {}
    itself["a"] = itself
    deep = {}
    for _ in range(1500):
        deep = {"a": deep}
    for tree in (itself, deep):
        with pytest.raises(ValueError, match=r"^a/a/a/...: nested deeper than 500 levels$"):
            tickets.save(tmp_path / "t", Ticket({}, {}, tree, {}))


def test_deep_trees(tmp_path):
    deep = {"w": np.ones((1, 1))}
    for _ in range(200):
        deep = [{"a": deep}]
    loaded = written(tmp_path, Ticket(masks_of(deep), deep, {}, {}), like=deep)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(deep)
    assert jax.tree.structure(tickets.load(tmp_path / "t.safetensors").masks) == jax.tree.structure(deep)


W = np.ones((2, 3), np.float32)
PARAMS = {"a": {"w": W, "b": W[0]}, "c": [W, W]}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": {"w": W.T, "b": W[0]}, "c": [W, W]}, r"a/w is float32 \(2, 3\), in like float32 \(3, 2\)"),
        (
            {"a": {"w": W, "b": W[0]}, "c": [W, W.astype("f8")]},
            r"c/1 is float32 .*, in like float64 \(2, 3\)",
        ),
        ({"a": {"w": W, "b": None}, "c": [W, W]}, r"a/b is float32 \(3,\), in like None"),
        ({"a": {"w": W, "b": W[0]}, "c": [W, W, W]}, r"1 missing: c/2 float32 \(2, 3\)"),
        ({"a": {"w": W, "b": W[0]}, "c": {}}, r"2 unexpected: c/0 float32 \(2, 3\), c/1 float32 \(2, 3\)"),
        (
            {str(i): W for i in range(14)},
            r"14 missing: 0 .*, 5 float32 \(2, 3\) and 4 more; 4 unexpected: a/b .*",
        ),
        (W, r"1 missing: '' float32 \(2, 3\); 4 unexpected: .*"),
    ],
)
def test_a_ticket_that_is_not_like_it(like, message, tmp_path):
    """One line with every difference; batch statistics too."""
    tickets.save(tmp_path / "t", Ticket(masks_of(PARAMS), PARAMS, PARAMS, {}))
    with pytest.raises(InputError, match=f"^{tmp_path}/t: params: a ticket of another network: {message}$"):
        tickets.load(tmp_path / "t", like=like)
    with pytest.raises(
        InputError, match=f"^{tmp_path}/t: batch_stats: a ticket of another network: {message}$"
    ):
        tickets.load(tmp_path / "t", like=Ticket(None, PARAMS, like, {}))


def test_containers_are_those_of_like(tmp_path):
    """A list may be loaded as a tuple; names decide."""
    tickets.save(tmp_path / "t", Ticket(masks_of(PARAMS), PARAMS, {}, {}))
    like = freeze({"a": Layer(0, 0)._replace(kernel=W), "c": (W, W)})
    with pytest.raises(InputError, match=r"2 missing: a/kernel .*, a/bias"):
        tickets.load(tmp_path / "t", like=like)
    like = freeze({"a": PARAMS["a"], "c": (W, W)})
    assert jax.tree.structure(tickets.load(tmp_path / "t", like=like).params) == jax.tree.structure(like)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"params": masks_of(PARAMS)}, r"params/a/b: in the masks \(shape \(3,\)\), but not in params"),
        (
            {"a": {"w": W > 0, "b": None}, "c": [W > 0]},
            r"c/1: in params \(shape \(2, 3\)\), but not in the masks",
        ),
        (
            {"a": {"w": W > 0, "b": None}, "c": [W > 0, W[0] > 0]},
            r"c/1: the mask has shape \(3,\), params \(2, 3\)",
        ),
        (
            {"a": {"w": W.astype("u1"), "b": None}, "c": [None] * 2},
            "a/w: a mask must be a bool array, got uint8",
        ),
        ({"a": {"w": W, "b": None}, "c": [None] * 2}, "a/w: a mask must be a bool array, got float32"),
        ({"a": {"w": True, "b": None}, "c": [None] * 2}, "a/w: a mask must be a bool array, got bool"),
        ({"a": {"w": None, "b": None}, "c": (None, None)}, "trees of different kinds of nodes"),
        ({"a": {"w": None, "b": None}, "c": [None, None], "d": {}}, "trees of different kinds of nodes"),
        (None, "None in the masks, but params has 4 leaves there"),
        ({}, r"a/b: in params \(shape \(3,\)\), but not in the masks"),
    ],
)
def test_masks_of_other_trees_are_refused(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tickets.save(tmp_path / "t", Ticket(wrong, PARAMS, {}, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", [0.5, -1e300, True, np.int64(3), np.float32(0.25), 2**80])
def test_numbers_as_keys_come_back(tmp_path, key):
    params = {key: {"w": W}}
    (loaded,) = written(tmp_path, Ticket(masks_of(params), params, {}, {})).params
    assert loaded == key
    assert type(loaded) in (bool, int, float)


@pytest.mark.parametrize(
    ("ticket", "message"),
    [
        ({"w": W}, "ticket must be a Ticket of masks, params, batch_stats and provenance, got dict"),
        (Ticket({}, {}, {}, {1: 2}), r"provenance: \{1: 2\}, allowed: a dict of JSON values, .*"),
        (Ticket({}, {}, {}, {"a": [{1: 2}]}), r"provenance: .*, allowed: a dict of JSON values, .*"),
        (Ticket({}, {}, {}, {"a": 10**5000}), "provenance: allowed: a dict of JSON values .*"),
        (Ticket({}, {"\ud800": W}, {}, {}), r"'params/\\ud800': a name that UTF-8 cannot hold"),
        (
            Ticket({}, {"a": np.ma.array([1.0], mask=[1])}, {}, {}),
            "params/a: a masked array cannot be stored.*",
        ),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(tmp_path, ticket, message):
    if isinstance(ticket, Ticket):
        ticket = ticket._replace(masks=masks_of(ticket.params))
    with pytest.raises(ValueError, match=f"^{message}$"):
        tickets.save(tmp_path / "t", ticket)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stored", "like", "fits"),
    [(1, 2.0, True), ("relu", 0.5, False), (0.5, "relu", False), ("relu", "lif", True)],
)
def test_python_values_meet_their_like(tmp_path, stored, like, fits):
    tickets.save(tmp_path / "t", Ticket({"a": None}, {"a": stored}, {}, {}))
    if fits:
        assert tickets.load(tmp_path / "t", like={"a": like}).params == {"a": stored}
    else:
        with pytest.raises(InputError, match=r"a is (str|float), in like (str|float)$"):
            tickets.load(tmp_path / "t", like={"a": like})


def test_the_longest_names_and_two_writers_at_once(tmp_path):
    """Each writes a file of its own, and the last one to end is the one that stays."""
    path = tmp_path / ("n" * 255)
    trees = [{"w": np.full((200, 200), n, np.float32)} for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            list(pool.map(lambda tree: tickets.save(path, Ticket(masks_of(tree), tree, {}, {})), trees))
            assert float(tickets.load(path).params["w"].max()) in range(4)
    assert list(tmp_path.iterdir()) == [path]
