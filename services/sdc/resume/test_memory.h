// Memory of a resume file in a test's or the simulator's own hands.
#ifndef TESSERA_SERVICES_SDC_RESUME_TEST_MEMORY_H_
#define TESSERA_SERVICES_SDC_RESUME_TEST_MEMORY_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "services/sdc/resume/resume_arena.h"

namespace tessera::sdc {

class TestMemory final : public ResumeMemory {
 public:
  explicit TestMemory(uint64_t size_bytes)
      : words_((size_bytes + 7) / 8), size_bytes_(size_bytes) {}
  [[nodiscard]] std::span<std::byte> bytes() override {
    return std::as_writable_bytes(std::span(words_)).first(size_bytes_);
  }
  [[nodiscard]] bool Back(uint64_t, uint64_t) override { return !full_; }
  void GiveBack(uint64_t offset, uint64_t length) override {
    std::ranges::fill(bytes().subspan(offset, length), std::byte{0});
    given_back_bytes_ += length;
  }
  [[nodiscard]] uint64_t given_back_bytes() const { return given_back_bytes_; }
  void set_full(bool full) { full_ = full; }
  void Resize(uint64_t size_bytes) { size_bytes_ = size_bytes; }

 private:
  std::vector<uint64_t> words_;  // aligned
  uint64_t size_bytes_;
  bool full_ = false;
  uint64_t given_back_bytes_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RESUME_TEST_MEMORY_H_
