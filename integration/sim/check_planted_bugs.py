#!/usr/bin/env python3
"""Takes one safeguard after another out of the services and expects the simulator to notice.

    integration/sim/check_planted_bugs.py BUILD_DIRECTORY [--first N] [--seeds N] [NAME..]

Each planted bug is a small change of one source file. The file is copied, changed, compiled with the
command of the build, and linked in front of the library that has the true one; nothing in the tree
or in the build changes. The simulator then runs seeds until one shows a violation. A bug that N
seeds do not show is NOT FOUND; so is one whose place in the source is gone. Exit status: 0 when all
are found.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys

# Name: what is taken away, the file, and (text, replacement) pairs.
BUGS = {
    "no_generation_check": (
        "servers take IO of older generations",
        {
            "services/sds/admission.cc": [
                (
                    "token::CheckToken(shown->grant, shown->key, TokenOf(what, *TokenOperation(what.type())),\n"
                    "                        signature, context_->incarnation, lowest, now);",
                    "token::CheckToken(shown->grant, shown->key, TokenOf(what, *TokenOperation(what.type())),\n"
                    "                        signature, context_->incarnation, lowest * 0, now);",
                )
            ],
            "services/sds/device_worker.cc": [
                ("if (operation.operation->generation() >= lowest) return true;", "if (lowest + 1 > 0) return true;")
            ],
        },
    ),
    "no_epoch_check": (
        "servers take IO of older epochs",
        {
            "services/sds/replica_rules.cc": [
                ("if (operation_epoch < membership.epoch) return v1::IO_STATUS_STALE_EPOCH;", "")
            ]
        },
    ),
    "acknowledged_by_one": (
        "a write is acknowledged when one replica has it",
        {
            "services/sdc/rules/placement_group_writer.cc": [
                ("if ((front.answered & AllMembers()) != AllMembers()) return completion;", "if (front.answered == 0) return completion;")
            ]
        },
    ),
    "acknowledged_before_removal": (
        "a write is acknowledged without a replica that was reported, before the MDM has decided",
        {
            "services/sdc/rules/placement_group_writer.cc": [
                (
                    "bool PlacementGroupWriter::ReportFailed(uint64_t device_id) {",
                    "bool PlacementGroupWriter::ReportFailed(uint64_t device_id) {\n"
                    "  for (size_t i = 0; i < count_; ++i) {\n"
                    "    if (Find(device_id) != kNone) At(i).answered |= 1u << Find(device_id);\n"
                    "  }",
                )
            ]
        },
    ),
    "no_reconciliation": (
        "in-sync replicas may differ when a new generation begins",
        {
            "services/mdm/volume_fence.cc": [
                ("differs = RemoveShorter(&group, cursors) || differs;", "(void)RemoveShorter;")
            ]
        },
    ),
    "learner_counted_early": (
        "a learner says it is done before it has compared anything",
        {
            "services/sds/learner_state.h": [
                (
                    "return base_known_ && listing_done_ && pending_.empty() && failure_.empty();",
                    "return base_known_ && failure_.empty();",
                )
            ]
        },
    ),
    "copy_overwrites_newer": (
        "a copied chunk overwrites blocks that came by the stream",
        {
            "services/sds/learning_steps.cc": [
                ("PlanMerge(image, received, here,", "PlanMerge(image, nullptr, here,")
            ]
        },
    ),
    "unflushed_trusted": (
        "a replica stays in sync although its server lost power",
        {
            "services/mdm/discovery_service.cc": [
                ("if (description.volatile_state_lost() || !description.failure().empty()) {", "if (!description.failure().empty()) {")
            ]
        },
    ),
    "no_next_sequence_rule": (
        "a replica takes any later sequence, not only the next",
        {
            "services/sds/replica_rules.cc": [
                ("if (version.sequence == last + 1) return", "if (version.sequence > last) return")
            ]
        },
    ),
    "no_replay_window": (
        "a read's token works more than once",
        {
            "services/sds/admission.cc": [
                ("const token::Refusal refusal = shown->window->Use(operation.operation->counter());",
                 "(void)operation;\n  const token::Refusal refusal = token::Refusal::kNone;")
            ]
        },
    ),
    "fence_does_not_wait": (
        "a fence is over although the last holder of a replica has not confirmed it",
        {
            "services/mdm/volume_fence.cc": [
                ("if (!round->waiting_for.empty() && (!over || round->must_answer)) return absl::OkStatus();", "(void)over;")
            ]
        },
    ),
    "removal_by_fence_skipped": (
        "replicas that did not confirm a fence stay in sync, and are not waited for",
        {
            "services/mdm/volume_fence.cc": [
                ("bool differs = RemoveUnconfirmed(&group, round->confirmed);", "bool differs = false;"),
                ("const ServerSet holders = UnconfirmedHolders(group, round->confirmed);", "const ServerSet holders;"),
            ]
        },
    ),
    "read_not_held": (
        "a read that overlaps a write in flight is answered at once",
        {
            "services/sdc/rules/range_gate.cc": [
                ("bool RangeGate::Waits(Kind later, Kind earlier) {", "bool RangeGate::Waits(Kind later, Kind earlier) {\n  if (later == Kind::kRead) return false;")
            ]
        },
    ),
    "generation_not_persisted": (
        "a server forgets the lowest generation when it restarts",
        {"services/sds/volume_table.cc": [("TESSERA_RETURN_IF_ERROR(persist_(risen));", "")]},
    ),
    "role_not_rechecked": (
        "a read's epoch and role are not checked again after the disk",
        {
            "services/sds/device_worker_io.cc": [
                ("if (!CheckUsable(operation, &replica, Audience::kReader)) return false;", "(void)replica;")
            ]
        },
    ),
    "loss_told_to_one": (
        "of flushes that cover lost writes only the first round fails",
        {
            "services/sdc/engine/volume_flush.cc": [
                ("const uint64_t losses = flushes_.losses();",
                 "const uint64_t losses = flushes_.losses();\n  const uint64_t told_before = told_losses_;"),
                ("if (request->told_losses < losses && request->error == 0) {",
                 "if (told_before < losses && request->error == 0) {"),
            ]
        },
    ),
    "loss_not_in_map": (
        "the map does not say that the last replica came back without its unflushed writes",
        {
            "services/mdm/discovery_service.cc": [
                ("if (last) group.set_loss_epoch(group.epoch());", "(void)last;")
            ]
        },
    ),
    "copies_before_loss_is_told": (
        "a server that lost unflushed writes and has not told the MDM is learned from",
        {
            "services/sds/replica_service.cc": [
                ("if (worker->device()->volatile_state_lost()) {", "if (false) {")
            ]
        },
    ),
    "flush_of_one_device": (
        "a flush asks one device and not all",
        {
            "services/sdc/engine/volume_flush.cc": [
                ("  for (const ReplicaName& target : targets) SendFlush(target.device_id);",
                 "  for (const ReplicaName& target : targets) {\n"
                 "    if (&target == targets.data()) {\n      SendFlush(target.device_id);\n    } else {\n"
                 "      (void)flushes_.DeviceFlushed(target.device_id, 0);\n"
                 "      flushes_.DropReplica(target);\n    }\n  }")
            ]
        },
    ),
    "behind_is_read": (
        "nothing is read from a replica that may lack answered writes",
        {
            "services/sdc/engine/volume_pieces.cc": [
                ("candidate.usable = member.in_sync && !member.behind &&", "candidate.usable = member.in_sync &&")
            ]
        },
    ),
    "flush_before_caught_up": (
        "a flush waits for a replica that is given answered writes again",
        {
            "services/sdc/engine/volume_retention.cc": [
                ("  flushes_.Suspect(replica);\n", ""),
                ("return group->flush_mark > 0 && group->writer.learners_in_doubt();",
                 "return group->flush_mark > 0 && group->writer.epoch() == 0;"),
            ]
        },
    ),
    "loss_given_up_silently": (
        "what is not kept and was lost by the last replica is told",
        {
            "services/sdc/engine/volume_retention.cc": [
                ("  if (!flushes_.LoseGroup(placement_group_id)) return;",
                 "  if (placement_group_id > 0 || !flushes_.LoseGroup(placement_group_id)) return;")
            ]
        },
    ),
    "no_map_with_grant": (
        "a grant comes with the newest map of its pool",
        {"services/mdm/token_service.cc": [("  if (newest) return;", "  if (newest || pool_id > 0) return;")]},
    ),
    "learner_takes_older_generations": (
        "a learner refuses the generations that its source refuses",
        {"services/sds/learner.cc": [("engine_->RaiseGenerations(lowest)", "engine_->RaiseGenerations({})")]},
    ),
    "resume_without_in_flight": (
        "a restarted client goes on without the writes that were not answered",
        {
            "services/sdc/resume/resume_reader.cc": [
                ("    if (KindOf(record) != Kind::kWrite) continue;",
                 "    if (KindOf(record) != Kind::kWrite) continue;\n"
                 "    if (record.sequence >= groups[record.group_id].front_sequence) continue;")
            ]
        },
    ),
    "resume_without_kept": (
        "a restarted client goes on without the writes that were answered and not flushed",
        {
            "services/sdc/resume/resume_reader.cc": [
                ("    if (KindOf(record) != Kind::kWrite) continue;",
                 "    if (KindOf(record) != Kind::kWrite) continue;\n"
                 "    if (record.sequence < groups[record.group_id].front_sequence) continue;")
            ]
        },
    ),
    "resume_numbers_anew": (
        "a restarted client that has nothing in flight or kept numbers its writes from 1 again",
        {
            "services/sdc/engine/volume_resume.cc": [
                ("  group.writer.Resume(left.front_sequence,",
                 "  group.writer.Resume(left.writes.empty() ? 1 : left.front_sequence,")
            ]
        },
    ),
    "resume_read_not_held": (
        "a read does not wait for an unanswered write of the client's earlier life",
        {
            "services/sdc/engine/volume_resume.cc": [
                ("gate_.Enter(RangeGate::Kind::kWrite, request->widened, request)",
                 "gate_.Enter(RangeGate::Kind::kWrite, ByteRange{}, request)")
            ]
        },
    ),
    "resume_with_an_old_map": (
        "a restarted client knows the map as it was when its first volume was attached",
        {
            "services/sdc/engine/engine_resume.cc": [
                ("  if (table_ == nullptr) return;\n  const MapCache::Group*",
                 "  if (table_ == nullptr || !volumes_.empty()) return;\n  const MapCache::Group*")
            ]
        },
    ),
    "missed_epochs": (
        "a member that may have left and come back between two entries is asked what it has",
        {
            "services/sdc/rules/placement_group_writer.cc": [
                ("const bool missed = entry.epoch > epoch_ + 1;", "const bool missed = false;")
            ]
        },
    ),
    "outdated_cursors": (
        "a new writer's replicas are compared by what they said before they learned",
        {
            "services/mdm/volume_fence.cc": [
                ("round->outdated = OutdatedAnswers(groups, *round);", "(void)OutdatedAnswers;")
            ]
        },
    ),
    "shrunk_without_discard": (
        "what lies beyond a smaller end is discarded before the end is answered",
        {
            "services/sdc/engine/volume_shrink.cc": [
                ("discard.length_bytes = present - size_bytes;", "discard.length_bytes = 4096;")
            ]
        },
    ),
    "cut_before_writes_end": (
        "a snapshot waits for the writes that are on their way",
        {
            "services/sdc/engine/volume_hold.cc": [
                ("hold_.flushing || writes_taken_ > 0) return;", "hold_.flushing) return;")
            ]
        },
    ),
    "cut_without_flush": (
        "what a snapshot has is durable before it is ready",
        {
            "services/sdc/engine/volume_hold.cc": [
                (
                    "if (!flushes_.clean() || !retaining_groups_.empty() || uncovered_) return FlushForHold();",
                    "",
                )
            ]
        },
    ),
    "snapshot_of_another_generation": (
        "a snapshot is not made where the volume has moved on meanwhile",
        {
            "services/mdm/snapshot_maker.cc": [
                (
                    "      if (!volume.has_value() || volume->generation != part.volume.generation) {\n"
                    "        return MovedOn(part.volume);\n"
                    "      }\n"
                    "      RevokeWritersBelow(",
                    "      if (!volume.has_value()) return MovedOn(part.volume);\n      RevokeWritersBelow(",
                )
            ]
        },
    ),
    "seen_layers_dropped": (
        "a layer that a path sees is kept",
        {
            "services/sds/layer_drop.cc": [
                ("if (newest.has_value()) kept.insert(*newest);", ""),
                ("if (newest_known.has_value()) kept.insert(*newest_known);", ""),
            ]
        },
    ),
    "made_from_what_is_not_verified": (
        "a learner makes a layer only from what is verified",
        {
            "services/sds/learner_state.cc": [
                ("if (!AnyPendingBelow(key) || is_here()) return true;", "return true;")
            ]
        },
    ),
    "failed_store_unnoticed": (
        "a store that fails where no client's operation meets it is noticed at the next heartbeat",
        {
            "services/sds/io_engine.cc": [
                ("if (const absl::Status failed = store->failed(); !failed.ok()) worker->FailDevice(failed);", "")
            ],
            "services/sds/learner.cc": [
                ("store == nullptr ? absl::OkStatus() : store->failed();", "absl::OkStatus(); (void)store;")
            ],
        },
    ),
}


def commands_of(build):
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        return {os.path.realpath(entry["file"]): entry for entry in json.load(file)}


def plant(source_root, text_by_path, folder):
    """Writes the changed copies; returns path -> copy. KeyError: a place in the source is gone."""
    copies = {}
    for path, changes in text_by_path.items():
        with open(os.path.join(source_root, path), encoding="utf-8") as file:
            text = file.read()
        for old, new in changes:
            if text.count(old) != 1:
                raise KeyError(f"{path}: '{old.splitlines()[0]}' is there {text.count(old)} times")
            text = text.replace(old, new)
        copies[path] = os.path.join(folder, path)
        os.makedirs(os.path.dirname(copies[path]), exist_ok=True)
        with open(copies[path], "w", encoding="utf-8") as file:
            file.write(text)
    return copies


def compile_copy(entry, copy, folder):
    """Compiles a changed source with its own command; headers that were changed come first."""
    arguments = shlex.split(entry["command"])
    out = copy + ".o"
    position = arguments.index("-o")
    arguments[position + 1] = out
    arguments = [copy if os.path.realpath(os.path.join(entry["directory"], a)) == os.path.realpath(entry["file"]) else a
                 for a in arguments]
    first_include = next(i for i, argument in enumerate(arguments) if argument.startswith("-I"))
    arguments.insert(first_include, "-I" + folder)
    arguments.append("-Wno-error")
    subprocess.run(arguments, cwd=entry["directory"], check=True, capture_output=True)
    return out


def sources_of(path):
    """The sources to compile again for a change of a header: those that matter for what it does."""
    return {"services/sds/learner_state.h": ["services/sds/learning_steps.cc"]}.get(path, [path])


def build_mutant(build, source_root, name, bugs, program):
    """The program with one bug planted."""
    folder = os.path.join(build, "planted", name)
    copies = plant(source_root, bugs[name][1], folder)
    entries = commands_of(build)
    objects = []
    for path in copies:
        for source in sources_of(path):
            copy = os.path.join(folder, source)
            if source not in copies:
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                with open(os.path.join(source_root, source), encoding="utf-8") as file:
                    text = file.read()
                with open(copy, "w", encoding="utf-8") as file:
                    file.write(text)
            objects.append(compile_copy(entries[os.path.realpath(os.path.join(source_root, source))], copy, folder))
    listed = subprocess.run(["ninja", "-C", build, "-t", "commands", f"bin/{program}"], check=True,
                            capture_output=True, text=True)
    link = [line for line in listed.stdout.splitlines() if f"-o bin/{program}" in line][-1]
    binary = os.path.join("planted", name, program)
    link = link.replace(f"-o bin/{program}", "-o " + shlex.quote(binary) + " " + " ".join(map(shlex.quote, objects)))
    subprocess.run(link, shell=True, cwd=build, check=True, capture_output=True)
    return os.path.join(build, binary)


def run(bugs, program, description):
    """A program that takes --first, --seeds and --stop, and says "seed N FAILED: .."."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("build")
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("names", nargs="*")
    options = parser.parse_intermixed_args()
    source_root = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
    status = 0
    for name in options.names or bugs:
        try:
            binary = build_mutant(os.path.realpath(options.build), source_root, name, bugs, program)
        except (KeyError, IndexError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or error
            detail = detail.decode() if isinstance(detail, bytes) else str(detail)
            print(f"{name}: CAN'T BE PLANTED: {detail[:600]}", flush=True)
            status = 1
            continue
        command = [binary, "--first", str(options.first), "--seeds", str(options.seeds), "--stop"]
        if options.steps:
            command += ["--steps", str(options.steps)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        found = re.search(r"^seed (\d+) FAILED: (.*)$", ended.stdout, re.MULTILINE)
        if found:
            print(f"{name}: found by seed {found[1]}: {found[2][:160]}", flush=True)
        else:
            print(f"{name}: NOT FOUND in {options.seeds} seeds", flush=True)
            status = 1
        os.unlink(binary)
    return status


if __name__ == "__main__":
    sys.exit(run(BUGS, "tessera-sim", __doc__.splitlines()[0]))
