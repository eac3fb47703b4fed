// Machine-readable reasons of errors.
import type { ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../gen/google/rpc/error_details_pb';

/** The error's reason, such as "MAINTENANCE_UNSAFE"; empty when it has none. */
export function reasonOf(error: ConnectError): string {
  return error.findDetails(ErrorInfoSchema)[0]?.reason ?? '';
}
