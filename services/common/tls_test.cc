// Whom a client believes, and files that are replaced: with certificates made for each run.
#include "services/common/tls.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "services/common/certificate.h"
#include "services/common/grpc_server.h"
#include "services/common/node.h"

namespace tessera {
namespace {

using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/common_tls_test.XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

template <typename Writer>
void WriteThrough(const std::string& path, const Writer& write) {
  const std::string fresh = path + ".new";
  FILE* const file = std::fopen(fresh.c_str(), "w");
  REQUIRE(file != nullptr);
  write(file);
  std::fclose(file);
  std::filesystem::rename(fresh, path);
}

// An authority, and what it signs.
class Authority {
 public:
  explicit Authority(const std::string& file) : key_(EVP_EC_gen("P-256"), &EVP_PKEY_free) {
    certificate_ = Make("authority", key_.get(), "");
    WriteThrough(file, [&](FILE* out) { PEM_write_X509(out, certificate_.get()); });
  }
  // `names`: "URI:spiffe://c1/sds/1,DNS:a.example,IP:127.0.0.1".
  void Issue(const std::string& names, const TlsFiles& files) {
    const Key key(EVP_EC_gen("P-256"), &EVP_PKEY_free);
    const Certificate certificate = Make("part", key.get(), names);
    WriteThrough(files.key, [&](FILE* out) {
      PEM_write_PrivateKey(out, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    });
    WriteThrough(files.certificate, [&](FILE* out) { PEM_write_X509(out, certificate.get()); });
  }

 private:
  Certificate Make(const char* name, EVP_PKEY* key, const std::string& names) {
    Certificate made(X509_new(), &X509_free);
    X509_set_version(made.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), ++serial_);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), -3600);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
    X509_set_pubkey(made.get(), key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    X509_set_issuer_name(made.get(), certificate_ == nullptr
                                         ? X509_get_subject_name(made.get())
                                         : X509_get_subject_name(certificate_.get()));
    if (certificate_ == nullptr) Extend(made.get(), NID_basic_constraints, "critical,CA:TRUE");
    if (!names.empty()) Extend(made.get(), NID_subject_alt_name, names);
    REQUIRE(X509_sign(made.get(), key_.get(), EVP_sha256()) > 0);
    return made;
  }
  static void Extend(X509* certificate, int kind, const std::string& value) {
    X509_EXTENSION* const extension =
        X509V3_EXT_conf_nid(nullptr, nullptr, kind, const_cast<char*>(value.c_str()));
    REQUIRE(extension != nullptr);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }

