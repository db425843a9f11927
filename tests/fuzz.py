"""Every reader of files on altered files: `python tests/fuzz.py --inputs 100000`.

A small good file of each kind is altered at random: in bits and bytes, in its length, and, where it holds
JSON, in its values, also under a right checksum. A reader may read it or refuse it with an `InputError` of
one line without control characters. It prints a tally, and ends with status 1 after the first inputs for
which a reader did anything else, whose numbers it names: `--first NUMBER --inputs 1` repeats one.
"""

import argparse
import copy
import io
import json
import pickle
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image
from test_results import result

from snnlth_jax import configs, networks, tickets
from snnlth_jax.data import arrays
from snnlth_jax.errors import InputError
from snnlth_jax.interop import torch_files
from snnlth_jax.networks import images
from snnlth_jax.report import analyse
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import events, results, tables
from snnlth_jax.tickets import container, tensors

MOST_MEMORY = 2**20  # KiB
VALUES = [None, True, 0, -1, 1e308, float("nan"), float("inf"), 2**64, 10**29, "", "x", "../../x", "\x1b[31m"]
VALUES += ["[/]", "a\nb", "a\0b", "\ud800", "x" * 10_000, [], {}, [1], {"a": 1}, "1", "$\\frac{", "os:getcwd"]
W = np.float32([[1, 0], [0, 2]])
PIXELS = np.zeros((4, 8, 8, 1), np.uint8)


def numpy_file(write, *values, **named):
    file = io.BytesIO()
    write(file, *values, **named)
    return file.getvalue()


def good(directory):
    """A good file of each kind."""
    recipe = networks.Recipe("vgg5", 10, (8, 8, 1), (0.5,), (0.5,), 4)
    tickets.save(
        directory / "t", tickets.Ticket({"w": W > 0}, {"w": W}, {"m": W[0]}, {"seed": 0, "a": [0.1]})
    )
    networks.save(directory / "n", networks.Network(recipe, {"w": W > 0}, {"w": W}, {}, {"seed": 0}))
    start = events.StartEvent(time=1.0, versions={"jax": "1"})
    lines = [start, events.RoundEvent.from_row(result().rounds[0])]
    split = {"images": PIXELS, "labels": np.arange(4)}
    whole = {f"{part}_{name}": value for part in ("train", "test") for name, value in split.items()}
    png = io.BytesIO()
    Image.fromarray(PIXELS[0, :, :, 0]).save(png, "PNG")
    state = {"weight": W, "names": ["a", 1, None]}
    return {
        "result.json": json.dumps(results.to_json(result())).encode(),
        "metrics.jsonl": "".join(json.dumps(events.to_json(line)) + "\n" for line in lines).encode(),
        "config.json": json.dumps({"method": "imp", "seed": 0, "epochs": 3}).encode(),
        "ticket": (directory / "t").read_bytes(),
        "network": (directory / "n").read_bytes(),
        "pickle": pickle.dumps(state),
        "torch": torch_files.dumps({"weight": W}),
        "npz": numpy_file(np.savez_compressed, **whole),
        "npy": numpy_file(np.save, PIXELS),
        "png": png.getvalue(),
    }


def read(kind, path):
    """Outcome of a command on a file of a kind."""
    match kind:
        case "result.json":
            if isinstance(results.read(path), results.Result):
                analyse.show(path.parent, console=tables.Console(file=io.StringIO(), width=200))
        case "metrics.jsonl":
            events.read(path), events.read_whole(path)
        case "config.json":
            there = configs.completed(rundir.read_json(path) or {})
            configs.not_overridable(there, {"method": "imp"})
            configs.defaulted(there, {"method": "imp", "momentum": 0.5})
        case "ticket":
            tickets.check_trainable(path, ticket := tickets.load(path), {"w": W})
            tickets.describe(ticket)
        case "network":
            network = networks.load(path)
            networks.summary(network)
            networks.model(network.recipe)
        case "pickle" | "torch":
            torch_files.load(path)
        case "npz":
            arrays.read(Path(path))
        case _:
            images.read(str(path), (8, 8, 1))


def altered(random, kind, content):
    """The content with a few changes."""
    if kind in ("result.json", "config.json") and random.random() < 0.7:
        return json.dumps(changed(random, json.loads(content))).encode()
    if kind == "metrics.jsonl" and random.random() < 0.7:
        return b"".join(
            json.dumps(changed(random, json.loads(x))).encode() + b"\n" for x in content.splitlines()
        )
    if kind in container.KINDS and random.random() < 0.7:
        metadata, stored = tensors.parse(content)
        header = json.loads(metadata[kind])
        del header["sha256"]
        if random.random() < 0.5:
            header = changed(random, header)
        else:
            name = random.choice(sorted(stored))
            forms = [
                np.nan * stored[name],
                stored[name].astype(np.int32),
                stored[name].ravel(),
                stored[name][:0],
            ]
            stored = stored | {random.choice([name, "params/x", "mask/w"]): random.choice(forms)}
        try:
            return container.serialize(kind, header, stored)
        except Exception:
            return content
    bytes_ = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 8])):
        at = random.randrange(len(bytes_)) if bytes_ else 0
        change = random.choice(["bit", "byte", "cut", "insert", "repeat"])
        if change == "bit" and bytes_:
            bytes_[at] ^= 1 << random.randrange(8)
        elif change == "byte" and bytes_:
            bytes_[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, ord("["), ord('"')])
        elif change == "cut":
            del bytes_[at : at + random.choice([1, 4, len(bytes_)])]
        elif change == "insert":
            bytes_[at:at] = random.randbytes(random.choice([1, 4, 8]))
        else:
            bytes_[at:at] = bytes_[at : at + 64] * random.choice([1, 2, 1000])
    return bytes(bytes_)


def changed(random, value):
    """A JSON value with another one somewhere in it."""
    value, (keys, parent) = copy.deepcopy(value), ([], None)
    inside = value
    while isinstance(inside, (dict, list)) and inside and (not keys or random.random() < 0.8):
        parent, key = inside, random.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        keys.append(key)
        inside = parent[key]
    if parent is None or random.random() < 0.02:
        return random.choice(VALUES)
    if random.random() < 0.2:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = random.choice([*VALUES, "[" * 2000])
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parsed = parser.parse_args()
    tally, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as name:
        directory = epath.Path(name)
        files = good(directory)
        for number in range(parsed.first, parsed.first + parsed.inputs):
            own = random.Random(number)
            kind = own.choice(sorted(files))
            path = directory / (kind if "." in kind or kind in container.KINDS else f"x.{kind}")
            path.write_bytes(altered(own, kind, files[kind]))
            try:
                read(kind, path)
                outcome = "read"
            except InputError as error:
                line = all(c.isprintable() or c == "\0" for c in str(error)) and len(str(error)) < 3000
                outcome = "refused" if line else f"no line {str(error)[:200]!r}"
            except Exception as error:
                outcome = f"{type(error).__name__}: {str(error)[:200]}"
            tally[kind, outcome if outcome in ("read", "refused") else "wrong"] += 1
            if outcome not in ("read", "refused"):
                wrong.append(number)
                print(f"{number}: {kind}: {outcome}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for (kind, outcome), count in sorted(tally.items()):
        print(f"{kind:15} {outcome:8} {count:7,}")
    print(f"{sum(tally.values()):,} inputs, {len(wrong)} wrong, at most {memory / 2**20:.2f} GiB of memory")
    return int(bool(wrong) or memory > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
