// Early returns for absl::Status and absl::StatusOr.
#ifndef TESSERA_SERVICES_COMMON_STATUS_MACROS_H_
#define TESSERA_SERVICES_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the status of `expression` from the enclosing function unless it is OK.
#define TESSERA_RETURN_IF_ERROR(expression)                                   \
  do {                                                                        \
    if (absl::Status tessera_status_ = (expression); !tessera_status_.ok()) { \
      return tessera_status_;                                                 \
    }                                                                         \
  } while (false)

#define TESSERA_CONCAT_INNER_(a, b) a##b
#define TESSERA_CONCAT_(a, b) TESSERA_CONCAT_INNER_(a, b)

// Declares or assigns `target` from a StatusOr, or returns its status.
#define TESSERA_ASSIGN_OR_RETURN(target, expression) \
  TESSERA_ASSIGN_OR_RETURN_(TESSERA_CONCAT_(tessera_status_or_, __LINE__), target, expression)
#define TESSERA_ASSIGN_OR_RETURN_(holder, target, expression) \
  auto holder = (expression);                                 \
  if (!holder.ok()) return std::move(holder).status();        \
  target = *std::move(holder)

#endif  // TESSERA_SERVICES_COMMON_STATUS_MACROS_H_
