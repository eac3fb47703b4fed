// Small facts of a node: identities, the state folder, the file that says where a part listens, and
// waiting for the end.
//
// Threads: any, except WaitForTermination (main thread, after BlockTerminationSignals).
#ifndef TESSERA_SERVICES_COMMON_NODE_H_
#define TESSERA_SERVICES_COMMON_NODE_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// A node's name is one of hosts (RFC 1123): 1 to 253 of a-z, 0-9, '-' and '.', no part of it empty.
inline constexpr char kNodeNameRule[] = "1 to 253 of a-z, 0-9, '-' and '.', no part of it empty";
[[nodiscard]] bool IsNodeName(std::string_view name);

// RFC 4122 version 4.
[[nodiscard]] std::string NewUuid();
// /etc/machine-id, or the boot id where there is none: names the kernel that processes share.
[[nodiscard]] std::string HostId();
// /proc/sys/kernel/random/boot_id.
[[nodiscard]] std::string BootId();

// Makes the folder (one level) with mode 0700, or checks that it can be written.
[[nodiscard]] absl::Status PrepareStateFolder(const std::string& path);
// Writes the whole file by rename, fsynced, with the mode.
[[nodiscard]] absl::Status WriteFileAtomically(const std::string& path, const std::string& content,
                                               int mode);
[[nodiscard]] absl::StatusOr<std::string> ReadFile(const std::string& path);

// <state folder>/endpoints: `name=value` lines, for tests and tools that let a part choose its
// ports.
[[nodiscard]] absl::Status WriteEndpointsFile(const std::string& state_folder,
                                              const std::map<std::string, std::string>& endpoints);

// Debian builds Abseil with its search for lock-order cycles on, also in optimised programs: 5 % of
// the data path's CPU. The sanitizer builds do that search.
void SkipDeadlockSearch();
// Buffers of a chunk come and go all the time. By default glibc gives each back to the kernel and
// has it anew, cleared page by page, which costs more than the copying. First thing in main.
void KeepFreedMemory();
// Blocks SIGINT and SIGTERM (and ignores SIGPIPE) in this and all later threads: first thing in
// main.
void BlockTerminationSignals();
// Returns the first of them that arrives.
int WaitForTermination();
// Tells systemd (sd_notify protocol, $NOTIFY_SOCKET) that the part is ready. Nothing without it.
void NotifyReady();

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_NODE_H_
