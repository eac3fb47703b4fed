// The way to MGMT: gRPC-Web at the page's own origin, with the session's cookie.
import { Code, ConnectError, type Interceptor, type Transport } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { reasonOf } from './reasons';

/** How long a call may take unless it says otherwise. */
export const callTimeoutMs = 30_000;

/** `onSessionOver` hears of each answer that says that the session is over. */
export function createTransport(onSessionOver: () => void): Transport {
  const watchSession: Interceptor = (next) => async (request) => {
    try {
      return await next(request);
    } catch (error) {
      if (isSessionOver(error)) onSessionOver();
      throw error;
    }
  };
  return createGrpcWebTransport({ baseUrl: self.location.origin, interceptors: [watchSession] });
}

/** A wrong password is UNAUTHENTICATED, too, and ends no session. */
export function isSessionOver(error: unknown): boolean {
  const known = ConnectError.from(error);
  return known.code === Code.Unauthenticated && reasonOf(known) !== 'SIGN_IN_FAILED';
}
