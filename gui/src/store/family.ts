// Who descends from whom among volumes, snapshots and clones. Pure.
import type { Volume } from '../gen/tessera/v1/volume_pb';

export interface TreeNode {
  volume: Volume;
  children: TreeNode[];
}

/** All that descend from `root`, oldest first. */
export function descendantsOf(root: Volume, family: readonly Volume[]): TreeNode[] {
  const byParent = new Map<bigint, Volume[]>();
  for (const volume of family) {
    if (volume.parentId === 0n) continue;
    const siblings = byParent.get(volume.parentId) ?? [];
    siblings.push(volume);
    byParent.set(volume.parentId, siblings);
  }
  const below = (id: bigint, seen: ReadonlySet<bigint>): TreeNode[] => (byParent.get(id) ?? [])
    .filter(({ volumeId }) => !seen.has(volumeId))
    .sort((a, b) => Number(a.createdMs - b.createdMs))
    .map((volume) => ({ volume, children: below(volume.volumeId, new Set([...seen, volume.volumeId])) }));
  return below(root.volumeId, new Set([root.volumeId]));
}
