#include "services/mgmt/alerts/notifier.h"

#include <curl/curl.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/mgmt/alerts/notification_message.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kAnswerKept = 200;
constexpr uint64_t kDatabaseRetryMs = 5'000;
constexpr uint64_t kIdleMs = 60'000;

void InitCurlOnce() {
  static const CURLcode done = curl_global_init(CURL_GLOBAL_DEFAULT);
  static_cast<void>(done);
}

// What a receiver says goes into logs and the database: short, and printable.
std::string Printable(std::string text) {
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = ' ';
  }
  return text;
}

}  // namespace

// One try of one message. libcurl holds pointers into it.
struct NotificationPump::Transfer {
  const NotificationTarget* target = nullptr;
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  curl_slist* receivers = nullptr;
  std::string body;
  size_t read = 0;
  std::string answer;
  std::array<char, CURL_ERROR_SIZE> error{};

  ~Transfer() {
    if (easy != nullptr) curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    curl_slist_free_all(receivers);
  }

  static size_t OnRead(char* buffer, size_t size, size_t count, void* self) {
    auto* const transfer = static_cast<Transfer*>(self);
    const size_t bytes = std::min(size * count, transfer->body.size() - transfer->read);
    std::memcpy(buffer, transfer->body.data() + transfer->read, bytes);
    transfer->read += bytes;
    return bytes;
  }
  static size_t OnAnswer(char* data, size_t size, size_t count, void* self) {
    std::string& answer = static_cast<Transfer*>(self)->answer;
    answer.append(data, std::min(size * count, kAnswerKept - answer.size()));
    return size * count;
  }

  template <typename Value>
  void Set(CURLoption option, Value value) {
    curl_easy_setopt(easy, option, value);
  }

