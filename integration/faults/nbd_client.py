"""libnbd's Python module, also for a Python that is not Debian's own but of the same version."""
import sys

if "/usr/lib/python3/dist-packages" not in sys.path:
    sys.path.append("/usr/lib/python3/dist-packages")
import nbd  # noqa: E402  pylint: disable=wrong-import-position

NBD = nbd.NBD
Buffer = nbd.Buffer
Error = nbd.Error


def connect(uri):
    handle = NBD()
    handle.connect_uri(uri)
    return handle
