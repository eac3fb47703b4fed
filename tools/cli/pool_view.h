// Pools as a table.
#ifndef TESSERA_TOOLS_CLI_POOL_VIEW_H_
#define TESSERA_TOOLS_CLI_POOL_VIEW_H_

#include <vector>

#include "tessera/v1/topology.pb.h"

namespace tessera::cli {

void PrintPools(const std::vector<v1::StoragePool>& pools);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_POOL_VIEW_H_