  void SetCommon() {
    easy = curl_easy_init();
    Set(CURLOPT_PRIVATE, static_cast<void*>(this));
    Set(CURLOPT_ERRORBUFFER, error.data());
    Set(CURLOPT_NOSIGNAL, 1L);
    Set(CURLOPT_TIMEOUT_MS, static_cast<long>(target->timeout_ms));
    Set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(target->timeout_ms));
    Set(CURLOPT_FOLLOWLOCATION, 0L);
    Set(CURLOPT_PROXY, "");  // none by the environment
    Set(CURLOPT_SSL_VERIFYPEER, 1L);
    Set(CURLOPT_SSL_VERIFYHOST, 2L);
    Set(CURLOPT_WRITEFUNCTION, &OnAnswer);
    Set(CURLOPT_WRITEDATA, static_cast<void*>(this));
    if (!target->ca_file.empty()) Set(CURLOPT_CAINFO, target->ca_file.c_str());
  }

  void SetHttp(const Notification& notification) {
    HttpMessage message = MakeHttpMessage(*target, notification);
    body = std::move(message.body);
    for (const auto& [name, value] : message.headers) {
      headers = curl_slist_append(headers, absl::StrCat(name, ": ", value).c_str());
    }
    headers = curl_slist_append(headers, "Expect:");  // the body at once
    Set(CURLOPT_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_URL, message.url.c_str());
    Set(CURLOPT_HTTPHEADER, headers);
    Set(CURLOPT_POST, 1L);
    Set(CURLOPT_POSTFIELDS, body.c_str());
    Set(CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
  }

  void SetMail(const Notification& notification) {
    body = MakeMail(*target, notification);
    const bool tls = target->smtp_security == SmtpSecurity::kTls;
    const std::string domain = target->from.substr(target->from.find('@') + 1);
    // The path is what it calls itself in EHLO.
    const std::string url = absl::StrCat(tls ? "smtps://" : "smtp://", target->server, "/", domain);
    for (const std::string& receiver : target->to) {
      receivers = curl_slist_append(receivers, absl::StrCat("<", receiver, ">").c_str());
    }
    Set(CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    Set(CURLOPT_URL, url.c_str());
    Set(CURLOPT_MAIL_FROM, absl::StrCat("<", target->from, ">").c_str());
    Set(CURLOPT_MAIL_RCPT, receivers);
    Set(CURLOPT_MAIL_RCPT_ALLLOWFAILS, 1L);  // one bad address keeps it from nobody else
    Set(CURLOPT_UPLOAD, 1L);
    Set(CURLOPT_READFUNCTION, &OnRead);
    Set(CURLOPT_READDATA, static_cast<void*>(this));
    if (target->smtp_security == SmtpSecurity::kStartTls) {
      Set(CURLOPT_USE_SSL, static_cast<long>(CURLUSESSL_ALL));
    }
    if (!target->user.empty()) {
      Set(CURLOPT_USERNAME, target->user.c_str());
      Set(CURLOPT_PASSWORD, target->password.c_str());
    }
  }
};

struct NotificationPump::Target {
  NotificationTarget config;
  bool look = true;  // the outbox may have something
  uint64_t not_before_boot_ms = 0;
  std::optional<Notification> current;  // the message that is on its way, or done and not recorded
  std::unique_ptr<Transfer> transfer;
  std::optional<Outcome> outcome;  // of `current`, until it is recorded
  prometheus::Counter* sent = nullptr;
  prometheus::Counter* given_up = nullptr;
  prometheus::Counter* failures = nullptr;
  prometheus::Gauge* queued = nullptr;
};

NotificationPump::NotificationPump(const std::vector<NotificationTarget>& targets, MgmtDb* db,
                                   const Clock* clock, MetricRegistry* metrics,
                                   std::function<double()> random)
    : db_(db), clock_(clock), random_(std::move(random)) {
  InitCurlOnce();
  multi_ = curl_multi_init();
  for (const NotificationTarget& config : targets) {
    const MetricRegistry::Labels labels{{"target", config.name}};
    auto target = std::make_unique<Target>();
    target->config = config;
    target->sent = &metrics->Counter("tessera_mgmt_notifications_sent_total",
                                     "Notifications that their receiver has taken.", labels);
    target->given_up = &metrics->Counter(
        "tessera_mgmt_notifications_failed_total",
        "Notifications that were given up: refused, or not taken for a day.", labels);
    target->failures = &metrics->Counter("tessera_mgmt_notification_tries_failed_total",
                                         "Tries of notifications that failed.", labels);
    target->queued =
        &metrics->Gauge("tessera_mgmt_notifications_queued", "Notifications that wait.", labels);
    targets_.push_back(std::move(target));
  }
}

NotificationPump::~NotificationPump() {
  for (const auto& target : targets_) {
    if (target->transfer != nullptr) curl_multi_remove_handle(multi_, target->transfer->easy);
    target->transfer.reset();
  }
  curl_multi_cleanup(multi_);
}

absl::Status NotificationPump::RemoveOtherTargets() {
  std::set<std::string> names;
  for (const auto& target : targets_) names.insert(target->config.name);
  return db_->Write([&](SQLite::Database& db) {
    const uint64_t removed = mgmt::RemoveOtherTargets(db, names);
    if (removed > 0) {
      LogWarning("notifications of targets that are no more are dropped", {{"count", removed}});
    }
    return absl::OkStatus();
  });
}

size_t NotificationPump::in_flight() const {
  return static_cast<size_t>(std::count_if(targets_.begin(), targets_.end(),
                                           [](const auto& t) { return t->transfer != nullptr; }));
}

void NotificationPump::Wake() {
  woken_.store(true);
  curl_multi_wakeup(multi_);
}

void NotificationPump::Step() {
  if (woken_.exchange(false)) {
    for (const auto& target : targets_) target->look = true;
  }
  const uint64_t now = clock_->BootMillis();
  for (const auto& target : targets_) {
    if (target->transfer != nullptr || now < target->not_before_boot_ms) continue;
    if (target->outcome.has_value()) Record(*target);
    if (target->look && !target->outcome.has_value()) Begin(*target);
  }
  int running = 0;
  curl_multi_perform(multi_, &running);
  TakeDone();
}

void NotificationPump::Begin(Target& target) {
  if (clock_->BootMillis() < target.not_before_boot_ms) return;
  std::optional<Notification> next;
  uint64_t queued = 0;
  const absl::Status read = db_->Read([&](SQLite::Database& db) {
    next = NextNotification(db, target.config.name);
    queued = CountNotifications(db, target.config.name);
    return absl::OkStatus();
  });
  if (!read.ok()) {
    LogError("the outbox can't be read", {{"error", read}});
    target.not_before_boot_ms = clock_->BootMillis() + kDatabaseRetryMs;
    return;
  }
  target.queued->Set(static_cast<double>(queued));
  target.look = next.has_value();
  if (!next.has_value()) return;
  target.current = std::move(next);
  target.transfer = std::make_unique<Transfer>();
  target.transfer->target = &target.config;
  target.transfer->SetCommon();
  if (target.config.format == NotificationFormat::kSmtp) {
    target.transfer->SetMail(*target.current);
  } else {
    target.transfer->SetHttp(*target.current);
  }
  curl_multi_add_handle(multi_, target.transfer->easy);
}

NotificationPump::Outcome NotificationPump::Judge(Transfer& transfer, int curl_code) {
  long answered = 0;
  curl_off_t retry_after_s = 0;
  curl_easy_getinfo(transfer.easy, CURLINFO_RESPONSE_CODE, &answered);
  curl_easy_getinfo(transfer.easy, CURLINFO_RETRY_AFTER, &retry_after_s);
  const bool mail = transfer.target->format == NotificationFormat::kSmtp;
  Outcome outcome;
  outcome.retry_after_ms = std::min<uint64_t>(
      kBackoffMaxMs, static_cast<uint64_t>(std::max<curl_off_t>(0, retry_after_s)) * 1000);
  if (curl_code != CURLE_OK) {
    const std::string words = transfer.error[0] != '\0'
                                  ? transfer.error.data()
                                  : curl_easy_strerror(static_cast<CURLcode>(curl_code));
    outcome.result = mail ? JudgeFailedMail(answered) : TryResult::kFailed;
    outcome.error = Printable(words);
    return outcome;
  }
  outcome.result = mail ? TryResult::kSent : JudgeHttp(answered);
  if (outcome.result != TryResult::kSent) {
    outcome.error = Printable(absl::StrCat("answered ", answered, ": ", transfer.answer));
  }
  return outcome;
}

void NotificationPump::TakeDone() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    CURL* const easy = message->easy_handle;
    const CURLcode code = message->data.result;
    const auto found = std::find_if(targets_.begin(), targets_.end(), [&](const auto& target) {
      return target->transfer != nullptr && target->transfer->easy == easy;
    });
    Target& target = **found;
    target.outcome = Judge(*target.transfer, code);
    curl_multi_remove_handle(multi_, easy);
    target.transfer.reset();
    Record(target);
  }
}

