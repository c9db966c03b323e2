"""A job's own small world, in namespaces of Linux that need no root.

    python infra/compute/sandbox.py < ORDER

`ORDER` is JSON: the `command` with its `variables` and `folder`, whether it has a `network`, and
what it `sees`: path → [where that lies, whether it may be written]; a place that is null is empty
and in memory. Nothing else is there but a /proc of its own and a /dev without disks.

Three processes: this one, below the watchdog; the first of the new process namespace, with which
the kernel ends all others of it; and the program. SIGTERM goes down the line, and the program's
exit code or signal comes up. All of them die with the watchdog. What cannot be set up ends with
EX_OSERR, and the program does not begin. Sources: user_namespaces(7), pid_namespaces(7),
mount_setattr(2), pivot_root(2).
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_SLAVE = 0x4000, 0x80000
MNT_DETACH = 2
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
"""The same on every processor."""
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
MOVE_MOUNT_F_EMPTY_PATH = 4
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
EX_OSERR = 71

SCAFFOLD = Path("/sys")
"""Where the new root is built: a folder that every Linux has, and in which no Python lies."""

_libc = ctypes.CDLL(None, use_errno=True)


def _do(call: str, *arguments: Any) -> int:
    """Call a function of libc; raises OSError with the arguments that matter."""
    done = getattr(_libc, call)(*arguments)
    if done < 0:
        told = " ".join(one.decode() for one in arguments if isinstance(one, bytes) and one)
        raise OSError(ctypes.get_errno(), f"{call} {os.strerror(ctypes.get_errno())}", told)
    return done


def enter(network: bool) -> None:
    """Move this process, and the process namespace of its children, into namespaces of their own.

    The user stays who it is, so files have the owners that they have outside.
    """
    uid, gid = os.geteuid(), os.getegid()
    apart = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC
    _do("unshare", apart | (0 if network else CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    if not network:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def build(sees: dict[str, tuple[str | None, bool]]) -> None:
    """Make `sees`, and /proc, all that there is. Run by the first process of its namespace."""
    _do("mount", b"none", b"/", None, MS_REC | MS_SLAVE, None)
    places = [
        (path, _clone(source, writable) if source else None, not source or Path(source).is_dir())
        for path, (source, writable) in sorted(sees.items())
    ]
    _mount_empty(SCAFFOLD)
    for path, tree, is_folder in places:
        there = SCAFFOLD / path.lstrip("/")
        (there if is_folder else there.parent).mkdir(parents=True, exist_ok=True)
        if not there.exists():
            there.touch()
        if tree is None:
            _mount_empty(there)
        else:
            to = (AT_FDCWD, os.fsencode(there), MOVE_MOUNT_F_EMPTY_PATH)
            _do("syscall", SYS_MOVE_MOUNT, tree, b"", *to)
    own_proc = SCAFFOLD / "proc"
    own_proc.mkdir()
    # Read only: root without capabilities may still write /proc/sys, where it is root outside.
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    _do("mount", b"proc", os.fsencode(own_proc), b"proc", flags, None)
    for shown, name in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (SCAFFOLD / "dev" / shown).symlink_to(f"/proc/self/{name}")
    os.chdir(SCAFFOLD)
    _do("pivot_root", b".", b".")
    _do("umount2", b".", MNT_DETACH)


def _clone(source: str, writable: bool) -> int:
    """A detached copy of the mounts at and below `source`."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    tree = _do("syscall", SYS_OPEN_TREE, AT_FDCWD, os.fsencode(source), flags)
    attributes = MOUNT_ATTR_NOSUID | (0 if writable else MOUNT_ATTR_RDONLY)
    asked = struct.pack("4Q", attributes, 0, 0, 0)
    _do("syscall", SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH | AT_RECURSIVE, asked, len(asked))
    return tree


def _mount_empty(there: Path) -> None:
    _do("mount", b"tmpfs", os.fsencode(there), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755")


def _begin(order: dict[str, Any]) -> NoReturn:
    """Become the program, without a capability that could undo what was built."""
    capability = 0
    while _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    _do("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.chdir(order["folder"])
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.execve(order["command"][0], order["command"], order["variables"])  # noqa: S606 - a job's own


def _passing_on(child: int) -> None:
    """Give the child every SIGTERM, also those that came before."""

    def pass_on(_signal: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _first(order: dict[str, Any], told: int) -> NoReturn:
    """The first process of the namespace: it builds, starts the program and buries all orphans."""
    _do("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    build(order["sees"])
    program = os.fork()
    if program == 0:
        _or_say_why(lambda: _begin(order))
    _passing_on(program)
    while True:
        ended, status = os.wait()
        if ended == program:
            os.write(told, struct.pack("i", os.waitstatus_to_exitcode(status)))
            os._exit(0)


def _or_say_why(step: Any) -> NoReturn:
    try:
        step()
    except OSError as error:
        print(f"nightshift: the job's sandbox cannot be made: {error}", file=sys.stderr, flush=True)
    os._exit(EX_OSERR)


def _end_like(code: int) -> NoReturn:
    """Exit, or die of the signal of which the program died."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    order = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    enter(order["network"])
    _do("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user may have ended it
    said, told = os.pipe()
    first = os.fork()
    if first == 0:
        _or_say_why(lambda: _first(order, told))
    os.close(told)
    _passing_on(first)
    report = os.read(said, 4)
    _, status = os.waitpid(first, 0)
    code = struct.unpack("i", report)[0] if report else os.waitstatus_to_exitcode(status)
    _end_like(code)


if __name__ == "__main__":
    _or_say_why(main)
