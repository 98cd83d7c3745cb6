"""Files that are either whole or absent, told apart by what is in them; and what a system that refuses one means.

Every file that the package writes takes its place in one step, from a temporary file beside it. A killed process
leaves that one behind; as long as its owner lives it is locked, and the next writer in the folder removes those that
are not.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seganypet.errors import ReadError, SegAnyPETError, WriteError, shown

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot take the place of another: nothing is locked or swept
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-"
TEMPORARY = "seganypet-temporary-"  # folders in the system's folder for temporary files
MAX_TEXT_BYTES = 20_000_000  # of JSON, whose objects take twenty times as much memory
_ADVICE = {
    errno.ENOSPC: "Make room on the disk, or choose another folder.",
    errno.EDQUOT: "Your quota is used up: delete something, or choose another folder.",
    errno.EFBIG: "The disk takes no file as large, or a limit of yours (ulimit -f) is reached: choose another disk.",
    errno.EROFS: "The disk is read-only; choose another folder.",
    errno.EACCES: "Change the permissions, or choose another folder.",
    errno.EPERM: "Change the permissions, or choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Was it moved or deleted?",
    errno.ENOTDIR: "Part of the path is a file; choose another.",
    errno.EISDIR: "It is a folder; give the name of a file.",
    errno.ELOOP: "Its links lead in a circle.",
    errno.EMFILE: "Too many files are open: close some, or raise the limit (ulimit -n).",
    errno.ESTALE: "The network drive was lost; connect it and try again.",
    errno.EIO: "The disk or the network fails; copy the file elsewhere.",
    errno.EBUSY: "Another program uses it; close that.",
}


def as_path(path: str | os.PathLike, kind: type[SegAnyPETError] = SegAnyPETError) -> Path:
    """A path that somebody gave.

    Raises:
        kind: It is no path, or has a character that no name of a file can have.

    >>> as_path(7)
    Traceback (most recent call last):
    seganypet.errors.SegAnyPETError: 7 is no path; expected a text, such as "scan.nii.gz".
    """
    named = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(named, str) or not named:
        raise kind(f'{shown(path)} is no path; expected a text, such as "scan.nii.gz".')
    try:
        invalid = b"\0" in os.fsencode(named)
    except UnicodeEncodeError:
        invalid = True
    if invalid:
        raise kind(f"{named!r}: no file can have this name; was it read from a damaged text?")
    return Path(named)


def utf8_path(path: Path) -> str:
    """A path for a library in C++, which would end the process at one that is not UTF-8, as of an old disk."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise SegAnyPETError(f"{path}: its name is not in UTF-8; rename the file, or its folder.") from None
    return str(path)


@contextmanager
def replace_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    The temporary name keeps the suffixes of `path` (writers choose a format by them). If
    the block raises or the process dies, whatever stood at `path` before is untouched.

    Args:
        path: Where the finished file will be. If it is a link, the link stays, and its target is replaced.

    Raises:
        SegAnyPETError: The parent folder does not exist or may not be written, `path` is a folder, a pipe or a device,
            or writing fails, for instance on a full disk.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
    >>> with replace_atomically(target) as temporary:
    ...     _ = temporary.write_text("case,dsc")
    >>> target.read_text()
    'case,dsc'
    """
    path = as_path(path)
    check_writable(path)
    target = Path(os.path.realpath(path))
    _sweep(target.parent, f"{UNFINISHED}*")
    # A link's target may be called otherwise, as in stores that name files after their content.
    with writing(path), _unfinished(target.parent, path.name) as temporary:
        try:
            yield temporary
        except WriteError as error:  # nobody knows the temporary name
            raise WriteError(str(error.args[0]).replace(str(temporary), str(path))) from error
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # or a power cut may leave the new name on an empty file
        # mkstemp makes private files; give ours the permissions that open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)


@contextmanager
def _unfinished(folder: Path, name: str) -> Iterator[Path]:
    """A new file with the suffixes of `name`, locked while the block lasts, and gone after it unless renamed."""
    while True:
        handle, unfinished = tempfile.mkstemp(prefix=UNFINISHED, suffix=name[-100:], dir=folder)
        if _lock(handle, unfinished):
            break
    try:
        yield Path(unfinished)
    finally:
        Path(unfinished).unlink(missing_ok=True)
        if fcntl is not None:
            os.close(handle)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this process for files that nobody else may read; what killed processes left is removed first."""
    with writing(root := Path(tempfile.gettempdir())):
        _sweep(root, f"{TEMPORARY}*")
        while True:
            name = tempfile.mkdtemp(prefix=TEMPORARY)
            try:
                handle = -1 if fcntl is None else os.open(name, os.O_RDONLY)
            except FileNotFoundError:  # a sweeper came first
                continue
            if fcntl is None or _lock(handle, name):
                break
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)
        if fcntl is not None:
            os.close(handle)


