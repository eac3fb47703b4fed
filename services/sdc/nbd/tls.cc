#include "services/sdc/nbd/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tessera::sdc::nbd {
namespace {

// The longest plain text of one TLS record.
constexpr size_t kRecordBytes = 16 << 10;

std::string LastError() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    char line[256];
    ERR_error_string_n(code, line, sizeof(line));
    if (!text.empty()) text += "; ";
    text += line;
  }
  return text.empty() ? "no reason given" : text;
}

// A BIO over a Transport. OpenSSL's own socket BIO uses write(2), which raises SIGPIPE.
int BioWrite(BIO* bio, const char* data, int length) {
  BIO_clear_retry_flags(bio);
  auto* const plain = static_cast<Transport*>(BIO_get_data(bio));
  const iovec vector{const_cast<char*>(data), static_cast<size_t>(length)};
  const Transport::Result result = plain->Write({&vector, 1});
  if (result.state == Transport::State::kWouldBlock) BIO_set_retry_write(bio);
  return result.state == Transport::State::kOpen ? static_cast<int>(result.bytes) : -1;
}

int BioRead(BIO* bio, char* data, int length) {
  BIO_clear_retry_flags(bio);
  auto* const plain = static_cast<Transport*>(BIO_get_data(bio));
  const Transport::Result result =
      plain->Read({reinterpret_cast<std::byte*>(data), static_cast<size_t>(length)});
  if (result.state == Transport::State::kWouldBlock) BIO_set_retry_read(bio);
  if (result.state == Transport::State::kEnd) return 0;
  return result.state == Transport::State::kOpen ? static_cast<int>(result.bytes) : -1;
}

long BioControl(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

int BioCreate(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

const BIO_METHOD* TransportBioMethod() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "transport");
    BIO_meth_set_write(made, BioWrite);
    BIO_meth_set_read(made, BioRead);
    BIO_meth_set_ctrl(made, BioControl);
    BIO_meth_set_create(made, BioCreate);
    return made;
  }();
  return method;
}

class TlsTransport : public Transport {
 public:
  TlsTransport(SSL* ssl, std::unique_ptr<Transport> plain) : plain_(std::move(plain)), ssl_(ssl) {
    BIO* const bio = BIO_new(TransportBioMethod());
    BIO_set_data(bio, plain_.get());
    SSL_set_bio(ssl_, bio, bio);
    SSL_set_accept_state(ssl_);
    SSL_set_mode(ssl_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                           SSL_MODE_RELEASE_BUFFERS);
  }
  ~TlsTransport() override { SSL_free(ssl_); }
  TlsTransport(const TlsTransport&) = delete;
  TlsTransport& operator=(const TlsTransport&) = delete;

  int descriptor() const override { return plain_->descriptor(); }

  Result Read(std::span<std::byte> into) override {
    ERR_clear_error();
    read_wants_writable_ = false;
    size_t total = 0;
    // A record at a time: as many as are there, so that one call serves one turn.
    while (total < into.size()) {
      const size_t wanted = std::min<size_t>(into.size() - total, INT_MAX);
      const int got = SSL_read(ssl_, into.data() + total, static_cast<int>(wanted));
      if (got > 0) {
        total += static_cast<size_t>(got);
        continue;
      }
      // What stopped it shows again in the next call, if it lasts.
      const Result stop = Explain(got, "receiving under TLS");
      return total > 0 ? Result{total, State::kOpen, {}} : stop;
    }
    return {total, State::kOpen, {}};
  }

  Result Write(std::span<const iovec> vectors) override {
    ERR_clear_error();
    size_t taken = 0;
    for (;;) {
      if (!SendStaged()) {
        return taken > 0 && failure_.state == State::kWouldBlock ? Result{taken, State::kOpen, {}}
                                                                 : failure_;
      }
      const size_t staged = Stage(vectors, taken);
      if (staged == 0) return {taken, State::kOpen, {}};
      taken += staged;
    }
  }

  bool HasBufferedOutput() const override { return staged_sent_ < staged_bytes_; }
  bool HasBufferedInput() const override { return SSL_pending(ssl_) > 0; }
  bool ReadWantsWritable() const override { return read_wants_writable_; }

  void Shutdown() override {
    ERR_clear_error();
    SSL_shutdown(ssl_);
    plain_->Shutdown();
  }

