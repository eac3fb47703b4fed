// What is sent: a notification in the format of its target.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_NOTIFICATION_MESSAGE_H_
#define TESSERA_SERVICES_MGMT_ALERTS_NOTIFICATION_MESSAGE_H_

#include <string>
#include <utility>
#include <vector>

#include "services/mgmt/alerts/notification_config.h"
#include "services/mgmt/alerts/outbox.h"

namespace tessera::mgmt {

struct HttpMessage {
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;  // JSON
};
// By the format's public description: generic JSON (docs/operations/alerts.md), Slack and
// Mattermost incoming webhooks, Teams (Adaptive Card in a workflow's webhook), PagerDuty Events API
// v2, Opsgenie Alert API v2, Alertmanager API v2. Every message has the header Idempotency-Key.
[[nodiscard]] HttpMessage MakeHttpMessage(const NotificationTarget& target,
                                          const Notification& notification);

// A mail by RFC 5322, lines ended by CR LF. Message-ID is made of the idempotency key.
[[nodiscard]] std::string MakeMail(const NotificationTarget& target,
                                   const Notification& notification);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_NOTIFICATION_MESSAGE_H_
