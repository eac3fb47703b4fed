// What pages and the SharedWorker say to each other.
import type { StreamStatus } from './stream';

export type ToWorker =
  /** A page is there and wants all that is known. */
  | { type: 'hello' }
  /** Somebody signed in, or the credential is another one: open the stream anew. */
  | { type: 'signed-in' }
  /** Somebody signed out: no stream any more. */
  | { type: 'signed-out' }
  | { type: 'retry' }
  | { type: 'bye' };

export type ToPage =
  | { type: 'status'; status: StreamStatus }
  /** A serialised WatchConsoleResponse. */
  | { type: 'message'; bytes: Uint8Array }
  /** Another page signed in or out: ask who one is. */
  | { type: 'identity' };
