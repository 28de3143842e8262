"""Where a study is kept: from --storage to an Optuna storage. No password is in anything that is shown.

sqlite:///PATH            one driver, a disk of its own
postgresql://USER@HOST/DATABASE   several drivers (the password from ~/.pgpass, or from a file: @FILE)
journal:PATH              Optuna's journal file: several drivers of one machine, or of machines that share a disk
grpc://HOST:PORT          Optuna's gRPC proxy, in front of a database
"""

import functools
import os
import pathlib
import re
import stat
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import make_url

from zennas.records import UserError

T = TypeVar("T")
VARIABLE = "ZENNAS_STORAGE"
JOURNAL_GRACE_S = 10  # a lock of a writer that was killed is broken after this long; Optuna's own 30 s are a long stall
CONNECT_S = 10
PATIENCE_S = 120.0  # how long a store that does not answer is asked again: a database's restart takes seconds
SECRET = re.compile(r"(?i)password|secret|token|signature|^sig$|(access|account|api)_?key")  # in a URL's query
NETWORK_DISKS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "beegfs",
    "gpfs",
    "9p",
    "virtiofs",
    "sshfs",
    "s3fs",
    "gcsfuse",
    "rclone",
    "juicefs",
    "davfs",
    "efs",
    "orangefs",
    "pvfs2",
}


def asked_storage(text: str | None, *, where: str = "--storage") -> str | None:
    """The URL that a user means: as given, or read from @FILE, or from ZENNAS_STORAGE; None without any.

    UserError for a password in the open: everyone on the machine, and Ray's list of jobs, shows a command line.
    """
    if text is None:
        text = os.environ.get(VARIABLE) or None
        if text is None or not text.startswith("@"):
            return text and _plain(text, VARIABLE)
        where = VARIABLE
    if text.startswith("@"):
        return _plain(_read(pathlib.Path(text[1:]), where), f"{where} {text}")
    if shown(_plain(text, where)) != text:
        raise UserError(
            f"{where} {shown(text)}: has a password, and everyone on the machine can read a command line; put the URL "
            f"into a file that only you may read and give --storage @FILE, or into the variable {VARIABLE}, or the "
            "password into ~/.pgpass"
        )
    return text


def _plain(text, where):
    """The URL itself. UserError where a character in the password would end it: the rest would be printed."""
    if _odd(text) and not text.startswith("sqlite"):
        raise UserError(
            f"{where}: {shown(text)}: before the last @ stands more than NAME:PASSWORD; write @ as %40, : as %3A, / "
            "as %2F in a password"
        )
    return text


def _odd(url):
    """A match of (scheme, credentials, rest) where a URL has more than NAME:PASSWORD before its last @, else None."""
    odd = re.fullmatch(r"(\w[\w+.-]*://)(.*)@([^@]*)", url, re.DOTALL)
    return odd if odd and not re.fullmatch(r"[^:@/]*(:[^:@/]*)?", odd[2]) else None


def _read(path, where):
    try:
        text, mode = path.read_text(encoding="utf-8").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where} @{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not text or len(text.splitlines()) > 1:
        raise UserError(
            f"{where} @{path}: holds {len(text.splitlines())} lines, and should hold one, the storage's URL"
        )
    if shown(text) != text and stat.S_IMODE(mode) & 0o077:
        raise UserError(
            f"{where} @{path}: holds a password, and others may read it (mode {stat.S_IMODE(mode):o}): chmod 600 {path}"
        )
    return text


def shown(url: str) -> str:
    """A storage's URL as it may be shown: without its password.

    >>> shown("postgresql://ann:secret@db/faces"), shown("grpc://head:13000")
    ('postgresql://ann:***@db/faces', 'grpc://head:13000')
    """
    if (odd := _odd(url)) is not None:  # may hold a password all the same
        return f"{odd[1]}***@{odd[3]}"
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return re.sub(r"://.*@", "://***@", url, flags=re.DOTALL)
    secret = {name for name in parsed.query if SECRET.search(name)}
    if secret:
        parsed = parsed.update_query_dict({name: "***" for name in secret})
    return str(parsed.render_as_string(hide_password=True)) if parsed.password or secret else url


def without_secret(url: str) -> str:
    """A storage's URL without its password, for somebody who has it in ~/.pgpass or types it.

    >>> without_secret("postgresql://ann:secret@db/faces")
    'postgresql://ann@db/faces'
    """
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return shown(url)
    if shown(url) == url:
        return url
    secret = [name for name in parsed.query if SECRET.search(name)]
    return parsed._replace(password=None).difference_update_query(secret).render_as_string()


def open_storage(url: str, *, num_islands: int = 1) -> optuna.storages.BaseStorage:
    """The Optuna storage of a URL. UserError for what SQLite cannot do; what cannot be opened raises its own error."""
    if url.startswith("journal:"):
        if not url.removeprefix("journal:").strip("/"):
            raise UserError(f"--storage {url}: names no file; expected journal:FILE")
        # Absolute: the lock is a link to the file, and with a relative one a killed writer's lock would be waited for
        # forever.
        path = pathlib.Path(url.removeprefix("journal:").removeprefix("//")).absolute()
        lock = JournalFileSymlinkLock(str(path), grace_period=JOURNAL_GRACE_S)
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    if url.startswith("grpc://"):
        return _proxy(url)
    if make_url(url).get_backend_name() == "sqlite":
        _check_sqlite(url, num_islands)
        return optuna.storages.RDBStorage(url)
    # A connection that the database dropped while it was idle (a restart, a proxy's time-out) is noticed and made
    # again.
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "pool_recycle": 1800})


