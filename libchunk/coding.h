// Reading and writing fixed-width little-endian integers.
//
// Threads: a Writer or Reader belongs to one thread.
#ifndef TESSERA_LIBCHUNK_CODING_H_
#define TESSERA_LIBCHUNK_CODING_H_

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace tessera::chunk {

static_assert(std::endian::native == std::endian::little, "FORMAT.md is little endian");

template <std::unsigned_integral Integer>
void StoreInteger(std::byte* target, Integer value) {
  std::memcpy(target, &value, sizeof(value));
}

template <std::unsigned_integral Integer>
Integer LoadInteger(const std::byte* source) {
  Integer value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

// Appends to a growing buffer.
class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>* target) : target_(target) {}

  template <std::unsigned_integral Integer>
  void Put(Integer value, size_t width_bytes = sizeof(Integer)) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    target_->insert(target_->end(), bytes, bytes + width_bytes);
  }
  void PutBytes(std::span<const std::byte> bytes) {
    target_->insert(target_->end(), bytes.begin(), bytes.end());
  }

 private:
  std::vector<std::byte>* target_;
};

// Takes from a buffer. After a read past the end, ok() is false and every value is 0.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> source) : source_(source) {}

  template <std::unsigned_integral Integer>
  Integer Get(size_t width_bytes = sizeof(Integer)) {
    Integer value = 0;
    const std::span<const std::byte> bytes = GetBytes(width_bytes);
    if (ok_) std::memcpy(&value, bytes.data(), width_bytes);
    return value;
  }
  std::span<const std::byte> GetBytes(size_t count) {
    if (!ok_ || source_.size() < count) {
      ok_ = false;
      return {};
    }
    const std::span<const std::byte> result = source_.first(count);
    source_ = source_.subspan(count);
    return result;
  }
  bool ok() const { return ok_; }
  size_t remaining() const { return source_.size(); }

 private:
  std::span<const std::byte> source_;
  bool ok_ = true;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_CODING_H_
