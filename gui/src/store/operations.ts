// Operations in words and figures. Pure.
import { formatBytes, formatDuration, formatPercent, formatRate, words } from '../components/format';
import { OperationKind, OperationState, type Operation } from '../gen/tessera/v1/operation_pb';

/** How far it is, 0 to 100; null when that is not known. Never 100 before it has ended. */
export function percentOf(operation: Operation): number | null {
  if (operation.state === OperationState.SUCCEEDED) return 100;
  if (operation.bytesTotal > 0n) return Math.min(99, (100 * Number(operation.bytesDone)) / Number(operation.bytesTotal));
  if (operation.placementGroupsTotal > 0) return Math.min(99, (100 * operation.placementGroupsDone) / operation.placementGroupsTotal);
  return null;
}

export function operationTitle(operation: Operation): string {
  const kind = words(OperationKind, operation.kind);
  return `${kind.charAt(0).toUpperCase()}${kind.slice(1)}: ${operation.subject}`;
}

export function progressInWords(operation: Operation): string {
  const parts = [
    operation.bytesTotal > 0n && `${formatBytes(operation.bytesDone)} of ${formatBytes(operation.bytesTotal)} (${formatPercent(operation.bytesDone, operation.bytesTotal)})`,
    operation.placementGroupsTotal > 0 && `${operation.placementGroupsDone} of ${operation.placementGroupsTotal} placement groups`,
    operation.devicesTotal > 0 && `${operation.devicesDone} of ${operation.devicesTotal} devices`,
    operation.state === OperationState.RUNNING && operation.bytesPerSecond > 0n && formatRate(operation.bytesPerSecond),
    operation.etaMs > 0n && `done in about ${formatDuration(operation.etaMs)}`,
    operation.blocksFound > 0n && `${operation.blocksFound} bad blocks, ${operation.blocksRepaired} repaired`,
    operation.blocksUnreadable > 0n && `${operation.blocksUnreadable} lost`,
  ];
  return parts.filter(Boolean).join(' · ');
}
