// `tessera volume export`, `import` and `check-image`: a snapshot to a file or stream and back,
// whole or what changed (docs/volumes/backup.md). They talk to the client that has the volume
// attached.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/sdc_control.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/image_file.h"
#include "tools/cli/image_streams.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

using Volumes = v1::VolumeService;
using Control = v1::SdcControlService;

// Which image a volume holds, once an import has ended well.
constexpr char kImageLabel[] = "tessera.image";
// What is listed in one call: bounds the time of each call, and what is kept of its answer.
constexpr uint64_t kListBytes = uint64_t{1} << 30;
constexpr size_t kReadsAtOnce = 8;
// What goes into one call of WriteVolume: each has its own deadline, and ends with a flush.
constexpr uint64_t kWriteBytes = 64 << 20;
constexpr uint64_t kWriteRecords = 4'096;

struct Options {
  std::string volume;
  std::string base;
  std::string file;
  std::string sdc;
  bool overwrite = false;
  bool any_base = false;
};

template <typename Value>
Value Must(absl::StatusOr<Value> value) {
  if (!value.ok()) throw CommandError(value.status());
  return *std::move(value);
}
void Must(const absl::Status& status) {
  if (!status.ok()) throw CommandError(status);
}

// ---- The cluster -----------------------------------------------------------------------------

v1::Volume Find(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  v1::GetVolumeRequest request;
  request.set_volume_id(which.id);
  request.set_name(which.name);
  return client->Call<Volumes>(&Volumes::Stub::GetVolume, request).volume();
}

std::string ClusterId(Client* client) {
  return client
      ->Call<v1::DiscoveryService>(&v1::DiscoveryService::Stub::GetClusterInfo,
                                   v1::GetClusterInfoRequest())
      .cluster_uuid();
}

// A volume as its client has it.
struct Attached {
  v1::VolumeMapping mapping;
  std::string target;
  std::unique_ptr<Control::Stub> stub;
};

