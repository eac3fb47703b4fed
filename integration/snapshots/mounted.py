"""A volume as a mounted ext4: nbdfuse makes the export a file, a loop device makes that a disk, the kernel does the rest."""
import pathlib
import subprocess
import tempfile
import unittest

from cluster import CommandFailed, run, wait_until


class Mounted:
    """Context manager: the mount point. Needs root, FUSE and loop devices; SkipTest without."""

    def __init__(self, uri, make=False):
        self.uri = uri
        self.make = make
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-mount-"))
        self.file = self.folder / "volume"
        self.root = self.folder / "root"
        self.fuse = None
        self.mounted = False

    def __enter__(self):
        for device in ("/dev/fuse", "/dev/loop-control"):
            if not pathlib.Path(device).exists():
                raise unittest.SkipTest(f"there is no {device}")
        self.file.touch()
        self.root.mkdir()
        self.fuse = subprocess.Popen(["nbdfuse", self.file, self.uri])
        try:
            wait_until(lambda: self.file.stat().st_size > 0 or self._gone(), "the export as a file", 60)
            if self.make:
                run(["mkfs.ext4", "-q", "-F", self.file], timeout=120)
            try:
                run(["mount", "-t", "ext4", "-o", "loop", self.file, self.root], timeout=120)
            except CommandFailed as error:
                if any(text in error.output for text in ("loop device", "permission denied", "unknown filesystem")):
                    raise unittest.SkipTest(f"nothing can be mounted here: {error.output.strip()}") from error
                raise
            self.mounted = True
        except BaseException:
            self.__exit__()
            raise
        return self.root

    def _gone(self):
        if self.fuse.poll() is not None:
            raise RuntimeError(f"nbdfuse ended with {self.fuse.returncode}")
        return False

    def __exit__(self, *_):
        if self.mounted:
            run(["umount", self.root], timeout=120)
        if self.fuse is not None:
            subprocess.run(["fusermount3", "-u", self.file], check=False, stderr=subprocess.DEVNULL)
            try:
                self.fuse.wait(60)
            except subprocess.TimeoutExpired:
                self.fuse.kill()
                self.fuse.wait()
        for path in (self.root, self.file):
            if path.exists():
                (path.rmdir if path.is_dir() else path.unlink)()
        self.folder.rmdir()
