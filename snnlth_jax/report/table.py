"""Numbers as CSV, with as many digits as they have."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["csv_text"]


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as text; floats are read back as they were, None is empty.

    >>> csv_text(["kind", "accuracy"], [("round", 0.1 + 0.2), ("probe", None)]).splitlines()
    ['kind,accuracy', 'round,0.30000000000000004', 'probe,']
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
