"""The bytes of a ticket file: old files, what is written is read back, and damage is one line."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from snnlth_jax import errors, files, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.tickets import Ticket

SAMPLES = Path(__file__).parent / "samples"
PARAMS = {"conv": {"kernel": np.arange(10, dtype=np.float32).reshape(2, 5), "bias": np.zeros(2)}}
MASKS = {"conv": {"kernel": PARAMS["conv"]["kernel"] % 3 > 0, "bias": None}}
TICKET = Ticket(MASKS, PARAMS, {"mean": np.ones(2)}, {"round": 1})
LISTS = Ticket([*MASKS.values()], [*PARAMS.values()], [], {"round": 1})


def file_of(arrays, **header):
    """A file as the first version wrote it, with a right checksum."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    text = json.dumps({**header, "sha256": digest.hexdigest()})
    return safetensors.numpy.save(arrays, {"ticket": text})


def entries(**changes):
    """Header and arrays of a good file, and changes to the header."""
    return {"format": "snnlth-ticket-1", "mask_shapes": {"a/w": [2, 5]}, "provenance": {}, **changes}


ARRAYS = {
    "params/a/w": np.ones((2, 5), np.float32),
    "params/a/b": np.ones(2),
    "mask/a/w": np.array([255, 192], np.uint8),
}


def refused(path, match="not a ticket file, or cut short"):
    with pytest.raises(InputError, match=match) as caught:
        tickets.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- formats


def test_a_file_of_the_first_format():
    ticket = tickets.load(SAMPLES / "ticket_1.safetensors")
    assert ticket.provenance == {"round": 3, "why": "a sample, β", "sparsity": 0.5, "shape": [8, 8, 1]}
    assert ticket.params["layer01"]["conv"]["kernel"].shape == (3, 3, 1, 2)
    assert ticket.params["net/~/100%"]["w"].tolist() == [[1, 2, 3]]
    assert ticket.params["net/~/100%"]["steps"].dtype == np.int64
    assert ticket.masks["layer01"]["conv"]["kernel"].ravel().tolist() == [i % 3 > 0 for i in range(18)]
    assert ticket.masks["net/~/100%"]["steps"] is None
    assert ticket.batch_stats["layer01"]["norm"]["count"].tolist() == [[1], [2]]
    assert tickets.load(SAMPLES / "ticket_1.safetensors", like=ticket).params.keys() == ticket.params.keys()


