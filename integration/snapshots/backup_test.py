"""Changed extents, export and import: a chain of backups is restored generation by generation."""
import os
import pathlib
import random
import subprocess
import sys
import time
import unittest

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "faults"))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import ClusterTest  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

BLOCK = 4096
SECTOR = 512
MIB = 1 << 20


class Disk:
    """A volume over NBD, and what it must hold."""

    def __init__(self, uri, size, content=None):
        self.handle = nbd_client.connect(uri)
        self.content = bytearray(content or bytes(size))

    def close(self):
        self.handle.flush()
        self.handle.shutdown()

    def write(self, rng, offset, length):
        data = rng.randbytes(length)
        self.handle.pwrite(data, offset)
        self.content[offset:offset + length] = data

    def zero(self, offset, length):
        self.handle.zero(length, offset)
        self.content[offset:offset + length] = bytes(length)

    def trim(self, offset, length):
        """Of whole sectors: what is cut off smaller is advice that can't be followed."""
        self.handle.trim(length, offset)
        self.content[offset:offset + length] = bytes(length)

    def change(self, rng, operations):
        """Random writes, zeroings and trims, small and large, of blocks and of parts of them."""
        size = len(self.content)
        for _ in range(operations):
            unit = rng.choice((BLOCK, BLOCK, SECTOR))
            longest = rng.choice((4 * BLOCK, 4 * BLOCK, 64 * BLOCK, MIB))
            length = unit * rng.randint(1, longest // unit)
            offset = unit * rng.randint(0, (size - length) // unit)
            kind = rng.random()
            if kind < 0.7:
                self.write(rng, offset, length)
            elif kind < 0.85:
                self.zero(offset, length)
            else:
                self.trim(offset, length)


def blocks_of(content):
    return [bytes(content[at:at + BLOCK]) for at in range(0, len(content), BLOCK)]


def changed_bytes(before, after):
    """Bytes of blocks that differ: those with a content now, and those that are zeros."""
    data = zeros = 0
    for old, new in zip(blocks_of(before), blocks_of(after)):
        if old == new:
            continue
        if any(new):
            data += BLOCK
        else:
            zeros += BLOCK
    return data, zeros


def read_all(uri, size):
    handle = nbd_client.connect(uri)
    content = b"".join(bytes(handle.pread(MIB, at)) for at in range(0, size, MIB))
    handle.shutdown()
    return content


class Backups(ClusterTest):
    def setUp(self):
        self.folder = pathlib.Path(self.cluster.folder) / self.id().rsplit(".", 1)[1]
        self.folder.mkdir()

    def seed(self):
        seed = int(os.environ.get("TESSERA_BACKUP_SEED", "0")) or int.from_bytes(os.urandom(3), "little")
        print(f"{self.id()}: TESSERA_BACKUP_SEED={seed}")
        return seed

    def refused(self, *arguments):
        with self.assertRaises(tessera.CommandFailed) as failed:
            self.cluster.cli(*arguments)
        return failed.exception.output

    def snapshot(self, volume, name):
        self.cluster.cli("snapshot", "create", volume, name)
        self.cluster.cli("volume", "map", name, "--read-only")
        self.addCleanup(self.remove, name)
        return self.cluster.nbd_uri(name)

    def export(self, name, base=None):
        file = self.folder / f"{name}.image"
        self.cluster.cli("volume", "export", name, file, *(["--base", base] if base else []))
        return file

    def figures(self, file):
        """Of an image, which is checked whole: name of a figure -> its text."""
        lines = self.cluster.cli("volume", "check-image", file).splitlines()[1:]
        return dict(line.split(None, 1) for line in lines)

    def chain(self, volume, prefix, disk, rng, generations, operations):
        """Changes and snapshots a volume, exports it whole and then what changed. -> [(image, content, bytes)]"""
        chain = []
        before = None
        for number in range(generations):
            disk.change(rng, operations)
            disk.handle.flush()
            name = f"{prefix}-{number}"
            self.snapshot(volume, name)
            content = bytes(disk.content)
            file = self.export(name, f"{prefix}-{number - 1}" if number else None)
            chain.append((file, content, changed_bytes(before or bytes(len(content)), content)))
            before = content
        return chain

    def check_chain(self, chain, target, size):
        """Imports a chain, image by image, and compares each generation."""
        uri = self.volume(target, size)
        moved = changed = 0
        for number, (file, content, (data, zeros)) in enumerate(chain):
            figures = self.figures(file)
            image_data = int(figures["data"].split()[0])
            image_zeros = int(figures["zeros"].split()[0])
            self.cluster.cli("volume", "import", file, target)
            self.assertTrue(read_all(uri, len(content)) == content, f"generation {number} is not as it was")
            print(f"  generation {number}: changed {data} bytes of data and {zeros} of zeros, in the image {image_data} "
                  f"and {image_zeros}, file {file.stat().st_size}")
            self.assertGreaterEqual(image_data, data)
            self.assertLessEqual(image_data, data * 1.05)
            self.assertLessEqual(file.stat().st_size, data * 1.05 + 64 * 1024)
            if number:
                moved += image_data
                changed += data
        print(f"  incrementals: {moved} bytes of data moved for {changed} changed: {100 * moved / changed - 100:.2f} % more")
        self.cluster.verify(target)

    def test_ten_generations_come_back_each_as_it_was(self):
        rng = random.Random(self.seed())
        size = 64 * MIB
        disk = Disk(self.volume("source", "64MiB"), size)
        chain = self.chain("source", "source-gen", disk, rng, 10, 40)
        disk.close()
        began = time.monotonic()
        self.check_chain(chain, "restored", "64MiB")
        print(f"  restored and compared in {time.monotonic() - began:.1f} s")

    def test_a_chain_of_a_clone_is_as_good(self):
        rng = random.Random(self.seed())
        size = 16 * MIB
        disk = Disk(self.volume("origin", "16MiB"), size)
        disk.change(rng, 30)
        disk.close()
        self.cluster.cli("snapshot", "create", "origin", "origin-0")
        self.cluster.cli("snapshot", "clone", "origin-0", "clone")
        self.cluster.cli("volume", "map", "clone")
        self.addCleanup(self.remove, "clone")
        clone = Disk(self.cluster.nbd_uri("clone"), size, disk.content)
        chain = self.chain("clone", "clone-gen", clone, rng, 4, 15)
        clone.close()
        self.check_chain(chain, "of-clone", "16MiB")
        # What the clone differs in from where it came from, and back.
        self.cluster.cli("volume", "map", "origin-0", "--read-only")
        for name, base, before, after in (("clone-gen-3", "origin-0", disk.content, clone.content),
                                          ("origin-0", "clone-gen-3", clone.content, disk.content)):
            file = self.folder / f"{name}-{base}.image"
            self.cluster.cli("volume", "export", name, file, "--base", base)
            data = int(self.figures(file)["data"].split()[0])
            expected = changed_bytes(before, after)[0]
            self.assertGreaterEqual(data, expected)
            self.assertLessEqual(data, expected * 1.05)
        # That one is the way back to where the clone began, for who holds the clone's last generation.
        self.cluster.cli("volume", "import", file, "of-clone")
        self.assertTrue(read_all(self.cluster.nbd_uri("of-clone"), size) == bytes(disk.content))
        self.remove("origin-0")

    def test_a_size_that_changes_and_a_larger_volume(self):
        rng = random.Random(self.seed())
        disk = Disk(self.volume("sized", "8MiB"), 8 * MIB)
        disk.write(rng, 0, 8 * MIB)
        disk.close()
        contents = [bytes(disk.content)]
        self.snapshot("sized", "sized-0")
        self.cluster.cli("volume", "resize", "sized", "--size", "4MiB", "--shrink")
        contents.append(contents[0][:4 * MIB])
        self.snapshot("sized", "sized-1")
        self.cluster.cli("volume", "resize", "sized", "--size", "12MiB")
        grown = Disk(self.cluster.nbd_uri("sized"), 12 * MIB, contents[1] + bytes(8 * MIB))
        grown.write(rng, 10 * MIB + 512, 3 * BLOCK)
        grown.close()
        contents.append(bytes(grown.content))
        self.snapshot("sized", "sized-2")
        target = self.volume("larger", "16MiB")
        for number, content in enumerate(contents):
            file = self.export(f"sized-{number}", f"sized-{number - 1}" if number else None)
            self.cluster.cli("volume", "import", file, "larger")
            found = read_all(target, 16 * MIB)
            self.assertTrue(found == content + bytes(16 * MIB - len(content)), f"generation {number}")
        self.volume("smaller", "8MiB")
        self.assertIn("make it larger", self.refused("volume", "import", file, "smaller", "--any-base"))

    def pipe(self, export, load):
        """tessera volume export .. - | tessera volume import - .."""
        binary = [str(tessera.BIN / "tessera"), "--endpoint", self.cluster.mdm_address, "volume"]
        source = subprocess.Popen([*binary, "export", *export], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        target = subprocess.run([*binary, "import", *load], stdin=source.stdout, capture_output=True, text=True,
                                timeout=300, check=False)
        source.stdout.close()
        told = source.stderr.read().decode()
        source.stderr.close()
        self.assertEqual(source.wait(300), 0, told)
        self.assertEqual(target.returncode, 0, target.stderr)
        return told, target.stderr

    def test_streams_and_all_that_is_refused(self):
        rng = random.Random(self.seed())
        size = 8 * MIB
        disk = Disk(self.volume("piped", "8MiB"), size)
        disk.change(rng, 10)
        self.assertIn("export a snapshot", self.refused("volume", "export", "piped", self.folder / "no"))
        self.snapshot("piped", "piped-0")
        first = bytes(disk.content)
        disk.change(rng, 10)
        disk.zero(0, 2 * MIB)
        disk.close()
        self.snapshot("piped", "piped-1")
        uri = self.volume("copy", "8MiB")
        exported, imported = self.pipe(["piped-0", "-"], ["-", "copy"])
        self.assertEqual(exported.rsplit("sha256", 1)[1], imported.rsplit("sha256", 1)[1])
        self.assertTrue(read_all(uri, size) == first)
        label = self.cluster.cli_json("volume", "show", "copy")["labels"]["tessera.image"]
        full = self.export("piped-0")
        increment = self.export("piped-1", "piped-0")
        self.assertIn("exists", self.refused("volume", "export", "piped-0", full))
        self.assertIn("must be a snapshot", self.refused("volume", "export", "piped-0", self.folder / "no", "--base", "piped"))
        self.volume("stranger", "8MiB")
        self.snapshot("stranger", "stranger-0")
        self.assertIn("no common origin",
                      self.refused("volume", "export", "piped-0", self.folder / "no", "--base", "stranger-0"))
        self.cluster.cli("snapshot", "create", "piped", "piped-2")
        self.assertIn("not attached", self.refused("volume", "export", "piped-2", self.folder / "no"))
        self.assertIn("can't be written", self.refused("volume", "import", full, "piped-1"))
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["piped-0.image", "piped-1.image"])

        # A volume that holds something, and one that does not hold the base.
        self.assertIn("holds data", self.refused("volume", "import", full, "copy"))
        self.assertIn("not known to hold", self.refused("volume", "import", increment, "stranger"))
        self.assertTrue(read_all(uri, size) == first)
        self.pipe(["piped-1", "-", "--base", "piped-0"], ["-", "copy"])
        self.assertTrue(read_all(uri, size) == bytes(disk.content))
        self.assertIn("holds another image", self.refused("volume", "import", increment, "copy"))

        # A rollback takes back what the label says.
        self.cluster.cli("volume", "import", full, "copy", "--overwrite")
        self.cluster.cli("snapshot", "create", "copy", "copy-0")
        self.cluster.cli("volume", "import", increment, "copy")
        third = self.folder / "third.image"
        self.cluster.cli("volume", "map", "piped-2", "--read-only")
        self.cluster.cli("volume", "export", "piped-2", third, "--base", "piped-1")
        self.cluster.cli("volume", "unmap", "copy")
        self.cluster.cli("snapshot", "rollback", "copy", "copy-0", "--no-safety-snapshot")
        self.cluster.cli("volume", "map", "copy")
        self.assertIn("holds another image", self.refused("volume", "import", third, "copy"))
        self.cluster.cli("snapshot", "delete", "copy-0")
        uri = self.cluster.nbd_uri("copy")

        # Files that were cut off or altered: nothing of a bad record is written, and the volume is not taken for whole.
        self.cluster.cli("volume", "import", full, "copy", "--overwrite")
        self.assertTrue(read_all(uri, size) == first)
        whole = increment.read_bytes()
        bad = self.folder / "bad.image"
        for number in range(6):
            cut = rng.randrange(len(whole)) if number else len(whole) - 1
            damaged = whole[:cut]
            if number % 2:
                damaged = bytearray(whole)
                damaged[cut] ^= 1 << rng.randrange(8)
            bad.write_bytes(damaged)
            told = self.refused("volume", "import", bad, "copy", "--any-base")
            self.assertTrue("image" in told, told)
            self.refused("volume", "check-image", bad)
        content = read_all(uri, size)
        before, after = blocks_of(first), blocks_of(disk.content)
        for number, block in enumerate(blocks_of(content)):
            self.assertIn(block, (before[number], after[number]))
        shown = self.cluster.cli_json("volume", "show", "copy")
        self.assertNotIn("tessera.image", shown["labels"])
        self.assertIn("not known to hold", self.refused("volume", "import", increment, "copy"))
        # A half-done import is repeated.
        self.cluster.cli("volume", "import", increment, "copy", "--any-base")
        self.assertTrue(read_all(uri, size) == bytes(disk.content))
        self.assertNotEqual(self.cluster.cli_json("volume", "show", "copy")["labels"]["tessera.image"], label)
        self.cluster.cli("volume", "import", full, "copy", "--overwrite")
        self.assertEqual(self.cluster.cli_json("volume", "show", "copy")["labels"]["tessera.image"].split("@")[0],
                         label.split("@")[0])
        self.remove("piped-2")

    def test_changed_extents_by_grpc_while_snapshots_come_and_go(self):
        rng = random.Random(self.seed())
        size = 8 * MIB
        disk = Disk(self.volume("live", "8MiB"), size)
        disk.change(rng, 20)
        disk.handle.flush()
        self.snapshot("live", "live-0")
        before = bytes(disk.content)
        for number in range(1, 5):
            disk.change(rng, 4)
            self.cluster.cli("snapshot", "create", "live", f"live-{number}")
        for number in (2, 4, 1, 3):    # layers between go
            self.cluster.cli("snapshot", "delete", f"live-{number}")
        disk.handle.flush()
        address = self.cluster.sdc.endpoints()["control"]
        answers = self.cluster.grpcurl("SdcControlService/ListChangedExtents",
                                       {"volume_name": "live", "base_name": "live-0"}, address=address)
        listed = set()
        end = 0
        for answer in answers if isinstance(answers, list) else [answers]:
            for extent in answer["extents"]:
                offset, length = int(extent["offset_bytes"]), int(extent["length_bytes"])
                self.assertGreaterEqual(offset, end)
                end = offset + length
                listed.update(range(offset // BLOCK, end // BLOCK))
                if extent["zero"]:
                    self.assertEqual(disk.content[offset:end], bytes(length))
        differ = {at for at, (old, new) in enumerate(zip(blocks_of(before), blocks_of(disk.content))) if old != new}
        self.assertLessEqual(differ, listed)
        self.assertLessEqual(len(listed), 1.05 * len(differ) + 1)
        disk.close()
        self.cluster.verify("live")


if __name__ == "__main__":
    unittest.main()
