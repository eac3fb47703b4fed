#!/bin/sh
# Builds the crash test with each planted bug and expects it to fail; and without any, to pass.
#
#   libchunk/check_planted_bugs.sh SOURCE_DIRECTORY BUILD_DIRECTORY
#
# A planted bug is a macro that takes one safeguard out of the store:
#   SKIP_FSYNC        the journal is not synced
#   SKIP_DATA_SYNC    a flush does not sync data that was written directly
#   SKIP_PLACE_SYNC   a checkpoint does not sync the blocks it has moved
#   SKIP_FOLDER_SYNC  Open does not sync the store's folder and its parent
#   SKIP_REWRITE      recovery does not write again what a failed sync may have left in memory only
#   SKIP_COMMIT_SYNC  blocks and journal are reused before the commit that frees them is durable
#   REUSE_SUPERSEDED  a block that a later change replaced is reused before a checkpoint has freed it
#   SKIP_SWEEP        free blocks that held space at a crash are never given back
#   SKIP_REPAIR_CHECK a repair takes any content for a block, at any version
#   SKIP_CRC          block checksums are not checked on reads
#   WRITE_INHERITED   a checkpoint writes a block in place that the layer inherits
#   FREE_INHERITED    a checkpoint frees a block that the layer has inherited
#   KEEP_INHERITED    what a dropped layer shared has no owner afterwards
#   DROP_SHARED       a layer that several share with is dropped for good
#   DROP_NAMED        a layer is dropped that the journal still names
#   SKIP_BASE_ON_REPLAY  recovery makes a layer without its base
#   IGNORE_INHERITED  an image's inherited blocks are taken for zeros
#   IGNORE_FLOOR      a write goes to the newest layer of its branch, though a snapshot has it
#   CHANGE_BASE       a layer that is a base is changed
#   SKIP_OWNER        a shared block whose content was put back counts as changed
# On a block device (device_env_test and device_env_model_test, and the crash test with --device where that finds it, too):
#   DEVICE_REUSE_EARLY  units are given out again before a durable directory has forgotten them
#   DEVICE_FORGET_SIZE  a new size is not made durable by SyncData
#   DEVICE_SKIP_CONTENT_SYNC  a directory is written before the content that its sizes promise
#   DEVICE_SKIP_COPY_SYNC  the other copy of the directory is overwritten before this one is durable
#   DEVICE_SKIP_ZEROS  a file that grows shows what its units held before
# A crash test that stays green with one of them is itself broken. One build directory serves all:
# only the source with the macro is compiled again for each. Exit status: 0 when all are found.
set -eu

source_directory=$(cd "$1" && pwd)
build_directory=$2
mkdir -p "$build_directory"
status=0

build() {  # bug or nothing, log
  cmake -S "$source_directory" -B "$build_directory" -G Ninja \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTESSERA_CHUNK_PLANT="$1" >"$2" 2>&1 &&
    ninja -j2 -C "$build_directory" tessera_chunk_crash libchunk_device_env_test libchunk_device_env_model_test \
      >>"$2" 2>&1
}

crash() {  # log, arguments of the crash test
  log=$1
  shift
  "$build_directory/bin/tessera_chunk_crash" "$@" >>"$log" 2>&1
}

expect_red() {  # bug, arguments of the crash test
  bug=$1
  shift
  log=$build_directory/$bug.log
  if ! build "$bug" "$log"; then
    echo "$bug: DOES NOT BUILD: see $log"
    status=1
  elif crash "$log" "$@"; then
    echo "$bug: NOT FOUND: see $log"
    status=1
  elif grep -q '^seed .* FAILED\|broken invariant' "$log"; then
    echo "$bug: found: $(grep -m1 '^seed .* FAILED\|broken invariant' "$log" | cut -c1-160)"
  else
    echo "$bug: DOES NOT RUN: see $log"
    status=1
  fi
}

expect_red SKIP_FSYNC --seeds 1..20
expect_red SKIP_DATA_SYNC --seeds 1..40
expect_red SKIP_PLACE_SYNC --seeds 1..40
expect_red SKIP_FOLDER_SYNC --seeds 1..40
expect_red SKIP_REWRITE --seeds 1..40 --faults sync
expect_red SKIP_COMMIT_SYNC --seeds 1..40
expect_red REUSE_SUPERSEDED --seeds 1..40
expect_red SKIP_SWEEP --seeds 1..40
expect_red SKIP_CRC --seeds 1..20 --operations 400 --faults flip
expect_red SKIP_REPAIR_CHECK --seeds 1..20 --operations 400 --faults flip
for bug in WRITE_INHERITED FREE_INHERITED KEEP_INHERITED DROP_SHARED DROP_NAMED SKIP_BASE_ON_REPLAY IGNORE_INHERITED \
  IGNORE_FLOOR CHANGE_BASE SKIP_OWNER; do
  expect_red $bug --seeds 1..40
done

# As expect_red, by the tests of the device.
expect_red_device() {  # bug
  log=$build_directory/$1.log
  if ! build "$1" "$log"; then
    echo "$1: DOES NOT BUILD: see $log"
    status=1
  elif "$build_directory/bin/libchunk_device_env_test" >>"$log" 2>&1 &&
    "$build_directory/bin/libchunk_device_env_model_test" >>"$log" 2>&1; then
    echo "$1: NOT FOUND: see $log"
    status=1
  else
    echo "$1: found: $(grep -m1 -A1 'FAILED:' "$log" | tr '\n' ' ' | cut -c1-160)"
  fi
}
for bug in DEVICE_REUSE_EARLY DEVICE_FORGET_SIZE DEVICE_SKIP_CONTENT_SYNC DEVICE_SKIP_COPY_SYNC DEVICE_SKIP_ZEROS; do
  expect_red_device $bug
done

if build "" "$build_directory/none.log" && crash "$build_directory/none.log" --seeds 1..40 &&
  crash "$build_directory/none.log" --seeds 1..20 --operations 400 --faults flip &&
  crash "$build_directory/none.log" --seeds 1..20 --device; then
  echo "as it is: passes, as it should"
else
  echo "as it is: FAILS: see $build_directory/none.log"
  status=1
fi
exit $status
