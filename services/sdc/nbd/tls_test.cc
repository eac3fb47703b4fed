// STARTTLS end to end, with certificates made for each run.
#include "services/sdc/nbd/tls.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "services/sdc/nbd/server_fixture.h"

namespace tessera::sdc::nbd {
namespace {

// A key and a certificate that it has signed itself, as files.
class SelfSigned {
 public:
  SelfSigned() {
    char name[] = "/tmp/tls_test.XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    folder_ = name;
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_version(certificate, 2);
    X509_set_pubkey(certificate, key);
    X509_NAME* subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("nbd test"), -1, -1, 0);
    X509_set_issuer_name(certificate, subject);
    REQUIRE(X509_sign(certificate, key, EVP_sha256()) > 0);
    FILE* file = std::fopen(certificate_file().c_str(), "w");
    PEM_write_X509(file, certificate);
    std::fclose(file);
    file = std::fopen(key_file().c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  ~SelfSigned() { std::filesystem::remove_all(folder_); }
  SelfSigned(const SelfSigned&) = delete;
  SelfSigned& operator=(const SelfSigned&) = delete;

  std::string certificate_file() const { return folder_ + "/certificate.pem"; }
  std::string key_file() const { return folder_ + "/key.pem"; }
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

NbdServerOptions TlsOptions(const SelfSigned& identity, TlsMode mode) {
  NbdServerOptions options;
  options.tls_mode = mode;
  options.tls_files.certificate_chain = identity.certificate_file();
  options.tls_files.private_key = identity.key_file();
  return options;
}

// The client's end of a TLS session over a TestClient's socket.
class TlsClient {
 public:
  explicit TlsClient(TestClient& client, const SelfSigned* identity = nullptr)
      : context_(SSL_CTX_new(TLS_client_method())), ssl_(nullptr) {
    ::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes to sockets that the server may have closed
    if (identity != nullptr) {
      SSL_CTX_use_certificate_chain_file(context_, identity->certificate_file().c_str());
      SSL_CTX_use_PrivateKey_file(context_, identity->key_file().c_str(), SSL_FILETYPE_PEM);
    }
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, client.descriptor());
  }
  ~TlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool Connect() { return SSL_connect(ssl_) == 1; }
  bool Send(const std::string& bytes) {
    return SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())) ==
           static_cast<int>(bytes.size());
  }
  std::string Receive(size_t count) {
    std::string bytes(count, '\0');
    size_t filled = 0;
    while (filled < count) {
      const int got = SSL_read(ssl_, bytes.data() + filled, static_cast<int>(count - filled));
      if (got <= 0) break;
      filled += static_cast<size_t>(got);
    }
    bytes.resize(filled);
    return bytes;
  }
  // Goes into the transmission phase without structured replies.
  bool Go() {
    if (!Send(EncodeOption(Option::kGo, InfoData("disk")))) return false;
    for (;;) {
      const std::string header = Receive(20);
      if (header.size() < 20) return false;
      const auto* bytes = reinterpret_cast<const std::byte*>(header.data());
      const auto type = static_cast<OptionReply>(LoadBig<uint32_t>(bytes + 12));
      Receive(LoadBig<uint32_t>(bytes + 16));
      if (type == OptionReply::kAck) return true;
      if (type != OptionReply::kInfo) return false;
    }
  }

 private:
  SSL_CTX* context_;
  SSL* ssl_;
};

bool StartTls(TestClient& client) {
  if (!client.Greet()) return false;
  const auto answers = client.Ask(Option::kStartTls);
  return answers.size() == 1 && answers[0].type == OptionReply::kAck;
}

TEST_CASE("Data goes both ways under TLS, in pieces longer than a record") {
  const SelfSigned identity;
  for (const TlsMode mode : {TlsMode::kAllowed, TlsMode::kRequired}) {
    ServerFixture f(TlsOptions(identity, mode));
    TestClient client = TestClient::Tcp(f.port);
    REQUIRE(StartTls(client));
    TlsClient tls(client);
    REQUIRE(tls.Connect());
    REQUIRE(tls.Go());
    std::string data(1000000, '\0');
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 1000);
    REQUIRE(tls.Send(EncodeRequest({0, WireCommand::kWrite, 1, 5, 1000000}) + data));
    CHECK(tls.Receive(kSimpleReplyBytes).size() == kSimpleReplyBytes);
    // Many requests at once: replies wait on the socket, requests wait inside TLS.
    std::string reads;
    for (uint64_t i = 0; i < 20; ++i) {
      reads += EncodeRequest({0, WireCommand::kRead, i, 5, 1000000});
    }
    REQUIRE(tls.Send(reads));
    for (uint64_t i = 0; i < 20; ++i) {
      const std::string reply = tls.Receive(kSimpleReplyBytes + 1000000);
      REQUIRE(reply.size() == kSimpleReplyBytes + 1000000);
      CHECK(reply.substr(kSimpleReplyBytes) == data);
    }
    CHECK(f.server->stats().tls_sessions == 1);
  }
}

