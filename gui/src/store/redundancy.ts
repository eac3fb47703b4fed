// Where redundancy is at risk, read off the placement groups. Pure.
import { ReplicaRole, type PlacementGroup } from '../gen/tessera/v1/placement_pb';

export type GroupState = 'ok' | 'warning' | 'error';

/** One placement group: all copies, some missing, or a single one left where more are wanted. */
export function groupState(group: PlacementGroup, replicaCount: number): GroupState {
  const inSync = group.replicas.filter(({ role }) => role === ReplicaRole.IN_SYNC).length;
  if (inSync >= replicaCount) return 'ok';
  return inSync <= 1 ? 'error' : 'warning';
}

/** For each server the number of placement groups of which it has the only copy in sync. */
export function lastCopies(groups: readonly PlacementGroup[], replicaCount: number): Map<bigint, number> {
  const found = new Map<bigint, number>();
  if (replicaCount < 2) return found;
  for (const { replicas } of groups) {
    const inSync = replicas.filter(({ role }) => role === ReplicaRole.IN_SYNC);
    const only = inSync[0];
    if (inSync.length === 1 && only) found.set(only.sdsId, (found.get(only.sdsId) ?? 0) + 1);
  }
  return found;
}

/** "12: in sync on 3, 4; catching up on 5". */
export function groupInWords(group: PlacementGroup): string {
  const on = (role: ReplicaRole) => group.replicas.filter((one) => one.role === role).map(({ deviceId }) => deviceId).join(', ');
  const parts = [
    ['in sync on device', on(ReplicaRole.IN_SYNC)], ['catching up on', on(ReplicaRole.LEARNER)],
    ['out of date on', on(ReplicaRole.OUT_OF_SYNC)],
  ].filter(([, devices]) => devices);
  return `Placement group ${group.placementGroupId & 0xffffn}: ${parts.map((part) => part.join(' ')).join('; ')}`;
}
