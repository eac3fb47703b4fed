// Bytes to gRPC's buffers and back.
//
// Threads: free functions, any thread.
#ifndef TESSERA_SERVICES_MGMT_WEB_BYTE_BUFFER_H_
#define TESSERA_SERVICES_MGMT_WEB_BYTE_BUFFER_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <string>
#include <vector>

namespace tessera::mgmt {

[[nodiscard]] inline grpc::ByteBuffer ToByteBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// Empty for a buffer without a message.
[[nodiscard]] inline std::string ToBytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) return "";
  std::string bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_BYTE_BUFFER_H_
