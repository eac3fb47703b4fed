// What every test of servers needs, and costs nothing to include.
//
// Threads: one.
#ifndef TESSERA_SERVICES_SDS_TESTING_TEST_BASICS_H_
#define TESSERA_SERVICES_SDS_TESTING_TEST_BASICS_H_

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

namespace tessera::sds {

inline constexpr uint64_t kTestPool = 1;
inline constexpr uint32_t kTestChunkBytes = 256u << 10;

// A folder that goes with everything in it.
class TestFolder {
 public:
  TestFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera_sds_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_TESTING_TEST_BASICS_H_
