"""The image builds from this tree, has in it what it should and nothing else, and its programs do their work in it.

It is built by tools/image/build with buildah from a base that debootstrap made; images and what a later run can use again
lie under $TESSERA_CACHE/image. Its programs run as the image's user, in a network and mounts of their own, where nothing
of the image can be written but what the chart gives them volumes for.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import unittest

from cluster import ROOT, CommandFailed, TIMEOUT_FACTOR, run, wait_until

TOOL = ROOT / "tools/image/build"
CACHE = pathlib.Path(os.environ.get("TESSERA_CACHE", os.path.expanduser("~/.cache/tessera"))) / "image"
PROGRAMS = ["tessera-mdm", "tessera-sds", "tessera-sdc", "tessera-mgmt", "tessera"]
USER = 65532
IMAGE = "localhost/tessera:test"
# Bytes of the image's files, and of the compressed archive. The README says what they were.
SIZE_LIMIT = 144 << 20
ARCHIVE_LIMIT = 58 << 20
EPOCH = 1767225600


def why_not():
    """Why no image can be built here, or None."""
    if TIMEOUT_FACTOR != 1:
        return "the image is of the plain build"
    if os.geteuid() != 0:
        return "building an image here needs root"
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def storage():
    """Settings that keep images and containers in the cache's folder, and what they are kept with."""
    for driver in ("overlay", "vfs"):
        path = CACHE / f"{driver}.conf"
        path.write_text(f'[storage]\ndriver = "{driver}"\ngraphroot = "{CACHE}/{driver}/graph"\n'
                        f'runroot = "{CACHE}/{driver}/run"\n')
        environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(path), "BUILDAH_ISOLATION": "chroot",
                       "TMPDIR": str(CACHE / "tmp")}
        if subprocess.run(["buildah", "info"], env=environment, capture_output=True, check=False).returncode == 0:
            return environment
    raise AssertionError("buildah can keep images neither with overlay nor with vfs")


def compiler_cache():
    """The folder of this machine's ccache, as an option."""
    if shutil.which("ccache") is None:
        return []
    folder = run(["ccache", "--get-config", "cache_dir"]).strip()
    return ["--ccache", folder] if os.path.isdir(folder) else []


