// What a device takes of its file system, as `du` counts it: the store's files, and what this
// server keeps beside them.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_DEVICE_SPACE_H_
#define TESSERA_SERVICES_SDS_DEVICE_SPACE_H_

#include <cstdint>
#include <string>

namespace tessera::sds {

// The folder itself and its device.uuid; 0 for a block device.
[[nodiscard]] uint64_t BytesBesideStore(const std::string& device_path);

// What a store could have of a folder's file system or of a block device; 0 when it can't be read.
[[nodiscard]] uint64_t AvailableBytes(const std::string& device_path);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_DEVICE_SPACE_H_
