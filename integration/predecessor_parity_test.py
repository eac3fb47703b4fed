"""predecessor_parity: what the integration tests of the Python predecessor covered, by their names. Alerts (raise, resolve,
fetch, history with paging, component monitoring, auto-resolve) come with the alerting service."""
import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), "faults"))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import ClusterTest  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20


class PredecessorParity(ClusterTest):
    def connected(self, uri):
        handle = nbd_client.connect(uri)
        self.addCleanup(handle.shutdown)
        return handle

    def refused(self, *arguments):
        with self.assertRaises(tessera.CommandFailed) as failed:
            self.cluster.cli(*arguments)
        return failed.exception.output

    def test_topology_creation_domain(self):
        self.cluster.cli("domain", "create", "parity")
        self.assertIn("parity", [d["name"] for d in self.cluster.cli_json("domain", "list")["protection_domains"]])
        self.cluster.cli("domain", "delete", "parity")

    def test_topology_creation_pool(self):
        self.cluster.cli("pool", "create", "parity", "--domain", "domain1", "--replicas", "2", "--placement-groups", "8")
        pools = {p["name"]: p for p in self.cluster.cli_json("pool", "list")["pools"]}
        self.assertEqual(pools["parity"]["replica_count"], 2)
        self.cluster.cli("pool", "delete", "parity")

    def test_topology_creation_sds(self):
        listed = self.cluster.cli_json("sds", "list")["sdss"]
        self.assertEqual(sorted(s["name"] for s in listed), ["sds1", "sds2", "sds3"])
        self.assertTrue(all(s["devices"] for s in listed))

    def test_topology_creation_sdc(self):
        self.assertEqual([s["name"] for s in self.cluster.cli_json("sdc", "list")["sdcs"]], ["sdc1"])

    def test_topology_nested(self):
        """The predecessor skipped this one."""
        topology = self.cluster.cli_json("topology")
        domain = topology["protection_domains"][0]
        self.assertEqual(domain["protection_domain"]["name"], "domain1")
        self.assertEqual(domain["pools"][0]["pool"]["name"], "pool1")
        self.assertEqual(len(domain["sdss"]), 3)

    def test_volume_create(self):
        self.cluster.cli("volume", "create", "made", "--size", "16MiB")
        self.assertEqual(self.cluster.cli_json("volume", "show", "made")["size_bytes"], str(16 * MIB))
        self.assertIn("made", self.refused("volume", "create", "made", "--size", "16MiB"))
        self.cluster.cli("volume", "delete", "made")

    def test_volume_map_and_unmap(self):
        self.volume("mapped", "16MiB")
        self.assertTrue(self.cluster.cli_json("volume", "show", "mapped")["mappings"][0]["attached"])
        self.cluster.cli("volume", "unmap", "mapped")
        self.assertEqual(self.cluster.cli_json("volume", "show", "mapped").get("mappings", []), [])

    def test_volume_delete(self):
        self.cluster.create_volume("gone", "16MiB")
        self.assertIn("mapped", self.refused("volume", "delete", "gone"))
        self.cluster.cli("volume", "unmap", "gone")
        self.cluster.cli("volume", "delete", "gone")
        self.assertIn("gone", self.refused("volume", "show", "gone"))

    def test_write_and_read(self):
        handle = self.connected(self.volume("written", "16MiB"))
        content = os.urandom(3 * MIB)
        handle.pwrite(content, 4 * MIB)
        handle.flush()
        self.assertEqual(bytes(handle.pread(len(content), 4 * MIB)), content)
        self.assertEqual(bytes(handle.pread(MIB, 0)), bytes(MIB))

    def test_unaligned_io(self):
        handle = self.connected(self.volume("unaligned", "16MiB"))
        model = bytearray(2 * MIB)
        for offset, length in ((1, 1), (511, 2), (4095, 4098), (MIB - 3, 7), (700_001, 300_007)):
            content = os.urandom(length)
            handle.pwrite(content, offset)
            model[offset:offset + length] = content
        self.assertEqual(bytes(handle.pread(len(model), 0)), bytes(model))

    def test_expand(self):
        handle = self.connected(self.volume("expanded", "16MiB"))
        handle.pwrite(b"kept" * 1024, 16 * MIB - 4096)
        self.cluster.cli("volume", "resize", "expanded", "--size", "32MiB")
        larger = self.connected(self.cluster.nbd_uri("expanded"))
        self.assertEqual(larger.get_size(), 32 * MIB)
        self.assertEqual(bytes(larger.pread(8192, 16 * MIB - 4096)), b"kept" * 1024 + bytes(4096))

    def test_shrink(self):
        handle = self.connected(self.volume("shrunk", "32MiB"))
        content = os.urandom(32 * MIB)
        for offset in range(0, 32 * MIB, MIB):
            handle.pwrite(content[offset:offset + MIB], offset)
        self.cluster.cli("snapshot", "create", "shrunk", "shrunk-before")
        self.assertIn("would be lost", self.refused("volume", "resize", "shrunk", "--size", "10MiB"))
        self.cluster.cli("volume", "resize", "shrunk", "--size", "10MiB", "--shrink")
        self.assertEqual(self.cluster.cli_json("volume", "show", "shrunk")["size_bytes"], str(10 * MIB))
        smaller = self.connected(self.cluster.nbd_uri("shrunk"))
        self.assertEqual(smaller.get_size(), 10 * MIB)
        self.assertEqual(bytes(smaller.pread(10 * MIB, 0)), content[:10 * MIB])
        with self.assertRaises(nbd_client.Error):
            handle.pwrite(b"beyond", 10 * MIB)
        # What grows again is empty there; the snapshot has all of it.
        self.cluster.cli("volume", "resize", "shrunk", "--size", "32MiB")
        again = self.connected(self.cluster.nbd_uri("shrunk"))
        self.assertEqual(bytes(again.pread(22 * MIB, 10 * MIB)), bytes(22 * MIB))
        self.cluster.cli("volume", "map", "shrunk-before", "--read-only")
        before = self.connected(self.cluster.nbd_uri("shrunk-before"))
        self.assertEqual(bytes(before.pread(32 * MIB, 0)), content)
        self.cluster.cli("volume", "unmap", "shrunk-before")
        self.cluster.cli("snapshot", "delete", "shrunk-before")
        self.cluster.verify("shrunk")

    def test_snapshot(self):
        handle = self.connected(self.volume("shot", "16MiB"))
        handle.pwrite(b"then", 0)
        self.cluster.cli("snapshot", "create", "shot", "shot-1")
        handle.pwrite(b"now!", 0)
        self.cluster.cli("volume", "map", "shot-1", "--read-only")
        self.assertEqual(bytes(self.connected(self.cluster.nbd_uri("shot-1")).pread(4, 0)), b"then")
        self.cluster.cli("volume", "unmap", "shot-1")
        self.cluster.cli("snapshot", "delete", "shot-1")
