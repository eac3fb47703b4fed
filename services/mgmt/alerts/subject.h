// What a rule can be about, and what is known of it at one moment.
//
// A value that is not there is not known: a rule that needs it neither raises nor resolves.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_SUBJECT_H_
#define TESSERA_SERVICES_MGMT_ALERTS_SUBJECT_H_

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::mgmt {

enum class SubjectKind {
  kCluster,
  kMdm,
  kSds,
  kSdc,
  kDevice,
  kPool,
  kVolume,
  kSchedule,
  kCertificate,
  kOperation,
};
inline constexpr std::array kSubjectKinds{
    SubjectKind::kCluster,   SubjectKind::kMdm,      SubjectKind::kSds,
    SubjectKind::kSdc,       SubjectKind::kDevice,   SubjectKind::kPool,
    SubjectKind::kVolume,    SubjectKind::kSchedule, SubjectKind::kCertificate,
    SubjectKind::kOperation,
};

// "sds".
[[nodiscard]] std::string_view KindName(SubjectKind kind);
[[nodiscard]] std::optional<SubjectKind> KindOfName(std::string_view name);
// The kind of "sds/3", "cluster", "certificate/console".
[[nodiscard]] std::optional<SubjectKind> KindOfKey(std::string_view key);

struct Subject {
  SubjectKind kind = SubjectKind::kCluster;
  std::string id;    // "3"; empty of the cluster
  std::string name;  // "sds3"
  std::map<std::string, double, std::less<>> values;
  std::map<std::string, std::string, std::less<>> texts;

  // "sds/3", "cluster".
  [[nodiscard]] std::string Key() const;
};

struct Subjects {
  std::vector<Subject> subjects;
  // Kinds of which every subject there is stands in the list: one that does not is gone.
  std::set<SubjectKind> complete;
};

struct ValueInfo {
  const char* name;
  const char* description;
  // 0 means that there was nothing to measure: it does not count in the past of the value.
  bool zero_is_nothing = false;
};
// Every value, and every text, that a subject of the kind can have.
[[nodiscard]] const std::vector<ValueInfo>& ValuesOf(SubjectKind kind);
[[nodiscard]] const std::vector<ValueInfo>& TextsOf(SubjectKind kind);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_SUBJECT_H_
