// Snapshots, clones, rollback, deletion: of one volume or of several.
import { VolumeKind, VolumeService, type Volume } from '../../gen/tessera/v1/volume_pb';
import { commandDuration } from '../../components/format';
import { tessera } from '../commands';
import { FieldError } from '../errors';
import { call, durationOf, isChecked, required, type Action, type Field } from './action';

const methods = VolumeService.method;

/** At most this many volumes have one moment. */
const consistentLimit = 64;

/** "20261129T233107Z", for names. */
export function timestampName(ms: number): string {
  return new Date(ms).toISOString().replace(/[-:]/g, '').replace(/\.\d+/, '');
}

export function snapshotVolumes(volumes: readonly Volume[], nowMs: number): Action {
  const [only] = volumes;
  const single = volumes.length === 1 && only !== undefined;
  return {
    title: single ? `Snapshot of ${only.name}` : `Snapshots of ${volumes.length} volumes`,
    submit: single ? 'Create snapshot' : `Create ${volumes.length} snapshots`, done: 'Snapshot created',
    method: methods.createSnapshots,
    intro: single ? 'It keeps what the volume has at this moment, also while it is written.'
      : 'All are of one moment, and all or none are made.',
    fields: [single
      ? { name: 'name', label: 'Name', kind: 'text', required: true, initial: `${only.name}-${timestampName(nowMs)}`.slice(-63),
          requestFields: ['sources', 'snapshot_name', 'sources[0].snapshot_name', 'sources.snapshot_name'] }
      : { name: 'suffix', label: 'Each is named after its volume, with this at the end', kind: 'text', required: true,
          initial: `-${timestampName(nowMs)}`, requestFields: ['sources', 'snapshot_name'] }],
    build(values) {
      if (volumes.length > consistentLimit) {
        throw new FieldError('suffix', `At most ${consistentLimit} volumes have one moment; choose fewer.`);
      }
      const nameOf = single ? () => required(values, 'name', 'a name')
        : (volume: Volume) => `${volume.name}${required(values, 'suffix', 'an ending')}`;
      return [call(methods.createSnapshots, {
        sources: volumes.map((volume) => ({ volumeId: volume.volumeId, snapshotName: nameOf(volume) })),
      }, tessera('snapshot', 'create', ...volumes.slice(0, 1).flatMap((volume) => [volume.name, nameOf(volume)]),
        ...volumes.slice(1).flatMap((volume) => ['--also', `${volume.name}=${nameOf(volume)}`])))];
    },
  };
}

export function cloneSnapshot(snapshot: Volume): Action {
  return {
    title: `Clone of ${snapshot.name}`, submit: 'Create clone', done: 'Clone created', method: methods.cloneVolume,
    intro: 'A volume with the snapshot’s content, at once and without copying.',
    fields: [{ name: 'name', label: 'Name of the new volume', kind: 'text', required: true }],
    build(values) {
      const name = required(values, 'name', 'a name');
      return [call(methods.cloneVolume, { snapshotId: snapshot.volumeId, name },
        tessera('snapshot', 'clone', snapshot.name, name))];
    },
  };
}

export function rollbackVolume(volume: Volume, snapshots: readonly Volume[], chosen?: Volume): Action {
  return {
    title: `Roll ${volume.name} back`, submit: 'Roll back', danger: true, done: 'Volume rolled back',
    method: methods.rollbackVolume, typedName: volume.name,
    intro: 'The volume gets content and size of the snapshot. Only while nobody has it mapped.',
    fields: [
      { name: 'snapshot', label: 'To snapshot', kind: 'select', initial: chosen?.name,
        options: snapshots.map(({ name }) => ({ value: name, label: name })), requestFields: ['snapshot_name', 'snapshot_id'] },
      { name: 'unsafe', label: 'What the volume has now need not be kept as another snapshot', kind: 'checkbox' },
    ],
    build(values) {
      const name = required(values, 'snapshot', 'a snapshot');
      const unsafe = isChecked(values, 'unsafe');
      return [call(methods.rollbackVolume, { volumeId: volume.volumeId, snapshotName: name, noSafetySnapshot: unsafe },
        tessera('snapshot', 'rollback', volume.name, name, ...(unsafe ? ['--no-safety-snapshot'] : [])))];
    },
  };
}

const keepField: Field = {
  name: 'keep', label: 'Keep in the trash for', kind: 'duration', initial: '7d', requestFields: ['keep_ms'],
  hint: 'Until then it can be restored. 0s: it is gone at once',
};

export function deleteVolumes(volumes: readonly Volume[]): Action {
  const [only] = volumes;
  const single = volumes.length === 1 && only !== undefined;
  const what = single ? only.name : `${volumes.length} volumes`;
  return {
    title: `Delete ${what}`, submit: single ? 'Delete' : `Delete ${volumes.length} volumes`, danger: true,
    done: `Deleted ${what}`, method: methods.deleteVolume, typedName: what, fields: [keepField],
    intro: single ? 'Only while nobody has it mapped, and it has no snapshots.'
      : `${volumes.slice(0, 8).map(({ name }) => name).join(', ')}${volumes.length > 8 ? ', …' : ''}. `
        + 'Those that are mapped or have snapshots stay, and are named.',
    build(values) {
      const keepMs = durationOf(values, 'keep');
      return volumes.map((volume) => call(methods.deleteVolume, { volumeId: volume.volumeId, keepMs: BigInt(keepMs) },
        tessera(volume.kind === VolumeKind.SNAPSHOT ? 'snapshot' : 'volume', 'delete', volume.name,
          ...(keepMs > 0 ? ['--keep', commandDuration(keepMs)] : [])), volume.name));
    },
  };
}

export function restoreVolume(volume: Volume): Action {
  return {
    title: `Restore ${volume.name}`, submit: 'Restore', done: 'Volume restored', method: methods.restoreVolume,
    fields: [{ name: 'name', label: 'Name', kind: 'text', required: true, initial: volume.name }],
    build(values) {
      const name = required(values, 'name', 'a name');
      return [call(methods.restoreVolume, { volumeId: volume.volumeId, name: name === volume.name ? '' : name },
        tessera('volume', 'restore', volume.volumeId, ...(name === volume.name ? [] : ['--name', name])))];
    },
  };
}

export function purgeVolume(volume: Volume): Action {
  return {
    title: `Delete ${volume.name} for ever`, submit: 'Delete for ever', danger: true, done: `Deleted ${volume.name}`,
    method: methods.deleteVolume, typedName: volume.name, fields: [], intro: 'It leaves the trash, and nothing brings it back.',
    build: () => [call(methods.deleteVolume, { volumeId: volume.volumeId }, tessera('volume', 'delete', volume.volumeId))],
  };
}
