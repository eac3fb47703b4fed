// `tessera volume verify`: compares the replicas of every chunk of a volume at rest.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/sds_control.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"

namespace tessera::cli {
namespace {

// (placement group, chunk, snapshot sequence)
using ChunkId = std::tuple<uint64_t, uint64_t, uint64_t>;
using Digests = std::map<ChunkId, v1::ChunkDigest>;
using Groups = std::map<uint64_t, v1::PlacementGroup>;

// Readings of the map and the digests before verify says that the map does not hold still.
constexpr int kRounds = 20;

v1::Volume FindVolume(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  v1::GetVolumeRequest request;
  request.set_volume_id(which.id);
  request.set_name(which.name);
  return client->Call<v1::VolumeService>(&v1::VolumeService::Stub::GetVolume, request).volume();
}

Groups PlacementGroups(Client* client, uint64_t pool_id) {
  Groups groups;
  v1::ListPlacementGroupsRequest request;
  request.set_pool_id(pool_id);
  do {
    const auto page = client->Call<v1::PlacementService>(
        &v1::PlacementService::Stub::ListPlacementGroups, request);
    for (const auto& group : page.placement_groups()) groups[group.placement_group_id()] = group;
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return groups;
}

std::map<uint64_t, v1::Sds> Servers(Client* client) {
  std::map<uint64_t, v1::Sds> servers;
  v1::ListSdssRequest request;
  do {
    const auto page =
        client->Call<v1::TopologyService>(&v1::TopologyService::Stub::ListSdss, request);
    for (const auto& sds : page.sdss()) servers[sds.sds_id()] = sds;
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return servers;
}

Digests DigestsOf(Client* client, const std::string& target, uint64_t vtree_id) {
  auto stub = v1::SdsControlService::NewStub(client->Channel(target));
  grpc::ClientContext context;
  client->Prepare(&context);
  v1::ListChunkDigestsRequest request;
  request.set_vtree_id(vtree_id);
  auto reader = stub->ListChunkDigests(&context, request);
  Digests digests;
  v1::ListChunkDigestsResponse piece;
  while (reader->Read(&piece)) {
    for (const auto& digest : piece.digests()) {
      digests[{digest.placement_group_id(), digest.key().chunk_index(),
               digest.key().snapshot_sequence()}] = digest;
    }
  }
  Client::Check(reader->Finish(), target);
  return digests;
}

// A chunk that was trimmed empty may be known to one replica and never written on another.
bool Equal(const v1::ChunkDigest* a, const v1::ChunkDigest* b) {
  const auto empty = [](const v1::ChunkDigest* digest) {
    return digest == nullptr || (digest->error().empty() && digest->mapped_bytes() == 0);
  };
  // Of a pruned layer each replica has what it has: it is not compared.
  if ((a != nullptr && a->pruned()) || (b != nullptr && b->pruned())) return true;
  if (empty(a) && empty(b)) return true;
  if (a == nullptr || b == nullptr) return false;
  return a->error().empty() && b->error().empty() && a->content_crc32c() == b->content_crc32c();
}

// Paths of all volumes and snapshots of the vtree, those in the trash, too.
std::vector<v1::LayerPath> PathsOf(Client* client, uint64_t vtree_id) {
  std::vector<v1::LayerPath> paths;
  for (const bool trashed : {false, true}) {
    v1::ListVolumesRequest request;
    request.set_page_size(1000);
    request.set_trashed(trashed);
    do {
      const auto page =
          client->Call<v1::VolumeService>(&v1::VolumeService::Stub::ListVolumes, request);
      for (const v1::Volume& volume : page.volumes()) {
        if (volume.vtree_id() == vtree_id) paths.push_back(volume.path());
      }
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
  }
  return paths;
}

bool Sees(const v1::LayerPath& path, uint64_t layer) {
  const auto branch = static_cast<uint32_t>(layer >> 32);
  const auto ordinal = static_cast<uint32_t>(layer);
  if (path.parts().empty()) return branch == 0;
  return std::any_of(path.parts().begin(), path.parts().end(), [&](const v1::LayerPathPart& part) {
    return part.branch() == branch && ordinal <= part.ordinal_max();
  });
}

// Of each chunk, the layers in which some path ends. A layer that nobody sees any more is dropped
// by one server sooner than by another.
std::set<ChunkId> SeenLayers(const std::map<ChunkId, int>& chunks,
                             const std::vector<v1::LayerPath>& paths) {
  std::set<ChunkId> seen;
  for (auto begin = chunks.begin(); begin != chunks.end();) {
    auto end = begin;
    const auto same_chunk = [&](const ChunkId& other) {
      return std::get<0>(other) == std::get<0>(begin->first) &&
             std::get<1>(other) == std::get<1>(begin->first);
    };
    while (end != chunks.end() && same_chunk(end->first)) ++end;
    for (const v1::LayerPath& path : paths) {
      // The newest that it sees: layers are in order.
      for (auto layer = end; layer != begin;) {
        --layer;
        if (!Sees(path, std::get<2>(layer->first))) continue;
        seen.insert(layer->first);
        break;
      }
    }
    begin = end;
  }
  return seen;
}

// The digests of all servers that have replicas in these groups.
std::map<uint64_t, Digests> DigestsOfAll(Client* client, const Groups& groups, uint64_t vtree_id) {
  const auto servers = Servers(client);
  std::map<uint64_t, Digests> by_sds;
  for (const auto& [id, group] : groups) {
    for (const auto& replica : group.replicas()) {
      const auto server = servers.find(replica.sds_id());
      if (server == servers.end() || by_sds.contains(replica.sds_id())) continue;
      by_sds[replica.sds_id()] = DigestsOf(client, server->second.endpoints().control(), vtree_id);
    }
  }
  return by_sds;
}

bool SameEpochs(const Groups& a, const Groups& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&b](const auto& entry) {
           const auto found = b.find(entry.first);
           return found != b.end() && found->second.epoch() == entry.second.epoch();
         });
}

void Verify(Client* client, const std::string& text, int* exit_code) {
  const v1::Volume volume = FindVolume(client, text);
  Groups groups = PlacementGroups(client, volume.pool_id());
  std::map<uint64_t, Digests> by_sds;
  // A replica that is moved meanwhile is gone from where the map said: that map is compared which
  // held from before the first digest until after the last.
  for (int round = 1;; ++round) {
    by_sds = DigestsOfAll(client, groups, volume.vtree_id());
    Groups after = PlacementGroups(client, volume.pool_id());
    if (SameEpochs(groups, after)) break;
    if (round == kRounds) {
      std::cerr << "tessera: replicas are on the move (see 'tessera rebuild list'): try again when "
                   "they have settled\n";
      *exit_code = kFailed;
      return;
    }
    groups = std::move(after);
  }
  std::map<ChunkId, int> chunks;
  for (const auto& [sds_id, digests] : by_sds) {
    for (const auto& [chunk, digest] : digests) ++chunks[chunk];
  }
  const std::set<ChunkId> seen = SeenLayers(chunks, PathsOf(client, volume.vtree_id()));
  uint64_t compared = 0;
  uint64_t not_in_sync = 0;
  uint64_t different = 0;
  uint64_t dropped = 0;
  for (const auto& [chunk, count] : chunks) {
    const auto group = groups.find(std::get<0>(chunk));
    if (group == groups.end()) continue;
    const v1::ChunkDigest* first = nullptr;
    bool have_first = false;
    for (const auto& replica : group->second.replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) {
        ++not_in_sync;
        continue;
      }
      if (!seen.contains(chunk) && !by_sds[replica.sds_id()].contains(chunk)) {
        ++dropped;
        continue;
      }
      const auto found = by_sds[replica.sds_id()].find(chunk);
      const v1::ChunkDigest* digest =
          found == by_sds[replica.sds_id()].end() ? nullptr : &found->second;
      if (digest != nullptr && !digest->error().empty()) {
        std::cout << "chunk " << std::get<1>(chunk) << " on sds " << replica.sds_id() << ": "
                  << digest->error() << "\n";
      }
      if (!have_first) {
        first = digest;
        have_first = true;
        ++compared;
      } else if (!Equal(first, digest)) {
        ++different;
        std::cout << "chunk " << std::get<1>(chunk) << " of placement group " << std::get<0>(chunk)
                  << " differs on sds " << replica.sds_id() << "\n";
      }
    }
  }
  std::cout << compared << " chunks compared, " << different << " different, " << not_in_sync
            << " copies not in sync\n";
  if (dropped > 0) {
    std::cerr << "tessera: " << dropped
              << " layers of chunks are on some replicas only: dropped by the others, as after the "
                 "deletion of snapshots\n";
  }
  if (different > 0) {
    *exit_code = kFailed;
  } else if (not_in_sync > 0) {
    *exit_code = kDegraded;
  }
}

}  // namespace

void AddVerifyCommand(CLI::App* volume, Client* client, int* exit_code) {
  auto name = std::make_shared<std::string>();
  auto* verify = volume->add_subcommand(
      "verify", "Compares the content of all replicas, chunk by chunk. While nobody writes.");
  verify->add_option("VOLUME", *name, "Name or id.")->required();
  verify->callback([=] { Verify(client, *name, exit_code); });
}

}  // namespace tessera::cli
