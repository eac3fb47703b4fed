#include "services/mgmt/alerts/subject.h"

namespace tessera::mgmt {
namespace {

struct KindInfo {
  const char* name;
  std::vector<ValueInfo> values;
  std::vector<ValueInfo> texts;
};

using Infos = std::vector<ValueInfo>;

Infos With(Infos list, const Infos& more) {
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

// Of every part that MGMT polls.
Infos PartValues() {
  return {
      {"answers", "1 when it answered MGMT's last poll, else 0"},
      {"poll_micros", "how long the last answered poll took", true},
      {"uptime_seconds", "how long it has been running"},
      {"problems", "how many problems it tells of itself"},
      {"clock_error_ms", "by how much it may be wrong about MDM time"},
  };
}
Infos PartTexts() {
  return {
      {"problems_text", "its problems, in its words"},
      {"poll_error", "why the last poll failed"},
      {"version", "its software version"},
      {"address", "its management address"},
  };
}
// Of servers and clients, besides.
Infos NodeValues() {
  return {
      {"stale", "1 when the MDM misses its heartbeats, but not yet for long"},
      {"down", "1 when the MDM counts it as offline"},
      {"away", "1 when it is stale or down by an MDM that answers, else 0; always known"},
      {"last_heartbeat_ms", "when the MDM last had a heartbeat of it"},
      {"version_differs", "1 when its software version is not the MDM's"},
  };
}

KindInfo Cluster() {
  return {"cluster",
          {
              {"mdm_answers", "1 when the MDM answered the last poll, else 0; always known"},
              {"mdm_answered_ms", "when it last did; 0: never"},
              {"mdm_silent", "1 when the MDM answered once and does not now; always known"},
              {"mdm_never_answered", "1 when it has never answered this MGMT; always known"},
              {"parts", "parts that are polled"},
              {"parts_silent", "of these, how many did not answer"},
              {"versions", "how many software versions run"},
              {"healthy_placement_groups", "placement groups with all copies"},
              {"degraded_placement_groups", "placement groups that lack a copy"},
              {"unavailable_placement_groups", "placement groups without a usable copy"},
              {"pools_one_loss_away",
               "pools in which losing one more server would make data unavailable, though the pool "
               "is made to bear that"},
              {"capacity_bytes", "bytes of all devices"},
              {"used_bytes", "bytes used on them"},
              {"provisioned_bytes", "sizes of all volumes"},
              {"volumes", "volumes"},
              {"snapshots", "snapshots"},
              {"volumes_degraded", "volumes of which some data lacks a copy"},
              {"volumes_unavailable", "volumes of which some data can't be reached"},
              {"reads_per_second", "client reads a second"},
              {"writes_per_second", "client writes a second"},
              {"read_bytes_per_second", "client bytes read a second"},
              {"write_bytes_per_second", "client bytes written a second"},
              {"read_latency_p50_micros", "median of client reads", true},
              {"read_latency_p99_micros", "99th percentile of client reads", true},
              {"write_latency_p50_micros", "median of client writes", true},
              {"write_latency_p99_micros", "99th percentile of client writes", true},
              {"rebuild_remaining_bytes", "what repair still has to copy"},
          },
          {
              {"mdm_error", "why the MDM does not answer"},
              {"versions_text", "which versions run where"},
              {"pools_at_risk", "names of the pools that are one loss away"},
          }};
}

KindInfo Sds() {
  return {
      "sds",
      With(With(PartValues(), NodeValues()),
           {
               {"maintenance", "1 while it is in maintenance"},
               {"devices", "its devices"},
               {"devices_failed", "of these, failed"},
               {"capacity_bytes", "bytes of its devices"},
               {"used_bytes", "bytes used on them"},
               {"token_refusals", "operations refused because of their token, since it started"},
               {"token_forgeries",
                "of these, with a wrong signature, content, range, volume, or used twice"},
               {"corrupt_blocks_found", "bad blocks found, since it started"},
               {"corrupt_blocks_repaired", "of these, written anew from another copy"},
               {"corrupt_blocks_unrepairable", "of these, without a good copy"},
               {"blocks_different", "blocks that differ between copies"},
               {"learnings_failed", "copies that had to be begun again"},
           }),
      With(PartTexts(), {
                            {"mdm_version", "the MDM's software version"},
                            {"maintenance_reason", "why it is in maintenance"},
                        })};
}

KindInfo Sdc() {
  return {"sdc",
          With(With(PartValues(), NodeValues()),
               {
                   {"mappings", "volumes mapped to it"},
                   {"io_timeouts", "requests failed by --io-timeout, since it started"},
                   {"io_errors", "requests answered with an error, since it started"},
                   {"io_requests", "requests answered, since it started"},
                   {"grant_failures", "calls about grants that failed, since it started"},
                   {"waits_for_space", "writes that found the pool full, since it started"},
                   {"mdm_reachable", "1 when its own last call to the MDM was answered"},
               }),
          With(PartTexts(), {{"mdm_version", "the MDM's software version"}})};
}

KindInfo Device() {
  return {"device",
          {
              {"failed", "1 when it failed"},
              {"stale", "1 when its server is stale"},
              {"down", "1 when its server is down"},
              {"in_pool", "1 when it is in a pool"},
              {"draining", "1 while it is being emptied"},
              {"capacity_bytes", "bytes that it can hold"},
              {"used_bytes", "bytes used"},
              {"used_percent", "100 × used_bytes by capacity_bytes"},
              {"placement_groups", "placement groups of which it holds a copy"},
          },
          {
              {"server", "its server's name"},
              {"path", "folder or block device on the server"},
              {"failure", "why it does not work"},
          }};
}

KindInfo Pool() {
  return {
      "pool",
      {
          {"capacity_bytes", "bytes of its devices, all copies"},
          {"used_bytes", "bytes used on them"},
          {"used_percent", "100 × used_bytes by capacity_bytes"},
          {"warn_percent", "the pool's first threshold"},
          {"critical_percent", "its second"},
          {"provisioned_bytes", "sizes of its volumes"},
          {"available_bytes", "what new thick volumes may take"},
          {"overcommit_percent", "100 × provisioned by what the devices can hold for clients"},
          {"overcommit_limit_percent", "the limit that is set; 0: none"},
          {"volumes", "its volumes and snapshots"},
          {"replica_count", "copies wanted"},
          {"min_replicas", "copies needed for IO"},
          {"degraded", "1 when some data lacks a copy"},
          {"single_copy", "1 when some data has one copy where more are wanted"},
          {"unavailable", "1 when some data has no usable copy"},
          {"spare_copies", "copies of its worst data that may still be lost without losing access"},
          {"one_loss_away",
           "1 when one more loss makes data unavailable, and that is not by design"},
          {"devices", "its devices"},
          {"fault_sets",
           "fault sets (servers without one count for themselves) with devices in it"},
          {"rebuild_room_bytes",
           "room on the others after losing the fullest fault set, less what it holds; below 0: it "
           "does not fit"},
          {"rebuild_possible", "1 when enough fault sets would be left for all copies"},
      },
      {{"largest", "the server, or fault set, that holds most"}}};
}

KindInfo Volume() {
  return {"volume",
          {
              {"size_bytes", "its size"},
              {"byte_budget", "its budget; 0: none"},
              {"over_budget", "1 when it takes more than its budget"},
              {"snapshot", "1 when it is a snapshot"},
              {"trashed", "1 when it is in the trash"},
              {"mappings", "clients to which it is mapped"},
              {"degraded", "1 when some of it lacks a copy"},
              {"single_copy", "1 when some of it has one copy where more are wanted"},
              {"unavailable", "1 when some of it can't be used"},
              {"damaged", "1 when some blocks of it are lost"},
              {"unreadable_blocks", "how many blocks are lost"},
              {"rebuild_percent", "of what is missing, how much has been copied"},
              {"expires_ms", "when it deletes itself; 0: never"},
          },
          {
              {"pool", "its pool's name"},
              {"cause", "why it is not healthy"},
              {"action", "what the MDM advises"},
          }};
}

KindInfo Schedule() {
  return {"schedule",
          {
              {"paused", "1 when it is paused"},
              {"failed", "1 when its last run failed"},
              {"last_run_ms", "when it last ran; 0: never"},
              {"next_run_ms", "when it runs next; 0: paused"},
              {"interval_seconds", "how often it runs"},
          },
          {{"last_error", "why its last run failed"}}};
}

KindInfo Operation() {
  return {"operation",
          {
              {"rebuild", "1 when it is a rebuild"},
              {"resync", "1 when it is a resync"},
              {"rebalance", "1 when it is a rebalance"},
              {"drain", "1 when it is a drain"},
              {"scrub", "1 when it is a scrub"},
              {"restores_copies", "1 when it is a rebuild or a resync"},
              {"running", "1 when it works, or waits for a turn"},
              {"blocked", "1 when it can't go on now"},
              {"paused", "1 when an administrator paused it"},
              {"started_ms", "when it began"},
              {"bytes_done", "bytes copied; of a scrub: read"},
              {"bytes_total", "bytes in all, as far as is known"},
              {"placement_groups_done", "placement groups that are done"},
              {"placement_groups_total", "placement groups in all"},
              {"devices_done", "of a scrub: devices that are done"},
              {"retries", "attempts that failed"},
          },
          {
              {"what", "rebuild, resync, …"},
              {"last_error", "why the last attempt failed, or what it waits for"},
          }};
}

const std::map<SubjectKind, KindInfo>& Kinds() {
  static const auto* const kinds = new std::map<SubjectKind, KindInfo>{
      {SubjectKind::kCluster, Cluster()},
      {SubjectKind::kMdm, {"mdm", PartValues(), PartTexts()}},
      {SubjectKind::kSds, Sds()},
      {SubjectKind::kSdc, Sdc()},
      {SubjectKind::kDevice, Device()},
      {SubjectKind::kPool, Pool()},
      {SubjectKind::kVolume, Volume()},
      {SubjectKind::kSchedule, Schedule()},
      {SubjectKind::kCertificate, {"certificate", {{"expires_ms", "when it ends"}}, {}}},
      {SubjectKind::kOperation, Operation()},
  };
  return *kinds;
}

}  // namespace

std::string_view KindName(SubjectKind kind) { return Kinds().at(kind).name; }

std::optional<SubjectKind> KindOfName(std::string_view name) {
  for (const auto& [kind, info] : Kinds()) {
    if (name == info.name) return kind;
  }
  return std::nullopt;
}

std::optional<SubjectKind> KindOfKey(std::string_view key) {
  return KindOfName(key.substr(0, key.find('/')));
}

std::string Subject::Key() const {
  const std::string_view kind_name = KindName(kind);
  if (id.empty()) return std::string(kind_name);
  std::string key(kind_name);
  return key.append("/").append(id);
}

const std::vector<ValueInfo>& ValuesOf(SubjectKind kind) { return Kinds().at(kind).values; }
const std::vector<ValueInfo>& TextsOf(SubjectKind kind) { return Kinds().at(kind).texts; }

}  // namespace tessera::mgmt
