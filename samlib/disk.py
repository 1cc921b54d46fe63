"""Files that are written whole or not at all, and errors about files as one sentence. Plain Python."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def reason(error: BaseException) -> str:
    """What an error says, as a part of a sentence; its type if it says nothing."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    said = getattr(error, "strerror", None) or "".join(c if c.isprintable() else " " for c in str(error))
    return " ".join(said.split()).rstrip(".: ") or type(error).__name__


@contextmanager
def in_a_sentence(before: str, after: str = ".", kinds=Exception, becomes=ValueError) -> Iterator[None]:
    """Turn an error in the block into one of another kind, which says `before`, the reason, and `after`."""
    try:
        yield
    except kinds as error:
        raise becomes(f"{before}{reason(error)}{after}") from None


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path for a new file or folder; it replaces `path` once all is written. The folder above is made if needed.

    A folder cannot be replaced in one step, so the old one steps aside. If the process is killed then, the next call puts
    it back; until then it lies beside as `.replaced.partial`. One process at a time may write a path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, aside = (path.with_name(f"{path.name}.{end}") for end in ("partial", "replaced.partial"))
    if aside.exists() and not path.exists():
        aside.rename(path)
    _remove(aside)
    _remove(partial)  # a killed writer may have left it
    try:
        yield partial
        if path.is_dir() and partial.is_dir():  # a file never replaces a folder
            path.rename(aside)
        partial.replace(path)
    finally:
        _remove(partial)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