TEST_CASE("Where TLS is allowed, a client without it is served too; where required, it is not") {
  const SelfSigned identity;
  ServerFixture allowed(TlsOptions(identity, TlsMode::kAllowed));
  CHECK(allowed.Serves());
  ServerFixture required(TlsOptions(identity, TlsMode::kRequired));
  CHECK_FALSE(required.Serves());
  // Its unix socket leads nowhere else.
  const std::string socket = identity.folder() + "/nbd.sock";
  required.OnLoop([&] { REQUIRE(required.server->ListenUnix(socket, 0600).ok()); });
  TestClient client = TestClient::Unix(socket);
  CHECK(client.Enter("disk", false));
}

TEST_CASE("Files that are replaced are used for the next session, and bad ones are not") {
  SelfSigned server_identity;
  const SelfSigned old_client;
  const SelfSigned new_client;
  NbdServerOptions options = TlsOptions(server_identity, TlsMode::kRequired);
  const std::string authority = server_identity.folder() + "/authority.pem";
  const auto copy = [&](const std::string& from) {
    std::filesystem::copy_file(from, authority + ".new",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(authority + ".new", authority);
  };
  copy(old_client.certificate_file());
  options.tls_files.client_authority = authority;
  ServerFixture f(options);
  const auto works = [&](const SelfSigned& identity) {
    TestClient client = TestClient::Tcp(f.port);
    REQUIRE(StartTls(client));
    TlsClient tls(client, &identity);
    return tls.Connect() && tls.Go();
  };
  CHECK(works(old_client));
  CHECK_FALSE(works(new_client));
  copy(new_client.certificate_file());
  CHECK(works(new_client));
  CHECK_FALSE(works(old_client));
  copy(new_client.key_file());  // no certificate
  CHECK(works(new_client));
}

TEST_CASE("Requests that are slipped in behind STARTTLS end the session") {
  const SelfSigned identity;
  ServerFixture f(TlsOptions(identity, TlsMode::kAllowed));
  TestClient client = TestClient::Tcp(f.port);
  REQUIRE(client.Greet());
  REQUIRE(client.Send(EncodeOption(Option::kStartTls, "") + EncodeOption(Option::kList, "")));
  CHECK(client.Receive(100).size() <= 20);
  CHECK(f.Eventually([&] { return f.server->stats().connections_open == 0; }));
  CHECK(f.server->stats().connections_broken == 1);
}

TEST_CASE("Plain text where TLS should begin ends the session") {
  const SelfSigned identity;
  ServerFixture f(TlsOptions(identity, TlsMode::kAllowed));
  TestClient client = TestClient::Tcp(f.port);
  REQUIRE(StartTls(client));
  REQUIRE(client.Send(EncodeOption(Option::kList, "")));
  (void)client.Receive(100);  // an alert
  CHECK(f.Eventually([&] { return f.server->stats().connections_open == 0; }));
  CHECK(f.Serves());
}

TEST_CASE("A TLS handshake that is not finished runs into the handshake timeout") {
  const SelfSigned identity;
  NbdServerOptions options = TlsOptions(identity, TlsMode::kRequired);
  options.handshake_timeout = std::chrono::milliseconds(50);
  ServerFixture f(options);
  TestClient client = TestClient::Tcp(f.port);
  REQUIRE(StartTls(client));
  CHECK(client.AtEnd());
  CHECK(f.server->stats().connections_timed_out == 1);
}

TEST_CASE("With a client authority, clients must show a certificate of it") {
  const SelfSigned server_identity;
  const SelfSigned client_identity;
  NbdServerOptions options = TlsOptions(server_identity, TlsMode::kRequired);
  options.tls_files.client_authority = client_identity.certificate_file();
  ServerFixture f(options);
  const auto works = [&](const SelfSigned* identity) {
    TestClient client = TestClient::Tcp(f.port);
    REQUIRE(StartTls(client));
    TlsClient tls(client, identity);
    // Under TLS 1.3 the server's refusal shows only after the client has finished.
    return tls.Connect() && tls.Go();
  };
  CHECK_FALSE(works(nullptr));
  CHECK_FALSE(works(&server_identity));
  CHECK(works(&client_identity));
}

TEST_CASE("Files that cannot be used are named") {
  const SelfSigned identity;
  const SelfSigned other;
  const auto status_of = [](TlsFiles files) { return TlsContext::Create(files).status(); };
  CHECK(status_of({identity.certificate_file(), identity.key_file(), ""}).ok());
  const absl::Status missing = status_of({"/does/not/exist", identity.key_file(), ""});
  CHECK(missing.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(missing.ToString().find("/does/not/exist") != std::string::npos);
  CHECK_FALSE(status_of({identity.certificate_file(), "/does/not/exist", ""}).ok());
  CHECK_FALSE(status_of({identity.certificate_file(), other.key_file(), ""}).ok());
  CHECK_FALSE(status_of({identity.certificate_file(), identity.key_file(), "/nothing"}).ok());
}

}  // namespace
}  // namespace tessera::sdc::nbd
