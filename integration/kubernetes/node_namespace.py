"""Linux's namespaces, mounts and loop devices by system call, and the private network in which a cluster lives.

A namespace that a thread made lives as long as a descriptor of it or a process in it: nothing stays behind when
the test ends, however it ends.
"""
import array
import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import threading

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_FS = 0x00000200

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what, result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags):
    _call("unshare", _libc.unshare(flags))


def setns(descriptor, kind=0):
    _call("setns", _libc.setns(descriptor, kind))


def mount(source, target, kind=None, flags=0, data=None):
    def encode(value):
        return None if value is None else os.fsencode(str(value))
    _call(f"cannot mount {source or kind} at {target}",
          _libc.mount(encode(source), encode(target), encode(kind), ctypes.c_ulong(flags), encode(data)))


def bind(source, target, readonly=False, recursive=False):
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if readonly:
        mount(None, target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


@contextlib.contextmanager
def new_root(root):
    """Makes a mounted folder the root of this mount namespace; within the context the old one is at the path given."""
    old = "/.old-root"
    os.mkdir(root + old)
    _call("pivot_root", _libc.syscall(155, os.fsencode(root), os.fsencode(root + old)))
    os.chdir("/")
    yield old
    _call("umount", _libc.umount2(os.fsencode(old), MNT_DETACH))
    os.rmdir(old)


def set_hostname(name):
    encoded = name.encode()
    _call("sethostname", _libc.sethostname(encoded, len(encoded)))


def prctl(option, value, third=0):
    _call(f"prctl {option}", _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(third), 0, 0))


def in_thread(function, *arguments):
    """function(*arguments) in a thread of its own, which may change its namespaces; its result."""
    outcome = {}

    def body():
        try:
            outcome["value"] = function(*arguments)
        except BaseException as error:  # pylint: disable=broad-except
            outcome["error"] = error
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def tool(*arguments, text=None):
    """Runs a small program in the namespaces of the calling thread; RuntimeError with its words if it fails."""
    result = subprocess.run([str(a) for a in arguments], input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {result.returncode}: "
                           f"{result.stderr.strip()}" + (f"\n{text}" if text else ""))
    return result.stdout


class PodNamespaces:
    """What the containers of a pod share: network, IPC, host name, and the mounts that their own start from."""

    KINDS = {"mnt": CLONE_NEWNS, "net": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS}

    def __init__(self, hostname):
        self.descriptors = in_thread(self._make, hostname)

    def _make(self, hostname):
        unshare(sum(self.KINDS.values()))
        mount(None, "/", flags=MS_REC | MS_PRIVATE)
        set_hostname(hostname)
        return {kind: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in self.KINDS}

    def inside(self, function, *arguments):
        """function() in a thread within the network and the mounts of the pod; its result."""
        def body():
            unshare(CLONE_FS)
            setns(self.descriptors["mnt"], CLONE_NEWNS)
            setns(self.descriptors["net"], CLONE_NEWNET)
            return function(*arguments)
        return in_thread(body)

    def path(self, kind):
        """The namespace as a file for programs."""
        return f"/proc/{os.getpid()}/fd/{self.descriptors[kind]}"

    def close(self):
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


class PrivateNetwork:
    """The network of a whole cluster: a namespace without a way out, with an address for the control plane.

    enter() moves the calling thread there; all threads and processes that it starts from then on are there, too.
    leave() moves it back.
    """

    ADDRESS = "10.88.0.1"        # the API server's; also every pod's gateway
    SERVICE_CIDR = "10.96.0.0/16"

    def __init__(self):
        self._outside = None

    def enter(self):
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            unshare(CLONE_NEWNET)
            tool("ip", "-batch", "-", text=f"""
                link set lo up
                address add {self.ADDRESS}/32 dev lo
                route add {self.SERVICE_CIDR} dev lo src {self.ADDRESS}
                """)
            with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
                file.write("1")
        except BaseException:
            self.leave()
            raise
        return self

    def leave(self):
        if self._outside is not None:
            setns(self._outside, CLONE_NEWNET)
            os.close(self._outside)
            self._outside = None

    def __enter__(self):
        return self.enter()

    def __exit__(self, *_):
        self.leave()


def attach_loop_device(path):
    """A loop device on a file: (its path, a descriptor). The kernel takes it apart when the descriptor is closed and
    nobody uses the device. OSError where there are none."""
    set_up, get_free, auto_clear = 0x4C0A, 0x4C82, 4
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(20):
            control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
            try:
                device = f"/dev/loop{fcntl.ioctl(control, get_free)}"
            finally:
                os.close(control)
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            # struct loop_config: descriptor, block size, struct loop_info64 with its flags, 8 spare words.
            config = struct.pack("=II5Q4I64s64s32s2Q8Q", backing, 512, 0, 0, 0, 0, 0, 0, 0, 0, auto_clear,
                                 b"", b"", b"", 0, 0, *[0] * 8)
            try:
                fcntl.ioctl(descriptor, set_up, array.array("B", config), False)
                return device, descriptor
            except OSError as error:
                os.close(descriptor)
                if error.errno != 16:  # EBUSY: somebody else was faster
                    raise
        raise OSError(16, "no loop device is free")
    finally:
        os.close(backing)


def close_quietly(descriptor):
    with contextlib.suppress(OSError):
        os.close(descriptor)
