"""Where files come from and where they are kept: checked downloads, archives that are never unpacked, decoded copies."""

import hashlib
import json
import os
import ssl
import tarfile
import threading
import tomllib
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from samlib.checks import OneSentence, as_path
from samlib.disk import in_a_sentence, reason, whole

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("published.toml").read_text())
CACHE_FORMAT = 1
PATIENCE = 10  # seconds to wait for a server's first answer


class NotAtHand(OneSentence):
    """A public data set is not on this machine and cannot be downloaded."""


def cache_folder(folder: str | os.PathLike | None = None) -> Path:
    """Return the folder of downloads, decoded data sets and trained models.

    Parameters
    ----------
    folder : path, optional
        The folder to take. If None, it is the one that `SAMLIB_CACHE` names, else the user's cache folder. A relative
        `SAMLIB_CACHE` counts from the folder in which it is first asked for, and stays that one.

    Returns
    -------
    pathlib.Path
        An absolute path; the folder may not exist yet.

    Raises
    ------
    ValueError
        If `folder` is no path.

    Examples
    --------
    >>> str(cache_folder("/tmp/mine"))
    '/tmp/mine'
    """
    if folder:
        return as_path("cache_dir", folder)
    if kept := _from_environment("SAMLIB_CACHE"):
        return kept
    import pooch

    return Path(pooch.os_cache("samlib"))


def _from_environment(variable: str) -> Path | None:
    """The folder that an environment variable names; the variable becomes absolute, so that child processes agree."""
    if not (folder := os.environ.get(variable)):
        return None
    if folder != str(path := as_path(variable, folder)):
        os.environ[variable] = str(path)
    return path


def local_file(name: str, file_name: str) -> Path | None:
    """`name/file_name` in the folder that `SAMLIB_DATA` names, if it is there."""
    folder = _from_environment("SAMLIB_DATA")
    path = folder and folder / name / file_name
    return path if path and path.exists() else None


def archive_of(name: str) -> Path:
    """Where the archive of a public data set is, or will be when it is downloaded."""
    file_name = PUBLISHED[name]["url"].rsplit("/", 1)[-1]
    return local_file(name, file_name) or cache_folder() / "data" / name / file_name


def checked_file(name: str) -> tuple[Path, str]:
    """The archive of a public data set, downloaded once if it is not here, and its sha256.

    Raises ValueError if its sha256 is not the published one, NotAtHand if it cannot be downloaded.
    """
    path, url, sha256 = archive_of(name), PUBLISHED[name]["url"], PUBLISHED[name].get("sha256")
    if not local_file(name, path.name):
        import pooch

        with fetching(name, None if path.exists() else url, path.name):  # pooch replaces a damaged file
            pooch.retrieve(url, sha256, fname=path.name, path=path.parent)
    found = sha256_of(path)
    if sha256 not in (None, found):
        raise ValueError(f"{path} is not the published {name}: its sha256 is {found}, not {sha256}.")
    return path, found


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def fetching(name: str, url: str | None, files: str) -> Iterator[None]:
    """Download a public data set inside. The server of `url` is asked first, so that a dead network costs seconds.

    Whatever the network raises becomes NotAtHand, which says where to put `files` instead.
    """
    try:
        if url is not None and (silence := no_answer(url)):
            raise OSError(silence)
        yield
    except Exception as error:
        why, instead = reason(error).partition(". ")[0], "or take the data set subclasses or digits"
        said = f"{name} could not be downloaded ({why}); put {files} into $SAMLIB_DATA/{name}/, {instead}."
        raise NotAtHand(said) from None


def no_answer(url: str) -> str | None:
    """Why the server of a URL does not answer within PATIENCE seconds, or None if it does."""
    if os.environ.get("SAMLIB_OFFLINE"):
        return "SAMLIB_OFFLINE is set"
    request, said = urllib.request.Request(url, method="HEAD"), [f"nothing heard for {PATIENCE} s"]

    def ask() -> None:
        try:
            # an opener of its own: the shared one keeps the proxies of its first use
            urllib.request.build_opener().open(request, timeout=PATIENCE).close()
            said.append("")
        except Exception as error:
            # a server that refuses answers, and the download may know a certificate that this library does not
            reason = getattr(error, "reason", error)
            answers = isinstance(error, urllib.error.HTTPError) or isinstance(reason, ssl.SSLError)
            said.append("" if answers else str(reason))

    # in a thread, because no timeout bounds the look-up of a host's name
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return said[-1] and f"no answer from {urllib.request.Request(url).host}: {said[-1]}"


@contextmanager
def open_member(archive: Path, member: str, *, limit: int, alone: bool = False) -> Iterator[IO[bytes]]:
    """Open the plain file `member` of a tar archive as a stream; nothing is ever unpacked to disk.

    Raises ValueError if there is not exactly one such file, or if it is longer than `limit` bytes. With `alone`, also if
    the archive holds anything else. A damaged archive raises it too, perhaps only while it is read.
    """
    kinds = (tarfile.TarError, OSError, EOFError, zlib.error)
    with in_a_sentence(f"{archive} is damaged: ", kinds=kinds), tarfile.open(archive) as tar:
        entries = tar.getmembers()
        found = entries if alone else [entry for entry in entries if entry.name.removeprefix("./") == member]
        file = tar.extractfile(found[0]) if len(found) == 1 and found[0].isreg() else None
        if file is None or found[0].name.removeprefix("./") != member or found[0].size > limit:
            said = ", ".join(repr(entry.name) for entry in entries[:5])
            raise ValueError(f"{archive} must hold one plain file {member!r} of at most {limit} bytes, not {said}.")
        yield file


def decoded(name: str, key: str, make: Callable[[Path], dict | None]) -> tuple[dict[str, np.ndarray], dict]:
    """The .npy files that `make(folder)` writes, memory-mapped, and the facts that it returns, if any.

    They are made once for a source whose checksum is `key`, under a lock. Other processes wait, then share the pages.
    Raises ValueError if a file is no longer what was written, OSError if the cache cannot be written.
    """
    from filelock import FileLock

    home = cache_folder() / "data" / f"{name}-{hashlib.sha256(f'{CACHE_FORMAT} {key}'.encode()).hexdigest()[:16]}"
    if not home.exists():
        with in_a_sentence(f"The cache {home.parent} cannot be written (", "); set SAMLIB_CACHE.", OSError, OSError):
            home.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(home.with_suffix(".lock")):
                if not home.exists():
                    with whole(home) as partial:
                        partial.mkdir()
                        facts = make(partial) or {}
                        files = {path.name: sha256_of(path) for path in sorted(partial.glob("*.npy"))}
                        (partial / "facts.json").write_text(json.dumps({**facts, "files": files}, indent=1))
    with in_a_sentence(f"The decoded copy {home} is damaged (", "); delete that folder and run again."):
        facts = json.loads((home / "facts.json").read_text())
        for file, sha256 in facts["files"].items():
            if sha256_of(home / file) != sha256:
                raise ValueError(f"{file} has changed")
        # plain arrays over the mapped pages, not the subclass
        arrays = {Path(file).stem: np.asarray(np.load(home / file, mmap_mode="r")) for file in facts["files"]}
    return arrays, facts
