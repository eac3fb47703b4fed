// Sizes, tables and JSON on standard output.
//
// Threads: free functions; Table is for one thread.
#ifndef TESSERA_TOOLS_CLI_FORMAT_H_
#define TESSERA_TOOLS_CLI_FORMAT_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace google::protobuf {
class Message;
class EnumDescriptor;
}  // namespace google::protobuf

namespace tessera::cli {

// "10GiB", "4096", "1.5TiB" (binary), "10GB" (decimal). INVALID_ARGUMENT with the forms that are
// right.
[[nodiscard]] absl::StatusOr<uint64_t> ParseSize(const std::string& text);
// "10 GiB", "1.5 GiB", "512 B".
[[nodiscard]] std::string FormatSize(uint64_t bytes);
// "COMPONENT_STATE_ONLINE" -> "online": what follows the enum's own name.
[[nodiscard]] std::string FormatEnum(const google::protobuf::EnumDescriptor* type, int value);
// "12 s ago".
[[nodiscard]] std::string FormatAge(uint64_t then_ms, uint64_t now_ms);

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Columns as wide as their widest cell, two spaces between.
  void Print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// The message as protobuf JSON, indented, with all fields.
void PrintJson(std::ostream& out, const google::protobuf::Message& message);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_FORMAT_H_