def test_files_of_earlier_searches(tmp_path):
    with tarfile.open(SAMPLES / "run_before.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    found = sorted(tmp_path.glob("*/tickets/*.safetensors"))
    assert len(found) == 4
    for path in found:
        ticket = tickets.load(path)
        header = json.loads(metadata(path)["ticket"])
        assert ticket.provenance == header["provenance"]
        tickets.save(tmp_path / "again", ticket)
        assert json.loads(metadata(tmp_path / "again")["ticket"]) == header  # checksum of the arrays included


def metadata(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata()


def test_nested_dicts_of_arrays_keep_the_first_format(tmp_path):
    """Byte for byte, but for the order of entries in the header: what earlier versions wrote and read."""
    tickets.save(tmp_path / "t", TICKET)
    header = json.loads(metadata(tmp_path / "t")["ticket"])
    del header["sha256"]
    assert header == {
        "format": "snnlth-ticket-1",
        "mask_shapes": {"conv/kernel": [2, 5]},
        "provenance": {"round": 1},
    }
    arrays = safetensors.numpy.load_file(tmp_path / "t")
    assert arrays.keys() == {"params/conv/kernel", "params/conv/bias", "mask/conv/kernel", "batch_stats/mean"}
    (tmp_path / "old").write_bytes(file_of(arrays, **header))
    assert metadata(tmp_path / "old").keys() == metadata(tmp_path / "t").keys()
    assert json.loads(metadata(tmp_path / "old")["ticket"]) == json.loads(metadata(tmp_path / "t")["ticket"])


def test_other_trees_have_the_second(tmp_path):
    tickets.save(tmp_path / "t", LISTS)
    header = json.loads(metadata(tmp_path / "t")["ticket"])
    assert header["format"] == "snnlth-ticket-2"
    assert header["nodes"] == {"params": ["list", 1], "batch_stats": ["list", 0]}


def test_a_later_format_is_named(tmp_path):
    (tmp_path / "t").write_bytes(file_of(ARRAYS, **entries(format="snnlth-ticket-3")))
    refused(
        tmp_path / "t", "format 'snnlth-ticket-3', this version reads 'snnlth-ticket-1' and 'snnlth-ticket-2'"
    )


# --- writing


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b + b"\0"]
)
def test_what_is_written_is_read_back(change, tmp_path, monkeypatch):
    """A file system that loses a bit is noticed before the file gets its name."""
    path = tmp_path / "t.safetensors"
    tickets.save(path, LISTS)
    before, sync = path.read_bytes(), files.sync

    def lose(file):
        sync(file)
        Path(file.name).write_bytes(change(Path(file.name).read_bytes()))

    monkeypatch.setattr(files, "sync", lose)
    with pytest.raises(errors.StorageError, match=f"^{path}: what was written is not what is read back$"):
        tickets.save(path, TICKET)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


@pytest.mark.subprocess
@pytest.mark.parametrize("moment", ["sync", "read_bytes", "replace"])
def test_a_process_that_is_killed_leaves_no_file_with_the_name(moment, tmp_path):
    where = "files.sync" if moment == "sync" else f"type(epath.Path('x')).{moment}"
    program = f"""
import os, signal, numpy as np
from etils import epath
from snnlth_jax import files, tickets
{where} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
tickets.save({str(tmp_path / "t")!r}, tickets.Ticket({{"w": None}}, {{"w": np.ones(9)}}, {{}}, {{}}))
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    (left,) = tmp_path.iterdir()
    tickets.save(tmp_path / "t", TICKET)
    assert {*tmp_path.iterdir()} == {left, tmp_path / "t"}  # it might be another process's
    os.utime(left, (0, 0))
    tickets.save(tmp_path / "t", TICKET)
    assert {*tmp_path.iterdir()} == {tmp_path / "t"}


@pytest.mark.parametrize(
    "provenance",
    [None, [1], {"a": {1, 2}}, {"a": np.float32(1)}, {"a": object()}, {1: 2, "a": 3}, {("a",): 1}],
)
def test_provenance_that_is_no_json(provenance, tmp_path):
    with pytest.raises(ValueError, match=r"^provenance: .*allowed: a dict of JSON values") as caught:
        tickets.save(tmp_path / "t", TICKET._replace(provenance=provenance))
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


# --- damage


@pytest.mark.parametrize("ticket", [TICKET, LISTS], ids=["nested dicts", "lists"])
def test_every_flipped_byte_and_every_cut(ticket, tmp_path):
    path = tmp_path / "t"
    tickets.save(path, ticket)
    good = path.read_bytes()
    intact = repr(tickets.load(path))
    rng, noticed = np.random.default_rng(0), 0
    for position in [*range(24), *rng.choice(len(good), 200, replace=False)]:
        damaged = bytearray(good)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            result = repr(tickets.load(path))
        except InputError as error:
            result = str(error)
            noticed += 1
        # white space in the header may change
        assert result == intact or (result.startswith(f"{path}: ") and len(result.splitlines()) == 1)
    assert noticed > 200
    for length in [*range(12), *rng.choice(len(good), 60, replace=False), len(good) - 1]:
        path.write_bytes(good[:length])
        refused(path)
    path.write_bytes(good + b"\0")
    refused(path)


HEADERS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"3",
    "a text": b'"ticket"',
    "no metadata": b"{}",
    "no text": b"\xff\xfe\x00",
    "metadata null": b'{"__metadata__":null}',
    "metadata list": b'{"__metadata__":["ticket"]}',
    "metadata number": b'{"__metadata__":7}',
    "ticket null": b'{"__metadata__":{"ticket":null}}',
    "ticket number": b'{"__metadata__":{"ticket":7}}',
    "ticket no json": b'{"__metadata__":{"ticket":"{"}}',
    "ticket null in text": b'{"__metadata__":{"ticket":"null"}}',
    "ticket list in text": b'{"__metadata__":{"ticket":"[1]"}}',
    "ticket number in text": b'{"__metadata__":{"ticket":"7"}}',
    "ticket deep in text": json.dumps({"__metadata__": {"ticket": "[" * 100_000}}).encode(),
    "ticket of digits": json.dumps({"__metadata__": {"ticket": "9" * 5000}}).encode(),
    "deep": b"[" * 100_000,
    "deep entries": b'{"a":' * 100_000,
    "a tensor that is null": b'{"a":null}',
    "a tensor that is a list": b'{"a":[1]}',
    "offsets of text": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}}',
    "offsets of fractions": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1.5]}}',
    "no offsets": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[]}}',
    "negative offsets": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,-4]}}',
    "offsets of the moon": b'{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,1e300]}}',
    "infinite offsets": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}',
    "unknown dtype": b'{"a":{"dtype":"X","shape":[0],"data_offsets":[0,0]}}',
    "unread dtype": b'{"__metadata__":{},"a":{"dtype":"F8_E8M0","shape":[0],"data_offsets":[0,0]}}',
}


@pytest.mark.parametrize("header", HEADERS)
def test_any_header(header, tmp_path):
    (tmp_path / "t").write_bytes(len(HEADERS[header]).to_bytes(8, "little") + HEADERS[header])
    refused(tmp_path / "t")


@pytest.mark.parametrize("length", [0, 1, 10**6, 10**8, 2**31, 2**63, 2**64 - 1])
def test_absurd_lengths_of_the_header(length, tmp_path):
    with (tmp_path / "t").open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(2**40)  # a terabyte, of which nothing is on the disk
    refused(tmp_path / "t")


W, BITS = ARRAYS["params/a/w"], ARRAYS["mask/a/w"]
CONTENTS = {
    "provenance null": (ARRAYS, entries(provenance=None)),
    "provenance list": (ARRAYS, entries(provenance=[1])),
    "provenance number": (ARRAYS, entries(provenance=3)),
    "shapes null": (ARRAYS, entries(mask_shapes=None)),
    "shapes list": (ARRAYS, entries(mask_shapes=["a/w"])),
    "no shapes": (ARRAYS, entries(mask_shapes={})),
    "shape null": (ARRAYS, entries(mask_shapes={"a/w": None})),
    "shape of text": (ARRAYS, entries(mask_shapes={"a/w": "25"})),
    "shape number": (ARRAYS, entries(mask_shapes={"a/w": 10})),
    "shape of fractions": (ARRAYS, entries(mask_shapes={"a/w": [2, 5.5]})),
    "negative shape": (ARRAYS, entries(mask_shapes={"a/w": [-2, -5]})),
    "other shape": (ARRAYS, entries(mask_shapes={"a/w": [5, 2]})),
    "larger shape": (ARRAYS, entries(mask_shapes={"a/w": [2, 6]})),
    "huge shape": (ARRAYS, entries(mask_shapes={"a/w": [10**6, 10**9]})),
    "a shape too many": (ARRAYS, entries(mask_shapes={"a/w": [2, 5], "a/b": [2]})),
    "a mask of no weight": ({**ARRAYS, "mask/c": BITS}, entries(mask_shapes={"a/w": [2, 5], "c": [2, 5]})),
    "masks of other names": (
        {"params/w": W, "mask/params/w": BITS},
        entries(mask_shapes={"params/w": [2, 5]}),
    ),
    "short mask": ({**ARRAYS, "mask/a/w": BITS[:1]}, entries()),
    "mask of words": ({**ARRAYS, "mask/a/w": BITS.astype("u4")}, entries()),
    "mask with axes": ({**ARRAYS, "mask/a/w": BITS[:, None]}, entries()),
    "leaf and container": ({**ARRAYS, "params/a/w/x": W}, entries()),
    "leaf and root": ({**ARRAYS, "params": W}, entries()),
    "nodes null": (ARRAYS, entries(nodes=None)),
    "nodes list": (ARRAYS, entries(nodes=[["list", 1]])),
}
NODES = {
    "null": {"params/c": None},
    "text": {"params/c": "none"},
    "nothing": {"params/c": []},
    "unknown": {"params/c": ["set", 2]},
    "list without length": {"params/a": ["list"]},
    "list of text": {"params/a": ["list", "2"]},
    "list too long": {"params/a": ["list", 3]},
    "list far too long": {"params/a": ["list", 10**12]},
    "negative list": {"params/c": ["list", -1]},
    "other keys": {"params/a": ["dict", ["w"]]},
    "null keys": {"params/a": ["dict", None]},
    "unhashable keys": {"params/a": ["dict", [[], {}]]},
    "a leaf as a list": {"params/a/w": ["list", 0]},
    "a leaf as none": {"params/a/w": ["none"]},
    "dtype unknown": {"params/a/w": ["array", "float3", [2, 5]]},
    "dtype of objects": {"params/a/w": ["array", "|O", [5]]},
    "dtype no dtype": {"params/a/w": ["array", "finfo", [5]]},
    "dtype number": {"params/a/w": ["array", 5, [5]]},
    "shape unknown": {"params/a/w": ["array", "int4", [2, 6]]},
    "shape null": {"params/a/w": ["array", "int4", None]},
    "shape of text": {"params/a/w": ["array", "int4", ["2", "20"]]},
    "key unknown": {"params/a/w": ["key", "dice"]},
    "key of other data": {"params/a/w": ["key", "rbg"]},
    "value unknown": {"params/c": ["value", "eval", "1"]},
    "value no number": {"params/c": ["value", "int", "one"]},
    "value null": {"params/c": ["value", "float", None]},
    "value of parts": {"params/c": ["value", "complex", ["0x0p0"] * 3]},
    "value with data": {"params/a/w": ["value", "int", "0x1"]},
    "too deep": {"params/" + "a/" * 5000: ["none"]},
}


@pytest.mark.parametrize("content", CONTENTS)
def test_wrong_content_with_a_right_checksum(content, tmp_path):
    arrays, header = CONTENTS[content]
    (tmp_path / "t").write_bytes(file_of(arrays, **header))
    refused(tmp_path / "t")


@pytest.mark.parametrize("nodes", NODES)
def test_wrong_nodes_with_a_right_checksum(nodes, tmp_path):
    (tmp_path / "t").write_bytes(file_of(ARRAYS, **entries(format="snnlth-ticket-2", nodes=NODES[nodes])))
    refused(tmp_path / "t")


def test_right_content_with_a_right_checksum(tmp_path):
    """The files of the two tests above are refused for what is wrong with them alone."""
    (tmp_path / "t").write_bytes(
        file_of(ARRAYS, **entries(nodes={"params/c": ["none"], "batch_stats": ["list", 0]}))
    )
    ticket = tickets.load(tmp_path / "t")
    assert ticket.params["c"] is None
    assert ticket.masks["a"]["w"].all()
    assert ticket.batch_stats == []


@pytest.mark.parametrize(
    "kind", ["directory", "pipe", "device", "link to a device", "below a file", "name", "nul"]
)
def test_paths_that_are_no_files(kind, tmp_path):
    """None of them is waited for, or read without end."""
    path = tmp_path / "t"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "below a file":
        path.write_bytes(b"")
        path /= "t"
    elif kind == "name":
        path = tmp_path / ("t" * 300)
    else:
        path = tmp_path / "t\0t"
    refused(path, "no such ticket file|but a directory, a pipe or a device|cannot be read|not a ticket")
