// What can be done with one volume: the likely things as buttons in its row.
import { cloneSnapshot, deleteVolumes, snapshotVolumes } from '../api/actions/snapshot_actions';
import { mapVolume, resizeVolume } from '../api/actions/volume_actions';
import type { Sdc } from '../gen/tessera/v1/topology_pb';
import { VolumeKind, VolumeService, type Volume } from '../gen/tessera/v1/volume_pb';
import { serverNow } from '../store/clock';
import { ActionButton } from './ActionButton';

const methods = VolumeService.method;

export function VolumeMenu({ volume, clients }: { volume: Volume; clients: readonly Sdc[] }) {
  const mapped = volume.mappings.length > 0;
  return (
    <span class="row-actions">
      {volume.kind === VolumeKind.SNAPSHOT
        ? <ActionButton quiet method={methods.cloneVolume} action={() => cloneSnapshot(volume)} label={`Clone ${volume.name}`}>Clone</ActionButton>
        : (
          <>
            <ActionButton quiet method={methods.mapVolume} action={() => mapVolume(volume, clients)} label={`Map ${volume.name}`}>Map</ActionButton>
            <ActionButton quiet method={methods.createSnapshots} action={() => snapshotVolumes([volume], serverNow())}
              label={`Snapshot of ${volume.name}`}>Snapshot</ActionButton>
            <ActionButton quiet method={methods.updateVolume} action={() => resizeVolume(volume)} label={`Resize ${volume.name}`}>Resize</ActionButton>
          </>
        )}
      <ActionButton quiet method={methods.deleteVolume} action={() => deleteVolumes([volume])} disabled={mapped} why="Unmap it first"
        label={`Delete ${volume.name}`}>Delete</ActionButton>
    </span>
  );
}
