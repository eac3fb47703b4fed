// The tables of alerts, silences and the outbox of notifications in mgmt.db.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERT_SCHEMA_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERT_SCHEMA_H_

namespace tessera::mgmt {

extern const char kAlertSchema[];

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERT_SCHEMA_H_
