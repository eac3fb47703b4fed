#include "tools/cli/operation_view.h"

#include <unistd.h>

#include <iostream>
#include <map>

#include "absl/strings/str_cat.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/format.h"

namespace tessera::cli {
namespace {

using Operations = v1::OperationService;

std::string KindOf(const v1::Operation& operation) {
  return FormatEnum(v1::OperationKind_descriptor(), operation.kind());
}

std::string StateOf(const v1::Operation& operation) {
  return FormatEnum(v1::OperationState_descriptor(), operation.state());
}

// ", 3 blocks found bad, 2 repaired, 1 lost": what there is to say.
std::string ScrubFigures(const v1::Operation& operation) {
  std::string text = absl::StrCat(", ", operation.blocks_found(), " bad blocks found");
  if (operation.blocks_repaired() > 0) {
    absl::StrAppend(&text, ", ", operation.blocks_repaired(), " repaired");
  }
  if (operation.blocks_unreadable() > 0) {
    absl::StrAppend(&text, ", ", operation.blocks_unreadable(), " lost");
  }
  if (operation.blocks_different() > 0) {
    absl::StrAppend(&text, ", ", operation.blocks_different(), " differ between replicas");
  }
  return text;
}

// Draws the operations that run over what was drawn before, on a terminal.
class Screen {
 public:
  void Draw(const std::map<uint64_t, v1::Operation>& operations) {
    Clear();
    for (const auto& [id, operation] : operations) {
      constexpr uint32_t kWidth = 24;
      const uint32_t full = PercentOf(operation) * kWidth / 100;
      std::cerr << "[" << std::string(full, '#') << std::string(kWidth - full, '.') << "] "
                << OperationLine(operation) << "\n";
      ++lines_;
    }
    std::cerr.flush();
  }
  void Clear() {
    for (; lines_ > 0; --lines_) std::cerr << "\x1b[1A\x1b[2K";
  }

