// The SharedWorker: one stream for all tabs of this browser.
import { toBinary } from '@bufbuild/protobuf';
import { WatchConsoleResponseSchema } from './gen/tessera/v1/console_pb';
import type { ToPage, ToWorker } from './api/link_messages';
import { RecentState } from './api/recent';
import type { StreamStatus } from './api/stream';
import { watchConsole } from './api/watch';

const pages = new Set<MessagePort>();
const recent = new RecentState();
let status: StreamStatus = { state: 'signed-out' };

const send = (page: MessagePort, message: ToPage) => page.postMessage(message);
const sendAll = (message: ToPage, except?: MessagePort) => {
  for (const page of pages) if (page !== except) send(page, message);
};

const stream = watchConsole(
  (next) => {
    status = next;
    if (next.state === 'signed-out') recent.forget();
    sendAll({ type: 'status', status });
  },
  (message) => {
    recent.note(message);
    sendAll({ type: 'message', bytes: toBinary(WatchConsoleResponseSchema, message) });
  },
);

function receive(page: MessagePort, message: ToWorker): void {
  switch (message.type) {
    case 'hello':
      pages.add(page);
      if (status.state === 'signed-out') stream.restart();
      else send(page, { type: 'status', status });
      for (const known of recent.messages()) {
        send(page, { type: 'message', bytes: toBinary(WatchConsoleResponseSchema, known) });
      }
      break;
    case 'signed-in':
      pages.add(page);
      recent.forget();
      stream.restart();
      sendAll({ type: 'identity' }, page);
      break;
    case 'signed-out':
      stream.stop();
      recent.forget();
      status = { state: 'signed-out' };
      sendAll({ type: 'identity' }, page);
      break;
    case 'retry':
      stream.retryNow();
      break;
    case 'bye':
      pages.delete(page);
      if (pages.size === 0) {
        stream.stop();
        recent.forget();
        status = { state: 'signed-out' };
      }
      break;
  }
}

addEventListener('connect', (event) => {
  const page = (event as MessageEvent).ports[0];
  if (!page) return;
  page.onmessage = (message: MessageEvent<ToWorker>) => receive(page, message.data);
});
