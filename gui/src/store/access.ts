// Who may do what: read from the same option of the API's methods that the servers enforce.
import { getOption, type DescMethod } from '@bufbuild/protobuf';
import { access, Role } from '../gen/tessera/v1/access_pb';

/** Roles that a role includes. */
const includes: Partial<Record<Role, readonly Role[]>> = {
  [Role.ADMIN]: [Role.ADMIN, Role.OPERATOR, Role.VIEWER],
  [Role.OPERATOR]: [Role.OPERATOR, Role.VIEWER],
  [Role.VIEWER]: [Role.VIEWER],
  [Role.NEWCOMER]: [Role.NEWCOMER],
};

export function mayCall(role: Role, method: DescMethod): boolean {
  const wanted = getOption(method, access).roles;
  const held = includes[role] ?? [];
  return wanted.some((one) => one === Role.ANYONE || held.includes(one));
}

/** The least role of people that may call a method, in words. */
export function roleFor(method: DescMethod): string {
  const least = [Role.VIEWER, Role.OPERATOR, Role.ADMIN].find((role) => mayCall(role, method));
  return least === undefined ? 'none' : roleName(least);
}

export function roleName(role: Role): string {
  return (Role[role] ?? 'unknown').toLowerCase();
}
