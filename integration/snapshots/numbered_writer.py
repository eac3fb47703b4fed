"""A writer that knows when each block got which number, and a judge of what a snapshot has."""
import bisect
import random
import struct
import threading
import time

import nbd_client

BLOCK = 4096
WORDS = BLOCK // 8


class Numbers:
    """Numbers of writes, unique over all volumes of a run."""

    def __init__(self):
        self.last = 0
        self.lock = threading.Lock()

    def next(self):
        with self.lock:
            self.last += 1
            return self.last


class NumberedWriter:
    """Threads that write runs of blocks, each filled with the number of its write. stop() ends them."""

    def __init__(self, uri, blocks, seed, numbers, threads=2, longest=16):
        self.uri = uri
        self.blocks = blocks
        self.numbers = numbers
        self.longest = longest
        self.lock = threading.Lock()
        self.writes = {}    # number: [first block, count, began, ended or None]
        self.of_block = [[] for _ in range(blocks)]    # numbers, in the order in which they began
        self.stopping = False
        self.error = None
        self.threads = [threading.Thread(target=self._run, args=(random.Random(f"{seed} {i}"),), daemon=True)
                        for i in range(threads)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def _run(self, rng):
        try:
            handle = nbd_client.connect(self.uri)
            while not self.stopping:
                self._write(handle, rng)
            handle.shutdown()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def _write(self, handle, rng):
        count = min(1 << rng.randrange(self.longest.bit_length()), self.blocks)
        first = rng.randrange(self.blocks - count + 1)
        number = self.numbers.next()
        content = struct.pack("<Q", number) * (WORDS * count)
        with self.lock:
            record = [first, count, time.monotonic(), None]
            self.writes[number] = record
            for block in range(first, first + count):
                self.of_block[block].append(number)
        handle.pwrite(content, first * BLOCK)
        record[3] = time.monotonic()


def read_numbers(uri, blocks, piece=1 << 20):
    """The number in each block; AssertionError where a block has two."""
    handle = nbd_client.connect(uri)
    found = []
    for offset in range(0, blocks * BLOCK, piece):
        content = handle.pread(min(piece, blocks * BLOCK - offset), offset)
        for at in range(0, len(content), BLOCK):
            number = content[at:at + 8]
            if content[at:at + BLOCK] != bytes(number) * WORDS:
                raise AssertionError(f"block {(offset + at) // BLOCK} is torn")
            found.append(struct.unpack("<Q", number)[0])
    handle.shutdown()
    return found


class Moment:
    """Whether snapshots of some volumes are of one moment between request and answer."""

    def __init__(self, began, ended):
        self.earliest = began
        self.latest = ended
        self.because = ["the request", "the answer"]
        self.began = began
        self.ended = ended

    def check(self, writer, found):
        """AssertionError: it can't be. `found` are the numbers of the writer's volume in the snapshot."""
        with writer.lock:
            writes = {number: tuple(record) for number, record in writer.writes.items()}
            of_block = [list(numbers) for numbers in writer.of_block]
        for block, number in enumerate(found):
            self._check_block(block, number, writes, of_block[block])
        self._check_whole(found, writes)
        if self.earliest > self.latest:
            raise AssertionError(f"of no one moment: {self.because[0]} began {self.earliest - self.latest:.6f} s after "
                                 f"{self.because[1]} had to be there")

    def _check_block(self, block, number, writes, numbers):
        if number == 0:
            ended = 0.0
        else:
            first, count, began, ended = writes[number]
            if not first <= block < first + count:
                raise AssertionError(f"block {block} has write {number}, which was elsewhere")
            if began > self.ended:
                raise AssertionError(f"block {block} has write {number}, which began after the answer")
            if began > self.earliest:
                self.earliest, self.because[0] = began, f"write {number} of block {block}"
        if ended is None:
            return
        for other in numbers[bisect.bisect_right(numbers, number):]:
            _, _, began, done = writes[other]
            if began > ended and done is not None and done < self.latest:
                self.latest, self.because[1] = done, f"write {other} of block {block}"

    @staticmethod
    def _check_whole(found, writes):
        for number in set(found) - {0}:
            first, count, began, _ = writes[number]
            for block in range(first, first + count):
                there = found[block]
                if there == number:
                    continue
                before = there == 0 or (writes[there][3] is not None and writes[there][3] < began)
                if before:
                    raise AssertionError(f"write {number} is there in part: block {block} has {there}")
