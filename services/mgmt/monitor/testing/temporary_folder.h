// A folder that goes away with it.
//
// Threads: external synchronization.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_TESTING_TEMPORARY_FOLDER_H_
#define TESSERA_SERVICES_MGMT_MONITOR_TESTING_TEMPORARY_FOLDER_H_

#include <cstdlib>
#include <filesystem>
#include <string>

namespace tessera::mgmt {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tessera-mgmt-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_TESTING_TEMPORARY_FOLDER_H_
