// The parts of LoadKeyFile and SaveKeyFile (token.h) that tests and the fuzzer reach one by one:
// the bytes of a key file (FORMAT.md section 6), and the system calls that replace it.
//
// Threads: all functions may be called from any thread; callers that save to the same path take
// turns, because the new file is prepared under one fixed name beside it.
#ifndef TESSERA_LIBTOKEN_KEY_FILE_H_
#define TESSERA_LIBTOKEN_KEY_FILE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libtoken/token.h"

namespace tessera::token {

inline constexpr size_t kKeyFileKeysMax = 256;

// INVALID_ARGUMENT, without any key's bytes in the message, for a set of keys that no file may
// hold: none or more than kKeyFileKeysMax, an id twice, or an active id that is not among them.
[[nodiscard]] absl::Status CheckKeys(const KeyFile& keys);

// REQUIRES: CheckKeys(keys) is OK. The caller wipes the result.
[[nodiscard]] std::string EncodeKeyFile(const KeyFile& keys);

// DATA_LOSS for bytes that are torn or altered, UNIMPLEMENTED for a format version that is not
// known, INVALID_ARGUMENT as CheckKeys says.
[[nodiscard]] absl::StatusOr<KeyFile> DecodeKeyFile(std::string_view bytes);

// The system calls of this file, with the results and errno of the real ones, so that a test can
// fail or count each of them.
class KeyFileSystem {
 public:
  virtual ~KeyFileSystem() = default;
  virtual int Open(const std::string& path, int flags, mode_t mode) = 0;
  virtual int Close(int descriptor) = 0;
  virtual int Stat(int descriptor, struct stat* out) = 0;
  virtual int ChangeMode(int descriptor, mode_t mode) = 0;
  virtual ssize_t Read(int descriptor, void* out, size_t bytes) = 0;
  virtual ssize_t Write(int descriptor, const void* data, size_t bytes) = 0;
  virtual int Sync(int descriptor) = 0;
  virtual int Rename(const std::string& from, const std::string& to) = 0;
  virtual int Unlink(const std::string& path) = 0;
};

class PosixKeyFileSystem final : public KeyFileSystem {
 public:
  int Open(const std::string& path, int flags, mode_t mode) override;
  int Close(int descriptor) override;
  int Stat(int descriptor, struct stat* out) override;
  int ChangeMode(int descriptor, mode_t mode) override;
  ssize_t Read(int descriptor, void* out, size_t bytes) override;
  ssize_t Write(int descriptor, const void* data, size_t bytes) override;
  int Sync(int descriptor) override;
  int Rename(const std::string& from, const std::string& to) override;
  int Unlink(const std::string& path) override;
};

// LoadKeyFile: the errors of DecodeKeyFile, and NOT_FOUND if there is no such file,
// PERMISSION_DENIED if anybody but its owner may touch it, or its owner is neither this process's
// user nor root, FAILED_PRECONDITION if it is not a regular file, else what errno says.
[[nodiscard]] absl::StatusOr<KeyFile> LoadKeyFileFrom(KeyFileSystem& system,
                                                      const std::string& path);

// SaveKeyFile: when it returns OK the new keys are there after power loss, too. After an error or a
// crash the path holds the whole old file or the whole new one. An error of fsync is not retried.
[[nodiscard]] absl::Status SaveKeyFileTo(KeyFileSystem& system, const std::string& path,
                                         const KeyFile& keys);

}  // namespace tessera::token

#endif  // TESSERA_LIBTOKEN_KEY_FILE_H_
