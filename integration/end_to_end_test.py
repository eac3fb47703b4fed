"""A volume on three servers, used as a disk: real processes, real sockets, kill -9."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import unittest
import urllib.request

import cluster as tessera
from cluster import run, wait_until
from sanitizer_reports import reports_in_folder

ROOT = tessera.ROOT


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise unittest.SkipTest(f"{tool} is not installed")


class ClusterTest(unittest.TestCase):
    servers = 3

    @classmethod
    def setUpClass(cls):
        cls.cluster = tessera.Cluster(servers=cls.servers)
        try:
            cls.cluster.start()
            cls.cluster.create_pool()
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop()

    def volume(self, name, size="256MiB"):
        uri = self.cluster.create_volume(name, size)
        self.addCleanup(self.remove, name)
        return uri

    def remove(self, name):
        self.cluster.cli("volume", "unmap", name)
        self.cluster.cli("volume", "delete", name)

    def wait_healthy(self):
        def healthy():
            try:
                self.cluster.cli("status")
                return True
            except tessera.CommandFailed:
                return False
        wait_until(healthy, "full redundancy", 180)


def is_running(pid):
    """Whether a process is there and has not ended (one that nobody has waited for is still listed)."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def fio(uri, *options, size="64m"):
    return run(["fio", "--name=t", "--ioengine=nbd", f"--uri={uri}", "--thread", "--verify_state_save=0", f"--size={size}",
                *options],
               timeout=600)


class VolumeAsDisk(ClusterTest):
    def test_what_is_written_is_read_back_after_every_process_was_killed(self):
        need("nbdcopy", "mke2fs", "e2fsck")
        self.volume("ext4", "64MiB")
        folder = self.cluster.folder
        image, copy = folder / "in.img", folder / "out.img"
        run(["truncate", "-s", "64M", image])
        run(["mke2fs", "-q", "-t", "ext4", "-d", ROOT / "docs", image])
        run(["nbdcopy", "--flush", image, self.cluster.nbd_uri("ext4")])
        self.cluster.kill_all()
        self.cluster.restart_all()
        wait_until(lambda: self.cluster.cli_json("volume", "show", "ext4")["mappings"][0]["attached"], "attachment")
        run(["nbdcopy", self.cluster.nbd_uri("ext4"), copy])
        run(["cmp", image, copy])
        run(["e2fsck", "-fn", copy])
        self.wait_healthy()
        self.cluster.verify("ext4")

    def test_mixed_unaligned_io_verifies_and_replicas_are_equal_afterwards(self):
        need("fio")
        uri = self.volume("mixed")
        # Without serialize_overlap fio can't know which of two overlapping writes in flight came last.
        fio(uri, "--rw=randrw", "--bsrange=512-256k", "--blockalign=512", "--iodepth=16", "--verify=crc32c",
            "--verify_fatal=1", "--serialize_overlap=1", "--fsync=64", "--numjobs=4", "--offset_increment=64m",
            "--randrepeat=0")
        self.cluster.verify("mixed")

    def test_a_server_dies_under_load_and_comes_back(self):
        need("fio")
        uri = self.volume("failover")
        errors = []

        def load():
            try:
                fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--verify=crc32c", "--do_verify=1",
                    "--verify_fatal=1", "--io_size=256m", "--rate_iops=4000", "--norandommap=0")
            except Exception as error:  # pylint: disable=broad-except
                errors.append(error)
        thread = threading.Thread(target=load)
        thread.start()
        victim = self.cluster.sds[1]
        wait_until(lambda: self.cluster.metric(victim, "tessera_sds_io_requests_total") > 1000, "load")
        victim.kill(signal.SIGKILL)
        wait_until(lambda: "degraded" in self.status(), "the loss to be noticed")
        victim.start()
        thread.join(600 * tessera.TIMEOUT_FACTOR)
        self.assertEqual(errors, [])
        self.wait_healthy()
        self.cluster.verify("failover")

    def status(self):
        try:
            return self.cluster.cli("status")
        except tessera.CommandFailed as error:
            return error.output

    def test_io_goes_on_while_the_mdm_is_away(self):
        need("fio")
        uri = self.volume("headless")
        address = self.cluster.mdm_address
        self.cluster.mdm.kill(signal.SIGSTOP)
        try:
            fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=8", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
                "--io_size=16m")
        finally:
            self.cluster.mdm.kill(signal.SIGCONT)
        self.assertEqual(self.cluster.mdm_address, address)
        self.cluster.verify("headless")

    def test_a_volume_grows_while_it_is_written(self):
        need("fio", "nbdinfo", "nbdcopy")
        uri = self.volume("growing", "64MiB")
        errors = []

        def load():
            try:
                fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=8", "--verify=crc32c", "--do_verify=1",
                    "--verify_fatal=1", "--io_size=32m", "--rate_iops=2000")
            except Exception as error:  # pylint: disable=broad-except
                errors.append(error)
        before = self.cluster.metric(self.cluster.sdc, "tessera_sdc_io_bytes_total")
        thread = threading.Thread(target=load)
        thread.start()
        wait_until(lambda: self.cluster.metric(self.cluster.sdc, "tessera_sdc_io_bytes_total") > before, "load")
        answer = self.cluster.cli_json("volume", "resize", "growing", "--size", "128MiB")
        self.assertEqual(answer["later_sdc_ids"], [])
        # The next connection sees it, and what is new reads as zeros and takes writes.
        self.assertEqual(run(["nbdinfo", "--size", uri]).strip(), str(128 << 20))
        copy = self.cluster.folder / "grown.img"
        run(["nbdcopy", uri, copy])
        with open(copy, "rb") as grown:
            grown.seek(64 << 20)
            self.assertEqual(grown.read(), bytes(64 << 20))
        fio(uri, "--rw=write", "--bs=128k", "--offset=64m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1")
        thread.join(600 * tessera.TIMEOUT_FACTOR)
        self.assertEqual(errors, [])
        self.cluster.verify("growing")

    def test_a_volume_comes_back_from_the_trash_with_its_data(self):
        need("fio")
        uri = self.volume("kept", "16MiB")
        written = ["--rw=write", "--bs=64k", "--verify=crc32c", "--verify_fatal=1", "--randseed=5"]
        fio(uri, *written, "--do_verify=0", size="16m")
        self.cluster.cli("volume", "unmap", "kept")
        self.cluster.cli("volume", "delete", "kept", "--keep", "1h")
        self.assertIn("kept", self.cluster.cli("volume", "list", "--trash"))
        with self.assertRaises(tessera.CommandFailed):
            self.cluster.cli("volume", "map", "kept")
        self.cluster.cli("volume", "restore", "kept")
        self.cluster.cli("volume", "map", "kept")
        fio(self.cluster.nbd_uri("kept"), *written, "--verify_only=1", size="16m")

    def test_unmap_leaves_nothing_to_the_old_client(self):
        need("nbdinfo")
        uri = self.volume("gone", "16MiB")
        run(["nbdinfo", uri])
        answer = self.cluster.cli_json("volume", "unmap", "gone")
        self.assertEqual(len(answer["confirmed_sds_ids"]), 3)
        with self.assertRaises(tessera.CommandFailed):
            run(["nbdinfo", uri])


