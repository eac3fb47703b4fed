#include "services/mgmt/people/audit_rules.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"

namespace tessera::mgmt {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr char kMask[] = "***";
constexpr size_t kUserNameBytesMax = 64;

bool IsSecret(const FieldDescriptor& field) {
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) return false;
  // A map's key is its field "key".
  if (field.containing_type()->options().map_entry()) return false;
  const std::string& name = field.name();
  if (name == "page_token" || name == "next_page_token") return false;
  const size_t word = name.rfind('_');
  const std::string last = word == std::string::npos ? name : name.substr(word + 1);
  return last == "password" || last == "secret" || last == "token" || last == "key";
}

void Mask(Message* message) {
  const Reflection& reflection = *message->GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(*message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (IsSecret(*field)) {
      if (!field->is_repeated()) {
        reflection.SetString(message, field, kMask);
        continue;
      }
      for (int i = 0; i < reflection.FieldSize(*message, field); ++i) {
        reflection.SetRepeatedString(message, field, i, kMask);
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field->is_repeated()) {
        Mask(reflection.MutableMessage(message, field));
        continue;
      }
      for (int i = 0; i < reflection.FieldSize(*message, field); ++i) {
        Mask(reflection.MutableRepeatedMessage(message, field, i));
      }
    }
  }
}

// Cut so that no UTF-8 sign is cut in two.
std::string Beginning(const std::string& text, size_t bytes) {
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
  return text.substr(0, bytes);
}

std::string Truncated(const std::string& json) {
  // Quotation marks and the like take more bytes when they are quoted once more.
  for (size_t bytes = kRequestJsonBytesMax - 64;; bytes /= 2) {
    google::protobuf::Struct shown;
    (*shown.mutable_fields())["truncated"].set_string_value(Beginning(json, bytes));
    std::string text;
    if (!google::protobuf::util::MessageToJsonString(shown, &text).ok()) return "{}";
    if (text.size() <= kRequestJsonBytesMax) return text;
  }
}

}  // namespace

bool IsChange(std::string_view method_full_name) {
  const std::string_view method = method_full_name.substr(method_full_name.rfind('/') + 1);
  for (const std::string_view word : {"Get", "List", "Watch", "Query", "Verify", "Explain"}) {
    if (method.substr(0, word.size()) != word) continue;
    const std::string_view rest = method.substr(word.size());
    if (rest.empty() || !absl::ascii_islower(static_cast<unsigned char>(rest[0]))) return false;
  }
  return true;
}

bool IsRecorded(const Caller& caller, std::string_view method_full_name,
                const absl::Status& result) {
  if (!IsChange(method_full_name)) return false;
  if (method_full_name == kSignInMethod) return !absl::IsResourceExhausted(result);
  return !caller.name.empty();
}

bool IsUserName(std::string_view name) {
  if (name.empty() || name.size() > kUserNameBytesMax) return false;
  if (!absl::ascii_islower(static_cast<unsigned char>(name[0]))) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

std::string MaskedJson(const Message& request) {
  const std::unique_ptr<Message> shown(request.New());
  shown->CopyFrom(request);
  shown->DiscardUnknownFields();
  Mask(shown.get());
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(*shown, &json, options).ok()) return "{}";
  return json.size() <= kRequestJsonBytesMax ? json : Truncated(json);
}

}  // namespace tessera::mgmt
