// Actions on one volume, and making one.
import type { Sdc, StoragePool } from '../../gen/tessera/v1/topology_pb';
import { MappingMode, Provisioning, VolumeService, type Volume, type VolumeMapping } from '../../gen/tessera/v1/volume_pb';
import { exactSize, formatBytes } from '../../components/format';
import { tessera } from '../commands';
import { call, isChecked, numberOf, optionalSize, required, sizeOf, type Action, type Field, type Values } from './action';

const methods = VolumeService.method;

function limitFields(iops = 0, bandwidth = 0n, burst = 0): Field[] {
  return [
    { name: 'iops', label: 'IO/s at most', kind: 'number', width: 'third', initial: iops ? String(iops) : '',
      hint: '10 or more; empty: no limit', requestFields: ['iops_limit', 'volume.iops_limit'] },
    { name: 'bandwidth', label: 'Bytes/s at most', kind: 'size', width: 'third', initial: bandwidth ? exactSize(bandwidth) : '',
      hint: '100MiB; empty: no limit', requestFields: ['bandwidth_limit_bytes', 'volume.bandwidth_limit_bytes'] },
    { name: 'burst', label: 'Burst in seconds', kind: 'number', width: 'third', initial: burst ? String(burst) : '',
      hint: 'That much is saved up; empty: 1', requestFields: ['burst_seconds', 'volume.burst_seconds'] },
  ];
}

function limitsOf(values: Values) {
  return { iops: numberOf(values, 'iops'), bandwidth: optionalSize(values, 'bandwidth'), burst: numberOf(values, 'burst') };
}

function limitWords({ iops, bandwidth, burst }: ReturnType<typeof limitsOf>): (string | number)[] {
  return [
    ...(iops ? ['--iops', iops] : []), ...(bandwidth ? ['--bandwidth', exactSize(bandwidth)] : []),
    ...(burst ? ['--burst', burst] : []),
  ];
}

export function createVolume(pools: readonly StoragePool[]): Action {
  return {
    title: 'Create a volume', submit: 'Create volume', done: 'Volume created', method: methods.createVolume,
    fields: [
      { name: 'name', label: 'Name', kind: 'text', required: true, hint: '1 to 63 of a-z, A-Z, 0-9, “-”, “_”, “.”' },
      { name: 'size', label: 'Size', kind: 'size', required: true, width: 'half', hint: 'Such as 10GiB', requestFields: ['size_bytes'] },
      { name: 'provisioning', label: 'Space', kind: 'select', width: 'half',
        options: [{ value: 'thin', label: 'Thin: when written' }, { value: 'thick', label: 'Thick: set aside' }] },
      { name: 'pool', label: 'Pool', kind: 'select', requestFields: ['pool_name', 'pool_id'],
        options: pools.map(({ name, replicaCount, capacity }) => ({
          value: name,
          label: `${name} (${replicaCount} copies, ${formatBytes(capacity?.availableBytes ?? 0n)} available)`,
        })) },
      ...limitFields(),
    ],
    build(values) {
      const name = required(values, 'name', 'a name');
      const size = sizeOf(values, 'size');
      const thick = values['provisioning'] === 'thick';
      const limits = limitsOf(values);
      const pool = values['pool'] || undefined;
      return [call(methods.createVolume, {
        name, sizeBytes: size, poolName: pool ?? '', provisioning: thick ? Provisioning.THICK : Provisioning.THIN,
        iopsLimit: limits.iops, bandwidthLimitBytes: limits.bandwidth, burstSeconds: limits.burst,
      }, tessera('volume', 'create', name, '--size', exactSize(size), ...(pool ? ['--pool', pool] : []),
        ...(thick ? ['--thick'] : []), ...limitWords(limits)))];
    },
  };
}

