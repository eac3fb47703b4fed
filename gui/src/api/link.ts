// The page's end of the stream: through the SharedWorker where the browser has them, else a stream of its own.
import { fromBinary } from '@bufbuild/protobuf';
import { WatchConsoleResponseSchema, type WatchConsoleResponse } from '../gen/tessera/v1/console_pb';
import type { ToPage, ToWorker } from './link_messages';
import type { StreamStatus } from './stream';
import { watchConsole } from './watch';

declare const WORKER_URL: string;

export interface Link {
  send(message: ToWorker): void;
}

export interface LinkListener {
  onStatus(status: StreamStatus): void;
  onMessage(message: WatchConsoleResponse): void;
  /** Another tab signed in or out. */
  onIdentity(): void;
}

export function openLink(listener: LinkListener): Link {
  return typeof SharedWorker === 'undefined' ? ownStream(listener) : sharedStream(listener);
}

function sharedStream(listener: LinkListener): Link {
  const worker = new SharedWorker(new URL(WORKER_URL, document.baseURI), { type: 'module', name: WORKER_URL });
  worker.port.onmessage = ({ data }: MessageEvent<ToPage>) => {
    if (data.type === 'status') listener.onStatus(data.status);
    else if (data.type === 'identity') listener.onIdentity();
    else listener.onMessage(fromBinary(WatchConsoleResponseSchema, data.bytes));
  };
  const send = (message: ToWorker) => worker.port.postMessage(message);
  addEventListener('pagehide', () => send({ type: 'bye' }));
  addEventListener('pageshow', (event) => {
    if (event.persisted) send({ type: 'hello' });
  });
  return { send };
}

function ownStream(listener: LinkListener): Link {
  const stream = watchConsole((status) => listener.onStatus(status), (message) => listener.onMessage(message));
  return {
    send({ type }) {
      if (type === 'hello' || type === 'signed-in') stream.restart();
      else if (type === 'retry') stream.retryNow();
      else stream.stop();
    },
  };
}