class Administration(unittest.TestCase):
    """From an empty cluster to IO on a mapped volume by grpcurl alone: every line of the API cookbook."""

    def test_every_line_of_the_cookbook_runs(self):
        need("grpcurl", "jq")
        with_domain = tessera.Cluster()
        for sds in with_domain.sds:
            arguments = sds.arguments

            def without_pool(arguments=arguments):
                flags = [str(a).split(",pool=")[0] for a in arguments()]
                at = flags.index("--protection-domain")
                return flags[:at] + flags[at + 2:]
            sds.arguments = without_pool
        self.addCleanup(with_domain.stop)
        with_domain.start()
        text = (ROOT / "docs/api/README.md").read_text()
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        self.assertGreater(len(blocks), 8)
        script = "set -euo pipefail\n" + "\n".join(blocks)
        environment = {**os.environ, "TESSERA_MDM": with_domain.mdm_address}
        result = subprocess.run(["bash", "-x", "-c", script], capture_output=True, text=True,
                                timeout=300 * tessera.TIMEOUT_FACTOR, env=environment, check=False)
        self.assertEqual(result.returncode, 0, result.stdout[-3000:] + result.stderr[-3000:])

    def test_every_line_of_the_management_cookbook_runs(self):
        need("grpcurl", "jq")
        cluster = tessera.Cluster(servers=2)
        mgmt = cluster.add_mgmt()
        self.addCleanup(cluster.stop)
        cluster.start()
        text = (ROOT / "docs/api/management.md").read_text()
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        self.assertGreater(len(blocks), 5)
        environment = {**os.environ, "TESSERA_MDM": cluster.mdm_address, "TESSERA_MGMT": mgmt.endpoints()["grpc"],
                       "ONE_TIME_PASSWORD": (cluster.folder / mgmt.name / "one_time_password").read_text().strip()}
        result = subprocess.run(["bash", "-x", "-c", "set -euo pipefail\n" + "\n".join(blocks)], capture_output=True, text=True,
                                timeout=300 * tessera.TIMEOUT_FACTOR, env=environment, check=False, cwd=cluster.folder)
        self.assertEqual(result.returncode, 0, result.stdout[-3000:] + result.stderr[-3000:])


