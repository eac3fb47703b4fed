// What the stream says: the overview, alerts and operations as they are now, and whether that is still true.
import type { Alert } from '../gen/tessera/v1/alert_pb';
import { AlertState } from '../gen/tessera/v1/alert_pb';
import type { GetOverviewResponse, ObjectsChanged, WatchConsoleResponse } from '../gen/tessera/v1/console_pb';
import { type Operation, OperationState } from '../gen/tessera/v1/operation_pb';
import type { StreamStatus } from '../api/stream';
import { noteServerTime } from './clock';
import { createStore, useStore } from './store';

export const overview = createStore<GetOverviewResponse | null>(null);
/** Active alerts, by id. */
export const activeAlerts = createStore<ReadonlyMap<bigint, Alert>>(new Map());
/** Operations that have not ended, and those that ended while the page was open, by id. */
export const liveOperations = createStore<ReadonlyMap<bigint, Operation>>(new Map());
export const streamStatus = createStore<StreamStatus>({ state: 'connecting' });

/** Operations that ended are kept until there are this many. */
const endedLimit = 50;

type ObjectsListener = (changed: ObjectsChanged) => void;
const objectsListeners = new Set<ObjectsListener>();
/** Calls `listener` when volumes or topology changed. */
export function onObjectsChanged(listener: ObjectsListener): () => void {
  objectsListeners.add(listener);
  return () => void objectsListeners.delete(listener);
}

const alertListeners = new Set<(alert: Alert) => void>();
/** Calls `listener` with each alert that changed. */
export function onAlertChanged(listener: (alert: Alert) => void): () => void {
  alertListeners.add(listener);
  return () => void alertListeners.delete(listener);
}

export function takeMessage(message: WatchConsoleResponse): void {
  noteServerTime(message.timeMs);
  const { change } = message;
  switch (change.case) {
    case 'overview':
      noteServerTime(change.value.nowMs);
      overview.set(change.value);
      activeAlerts.set(new Map(change.value.alerts.map((alert) => [alert.alertId, alert])));
      liveOperations.update((present) => afterOverview(present, change.value.operations));
      break;
    case 'alert':
      activeAlerts.update((present) => withAlert(present, change.value));
      for (const listener of alertListeners) listener(change.value);
      break;
    case 'operation':
      liveOperations.update((present) => withOperation(present, change.value));
      break;
    case 'objects':
      for (const listener of objectsListeners) listener(change.value);
      break;
    case 'heartbeat':
    case undefined:
      break;
  }
}

/** All that is known belongs to who was signed in. */
export function forgetLive(): void {
  overview.set(null);
  activeAlerts.set(new Map());
  liveOperations.set(new Map());
}

export function hasEnded(operation: Operation): boolean {
  return operation.state === OperationState.SUCCEEDED || operation.state === OperationState.CANCELLED;
}

export function withAlert(present: ReadonlyMap<bigint, Alert>, alert: Alert): ReadonlyMap<bigint, Alert> {
  const next = new Map(present);
  if (alert.state === AlertState.RESOLVED) next.delete(alert.alertId);
  else next.set(alert.alertId, alert);
  return next;
}

export function withOperation(present: ReadonlyMap<bigint, Operation>, one: Operation): ReadonlyMap<bigint, Operation> {
  const next = new Map(present);
  next.set(one.operationId, one);
  const ended = [...next.values()].filter(hasEnded);
  for (const old of ended.slice(0, Math.max(0, ended.length - endedLimit))) next.delete(old.operationId);
  return next;
}

/** An overview has all that run: what runs no more and was not heard of has ended. */
function afterOverview(present: ReadonlyMap<bigint, Operation>, running: Operation[]): ReadonlyMap<bigint, Operation> {
  const ended = [...present.values()].filter(hasEnded);
  return new Map([...ended, ...running].map((one) => [one.operationId, one]));
}

export const useOverview = () => useStore(overview);
export const useStreamStatus = () => useStore(streamStatus);
