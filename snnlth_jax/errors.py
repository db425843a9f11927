"""Bad input and failing storage, told apart from bugs: one line and a status of each."""

__all__ = ["InputError", "StorageError"]


class InputError(ValueError):
    """What the user asked for cannot be done. The message is one line: what is wrong, and what is allowed."""


class StorageError(OSError):
    """A run cannot write: the disk is full, read-only or gone. What it wrote before stays good."""
