#!/usr/bin/env python3
"""Takes one safeguard of the read cache after another away and expects the model to notice.

    integration/cache/check_planted_bugs.py BUILD_DIRECTORY [--first N] [--seeds N] [NAME..]

As integration/sim/check_planted_bugs.py, with tessera-cache-model.
"""

import importlib.util
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
CACHE = "services/sdc/cache/read_cache.cc"
FOLDER = "services/sdc/cache/cache_folder.cc"
LEASES = "services/mdm/cache_leases.cc"

SAME_NAME = ("identity.generation,\n", "0 * identity.generation,\n")

# Name: what is taken away, the file, and (text, replacement) pairs.
BUGS = {
    "fill_after_write": (
        "what was read before a write began is put in after it",
        {CACHE: [("for (Fill& fill : fills_) fill.spoiled |= fill.range.Overlaps(blocks);", "")]},
    ),
    "fill_during_write": (
        "what is read while an earlier write is under way is put in",
        {CACHE: [("if (writes_in_flight || cache_.figures_.resting", "if (cache_.figures_.resting")]},
    ),
    "write_leaves_lines": (
        "a write takes nothing out",
        {CACHE: [("const auto edge = [this](uint64_t line, BlockMask part) {\n    cache_.index_.Invalidate({space_, line}, part);",
                  "const auto edge = [](uint64_t, BlockMask) {")]},
    ),
    "kept_over_generations": (
        "a volume that is attached again under another generation finds what it had, which is not in checksums",
        {CACHE: [("    cache_.index_.DropSpace(space_);\n  }\n}", "    cache_.restored_.push_back({space_, identity_});\n  }\n}"),
                 ("return left.identity == identity;", "return left.identity.volume_id == identity.volume_id;"),
                 ("if (resumed && found != restored_.end())", "if ((resumed || true) && found != restored_.end())"), SAME_NAME]},
    ),
    "kept_over_losses": (
        "a loss of answered writes drops nothing",
        {CACHE: [("void CachedVolume::Drop() {\n", "void CachedVolume::Drop() {\n  if (space_ != 0) return;\n"), SAME_NAME]},
    ),
    "kept_over_a_crash": (
        "what an orderly stop has left is taken again and again",
        {FOLDER: [("    Empty(database);\n    return absl::OkStatus();\n  }));\n  return saved;", "    return absl::OkStatus();\n  }));\n  return saved;"),
                  ("Unsigned(left.getColumn(1)) + 1 == owner_.incarnation &&", "Unsigned(left.getColumn(1)) < owner_.incarnation &&")]},
    ),
    "checksums_not_checked": (
        "what is in the file is believed",
        {CACHE: [("          index_.checksum(part.ref, part.first_block + i)) {", "          index_.checksum(part.ref, part.first_block + i) || true) {")]},
    ),
    "no_lease_needed": (
        "the client reads from its cache whether it has a lease or not",
        {CACHE: [("return cache_.now_() < lease_until_nanos_;", "return cache_.now_() < lease_until_nanos_ || true;")]},
    ),
    "lease_counted_from_the_answer": (
        "the client counts from when it has the answer",
        {CACHE: [("std::max(lease_until_nanos_, sent_nanos + lease_ms", "std::max(lease_until_nanos_, 0 * sent_nanos + cache_.now_() + lease_ms")]},
    ),
    "lease_kept_after_the_word": (
        "a client that gave its lease up goes on with it",
        {CACHE: [("  Drop();\n  given_up_ = identity_.generation;\n  EndLease();", "  given_up_ = identity_.generation;")]},
    ),
    "lease_not_waited_for": (
        "a generation ends while leases of older ones last",
        {LEASES: [("  return end;\n", "  return 0 * end;\n")]},
    ),
    "leases_forgotten": (
        "a restarted MDM knows of no lease",
        {LEASES: [("    while (query.Next()) {\n      Lease lease;", "    while (query.Next() && left.size() > 1'000) {\n      Lease lease;")]},
    ),
    "lease_of_an_old_generation": (
        "leases are given under a generation that is over",
        {LEASES: [("if (!volume.has_value() || volume->generation != generation) return false;", "if (!volume.has_value()) return false;")]},
    ),
    "lease_beside_a_writer": (
        "a reader gets a lease beside a writer",
        {LEASES: [("return mapped && (alone || !written);", "return mapped && (alone || !written || true);")]},
    ),
    "lease_beside_a_write_token": (
        "a reader gets a lease under a generation with a write token",
        {LEASES: [("if (HadWriteToken(db, volume_id, generation)) return false;", "(void)HadWriteToken(db, volume_id, generation);")]},
    ),
    "lease_not_noted": (
        "a wish is noted after it was judged",
        {LEASES: [("    found->end_ms = now + kLeaseMillis;\n", "")]},
    ),
}

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("sim_planted", HERE.parent / "sim" / "check_planted_bugs.py")
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    sys.exit(planted.run(BUGS, "tessera-cache-model", __doc__.splitlines()[0]))
