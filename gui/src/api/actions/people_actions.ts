// Users, sessions, API tokens, alerts.
import { AlertService, type Alert, type Silence } from '../../gen/tessera/v1/alert_pb';
import { Role } from '../../gen/tessera/v1/access_pb';
import { AuthService, type ApiToken, type Session, type User } from '../../gen/tessera/v1/auth_pb';
import { exactDuration, words } from '../../components/format';
import { tessera } from '../commands';
import { FieldError } from '../errors';
import { answerOf, call, durationOf, required, type Action, type Secret, type Values } from './action';

const methods = AuthService.method;
const alertMethods = AlertService.method;

const roles = [
  { value: String(Role.VIEWER), label: 'Viewer: looks' },
  { value: String(Role.OPERATOR), label: 'Operator: works with volumes' },
  { value: String(Role.ADMIN), label: 'Admin: everything' },
];

const roleOf = (values: Values) => Number(values['role']) as Role;

/** Whole seconds, which is what the services count times of people in. */
const secondsOf = (values: Values, name: string) => Math.round(durationOf(values, name) / 1000);

function passwordSecret(userName: string, password: string): Secret | null {
  return password === '' ? null : {
    label: `One-time password of ${userName}`, value: password,
    note: 'It is shown this once. It has to be changed at the first sign-in.',
  };
}

export function createUser(): Action {
  return {
    title: 'Add a user', submit: 'Add user', done: 'User added', method: methods.createUser,
    intro: 'A password is made up and shown once; the user has to change it.',
    fields: [
      { name: 'userName', label: 'Name', kind: 'text', required: true, autoComplete: 'off',
        hint: '1 to 64 of a-z, 0-9, “.”, “_”, “-”, beginning with a letter' },
      { name: 'role', label: 'Role', kind: 'select', options: roles },
    ],
    build(values) {
      const userName = required(values, 'userName', 'a name');
      const role = roleOf(values);
      return [call(methods.createUser, { userName, role }, tessera('user', 'create', userName, '--role', words(Role, role)))];
    },
    secret(answer) {
      const { user, oneTimePassword } = answerOf(methods.createUser, answer);
      return passwordSecret(user?.userName ?? '', oneTimePassword);
    },
  };
}

export function changeRole(user: User): Action {
  return {
    title: `Role of ${user.userName}`, submit: 'Change role', done: 'Role changed', method: methods.updateUser,
    intro: 'The user’s sessions end by it.',
    fields: [{ name: 'role', label: 'Role', kind: 'select', initial: String(user.role), options: roles }],
    build(values) {
      const role = roleOf(values);
      return [call(methods.updateUser, { userId: user.userId, role }, tessera('user', 'set', user.userName, '--role', words(Role, role)))];
    },
  };
}

export function lockUser(user: User): Action {
  const verb = user.locked ? 'Unlock' : 'Lock';
  return {
    title: `${verb} ${user.userName}`, submit: `${verb} user`, danger: !user.locked, done: `${user.userName} is ${verb.toLowerCase()}ed`,
    method: methods.updateUser, fields: [],
    intro: user.locked ? 'The user can sign in again; wrong tries are forgotten.' : 'The user’s sessions end, and no new one begins.',
    build: () => [call(methods.updateUser, { userId: user.userId, locked: !user.locked },
      tessera('user', 'set', user.userName, user.locked ? '--unlock' : '--lock'))],
  };
}

export function resetPassword(user: User): Action {
  return {
    title: `New password for ${user.userName}`, submit: 'Reset password', danger: true, done: 'Password reset',
    method: methods.updateUser, fields: [], intro: 'One is made up and shown once. The user’s sessions end.',
    build: () => [call(methods.updateUser, { userId: user.userId, resetPassword: true },
      tessera('user', 'set', user.userName, '--reset-password'))],
    secret: (answer) => passwordSecret(user.userName, answerOf(methods.updateUser, answer).oneTimePassword),
  };
}

export function deleteUser(user: User): Action {
  return {
    title: `Delete ${user.userName}`, submit: 'Delete user', danger: true, typedName: user.userName, done: 'User deleted',
    method: methods.deleteUser, fields: [], intro: 'With all sessions and API tokens. What the user did stays in the audit log.',
    build: () => [call(methods.deleteUser, { userId: user.userId }, tessera('user', 'delete', user.userName))],
  };
}

export function endSession(session: Session): Action {
  return {
    title: `End the session of ${session.userName}`, submit: 'End session', danger: true, done: 'Session ended',
    method: methods.endSession, fields: [], intro: `Begun from ${session.peer}.`,
    build: () => [call(methods.endSession, { sessionId: session.sessionId }, tessera('session', 'end', session.sessionId))],
  };
}