def _lock(handle: int, name: str) -> bool:
    """Lock a new file or folder; False, and it is closed, if a sweeper came between making and locking it."""
    if fcntl is None:
        os.close(handle)
        return True
    is_ours = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a sweeper holds it, and removes it next
        is_ours = False
    except OSError:  # some network file systems have no locks; nothing is swept there
        pass
    if not is_ours or not os.path.exists(name):
        os.close(handle)
        return False
    return True


def _sweep(folder: Path, pattern: str) -> None:
    """Remove what killed processes left in a folder; once in a process for each folder."""
    if fcntl is None or (swept := (os.path.abspath(folder), pattern)) in _SWEPT:
        return
    _SWEPT.add(swept)
    for left in folder.glob(pattern):
        if left.is_dir() and not pattern.startswith(TEMPORARY):
            continue  # what else is called so has no lock
        with suppress(OSError):  # another user's, or gone meanwhile
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # whatever somebody put there
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails as long as its owner lives
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


_SWEPT: set[tuple[str, str]] = set()


def system_reason(error: OSError) -> str:
    """What the system says, and what to do: "Permission denied. Change the permissions, or choose another folder."."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{said}. {_ADVICE.get(error.errno or 0, 'Choose another file or folder.')}"


def write_error(path: str | os.PathLike, error: OSError) -> WriteError:
    """What to raise if the system refuses to write a file."""
    return WriteError(f"cannot write {path}: {system_reason(error)}")


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the system says while `path` is written, made or removed into a WriteError."""
    as_path(path)
    try:
        yield
    except SegAnyPETError:
        raise
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def reading(path: str | os.PathLike, kind: type[SegAnyPETError] = ReadError) -> Iterator[None]:
    """Turn what the system says while `path` is read into an error of the package.

    What is neither a file nor a folder is refused, for whoever opens a pipe waits for a writer.
    """
    as_path(path)
    try:
        if os.path.exists(path) and not (stat.S_ISREG(mode := os.stat(path).st_mode) or stat.S_ISDIR(mode)):
            raise kind(f"cannot read {path}: it is a pipe or a device; expected a file.")
        yield
    except SegAnyPETError:
        raise
    except OSError as error:
        raise kind(f"cannot read {path}: {system_reason(error)}") from error


def read_text(path: str | os.PathLike, kind: type[SegAnyPETError] = ReadError, most: int = MAX_TEXT_BYTES) -> str:
    """A text in UTF-8, with or without a byte order mark.

    Raises:
        kind: It cannot be read, is no such text, or has more than `most` bytes.
    """
    with reading(path, kind), open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise kind(f"{path}: more than {most / 1e6:g} MB; expected a text file of less.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path}: not a text in UTF-8 ({error}). Save it as UTF-8, or copy it again.") from error


def read_json(path: str | os.PathLike, kind: type[SegAnyPETError] = ReadError, what: str = "JSON file") -> Any:
    """The value of a JSON file, which messages call `what`; errors as `read_text`, and of `kind` if it is no JSON."""
    text = read_text(path, kind)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise kind(f"{path}: not a readable {what} ({error}). Copy it again.") from error


def check_writable(path: str | os.PathLike) -> None:
    """Raise SegAnyPETError if no file can be written at `path`; to be called before long work."""
    path = as_path(path)
    with writing(path):  # such as a name that is too long, or links in a circle
        folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
        if not folder.is_dir():
            raise SegAnyPETError(f"cannot write {path}: folder {folder} does not exist; create it first.")
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise SegAnyPETError(f"{path} is a folder; give the name of a file inside it.")
        if not stat.S_ISREG(mode):
            raise SegAnyPETError(f"cannot write {path}: it is a pipe or a device; expected a file.")


@contextmanager
def only_writer(path: str | os.PathLike) -> Iterator[None]:
    """Lock a file against other runs that write it.

    Raises:
        SegAnyPETError: Another run is writing it, or no file can be written there.
    """
    from filelock import FileLock, Timeout

    path = as_path(path)
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
    path = as_path(path)
    with reading(path):
        if not path.is_dir():
            raise SegAnyPETError(f"{path} is {'a file' if path.exists() else 'missing'}; expected a folder.")


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and those above it, where they are missing; SegAnyPETError if it cannot be created."""
    path = as_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make folder {path}: {system_reason(error)}") from error


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
        with reading(path):
            status = os.stat(path)
            times = status.st_mtime_ns, status.st_ctime_ns
            signature = (os.path.abspath(path), status.st_ino, status.st_size, *times)
            if signature in self._known:
                return self._known[signature]
            with open(path, "rb") as file:
                digits = hashlib.file_digest(file, "sha256").hexdigest()
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
