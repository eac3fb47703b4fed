// Operations for people: lists, one line, and progress while they run.
//
// Threads: one.
#ifndef TESSERA_TOOLS_CLI_OPERATION_VIEW_H_
#define TESSERA_TOOLS_CLI_OPERATION_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tessera/v1/operation.pb.h"

namespace tessera::cli {

class Client;

// "3 min 20 s", "45 s", "-" for 0.
[[nodiscard]] std::string FormatDuration(uint64_t milliseconds);
// Of the bytes, or of the placement groups where there are no bytes: 0 to 100.
[[nodiscard]] uint32_t PercentOf(const v1::Operation& operation);
// "rebuild 3 of device 4 of sds2: 42 %, 1.2 GiB of 2.8 GiB, 120 MiB/s, 13 s left".
[[nodiscard]] std::string OperationLine(const v1::Operation& operation);
void PrintOperations(const std::vector<v1::Operation>& operations);

// All pages.
[[nodiscard]] std::vector<v1::Operation> ListOperations(Client* client,
                                                        const v1::ListOperationsRequest& request);
// Follows one (its id) or all that run of the kinds, until they have ended; at most the client's
// timeout. On a terminal progress goes to standard error; else each change is a line (or a JSON
// message) on standard output. Returns the exit code: 0, 1 when the one followed was cancelled, 7
// when time ran out.
[[nodiscard]] int FollowOperations(Client* client, const v1::WatchOperationsRequest& request);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_OPERATION_VIEW_H_
