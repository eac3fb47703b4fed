#include "services/mgmt/monitor/console_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "services/common/status_macros.h"
#include "services/common/version.h"

namespace tessera::mgmt {
namespace {

using Push = PushStream<v1::WatchConsoleResponse>;

class PushedStream final : public ConsoleStream {
 public:
  explicit PushedStream(std::shared_ptr<Push> stream) : stream_(std::move(stream)) {}
  bool Send(v1::WatchConsoleResponse message) override { return stream_->Send(std::move(message)); }
  [[nodiscard]] size_t queued() const override { return stream_->queued(); }
  void Close(const absl::Status& status) override { stream_->Close(status); }

 private:
  const std::shared_ptr<Push> stream_;  // shared with the call
};

}  // namespace

ConsoleService::ConsoleService(Sources sources, ConsoleHub* hub, HistoryStore* history,
                               RpcDispatcher* rpc)
    : sources_([&] {
        std::sort(sources.settings.begin(), sources.settings.end(),
                  [](const v1::Setting& a, const v1::Setting& b) { return a.name() < b.name(); });
        return std::move(sources);
      }()),
      hub_(hub),
      history_(history),
      rpc_(rpc) {}

grpc::ServerUnaryReactor* ConsoleService::GetOverview(grpc::CallbackServerContext* context,
                                                      const v1::GetOverviewRequest* request,
                                                      v1::GetOverviewResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const auto&, v1::GetOverviewResponse* overview) {
                       *overview = sources_.overview();
                       return absl::OkStatus();
                     });
}

grpc::ServerWriteReactor<v1::WatchConsoleResponse>* ConsoleService::WatchConsole(
    grpc::CallbackServerContext* context, const v1::WatchConsoleRequest* request) {
  return rpc_->Push<v1::WatchConsoleRequest, v1::WatchConsoleResponse>(
      context, request,
      [this](const CallContext& call, const v1::WatchConsoleRequest& watch,
             std::shared_ptr<Push> stream) {
        return hub_->Add(watch, call.caller().credential, sources_.first_state,
                         std::make_unique<PushedStream>(std::move(stream)));
      });
}

grpc::ServerUnaryReactor* ConsoleService::ListSeries(grpc::CallbackServerContext* context,
                                                     const v1::ListSeriesRequest* request,
                                                     v1::ListSeriesResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::ListSeriesRequest& list,
                            v1::ListSeriesResponse* series) -> absl::Status {
                       TESSERA_ASSIGN_OR_RETURN(*series, history_->List(list));
                       return absl::OkStatus();
                     });
}

grpc::ServerUnaryReactor* ConsoleService::QueryHistory(grpc::CallbackServerContext* context,
                                                       const v1::QueryHistoryRequest* request,
                                                       v1::QueryHistoryResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const v1::QueryHistoryRequest& query,
                            v1::QueryHistoryResponse* points) -> absl::Status {
                       TESSERA_ASSIGN_OR_RETURN(*points, history_->Query(query));
                       return absl::OkStatus();
                     });
}

grpc::ServerUnaryReactor* ConsoleService::GetSettings(grpc::CallbackServerContext* context,
                                                      const v1::GetSettingsRequest* request,
                                                      v1::GetSettingsResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const auto&, v1::GetSettingsResponse* settings) {
                       for (const v1::Setting& setting : sources_.settings) {
                         *settings->add_settings() = setting;
                       }
                       settings->set_software_version(kVersion);
                       settings->set_database_bytes(history_->database_bytes());
                       settings->set_database_limit_bytes(history_->limit_bytes());
                       return absl::OkStatus();
                     });
}

}  // namespace tessera::mgmt
