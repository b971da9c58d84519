"""`/gcs`, where a job on Vertex AI finds all buckets as folders, for a process that is not root.

On Vertex AI this is a file system (Cloud Storage FUSE). Here buckets are folders anyway, so `/gcs`
need only be a link to them; but only root may put a link into `/`. On Linux a process can have a
`/` of its own, in a mount namespace: it has every entry of the real one, and `/gcs`. User id,
processes and files are the same as outside; only `sudo` does not work there.

Elsewhere, and where namespaces are forbidden, somebody who is root can make the link by hand.

As a program, `mount.py BUCKETS COMMAND …` becomes the command, in a `/` that has `/gcs`. It needs
the standard library only, and starts without reading site packages.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from pathlib import Path

MOUNT = "/gcs"
SWITCH = "VERTEX_LOCAL_GCS"  # "off" leaves `/` as it is
BUCKETS = "VERTEX_LOCAL_BUCKETS"  # tells jobs and cells where the buckets' folders are
FALLBACK = f"In the words of a job's command, {MOUNT} stands for the folder of the buckets."
OLD = "/.old-root"
PROBE_SECONDS = 20

# From <sched.h> and <sys/mount.h>.
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2


def prefix(buckets: Path) -> list[str] | None:
    """Return what to put before an argv, so that the command finds its buckets at `/gcs`.

    Args:
        buckets: the folder of the buckets' folders.

    Returns:
        An empty list if `/gcs` exists already; None if this machine does not allow it.
    """
    if _is_there(buckets):
        return []
    return _launcher(buckets) if obstacle(buckets) is None else None


def obstacle(buckets: Path) -> str | None:
    """Return why processes started here cannot have `/gcs`, or None if they can."""
    if _is_there(buckets):
        return None
    if os.environ.get(SWITCH) == "off":
        return f"{SWITCH} is off"
    if not sys.platform.startswith("linux"):
        return "only Linux lets a process have a / of its own"
    return _try(buckets)


def advice(buckets: Path) -> str:
    """Return how somebody who is root can give this machine a `/gcs` for every program."""
    if os.path.lexists(MOUNT):
        return f"{MOUNT} is something else on this machine"
    if sys.platform == "darwin":  # / is read-only, but the system makes links when it starts
        line = f"gcs\\t{str(buckets).lstrip('/')}"
        return f"`printf '{line}\\n' | sudo tee -a /etc/synthetic.conf` and a restart make one"
    return f"`sudo ln -s {buckets} {MOUNT}` makes one"


def _is_there(buckets: Path) -> bool:
    try:
        return os.path.samefile(MOUNT, buckets)
    except OSError:
        return False


def _launcher(buckets: Path) -> list[str]:
    return [sys.executable, "-I", "-S", __file__, str(buckets)]


@functools.cache  # the answer stays the same while a server or a kernel runs
def _try(buckets: Path) -> str | None:
    """Return what forbids it, or None: tried in a process, which could not leave its namespace."""
    look = f"import os, sys; sys.exit(not os.path.samefile({MOUNT!r}, sys.argv[1]))"
    command = [*_launcher(buckets), sys.executable, "-I", "-S", "-c", look, str(buckets)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as err:
        return str(err)
    return None if tried.returncode == 0 else f"the system forbids it: {tried.stderr.strip()}"


def main() -> None:
    """Make the namespace, then become the command."""
    buckets, *command = sys.argv[1:]
    here = os.getcwd()
    try:
        enter(buckets)
    except OSError as err:
        sys.exit(f"{MOUNT} cannot be made ({err.filename or 'uid_map'}: {err.strerror})")
    os.chdir(here)
    try:
        os.execvp(command[0], command)
    except OSError as err:
        print(f"{command[0]} cannot be run ({err.strerror})", file=sys.stderr)
        sys.exit(127)  # as a shell says it


def enter(buckets: str) -> None:
    """Give this process a `/` of its own that has `/gcs`.

    It consists of bind mounts of the real root's entries, so nothing is copied, and what is mounted
    there later appears here, too. It is read-only: files written into it would be lost.

    Raises:
        OSError: if the system forbids it. The process must then end: its root may be half made.
    """
    new_namespace()
    # The rest of the machine sees none of what follows.
    call("mount", b"none", b"/", None, MS_REC | MS_SLAVE, None)
    # Any folder can hold the new root for the moment before it becomes the root.
    flags = MS_NOSUID | MS_NODEV
    call("mount", b"tmpfs", os.fsencode(buckets), b"tmpfs", flags, b"mode=755")
    os.mkdir(buckets + OLD)
    call("pivot_root", os.fsencode(buckets), os.fsencode(buckets + OLD))
    os.chdir("/")
    with os.scandir(OLD) as entries:
        for entry in entries:
            if entry.name != MOUNT.lstrip("/"):
                copy(entry)
    os.symlink(buckets, MOUNT)
    call("umount2", OLD.encode(), MNT_DETACH)
    os.rmdir(OLD)
    call("mount", b"none", b"/", None, flags | MS_REMOUNT | MS_BIND | MS_RDONLY, None)


def new_namespace() -> None:
    """Enter a new mount namespace; without root rights, that needs a user namespace, too."""
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", CLONE_NEWNS)
    except PermissionError:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (
            ("uid_map", f"{user} {user} 1"),
            ("setgroups", "deny"),  # the system wants this before a gid_map
            ("gid_map", f"{group} {group} 1"),
        ):
            Path("/proc/self", name).write_text(text)


def copy(entry: os.DirEntry[str]) -> None:
    """Make an entry of the old root appear in the new one."""
    path = f"/{entry.name}"
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), path)
        return
    if entry.is_dir():
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT))
    call("mount", os.fsencode(entry.path), os.fsencode(path), None, MS_BIND | MS_REC, None)


def call(name: str, *arguments: bytes | int | None) -> None:
    """Call a function of the C library that returns 0 or sets errno."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


if __name__ == "__main__":
    main()