Attached FindAttached(Client* client, const v1::Volume& volume, const std::string& sdc) {
  const NameOrId which = ParseNameOrId(sdc);
  const auto found = std::find_if(
      volume.mappings().begin(), volume.mappings().end(), [&](const v1::VolumeMapping& mapping) {
        if (!mapping.attached()) return false;
        return sdc.empty() ||
               (which.id != 0 ? mapping.sdc_id() == which.id : mapping.sdc_name() == which.name);
      });
  if (found == volume.mappings().end()) {
    throw CommandError(absl::FailedPreconditionError(
        absl::StrCat("'", volume.name(), "' is not attached to ", sdc.empty() ? "any client" : sdc,
                     ": tessera volume map ", volume.name(),
                     volume.kind() == v1::VOLUME_KIND_SNAPSHOT ? " --read-only" : "")));
  }
  Attached attached;
  attached.mapping = *found;
  v1::ListSdcsRequest request;
  do {
    const auto page =
        client->Call<v1::TopologyService>(&v1::TopologyService::Stub::ListSdcs, request);
    for (const v1::Sdc& item : page.sdcs()) {
      if (item.sdc_id() == found->sdc_id()) attached.target = item.endpoints().control();
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (attached.target.empty()) {
    throw CommandError(absl::UnavailableError(
        absl::StrCat("the address of client ", found->sdc_name(), " is not known")));
  }
  attached.stub = Control::NewStub(client->Channel(attached.target));
  return attached;
}

// What a snapshot is called everywhere, whatever the cluster.
std::string IdentityOf(const v1::VolumeImageHeader& header, const v1::VolumeImageSource& source) {
  return source.snapshot() ? absl::StrCat(header.cluster_id(), "/", source.volume_id())
                           : absl::StrCat("image/", header.image_id());
}

// The label of a volume that holds it. A rollback gives the volume another branch: what it held
// before says nothing any more.
std::string LabelOf(const std::string& identity, const v1::Volume& volume) {
  const uint32_t branch = volume.path().parts().empty() ? 0 : volume.path().parts(0).branch();
  return absl::StrCat(identity, "@", branch);
}

std::string NameOf(const v1::VolumeImageSource& source) {
  const std::string name = absl::StrCat("'", source.volume_name(), "' (id ", source.volume_id());
  return source.snapshot() ? absl::StrCat(name, ", a snapshot of '", source.parent_name(), "')")
                           : name + ")";
}

v1::VolumeImageSource SourceOf(const v1::Volume& volume) {
  v1::VolumeImageSource source;
  source.set_volume_id(volume.volume_id());
  source.set_volume_name(volume.name());
  source.set_vtree_id(volume.vtree_id());
  source.set_snapshot(volume.kind() == v1::VOLUME_KIND_SNAPSHOT);
  source.set_parent_id(volume.parent_id());
  source.set_parent_name(volume.parent_name());
  source.set_created_ms(volume.created_ms());
  return source;
}

// What differs from the base (0: all that takes space) in a range, at most kListBytes.
std::vector<v1::ChangedExtent> ListChanges(Client* client, const Attached& at, uint64_t volume_id,
                                           uint64_t base_id, uint64_t offset, uint64_t length) {
  grpc::ClientContext context;
  client->Prepare(&context);
  v1::ListChangedExtentsRequest request;
  request.set_volume_id(volume_id);
  request.set_base_id(base_id);
  request.set_offset_bytes(offset);
  request.set_length_bytes(length);
  const auto reader = at.stub->ListChangedExtents(&context, request);
  std::vector<v1::ChangedExtent> extents;
  v1::ListChangedExtentsResponse response;
  while (reader->Read(&response)) {
    extents.insert(extents.end(), response.extents().begin(), response.extents().end());
  }
  Client::Check(reader->Finish(), at.target);
  return extents;
}

// For people, on standard error: standard output may be the image.
void Tell(const std::string& what, const v1::VolumeImageTrailer& trailer) {
  std::cerr << "tessera: " << what << ": " << trailer.records() << " records, "
            << trailer.data_bytes() << " bytes of data, " << trailer.zero_bytes()
            << " bytes of zeros, sha256 " << absl::BytesToHexString(trailer.sha256()) << "\n";
}

// ---- Export ----------------------------------------------------------------------------------

// Reads ranges, several at once, and gives them to the writer in their order.
class Reads {
 public:
  Reads(Client* client, const Attached& at, uint64_t volume_id, ImageWriter* writer)
      : client_(client), at_(at), volume_id_(volume_id), writer_(writer) {}

  void Add(uint64_t offset, uint64_t length) {
    if (waiting_.size() >= kReadsAtOnce) WriteFirst();
    waiting_.emplace_back(offset, std::async(std::launch::async, [this, offset, length] {
                            return ReadRange(offset, length);
                          }));
  }
  void Finish() {
    while (!waiting_.empty()) WriteFirst();
  }

 private:
  using Content = absl::StatusOr<std::string>;

  Content ReadRange(uint64_t offset, uint64_t length) const {
    grpc::ClientContext context;
    client_->Prepare(&context);
    v1::ReadVolumeRequest request;
    request.set_volume_id(volume_id_);
    request.set_offset_bytes(offset);
    request.set_length_bytes(length);
    const auto reader = at_.stub->ReadVolume(&context, request);
    std::string content;
    v1::ReadVolumeResponse response;
    while (reader->Read(&response)) content += response.data();
    const grpc::Status status = reader->Finish();
    if (!status.ok()) {
      return Annotate(FromGrpcStatus(status), absl::StrCat("reading at byte ", offset));
    }
    if (content.size() == length) return content;
    return absl::InternalError(absl::StrCat("reading at byte ", offset, " gave ", content.size(),
                                            " bytes instead of ", length));
  }
  void WriteFirst() {
    const uint64_t offset = waiting_.front().first;
    const std::string content = Must(waiting_.front().second.get());
    waiting_.pop_front();
    Must(writer_->AddData(offset, std::as_bytes(std::span(content))));
  }

  Client* const client_;
  const Attached& at_;
  const uint64_t volume_id_;
  ImageWriter* const writer_;
  std::deque<std::pair<uint64_t, std::future<Content>>> waiting_;
};

void CheckHoldsStill(const v1::Volume& volume, const Attached& at) {
  if (volume.kind() == v1::VOLUME_KIND_SNAPSHOT) return;
  if (at.mapping.mode() == v1::MAPPING_MODE_READ_ONLY) return;
  throw CommandError(absl::FailedPreconditionError(
      absl::StrCat("'", volume.name(),
                   "' may be written meanwhile: export a snapshot of it, or map it read-only")));
}

void Export(Client* client, const Options& options) {
  const v1::Volume volume = Find(client, options.volume);
  const Attached at = FindAttached(client, volume, options.sdc);
  CheckHoldsStill(volume, at);
  v1::VolumeImageHeader header;
  header.set_image_id(NewUuid());
  header.set_kind(v1::VOLUME_IMAGE_KIND_FULL);
  header.set_size_bytes(volume.size_bytes());
  header.set_block_bytes(kImageBlockBytes);
  header.set_created_ms(
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                std::chrono::system_clock::now().time_since_epoch())
                                .count()));
  header.set_cluster_id(ClusterId(client));
  *header.mutable_source() = SourceOf(volume);
  uint64_t base_id = 0;
  if (!options.base.empty()) {
    const v1::Volume base = Find(client, options.base);
    if (base.kind() != v1::VOLUME_KIND_SNAPSHOT) {
      throw CommandError(absl::FailedPreconditionError(absl::StrCat(
          "the base '", base.name(), "' is a volume, which changes: it must be a snapshot")));
    }
    base_id = base.volume_id();
    header.set_kind(v1::VOLUME_IMAGE_KIND_INCREMENTAL);
    *header.mutable_base() = SourceOf(base);
  }
  const std::unique_ptr<OutputFile> file = Must(OutputFile::Create(options.file));
  ImageWriter writer(file.get());
  Must(writer.Begin(header));
  Reads reads(client, at, volume.volume_id(), &writer);
  for (uint64_t offset = 0; offset < volume.size_bytes(); offset += kListBytes) {
    const uint64_t length = std::min(kListBytes, volume.size_bytes() - offset);
    for (const v1::ChangedExtent& extent :
         ListChanges(client, at, volume.volume_id(), base_id, offset, length)) {
      if (extent.zero()) {
        reads.Finish();
        Must(writer.AddZero(extent.offset_bytes(), extent.length_bytes()));
        continue;
      }
      for (uint64_t done = 0; done < extent.length_bytes(); done += kImageDataBytesMax) {
        reads.Add(extent.offset_bytes() + done,
                  std::min(kImageDataBytesMax, extent.length_bytes() - done));
      }
    }
  }
  reads.Finish();
  const v1::VolumeImageTrailer trailer = Must(writer.End());
  Must(file->Keep());
  Tell(absl::StrCat("exported ", base_id == 0 ? "" : "what changed of ", NameOf(header.source())),
       trailer);
}

