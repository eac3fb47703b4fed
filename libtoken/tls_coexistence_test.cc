// One process with OpenSSL (gRPC's TLS) and BoringSSL (hidden in libtoken). Were a symbol of one
// bound to the other, their structures of the same name and different layout would meet: a
// handshake would fail or the process would crash. So: sign, shake hands and call, sign again, with
// equal results.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "libtoken/token.h"

namespace {

using tessera::token::GrantKey;
using tessera::token::IoToken;
using tessera::token::Key;

struct Identity {
  std::string private_key;
  std::string certificate;
};

std::string Drain(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

void AddSubjectAlternativeName(X509* certificate) {
  X509_EXTENSION* extension =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost");
  REQUIRE(extension != nullptr);
  REQUIRE(X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

Identity MakeSelfSigned() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  REQUIRE(key != nullptr);
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  AddSubjectAlternativeName(certificate);
  REQUIRE(X509_sign(certificate, key, EVP_sha256()) > 0);

  Identity identity;
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  identity.private_key = Drain(bio);
  bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate);
  identity.certificate = Drain(bio);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return identity;
}

// Answers every unary call with the bytes that it came with.
class EchoService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Reactor;
  }

 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    Reactor() { StartRead(&buffer_); }
    void OnReadDone(bool ok) override {
      if (ok) {
        StartWriteAndFinish(&buffer_, grpc::WriteOptions(), grpc::Status::OK);
      } else {
        Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no request"));
      }
    }
    void OnDone() override { delete this; }

   private:
    grpc::ByteBuffer buffer_;
  };
};

std::string EchoOverTls(const Identity& identity, const std::string& text) {
  EchoService service;
  grpc::SslServerCredentialsOptions server_options;
  server_options.pem_key_cert_pairs.push_back({identity.private_key, identity.certificate});
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(server_options), &port);
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  REQUIRE(server != nullptr);
  REQUIRE(port > 0);

  grpc::SslCredentialsOptions client_options;
  client_options.pem_root_certs = identity.certificate;
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride("localhost");
  const auto channel = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                                 grpc::SslCredentials(client_options), arguments);
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  grpc::CompletionQueue queue;
  const grpc::Slice slice(text);
  const grpc::ByteBuffer request(&slice, 1);
  auto call = stub.PrepareUnaryCall(&context, "/tessera.test.Echo/Echo", request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  int tag = 0;
  call->Finish(&response, &status, &tag);
  void* done = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&done, &ok));
  CAPTURE(status.error_message());
  REQUIRE(status.ok());
  const std::string peer = std::string(context.auth_context()->GetPeerIdentityPropertyName());
  CHECK_FALSE(peer.empty());  // TLS has named the peer
  server->Shutdown();
  grpc::Slice answer;
  REQUIRE(response.DumpToSingleSlice(&answer).ok());
  return {reinterpret_cast<const char*>(answer.begin()), answer.size()};
}

// What OpenSSL makes of the message that SignMessage signs (FORMAT.md section 4).
Key OpenSslSignMessage(const Key& key, const std::string& purpose, const std::string& message) {
  std::string bytes("message\0", 8);
  for (int i = 0; i < 8; ++i)
    bytes.push_back(static_cast<char>(uint64_t{purpose.size()} >> (8 * i)));
  bytes += purpose + message;
  Key out;
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), out.data(), &size);
  REQUIRE(size == out.size());
  return out;
}

TEST_CASE("gRPC over OpenSSL's TLS and libtoken's BoringSSL work in one process") {
  Key key;
  tessera::token::RandomBytes(key);
  const GrantKey grant_key = GrantKey::FromBytes(key);
  IoToken token;
  token.counter = 1;
  const auto before = grant_key.Sign(token);
  const Key message_before = tessera::token::SignMessage(key, "purpose", "message");

  const Identity identity = MakeSelfSigned();
  for (const size_t size : {size_t{5}, size_t{100'000}}) {
    const std::string text(size, 't');
    CHECK(EchoOverTls(identity, text) == text);
    CHECK(grant_key.Verify(token, before));
    CHECK(grant_key.Sign(token) == before);
  }
  CHECK(tessera::token::SignMessage(key, "purpose", "message") == message_before);
  CHECK(OpenSslSignMessage(key, "purpose", "message") == message_before);
}

TEST_CASE("Signing goes on in one thread while another shakes hands") {
  const Identity identity = MakeSelfSigned();
  Key key;
  tessera::token::RandomBytes(key);
  const GrantKey grant_key = GrantKey::FromBytes(key);
  uint64_t failures = 0;
  std::thread signer([&] {
    IoToken token;
    for (token.counter = 0; token.counter < 200'000; ++token.counter) {
      if (!grant_key.Verify(token, grant_key.Sign(token))) ++failures;
    }
  });
  for (int i = 0; i < 3; ++i) CHECK(EchoOverTls(identity, "hello") == "hello");
  signer.join();
  CHECK(failures == 0);
}

}  // namespace
