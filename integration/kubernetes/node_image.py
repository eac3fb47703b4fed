"""Images: what is in a container besides its volumes. Programs come from this machine's /usr, with an image's files on
top of it; /etc, /var and the rest are their own, so nothing of this machine's settings or data is seen.
"""
import dataclasses
import os
import pathlib
import shutil


@dataclasses.dataclass
class Image:
    """What an image adds to this machine's /usr, and how it starts. files: {path in the image: file or folder here}."""
    files: dict = dataclasses.field(default_factory=dict)
    env: dict = dataclasses.field(default_factory=dict)
    entrypoint: list = dataclasses.field(default_factory=list)
    command: list = dataclasses.field(default_factory=list)
    working_dir: str = "/"
    user: tuple = (0, 0)
    users: dict = dataclasses.field(default_factory=dict)  # names for /etc/passwd: {name: (uid, gid)}

    def build(self, folder):
        """The image's layer as a folder."""
        folder = pathlib.Path(folder)
        (folder / "usr").mkdir(parents=True)
        for target, source in self.files.items():
            path = folder / target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if pathlib.Path(source).is_dir():
                shutil.copytree(source, path, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, path)
        people = {"root": (0, 0), "nobody": (65534, 65534), **self.users}
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc/passwd").write_text("".join(
            f"{name}:x:{uid}:{gid}::{'/root' if uid == 0 else '/nonexistent'}:/bin/sh\n"
            for name, (uid, gid) in people.items()))
        (folder / "etc/group").write_text("disk:x:6:\n" + "".join(
            f"{name}:x:{gid}:\n" for name, (_, gid) in people.items()))


def build_system(folder):
    """What is below every image: the folders of a Debian system, and the few files of /etc that programs need."""
    folder = pathlib.Path(folder)
    for path in ("dev", "proc", "sys", "run", "tmp", "root", "home", "mnt", "opt", "srv", "usr", "var/lib", "var/log",
                 "var/cache", "var/tmp", "etc"):
        (folder / path).mkdir(parents=True)
    os.chmod(folder / "root", 0o700)
    for path in ("tmp", "var/tmp"):
        os.chmod(folder / path, 0o1777)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            (folder / name).symlink_to(os.readlink(f"/{name}"))
    (folder / "var/run").symlink_to("/run")
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl", "ca-certificates", "services",
                 "protocols", "mime.types", "debian_version", "os-release", "localtime", "bash.bashrc", "profile"):
        source = pathlib.Path("/etc") / name
        if source.is_symlink() or source.is_file():
            shutil.copy2(source, folder / "etc" / name, follow_symlinks=False)
        elif source.is_dir():
            shutil.copytree(source, folder / "etc" / name, symlinks=True)
    shutil.rmtree(folder / "etc/ssl/private", ignore_errors=True)
    (folder / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
