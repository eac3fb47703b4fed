"""The program that turns itself into a container: `node_launch.py FD`, a socket to the agent at that descriptor.

It reads one line of JSON, enters the pod's namespaces, starts the container's process in a mount and PID namespace
of its own, and tells the agent: {"started": true} or {"error": why}, at the end {"exit": code}. Lines {"signal": n}
from the agent go to the container's process. When the agent is gone the container ends.

  enter        [[path of a namespace, kind], ...]: entered before anything else
  new          true: a new container with `root`; false: one more process of a running one (exec)
  root         scratch (an empty folder), system and image (folders), mounts, readonly
  argv, env, cwd, uid, gid, groups, capabilities (numbers that may be had), no_new_privileges
"""
import json
import os
import select
import signal
import socket
import stat
import sys

import node_namespace as ns

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
DISK_GROUP = 6  # "disk", the same on all distributions


def overlay(lower, name, scratch, target):
    """Mounts read-only folders, the first on top, with a place for what is written."""
    for part in ("upper", "work"):
        os.mkdir(f"{scratch}/{name}-{part}")
    ns.mount("overlay", target, "overlay", data=f"lowerdir={':'.join(lower)},upperdir={scratch}/{name}-upper,"
                                                f"workdir={scratch}/{name}-work")


def make_devices(root):
    os.makedirs(f"{root}/dev", exist_ok=True)
    ns.mount("tmpfs", f"{root}/dev", "tmpfs", ns.MS_NOSUID, "mode=755,size=1m")
    for name, numbers in DEVICES.items():
        os.mknod(f"{root}/dev/{name}", stat.S_IFCHR, os.makedev(*numbers))
        os.chmod(f"{root}/dev/{name}", 0o666)
    for name in ("pts", "shm"):
        os.mkdir(f"{root}/dev/{name}")
    ns.mount("devpts", f"{root}/dev/pts", "devpts", ns.MS_NOSUID | ns.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    ns.mount("tmpfs", f"{root}/dev/shm", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC, "mode=1777,size=64m")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")


def make_mount(entry, old_root):
    """Called within the new root, so that no link in it leads out of it."""
    target, source = entry["target"], old_root + entry["source"]
    if entry.get("device"):
        # The device itself, as udev makes disks and container runtimes pass them on; a sandbox has no udev.
        os.makedirs(os.path.dirname(target), exist_ok=True)
        status = os.stat(source)
        os.mknod(target, status.st_mode, status.st_rdev)
        os.chown(target, 0, DISK_GROUP)
        os.chmod(target, 0o660)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    ns.bind(source, target, entry["readonly"], recursive=True)


def make_root(spec):
    """The container's file system, as its process sees it from here on."""
    ns.mount(None, "/", flags=ns.MS_REC | ns.MS_PRIVATE)
    scratch = spec["scratch"]
    ns.mount("tmpfs", scratch, "tmpfs", data="mode=755")
    root = f"{scratch}/root"
    os.mkdir(root)
    overlay([spec["image"], spec["system"]], "root", scratch, root)
    os.makedirs(f"{root}/usr", exist_ok=True)
    overlay([f"{spec['image']}/usr", "/usr"], "usr", scratch, f"{root}/usr")
    make_devices(root)
    ns.mount("proc", f"{root}/proc", "proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    ns.bind(spec["boot_id"], f"{root}/proc/sys/kernel/random/boot_id", readonly=True)
    ns.mount("sysfs", f"{root}/sys", "sysfs", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC | ns.MS_RDONLY)
    with ns.new_root(root) as old_root:
        for entry in sorted(spec["mounts"], key=lambda entry: entry["target"]):
            make_mount(entry, old_root)
    if spec["readonly"]:
        for path in ("/usr", "/"):
            ns.mount(None, path, flags=ns.MS_REMOUNT | ns.MS_BIND | ns.MS_RDONLY)


def become(spec):
    """Gives up all that the container must not have."""
    for capability in range(last_capability() + 1):
        if capability not in spec["capabilities"]:
            ns.prctl(PR_CAPBSET_DROP, capability)
    os.setgroups(spec["groups"])
    os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    if spec["no_new_privileges"]:
        ns.prctl(PR_SET_NO_NEW_PRIVS, 1)
    ns.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o022)


def last_capability():
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


def find(program, path):
    if "/" in program:
        return program
    for folder in path.split(":"):
        if os.access(f"{folder}/{program}", os.X_OK):
            return f"{folder}/{program}"
    raise FileNotFoundError(2, f"{program} is not in PATH={path}")


def container(spec, report):
    """The child's life until it is the container's program. Only errors go to `report`, which closes on success."""
    try:
        os.setsid()
        if spec["new"]:
            make_root(spec["root"])
        become(spec)
        try:
            os.chdir(spec["cwd"])
        except FileNotFoundError:
            raise OSError(2, f"the working folder {spec['cwd']} is not there") from None
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.execve(find(spec["argv"][0], spec["env"].get("PATH", "/usr/bin:/bin")), spec["argv"], spec["env"])
    except BaseException as error:  # pylint: disable=broad-except
        os.write(report, (str(error) or type(error).__name__).encode())
    finally:
        os._exit(127)


def watch(child, control):
    """Waits for the child's end; signals from the agent, whose end is the child's end."""
    descriptor = os.pidfd_open(child)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(control, select.POLLIN)
    pending = b""
    while True:
        for ready, _ in poll.poll():
            if ready == descriptor:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            data = control.recv(4096)
            if not data:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                poll.unregister(control)
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                signal.pidfd_send_signal(descriptor, json.loads(line)["signal"])


def main():
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    reader = b""
    while not reader.endswith(b"\n"):
        data = control.recv(1 << 20)
        if not data:
            return 1
        reader += data
    spec = json.loads(reader)

    def tell(message):
        try:
            control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the agent is gone
    try:
        namespaces = [(os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind) for path, kind in spec["enter"]]
        for descriptor, kind in namespaces:
            ns.setns(descriptor, kind)
        if spec["new"]:
            ns.unshare(ns.CLONE_NEWNS | ns.CLONE_NEWPID)
        listen, report = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            container(spec, report)
        os.close(report)
        why = b"".join(iter(lambda: os.read(listen, 4096), b""))
    except OSError as error:
        tell({"error": str(error)})
        return 1
    if why:
        os.waitpid(child, 0)
        tell({"error": why.decode(errors="replace")})
        return 1
    tell({"started": child})
    for number in (0, 1, 2):  # the container's alone: who reads them sees the end
        os.dup2(os.open("/dev/null", os.O_RDWR), number)
    code = watch(child, control)
    tell({"exit": code if code >= 0 else 128 - code})
    return 0


if __name__ == "__main__":
    sys.exit(main())
