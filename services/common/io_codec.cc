#include "services/common/io_codec.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include <google/protobuf/io/coded_stream.h>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// Field 15, length-delimited: the payload in both messages.
constexpr uint32_t kPayloadTag = (15u << 3) | 2u;
static_assert(v1::IoRequest::kPayloadFieldNumber == 15);
static_assert(v1::IoResponse::kPayloadFieldNumber == 15);

grpc::Slice SubSlice(const grpc::Slice& slice, size_t begin, size_t end) {
  const grpc_slice raw = slice.c_slice();
  grpc::Slice part(grpc_slice_sub(raw, begin, end), grpc::Slice::STEAL_REF);
  grpc_slice_unref(raw);
  return part;
}

// A place in a list of slices, read forward.
class SliceReader {
 public:
  explicit SliceReader(std::span<const grpc::Slice> slices) : slices_(slices) { SkipEmpty(); }

  bool done() const { return index_ == slices_.size(); }
  size_t position() const { return position_; }

  bool ReadByte(uint8_t* byte) {
    if (done()) return false;
    *byte = slices_[index_].begin()[offset_];
    Step(1);
    return true;
  }

  bool ReadVarint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      uint8_t byte = 0;
      if (!ReadByte(&byte)) return false;
      if (shift == 63 && byte > 1) return false;
      *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  bool Skip(uint64_t bytes) {
    while (bytes > 0) {
      if (done()) return false;
      const size_t step = std::min<uint64_t>(bytes, slices_[index_].size() - offset_);
      Step(step);
      bytes -= step;
    }
    return true;
  }

  bool TakeSlices(uint64_t bytes, std::vector<grpc::Slice>* out) {
    while (bytes > 0) {
      if (done()) return false;
      const size_t step = std::min<uint64_t>(bytes, slices_[index_].size() - offset_);
      out->push_back(SubSlice(slices_[index_], offset_, offset_ + step));
      Step(step);
      bytes -= step;
    }
    return true;
  }

 private:
  void Step(size_t bytes) {
    offset_ += bytes;
    position_ += bytes;
    if (offset_ == slices_[index_].size()) {
      ++index_;
      offset_ = 0;
      SkipEmpty();
    }
  }
  void SkipEmpty() {
    while (index_ < slices_.size() && slices_[index_].size() == 0) ++index_;
  }

  std::span<const grpc::Slice> slices_;
  size_t index_ = 0;
  size_t offset_ = 0;
  size_t position_ = 0;
};

struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

absl::Status Malformed(size_t position, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("byte ", position, " of the message: ", what));
}

// Finds the payload and the ranges of bytes that are everything else.
absl::Status Separate(std::span<const grpc::Slice> slices, std::vector<ByteRange>* header_ranges,
                      std::vector<grpc::Slice>* payload) {
  SliceReader reader(slices);
  while (!reader.done()) {
    const size_t begin = reader.position();
    uint64_t tag = 0;
    if (!reader.ReadVarint(&tag) || tag > UINT32_MAX) return Malformed(begin, "bad field tag");
    if ((tag >> 3) == 0) return Malformed(begin, "field number 0");
    uint64_t length = 0;
    bool complete = false;
    switch (tag & 7) {
      case 0:
        complete = reader.ReadVarint(&length);
        break;
      case 1:
        complete = reader.Skip(8);
        break;
      case 2:
        if (!reader.ReadVarint(&length)) return Malformed(begin, "bad length");
        if (tag == kPayloadTag) {
          payload->clear();
          if (!reader.TakeSlices(length, payload)) return Malformed(begin, "payload is cut off");
          continue;
        }
        complete = reader.Skip(length);
        break;
      case 5:
        complete = reader.Skip(4);
        break;
      default:
        return Malformed(begin, "groups are not supported");
    }
    if (!complete) return Malformed(begin, "field is cut off");
    if (!header_ranges->empty() && header_ranges->back().end == begin) {
      header_ranges->back().end = reader.position();
    } else {
      header_ranges->push_back({begin, reader.position()});
    }
  }
  return absl::OkStatus();
}

// Parses the header's bytes: in place when they are one range of one slice, else from a copy.
template <typename Message>
absl::Status ParseHeader(std::span<const grpc::Slice> slices, std::span<const ByteRange> ranges,
                         Message* header) {
  header->Clear();
  if (ranges.empty()) return absl::OkStatus();
  const char* data = nullptr;
  size_t size = 0;
  std::string copy;
  if (ranges.size() == 1 && ranges[0].begin == 0 && !slices.empty() &&
      ranges[0].end <= slices[0].size()) {
    data = reinterpret_cast<const char*>(slices[0].begin());
    size = ranges[0].end;
  } else {
    size_t slice_begin = 0;
    size_t next = 0;
    for (const grpc::Slice& slice : slices) {
      const size_t slice_end = slice_begin + slice.size();
      for (size_t i = next; i < ranges.size() && ranges[i].begin < slice_end; ++i) {
        const size_t from = std::max(ranges[i].begin, slice_begin);
        const size_t to = std::min(ranges[i].end, slice_end);
        copy.append(reinterpret_cast<const char*>(slice.begin()) + (from - slice_begin), to - from);
        if (ranges[i].end <= slice_end) next = i + 1;
      }
      slice_begin = slice_end;
    }
    data = copy.data();
    size = copy.size();
  }
  if (size > static_cast<size_t>(INT32_MAX) ||
      !header->ParseFromArray(data, static_cast<int>(size))) {
    return absl::InvalidArgumentError("the message is no valid protobuf of its type");
  }
  return absl::OkStatus();
}

