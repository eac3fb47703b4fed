"""A volume as a mounted ext4: nbdfuse makes the export a file, a loop device makes that a disk, the kernel does the rest."""
import pathlib
import subprocess
import tempfile
import unittest

from cluster import run, wait_until


class Mounted:
    """Context manager: the mount point. Needs root, FUSE and loop devices; SkipTest without."""

    def __init__(self, uri, make=False, read_only=False):
        self.uri = uri
        self.make = make
        self.read_only = read_only
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-mount-"))
        self.file = self.folder / "volume"
        self.root = self.folder / "root"
        self.fuse = None
        self.mounted = False

    def __enter__(self):
        if not pathlib.Path("/dev/fuse").exists():
            raise unittest.SkipTest("there is no /dev/fuse")
        self.file.touch()
        self.root.mkdir()
        self.fuse = subprocess.Popen(["nbdfuse", *(["-r"] if self.read_only else []), self.file, self.uri])
        try:
            wait_until(lambda: self.file.stat().st_size > 0 or self._gone(), "the export as a file", 60)
            if self.make:
                run(["mkfs.ext4", "-q", "-F", self.file], timeout=120)
            options = ["loop"] + (["ro", "noload"] if self.read_only else [])
            run(["mount", "-t", "ext4", "-o", ",".join(options), self.file, self.root], timeout=120)
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
