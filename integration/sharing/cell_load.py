"""Clients that write and read one volume at once, and a judge of every read.

The volume is a row of cells of 16 bytes: the number of the write that wrote them, and the cell's own number. A write covers any run
of cells, so most begin and end inside a sector. Each byte range of a sector must be changed as a whole, and nothing beside it.
"""
import bisect
import random
import struct
import sys
import threading
import time

import cluster as tessera
import nbd_client

CELL = 16
SECTOR = 512
CELLS = SECTOR // CELL    # of a sector


def content_of(number, first, count):
    return b"".join(struct.pack("<QQ", number, cell) for cell in range(first, first + count))


class History:
    """All writes and reads of a run, by whomever."""

    def __init__(self, cells):
        self.cells = cells
        self.lock = threading.Lock()
        self.writes = [(0, cells, 0.0, 0.0)]    # by number: first, count, began, ended or None
        self.reads = []                         # first, numbers, began, ended

    def begin(self, first, count):
        with self.lock:
            self.writes.append((first, count, time.monotonic(), None))
            return len(self.writes) - 1

    def ended(self, number):
        first, count, began, _ = self.writes[number]
        self.writes[number] = (first, count, began, time.monotonic())

    def read(self, first, data, began):
        numbers = []
        for at in range(0, len(data), CELL):
            number, cell = struct.unpack_from("<QQ", data, at)
            # Nothing was written yet: zeros.
            if cell != first + at // CELL and (number, cell) != (0, 0):
                raise AssertionError(f"cell {first + at // CELL} has the content of {cell}, write {number}")
            numbers.append(number)
        self.reads.append((first, numbers, began, time.monotonic()))

    def judge(self):
        """What was wrong, as lines."""
        faults = []
        ends = [[] for _ in range(self.cells)]    # of each cell: (ended, began) of the writes that were answered
        for first, count, began, ended in self.writes[1:]:
            if ended is not None:
                for cell in range(first, first + count):
                    ends[cell].append((ended, began))
        for cell in range(self.cells):
            ends[cell].sort()
            latest, newest = [], 0.0
            for _, began in ends[cell]:
                newest = max(newest, began)
                latest.append(newest)
            ends[cell] = ([end for end, _ in ends[cell]], latest)
        for first, numbers, began, ended in self.reads:
            for at, number in enumerate(numbers):
                self._judge_cell(first + at, number, began, ended, ends[first + at], faults)
            if max(numbers) < len(self.writes):
                self._judge_sectors(first, numbers, faults)
        return faults

    def _judge_cell(self, cell, number, began, ended, ends, faults):
        if number >= len(self.writes):
            faults.append(f"cell {cell} has {number}, which nobody wrote")
            return
        first, count, write_began, write_ended = self.writes[number]
        if not first <= cell < first + count:
            faults.append(f"cell {cell} has write {number}, which was elsewhere")
        if write_began > ended:
            faults.append(f"cell {cell} has write {number}, which began later")
        before = bisect.bisect_left(ends[0], began)
        if before > 0 and write_ended is not None and write_ended < ends[1][before - 1]:
            faults.append(f"cell {cell} has write {number}, which was written over before the read began")

    def _judge_sectors(self, first, numbers, faults):
        for start in range(0, len(numbers)):
            sector = (first + start) // CELLS
            number = numbers[start]
            write_first, count, began, _ = self.writes[number]
            low = max(write_first, sector * CELLS, first)
            high = min(write_first + count, (sector + 1) * CELLS, first + len(numbers))
            for cell in range(low, high):
                other = numbers[cell - first]
                ended = self.writes[other][3]
                if other != number and ended is not None and ended < began:
                    faults.append(f"write {number} is there in part: cell {cell} has {other}")
                    return


class CellLoad:
    """Threads on one client's NBD server. `must_work`: an error is a fault, and not the client's death."""

    def __init__(self, name, uri, history, seed, threads=2, longest=4 * CELLS, flush_every=50):
        self.name = name
        self.uri = uri
        self.history = history
        self.longest = longest
        self.flush_every = flush_every
        self.stopping = False
        self.patience = 30 * tessera.TIMEOUT_FACTOR    # for the last requests, in seconds
        self.must_work = True
        self.errors = []
        self.done = 0
        self.slowest = 0.0    # since it was last asked for
        self.threads = [threading.Thread(target=self._run, args=(random.Random(f"{seed} {name} {i}"),), daemon=True)
                        for i in range(threads)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        """Again is no harm: a request that was not answered once is not waited for twice."""
        wait, self.patience = self.patience, 0
        self.stopping = True
        end = time.monotonic() + wait
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                self.errors.append(f"{self.name}: a request is not answered")

    def take_slowest(self):
        slowest, self.slowest = self.slowest, 0.0
        return slowest

    def _run(self, rng):
        while not self.stopping:
            try:
                handle = nbd_client.connect(self.uri)
                while not self.stopping:
                    self._step(handle, rng)
                handle.shutdown()
            except nbd_client.Error as error:
                if self.must_work:
                    self.errors.append(f"{self.name}: {error}")
                    return
                time.sleep(0.05)
            except Exception as error:  # pylint: disable=broad-except
                self.errors.append(f"{self.name}: {error!r}")
                return

    def _step(self, handle, rng):
        began = time.monotonic()
        if rng.random() < 0.4:
            sectors = self.history.cells // CELLS
            count = rng.choice((1, 1, 2, 8))
            first = rng.randrange(sectors - count + 1) * CELLS
            data = handle.pread(count * SECTOR, first * CELL)
            self.history.read(first, data, began)
        else:
            count = rng.choice((1, 3, CELLS, CELLS, rng.randint(1, self.longest)))
            first = rng.randrange(self.history.cells - count + 1)
            if count == CELLS:
                first -= first % CELLS    # one whole sector
            number = self.history.begin(first, count)
            handle.pwrite(content_of(number, first, count), first * CELL)
            self.history.ended(number)
        if rng.randrange(self.flush_every) == 0:
            handle.flush()
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.done += 1


def say(text):
    print(text, file=sys.stderr, flush=True)
