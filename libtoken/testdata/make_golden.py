#!/usr/bin/env python3
"""Writes golden_v1.txt: grants, tokens, keys and a key file, made from FORMAT.md with nothing but
Python's hmac, hashlib and struct. golden_test.cc compares libtoken with it.

    ./make_golden.py > golden_v1.txt
"""
import hashlib
import hmac
import struct


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


GRANT = (
    "access transaction_operation key_id chunk_bytes grant_id sdc_id volume_id vtree_id pool_id "
    "volume_size_bytes generation snapshot_sequence issued_ms expiry_ms outage_expiry_ms "
    "bandwidth_limit_bytes iops_limit burst_seconds transaction_offset_bytes "
    "transaction_length_bytes"
).split()
TOKEN = (
    "operation binds_data grant_id generation placement_group_id epoch counter chunk_index "
    "snapshot_sequence sds_incarnation offset_bytes length_bytes data_crc32c"
).split()


def grant_bytes(grant, path):
    values = [grant[name] for name in GRANT]
    body = b"TSGR" + struct.pack("<HBBII11QQIIQQ", 2 if path else 1, *values)
    if path:
        body += struct.pack("<I", len(path)) + b"".join(struct.pack("<II", *part) for part in path)
    return body


def token_bytes(token):
    values = [token[name] for name in TOKEN]
    if not token["binds_data"]:
        values[-1] = 0
    return b"TSIO" + struct.pack("<BBBB8QIII", 1, values[0], values[1], 0, *values[2:])


def key_file(active, keys):
    body = b"TSKEYFIL" + struct.pack("<IIII", 1, len(keys), active, 0)
    for key_id, key in keys:
        body += struct.pack("<I", key_id) + key
    return body + struct.pack("<I", crc32c(body))


def show(name, value):
    print(name, value.hex() if isinstance(value, bytes) else value)


def io_case(secret, sds_id, grant, token, path=()):
    print("case io")
    show("secret", secret)
    show("sds_id", sds_id)
    for name in GRANT:
        show("grant." + name, grant[name])
    for i, (branch, ordinal_max) in enumerate(path):
        show(f"grant.path{i}.branch", branch)
        show(f"grant.path{i}.ordinal_max", ordinal_max)
    for name in TOKEN:
        show("token." + name, token[name])
    sds_key = mac(secret, b"sds key\0" + struct.pack("<Q", sds_id))
    grant_key = mac(sds_key, b"grant\0" + grant_bytes(grant, path))
    show("sds_key", sds_key)
    show("grant_bytes", grant_bytes(grant, path))
    show("grant_key", grant_key)
    show("signature", mac(grant_key, b"io\0" + token_bytes(token))[:16])


def message_case(key, purpose, message):
    print("case message")
    show("key", key)
    show("purpose", purpose)
    show("message", message)
    body = b"message\0" + struct.pack("<Q", len(purpose)) + purpose + message
    show("signature", mac(key, body))


def base_path_case(path):
    print("case base_path")
    for i, (branch, ordinal_max) in enumerate(path):
        show(f"path{i}.branch", branch)
        show(f"path{i}.ordinal_max", ordinal_max)
    show("checksum", crc32c(b"base path\0" + struct.pack("<I", len(path)) +
                            b"".join(struct.pack("<II", *part) for part in path)))


def main():
    secret = bytes(range(32))
    grant = dict(zip(GRANT, range(0x1111, 0x1111 + len(GRANT))), access=2, transaction_operation=1)
    token = dict(zip(TOKEN, range(0x2222, 0x2222 + len(TOKEN))), operation=2, binds_data=1)
    io_case(secret, 7, grant, token)
    io_case(secret, 2**64 - 1, grant, token)
    io_case(hashlib.sha256(b"another secret").digest(), 7, grant, token)

    widest = {name: 2**64 - 1 for name in GRANT + TOKEN}
    for name in "key_id chunk_bytes iops_limit burst_seconds".split():
        widest[name] = 2**32 - 1
    for name in "offset_bytes length_bytes data_crc32c".split():
        widest[name] = 2**32 - 1
    io_case(b"\xff" * 32, 0, dict(widest, access=3, transaction_operation=5),
            dict(widest, operation=5, binds_data=0))
    zero = {name: 0 for name in GRANT + TOKEN}
    io_case(bytes(32), 1, dict(zero, access=1, transaction_operation=1),
            dict(zero, operation=1, binds_data=1))
    io_case(secret, 7, grant, token, path=[(3, 2**32 - 1), (0, 4)])
    io_case(secret, 7, grant, token, path=[(20 - i, i) for i in range(16)])

    for size in (0, 1, 63, 64, 65, 95, 96, 97, 119, 120, 121, 1000):
        message_case(secret, b"fence receipt", bytes(i * 7 % 256 for i in range(size)))
    message_case(secret, b"fence", b" receipt")

    for path in ((), ((0, 2**32 - 1),), ((0, 0),), ((3, 2**32 - 1), (0, 4)), tuple((20 - i, i) for i in range(16))):
        base_path_case(path)

    print("case key_file")
    show("active_key_id", 9)
    show("key.3", secret)
    show("key.9", secret[::-1])
    show("bytes", key_file(9, [(3, secret), (9, secret[::-1])]))


main()
