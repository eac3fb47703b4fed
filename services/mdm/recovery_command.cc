#include "services/mdm/recovery_command.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/common/tls.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/recovery_reader.h"
#include "services/mdm/recovery_rules.h"
#include "services/mdm/recovery_writer.h"
#include "services/mdm/state_folder.h"

namespace tessera::mdm {
namespace {

std::string Summary(const RecoveryPlan& plan, size_t copies) {
  const RecoveredCluster& cluster = plan.cluster;
  std::string text =
      absl::StrCat("the database was made anew from ", copies, " servers: ", cluster.pools.size(),
                   " pools, ", cluster.groups.size(), " placement groups, ", cluster.volumes.size(),
                   " volumes, ", cluster.clients.size(), " clients");
  std::vector<std::string> missing;
  for (const MissingServer& server : plan.missing) missing.push_back(server.name);
  if (!missing.empty()) absl::StrAppend(&text, "; without ", absl::StrJoin(missing, ", "));
  return text;
}

void PrintCluster(const RecoveredCluster& cluster, std::ostream& out) {
  out << "cluster " << cluster.cluster.cluster_uuid() << ", records of revision "
      << cluster.records_revision << "\n";
  for (const auto& [id, pool] : cluster.pools) {
    std::map<uint32_t, uint32_t> by_in_sync;
    for (const auto& [group_id, group] : cluster.groups) {
      if (PoolOfPlacementGroup(group_id) != id) continue;
      ++by_in_sync[static_cast<uint32_t>(std::count_if(
          group.replicas().begin(), group.replicas().end(),
          [](const auto& replica) { return replica.role() == v1::REPLICA_ROLE_IN_SYNC; }))];
    }
    out << "pool " << pool.name() << ": " << pool.replica_count() << " replicas";
    for (const auto& [in_sync, groups] : by_in_sync) {
      out << ", " << groups << " placement groups with " << in_sync << " in sync";
    }
    out << "\n";
  }
  for (const auto& [id, sds] : cluster.servers) out << "server " << sds.name() << "\n";
  for (const auto& [id, sdc] : cluster.clients) out << "client " << sdc.name() << "\n";
  for (const auto& [id, volume] : cluster.volumes) {
    out << (volume.volume().kind() == v1::VOLUME_KIND_SNAPSHOT ? "snapshot " : "volume ")
        << volume.volume().name() << ": " << volume.volume().size_bytes() << " bytes, mapped to "
        << volume.mappings_size() << " clients\n";
  }
}

void PrintPlan(const RecoveryPlan& plan, std::ostream& out) {
  PrintCluster(plan.cluster, out);
  for (const MissingServer& server : plan.missing) {
    out << "missing: server " << server.name << " (" << server.control << "), "
        << (server.placement_group_ids.empty()
                ? "not needed"
                : absl::StrCat("may know more of ", server.placement_group_ids.size(),
                               " placement groups"))
        << (server.accepted ? ", given up" : "") << "\n";
  }
  for (const std::string& note : plan.notes) out << "note: " << note << "\n";
  out << "not kept: operations, moves and drains, tokens and their counts, events, names of "
         "deleted "
         "volumes, ids of earlier requests\n";
}

absl::Status CheckFolder(const RecoveryOptions& options) {
  if (const std::string old = OldDatabaseIn(options.state_folder);
      !old.empty() && !options.keep_old && !options.check_only) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.state_folder, "/", old,
                     " is there: it is never overwritten. --keep-old renames it first"));
  }
  return absl::OkStatus();
}

}  // namespace

void RecoveryOptions::AddFlags(CLI::App* app) {
  app->add_option(
         "--from-sds", addresses,
         "Control addresses (host:port) of one or more servers; the others are found from their "
         "records. Those that have moved since must be named.")
      ->delimiter(',')
      ->required();
  app->add_option(
         "--state-dir", state_folder,
         "The MDM's folder. Its secrets.key must be that of the cluster: nothing can replace it.")
      ->capture_default_str();
  app->add_option("--accept-missing", accepted_missing,
                  "Names of servers to give up: what only they know is lost.")
      ->delimiter(',');
  app->add_flag("--check", check_only, "Print what would be made, and change nothing.");
  app->add_flag("--keep-old", keep_old, "Rename an mdm.db that is there to mdm.db.old-<n> first.");
  security.AddFlags(app);
}

absl::Status RunRecovery(const RecoveryOptions& options, const Clock& clock, std::ostream& out) {
  TESSERA_RETURN_IF_ERROR(options.security.Check({}));
  const std::string secrets = absl::StrCat(options.state_folder, "/secrets.key");
  if (access(secrets.c_str(), F_OK) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        secrets,
        " is missing: it proves the MDM to servers and clients, and nothing can replace it. "
        "Restore it from a backup"));
  }
  TESSERA_ASSIGN_OR_RETURN(const FolderLock lock, LockFolder(options.state_folder));
  TESSERA_RETURN_IF_ERROR(CheckFolder(options));
  TESSERA_ASSIGN_OR_RETURN(const auto keys, ClusterKeys::Open(secrets, /*must_exist=*/true));
  TESSERA_ASSIGN_OR_RETURN(auto credentials, options.security.ForClient({kRoleSds}));
  RecoveryReader reader(keys.get(), std::move(credentials), [&](const std::string& line) {
    out << line << "\n" << std::flush;
  });
  TESSERA_ASSIGN_OR_RETURN(const std::vector<ServerCopy> copies, reader.ReadAll(options.addresses));
  TESSERA_ASSIGN_OR_RETURN(
      const RecoveryPlan plan,
      PlanRecovery(copies, {options.accepted_missing.begin(), options.accepted_missing.end()}));
  PrintPlan(plan, out);
  if (!plan.refusals.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("nothing was changed:\n  ", absl::StrJoin(plan.refusals, "\n  ")));
  }
  if (options.check_only) {
    out << "checked: nothing was changed\n";
    return absl::OkStatus();
  }
  // What an attempt that was cut off left behind.
  const std::string fresh = absl::StrCat(options.state_folder, "/mdm.db.new");
  for (const char* suffix : {"", "-wal", "-shm"}) unlink(absl::StrCat(fresh, suffix).c_str());
  TESSERA_RETURN_IF_ERROR(WriteRecoveredDatabase(fresh, plan.cluster,
                                                 {.wall_ms = clock.WallMillis(),
                                                  .active_key_id = keys->active_key_id(),
                                                  .summary = Summary(plan, copies.size())}));
  if (!OldDatabaseIn(options.state_folder).empty()) {
    TESSERA_ASSIGN_OR_RETURN(const std::string kept, KeepOldDatabase(options.state_folder));
    out << "the old database is kept as " << kept << "\n";
  }
  TESSERA_RETURN_IF_ERROR(InstallDatabase(fresh, options.state_folder));
  out << Summary(plan, copies.size()) << "\n"
      << options.state_folder << "/mdm.db is in place: start the MDM\n";
  return absl::OkStatus();
}

}  // namespace tessera::mdm
