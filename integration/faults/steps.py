"""Faults as steps: each has a name, inject() and clear(). They compose: a test injects any, in any order.

clear() is whatever an administrator would do to get the part back; redundancy returns by itself then.
"""
import signal

from hosts import partition


class Fault:
    name = ""
    costs_replicas = True  # whether placement groups lose replicas by it

    def noticed(self, cluster):
        """The cluster has seen it, as far as it has to."""
        return not self.costs_replicas or cluster.lacks_replicas()

    def inject(self):
        raise NotImplementedError

    def clear(self):
        raise NotImplementedError


class Kill(Fault):
    """kill -9, and a restart."""

    def __init__(self, part):
        self.part = part
        self.name = f"kill -9 of {part.name}"
        self.costs_replicas = part.name.startswith("sds")

    def inject(self):
        self.part.kill(signal.SIGKILL)

    def clear(self):
        self.part.start()


class Stop(Fault):
    """SIGSTOP, then SIGCONT: it does not know that it was away."""

    def __init__(self, part):
        self.part = part
        self.name = f"SIGSTOP of {part.name}"
        self.costs_replicas = part.name.startswith("sds")

    def inject(self):
        self.part.kill(signal.SIGSTOP)

    def clear(self):
        self.part.kill(signal.SIGCONT)


class Unplug(Fault):
    """Its cable pulled."""

    def __init__(self, part):
        self.part = part
        self.name = f"cable of {part.name} pulled"
        self.costs_replicas = part.name.startswith("sds")

    def inject(self):
        self.part.host.unplug()

    def clear(self):
        self.part.host.heal()


class Partition(Fault):
    """Two parts that do not hear each other, all others do."""

    def __init__(self, one, other):
        self.one, self.other = one, other
        self.name = f"partition of {one.name} and {other.name}"
        self.costs_replicas = one.name.startswith("sds") and other.name.startswith("sdc") or \
            other.name.startswith("sds") and one.name.startswith("sdc")

    def inject(self):
        partition(self.one.host, self.other.host)

    def clear(self):
        self.one.host.heal()
        self.other.host.heal()


class Deafen(Fault):
    """One part does not hear another; the other direction works."""

    def __init__(self, listener, speaker):
        self.listener, self.speaker = listener, speaker
        self.name = f"{listener.name} does not hear {speaker.name}"
        self.costs_replicas = "sdc" in listener.name + speaker.name and "sds" in listener.name + speaker.name

    def inject(self):
        self.listener.host.deafen(self.speaker.host)

    def clear(self):
        self.listener.host.heal()


class Lose(Fault):
    """A share of what arrives at a part is lost."""

    costs_replicas = False

    def __init__(self, part, percent):
        self.part, self.percent = part, percent
        self.name = f"{percent} % loss towards {part.name}"

    def inject(self):
        self.part.host.lose(self.percent)

    def clear(self):
        self.part.host.heal()


class FailDevice(Fault):
    """A device whose calls of one kind fail; repaired, its server is started again."""

    def __init__(self, part, disk, what):
        self.part, self.disk, self.what = part, disk, what
        self.name = f"EIO on {what} of a device of {part.name}"

    def inject(self):
        self.disk.fail(self.what)

    def noticed(self, cluster):
        # Its copies may be made good elsewhere sooner than anybody looks.
        return "COMPONENT_STATE_FAILED" in cluster.cli("device", "list", "-o", "json")

    def clear(self):
        self.part.kill(signal.SIGKILL)
        self.disk.heal()
        self.part.start()
