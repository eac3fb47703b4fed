// ConsoleService: what the console's pages are made of.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_CONSOLE_SERVICE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_CONSOLE_SERVICE_H_

#include <functional>
#include <set>
#include <vector>

#include "services/common/rpc.h"
#include "services/mgmt/monitor/console_hub.h"
#include "services/mgmt/monitor/history_store.h"
#include "tessera/v1/console.grpc.pb.h"

namespace tessera::mgmt {

class ConsoleService final : public v1::ConsoleService::CallbackService {
 public:
  struct Sources {
    std::function<v1::GetOverviewResponse()> overview;
    ConsoleHub::FirstState first_state;
    std::vector<v1::Setting> settings;
  };
  // All must outlive it.
  ConsoleService(Sources sources, ConsoleHub* hub, HistoryStore* history, RpcDispatcher* rpc);

  grpc::ServerUnaryReactor* GetOverview(grpc::CallbackServerContext* context,
                                        const v1::GetOverviewRequest* request,
                                        v1::GetOverviewResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchConsoleResponse>* WatchConsole(
      grpc::CallbackServerContext* context, const v1::WatchConsoleRequest* request) override;
  grpc::ServerUnaryReactor* ListSeries(grpc::CallbackServerContext* context,
                                       const v1::ListSeriesRequest* request,
                                       v1::ListSeriesResponse* response) override;
  grpc::ServerUnaryReactor* QueryHistory(grpc::CallbackServerContext* context,
                                         const v1::QueryHistoryRequest* request,
                                         v1::QueryHistoryResponse* response) override;
  grpc::ServerUnaryReactor* GetSettings(grpc::CallbackServerContext* context,
                                        const v1::GetSettingsRequest* request,
                                        v1::GetSettingsResponse* response) override;

 private:
  const Sources sources_;
  ConsoleHub* const hub_;
  HistoryStore* const history_;
  RpcDispatcher* const rpc_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_CONSOLE_SERVICE_H_
