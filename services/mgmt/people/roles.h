// What the roles of people contain.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_ROLES_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_ROLES_H_

#include <vector>

#include "tessera/v1/access.pb.h"

namespace tessera::mgmt {

// A role that a user or token can have.
[[nodiscard]] inline bool IsRoleOfPeople(v1::Role role) {
  return role == v1::ROLE_ADMIN || role == v1::ROLE_OPERATOR || role == v1::ROLE_VIEWER;
}

// The role and the lesser ones.
[[nodiscard]] inline std::vector<v1::Role> RolesWithin(v1::Role role) {
  switch (role) {
    case v1::ROLE_ADMIN:
      return {v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
    case v1::ROLE_OPERATOR:
      return {v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
    case v1::ROLE_VIEWER:
      return {v1::ROLE_VIEWER};
    default:
      return {};
  }
}

// The lesser of two roles of people: the enum counts downwards from the admin.
[[nodiscard]] inline v1::Role LesserRole(v1::Role one, v1::Role other) {
  return one > other ? one : other;
}

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_ROLES_H_
