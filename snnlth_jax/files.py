"""A file replaced in one go: a reader finds the old content or the new, also after a full disk or a kill."""

from etils import epath

__all__ = ["replace"]


def replace(path: epath.Path, content: bytes) -> None:
    """Write a file, a `gs://` one too; what was there stays until the new content is whole.

    >>> import tempfile
    >>> path = epath.Path(tempfile.mkdtemp()) / "note"
    >>> replace(path, b"old")
    >>> replace(path, b"new")
    >>> path.read_bytes(), [other.name for other in path.parent.iterdir()]
    (b'new', ['note'])
    """
    partial = path.parent / f".{path.name}.partial"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