 private:
  Result Explain(int returned, const char* what) {
    switch (SSL_get_error(ssl_, returned)) {
      case SSL_ERROR_WANT_WRITE:
        read_wants_writable_ = true;
        return {0, State::kWouldBlock, {}};
      case SSL_ERROR_WANT_READ:
        return {0, State::kWouldBlock, {}};
      case SSL_ERROR_ZERO_RETURN:
        return {0, State::kEnd, {}};
      default:
        return {0, State::kFailed, absl::StrCat(what, ": ", LastError())};
    }
  }

  // True when nothing is staged any more; else `failure_` says why not.
  bool SendStaged() {
    while (HasBufferedOutput()) {
      const int sent = SSL_write(ssl_, stage_->data() + staged_sent_,
                                 static_cast<int>(staged_bytes_ - staged_sent_));
      if (sent <= 0) {
        const bool read_state = read_wants_writable_;
        failure_ = Explain(sent, "sending under TLS");
        read_wants_writable_ = read_state;
        return false;
      }
      staged_sent_ += static_cast<size_t>(sent);
    }
    return true;
  }

  // Copies up to one record's worth, from byte `skip` of the vectors on: headers and small payloads
  // would else become a record each, and OpenSSL wants the same bytes again after it was blocked.
  size_t Stage(std::span<const iovec> vectors, size_t skip) {
    if (stage_ == nullptr) stage_ = std::make_unique<std::array<std::byte, kRecordBytes>>();
    staged_bytes_ = staged_sent_ = 0;
    for (const iovec& vector : vectors) {
      if (skip >= vector.iov_len) {
        skip -= vector.iov_len;
        continue;
      }
      const size_t count = std::min(vector.iov_len - skip, kRecordBytes - staged_bytes_);
      std::memcpy(stage_->data() + staged_bytes_, static_cast<std::byte*>(vector.iov_base) + skip,
                  count);
      staged_bytes_ += count;
      skip = 0;
      if (staged_bytes_ == kRecordBytes) break;
    }
    return staged_bytes_;
  }

  const std::unique_ptr<Transport> plain_;
  SSL* const ssl_;
  bool read_wants_writable_ = false;
  std::unique_ptr<std::array<std::byte, kRecordBytes>> stage_;
  size_t staged_bytes_ = 0;
  size_t staged_sent_ = 0;
  Result failure_;
};

absl::Status FileError(const char* what, const std::string& path) {
  return absl::FailedPreconditionError(absl::StrCat("TLS: ", what, " ", path, ": ", LastError()));
}

}  // namespace

std::string StampOf(const TlsFiles& files) {
  std::string stamp;
  for (const std::string* path :
       {&files.certificate_chain, &files.private_key, &files.client_authority}) {
    struct stat facts {};
    if (path->empty() || ::stat(path->c_str(), &facts) != 0) facts = {};
    absl::StrAppend(&stamp, facts.st_ino, ".", facts.st_size, ".", facts.st_mtim.tv_sec, ".",
                    facts.st_mtim.tv_nsec, " ");
  }
  return stamp;
}

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Create(const TlsFiles& files) {
  ERR_clear_error();
  SSL_CTX* const raw = SSL_CTX_new(TLS_server_method());
  if (raw == nullptr) return absl::InternalError(absl::StrCat("TLS: ", LastError()));
  std::unique_ptr<TlsContext> context(new TlsContext(raw));
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  SSL_CTX_set_options(
      raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  // Sessions are long; resuming them is not worth the state.
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(raw, 0);
  if (SSL_CTX_use_certificate_chain_file(raw, files.certificate_chain.c_str()) != 1) {
    return FileError("certificate chain", files.certificate_chain);
  }
  if (SSL_CTX_use_PrivateKey_file(raw, files.private_key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return FileError("private key", files.private_key);
  }
  if (SSL_CTX_check_private_key(raw) != 1) {
    return FileError("this key does not belong to the certificate:", files.private_key);
  }
  if (!files.client_authority.empty()) {
    if (SSL_CTX_load_verify_locations(raw, files.client_authority.c_str(), nullptr) != 1) {
      return FileError("client authority", files.client_authority);
    }
    SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return context;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

std::unique_ptr<Transport> TlsContext::Wrap(std::unique_ptr<Transport> plain) const {
  return std::make_unique<TlsTransport>(SSL_new(context_), std::move(plain));
}

}  // namespace tessera::sdc::nbd