class Mistakes(unittest.TestCase):
    """What tools/image/build says where it can't build. The builders here are stand-ins."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-image-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "bin").mkdir()
        for name in ("bash", "sed", "git", "date", "find", "dirname", "realpath", "stat"):
            (self.folder / "bin" / name).symlink_to(shutil.which(name))

    def stand_in(self, name, script):
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def said(self, *arguments, code=1, **environment):
        result = subprocess.run([shutil.which("bash"), TOOL, *arguments], capture_output=True, text=True, check=False, timeout=60,
                                env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder), **environment})
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stderr

    def test_arguments(self):
        self.assertIn("unknown option '--fast'", self.said("--fast", code=2))
        self.assertIn("--base needs a value", self.said("--base", code=2))
        self.assertIn("--builder is docker, podman or buildah, not 'kaniko'", self.said("--builder", "kaniko", code=2))

    def test_no_builder(self):
        self.assertIn("no builder: install docker, podman or buildah", self.said())
        self.assertIn("podman is not installed", self.said("--builder", "podman"))

    def test_a_docker_that_does_not_answer(self):
        self.stand_in("docker", "exit 1")
        self.assertIn("its daemon does not answer", self.said())

    def test_files_that_are_not_there_and_times_that_are_none(self):
        self.stand_in("podman", "exit 1")
        self.assertIn("/none is no folder", self.said("--ccache", "/none"))
        self.assertIn("/none can't be read", self.said("--ca-file", "/none"))
        self.assertIn("there is no folder /none", self.said("--output", "/none/image.tar"))
        self.assertIn("not 'today'", self.said(SOURCE_DATE_EPOCH="today"))

    def test_debootstrap_wants_root(self):
        self.stand_in("podman", "exit 1")
        self.stand_in("id", "echo 1000")
        self.assertIn("--base debootstrap needs root", self.said("--base", "debootstrap"))

    def test_a_base_that_can_not_be_pulled(self):
        self.stand_in("podman", "exit 125")
        self.assertIn("'--base debootstrap' makes one", self.said())

    def test_the_scripts_are_good_shell(self):
        if shutil.which("shellcheck") is None:
            self.skipTest("not installed: shellcheck")
        folder = ROOT / "tools/image"
        run(["shellcheck", "-x", *(folder / name for name in ("build", "make_base", "compile", "make_root"))])


@unittest.skipIf(why_not(), why_not())
class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        (CACHE / "tmp").mkdir(parents=True, exist_ok=True)
        cls.environment = storage()
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="tessera-image-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        cls.archive = cls.work / "image.tar"
        cls.said = run([TOOL, "--builder", "buildah", "--base", "debootstrap", "--tag", IMAGE, "--output", cls.archive,
                        *compiler_cache()], timeout=2400, env={**cls.environment, "SOURCE_DATE_EPOCH": str(EPOCH)})
        # What earlier builds left; the compilers have a name and stay.
        cls.addClassCleanup(cls.buildah, "rmi", "--prune")
        # One to run commands in, and one to look at: a run leaves traces.
        cls.container = cls.buildah("from", "--pull-never", IMAGE).strip()
        cls.addClassCleanup(cls.buildah, "rm", cls.container)
        untouched = cls.buildah("from", "--pull-never", IMAGE).strip()
        cls.addClassCleanup(cls.buildah, "rm", untouched)
        cls.root = pathlib.Path(cls.buildah("mount", untouched).strip())
        cls.addClassCleanup(cls.buildah, "umount", untouched)

    @classmethod
    def buildah(cls, *arguments):
        return run(["buildah", *arguments], env=cls.environment)

    def inside(self, *command):
        """Runs a command as the image says: its user, its environment."""
        return self.buildah("run", self.container, "--", *command)

    def files(self):
        """Every path below the image's root with its lstat."""
        for folder, folders, names in os.walk(self.root):
            for name in folders + names:
                path = pathlib.Path(folder, name)
                yield "/" + str(path.relative_to(self.root)), path.lstat()

    def test_labels_and_settings_are_by_the_conventions(self):
        image = json.loads(self.buildah("inspect", "--type", "image", IMAGE))["OCIv1"]
        settings, labels = image["config"], image["config"]["Labels"]
        version = re.search(r"project\(tessera VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        prefix = "org.opencontainers.image."
        self.assertEqual(labels[prefix + "title"], "Tessera")
        self.assertTrue(labels[prefix + "description"])
        self.assertEqual(labels[prefix + "licenses"], "Apache-2.0")
        self.assertEqual(labels[prefix + "version"], version)
        self.assertRegex(labels[prefix + "revision"], r"^([0-9a-f]{40}(-modified)?|unknown)$")
        self.assertEqual(labels[prefix + "created"], "2026-01-01T00:00:00Z")
        self.assertEqual(labels[prefix + "base.name"], "debian:bookworm")
        self.assertIn(prefix + "source", labels)
        self.assertEqual(image["created"], "2026-01-01T00:00:00Z")
        self.assertEqual(settings["User"], f"{USER}:{USER}")
        self.assertEqual(settings["WorkingDir"], "/")
        self.assertEqual(settings["Cmd"], ["tessera", "--help"])
        self.assertFalse(settings.get("Entrypoint"))
        self.assertEqual(len(image["rootfs"]["diff_ids"]), 1)

    def test_each_program_starts_as_the_images_user(self):
        self.assertEqual(self.inside("id", "-u").strip(), str(USER))
        self.assertEqual(self.inside("id", "-un").strip(), "tessera")
        version = re.search(r"project\(tessera VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        for program in PROGRAMS:
            with self.subTest(program):
                self.assertIn(version, self.inside(program, "--version"))
        for program in PROGRAMS[:-1]:
            with self.subTest(program + " --check-config"):
                options = ["--insecure", "--state-dir", "/var/lib/tessera/check"]
                if program == "tessera-sds":
                    options += ["--device", "/var/lib/tessera"]
                self.inside(program, "--check-config", *options)
                with self.assertRaises(CommandFailed):
                    self.inside(program, "--check-config", "--no-such-flag")
        for tool in ("curl", "jq", "nbdcopy", "nbdinfo"):
            with self.subTest(tool):
                self.inside(tool, "--version")
        self.inside("openssl", "version")

    def test_it_has_what_the_chart_counts_on(self):
        console = self.root / "usr/share/tessera/console"
        self.assertIn("<html", (console / "index.html").read_text())
        scripts = list(console.glob("assets/main-*.js"))
        self.assertEqual(len(scripts), 1)
        self.assertTrue(scripts[0].with_name(scripts[0].name + ".gz").exists())
        self.assertTrue((self.root / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 10000)
        packages = dict(line.split()[:2] for line in (self.root / "usr/share/tessera/packages.txt").read_text().splitlines())
        self.assertIn("libgrpc29", packages)
        self.assertIn("libc6", packages)
        self.assertNotIn("apt", packages)
        for path, mode in (("var/lib/tessera", 0o750), ("run/tessera", 0o750)):
            status = (self.root / path).stat()
            self.assertEqual((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (USER, USER, mode), path)
        self.assertTrue((self.root / "etc/tessera").is_dir())
        if (ROOT / "tools/image/kubernetes").exists():
            script = self.root / "usr/libexec/tessera/kubernetes"
            self.assertEqual(stat.S_IMODE(script.stat().st_mode), 0o755)
            self.assertEqual(script.read_bytes(), (ROOT / "tools/image/kubernetes").read_bytes())

    def test_nothing_in_it_can_be_changed_or_gives_other_rights(self):
        own = ("/var/lib/tessera", "/run/tessera")
        for path, status in self.files():
            mode = status.st_mode
            if stat.S_ISLNK(mode) or path.startswith("/proc/"):
                continue
            if stat.S_ISREG(mode):
                self.assertFalse(mode & (stat.S_ISUID | stat.S_ISGID), f"{path} runs with other rights")
            if path not in own and not path.startswith(tuple(folder + "/" for folder in own)):
                self.assertNotEqual(status.st_uid, USER, f"{path} belongs to the image's user")
                self.assertTrue(not mode & stat.S_IWOTH or mode & stat.S_ISVTX, f"anyone may write {path}")
            self.assertLess(status.st_uid, 65533, path)

    def test_it_has_no_build_tools_no_sources_and_no_secrets(self):
        present = {path for path, _ in self.files()}
        programs = {path.rsplit("/", 1)[1] for path in present if re.match(r"(/usr)?/(local/)?s?bin/", path)}
        for name in ("g++", "gcc", "c++", "cmake", "ninja", "ccache", "make", "npm", "node", "python3", "perl", "apt-get", "git", "su",
                     "mount", "login", "passwd"):
            self.assertNotIn(name, programs)
        names = {path.rsplit("/", 1)[1] for path in present}
        for name in (".git", "node_modules", "CMakeLists.txt", "id_rsa", ".npmrc", "join_token", "secrets.key"):
            self.assertNotIn(name, names)
        for path in ("/src", "/out", "/etc/apt", "/var/lib/apt", "/var/cache/apt", "/var/log/apt", "/run/secrets", "/usr/include/stdio.h",
                     "/usr/share/man", "/var/cache/ccache", "/var/cache/npm", "/var/cache/tessera"):
            self.assertNotIn(path, present)
        for path, _ in self.files():
            self.assertFalse(re.search(r"\.(cc|h|o|a|deb|key)$", path), path)
            self.assertFalse(re.match(r"/(tmp|root|home|src)/.+", path) and not path.endswith(("/.bashrc", "/.profile")), path)
        for path in ("etc/hostname", "etc/resolv.conf"):
            if (self.root / path).exists():
                self.assertEqual((self.root / path).read_text(), "", path)
        for path, status in self.files():
            if stat.S_ISREG(status.st_mode) and path.startswith(("/etc/", "/var/", "/usr/share/")):
                self.assertNotIn(b"PRIVATE KEY-----", pathlib.Path(f"{self.root}{path}").read_bytes(), path)
        # No account has a password.
        for line in (self.root / "etc/shadow").read_text().splitlines():
            self.assertIn(line.split(":")[1], ("*", "!", "!*", "!!"), line)

    def test_programs_find_their_libraries_and_are_stripped(self):
        script = ("for file in /usr/bin/* /usr/sbin/* $(find /usr/lib -name '*.so*' -type f); do "
                  "ldd \"$file\" 2>/dev/null | grep 'not found' | sed \"s|^|$file:|\"; done; true")
        self.assertEqual(self.inside("sh", "-c", script), "")
        for program in PROGRAMS:
            sections = run(["readelf", "--section-headers", "--wide", self.root / "usr/bin" / program])
            self.assertNotIn(".debug_", sections, program)
            self.assertNotIn(".symtab", sections, program)

    def test_its_size_is_bounded(self):
        size = sum(status.st_size for _, status in self.files() if stat.S_ISREG(status.st_mode))
        print(f"     the image: {size / 2**20:.1f} MiB of files, {self.archive.stat().st_size / 2**20:.1f} MiB compressed", flush=True)
        self.assertLess(size, SIZE_LIMIT)
        self.assertLess(self.archive.stat().st_size, ARCHIVE_LIMIT)
        self.assertRegex(self.said, rf"built {IMAGE}: [0-9.]+ ?[MG]i?B")
        self.assertRegex(self.said, r"wrote .*image.tar: [0-9.]+[MG]iB, compressed")

    def test_a_cluster_of_its_processes_keeps_data_and_ends_when_asked_to(self):
        with Pod(self.root, self.work) as pod:
            mdm = pod.start("tessera-mdm", "mdm")
            join = ["--join-token-file", "/var/lib/tessera/mdm/join_token"]
            servers = []
            for number, ports in ((1, []), (2, [f"--{plane}-listen=127.0.0.1:0" for plane in
                                                ("control", "management", "data", "metrics")])):
                (pod.state / f"device{number}").mkdir()
                os.chown(pod.state / f"device{number}", USER, USER)
                servers.append(pod.start("tessera-sds", f"sds{number}", *join, "--name", f"sds{number}", "--protection-domain",
                                         "domain1", "--device", f"/var/lib/tessera/device{number},pool=pool1", *ports))
            client = pod.start("tessera-sdc", "sdc", *join, "--name", "sdc1")
            management = pod.start("tessera-mgmt", "mgmt", "--console-dir", "/usr/share/tessera/console")

            for port in (8002, 9400, 8006, 5002):
                wait_until(lambda port=port: pod.answers(f"http://127.0.0.1:{port}/readyz"), f"port {port} to be ready")
            self.assertIn("<html", pod.run("curl", "-sSf", "http://127.0.0.1:5000/"))
            pod.run("tessera", "domain", "create", "domain1")
            pod.run("tessera", "pool", "create", "pool1", "--domain", "domain1", "--replicas", "2", "--placement-groups", "16")
            wait_until(lambda: len(re.findall(r"[1-9][0-9]* placement groups, online", pod.run("tessera", "topology"))) == 2,
                       "the devices to join the pool")
            pod.run("tessera", "volume", "create", "volume1", "--pool", "pool1", "--size", "64MiB")
            pod.run("tessera", "volume", "map", "volume1")
            wait_until(lambda: ", attached" in pod.run("tessera", "volume", "show", "volume1"), "the volume to be attached")
            uri = re.search(r"nbd\+unix:\S+", pod.run("tessera", "volume", "show", "volume1")).group()
            self.assertIn("67108864", pod.run("nbdinfo", "--size", uri))
            content = os.urandom(1 << 20) * 64
            (pod.state / "in").write_bytes(content)
            pod.run("nbdcopy", "--flush", "/var/lib/tessera/in", uri)
            pod.run("nbdcopy", uri, "/var/lib/tessera/out")
            self.assertEqual((pod.state / "out").read_bytes(), content)

            for process in (management, client, *servers, mdm):
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(60), 0, pod.log(process))


class Pod:
    """The image's root as a pod has it: read-only but for /var/lib/tessera, /run/tessera and /tmp, a network with loopback alone,
    the image's user without any capability."""

    def __init__(self, root, work):
        self.state = pathlib.Path(tempfile.mkdtemp(dir=work))
        os.chown(self.state, USER, USER)
        self.processes = {}
        script = ('set -e; ip link set lo up; mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; '
                  'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount --bind "$2" "$1/var/lib/tessera"; '
                  'mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"; mount -t tmpfs -o mode=1777 tmpfs "$1/run/tessera"; '
                  'echo ready; exec cat')
        self.root = root
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script, "sh", root, self.state],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise AssertionError(f"the pod's mounts failed: {self.holder.wait(30)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(60)
        self.holder.communicate(timeout=60)

    def command(self, arguments):
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--mount", "setpriv", "--no-new-privs",
                "chroot", f"--userspec={USER}:{USER}", "--groups=", str(self.root), *arguments]

    def start(self, program, name, *arguments):
        log = self.state / f"{name}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(self.command([program, "--state-dir", f"/var/lib/tessera/{name}", "--insecure", *arguments]),
                                       stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment())
        self.processes[process] = log

        def listens():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.log(process)}")
            return (self.state / name / "endpoints").exists()
        wait_until(listens, f"{name} to listen")
        return process

    def run(self, *arguments):
        return run(self.command(arguments), env=self.environment())

    def answers(self, url):
        try:
            self.run("curl", "-sSf", "--max-time", "10", url)
            return True
        except CommandFailed:
            return False

    def log(self, process):
        return self.processes[process].read_text(errors="replace")[-4000:]

    @staticmethod
    def environment():
        return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}


if __name__ == "__main__":
    unittest.main()
