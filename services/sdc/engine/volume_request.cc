#include "services/sdc/engine/volume_request.h"

#include <algorithm>
#include <array>
#include <utility>

namespace tessera::sdc {
namespace {

alignas(4096) constexpr std::array<std::byte, 1 << 20> kZeroes{};

using Owner = std::shared_ptr<const void>;

// Calls visit(span) for the bytes [begin, begin + length) of the spans.
template <typename Spans, typename Visit>
void ForRange(const Spans& spans, uint64_t begin, uint64_t length, const Visit& visit) {
  for (const std::span<const std::byte> span : spans) {
    if (length == 0) return;
    if (begin >= span.size()) {
      begin -= span.size();
      continue;
    }
    const uint64_t take = std::min<uint64_t>(length, span.size() - begin);
    visit(span.subspan(begin, take));
    begin = 0;
    length -= take;
  }
}

}  // namespace

void AppendSlices(const Payload& payload, uint64_t begin, uint64_t length,
                  absl::InlinedVector<grpc::Slice, 2>* slices) {
  ForRange(payload.pieces, begin, length, [&](std::span<const std::byte> bytes) {
    auto* keeper = new Owner(payload.owner);
    slices->emplace_back(
        const_cast<std::byte*>(bytes.data()), bytes.size(),
        [](void* user_data) { delete static_cast<Owner*>(user_data); }, keeper);
  });
}

Payload TakeParts(absl::InlinedVector<PiecePart, 1>& parts, uint64_t begin, uint64_t length) {
  auto owner = std::make_shared<std::vector<grpc::Slice>>();
  size_t count = 0;
  for (const PiecePart& part : parts) count += part.slices.size();
  owner->reserve(count);
  for (PiecePart& part : parts) {
    for (grpc::Slice& slice : part.slices) owner->push_back(std::move(slice));
    part.slices.clear();
  }
  // Spans only now: bytes of tiny slices lie inside the objects that were just moved.
  absl::InlinedVector<std::span<const std::byte>, 2> spans;
  for (const grpc::Slice& slice : *owner) {
    spans.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
  Payload payload;
  payload.pieces.reserve(spans.size());
  ForRange(spans, begin, length,
           [&payload](std::span<const std::byte> bytes) { payload.pieces.push_back(bytes); });
  payload.owner = std::move(owner);
  return payload;
}

Payload Concatenate(const Payload& first, const Payload& second, const Payload& third) {
  Payload whole;
  for (const Payload* from : {&first, &second, &third}) {
    whole.pieces.insert(whole.pieces.end(), from->pieces.begin(), from->pieces.end());
  }
  whole.owner = std::make_shared<const std::array<Owner, 3>>(
      std::array<Owner, 3>{first.owner, second.owner, third.owner});
  return whole;
}

Payload SubPayload(const Payload& payload, uint64_t begin, uint64_t length) {
  Payload part;
  ForRange(payload.pieces, begin, length,
           [&part](std::span<const std::byte> bytes) { part.pieces.push_back(bytes); });
  part.owner = payload.owner;
  return part;
}

Payload ZeroPayload(uint64_t length) {
  Payload payload;
  if (length > 0) payload.pieces.push_back(std::span(kZeroes).first(length));
  return payload;
}

}  // namespace tessera::sdc
