// A volume's relatives as a tree: its snapshots, their clones, theirs.
import type { ComponentChildren } from 'preact';
import { VolumeKind, type Volume } from '../gen/tessera/v1/volume_pb';
import { descendantsOf, type TreeNode } from '../store/family';
import { linkTo } from '../store/router';
import { Age, Badge, Empty } from './basics';
import { formatBytes } from './format';

export function SnapshotTree({ volume, family, actions }: {
  volume: Volume; family: readonly Volume[]; actions?: (snapshot: Volume) => ComponentChildren;
}) {
  const nodes = descendantsOf(volume, family);
  if (nodes.length === 0) return <Empty title="It has no snapshots." />;
  return <Branch nodes={nodes} label={`Snapshots of ${volume.name}`} actions={(one) => one.parentId === volume.volumeId ? actions?.(one) : null} />;
}

function Branch({ nodes, label, actions }: { nodes: TreeNode[]; label?: string; actions(snapshot: Volume): ComponentChildren }) {
  return (
    <ul class="tree" aria-label={label}>
      {nodes.map(({ volume, children }) => (
        <li key={String(volume.volumeId)}>
          <span class="tree-row">
            <Badge tone={volume.kind === VolumeKind.SNAPSHOT ? 'info' : 'neutral'} letter={volume.kind === VolumeKind.SNAPSHOT ? 'S' : 'C'}>
              {volume.kind === VolumeKind.SNAPSHOT ? 'snapshot' : 'clone'}</Badge>
            <a href={linkTo(['volumes', volume.volumeId])}>{volume.name}</a>
            <span class="muted">{formatBytes(volume.sizeBytes)}, <Age ms={volume.createdMs} /></span>
            {actions(volume)}
          </span>
          {children.length > 0 && <Branch nodes={children} actions={actions} />}
        </li>
      ))}
    </ul>
  );
}