// ---- Import ----------------------------------------------------------------------------------

// Puts records into calls of WriteVolume, each of which is durable when it ends.
class Writes {
 public:
  Writes(Client* client, const Attached& at, uint64_t volume_id)
      : client_(client), at_(at), volume_id_(volume_id) {}

  void Zero(uint64_t offset, uint64_t length) { Send(offset, length, ""); }
  void Data(uint64_t offset, std::string content) { Send(offset, 0, std::move(content)); }
  void Finish() {
    if (call_ == nullptr) return;
    call_->writer->WritesDone();
    const std::unique_ptr<Call> call = std::move(call_);
    Client::Check(call->writer->Finish(), at_.target);
  }

 private:
  struct Call {
    grpc::ClientContext context;
    v1::WriteVolumeResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::WriteVolumeRequest>> writer;
    uint64_t offset = 0;  // where its next bytes go
    uint64_t bytes = 0;
    uint64_t records = 0;
  };

  void Send(uint64_t offset, uint64_t zero_bytes, std::string content) {
    if (call_ != nullptr && (call_->bytes >= kWriteBytes || call_->records >= kWriteRecords)) {
      Finish();
    }
    v1::WriteVolumeRequest request;
    if (call_ == nullptr) {
      call_ = std::make_unique<Call>();
      client_->Prepare(&call_->context);
      call_->writer = at_.stub->WriteVolume(&call_->context, &call_->response);
      request.set_volume_id(volume_id_);
      request.set_offset_bytes(offset);
      request.set_flush(true);
      call_->offset = offset;
    }
    const uint64_t length = zero_bytes + content.size();
    request.set_skip_bytes(offset - call_->offset);
    request.set_zero_bytes(zero_bytes);
    request.set_data(std::move(content));
    call_->offset = offset + length;
    call_->bytes += length;
    ++call_->records;
    // Why not, the end of the call tells.
    if (!call_->writer->Write(request)) {
      Finish();
      throw CommandError(absl::UnavailableError(
          absl::StrCat("client ", at_.target, " ended the call before it was over")));
    }
  }

