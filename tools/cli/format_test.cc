#include "tools/cli/format.h"

#include <catch2/catch.hpp>
#include <sstream>

#include "tessera/v1/types.pb.h"
#include "tools/cli/client.h"

namespace tessera::cli {
namespace {

TEST_CASE("Sizes are binary with an i, decimal without, and nothing else passes") {
  CHECK(ParseSize("4096").value() == 4096);
  CHECK(ParseSize("1KiB").value() == 1024);
  CHECK(ParseSize("1.5GiB").value() == 1610612736);
  CHECK(ParseSize("10GB").value() == 10'000'000'000);
  CHECK(ParseSize("2 TiB").value() == 2199023255552);
  CHECK(ParseSize("8G").value() == 8589934592);
  for (const char* bad : {"", "x", "-1", "1.5", "10Gigs", "1e30", "nan", "0.3KiB"}) {
    INFO(bad);
    CHECK(ParseSize(bad).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("Sizes, enums and ages are written for people") {
  CHECK(FormatSize(0) == "0 B");
  CHECK(FormatSize(1073741824) == "1 GiB");
  CHECK(FormatSize(1610612736) == "1.5 GiB");
  CHECK(FormatEnum(v1::ComponentState_descriptor(), v1::COMPONENT_STATE_ONLINE) == "online");
  CHECK(FormatEnum(v1::ComponentState_descriptor(), 0) == "-");
  CHECK(FormatEnum(v1::ComponentState_descriptor(), 99) == "99");
  CHECK(FormatAge(0, 5) == "never");
  CHECK(FormatAge(1000, 13'000) == "12 s ago");
  CHECK(FormatAge(1000, 3'601'000) == "60 min ago");
}

TEST_CASE("A table's columns line up") {
  Table table({"NAME", "SIZE"});
  table.Add({"a", "1 GiB"});
  table.Add({"longer-name", "2 B"});
  std::ostringstream out;
  table.Print(out);
  CHECK(out.str() == "NAME         SIZE\na            1 GiB\nlonger-name  2 B\n");
}

TEST_CASE("Exit codes follow the status") {
  CHECK(ExitCodeFor(absl::NotFoundError("")) == kNotFound);
  CHECK(ExitCodeFor(absl::InvalidArgumentError("")) == kUsage);
  CHECK(ExitCodeFor(absl::FailedPreconditionError("")) == kRefused);
  CHECK(ExitCodeFor(absl::PermissionDeniedError("")) == kDenied);
  CHECK(ExitCodeFor(absl::UnavailableError("")) == kUnavailable);
  CHECK(ExitCodeFor(absl::DeadlineExceededError("")) == kTimedOut);
  CHECK(ExitCodeFor(absl::InternalError("")) == kFailed);
}

}  // namespace
}  // namespace tessera::cli