template <typename Frame>
absl::Status Decode(const grpc::ByteBuffer& buffer, Frame* frame) {
  frame->payload.clear();
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return absl::InvalidArgumentError("the message can't be read");
  std::vector<ByteRange> header_ranges;
  if (absl::Status status = Separate(slices, &header_ranges, &frame->payload); !status.ok()) {
    return status;
  }
  return ParseHeader(slices, header_ranges, &frame->header);
}

template <typename Frame>
grpc::ByteBuffer Encode(const Frame& frame) {
  using google::protobuf::io::CodedOutputStream;
  const size_t payload_bytes = PayloadBytes(frame.payload);
  const size_t header_bytes = frame.header.ByteSizeLong();
  size_t prefix_bytes = 0;
  if (payload_bytes > 0) {
    prefix_bytes = CodedOutputStream::VarintSize32(kPayloadTag) +
                   CodedOutputStream::VarintSize32(static_cast<uint32_t>(payload_bytes));
  }
  std::span<std::byte> writable;
  std::vector<grpc::Slice> slices;
  slices.reserve(1 + frame.payload.size());
  slices.push_back(NewPayloadSlice(header_bytes + prefix_bytes, &writable));
  uint8_t* out = reinterpret_cast<uint8_t*>(writable.data());
  out = frame.header.SerializeWithCachedSizesToArray(out);
  if (payload_bytes > 0) {
    out = CodedOutputStream::WriteVarint32ToArray(kPayloadTag, out);
    CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(payload_bytes), out);
    slices.insert(slices.end(), frame.payload.begin(), frame.payload.end());
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace

absl::Status DecodeIoRequest(const grpc::ByteBuffer& buffer, IoRequestFrame* frame) {
  return Decode(buffer, frame);
}
absl::Status DecodeIoResponse(const grpc::ByteBuffer& buffer, IoResponseFrame* frame) {
  return Decode(buffer, frame);
}
grpc::ByteBuffer EncodeIoRequest(const IoRequestFrame& frame) { return Encode(frame); }
grpc::ByteBuffer EncodeIoResponse(const IoResponseFrame& frame) { return Encode(frame); }

size_t PayloadBytes(std::span<const grpc::Slice> payload) {
  size_t bytes = 0;
  for (const grpc::Slice& slice : payload) bytes += slice.size();
  return bytes;
}

grpc::Slice NewPayloadSlice(size_t size_bytes, std::span<std::byte>* writable) {
  // Never an inlined slice, whose bytes would move with the object.
  grpc::Slice slice(grpc_slice_malloc_large(size_bytes), grpc::Slice::STEAL_REF);
  *writable = {reinterpret_cast<std::byte*>(const_cast<uint8_t*>(slice.begin())), slice.size()};
  return slice;
}

template <typename Visit>
bool PayloadCursor::Advance(size_t length_bytes, const Visit& visit) {
  if (length_bytes > RemainingBytes()) return false;
  while (length_bytes > 0) {
    const grpc::Slice& slice = payload_[slice_index_];
    const size_t step = std::min(length_bytes, slice.size() - slice_offset_);
    if (step > 0) visit(slice, slice_offset_, slice_offset_ + step);
    slice_offset_ += step;
    length_bytes -= step;
    if (slice_offset_ == slice.size()) {
      ++slice_index_;
      slice_offset_ = 0;
    }
  }
  return true;
}

bool PayloadCursor::Take(size_t length_bytes, std::vector<std::span<const std::byte>>* out) {
  return Advance(length_bytes, [out](const grpc::Slice& slice, size_t begin, size_t end) {
    out->emplace_back(reinterpret_cast<const std::byte*>(slice.begin()) + begin, end - begin);
  });
}

bool PayloadCursor::TakeSlices(size_t length_bytes, std::vector<grpc::Slice>* out) {
  return Advance(length_bytes, [out](const grpc::Slice& slice, size_t begin, size_t end) {
    out->push_back(SubSlice(slice, begin, end));
  });
}

bool PayloadCursor::Copy(std::span<std::byte> out) {
  std::byte* to = out.data();
  return Advance(out.size(), [&to](const grpc::Slice& slice, size_t begin, size_t end) {
    std::memcpy(to, slice.begin() + begin, end - begin);
    to += end - begin;
  });
}

size_t PayloadCursor::RemainingBytes() const {
  size_t bytes = 0;
  for (size_t i = slice_index_; i < payload_.size(); ++i) bytes += payload_[i].size();
  return bytes - slice_offset_;
}

}  // namespace tessera