  Key key_;
  Certificate certificate_{nullptr, &X509_free};
  long serial_ = 0;
};

TlsFiles FilesOf(const Folder& folder, const std::string& name) {
  return {folder / (name + ".pem"), folder / (name + ".key"), folder / "ca.pem"};
}

GrpcServerOptions ServerOf(const TlsFiles& files) {
  GrpcServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.security.certificate_file = files.certificate;
  options.security.key_file = files.key;
  options.security.ca_file = files.authority;
  return options;
}

// A health check over a new connection; if patient, over the first that comes about.
grpc::Status Ask(const std::string& address, const TlsFiles& files,
                 const std::vector<std::string>& roles, bool patient = false) {
  const auto credentials = TlsChannelCredentialsOf(files, roles);
  REQUIRE(credentials.ok());
  const auto stub = grpc::health::v1::Health::NewStub(NewChannel(address, *credentials));
  grpc::ClientContext call;
  PrepareCall(&call, 120'000, "");
  call.set_wait_for_ready(patient);
  grpc::health::v1::HealthCheckResponse response;
  return stub->Check(&call, {}, &response);
}

bool Believes(const CertificateNames& found, const std::string& target,
              const std::string& cluster = "c1",
              const std::vector<std::string>& roles = {kRoleSds}) {
  return CheckServerNames(found, {target, cluster, roles}).ok();
}

TEST_CASE("A client believes a server that names the host it called") {
  CHECK(Believes({{}, {"mdm.example.org"}, {}}, "mdm.example.org:8001"));
  CHECK(Believes({{}, {"MDM.example.org"}, {}}, "mdm.Example.org:8001"));
  CHECK(Believes({{}, {"mdm.example.org"}, {}}, "mdm.example.org."));
  CHECK(Believes({{}, {"other", "mdm.example.org"}, {}}, "dns:///mdm.example.org:8001"));
  CHECK_FALSE(Believes({{}, {"mdm.example.org"}, {}}, "mdm.example.com:8001"));
  CHECK_FALSE(Believes({{}, {""}, {}}, ""));
  CHECK(Believes({{}, {}, {"10.0.0.1"}}, "10.0.0.1:8001"));
  CHECK(Believes({{}, {}, {"10.0.0.1"}}, "ipv4:10.0.0.1:8001"));
  CHECK(Believes({{}, {}, {"::1"}}, "[::1]:8001"));
  CHECK(Believes({{}, {}, {"::1"}}, "::1"));
  CHECK_FALSE(Believes({{}, {}, {"10.0.0.1"}}, "10.0.0.11:8001"));
}

TEST_CASE("A wildcard stands for one whole label, and never for a top one") {
  CHECK(Believes({{}, {"*.sds.ns.svc"}, {}}, "sds-0.sds.ns.svc:9100"));
  CHECK_FALSE(Believes({{}, {"*.sds.ns.svc"}, {}}, "sds.ns.svc:9100"));
  CHECK_FALSE(Believes({{}, {"*.sds.ns.svc"}, {}}, "a.b.sds.ns.svc:9100"));
  CHECK_FALSE(Believes({{}, {"*.sds.ns.svc"}, {}}, ".sds.ns.svc:9100"));
  CHECK_FALSE(Believes({{}, {"*.org"}, {}}, "example.org:1"));
  CHECK_FALSE(Believes({{}, {"s*.example.org"}, {}}, "sds.example.org:1"));
  CHECK_FALSE(Believes({{}, {"*"}, {}}, "sds:1"));
}

TEST_CASE("A client believes a part of its cluster in the role that it expects, wherever it is") {
  const CertificateNames sds{{"spiffe://c1/sds/sds-0"}, {}, {}};
  CHECK(Believes(sds, "10.1.2.3:9700"));
  CHECK(Believes(sds, "10.1.2.3:9700", "c1", {kRoleMdm, kRoleSds}));
  CHECK_FALSE(Believes(sds, "10.1.2.3:9700", "c1", {kRoleMdm}));
  CHECK_FALSE(Believes(sds, "10.1.2.3:9700", "c1", {}));
  CHECK_FALSE(Believes(sds, "10.1.2.3:9700", "c2"));
  for (const char* uri : {"spiffe://c1/sds", "spiffe://c1/sds/", "spiffe:///sds/1",
                          "https://c1/sds/1", "spiffe://c1/admin/sds/1", "spiffe://c1/SDS/1", ""}) {
    CAPTURE(uri);
    CHECK_FALSE(Believes({{uri}, {}, {}}, "10.1.2.3:9700"));
  }
  // Who has no cluster of his own goes by hosts alone.
  CHECK_FALSE(Believes({{"spiffe:///sds/1"}, {}, {}}, "10.1.2.3:9700", ""));
  const absl::Status refused = CheckServerNames(sds, {"10.1.2.3:8001", "c1", {kRoleMdm}});
  CHECK(absl::StrContains(refused.message(), "spiffe://c1/sds/sds-0"));
  CHECK(absl::StrContains(refused.message(), "spiffe://c1/mdm/<id>"));
}

TEST_CASE("Connections go by these rules") {
  const Folder folder;
  Authority authority(folder / "ca.pem");
  const TlsFiles server_files = FilesOf(folder, "server");
  const TlsFiles client = FilesOf(folder, "client");
  // Nothing here names 127.0.0.1.
  authority.Issue("URI:spiffe://c1/sds/1,DNS:elsewhere.example", server_files);
  authority.Issue("URI:spiffe://c1/sdc/1", client);
  const auto server = GrpcServer::Start(ServerOf(server_files), {});
  REQUIRE(server.ok());
  const std::string address = (*server)->addresses()[0];
  CHECK(Ask(address, client, {kRoleSds}).ok());
  CHECK(Ask(address, client, {kRoleMdm}).error_code() == grpc::StatusCode::UNAVAILABLE);

  const TlsFiles other_cluster = FilesOf(folder, "other");
  authority.Issue("URI:spiffe://c2/sdc/1", other_cluster);
  CHECK_FALSE(Ask(address, other_cluster, {kRoleSds}).ok());

  // An authority of its own: neither side believes the other.
  const Folder foreign_folder;
  Authority foreign(foreign_folder / "ca.pem");
  const TlsFiles stranger = FilesOf(foreign_folder, "client");
  foreign.Issue("URI:spiffe://c1/sdc/1", stranger);
  CHECK_FALSE(Ask(address, stranger, {kRoleSds}).ok());
  TlsFiles pretender = stranger;
  pretender.authority = client.authority;
  CHECK_FALSE(Ask(address, pretender, {kRoleSds}).ok());
}

TEST_CASE("A server uses replaced files without a restart") {
  const Folder folder;
  Authority authority(folder / "ca.pem");
  const TlsFiles server_files = FilesOf(folder, "server");
  const TlsFiles client = FilesOf(folder, "client");
  authority.Issue("URI:spiffe://c1/sds/1", server_files);
  authority.Issue("URI:spiffe://c1/sdc/1", client);
  const auto server = GrpcServer::Start(ServerOf(server_files), {});
  REQUIRE(server.ok());
  const std::string address = (*server)->addresses()[0];
  REQUIRE(Ask(address, client, {kRoleSds}).ok());
  // The watcher goes by the files' times, which have whole seconds.
  authority.Issue("URI:spiffe://c1/mdm/1", server_files);
  const auto later = std::filesystem::file_time_type::clock::now() + std::chrono::seconds(5);
  std::filesystem::last_write_time(server_files.certificate, later);
  std::filesystem::last_write_time(server_files.key, later);
  // The server is another part now: who expects that part gets through, after some tries.
  CHECK(Ask(address, client, {kRoleMdm}, /*patient=*/true).ok());
  CHECK_FALSE(Ask(address, client, {kRoleSds}).ok());
}

TEST_CASE("Files that are wrong are told at once, by name") {
  const Folder folder;
  Authority authority(folder / "ca.pem");
  const TlsFiles good = FilesOf(folder, "good");
  authority.Issue("URI:spiffe://c1/sds/1,DNS:a.example,URI:https://x", good);
  CHECK(CheckTlsFiles(good).ok());
  CHECK(CertificateUris(good.certificate).value() ==
        std::vector<std::string>{"spiffe://c1/sds/1", "https://x"});
  CHECK(CertificateUris(good.authority)->empty());
  CHECK(ClusterOfUri("spiffe://c1/sds/1") == "c1");

  TlsFiles wrong = good;
  wrong.key = folder / "none";
  CHECK(absl::IsNotFound(CheckTlsFiles(wrong)));
  wrong.key = good.certificate;
  CHECK(absl::StrContains(CheckTlsFiles(wrong).message(), "no private key"));
  const TlsFiles other = FilesOf(folder, "other");
  authority.Issue("DNS:b.example", other);
  wrong.key = other.key;
  CHECK(absl::StrContains(CheckTlsFiles(wrong).message(), "is not the key of"));
  wrong = good;
  wrong.authority = good.key;
  CHECK(absl::StrContains(CheckTlsFiles(wrong).message(), "no certificate"));
  CHECK_FALSE(TlsServerCredentialsOf(wrong).ok());
  CHECK_FALSE(TlsChannelCredentialsOf(wrong, {kRoleSds}).ok());
}

}  // namespace
}  // namespace tessera
