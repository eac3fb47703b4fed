// tessera-verify-io: a verifying load on a volume, while somebody breaks the cluster.
//
// Several NBD connections read and write random blocks, each block stamped (block_stamp.h); the
// complete history is judged at the end (history.h). Lines on standard input steer it:
//
//   window        tells what happened since the last one: {"completed", "failed",
//   "longest_pause_ms",
//                 "longest_operation_ms"} and begins another
//   crash         all servers have lost power just now, and none has been started again yet
//   hold, go      rest until told to go on; "hold" is answered when nothing is in flight any more
//   uris U..      where to connect from now on
//   stop          finish, read every block once more, judge, and end
//
// Each line is answered by one line of JSON; the last one is the verdict. Exit code 0: all is well,
// 1: violations, 2: wrong use, 3: the last reading failed.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <thread>

#include "tools/verify_io/nbd_worker.h"

namespace {

using namespace tessera::verify_io;  // NOLINT: a program of one file

constexpr uint64_t kMillion = 1'000'000;

struct Flags {
  std::vector<std::string> uris;
  uint32_t connections = 4;
  uint32_t first_writer = 1;
  uint64_t last_read_seconds = 60;
  bool no_last_read = false;
  WorkerOptions worker;
};

void AddFlags(CLI::App* app, Flags* flags) {
  WorkerOptions& worker = flags->worker;
  app->add_option("--uri", flags->uris, "NBD URI; several are tried in turn.")->required();
  app->add_option("--connections", flags->connections, "NBD connections.")
      ->check(CLI::Range(1, 64));
  app->add_option("--first-writer", flags->first_writer,
                  "Number of the first connection's writer.");
  app->add_option("--seed", worker.seed, "Of the random order of operations.");
  app->add_option("--depth", worker.depth, "Operations in flight on a connection.")
      ->check(CLI::Range(1, 1024));
  app->add_option("--first-block", worker.first_block, "First block (4 KiB each) of the range.");
  app->add_option("--blocks", worker.block_count, "Blocks of the range.")
      ->check(CLI::Range(uint64_t{64}, uint64_t{1} << 40));
  app->add_option("--operation-blocks", worker.blocks_per_operation_max,
                  "Most blocks of one operation.")
      ->check(CLI::Range(1, 64));
  app->add_option("--write-percent", worker.write_percent)->check(CLI::Range(0, 100));
  app->add_option("--durable-percent", worker.durable_percent, "Of the writes, with FUA.")
      ->check(CLI::Range(0, 100));
  app->add_option("--flush-every", worker.flush_every, "Operations between flushes; 0: none.");
  app->add_option("--rate", worker.operations_per_second,
                  "Operations a second on each connection; 0: as many as go.");
  app->add_option("--operation-timeout-ms", worker.operation_timeout_ms,
                  "After this the connection is given up.");
  app->add_option("--last-read-seconds", flags->last_read_seconds, "Bound of the last reading.");
  app->add_flag("--no-last-read", flags->no_last_read, "Judge without a last reading.");
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::string List(const std::vector<std::string>& lines) {
  std::string list;
  for (const std::string& line : lines) list += (list.empty() ? "" : ", ") + Quoted(line);
  return "[" + list + "]";
}

class Run {
 public:
  explicit Run(const Flags& flags) : flags_(flags) {
    shared_.uris = flags.uris;
    for (uint32_t i = 0; i < flags.connections; ++i) {
      WorkerOptions options = flags.worker;
      options.writer = flags.first_writer + i;
      options.seed = flags.worker.seed * 1000003 + i;
      workers_.push_back(std::make_unique<NbdWorker>(options, &shared_));
    }
    for (const auto& worker : workers_) threads_.emplace_back([&worker] { worker->Run(); });
  }

  int Steer() {
    std::string line;
    while (std::getline(std::cin, line)) {
      std::istringstream words(line);
      std::string command;
      words >> command;
      if (command == "stop") break;
      Answer(command, words);
    }
    return Finish();
  }

 private:
  void Answer(const std::string& command, std::istringstream& words) {
    std::string answer = "{}";
    if (command == "window") {
      answer = Window();
    } else if (command == "crash") {
      crashes_.push_back(Now());
    } else if (command == "hold") {
      shared_.hold = true;
      while (shared_.resting.load() < workers_.size()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    } else if (command == "go") {
      shared_.hold = false;
    } else if (command == "uris") {
      const std::lock_guard lock(shared_.mutex);
      shared_.uris.clear();
      for (std::string uri; words >> uri;) shared_.uris.push_back(uri);
    } else {
      answer = "{\"error\": " + Quoted("unknown command '" + command + "'") + "}";
    }
    std::cout << answer << std::endl;
  }

  // The worst of the connections.
  std::string Window() {
    PauseWindow all;
    for (const auto& worker : workers_) {
      const PauseWindow one = worker->pauses().Take(Now());
      all.completed += one.completed;
      all.failed += one.failed;
      all.longest_pause = std::max(all.longest_pause, one.longest_pause);
      all.longest_operation = std::max(all.longest_operation, one.longest_operation);
    }
    std::ostringstream out;
    out << "{\"completed\": " << all.completed << ", \"failed\": " << all.failed
        << ", \"longest_pause_ms\": " << all.longest_pause / kMillion
        << ", \"longest_operation_ms\": " << all.longest_operation / kMillion
        << ", \"connected\": " << shared_.connected.load() << "}";
    return out.str();
  }

  int Finish() {
    shared_.hold = false;
    shared_.stop = true;
    for (std::thread& thread : threads_) thread.join();
    bool read = true;
    if (!flags_.no_last_read) {
      read = workers_.front()->ReadAll(flags_.worker.first_block, flags_.worker.block_count,
                                       flags_.last_read_seconds * 1000);
    }
    History history;
    for (const auto& worker : workers_) history.Append(worker->history());
    history.crashes = crashes_;
    const Verdict verdict = Judge(std::move(history));
    const uint64_t violations = verdict.violation_count + shared_.bad_block_count;
    std::string errors;
    for (const auto& [code, count] : shared_.errors) {
      errors += (errors.empty() ? "" : ", ") + Quoted(std::to_string(code)) + ": " +
                std::to_string(count);
    }
    std::cout << "{\"operations\": " << verdict.operations << ", \"blocks\": " << verdict.blocks
              << ", \"violations\": " << violations << ", \"what\": " << List(verdict.violations)
              << ", \"bad_blocks\": " << List(shared_.bad_blocks) << ", \"errors\": {" << errors
              << "}, \"reconnects\": " << shared_.reconnects.load()
              << ", \"read_back\": " << (read ? "true" : "false") << "}" << std::endl;
    if (violations > 0) return 1;
    return read ? 0 : 3;
  }

  const Flags flags_;
  Shared shared_;
  std::vector<std::unique_ptr<NbdWorker>> workers_;
  std::vector<std::thread> threads_;
  std::vector<Moment> crashes_;
};

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("A verifying load on a volume.", "tessera-verify-io");
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return Run(flags).Steer();
}
