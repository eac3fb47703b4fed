"""The MDM's database is lost and made anew from the servers: real processes, IO all the while."""
import sqlite3
import threading
import time
import unittest

import cluster as tessera
from cluster import run, wait_until
from end_to_end_test import fio, need


def query(path, text):
    """One value of a part's database, read beside the part."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        return database.execute(text).fetchone()[0]
    finally:
        database.close()


class RecoveryTest(unittest.TestCase):
    """Three servers, two copies."""

    def setUp(self):
        need("fio")
        self.cluster = tessera.Cluster(mdm_options=["--stale-after", "5s", "--heartbeat-interval", "200ms"])
        self.addCleanup(self.cluster.stop)
        self.cluster.start()
        self.keep_address()
        self.cluster.create_pool(placement_groups=16)

    def keep_address(self):
        """Nodes look for the MDM where they knew it."""
        mdm = self.cluster.mdm
        at = mdm.arguments.index("--listen")
        mdm.arguments[at + 1] = self.cluster.mdm_address

    @property
    def database(self):
        return self.cluster.mdm.state / "mdm.db"

    def await_records(self, servers=None):
        """Until the servers have heard of everything."""
        wanted = query(self.database, "SELECT revision FROM record_clock")
        for sds in servers or self.cluster.sds:
            wait_until(lambda sds=sds: query(sds.state / "sds_local.db",
                                             "SELECT revision FROM cluster_record_state") >= wanted,
                       f"the records of {sds.name}", 30)

    def lose_database(self):
        self.cluster.mdm.kill()
        for suffix in ("", "-wal", "-shm"):
            self.database.with_name(f"mdm.db{suffix}").unlink(missing_ok=True)

    def rebuild(self, *arguments, servers=None):
        addresses = ",".join(sds.endpoints()["control"] for sds in servers or self.cluster.sds[:1])
        return run([tessera.BIN / "tessera", "mdm", "rebuild", "--from-sds", addresses,
                    "--state-dir", self.cluster.mdm.state, *arguments])

    def refused(self, *arguments, servers=None):
        with self.assertRaises(tessera.CommandFailed) as error:
            self.rebuild(*arguments, servers=servers)
        self.assertEqual(error.exception.code, 4, error.exception.output)
        return error.exception.output

    def write(self, uri):
        fio(uri, "--rw=write", "--bs=256k", "--iodepth=4", "--verify=crc32c", "--do_verify=0", "--end_fsync=1", size="48m")

    def check(self, uri):
        fio(uri, "--rw=read", "--bs=256k", "--iodepth=4", "--verify=crc32c", "--verify_fatal=1", size="48m")

    def wait_healthy(self):
        def healthy():
            try:
                self.cluster.cli("status")
                return True
            except tessera.CommandFailed:
                return False
        wait_until(healthy, "the verdict healthy", 180)

    def volumes(self):
        """What must be as before, by name."""
        found = self.cluster.cli_json("volume", "list").get("volumes", [])
        keys = ("volume_id", "vtree_id", "pool_id", "pool_name", "size_bytes", "provisioning", "created_ms")
        return {v["name"]: ({k: v[k] for k in keys}, [(m["sdc_id"], m["mode"]) for m in v.get("mappings", [])])
                for v in found}

    def nodes(self):
        return ([(s["sds_id"], s["name"], s["node_uuid"], s["protection_domain_id"],
                  [(d["device_id"], d["pool_id"]) for d in s["devices"]])
                 for s in self.cluster.cli_json("sds", "list")["sdss"]],
                [(s["sdc_id"], s["name"], s["node_uuid"]) for s in self.cluster.cli_json("sdc", "list")["sdcs"]])

    def test_a_lost_database_is_made_anew_while_io_goes_on(self):
        kept = self.cluster.create_volume("kept", "48MiB")
        busy = self.cluster.create_volume("busy", "64MiB")
        self.cluster.create_volume("deleted", "16MiB")
        self.cluster.cli("volume", "unmap", "deleted")
        gone = self.cluster.cli_json("volume", "show", "deleted")
        self.cluster.cli("volume", "delete", "deleted")
        self.write(kept)
        before, nodes = self.volumes(), self.nodes()
        generation = int(self.cluster.cli_json("volume", "show", "busy")["generation"])
        self.await_records()

        # Light IO, each block read back and compared, from before the loss until after the return.
        outcome = []

        def work():
            try:
                fio(busy, "--rw=randwrite", "--bs=4k", "--iodepth=2", "--rate_iops=60", "--time_based", "--runtime=45",
                    "--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", size="16m")
                outcome.append(None)
            except tessera.CommandFailed as error:
                outcome.append(error)
        worker = threading.Thread(target=work)
        worker.start()
        self.addCleanup(worker.join)

        self.refused()      # an MDM runs
        self.lose_database()
        # An empty database would be another cluster.
        with self.assertRaises(RuntimeError) as error:
            self.cluster.mdm.start()
        self.assertIn("tessera mdm rebuild --from-sds", str(error.exception))
        self.assertIn("changed", self.rebuild("--check"))
        self.assertFalse(self.database.exists())
        printed = self.rebuild()
        for name in ("kept", "busy", "sds1", "sds2", "sds3", "sdc1"):
            self.assertIn(name, printed)
        self.assertIn("mdm.db is there", self.refused())    # never overwritten
        self.cluster.mdm.start()

        self.wait_healthy()
        self.assertEqual(self.volumes(), before)
        self.assertEqual(self.nodes(), nodes)
        self.check(kept)
        self.cluster.verify("kept")
        self.assertIn("mdm_rebuilt", self.cluster.cli("event", "list"))
        worker.join()
        self.assertEqual(outcome, [None])
        # The client has gone on under a grant of the new generation.
        wait_until(lambda: int(self.cluster.cli_json("volume", "show", "busy")["generation"]) > generation + 1_000_000,
                   "the client's new grant", 90)
        for part in self.cluster.sds:
            self.assertNotIn("map_went_back", part.log())
            self.assertNotIn("records_went_back", part.log())

        # Ids of the past mean nothing else.
        fresh = self.cluster.create_volume("fresh", "48MiB")
        made = self.cluster.cli_json("volume", "show", "fresh")
        for old in [gone, *(fields for fields, _ in before.values())]:
            self.assertGreater(int(made["volume_id"]), int(old["volume_id"]))
            self.assertGreater(int(made["vtree_id"]), int(old["vtree_id"]))
        self.write(fresh)
        self.check(fresh)
        self.cluster.cli("volume", "unmap", "busy")
        self.cluster.cli("volume", "delete", "busy")
        # What is kept of the cluster now is the new database's.
        self.await_records()

    def test_a_server_that_may_know_more_is_waited_for_or_given_up(self):
        uri = self.cluster.create_volume("data", "48MiB")
        self.write(uri)
        self.await_records()
        self.lose_database()
        lost = self.cluster.sds[2]
        lost.kill()
        output = self.refused()
        self.assertIn("sds3", output)
        self.assertIn("--accept-missing sds3", output)
        self.assertFalse(self.database.exists())
        self.assertIn("no server of that name is missing", self.refused("--accept-missing", "sds3,sds2"))
        self.assertIn("given up", self.rebuild("--accept-missing", "sds3"))
        self.cluster.mdm.start()
        wait_until(lambda: "data" in self.volumes(), "the volume", 60)
        self.check(uri)
        self.write(uri)     # sds3 has none of it
        lost.start()
        self.wait_healthy()
        self.check(uri)
        self.cluster.verify("data")

    def test_servers_that_started_anew_tell_and_what_has_no_record_is_recovered(self):
        uri = self.cluster.create_volume("data", "48MiB")
        self.write(uri)
        self.await_records()
        vtree = self.cluster.cli_json("volume", "show", "data")["vtree_id"]
        self.cluster.cli("volume", "unmap", "data")
        self.lose_database()
        for sds in self.cluster.sds:
            sds.kill()
            database = sqlite3.connect(sds.state / "sds_local.db")
            database.execute("DELETE FROM cluster_record WHERE kind = 8")
            database.commit()
            database.close()
            sds.start()
        printed = self.rebuild(servers=self.cluster.sds)
        self.assertIn(f"recovered-{vtree}", printed)
        self.cluster.mdm.start()
        self.wait_healthy()
        volume = self.cluster.cli_json("volume", "show", f"recovered-{vtree}")
        self.assertEqual(int(volume["size_bytes"]), 48 << 20)
        self.cluster.cli("volume", "map", f"recovered-{vtree}")
        self.check(self.cluster.nbd_uri(f"recovered-{vtree}"))


if __name__ == "__main__":
    unittest.main()