 private:
  int lines_ = 0;
};

}  // namespace

std::string FormatDuration(uint64_t milliseconds) {
  if (milliseconds == 0) return "-";
  const uint64_t seconds = (milliseconds + 999) / 1'000;
  if (seconds < 60) return absl::StrCat(seconds, " s");
  if (seconds < 3'600) return absl::StrCat(seconds / 60, " min ", seconds % 60, " s");
  return absl::StrCat(seconds / 3'600, " h ", seconds % 3'600 / 60, " min");
}

uint32_t PercentOf(const v1::Operation& operation) {
  if (operation.state() == v1::OPERATION_STATE_SUCCEEDED) return 100;
  const uint64_t total = operation.bytes_total();
  if (total != 0) return static_cast<uint32_t>(operation.bytes_done() * 100 / total);
  if (operation.kind() == v1::OPERATION_KIND_SCRUB && operation.devices_total() > 0) {
    return operation.devices_done() * 100 / operation.devices_total();
  }
  if (operation.placement_groups_total() == 0) return 0;
  return operation.placement_groups_done() * 100 / operation.placement_groups_total();
}

std::string OperationLine(const v1::Operation& operation) {
  std::string line = absl::StrCat(KindOf(operation), " ", operation.operation_id(), " of ",
                                  operation.subject(), ": ");
  if (operation.kind() == v1::OPERATION_KIND_SCRUB && operation.ended_ms() != 0) {
    return absl::StrCat(line, StateOf(operation), ", ", FormatSize(operation.bytes_done()), " read",
                        ScrubFigures(operation));
  }
  if (operation.ended_ms() != 0) {
    return absl::StrCat(line, StateOf(operation), ", ", operation.placement_groups_done(),
                        " placement groups, ", FormatSize(operation.bytes_done()));
  }
  absl::StrAppend(&line, PercentOf(operation), " %, ", FormatSize(operation.bytes_done()), " of ",
                  FormatSize(operation.bytes_total()), ", ",
                  FormatSize(operation.bytes_per_second()), "/s, ",
                  FormatDuration(operation.eta_ms()), " left");
  if (operation.kind() == v1::OPERATION_KIND_SCRUB) {
    absl::StrAppend(&line, ScrubFigures(operation));
  }
  if (operation.state() != v1::OPERATION_STATE_RUNNING) {
    absl::StrAppend(&line, ", ", StateOf(operation));
  }
  if (!operation.last_error().empty()) absl::StrAppend(&line, " (", operation.last_error(), ")");
  return line;
}

void PrintOperations(const std::vector<v1::Operation>& operations) {
  Table table({"ID", "KIND", "OF", "STATE", "DONE", "PGS", "BYTES", "RATE", "LEFT", "RETRIES",
               "LAST ERROR"});
  for (const v1::Operation& operation : operations) {
    table.Add(
        {absl::StrCat(operation.operation_id()), KindOf(operation), operation.subject(),
         StateOf(operation), absl::StrCat(PercentOf(operation), " %"),
         absl::StrCat(operation.placement_groups_done(), "/", operation.placement_groups_total()),
         absl::StrCat(FormatSize(operation.bytes_done()), " of ",
                      FormatSize(operation.bytes_total())),
         operation.bytes_per_second() == 0
             ? "-"
             : absl::StrCat(FormatSize(operation.bytes_per_second()), "/s"),
         FormatDuration(operation.eta_ms()), absl::StrCat(operation.retries()),
         operation.last_error().empty() ? "-" : operation.last_error()});
  }
  table.Print(std::cout);
}

std::vector<v1::Operation> ListOperations(Client* client,
                                          const v1::ListOperationsRequest& request) {
  std::vector<v1::Operation> all;
  v1::ListOperationsRequest page = request;
  do {
    const auto response = client->Call<Operations>(&Operations::Stub::ListOperations, page);
    all.insert(all.end(), response.operations().begin(), response.operations().end());
    page.set_page_token(response.next_page_token());
  } while (!page.page_token().empty());
  return all;
}

int FollowOperations(Client* client, const v1::WatchOperationsRequest& request) {
  const bool json = client->globals().output == Output::kJson;
  const bool draw = !json && isatty(STDERR_FILENO) == 1;
  grpc::ClientContext context;
  client->Prepare(&context);
  const auto stub = Operations::NewStub(client->Channel(client->globals().endpoint));
  const auto reader = stub->WatchOperations(&context, request);
  Screen screen;
  std::map<uint64_t, v1::Operation> running;
  std::map<uint64_t, uint32_t> told;  // per cent, by operation
  v1::WatchOperationsResponse message;
  bool over = false;
  while (!over && reader->Read(&message)) {
    if (json && message.operations_size() > 0) PrintJson(std::cout, message);
    for (const v1::Operation& operation : message.operations()) {
      const bool ended = operation.ended_ms() != 0;
      const uint32_t percent = PercentOf(operation);
      const auto before = told.find(operation.operation_id());
      const bool news = before == told.end() || before->second != percent || ended;
      told[operation.operation_id()] = percent;
      if (ended) {
        running.erase(operation.operation_id());
      } else {
        running[operation.operation_id()] = operation;
      }
      if (json || !news || (draw && !ended)) continue;
      screen.Clear();
      std::cout << OperationLine(operation) << std::endl;
    }
    if (draw) screen.Draw(running);
    over = running.empty();
  }
  if (over) context.TryCancel();
  const grpc::Status status = reader->Finish();
  if (!over) {
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) return kTimedOut;
    Client::Check(status, client->globals().endpoint);
  }
  if (request.operation_id() == 0) return kDone;
  v1::GetOperationRequest get;
  get.set_operation_id(request.operation_id());
  const v1::Operation last =
      client->Call<Operations>(&Operations::Stub::GetOperation, get).operation();
  return last.state() == v1::OPERATION_STATE_CANCELLED ? kFailed : kDone;
}

}  // namespace tessera::cli