  Client* const client_;
  const Attached& at_;
  const uint64_t volume_id_;
  std::unique_ptr<Call> call_;
};

// Empty: takes the label away.
void SetImageLabel(Client* client, uint64_t volume_id, const std::string& label) {
  v1::UpdateVolumeRequest request;
  request.set_volume_id(volume_id);
  v1::GetVolumeRequest which;
  which.set_volume_id(volume_id);
  *request.mutable_volume()->mutable_labels() =
      client->Call<Volumes>(&Volumes::Stub::GetVolume, which).volume().labels();
  auto& labels = *request.mutable_volume()->mutable_labels();
  if (label.empty() && !labels.contains(kImageLabel)) return;
  if (label.empty()) {
    labels.erase(kImageLabel);
  } else {
    labels[kImageLabel] = label;
  }
  request.mutable_update_mask()->add_paths("labels");
  client->Call<Volumes>(&Volumes::Stub::UpdateVolume, request);
}

// Whether the image may go into the volume.
void CheckTarget(const v1::Volume& volume, const Attached& at, const v1::VolumeImageHeader& header,
                 const Options& options) {
  const auto refuse = [](const std::string& why) {
    throw CommandError(absl::FailedPreconditionError(why));
  };
  if (volume.kind() == v1::VOLUME_KIND_SNAPSHOT ||
      at.mapping.mode() == v1::MAPPING_MODE_READ_ONLY) {
    refuse(absl::StrCat("'", volume.name(), "' can't be written as it is mapped"));
  }
  if (volume.size_bytes() < header.size_bytes()) {
    refuse(absl::StrCat("'", volume.name(), "' has ", volume.size_bytes(),
                        " bytes, the image is of ", header.size_bytes(), ": make it larger first"));
  }
  if (header.kind() != v1::VOLUME_IMAGE_KIND_INCREMENTAL || options.any_base) return;
  const std::string base = LabelOf(IdentityOf(header, header.base()), volume);
  const auto label = volume.labels().find(kImageLabel);
  if (label != volume.labels().end() && label->second == base) return;
  refuse(absl::StrCat(
      "the image has what changed since ", NameOf(header.base()), ", and '", volume.name(),
      label == volume.labels().end()
          ? std::string("' is not known to hold any image as it was imported")
          : absl::StrCat("' holds another image (", label->second, ", wanted is ", base, ")"),
      ": import that first, or give --any-base if you know that it is there"));
}

// Makes what takes space in the range zeros.
void Discard(Client* client, const Attached& at, uint64_t volume_id, uint64_t begin, uint64_t end) {
  Writes writes(client, at, volume_id);
  for (uint64_t offset = begin; offset < end; offset += kListBytes) {
    for (const v1::ChangedExtent& extent :
         ListChanges(client, at, volume_id, 0, offset, std::min(kListBytes, end - offset))) {
      writes.Zero(extent.offset_bytes(), extent.length_bytes());
    }
  }
  writes.Finish();
}

bool HoldsData(Client* client, const Attached& at, const v1::Volume& volume) {
  for (uint64_t offset = 0; offset < volume.size_bytes(); offset += kListBytes) {
    const uint64_t length = std::min(kListBytes, volume.size_bytes() - offset);
    if (!ListChanges(client, at, volume.volume_id(), 0, offset, length).empty()) return true;
  }
  return false;
}

