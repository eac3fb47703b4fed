// A ConsoleStream over the real transport and clock.
import { createClient } from '@connectrpc/connect';
import { ConsoleService, type WatchConsoleResponse } from '../gen/tessera/v1/console_pb';
import { ConsoleStream, type StreamStatus } from './stream';
import { createTransport, isSessionOver } from './transport';

export function watchConsole(
  onStatus: (status: StreamStatus) => void, onMessage: (message: WatchConsoleResponse) => void,
): ConsoleStream<WatchConsoleResponse> {
  const client = createClient(ConsoleService, createTransport(() => {}));
  return new ConsoleStream<WatchConsoleResponse>({
    open: (signal) => client.watchConsole({}, { signal }),
    isSessionOver, onStatus, onMessage,
    now: () => Date.now(),
    after(ms, callback) {
      const timer = setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
    random: () => Math.random(),
  });
}
