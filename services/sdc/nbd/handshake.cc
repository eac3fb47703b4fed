#include "services/sdc/nbd/handshake.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::sdc::nbd {
namespace {

void AppendReply(Option option, OptionReply type, std::string_view data, std::string& output) {
  AppendBig<uint64_t>(output, kOptionReplyMagic);
  AppendBig<uint32_t>(output, static_cast<uint32_t>(option));
  AppendBig<uint32_t>(output, static_cast<uint32_t>(type));
  AppendBig<uint32_t>(output, static_cast<uint32_t>(data.size()));
  output.append(data);
}

// Reads fields off the front of an option's data. Once a field did not fit, `ok()` is false for
// good and all later fields are empty.
class FieldReader {
 public:
  explicit FieldReader(std::span<const std::byte> data) : rest_(data) {}

  template <typename T>
  T Number() {
    const std::span<const std::byte> bytes = Bytes(sizeof(T));
    return ok_ ? LoadBig<T>(bytes.data()) : T{0};
  }
  // A string of the given length; not ok with a NUL inside or beyond the specification's length.
  std::string_view String(size_t length) {
    if (length > kMaximumStringBytes) ok_ = false;
    const std::span<const std::byte> bytes = Bytes(length);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.find('\0') != std::string_view::npos) ok_ = false;
    return text;
  }
  std::span<const std::byte> Bytes(size_t length) {
    if (!ok_ || rest_.size() < length) {
      ok_ = false;
      return {};
    }
    const std::span<const std::byte> bytes = rest_.first(length);
    rest_ = rest_.subspan(length);
    return bytes;
  }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool AtEnd() const { return ok_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

bool IsKnown(Option option) {
  switch (option) {
    case Option::kExportName:
    case Option::kAbort:
    case Option::kList:
    case Option::kStartTls:
    case Option::kInfo:
    case Option::kGo:
    case Option::kStructuredReply:
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      return true;
    case Option::kExtendedHeaders:
      return false;
  }
  return false;
}

}  // namespace

uint16_t TransmissionFlags(const BlockDeviceInfo& info, bool structured_replies) {
  uint16_t flags = kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagSendCache;
  if (info.read_only) {
    flags |= kFlagReadOnly;
  } else {
    flags |= kFlagSendTrim | kFlagSendWriteZeroes | kFlagSendFastZero;
  }
  if (info.multi_connection) flags |= kFlagCanMultiConnection;
  if (structured_replies) flags |= kFlagSendDontFragment;
  return flags;
}

void Handshake::Greet(std::string& output) const {
  AppendBig<uint64_t>(output, kInitMagic);
  AppendBig<uint64_t>(output, kOptionMagic);
  AppendBig<uint16_t>(output, kFlagFixedNewstyle | kFlagNoZeroes);
}

Handshake::Step Handshake::Consume(std::span<const std::byte> input, std::string& output) {
  switch (state_) {
    case State::kClientFlags:
      return ConsumeClientFlags(input);
    case State::kOptions:
      return ConsumeOption(input, output);
    case State::kSkipping:
      return ConsumeSkipped(input, output);
  }
  return Close("the handshake is in no state");
}

Handshake::Step Handshake::Close(std::string reason) {
  close_reason_ = std::move(reason);
  return {0, Event::kClose};
}

Handshake::Step Handshake::ConsumeClientFlags(std::span<const std::byte> input) {
  if (input.size() < sizeof(uint32_t)) return {};
  const auto flags = LoadBig<uint32_t>(input.data());
  if ((flags & ~uint32_t{kFlagFixedNewstyle | kFlagNoZeroes}) != 0) {
    return Close(absl::StrCat("unknown client flags 0x", absl::Hex(flags)));
  }
  fixed_newstyle_ = (flags & kFlagFixedNewstyle) != 0;
  no_zeroes_ = (flags & kFlagNoZeroes) != 0;
  state_ = State::kOptions;
  return {sizeof(uint32_t), Event::kNeedInput};
}

Handshake::Step Handshake::ConsumeOption(std::span<const std::byte> input, std::string& output) {
  if (input.size() < kOptionHeaderBytes) return {};
  if (LoadBig<uint64_t>(input.data()) != kOptionMagic) return Close("wrong magic before an option");
  const auto option = static_cast<Option>(LoadBig<uint32_t>(input.data() + 8));
  const auto length = LoadBig<uint32_t>(input.data() + 12);
  if (++options_seen_ > kMaximumOptions) return Close("too many options");
  if (!fixed_newstyle_ && option != Option::kExportName) {
    return Close("only EXPORT_NAME is known without fixed newstyle");
  }
  if (length > kMaximumOptionBytes) {
    if (length > kMaximumSkippedBytes || option == Option::kExportName) {
      return Close(absl::StrCat("an option of ", length, " bytes"));
    }
    state_ = State::kSkipping;
    skip_bytes_left_ = length;
    skipped_option_ = option;
    return {kOptionHeaderBytes, Event::kNeedInput};
  }
  const size_t total = kOptionHeaderBytes + length;
  if (input.size() < total) {
    --options_seen_;  // counted when it is complete
    return {};
  }
  const Event event = HandleOption(option, input.subspan(kOptionHeaderBytes, length), output);
  return {total, event};
}

Handshake::Step Handshake::ConsumeSkipped(std::span<const std::byte> input, std::string& output) {
  const auto skipped = static_cast<uint32_t>(std::min<size_t>(input.size(), skip_bytes_left_));
  skip_bytes_left_ -= skipped;
  if (skip_bytes_left_ == 0) {
    state_ = State::kOptions;
    if (tls_mode_ == TlsMode::kRequired && !tls_active_) {
      AppendReply(skipped_option_, OptionReply::kErrorTlsRequired, "start TLS first", output);
    } else if (!IsKnown(skipped_option_)) {
      AppendReply(skipped_option_, OptionReply::kErrorUnsupported, "unknown option", output);
    } else {
      AppendReply(skipped_option_, OptionReply::kErrorTooBig,
                  absl::StrCat("option data of more than ", kMaximumOptionBytes, " bytes"), output);
    }
  }
  return {skipped, Event::kNeedInput};
}

Handshake::Event Handshake::HandleOption(Option option, std::span<const std::byte> data,
                                         std::string& output) {
  if (tls_mode_ == TlsMode::kRequired && !tls_active_ && option != Option::kStartTls &&
      option != Option::kAbort) {
    if (option == Option::kExportName) return Close("EXPORT_NAME before TLS").event;
    AppendReply(option, OptionReply::kErrorTlsRequired, "start TLS first", output);
    return Event::kNeedInput;
  }
  switch (option) {
    case Option::kExportName:
      return HandleExportName(data, output);
    case Option::kAbort:
      AppendReply(option, OptionReply::kAck, "", output);
      return Event::kAborted;
    case Option::kList:
      HandleList(data, output);
      return Event::kNeedInput;
    case Option::kStartTls:
      return HandleStartTls(data, output);
    case Option::kInfo:
    case Option::kGo:
      return HandleInfoOrGo(option, data, output);
    case Option::kStructuredReply:
      if (!data.empty()) {
        AppendReply(option, OptionReply::kErrorInvalid, "STRUCTURED_REPLY takes no data", output);
      } else {
        structured_replies_ = true;
        AppendReply(option, OptionReply::kAck, "", output);
      }
      return Event::kNeedInput;
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      HandleMetaContext(option, data, output);
      return Event::kNeedInput;
    case Option::kExtendedHeaders:
      break;
  }
  AppendReply(option, OptionReply::kErrorUnsupported,
              absl::StrCat("option ", static_cast<uint32_t>(option), " is not supported"), output);
  return Event::kNeedInput;
}

Handshake::Event Handshake::HandleExportName(std::span<const std::byte> data, std::string& output) {
  FieldReader fields(data);
  const std::string name(fields.String(data.size()));
  if (!fields.ok()) return Close("EXPORT_NAME with an invalid name").event;
  std::shared_ptr<BlockDevice> device = exports_.Find(name);
  if (device == nullptr) return Close(absl::StrCat("there is no export '", name, "'")).event;
  BeginSession(name, std::move(device));
  AppendBig<uint64_t>(output, session_.info.size_bytes);
  AppendBig<uint16_t>(output, session_.transmission_flags);
  if (!no_zeroes_) output.append(kExportNameZeroesBytes, '\0');
  return Event::kTransmission;
}

void Handshake::HandleList(std::span<const std::byte> data, std::string& output) {
  if (!data.empty()) {
    AppendReply(Option::kList, OptionReply::kErrorInvalid, "LIST takes no data", output);
    return;
  }
  for (const std::string& name : exports_.Names()) {
    std::string entry;
    AppendBig<uint32_t>(entry, static_cast<uint32_t>(name.size()));
    entry += name;
    AppendReply(Option::kList, OptionReply::kServer, entry, output);
  }
  AppendReply(Option::kList, OptionReply::kAck, "", output);
}

Handshake::Event Handshake::HandleStartTls(std::span<const std::byte> data, std::string& output) {
  OptionReply refusal = OptionReply::kAck;
  std::string_view why;
  if (!data.empty()) {
    refusal = OptionReply::kErrorInvalid;
    why = "STARTTLS takes no data";
  } else if (tls_active_) {
    refusal = OptionReply::kErrorInvalid;
    why = "TLS is active already";
  } else if (tls_mode_ == TlsMode::kOff) {
    refusal = OptionReply::kErrorUnsupported;
    why = "this server has no TLS";
  }
  AppendReply(Option::kStartTls, refusal, why, output);
  return refusal == OptionReply::kAck ? Event::kStartTls : Event::kNeedInput;
}

void Handshake::TlsStarted() {
  tls_active_ = true;
  structured_replies_ = false;
  base_allocation_export_.reset();
  options_seen_ = 0;
}

Handshake::Event Handshake::HandleInfoOrGo(Option option, std::span<const std::byte> data,
                                           std::string& output) {
  FieldReader fields(data);
  const std::string name(fields.String(fields.Number<uint32_t>()));
  const auto request_count = fields.Number<uint16_t>();
  const std::span<const std::byte> requests = fields.Bytes(size_t{2} * request_count);
  if (!fields.AtEnd()) {
    AppendReply(option, OptionReply::kErrorInvalid, "malformed export name or information requests",
                output);
    return Event::kNeedInput;
  }
  std::shared_ptr<BlockDevice> device = exports_.Find(name);
  if (device == nullptr) {
    AppendReply(option, OptionReply::kErrorUnknown, absl::StrCat("there is no export '", name, "'"),
                output);
    return Event::kNeedInput;
  }
  AppendInfoReplies(option, name, device->info(), requests, output);
  AppendReply(option, OptionReply::kAck, "", output);
  if (option == Option::kInfo) return Event::kNeedInput;
  BeginSession(name, std::move(device));
  return Event::kTransmission;
}

void Handshake::AppendInfoReplies(Option option, const std::string& name,
                                  const BlockDeviceInfo& info, std::span<const std::byte> requests,
                                  std::string& output) const {
  bool wants_name = false;
  bool wants_description = false;
  for (size_t i = 0; i + 1 < requests.size(); i += 2) {
    const auto type = static_cast<InfoType>(LoadBig<uint16_t>(requests.data() + i));
    wants_name |= type == InfoType::kName;
    wants_description |= type == InfoType::kDescription;
  }
  const auto reply = [&](InfoType type, const std::string& fields) {
    std::string data;
    AppendBig<uint16_t>(data, static_cast<uint16_t>(type));
    data += fields;
    AppendReply(option, OptionReply::kInfo, data, output);
  };
  std::string fields;
  AppendBig<uint64_t>(fields, info.size_bytes);
  AppendBig<uint16_t>(fields, TransmissionFlags(info, structured_replies_));
  reply(InfoType::kExport, fields);
  if (wants_name) reply(InfoType::kName, name);
  if (wants_description && !info.description.empty()) {
    reply(InfoType::kDescription, info.description.substr(0, kMaximumStringBytes));
  }
  // Always told, asked or not: the limits hold for everybody.
  fields.clear();
  AppendBig<uint32_t>(fields, info.minimum_block_bytes);
  AppendBig<uint32_t>(fields, info.preferred_block_bytes);
  AppendBig<uint32_t>(fields, info.maximum_payload_bytes);
  reply(InfoType::kBlockSize, fields);
}

void Handshake::HandleMetaContext(Option option, std::span<const std::byte> data,
                                  std::string& output) {
  if (option == Option::kSetMetaContext) base_allocation_export_.reset();
  FieldReader fields(data);
  const std::string name(fields.String(fields.Number<uint32_t>()));
  const auto query_count = fields.Number<uint32_t>();
  bool exact = false;      // base:allocation itself was asked for
  bool by_prefix = false;  // its whole namespace was
  for (uint32_t i = 0; i < query_count && fields.ok(); ++i) {
    const std::string_view query = fields.String(fields.Number<uint32_t>());
    exact |= query == kBaseAllocation;
    by_prefix |= query == "base:";
  }
  if (!fields.AtEnd() || !structured_replies_) {
    AppendReply(option, OptionReply::kErrorInvalid,
                structured_replies_ ? "malformed metadata context query"
                                    : "negotiate structured replies first",
                output);
    return;
  }
  if (exports_.Find(name) == nullptr) {
    AppendReply(option, OptionReply::kErrorUnknown, absl::StrCat("there is no export '", name, "'"),
                output);
    return;
  }
  const bool listing = option == Option::kListMetaContext;
  if (exact || (listing && (by_prefix || query_count == 0))) {
    std::string context;
    AppendBig<uint32_t>(context, listing ? 0 : kBaseAllocationId);
    context += kBaseAllocation;
    AppendReply(option, OptionReply::kMetaContext, context, output);
    if (!listing) base_allocation_export_ = name;
  }
  AppendReply(option, OptionReply::kAck, "", output);
}

void Handshake::BeginSession(const std::string& name, std::shared_ptr<BlockDevice> device) {
  session_.export_name = name;
  session_.info = device->info();
  session_.device = std::move(device);
  session_.structured_replies = structured_replies_;
  session_.transmission_flags = TransmissionFlags(session_.info, structured_replies_);
  // Contexts hold for the export that they were selected for.
  session_.base_allocation = base_allocation_export_ == name;
}

}  // namespace tessera::sdc::nbd
