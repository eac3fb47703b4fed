#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/common/node.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

using Volumes = v1::VolumeService;

struct Options {
  std::string volume;
  std::string snapshot;
  std::vector<std::string> also;
  std::vector<std::string> labels;
  std::string lock;
  std::string deadline;
  std::string keep;
  std::string keep_as;
  std::string expires;
  bool no_safety_snapshot = false;
  std::string budget;
};

void AddSource(const std::string& volume, const std::string& snapshot,
               v1::CreateSnapshotsRequest* request) {
  const NameOrId which = ParseNameOrId(volume);
  v1::SnapshotSource* source = request->add_sources();
  source->set_volume_id(which.id);
  source->set_volume_name(which.name);
  source->set_snapshot_name(snapshot);
}

uint64_t LockedUntil(const std::string& lock) {
  return static_cast<uint64_t>(absl::ToUnixMillis(absl::Now())) + ParseMillis("--for", lock);
}

void Create(Client* client, const Options& options) {
  v1::CreateSnapshotsRequest request;
  request.set_request_id(NewUuid());
  AddSource(options.volume, options.snapshot, &request);
  for (const std::string& also : options.also) {
    const size_t equals = also.find('=');
    if (equals == std::string::npos) {
      throw CommandError(
          absl::InvalidArgumentError(absl::StrCat("--also: '", also, "' is not VOLUME=SNAPSHOT")));
    }
    AddSource(also.substr(0, equals), also.substr(equals + 1), &request);
  }
  ApplyLabels(options.labels, request.mutable_labels());
  if (!options.lock.empty()) request.set_locked_until_ms(LockedUntil(options.lock));
  if (!options.deadline.empty()) {
    request.set_deadline_ms(static_cast<uint32_t>(
        std::min<uint64_t>(ParseMillis("--deadline", options.deadline), UINT32_MAX)));
  }
  const auto response = client->Call<Volumes>(&Volumes::Stub::CreateSnapshots, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  PrintVolumes({response.snapshots().begin(), response.snapshots().end()});
  if (response.held_micros() > 0) {
    std::cout << "writes waited for " << response.held_micros() / 1000 << "."
              << response.held_micros() / 100 % 10 << " ms\n";
  }
}

v1::Volume Find(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  v1::GetVolumeRequest request;
  request.set_volume_id(which.id);
  request.set_name(which.name);
  return client->Call<Volumes>(&Volumes::Stub::GetVolume, request).volume();
}

void List(Client* client, const Options& options) {
  v1::ListVolumesRequest request;
  v1::ListVolumesResponse all;
  request.set_page_size(1000);
  request.set_kind(v1::VOLUME_KIND_SNAPSHOT);
  if (!options.volume.empty()) request.set_parent_id(Find(client, options.volume).volume_id());
  do {
    const auto page = client->Call<Volumes>(&Volumes::Stub::ListVolumes, request);
    all.mutable_volumes()->MergeFrom(page.volumes());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, all);
  Table table({"ID", "NAME", "OF", "SIZE", "MADE AT", "LOCKED UNTIL"});
  for (const v1::Volume& snapshot : all.volumes()) {
    table.Add({absl::StrCat(snapshot.volume_id()), snapshot.name(),
               snapshot.parent_name().empty() ? absl::StrCat(snapshot.parent_id())
                                              : snapshot.parent_name(),
               FormatSize(snapshot.size_bytes()), TimeText(snapshot.created_ms()),
               snapshot.locked_until_ms() == 0 ? "-" : TimeText(snapshot.locked_until_ms())});
  }
  table.Print(std::cout);
}

// A snapshot is a volume: these commands are for it alone.
uint64_t SnapshotId(Client* client, const std::string& text) {
  const v1::Volume volume = Find(client, text);
  if (volume.kind() != v1::VOLUME_KIND_SNAPSHOT) {
    throw CommandError(absl::FailedPreconditionError(
        absl::StrCat("'", volume.name(), "' is a volume, not a snapshot")));
  }
  return volume.volume_id();
}

void Delete(Client* client, const Options& options) {
  v1::DeleteVolumeRequest request;
  request.set_volume_id(SnapshotId(client, options.snapshot));
  if (!options.keep.empty()) request.set_keep_ms(ParseMillis("--keep", options.keep));
  client->Call<Volumes>(&Volumes::Stub::DeleteVolume, request);
}

void Lock(Client* client, const Options& options) {
  v1::UpdateVolumeRequest request;
  request.set_volume_id(SnapshotId(client, options.snapshot));
  request.mutable_volume()->set_locked_until_ms(LockedUntil(options.lock));
  request.mutable_update_mask()->add_paths("locked_until_ms");
  const auto response = client->Call<Volumes>(&Volumes::Stub::UpdateVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response.volume());
  std::cout << "locked until " << TimeText(response.volume().locked_until_ms()) << "\n";
}

void Clone(Client* client, const Options& options) {
  const NameOrId snapshot = ParseNameOrId(options.snapshot);
  v1::CloneVolumeRequest request;
  request.set_request_id(NewUuid());
  request.set_snapshot_id(snapshot.id);
  request.set_snapshot_name(snapshot.name);
  request.set_name(options.volume);
  if (!options.budget.empty()) {
    const auto budget = ParseSize(options.budget);
    if (!budget.ok()) throw CommandError(budget.status());
    request.set_byte_budget(*budget);
  }
  ApplyLabels(options.labels, request.mutable_labels());
  if (!options.expires.empty()) {
    request.set_expires_ms(ParseExpiry("--expires", options.expires));
  }
  const auto response = client->Call<Volumes>(&Volumes::Stub::CloneVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response.volume());
  PrintVolumes({response.volume()});
}

void Rollback(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  const NameOrId snapshot = ParseNameOrId(options.snapshot);
  v1::RollbackVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_snapshot_id(snapshot.id);
  request.set_snapshot_name(snapshot.name);
  request.set_safety_snapshot_name(options.keep_as);
  request.set_no_safety_snapshot(options.no_safety_snapshot);
  const auto response = client->Call<Volumes>(&Volumes::Stub::RollbackVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  if (response.has_safety_snapshot()) {
    std::cout << "what it had is kept as " << response.safety_snapshot().name() << "\n";
  }
}

}  // namespace

void AddSnapshotCommands(CLI::App* app, Client* client) {
  auto options = std::make_shared<Options>();
  auto* snapshot = app->add_subcommand("snapshot", "Snapshots of volumes, and clones of these.")
                       ->require_subcommand(1);

  auto* create =
      snapshot->add_subcommand("create", "Keeps what a volume has now, also while it is written.");
  create->add_option("VOLUME", options->volume, "Name or id.")->required();
  create->add_option("NAME", options->snapshot, "The snapshot's name.")->required();
  create->add_option("--also", options->also,
                     "VOLUME=SNAPSHOT: of another volume at the same moment; several times.");
  create->add_option("--label", options->labels, "KEY=VALUE; may be given several times.");
  create->add_option("--for", options->lock,
                     "Lock it: for that long, such as 720h, nobody can delete it.");
  create->add_option("--deadline", options->deadline,
                     "How long writes may wait for it at most; left out: 2s.");
  create->callback([=] { Create(client, *options); });

  auto* list = snapshot->add_subcommand("list", "Lists snapshots.");
  list->add_option("VOLUME", options->volume, "Only of this volume: name or id.");
  list->callback([=] { List(client, *options); });

  auto* clone =
      snapshot->add_subcommand("clone", "Makes a volume with the content of a snapshot, at once.");
  clone->add_option("SNAPSHOT", options->snapshot, "Name or id.")->required();
  clone->add_option("NAME", options->volume, "The new volume's name.")->required();
  clone->add_option("--label", options->labels, "KEY=VALUE; may be given several times.");
  clone->add_option("--expires", options->expires,
                    "It deletes itself after so long, such as 2h, in use or not.");
  clone->add_option("--budget", options->budget, kBudgetHelp);
  clone->callback([=] { Clone(client, *options); });

  auto* rollback = snapshot->add_subcommand(
      "rollback", "Gives an unmapped volume the content of one of its snapshots.");
  rollback->add_option("VOLUME", options->volume, "Name or id.")->required();
  rollback->add_option("SNAPSHOT", options->snapshot, "Name or id.")->required();
  auto* keep_as = rollback->add_option(
      "--keep-as", options->keep_as,
      "What it has now is kept under this name; left out: VOLUME-before-SNAPSHOT.");
  rollback
      ->add_flag("--no-safety-snapshot", options->no_safety_snapshot, "What it has now is lost.")
      ->excludes(keep_as);
  rollback->callback([=] { Rollback(client, *options); });

  auto* lock = snapshot->add_subcommand("lock", "Nobody can delete it for a time.");
  lock->add_option("SNAPSHOT", options->snapshot, "Name or id.")->required();
  lock->add_option("--for", options->lock, "From now on, such as 720h; never less than before.")
      ->required();
  lock->callback([=] { Lock(client, *options); });

  auto* remove = snapshot->add_subcommand("delete", "Deletes a snapshot that is not mapped.");
  remove->add_option("SNAPSHOT", options->snapshot, "Name or id.")->required();
  remove->add_option("--keep", options->keep,
                     "How long it stays in the trash first, such as 168h; left out: not at all.");
  remove->callback([=] { Delete(client, *options); });
}

}  // namespace tessera::cli
