#include "services/mgmt/monitor/console_hub.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"

namespace tessera::mgmt {
namespace {

using Message = v1::WatchConsoleResponse;

v1::ConsoleTopic TopicOf(const Message& message) {
  switch (message.change_case()) {
    case Message::kOverview:
      return v1::CONSOLE_TOPIC_OVERVIEW;
    case Message::kAlert:
      return v1::CONSOLE_TOPIC_ALERTS;
    case Message::kOperation:
      return v1::CONSOLE_TOPIC_OPERATIONS;
    case Message::kObjects:
      return v1::CONSOLE_TOPIC_OBJECTS;
    default:
      return v1::CONSOLE_TOPIC_UNSPECIFIED;
  }
}

Message Heartbeat(uint64_t time_ms) {
  Message message;
  message.set_time_ms(time_ms);
  message.mutable_heartbeat();
  return message;
}

absl::Status SessionEnded() {
  return WithReason(absl::UnauthenticatedError("the session has ended: sign in again"),
                    "SESSION_EXPIRED");
}

absl::Status TooSlow() {
  return absl::ResourceExhaustedError(
      "the reader is too slow for what changes: watch again for the present state");
}

}  // namespace

ConsoleHub::ConsoleHub(const Clock* clock, MetricRegistry* metrics, CredentialGood credential_good)
    : clock_(clock),
      credential_good_(std::move(credential_good)),
      subscribers_(&metrics->Gauge("tessera_mgmt_event_subscribers",
                                   "Watches of the console that are open.")),
      dropped_(&metrics->Counter("tessera_mgmt_events_dropped_total",
                                 "Messages that readers were too slow for.")) {}

absl::Status ConsoleHub::Add(const v1::WatchConsoleRequest& request, const std::string& credential,
                             const FirstState& first_state, std::unique_ptr<ConsoleStream> stream) {
  auto watcher = std::make_shared<Watcher>();
  for (int i = 0; i < request.topics_size(); ++i) {
    const v1::ConsoleTopic topic = request.topics(i);
    if (!v1::ConsoleTopic_IsValid(topic) || topic == v1::CONSOLE_TOPIC_UNSPECIFIED) {
      return InvalidField(absl::StrCat("topics[", i, "]"),
                          "is no topic; leave the list empty for all of them");
    }
    watcher->topics.insert(topic);
  }
  if (watcher->topics.empty()) {
    watcher->topics = {v1::CONSOLE_TOPIC_OVERVIEW, v1::CONSOLE_TOPIC_ALERTS,
                       v1::CONSOLE_TOPIC_OPERATIONS, v1::CONSOLE_TOPIC_OBJECTS};
  }
  watcher->credential = credential;
  watcher->stream = std::move(stream);
  watcher->heartbeat_boot_ms = clock_->BootMillis();
  if (!IsGood(credential)) return SessionEnded();
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return absl::UnavailableError("the management service is stopping: watch again");
    if (watchers_.size() >= kWatchersMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("already ", watchers_.size(), " watches are open: close some"));
    }
    watchers_.push_back(watcher);
    SetGauge();
  }
  // From here on nothing is missed: what is published meanwhile follows the first state.
  std::vector<Message> messages = first_state(watcher->topics);
  absl::MutexLock lock(&mutex_);
  if (std::find(watchers_.begin(), watchers_.end(), watcher) == watchers_.end()) {
    return absl::OkStatus();  // ended meanwhile
  }
  messages.push_back(Heartbeat(clock_->WallMillis()));
  for (Message& message : watcher->meanwhile) messages.push_back(std::move(message));
  watcher->meanwhile.clear();
  watcher->joining = false;
  for (Message& message : messages) {
    if (watcher->stream->Send(std::move(message))) continue;
    std::erase(watchers_, watcher);
    SetGauge();
    break;
  }
  return absl::OkStatus();
}

bool ConsoleHub::IsGood(const std::string& credential) const {
  // A caller without session or token proved itself by its certificate, which its connection has.
  return credential.empty() || !credential_good_ || credential_good_(credential);
}

void ConsoleHub::EndExpired() {
  std::set<std::string> credentials;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& watcher : watchers_) credentials.insert(watcher->credential);
  }
  std::erase_if(credentials, [&](const std::string& credential) { return IsGood(credential); });
  if (credentials.empty()) return;
  absl::MutexLock lock(&mutex_);
  std::erase_if(watchers_, [&](const std::shared_ptr<Watcher>& watcher) {
    if (!credentials.contains(watcher->credential)) return false;
    watcher->stream->Close(SessionEnded());
    return true;
  });
}

bool ConsoleHub::Tell(Watcher* watcher, const Message& message) {
  if (watcher->joining) {
    if (watcher->meanwhile.size() < kLagMax) {
      watcher->meanwhile.push_back(message);
      return true;
    }
    dropped_->Increment(static_cast<double>(watcher->meanwhile.size()));
    watcher->stream->Close(TooSlow());
    return false;
  }
  const size_t queued = watcher->stream->queued();
  if (message.has_overview() && queued > kOverviewsQueuedMax) {
    dropped_->Increment();  // the next one says more than this
    return true;
  }
  if (queued >= kLagMax) {
    dropped_->Increment(static_cast<double>(queued));
    watcher->stream->Close(TooSlow());
    return false;
  }
  return watcher->stream->Send(message);
}

void ConsoleHub::Publish(const Message& message) {
  const v1::ConsoleTopic topic = TopicOf(message);
  EndExpired();
  absl::MutexLock lock(&mutex_);
  std::erase_if(watchers_, [&](const std::shared_ptr<Watcher>& watcher) {
    mutex_.AssertHeld();
    return watcher->topics.contains(topic) && !Tell(watcher.get(), message);
  });
  SetGauge();
}

void ConsoleHub::Tick() {
  const uint64_t now_boot_ms = clock_->BootMillis();
  const auto is_due = [now_boot_ms](const std::shared_ptr<Watcher>& watcher) {
    return now_boot_ms - watcher->heartbeat_boot_ms >= kHeartbeatMs;
  };
  {
    absl::MutexLock lock(&mutex_);
    if (std::none_of(watchers_.begin(), watchers_.end(), is_due)) return;
  }
  EndExpired();
  const Message heartbeat = Heartbeat(clock_->WallMillis());
  absl::MutexLock lock(&mutex_);
  std::erase_if(watchers_, [&](const std::shared_ptr<Watcher>& watcher) {
    mutex_.AssertHeld();
    if (!is_due(watcher)) return false;
    watcher->heartbeat_boot_ms = now_boot_ms;
    return !Tell(watcher.get(), heartbeat);
  });
  SetGauge();
}

void ConsoleHub::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (const auto& watcher : watchers_) {
    watcher->stream->Close(
        absl::UnavailableError("the management service is stopping: watch again"));
  }
  watchers_.clear();
  SetGauge();
}

size_t ConsoleHub::watchers() const {
  absl::MutexLock lock(&mutex_);
  return watchers_.size();
}

void ConsoleHub::SetGauge() { subscribers_->Set(static_cast<double>(watchers_.size())); }

}  // namespace tessera::mgmt
