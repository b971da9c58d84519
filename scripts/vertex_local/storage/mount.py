"""`/gcs`, where a job on Vertex AI finds all buckets as folders, for a process that is not root.

On Vertex AI this is a file system (Cloud Storage FUSE). Here buckets are folders anyway, so a link
`/gcs` to them is enough; but only root may put a link into `/`. On Linux a process can have a `/`
of its own, in a mount namespace: it has every entry of the real one, and `/gcs`. User id, processes
and files are the same as outside; only `sudo` does not work there.

Nobody may write directly in `/gcs`, beside the buckets. While the server runs, the permissions of
the buckets' folder prevent it (see `tree`). Permissions do not stop root; but a mount in which the
folder's group is unknown does.

On other systems, and where namespaces are forbidden, root can make the link by hand.

As a program, `mount.py BUCKETS COMMAND …` runs the command in a `/` that has `/gcs`. It uses the
standard library only, and starts without reading site packages.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import subprocess
import sys
from pathlib import Path

MOUNT = "/gcs"
SWITCH = "VERTEX_LOCAL_GCS"  # "off" leaves `/` as it is
BUCKETS = "VERTEX_LOCAL_BUCKETS"  # tells jobs and cells where the buckets' folders are
FALLBACK = f"In the arguments of a job's command, {MOUNT} stands for the folder of the buckets."
OLD = "/.old-root"
PROBE_SECONDS = 20

# From <sched.h> and <sys/mount.h>.
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
# From <linux/mount.h>, and numbers of system calls, which are the same on all processors.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH, O_CLOEXEC = -100, 0x1000, 0o2000000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x100000
IDS = 2**32 - 1  # how many users and groups there can be
UNKNOWN = 65533  # a group that nobody has, and that is unknown in the mount of root


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
    """Return how root can give this machine a `/gcs` for every program."""
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
    """Return why the launcher does not work here, or None if it does.

    It is tried in a child process, because a process cannot leave its new namespace.
    """
    probe = f"import os, sys; sys.exit(not os.path.samefile({MOUNT!r}, sys.argv[1]))"
    command = [*_launcher(buckets), sys.executable, "-I", "-S", "-c", probe, str(buckets)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as err:
        return str(err)
    return None if tried.returncode == 0 else f"the system forbids it: {tried.stderr.strip()}"


def main() -> None:
    """Make the namespace, then replace this process by the command."""
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
        sys.exit(127)  # as a shell does


def enter(buckets: str) -> None:
    """Give this process a `/` of its own that has `/gcs`.

    It consists of bind mounts of the real root's entries, so nothing is copied, and what is mounted
    there later appears here, too. It is read-only: files written into it would be lost.

    Raises:
        OSError: if the system forbids it. The process must then end: its root may be half made.
    """
    new_namespace()
    # The mounts that follow are not visible outside of this namespace.
    call("mount", b"none", b"/", None, MS_REC | MS_SLAVE, None)
    # The new root needs some folder as a mount point until it becomes the root.
    flags = MS_NOSUID | MS_NODEV
    call("mount", b"tmpfs", os.fsencode(buckets), b"tmpfs", flags, b"mode=755")
    os.mkdir(buckets + OLD)
    call("pivot_root", os.fsencode(buckets), os.fsencode(buckets + OLD))
    os.chdir("/")
    with os.scandir(OLD) as entries:
        for entry in entries:
            if entry.name != MOUNT.lstrip("/"):
                copy(entry)
    show(buckets)
    call("umount2", OLD.encode(), MNT_DETACH)
    os.rmdir(OLD)
    call("mount", b"none", b"/", None, flags | MS_REMOUNT | MS_BIND | MS_RDONLY, None)


def show(buckets: str) -> None:
    """Make `/gcs` in the new root: a link, or for root a mount in which its group is unknown."""
    if os.geteuid() == 0:
        try:
            mount_without_group(buckets)
            return
        except OSError:  # before Linux 5.12, or a file system that cannot do this
            if os.path.isdir(MOUNT):
                os.rmdir(MOUNT)
    os.symlink(buckets, MOUNT)


def mount_without_group(buckets: str) -> None:
    """Mount the buckets' folder at `/gcs`, so that in this folder itself even root cannot write.

    Linux refuses to write into a folder whose group is unknown in the mount: see
    mount_setattr(2), "ID-mapped mounts". Files in the buckets have other groups.
    """
    os.chown(buckets, -1, UNKNOWN)
    users = open_namespace(
        f"0 0 {IDS}", f"0 0 {UNKNOWN}\n{UNKNOWN + 1} {UNKNOWN + 1} {IDS - UNKNOWN - 1}"
    )
    path = os.fsencode(buckets)
    tree = call("syscall", OPEN_TREE, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC)
    mapped = struct.pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, users)
    call("syscall", MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, mapped, len(mapped))
    os.mkdir(MOUNT)
    call("syscall", MOVE_MOUNT, tree, b"", AT_FDCWD, MOUNT.encode(), MOVE_MOUNT_F_EMPTY_PATH)


def open_namespace(uid_map: str, gid_map: str) -> int:
    """Return a new user namespace with these maps, as an open file."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # enter the namespace, and wait until the file is open
        os.close(done[1])
        try:
            call("unshare", CLONE_NEWUSER)
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        os.read(ready[0], 1)
        for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            Path("/proc", str(child), name).write_text(text)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    finally:
        for descriptor in (ready[0], *done):
            os.close(descriptor)
        os.waitpid(child, 0)


def new_namespace() -> None:
    """Enter a new mount namespace; without root rights, that needs a user namespace, too."""
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", CLONE_NEWNS)
    except PermissionError:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (
            ("uid_map", f"{user} {user} 1"),
            ("setgroups", "deny"),  # Linux requires this before a gid_map
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


def call(name: str, *arguments: bytes | int | None) -> int:
    """Call a function of the C library that returns -1 if it fails, and sets errno."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = function(*wide)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


if __name__ == "__main__":
    main()
