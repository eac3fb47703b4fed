// Where the time of a volume's requests goes: what can be asked, and the question as a call. Pure.
import { LatencyOperation, LatencyService } from '../../gen/tessera/v1/latency_pb';
import type { Volume } from '../../gen/tessera/v1/volume_pb';
import { commandDuration, words } from '../../components/format';
import { tessera } from '../commands';
import { call, type Call } from './action';

export interface LatencyChoice {
  windowS: number;
  operation: LatencyOperation;
}

/** How far back; clients remember ten minutes. */
export const latencyWindows: { label: string; windowS: number }[] = [
  { label: '1 min', windowS: 60 }, { label: '5 min', windowS: 300 }, { label: '10 min', windowS: 600 },
];
const windowDefaultS = 300;

export const latencyOperations: { label: string; operation: LatencyOperation }[] = [
  { label: 'All', operation: LatencyOperation.UNSPECIFIED }, { label: 'Reads', operation: LatencyOperation.READ },
  { label: 'Writes', operation: LatencyOperation.WRITE }, { label: 'Flushes', operation: LatencyOperation.FLUSH },
];

/** "Reads", "Writes", "Flushes". */
export function requestsInWords(operation: LatencyOperation): string {
  return latencyOperations.find((one) => one.operation === operation)?.label ?? words(LatencyOperation, operation);
}

/** What an address asks for, such as "?window=60&operation=write"; what it does not say, or says wrongly, is the default. */
export function latencyChoiceOf(query: URLSearchParams): LatencyChoice {
  const windowS = latencyWindows.find((one) => String(one.windowS) === query.get('window'))?.windowS ?? windowDefaultS;
  const operation = latencyOperations.find((one) => queryWord(one.operation) === query.get('operation'))?.operation;
  return { windowS, operation: operation ?? LatencyOperation.UNSPECIFIED };
}

/** An operation in an address, and for the command `tessera`; empty for all. */
export function queryWord(operation: LatencyOperation): string {
  return operation === LatencyOperation.UNSPECIFIED ? '' : words(LatencyOperation, operation);
}

export function explainLatency({ volumeId, name }: Volume, { windowS, operation }: LatencyChoice): Call {
  const only = queryWord(operation);
  return call(LatencyService.method.explainLatency, { volumeId, windowS, operation },
    tessera('volume', 'latency', name, '--window', commandDuration(windowS * 1000), ...(only ? ['--operation', only] : [])));
}