export function mapVolume(volume: Volume, clients: readonly Sdc[]): Action {
  return {
    title: `Map ${volume.name}`, submit: 'Map volume', done: 'Volume mapped', method: methods.mapVolume,
    intro: 'The client offers the volume over NBD when this is done.',
    fields: [
      { name: 'client', label: 'Client', kind: 'select', width: 'half', requestFields: ['sdc_name', 'sdc_id'],
        options: clients.map(({ name }) => ({ value: name, label: name })) },
      { name: 'mode', label: 'Mode', kind: 'select', width: 'half', options: [
        { value: 'write', label: 'Read and write, one client' },
        { value: 'read', label: 'Read only, any number of clients' },
        { value: 'shared', label: 'Shared: several clients read and write' }] },
      ...limitFields(),
    ],
    build(values) {
      const client = required(values, 'client', 'a client');
      const mode = values['mode'] ?? 'write';
      const limits = limitsOf(values);
      return [call(methods.mapVolume, {
        volumeId: volume.volumeId, sdcName: client,
        mode: mode === 'read' ? MappingMode.READ_ONLY : mode === 'shared' ? MappingMode.SHARED : MappingMode.READ_WRITE,
        iopsLimit: limits.iops, bandwidthLimitBytes: limits.bandwidth, burstSeconds: limits.burst,
      }, tessera('volume', 'map', volume.name, '--sdc', client, ...(mode === 'read' ? ['--read-only'] : []),
        ...(mode === 'shared' ? ['--shared'] : []), ...limitWords(limits)))];
    },
  };
}

export function unmapVolume(volume: Volume, mapping: VolumeMapping): Action {
  return {
    title: `Unmap ${volume.name} from ${mapping.sdcName}`, submit: 'Unmap volume', danger: true, done: 'Volume unmapped',
    method: methods.unmapVolume,
    intro: 'The client loses the volume at once. When this is done, no IO of it can land any more.',
    fields: [{ name: 'force', label: 'The client is gone: do not ask it first', kind: 'checkbox' }],
    build: (values) => [call(methods.unmapVolume, {
      volumeId: volume.volumeId, sdcId: mapping.sdcId, force: isChecked(values, 'force'),
    }, tessera('volume', 'unmap', volume.name, '--sdc', mapping.sdcName, ...(isChecked(values, 'force') ? ['--force'] : [])))],
  };
}

export function resizeVolume(volume: Volume): Action {
  return {
    title: `Resize ${volume.name}`, submit: 'Resize volume', done: 'Volume resized', method: methods.updateVolume,
    intro: `It has ${formatBytes(volume.sizeBytes)} now.`,
    fields: [
      { name: 'size', label: 'New size', kind: 'size', required: true, initial: exactSize(volume.sizeBytes),
        requestFields: ['size_bytes', 'volume.size_bytes'] },
      { name: 'shrink', label: 'Shrink: what lies beyond a smaller size is lost for ever', kind: 'checkbox',
        requestFields: ['allow_shrink'] },
    ],
    build(values) {
      const size = sizeOf(values, 'size');
      const shrink = isChecked(values, 'shrink');
      return [call(methods.updateVolume, {
        volumeId: volume.volumeId, volume: { sizeBytes: size }, updateMask: { paths: ['size_bytes'] }, allowShrink: shrink,
      }, tessera('volume', 'resize', volume.name, '--size', exactSize(size), ...(shrink ? ['--shrink'] : [])))];
    },
  };
}

export function limitVolume(volume: Volume): Action {
  return {
    title: `Limits of ${volume.name}`, submit: 'Set limits', done: 'Limits set', method: methods.updateVolume,
    intro: 'They hold for all clients of the volume together.',
    fields: limitFields(volume.iopsLimit, volume.bandwidthLimitBytes, volume.burstSeconds),
    build(values) {
      const { iops, bandwidth, burst } = limitsOf(values);
      return [call(methods.updateVolume, {
        volumeId: volume.volumeId,
        volume: { iopsLimit: iops, bandwidthLimitBytes: bandwidth, burstSeconds: burst },
        updateMask: { paths: ['iops_limit', 'bandwidth_limit_bytes', ...(burst ? ['burst_seconds'] : [])] },
      }, tessera('volume', 'update', volume.name, '--iops', iops, '--bandwidth', exactSize(bandwidth),
        ...(burst ? ['--burst', burst] : [])))];
    },
  };
}

export function renameVolume(volume: Volume): Action {
  return {
    title: `Rename ${volume.name}`, submit: 'Rename volume', done: 'Volume renamed', method: methods.updateVolume,
    intro: 'Only while nobody has it mapped, because clients offer it by its name.',
    fields: [{ name: 'name', label: 'New name', kind: 'text', required: true, initial: volume.name,
      requestFields: ['name', 'volume.name'] }],
    build(values) {
      const name = required(values, 'name', 'a name');
      return [call(methods.updateVolume, {
        volumeId: volume.volumeId, volume: { name }, updateMask: { paths: ['name'] },
      }, tessera('volume', 'rename', volume.name, name))];
    },
  };
}