class CommandLine(ClusterTest):
    def exit_code(self, *arguments):
        try:
            self.cluster.cli(*arguments)
            return 0, ""
        except tessera.CommandFailed as error:
            return error.code, error.output

    def test_wrong_use_is_told_with_the_right_exit_code(self):
        for arguments, code, words in [
                (["volume", "create", "x"], 2, "--size"),
                (["volume", "create", "x", "--size", "12 parsecs"], 2, "is not a size"),
                (["volume", "create", "x", "--size", "1000"], 2, "4096"),
                (["volume", "create", "bad name!", "--size", "1MiB"], 2, "name"),
                (["volume", "show", "nothing"], 3, "nothing"),
                (["volume", "map", "nothing"], 3, "nothing"),
                (["pool", "show", "nothing"], 3, "nothing"),
                (["pool", "create", "p2", "--replicas", "9"], 2, "replica_count"),
                (["frobnicate"], 2, "")]:
            with self.subTest(arguments=arguments):
                got, output = self.exit_code(*arguments)
                self.assertEqual(got, code, output)
                self.assertIn(words, output)

    def test_a_mapped_volume_is_not_deleted(self):
        self.volume("busy", "16MiB")
        code, output = self.exit_code("volume", "delete", "busy")
        self.assertEqual(code, 4, output)
        self.assertIn("sdc1", output)

    def test_the_topology_is_nested_and_whole(self):
        self.volume("tree", "16MiB")
        tree = self.cluster.cli_json("topology")
        domain = tree["protection_domains"][0]
        self.assertEqual(domain["protection_domain"]["name"], "domain1")
        self.assertEqual(sorted(s["name"] for s in domain["sdss"]), ["sds1", "sds2", "sds3"])
        for sds in domain["sdss"]:
            self.assertEqual(sds["state"], "COMPONENT_STATE_ONLINE")
            self.assertEqual(len(sds["devices"]), 1)
        pool = domain["pools"][0]
        self.assertEqual(pool["pool"]["name"], "pool1")
        self.assertEqual(len(pool["devices"]), 3)
        volume = [v for v in pool["volumes"] if v["volume"]["name"] == "tree"][0]
        self.assertEqual(sum(r["in_sync"] for r in volume["replicas"]), 128)
        self.assertEqual(volume["volume"]["mappings"][0]["sdc_name"], "sdc1")
        self.assertEqual(tree["sdcs"][0]["name"], "sdc1")

    def test_completion_is_valid_shell(self):
        need("bash")
        script = self.cluster.cli("completion", "bash")
        words = run(["bash", "-c", script + '\nCOMP_WORDS=(tessera volume cr); COMP_CWORD=2; _tessera; '
                     'echo "${COMPREPLY[@]}"'])
        self.assertIn("create", words)

    def test_every_metric_page_passes_promtool(self):
        need("promtool")
        import urllib.request
        for part in self.cluster.parts:
            with self.subTest(part=part.name):
                with urllib.request.urlopen(f"http://{part.endpoints()['metrics']}/metrics", timeout=30) as page:
                    text = page.read()
                result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True,
                                        check=False)
                self.assertEqual(result.returncode, 0, (result.stdout + result.stderr).decode()[-2000:])


class QuickStart(unittest.TestCase):
    def test_quickstart_proves_itself_and_a_second_run_changes_nothing(self):
        need("nbdcopy", "mke2fs", "e2fsck", "debugfs")
        import tempfile
        folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-quick-")) / "state"
        environment = {**os.environ, "TESSERA_STATE": str(folder), "TESSERA_PORTS": "auto",
                       "TESSERA_BIN": str(tessera.BIN)}
        command = ROOT / "tools/quickstart"

        def clean():
            subprocess.run([command, "clean"], env=environment, check=False, capture_output=True)
            shutil.rmtree(folder.parent, ignore_errors=True)
        self.addCleanup(clean)
        first = run([command], env=environment, timeout=600)
        for words in ["equal, byte for byte", "e2fsck -fn: clean", "equals the original"]:
            self.assertIn(words, first)
        pids = {p.name: p.read_text() for p in (folder / "run").glob("*.pid")}
        self.assertEqual(sorted(pids), ["mdm.pid", "mgmt.pid", "sdc.pid", "sds1.pid", "sds2.pid", "sds3.pid"])
        console = re.search(r"The console: +(http://\S+)", first).group(1)
        with urllib.request.urlopen(console, timeout=60) as page:
            self.assertIn("<title>Tessera", page.read().decode())
        self.assertIn(f"one-time password {(folder / 'mgmt/one_time_password').read_text().strip()}", first)
        second = run([command], env=environment, timeout=120)
        self.assertNotIn("killed every process", second)
        self.assertEqual(pids, {p.name: p.read_text() for p in (folder / "run").glob("*.pid")})
        exported = run([command, "env"], env=environment)
        self.assertIn("TESSERA_NBD_URI=", exported)
        run(["bash", "-c", exported + 'nbdinfo "$TESSERA_NBD_URI" && tessera status'])
        run([command, "stop"], env=environment)
        for pid in pids.values():
            self.assertFalse(is_running(pid.strip()), f"process {pid} still runs")
        self.assertEqual(reports_in_folder(folder / "log"), [])
        endpoints = dict(line.split("=", 1) for line in (folder / "sdc/endpoints").read_text().splitlines())
        self.assertTrue(pathlib.Path(endpoints["resume"]).exists())
        run([command, "clean"], env=environment)
        self.assertFalse(folder.exists())
        self.assertFalse(pathlib.Path(endpoints["resume"]).exists())


if __name__ == "__main__":
    unittest.main()
