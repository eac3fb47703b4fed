// Files and standard streams that images go to and come from.
//
// Threads: one.
#ifndef TESSERA_TOOLS_CLI_IMAGE_STREAMS_H_
#define TESSERA_TOOLS_CLI_IMAGE_STREAMS_H_

#include <memory>
#include <string>
#include <utility>

#include "tools/cli/image_file.h"

namespace tessera::cli {

// A file that has its name when it is whole, and goes when it is not kept. "-": standard output.
class OutputFile final : public ByteSink {
 public:
  // ALREADY_EXISTS: there is one.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path);
  ~OutputFile() override;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(std::span<const std::byte> bytes) override;
  // Durable, under its name.
  [[nodiscard]] absl::Status Keep();

 private:
  OutputFile(std::string path, std::string partial, int descriptor)
      : path_(std::move(path)), partial_(std::move(partial)), descriptor_(descriptor) {}

  const std::string path_;
  const std::string partial_;  // its name until then; empty: standard output
  const int descriptor_;
  bool kept_ = false;
};

// "-": standard input.
class InputFile final : public ByteSource {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<InputFile>> Open(const std::string& path);
  ~InputFile() override;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  absl::StatusOr<size_t> Read(std::span<std::byte> bytes) override;

 private:
  InputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  const std::string path_;
  const int descriptor_;
};

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_IMAGE_STREAMS_H_
