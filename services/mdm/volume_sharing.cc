// VolumeService: handing the right to write a shared volume from one client to another
// (docs/decisions/0012-shared-volumes.md).
#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/mdm/fence_receipt_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitMax{600'000};
// How long requests may be held, all in all; kept back of the caller's time, so that it hears how
// it ended; and how much later than at its deadline a client's answer may arrive.
constexpr milliseconds kHoldMax{5'000};
constexpr milliseconds kUnmapHold{2'000};
constexpr milliseconds kReserve{500};
constexpr milliseconds kAnswerReserve{500};
// A client that hears nothing goes on by itself.
constexpr milliseconds kTellTimeout{2'000};
constexpr milliseconds kFencePause{20};

std::string Name(const VolumeRow& volume) {
  return absl::StrCat("volume ", volume.name, " (", volume.volume_id, ")");
}

std::string Name(const SdcRow& sdc) {
  return absl::StrCat("client ", sdc.name, " (", sdc.sdc_id, ")");
}

absl::StatusOr<SdcRow> SharingClient(SQLite::Database& db, const VolumeRow& volume, uint64_t sdc_id,
                                     const std::string& name) {
  TESSERA_ASSIGN_OR_RETURN(SdcRow sdc, ResolveSdc(db, sdc_id, name));
  const auto mapping = FindMapping(db, volume.volume_id, sdc.sdc_id);
  if (mapping.has_value() && mapping->mode == v1::MAPPING_MODE_SHARED) return sdc;
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          Name(volume), " is not mapped shared to ", Name(sdc),
          mapping.has_value() ? ", but otherwise: unmap it and map it shared" : ": map it first")),
      "NOT_SHARED", {{"sdc_id", absl::StrCat(sdc.sdc_id)}});
}

absl::Status MovedOn(const VolumeRow& volume) {
  return WithReason(
      absl::AbortedError(
          absl::StrCat(Name(volume),
                       " was unmapped or taken over meanwhile: look who writes it, and try again")),
      "VOLUME_MOVED_ON");
}

}  // namespace

struct VolumeService::Passing {
  VolumeRow volume;            // as it was found
  std::optional<SdcRow> from;  // absent: nobody had the right
  SdcRow to;
  std::chrono::steady_clock::time_point began;
  bool gone = false;  // `from` does not answer, here or there
};

absl::Status VolumeService::PreparePassing(const v1::PassWriterRequest& request,
                                           Passing* passing) const {
  if (request.to_sdc_id() == 0 && request.to_sdc_name().empty()) {
    return InvalidField("to_sdc_id",
                        "is 0 and no name is given: one of them says who gets the right");
  }
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    VolumeRow& volume = passing->volume;
    TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(db, request.volume_id(), request.volume_name()));
    TESSERA_ASSIGN_OR_RETURN(passing->to,
                             SharingClient(db, volume, request.to_sdc_id(), request.to_sdc_name()));
    passing->from = FindSdc(db, volume.writer_sdc_id);
    if (request.from_sdc_id() == 0 && request.from_sdc_name().empty()) return absl::OkStatus();
    TESSERA_ASSIGN_OR_RETURN(const SdcRow named, SharingClient(db, volume, request.from_sdc_id(),
                                                               request.from_sdc_name()));
    // Done before, perhaps by this call, whose answer was lost.
    if (named.sdc_id == volume.writer_sdc_id || passing->to.sdc_id == volume.writer_sdc_id) {
      return absl::OkStatus();
    }
    return WithReason(
        absl::AbortedError(absl::StrCat(Name(volume), " is written by ",
                                        passing->from.has_value() ? Name(*passing->from) : "nobody",
                                        ", not ", Name(named))),
        "WRITER_IS_ANOTHER", {{"sdc_id", absl::StrCat(volume.writer_sdc_id)}});
  });
}

absl::Status VolumeService::Yield(const CallContext& call, Passing* passing) {
  passing->began = std::chrono::steady_clock::now();
  if (!passing->from.has_value()) return absl::OkStatus();
  v1::YieldWriterRequest request;
  request.set_volume_id(passing->volume.volume_id);
  request.set_generation(passing->volume.generation);
  const milliseconds hold = std::min(kHoldMax, call.TimeLeft(kWaitMax) - kReserve);
  if (hold <= milliseconds(0)) return absl::DeadlineExceededError("no time is left to hold IO");
  request.set_deadline_ms(static_cast<uint32_t>(hold.count()));
  // It has half of that to finish in, and holds for the rest, while the other one gets the right.
  const absl::Status yielded =
      control_->YieldWriter(*passing->from, request, hold / 2 + kAnswerReserve);
  if (yielded.ok()) return absl::OkStatus();
  if (!shared_.Lives(*passing->from, passing->volume.volume_id)) {
    LogWarning("a client that is gone is not waited for",
               {{"volume", passing->volume.volume_id}, {"sdc", passing->from->sdc_id}});
    passing->gone = true;
    return absl::OkStatus();
  }
  if (absl::IsFailedPrecondition(yielded)) return MovedOn(passing->volume);
  return WithReason(
      absl::UnavailableError(absl::StrCat(
          Name(*passing->from), " has not finished what it has of ", Name(passing->volume),
          " in time, and goes on: ", std::string(yielded.message()))),
      "WRITER_BUSY");
}

