"""Files that are either whole or absent, and told apart by what is in them."""

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seganypet.errors import SegAnyPETError, WriteError


@contextmanager
def replace_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    The temporary name keeps the suffixes of `path` (writers choose a format by them). If
    the block raises or the process dies, whatever stood at `path` before is untouched.

    Args:
        path: Where the finished file will be.

    Raises:
        SegAnyPETError: The parent folder does not exist or may not be written, `path` is a folder, or writing fails,
            for instance on a full disk.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
    >>> with replace_atomically(target) as temporary:
    ...     _ = temporary.write_text("case,dsc")
    >>> target.read_text()
    'case,dsc'
    """
    path = Path(path)
    check_writable(path)
    if path.is_symlink():
        path = path.resolve()  # the link stays, its target is replaced
    temporary = path
    try:
        handle, temporary_name = tempfile.mkstemp(prefix=".unfinished-", suffix=path.name, dir=path.parent)
        temporary = Path(temporary_name)
        os.close(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # or a power cut may leave the new name on an empty file
        # mkstemp makes private files; give ours the permissions that open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except WriteError:
        raise  # of a file that the block wrote
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary != path:
            temporary.unlink(missing_ok=True)


def write_error(path: str | os.PathLike, error: OSError) -> WriteError:
    """What to raise if the system refuses to write a file."""
    return WriteError(f"cannot write {path}: {error.strerror}. Choose another folder or name, or make room.")


def check_writable(path: str | os.PathLike) -> None:
    """Raise SegAnyPETError if no file can be written at `path`; to be called before long work."""
    path = Path(path)
    try:
        if path.is_dir():
            raise SegAnyPETError(f"{path} is a folder; give the name of a file inside it.")
        if not path.parent.is_dir():
            raise SegAnyPETError(f"cannot write {path}: folder {path.parent} does not exist; create it first.")
    except OSError as error:  # such as a name that is too long
        raise write_error(path, error) from error


@contextmanager
def only_writer(path: str | os.PathLike) -> Iterator[None]:
    """Lock a file against other runs that write it.

    Raises:
        SegAnyPETError: Another run is writing it, or no file can be written there.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    check_writable(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SegAnyPETError(
            f"{path} is being written by another run; wait for its end, or choose another output."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network file systems have no locks
            raise write_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def unsafe_name(names: Iterable[str], taken: Iterable[str] = ()) -> tuple[str, str] | None:
    """The first name that is unsafe as a file name, and why: a separator in it, hidden, or taken if case is ignored."""
    taken = {*taken}
    for name in names:
        if re.search(r'[\\/:*?"<>|\x00-\x1f]', name) or name.startswith(".") or name.endswith((".", " ")):
            return name, "it is not a valid file name on every system"
        if name.casefold() in taken:
            return name, "it clashes with another name if case is ignored"
        taken.add(name.casefold())
    return None


def check_folder(path: str | os.PathLike) -> None:
    """Raise SegAnyPETError unless `path` is an existing folder."""
    if not Path(path).is_dir():
        raise SegAnyPETError(f"{path} is {'a file' if Path(path).exists() else 'missing'}; expected a folder.")


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and those above it, where they are missing; SegAnyPETError if it cannot be created."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegAnyPETError(f"cannot make folder {path} ({error.strerror}); choose another.") from error


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: `$SEGANYPET_CACHE`, else the user's cache folder.

    The folder may not exist yet.
    """
    named = os.environ.get("SEGANYPET_CACHE")
    if named:
        return Path(named)
    import pooch

    return Path(pooch.os_cache("seganypet"))


class FileHashes:
    """SHA-256 of files, each read once as long as nobody writes to it.

    A file counts as unchanged while its inode, size, and times of writing and of change are as they were; the last one
    no program can set back. Clocks of file systems are coarse, so a file that was written within the last two seconds
    is read again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple, str] = {}
        self._new: dict[tuple, str] = {}

    def sha256(self, path: str | os.PathLike) -> str:
        """Hexadecimal digits for a file's bytes; SegAnyPETError if it cannot be read."""
        try:
            status = os.stat(path)
            times = status.st_mtime_ns, status.st_ctime_ns
            signature = (os.path.abspath(path), status.st_ino, status.st_size, *times)
            if signature in self._known:
                return self._known[signature]
            with open(path, "rb") as file:
                digits = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SegAnyPETError(f"cannot read {path}: {error.strerror}.") from error
        if time.time_ns() - max(times) > _SETTLED_NS:
            self._known[signature] = self._new[signature] = digits
        return digits

    def remember(self, signature: Iterable, digits: str, new: bool = False) -> None:
        """Take over a hash from `take_new` of another run or process; `new` hands it on to the next `take_new` here."""
        self._known[tuple(signature)] = digits
        if new:
            self._new[tuple(signature)] = digits

    def take_new(self) -> list[tuple[tuple, str]]:
        """Signatures and hashes of the files that were read since the last call."""
        new, self._new = list(self._new.items()), {}
        return new


_SETTLED_NS = 2_000_000_000
_HASHES = FileHashes()


def content_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits; computed once in this process for an unchanged file.

    Raises:
        SegAnyPETError: There is no such file, or it cannot be read.
    """
    return _HASHES.sha256(path)
