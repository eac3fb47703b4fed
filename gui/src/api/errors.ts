// What a person is told when a call fails: what happened, why, and what to do.
import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema } from '../gen/google/rpc/error_details_pb';

export interface Problem {
  /** What happened, in the server's words. */
  message: string;
  /** gRPC's code by its name; empty where nothing was sent. */
  code: string;
  /** The code, and the reason where there is one: "FAILED_PRECONDITION · VOLUME_MAPPED". */
  reason: string;
  /** What to do. */
  remedy: string;
  /** What is wrong with which field of the request, by its name in the proto. */
  fields: ReadonlyMap<string, string>;
}

/** A value in a form that no request can be made of. `field` is the form's name of it. */
export class FieldError extends Error {
  constructor(readonly field: string, message: string) {
    super(message);
  }
}

const byReason: Record<string, string> = {
  SIGN_IN_FAILED: 'Check the name and the password. After several wrong tries signing in is locked for a while.',
  SIGN_IN_LOCKED: 'Wait until the lock is over, or have an administrator unlock the user.',
  SESSION_EXPIRED: 'Sign in again: you come back to this page.',
  LAST_ADMIN: 'Give another user the role admin first.',
  MAINTENANCE_UNSAFE: 'Wait until rebuilds are done, or enter maintenance by force, knowing that IO will wait.',
  NOT_ENOUGH_SERVERS: 'Add a server, or a pool with fewer copies: every copy needs a server of its own.',
  NO_ROOM: 'Add devices or free space first.',
  NO_SOURCE: 'Bring back a server that has a good copy first.',
  HAS_SNAPSHOTS: 'Delete its snapshots first: those in the trash count, too.',
  DEVICE_IN_USE: 'Drain the device first.',
  SDS_IN_USE: 'Drain the server first.',
  NOTHING_TO_SCRUB: 'Assign devices to the pool first.',
};

const byCode: Partial<Record<Code, string>> = {
  [Code.Unavailable]: 'Try again in a moment. If it stays so, look at whether the servers named run and can be reached.',
  [Code.DeadlineExceeded]: 'It took too long: look at whether it was done all the same before trying again.',
  [Code.PermissionDenied]: 'Ask an administrator to do it, or to give you the role.',
  [Code.Unauthenticated]: 'Sign in again: you come back to this page.',
  [Code.NotFound]: 'It may have been deleted meanwhile: go back to the list.',
  [Code.AlreadyExists]: 'Choose another name.',
  [Code.FailedPrecondition]: 'Change what the message names, then try again.',
  [Code.InvalidArgument]: 'Correct what the message names.',
  [Code.OutOfRange]: 'Choose a value within the range.',
  [Code.Aborted]: 'Something else changed it meanwhile: look again, then try again.',
  [Code.ResourceExhausted]: 'Free space or wait, then try again.',
  [Code.Internal]: 'Look into the log of tessera-mgmt and report it: this should not happen.',
  [Code.Unknown]: 'Look at whether tessera-mgmt runs, and into its log.',
  [Code.Unimplemented]: 'The server is older than this console: bring both to one version.',
  [Code.DataLoss]: 'Look at Health for what is damaged.',
};

/** "FailedPrecondition" as gRPC writes it: "FAILED_PRECONDITION". */
export function codeName(code: Code): string {
  return (Code[code] ?? String(code)).replace(/([a-z])([A-Z])/g, '$1_$2').toUpperCase();
}

export function describeError(error: unknown): Problem {
  if (error instanceof FieldError) {
    return { message: error.message, code: '', reason: '', remedy: '', fields: new Map([[error.field, error.message]]) };
  }
  const known = ConnectError.from(error);
  const info = known.findDetails(ErrorInfoSchema)[0];
  const reason = info?.reason ?? '';
  const fields = new Map<string, string>();
  for (const detail of known.findDetails(BadRequestSchema)) {
    for (const violation of detail.fieldViolations) fields.set(violation.field, violation.description);
  }
  const retry = info?.metadata['retry_after_s'];
  const remedy = reason === 'SIGN_IN_LOCKED' && retry
    ? `Wait ${retry} seconds, or have an administrator unlock the user.`
    : byReason[reason] ?? byCode[known.code] ?? '';
  return {
    message: sentence(known.rawMessage || 'The call failed.'),
    code: codeName(known.code),
    reason: [codeName(known.code), reason].filter(Boolean).join(' · '),
    remedy,
    fields,
  };
}

function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