void NotificationPump::Record(Target& target) {
  const Outcome& outcome = *target.outcome;
  const Notification& current = *target.current;
  const uint32_t tries = current.tries + 1;
  const bool sent = outcome.result == TryResult::kSent;
  const bool over = sent || outcome.result == TryResult::kRefused ||
                    IsGivenUp(current.queued_ms, clock_->WallMillis(), tries);
  const absl::Status written = db_->Write([&](SQLite::Database& db) {
    if (over) {
      RemoveNotification(db, current.notification_id);
    } else {
      RecordTry(db, current.notification_id, outcome.error);
    }
    return absl::OkStatus();
  });
  const uint64_t now = clock_->BootMillis();
  if (!written.ok()) {
    // It is known what became of it: that is written later, and it is not sent again.
    LogError("the outbox can't be written", {{"error", written}});
    target.not_before_boot_ms = now + kDatabaseRetryMs;
    return;
  }
  if (sent) {
    target.sent->Increment();
  } else {
    target.failures->Increment();
    if (over) target.given_up->Increment();
    LogWarning(over ? "notification given up" : "notification not taken: it is tried again",
               {{"target", target.config.name},
                {"alert", current.alert.alert_id()},
                {"tries", tries},
                {"error", outcome.error}});
  }
  target.not_before_boot_ms =
      over ? now : now + std::max(BackoffMs(tries, random_()), outcome.retry_after_ms);
  target.look = true;
  target.current.reset();
  target.outcome.reset();
}

void NotificationPump::Wait(uint64_t most_ms) {
  const uint64_t now = clock_->BootMillis();
  uint64_t wait = most_ms;
  for (const auto& target : targets_) {
    if (target->transfer != nullptr) continue;
    if (!target->look && !target->outcome.has_value()) continue;
    wait = std::min(wait, target->not_before_boot_ms > now ? target->not_before_boot_ms - now : 0);
  }
  if (woken_.load()) wait = 0;
  curl_multi_poll(multi_, nullptr, 0,
                  static_cast<int>(std::min<uint64_t>(wait, std::numeric_limits<int>::max())),
                  nullptr);
}

Notifier::Notifier(const std::vector<NotificationTarget>& targets, MgmtDb* db, const Clock* clock,
                   MetricRegistry* metrics, std::function<double()> random)
    : pump_(targets, db, clock, metrics, std::move(random)) {}

Notifier::~Notifier() { Stop(); }

void Notifier::Start() {
  if (thread_.joinable()) return;
  stopping_.store(false);
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "notifier");
    while (!stopping_.load()) {
      pump_.Step();
      pump_.Wait(kIdleMs);
    }
  });
}

void Notifier::Stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  pump_.Wake();
  thread_.join();
}

}  // namespace tessera::mgmt
