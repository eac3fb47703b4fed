// The pair of macros with which libchunk hands errors on. Each evaluates its argument once.
#ifndef TESSERA_LIBCHUNK_STATUS_MACROS_H_
#define TESSERA_LIBCHUNK_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expression` (an absl::Status) is not OK.
#define CHUNK_RETURN_IF_ERROR(expression)                                   \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define CHUNK_MACRO_CONCAT_INNER(a, b) a##b
#define CHUNK_MACRO_CONCAT(a, b) CHUNK_MACRO_CONCAT_INNER(a, b)

// Assigns the value of a StatusOr, or returns its status.
#define CHUNK_ASSIGN_OR_RETURN(target, expression) \
  CHUNK_ASSIGN_OR_RETURN_INNER(CHUNK_MACRO_CONCAT(status_or_, __LINE__), target, expression)
#define CHUNK_ASSIGN_OR_RETURN_INNER(temporary, target, expression) \
  auto temporary = (expression);                                    \
  if (!temporary.ok()) return std::move(temporary).status();        \
  target = *std::move(temporary)

#endif  // TESSERA_LIBCHUNK_STATUS_MACROS_H_
