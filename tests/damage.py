"""Ways in which the newest checkpoint of a run comes to harm: each changes or removes files of it."""

import shutil
from pathlib import Path


def newest(checkpoints: Path) -> Path:
    """The one that a search would go on from."""
    return max((path for path in checkpoints.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))


def _rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


def _data(checkpoint: Path, change) -> None:
    for path in checkpoint.glob("arrays/**/d/*"):
        _rewrite(path, change)


def _flip(content: bytes) -> bytes:
    content = content or b"\0"  # damaged before, by another way
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _another_epoch(content: bytes) -> bytes:
    text = content.decode()
    at = text.index("epochs_done")
    digit = next(i for i in range(at, len(text)) if text[i].isdigit())
    return (text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]).encode()


WAYS = {
    "arrays cut in half": lambda c: _data(c, lambda b: b[: len(b) // 2]),
    "arrays empty": lambda c: _data(c, lambda b: b""),
    "arrays with a bit flipped": lambda c: _data(c, _flip),
    "arrays overwritten with zeros": lambda c: _data(c, lambda b: bytes(len(b))),
    "one data file missing": lambda c: max(c.glob("arrays/d/*"), key=lambda p: p.stat().st_size).unlink(),
    "manifest cut short": lambda c: _rewrite(c / "arrays" / "manifest.ocdbt", lambda b: b[: len(b) // 2]),
    "metadata of the arrays garbled": lambda c: _rewrite(c / "arrays" / "_METADATA", lambda b: b"{" + b[7:]),
    "arrays missing": lambda c: shutil.rmtree(c / "arrays"),
    "progress cut short": lambda c: _rewrite(c / "progress" / "metadata", lambda b: b[: len(b) // 2]),
    "progress altered": lambda c: _rewrite(c / "progress" / "metadata", _another_epoch),
    "progress missing": lambda c: shutil.rmtree(c / "progress"),
    "empty directory": lambda c: [
        shutil.rmtree(path) if path.is_dir() else path.unlink() for path in list(c.iterdir())
    ],
}