def _proxy(url):
    host, colon, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UserError(f"--storage {url}: expected grpc://HOST:PORT, such as grpc://127.0.0.1:13000")
    storage = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    try:
        storage.wait_server_ready(timeout=CONNECT_S)
    except Exception:  # noqa: BLE001 - grpc's or Optuna's; either says only that time was up
        raise UserError(
            f"--storage {url}: cannot be used: no Optuna gRPC proxy answered within {CONNECT_S} s; start it with: "
            'python -c "from optuna.storages import get_storage, run_grpc_proxy_server as run; '
            "run(get_storage(open('FILE').read().strip()), host='HOST', port=PORT)\", FILE holding the database's URL"
        ) from None
    return storage


def _check_sqlite(url, num_islands):
    """UserError for what SQLite is not for: many writers, and disks that a network lies in front of."""
    instead = "use PostgreSQL (--storage postgresql://USER@HOST/DATABASE)"
    if num_islands > 1:
        raise UserError(
            f"--storage {url}: SQLite lets one process write at a time and locks the others out (stalls of 8 s with "
            f"four were measured); for --islands {num_islands} {instead}, or journal:FILE on one machine"
        )
    database = make_url(url).database
    if database and database != ":memory:" and (kind := network_disk(pathlib.Path(database))):
        raise UserError(
            f"--storage {url}: lies on a network disk ({kind}), where SQLite's locks do not hold and files are "
            f"damaged; {instead}, or a folder of this machine's own disk"
        )


def network_disk(path: str | pathlib.Path, *, mounts: str | None = None) -> str | None:
    """The name of the file system where a path lies on a network disk, else None.

    mounts: the text of /proc/self/mounts.
    """
    if mounts is None:
        try:
            mounts = pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    path = pathlib.Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    path, best = path.resolve(), ("", "")
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        place = place.encode().decode("unicode_escape")
        if path.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    kind = best[1].removeprefix("fuse.")
    return kind if kind in NETWORK_DISKS else None


def is_shared(url: str) -> bool:
    """Whether drivers on other machines can reach a storage."""
    return not url.startswith(("sqlite:", "journal:"))


def patiently(
    call: Callable[[], T],
    *,
    say: Callable[[str], None] | None = None,
    patience_s: float | None = None,
    gave_up: threading.Event | None = None,
) -> T:
    """call(), again and again while the store does not answer, for `patience_s`. Then its last error.

    say(text): told once when the store stops answering, and once when it answers again. gave_up: an Event that ends
    the patience.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    begun, pause_s, error = time.monotonic(), 0.2, None
    while True:
        try:
            answer = call()
        except Exception as problem:
            if not passes(problem) or time.monotonic() - begun > patience_s or (gave_up and gave_up.is_set()):
                raise
            if error is None and say:
                say(
                    f"the store does not answer ({first_cause(problem)}): asking again for {patience_s:.0f} s; "
                    f"nothing is lost"
                )
            error = problem
            (gave_up or threading.Event()).wait(pause_s)
            pause_s = min(5.0, 2 * pause_s)
            continue
        if error is not None and say:
            say(f"the store answers again, after {time.monotonic() - begun:.1f} s")
        return answer


def created(call: Callable[[], T], *, tries: int = 6) -> T:
    """call(), which creates what is missing; again where another driver created it at the same moment."""
    for attempt in range(1, tries + 1):
        try:
            return call()
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, optuna.exceptions.StorageInternalError):
            if attempt == tries:
                raise
            time.sleep(0.5 * attempt)


def passes(error: BaseException | None) -> bool:
    """Whether a store gets over an error: a lost connection, a lock, a full disk; not a value that it refuses."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return any(isinstance(cause, _passing()) for cause in chain)


@functools.cache
def _passing():
    import grpc

    return (
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.InterfaceError,
        sqlalchemy.exc.TimeoutError,
        grpc.RpcError,
        OSError,
    )


def first_cause(error: BaseException) -> str:
    """One line of what a storage raised. No driver prints the password of its connection."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
