// Which layers volumes, snapshots and clones see.
#include "services/mdm/layer_paths.h"

#include <catch2/catch.hpp>

namespace tessera::mdm {
namespace {

constexpr uint32_t kHead = token::kPathHead;

TEST_CASE("a snapshot sees what was written before it, its volume everything", "[layers]") {
  const LayerPath head;
  const LayerPath first = SnapshotPath(head, MakeLayer(0, 1));
  CHECK(first == LayerPath{{.branch = 0, .ordinal_max = 0}});
  CHECK(Sees(first, MakeLayer(0, 0)));
  CHECK_FALSE(Sees(first, MakeLayer(0, 1)));
  CHECK(Sees(head, MakeLayer(0, 1)));
  CHECK_FALSE(Sees(head, MakeLayer(1, 0)));
  CHECK(SnapshotPath(head, MakeLayer(0, 5)) == LayerPath{{.branch = 0, .ordinal_max = 4}});
}

TEST_CASE("a clone sees its own branch and what its snapshot saw", "[layers]") {
  const LayerPath snapshot{{.branch = 0, .ordinal_max = 4}};
  const auto clone = BranchPath(3, snapshot);
  REQUIRE(clone.has_value());
  CHECK(*clone == LayerPath{{.branch = 3, .ordinal_max = kHead}, {.branch = 0, .ordinal_max = 4}});
  CHECK(Sees(*clone, MakeLayer(3, 99)));
  CHECK(Sees(*clone, MakeLayer(0, 4)));
  CHECK_FALSE(Sees(*clone, MakeLayer(0, 5)));
  CHECK_FALSE(Sees(*clone, MakeLayer(2, 0)));
  // Of the clone, again.
  CHECK(SnapshotPath(*clone, MakeLayer(3, 1)) ==
        LayerPath{{.branch = 3, .ordinal_max = 0}, {.branch = 0, .ordinal_max = 4}});
}

TEST_CASE("sixteen parts, and no more", "[layers]") {
  LayerPath path = SnapshotPath({}, MakeLayer(0, 1));
  for (uint32_t branch = 1; branch < token::kPathPartsMax; ++branch) {
    const auto deeper = BranchPath(branch, path);
    REQUIRE(deeper.has_value());
    path = SnapshotPath(*deeper, MakeLayer(branch, 1));
  }
  CHECK(path.size() == token::kPathPartsMax);
  CHECK_FALSE(BranchPath(99, path).has_value());
}

TEST_CASE("paths as text and as messages, and nothing else is one", "[layers]") {
  for (const LayerPath& path :
       {LayerPath{}, LayerPath{{.branch = 0, .ordinal_max = 0}},
        LayerPath{{.branch = 7, .ordinal_max = kHead}, {.branch = 2, .ordinal_max = 9}}}) {
    CHECK(ParsePath(FormatPath(path)) == path);
    CHECK(FromMessage(ToMessage(path)) == path);
  }
  CHECK(FormatPath({{.branch = 3, .ordinal_max = kHead}, {.branch = 0, .ordinal_max = 4}}) ==
        "3:4294967295,0:4");
  // Branches that do not fall, numbers that are none, and the path that goes without saying.
  for (const char* text :
       {"1:2,1:1", "1:2,3:1", "1", "1:", "1:2:3", "x:1", "1:4294967296", "1:2,", "0:4294967295"}) {
    INFO(text);
    CHECK_FALSE(ParsePath(text).has_value());
  }
}

}  // namespace
}  // namespace tessera::mdm
