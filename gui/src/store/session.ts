// Who is signed in.
import { Code, ConnectError } from '@connectrpc/connect';
import { create } from '@bufbuild/protobuf';
import { auth } from '../api/clients';
import { describeError, type Problem } from '../api/errors';
import { isSessionOver } from '../api/transport';
import { Role } from '../gen/tessera/v1/access_pb';
import { UserSchema, type Session, type User } from '../gen/tessera/v1/auth_pb';
import { createStore, useStore } from './store';

export type SessionState =
  | { state: 'asking' }
  | { state: 'unreachable'; problem: Problem }
  | { state: 'signed-out'; expired: boolean }
  | { state: 'newcomer'; user: User }
  | { state: 'signed-in'; user: User; session: Session | null };

const session = createStore<SessionState>({ state: 'asking' });

export const useSession = () => useStore(session);
export const sessionState = () => session.get();
export const onSession = (listener: () => void) => session.subscribe(listener);

/** Asks MGMT who one is. */
export async function askWhoIAm(): Promise<void> {
  try {
    const { user, session: mine } = await auth.getCurrentUser({});
    takeUp(user, mine);
  } catch (error) {
    if (isSessionOver(error)) session.set({ state: 'signed-out', expired: session.get().state === 'signed-in' });
    else session.set({ state: 'unreachable', problem: describeError(error) });
  }
}

export async function signIn(userName: string, password: string): Promise<void> {
  const { user, session: mine } = await auth.signIn({ userName, password });
  takeUp(user, mine);
}

export async function changePassword(oldPassword: string, newPassword: string): Promise<void> {
  await auth.changePassword({ oldPassword, newPassword });
  await askWhoIAm();
}

export async function signOut(): Promise<void> {
  try {
    await auth.signOut({});
  } catch (error) {
    if (ConnectError.from(error).code !== Code.Unauthenticated) throw error;
  }
  session.set({ state: 'signed-out', expired: false });
}

/** An answer said that the session is over. */
export function sessionExpired(): void {
  const { state } = session.get();
  if (state === 'signed-in' || state === 'newcomer') session.set({ state: 'signed-out', expired: true });
}

function takeUp(user: User | undefined, mine: Session | undefined): void {
  const known = user ?? create(UserSchema, { userName: 'unknown' });
  if (known.passwordChangeRequired) session.set({ state: 'newcomer', user: known });
  else session.set({ state: 'signed-in', user: known, session: mine ?? null });
}

/** The role of who is signed in; VIEWER's rights at most before that is known. */
export function useRole(): Role {
  return useStore(session, (value) => (value.state === 'signed-in' ? value.user.role : Role.UNSPECIFIED));
}