// The row says who is to have the right. Nothing is taken away by that: the new one's AcquireGrant
// raises the generation, and until then the old one can go on where it stopped.
absl::Status VolumeService::HandOver(const CallContext& call, const Passing& passing) {
  const uint64_t volume_id = passing.volume.volume_id;
  const auto set_writer = [&](uint64_t before, uint64_t sdc_id, const std::string& why) {
    return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
      TESSERA_ASSIGN_OR_RETURN(VolumeRow now, ResolveVolume(transaction.db, volume_id, ""));
      if (now.generation != passing.volume.generation || now.writer_sdc_id != before) {
        return MovedOn(now);
      }
      if (sdc_id == passing.to.sdc_id) {
        TESSERA_RETURN_IF_ERROR(SharingClient(transaction.db, now, sdc_id, "").status());
      }
      shared_.SetWriter(transaction, sdc_id, why, &now);
      return absl::OkStatus();
    });
  };
  TESSERA_RETURN_IF_ERROR(
      set_writer(passing.volume.writer_sdc_id, passing.to.sdc_id, "passed on by request"));
  const milliseconds left =
      std::max(milliseconds(1), std::min(kHoldMax, call.TimeLeft(kWaitMax) - kReserve));
  const absl::Status attached = control_->AttachVolume(passing.to, volume_id, left).status();
  absl::Status outcome;
  if (!attached.ok()) {
    // It may have got the right all the same: then the generation is another.
    const absl::Status back =
        passing.gone || !passing.from.has_value()
            ? absl::OkStatus()
            : set_writer(passing.to.sdc_id, passing.volume.writer_sdc_id, "the other did not come");
    LogWarning("a client did not take the right to write",
               {{"volume", volume_id}, {"sdc", passing.to.sdc_id}, {"error", attached}});
    outcome = WithReason(absl::UnavailableError(absl::StrCat(
                             Name(passing.to), " did not take over ", Name(passing.volume),
                             " in time", back.ok() ? "" : ", or did so later: look again", ": ",
                             std::string(attached.message()))),
                         "NEW_WRITER_SILENT");
  }
  // It goes on at once, one way or the other.
  if (passing.from.has_value() && !passing.gone) {
    const absl::Status told =
        control_->AttachVolume(*passing.from, volume_id, kTellTimeout).status();
    if (!told.ok()) LogWarning("a client was not told to go on", {{"error", told}});
  }
  return outcome;
}

absl::Status VolumeService::Do(const CallContext& call, const v1::PassWriterRequest& request,
                               v1::PassWriterResponse* response) {
  Passing passing;
  TESSERA_RETURN_IF_ERROR(PreparePassing(request, &passing));
  if (passing.volume.writer_sdc_id != passing.to.sdc_id) {
    TESSERA_RETURN_IF_ERROR(Yield(call, &passing));
    TESSERA_RETURN_IF_ERROR(HandOver(call, passing));
    const auto held = std::chrono::steady_clock::now() - passing.began;
    if (!passing.gone && passing.from.has_value()) {
      response->set_held_micros(static_cast<uint64_t>(
          std::chrono::duration_cast<std::chrono::microseconds>(held).count()));
    }
  }
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume,
                             ResolveVolume(db, passing.volume.volume_id, ""));
    *response->mutable_volume() = TopologyReader(db, *health_).Volume(volume);
    return absl::OkStatus();
  });
}

void VolumeService::YieldForUnmap(const CallContext& call, uint64_t volume_id, uint64_t sdc_id) {
  std::optional<SdcRow> writer;
  v1::YieldWriterRequest request;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    const auto volume = FindVolume(db, volume_id);
    if (!volume.has_value() || volume->writer_sdc_id == sdc_id) return absl::OkStatus();
    if (!FindMapping(db, volume_id, sdc_id).has_value()) return absl::OkStatus();
    writer = FindSdc(db, volume->writer_sdc_id);
    request.set_volume_id(volume_id);
    request.set_generation(volume->generation);
    return absl::OkStatus();
  });
  if (!read.ok() || !writer.has_value()) return;
  const milliseconds hold = std::min(kUnmapHold, call.TimeLeft(kWaitMax) - kReserve);
  if (hold <= milliseconds(0)) return;
  request.set_deadline_ms(static_cast<uint32_t>(hold.count()));
  const absl::Status yielded = control_->YieldWriter(*writer, request, hold / 2 + kAnswerReserve);
  if (!yielded.ok()) {
    LogWarning("a shared volume's writer did not finish before an unmapping",
               {{"volume", volume_id}, {"sdc", writer->sdc_id}, {"error", yielded}});
  }
}

// A generation that is newer still ends the same ones and more.
absl::StatusOr<FenceReceipt> VolumeService::FenceShared(const CallContext& call, VolumeRow volume) {
  const uint64_t wanted = volume.generation;
  while (true) {
    absl::StatusOr<FenceReceipt> receipt =
        fence_->Run(volume, FencePurpose::kEndOnly, call.TimeLeft(kWaitMax));
    if (!absl::IsAborted(receipt.status())) return receipt;
    FenceReceipt overtaken;
    overtaken.generation = wanted;
    TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
      TESSERA_ASSIGN_OR_RETURN(volume, ResolveVolume(db, volume.volume_id, ""));
      for (const v1::FenceReceipt& proof :
           ListFenceReceiptRows(db, volume.volume_id, volume.fenced_generation)) {
        (proof.proof() == v1::FENCE_PROOF_CONFIRMED ? overtaken.confirmed_sds_ids
                                                    : overtaken.expired_sds_ids)
            .insert(proof.sds_id());
      }
      return absl::OkStatus();
    }));
    if (volume.fenced_generation >= wanted) return overtaken;
    if (call.TimeLeft(kWaitMax) <= kFencePause) return receipt;
    Pause(absl::FromChrono(kFencePause));
  }
}

}  // namespace tessera::mdm
