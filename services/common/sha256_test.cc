#include "services/common/sha256.h"

#include <catch2/catch.hpp>
#include <string>

#include "absl/strings/escaping.h"

namespace tessera {
namespace {

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST_CASE("SHA-256 has the values of FIPS 180-4, whatever the pieces") {
  Sha256 hash;
  CHECK(absl::BytesToHexString(hash.Digest()) ==
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  hash.Add(Bytes("a"));
  hash.Add({});
  hash.Add(Bytes("bc"));
  CHECK(absl::BytesToHexString(hash.Digest()) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  hash.Add(Bytes("dbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"));
  Sha256 whole;
  whole.Add(Bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"));
  CHECK(hash.Digest() == whole.Digest());
  CHECK(absl::BytesToHexString(whole.Digest()) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

}  // namespace
}  // namespace tessera
