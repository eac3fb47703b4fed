#!/bin/sh
# Builds the crash test with each planted bug and expects it to fail; and without any, to pass.
#
#   libchunk/check_planted_bugs.sh SOURCE_DIRECTORY BUILD_DIRECTORY
#
# A planted bug is a macro that takes one safeguard out of the store:
#   TESSERA_PLANT_SKIP_FSYNC      the journal is not synced
#   TESSERA_PLANT_SKIP_DATA_SYNC  a flush does not sync data that was written directly
#   TESSERA_PLANT_SKIP_PLACE_SYNC a checkpoint does not sync the blocks it has moved
#   TESSERA_PLANT_SKIP_CRC        block checksums are not checked on reads
# A crash test that stays green with one of them is itself broken. Exit status: 0 when all are found.
set -eu

source_directory=$(cd "$1" && pwd)
build_directory=$2
status=0

run() {  # name, extra compile flags
  cmake -S "$source_directory" -B "$build_directory/$1" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_CXX_FLAGS="$2" >"$build_directory/$1.log" 2>&1
  ninja -j2 -C "$build_directory/$1" tessera_chunk_crash >>"$build_directory/$1.log" 2>&1
  "$build_directory/$1/bin/tessera_chunk_crash" --seeds 1..40 --operations 2000 \
    >>"$build_directory/$1.log" 2>&1
}

mkdir -p "$build_directory"
if run none ""; then
  echo "as it is: passes, as it should"
else
  echo "as it is: FAILS: see $build_directory/none.log"
  status=1
fi
for bug in SKIP_FSYNC SKIP_DATA_SYNC SKIP_PLACE_SYNC SKIP_CRC; do
  if run "$bug" "-DTESSERA_PLANT_$bug"; then
    echo "$bug: NOT FOUND: see $build_directory/$bug.log"
    status=1
  elif grep -q '^seed .* FAILED\|broken invariant' "$build_directory/$bug.log"; then
    echo "$bug: found"
  else
    echo "$bug: does not build or run: see $build_directory/$bug.log"
    status=1
  fi
done
exit $status
