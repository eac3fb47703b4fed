#include "tools/cli/image_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace tessera::cli {
namespace {

absl::Status ErrnoStatus(const std::string& what) {
  return absl::UnknownError(absl::StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path) {
  if (path == "-") return std::unique_ptr<OutputFile>(new OutputFile(path, "", STDOUT_FILENO));
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
  }
  const std::string partial = absl::StrCat(path, ".partial");
  const int descriptor = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (descriptor < 0) return ErrnoStatus(partial);
  return std::unique_ptr<OutputFile>(new OutputFile(path, partial, descriptor));
}

OutputFile::~OutputFile() {
  if (partial_.empty()) return;
  close(descriptor_);
  if (!kept_) unlink(partial_.c_str());
}

absl::Status OutputFile::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(absl::StrCat("writing ", path_));
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Keep() {
  if (partial_.empty()) return absl::OkStatus();
  if (fsync(descriptor_) != 0) return ErrnoStatus(absl::StrCat("syncing ", partial_));
  if (rename(partial_.c_str(), path_.c_str()) != 0) return ErrnoStatus(path_);
  kept_ = true;
  const std::filesystem::path folder = std::filesystem::absolute(path_).parent_path();
  const int entry = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = entry >= 0 && fsync(entry) == 0;
  if (entry >= 0) close(entry);
  return synced ? absl::OkStatus() : ErrnoStatus(absl::StrCat("syncing ", folder.string()));
}

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(const std::string& path) {
  const int descriptor = path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0 && errno == ENOENT) {
    return absl::NotFoundError(absl::StrCat("there is no ", path));
  }
  if (descriptor < 0) return ErrnoStatus(path);
  return std::unique_ptr<InputFile>(new InputFile(path, descriptor));
}

InputFile::~InputFile() {
  if (descriptor_ != STDIN_FILENO) close(descriptor_);
}

absl::StatusOr<size_t> InputFile::Read(std::span<std::byte> bytes) {
  for (;;) {
    const ssize_t count = read(descriptor_, bytes.data(), bytes.size());
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) return ErrnoStatus(absl::StrCat("reading ", path_));
  }
}

}  // namespace tessera::cli