export function createToken(role: Role): Action {
  return {
    title: 'Make an API token', submit: 'Make token', done: 'Token made', method: methods.createApiToken,
    intro: 'For scripts: tessera takes it from $TESSERA_TOKEN, others send it as “authorization: Bearer …”.',
    fields: [
      { name: 'description', label: 'What it is for', kind: 'text', required: true },
      { name: 'role', label: 'Role', kind: 'select', options: rolesUpTo(role) },
      { name: 'lifetime', label: 'Good for', kind: 'duration', required: true, initial: '90d', hint: 'At most 366d',
        requestFields: ['lifetime_s'] },
    ],
    build(values) {
      const description = required(values, 'description', 'what it is for');
      const role = roleOf(values);
      const lifetimeS = secondsOf(values, 'lifetime');
      // Last, and behind "--" where it looks like an option.
      return [call(methods.createApiToken, { description, role, lifetimeS: BigInt(lifetimeS) },
        tessera('user', 'token', 'create', '--role', words(Role, role), '--for', exactDuration(lifetimeS * 1000),
          ...(description.startsWith('-') ? ['--'] : []), description))];
    },
    secret: (answer) => ({
      label: 'The token', value: answerOf(methods.createApiToken, answer).secret,
      note: 'It is shown this once: keep it where only the script can read it.',
    }),
  };
}

function rolesUpTo(role: Role) {
  const count = role === Role.ADMIN ? 3 : role === Role.OPERATOR ? 2 : 1;
  return roles.slice(0, count);
}

export function revokeToken(token: ApiToken): Action {
  return {
    title: `Revoke “${token.description}”`, submit: 'Revoke token', danger: true, done: 'Token revoked',
    method: methods.revokeApiToken, fields: [], intro: 'Scripts that use it are refused from then on.',
    build: () => [call(methods.revokeApiToken, { apiTokenId: token.apiTokenId }, tessera('user', 'token', 'revoke', token.apiTokenId))],
  };
}

export function acknowledgeAlert(alert: Alert): Action {
  return {
    title: 'Acknowledge', submit: 'Acknowledge', done: 'Acknowledged', method: alertMethods.acknowledgeAlert,
    intro: `${alert.summary}. It stays until its cause is gone.`,
    fields: [{ name: 'comment', label: 'What you are doing about it', kind: 'textarea', initial: alert.comment }],
    build(values) {
      const comment = (values['comment'] ?? '').trim();
      return [call(alertMethods.acknowledgeAlert, { alertId: alert.alertId, comment },
        tessera('alert', 'ack', alert.alertId, ...(comment ? ['--comment', comment] : [])))];
    },
  };
}

export function createSilence(rule = '', subject = ''): Action {
  return {
    title: 'Silence alerts', submit: 'Silence', done: 'Silenced', method: alertMethods.createSilence,
    intro: 'Matching alerts are raised and shown, but sent to nobody.',
    fields: [
      { name: 'rule', label: 'Rule', kind: 'text', initial: rule, hint: 'Such as part-down; empty: all' },
      { name: 'subject', label: 'Subject', kind: 'text', initial: subject, hint: 'Such as sds/3; empty: all' },
      { name: 'duration', label: 'For', kind: 'duration', required: true, initial: '1h', hint: 'At most 366d', requestFields: ['duration_s'] },
      { name: 'comment', label: 'Why', kind: 'text', required: true },
    ],
    build(values) {
      const [rule, subject] = ['rule', 'subject'].map((name) => (values[name] ?? '').trim());
      if (!rule && !subject) throw new FieldError('rule', 'Give a rule or a subject: a silence of everything hides too much.');
      const durationS = secondsOf(values, 'duration');
      const comment = required(values, 'comment', 'a reason');
      return [call(alertMethods.createSilence, { rule, subject, durationS: BigInt(durationS), comment },
        tessera('alert', 'silence', ...(rule ? ['--rule', rule] : []), ...(subject ? ['--subject', subject] : []),
          '--for', exactDuration(durationS * 1000), '--comment', comment))];
    },
  };
}

export function deleteSilence(silence: Silence): Action {
  return {
    title: 'End a silence', submit: 'End silence', done: 'Silence ended', method: alertMethods.deleteSilence, fields: [],
    intro: silence.comment,
    build: () => [call(alertMethods.deleteSilence, { silenceId: silence.silenceId }, tessera('alert', 'unsilence', silence.silenceId))],
  };
}

export function reloadRules(): Action {
  return {
    title: 'Reload alert rules', submit: 'Reload rules', done: 'Rules reloaded', method: alertMethods.reloadAlertRules, fields: [],
    intro: 'Reads the rules file again. If anything in it is wrong, nothing changes.',
    build: () => [call(alertMethods.reloadAlertRules, {}, tessera('alert', 'reload'))],
  };
}
