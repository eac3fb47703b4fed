#!/usr/bin/env python3
"""Writes the fuzzer's first inputs into corpus/: the golden grants and key file, and tokens that are
good by all rules, so that mutations start next to every border. The first byte is token_fuzz.cc's
choice of decoder."""
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
MIB = 1 << 20


def grant(access, operation=1, transaction=(0, 0)):
    return b"TSGR" + struct.pack("<HBBII11QQIIQQ", 1, access, operation, 1, MIB, 100, 6, 7, 8, 9,
                                 10 * MIB, 5, 2, 1000, 61000, 661000, 0, 0, 0, *transaction)


def token(operation, binds_data=1, chunk=1, offset=8192, length=4096, reachable=1, now=2000):
    body = struct.pack("<BBQQQQQIIIQ", operation, binds_data, 100, 5, 77, chunk, 2, offset, length, 1,
                       55)
    return body + struct.pack("<BQQQ", reachable, now, 5, 55) + bytes(16)


def main():
    CORPUS.mkdir(exist_ok=True)
    inputs = {
        "token_write": b"\x02" + grant(2) + token(2),
        "token_read_only": b"\x02" + grant(1) + token(1),
        "token_flush": b"\x02" + grant(2) + token(5, length=0),
        "token_outage": b"\x02" + grant(2) + token(4, reachable=0, now=62000),
        "token_transaction": b"\x02" + grant(3, 2, (MIB, 2 * MIB)) + token(2, binds_data=0),
        "token_last_bytes": b"\x02" + grant(2) + token(3, chunk=9, offset=MIB - 512, length=512),
    }
    for line in (HERE / "golden_v1.txt").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "grant_bytes":
            inputs.setdefault("grant", b"\x00" + bytes.fromhex(value))
        if name == "bytes":
            inputs["key_file"] = b"\x01" + bytes.fromhex(value)
    for name, content in inputs.items():
        (CORPUS / name).write_bytes(content)


main()