void Import(Client* client, const Options& options) {
  const std::unique_ptr<InputFile> file = Must(InputFile::Open(options.file));
  ImageReader reader(file.get());
  const v1::VolumeImageHeader header = Must(reader.Begin());
  const v1::Volume volume = Find(client, options.volume);
  const uint64_t id = volume.volume_id();
  const Attached at = FindAttached(client, volume, options.sdc);
  CheckTarget(volume, at, header, options);
  const bool full = header.kind() == v1::VOLUME_IMAGE_KIND_FULL;
  if (full && !options.overwrite && HoldsData(client, at, volume)) {
    throw CommandError(absl::FailedPreconditionError(absl::StrCat(
        "'", volume.name(), "' holds data, which would be lost: give --overwrite if it may")));
  }
  // From here on until its end it is neither what it was nor what it is to be.
  SetImageLabel(client, id, "");
  Discard(client, at, id, full ? 0 : header.size_bytes(), volume.size_bytes());
  Writes writes(client, at, id);
  for (;;) {
    ImageRecord record = Must(reader.Next());
    if (record.kind == ImageRecord::Kind::kEnd) break;
    if (record.kind == ImageRecord::Kind::kZero) {
      writes.Zero(record.offset_bytes, record.length_bytes);
    } else {
      writes.Data(record.offset_bytes, std::move(record.content));
    }
  }
  writes.Finish();
  SetImageLabel(client, id, LabelOf(IdentityOf(header, header.source()), volume));
  Tell(absl::StrCat("imported ", full ? "" : "what changed of ", NameOf(header.source()), " into '",
                    volume.name(), "'"),
       reader.trailer());
}

void CheckImage(Client* client, const Options& options) {
  const std::unique_ptr<InputFile> file = Must(InputFile::Open(options.file));
  ImageReader reader(file.get());
  const v1::VolumeImageHeader header = Must(reader.Begin());
  while (Must(reader.Next()).kind != ImageRecord::Kind::kEnd) {
  }
  const v1::VolumeImageTrailer& trailer = reader.trailer();
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, header);
  Table table({"FIELD", "VALUE"});
  table.Add({"kind", FormatEnum(v1::VolumeImageKind_descriptor(), header.kind())});
  table.Add({"of", NameOf(header.source())});
  if (header.has_base()) table.Add({"since", NameOf(header.base())});
  table.Add({"size",
             absl::StrCat(FormatSize(header.size_bytes()), " (", header.size_bytes(), " bytes)")});
  table.Add({"made at", TimeText(header.created_ms())});
  table.Add({"cluster", header.cluster_id()});
  table.Add({"records", absl::StrCat(trailer.records())});
  table.Add({"data", absl::StrCat(trailer.data_bytes(), " bytes")});
  table.Add({"zeros", absl::StrCat(trailer.zero_bytes(), " bytes")});
  table.Add({"sha256", absl::BytesToHexString(trailer.sha256())});
  table.Print(std::cout);
}

}  // namespace

void AddImageCommands(CLI::App* volume, Client* client) {
  auto options = std::make_shared<Options>();
  auto* save = volume->add_subcommand(
      "export", "Writes a snapshot to a file or stream: whole, or what changed since another.");
  save->add_option("SNAPSHOT", options->volume,
                   "Name or id; attached to a client. Or a volume that is mapped read-only.")
      ->required();
  save->add_option("--base", options->base,
                   "A snapshot of the same origin: only what differs from it.");
  save->add_option("FILE", options->file, "Must not exist yet; -: standard output.")->required();
  save->add_option("--sdc", options->sdc, "The client to read by; left out: any that has it.");
  save->callback([=] { Export(client, *options); });

  auto* load = volume->add_subcommand(
      "import", "Writes an image that was exported into a volume; nobody may write it meanwhile.");
  load->add_option("FILE", options->file, "The image; -: standard input.")->required();
  load->add_option("VOLUME", options->volume, "Name or id; mapped for writing, and attached.")
      ->required();
  load->add_flag("--overwrite", options->overwrite,
                 "A full image: also into a volume that holds data, which is lost.");
  load->add_flag("--any-base", options->any_base,
                 "An incremental image: also into a volume that is not known to hold its base.");
  load->add_option("--sdc", options->sdc, "The client to write by; left out: any that has it.");
  load->callback([=] { Import(client, *options); });

  auto* check =
      volume->add_subcommand("check-image", "Reads an image, checks all of it, shows it.");
  check->add_option("FILE", options->file, "The image; -: standard input.")->required();
  check->callback([=] { CheckImage(client, *options); });
}

}  // namespace tessera::cli
