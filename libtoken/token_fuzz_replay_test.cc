// The fuzzer's entry over its corpus and seeded mutations of it, with any compiler.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::vector<std::string> ReadCorpus() {
  std::vector<std::filesystem::path> paths;
  const std::filesystem::path folder = std::string(TESSERA_TOKEN_TESTDATA) + "/corpus";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

void Run(const std::string& bytes) {
  REQUIRE(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()) ==
          0);
}

std::string Mutate(std::string bytes, std::mt19937_64& random) {
  const uint64_t changes = 1 + random() % 4;
  for (uint64_t i = 0; i < changes && !bytes.empty(); ++i) {
    const size_t at = random() % bytes.size();
    switch (random() % 5) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at),
                    std::min<size_t>(8, bytes.size() - at), '\xff');
        break;
      case 3:
        bytes.resize(at);
        break;
      default:
        bytes.insert(at, 1, static_cast<char>(random()));
        break;
    }
  }
  return bytes;
}

TEST_CASE("The fuzzer's corpus holds every property") {
  const auto corpus = ReadCorpus();
  REQUIRE(corpus.size() >= 6);
  for (const std::string& bytes : corpus) Run(bytes);
}

TEST_CASE("Twenty thousand mutations of the corpus hold every property") {
  const auto corpus = ReadCorpus();
  REQUIRE_FALSE(corpus.empty());
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20000; ++i) Run(Mutate(corpus[random() % corpus.size()], random));
}

}  // namespace
