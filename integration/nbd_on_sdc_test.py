"""Every foreign and every hostile NBD client of integration/nbd, against a volume of a real cluster."""
import os
import pathlib
import sys
import unittest

import cluster as tessera

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "nbd"))
import clients_test  # noqa: E402  pylint: disable=wrong-import-position
import hostile_test  # noqa: E402  pylint: disable=wrong-import-position

CLUSTER = None


def setUpModule():
    global CLUSTER  # pylint: disable=global-statement
    CLUSTER = tessera.Cluster()
    CLUSTER.start()
    CLUSTER.create_pool()
    CLUSTER.create_volume("nbd", "256MiB")


def tearDownModule():
    print(CLUSTER.cli("volume", "verify", "nbd").strip())
    CLUSTER.stop()


def against_sdc(module, case, unix):
    """The test case, with the module's server replaced by the SDC for its time."""
    class OnSdc(case):
        @classmethod
        def setUpClass(cls):
            os.environ["TESSERA_NBD_URI"] = CLUSTER.nbd_uri("nbd", unix=unix)
            os.environ["TESSERA_SDC_PID"] = str(CLUSTER.sdc.pid)
            module.setUpModule()

        @classmethod
        def tearDownClass(cls):
            module.tearDownModule()
            del os.environ["TESSERA_NBD_URI"], os.environ["TESSERA_SDC_PID"]
    OnSdc.__module__ = __name__
    OnSdc.__qualname__ = OnSdc.__name__ = f"{case.__name__}On{'UnixSocket' if unix else 'Tcp'}"
    return OnSdc


CLASSES = [against_sdc(clients_test, clients_test.ClientsTest, unix=True),
           against_sdc(hostile_test, hostile_test.HostileTest, unix=True),
           against_sdc(hostile_test, hostile_test.HostileTest, unix=False)]


def load_tests(loader, _tests, _pattern):
    """Only the classes above: the imported ones are for the memory server."""
    suite = unittest.TestSuite()
    for case in CLASSES:
        suite.addTests(loader.loadTestsFromTestCase(case))
    return suite
