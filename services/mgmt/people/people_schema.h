// The tables of people in mgmt.db.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_PEOPLE_SCHEMA_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_PEOPLE_SCHEMA_H_

namespace tessera::mgmt {

// A migration for MgmtDb::Open: users, sessions, API tokens, known addresses, the audit log.
extern const char kPeopleSchema[];

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_PEOPLE_SCHEMA_H_
