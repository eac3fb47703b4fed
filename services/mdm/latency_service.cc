#include "services/mdm/latency_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/latency_explainer.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/volume_service.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAskMax{5'000};
// Kept back of the caller's time, so that it hears which client was silent.
constexpr milliseconds kReserve{300};

struct Question {
  VolumeRow volume;
  std::vector<SdcRow> clients;  // that have it mapped
  LatencyNames names;
};

absl::Status ReadQuestion(SQLite::Database& db, const v1::ExplainLatencyRequest& request,
                          Question* question) {
  TESSERA_ASSIGN_OR_RETURN(question->volume,
                           ResolveVolume(db, request.volume_id(), request.volume_name()));
  for (const MappingRow& mapping : ListMappings(db, question->volume.volume_id)) {
    if (auto sdc = FindSdc(db, mapping.sdc_id); sdc.has_value()) {
      question->clients.push_back(*std::move(sdc));
    }
  }
  if (question->clients.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("volume ", question->volume.shown_name(),
                     " is mapped to no client, and only clients know what its requests take: map "
                     "it, use it, and ask again"));
  }
  for (const SdsRow& sds : ListSdsRowsOfPool(db, question->volume.pool_id)) {
    question->names.sds[sds.sds_id] = sds.name;
  }
  for (const DeviceRow& device : ListDeviceRowsOfPool(db, question->volume.pool_id)) {
    question->names.device_paths[device.device_id] = device.description.path();
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LatencyService::Do(const CallContext& call, const v1::ExplainLatencyRequest& request,
                                v1::ExplainLatencyResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const uint32_t window_s, CheckLatencyWindow(request.window_s()));
  Question question;
  TESSERA_RETURN_IF_ERROR(
      store_->Read([&](SQLite::Database& db) { return ReadQuestion(db, request, &question); }));

  v1::ExplainVolumeLatencyRequest ask;
  ask.set_volume_id(question.volume.volume_id);
  ask.set_window_s(window_s);
  ask.set_operation(request.operation());
  const milliseconds patience =
      std::clamp(call.TimeLeft(kAskMax) - kReserve, milliseconds(1), kAskMax);
  const auto answers = control_->ExplainVolumeLatency(question.clients, ask, patience);

  v1::LatencyFigures figures;
  std::vector<uint64_t> silent;
  std::vector<std::string> why;
  size_t answered = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    const SdcRow& sdc = question.clients[i];
    if (answers[i].ok()) {
      MergeLatency(answers[i]->figures(), &figures);
      ++answered;
    } else {
      // Of a shared volume only the writer has figures: NOT_FOUND is an answer where another gives
      // them.
      if (!absl::IsNotFound(answers[i].status())) silent.push_back(sdc.sdc_id);
      why.push_back(absl::StrCat("client ", sdc.name, ": ", answers[i].status().message()));
    }
  }
  if (answered == 0) {
    return absl::UnavailableError(
        absl::StrCat("no client of volume ", question.volume.shown_name(),
                     " says what its requests take: ", absl::StrJoin(why, "; ")));
  }
  *response = tessera::ExplainLatency(figures, question.names);
  response->set_volume_id(question.volume.volume_id);
  response->set_volume_name(question.volume.shown_name());
  response->mutable_silent_sdc_ids()->Assign(silent.begin(), silent.end());
  return absl::OkStatus();
}

}  // namespace tessera::mdm
