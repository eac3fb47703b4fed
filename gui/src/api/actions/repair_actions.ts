// Maintenance, drain, scrub, operations, and how copies are made.
import { OperationService, type Operation } from '../../gen/tessera/v1/operation_pb';
import { RepairService, type RepairSettings } from '../../gen/tessera/v1/repair_pb';
import { ScrubService, type ScrubSettings } from '../../gen/tessera/v1/scrub_pb';
import { TopologyService, type Device, type Sds, type StoragePool } from '../../gen/tessera/v1/topology_pb';
import { commandDuration, exactDuration, exactSize } from '../../components/format';
import { tessera } from '../commands';
import { call, durationOf, isChecked, numberOf, optionalSize, sizeOf, type Action } from './action';

const methods = RepairService.method;

export function enterMaintenance(sds: Sds): Action {
  return {
    title: `Maintenance of ${sds.name}`, submit: 'Enter maintenance', done: `${sds.name} is in maintenance`,
    method: methods.enterMaintenance, intro: 'Until then the server may be away without a rebuild, and gets no new data.',
    fields: [
      { name: 'duration', label: 'For', kind: 'duration', required: true, initial: '1h', hint: '1s to 7d', requestFields: ['duration_ms'] },
      { name: 'reason', label: 'Why', kind: 'text' },
      { name: 'force', label: 'Although data could not be used meanwhile', kind: 'checkbox' },
    ],
    build(values) {
      const durationMs = durationOf(values, 'duration');
      const reason = (values['reason'] ?? '').trim();
      const force = isChecked(values, 'force');
      return [call(methods.enterMaintenance, { sdsId: sds.sdsId, durationMs: BigInt(durationMs), reason, force },
        tessera('sds', 'maintenance', 'enter', sds.name, '--for', commandDuration(durationMs),
          ...(reason ? ['--reason', reason] : []), ...(force ? ['--force'] : [])))];
    },
  };
}

export function exitMaintenance(sds: Sds): Action {
  return {
    title: `End maintenance of ${sds.name}`, submit: 'End maintenance', done: `Maintenance of ${sds.name} is over`,
    method: methods.exitMaintenance, fields: [],
    build: () => [call(methods.exitMaintenance, { sdsId: sds.sdsId }, tessera('sds', 'maintenance', 'exit', sds.name))],
  };
}

export function drainSds(sds: Sds): Action {
  return {
    title: `Drain ${sds.name}`, submit: 'Drain server', danger: true, done: `Draining ${sds.name}`, method: methods.startDrain,
    intro: 'Everything on its devices moves to other servers. It can be followed, and cancelled, under Operations.', fields: [],
    build: () => [call(methods.startDrain, { sdsId: sds.sdsId }, tessera('sds', 'drain', sds.name))],
  };
}

export function drainDevice(device: Device, label: string): Action {
  return {
    title: `Drain ${label}`, submit: 'Drain device', danger: true, done: `Draining ${label}`, method: methods.startDrain,
    intro: 'Everything on it moves to other devices. It can be followed, and cancelled, under Operations.', fields: [],
    build: () => [call(methods.startDrain, { deviceId: device.deviceId }, tessera('device', 'drain', device.deviceId))],
  };
}

export function removeDevice(device: Device, label: string): Action {
  return {
    title: `Remove ${label}`, submit: 'Remove device', danger: true, done: `${label} is removed`, method: methods.removeDevice,
    intro: 'A device that holds nothing leaves its pool, and joins none until it is assigned.', fields: [],
    build: () => [call(methods.removeDevice, { deviceId: device.deviceId }, tessera('device', 'remove', device.deviceId))],
  };
}

export function cancelOperation(operation: Operation): Action {
  return {
    title: `Cancel operation ${operation.operationId}`, submit: 'Cancel operation', danger: true, done: 'Operation cancelled',
    intro: `${operation.subject}. What has been done stays done.`, method: OperationService.method.cancelOperation, fields: [],
    build: () => [call(OperationService.method.cancelOperation, { operationId: operation.operationId },
      tessera('operation', 'cancel', operation.operationId))],
  };
}

export function changeRepairSettings(settings: RepairSettings): Action {
  return {
    title: 'How copies are made', submit: 'Save settings', done: 'Settings saved', method: methods.updateRepairSettings,
    fields: [
      { name: 'delay', label: 'A lost copy is made anew after', kind: 'duration', initial: exactDuration(settings.rebuildDelayMs),
        hint: '0s to 24h', requestFields: ['rebuild_delay_ms', 'settings.rebuild_delay_ms'] },
      { name: 'target', label: 'Placement groups copied onto a device at a time', kind: 'number',
        initial: String(settings.learnersPerTargetDevice), hint: '1 to 64',
        requestFields: ['learners_per_target_device', 'settings.learners_per_target_device'] },
      { name: 'source', label: 'Placement groups copied from a device at a time', kind: 'number',
        initial: String(settings.learnersPerSourceDevice), hint: '1 to 64',
        requestFields: ['learners_per_source_device', 'settings.learners_per_source_device'] },
      { name: 'moves', label: 'Of these, for rebalance', kind: 'number', initial: String(settings.rebalanceMovesPerDevice),
        hint: '1 to 64', requestFields: ['rebalance_moves_per_device', 'settings.rebalance_moves_per_device'] },
      { name: 'rate', label: 'Bytes a second for each server', kind: 'size', hint: 'Such as 100MiB; empty: no limit',
        initial: settings.bytesPerSecondPerServer ? exactSize(settings.bytesPerSecondPerServer) : '',
        requestFields: ['bytes_per_second_per_server', 'settings.bytes_per_second_per_server'] },
      { name: 'full', label: 'A device fuller than this (percent) gets nothing new', kind: 'number',
        initial: String(settings.fullPercent), hint: '50 to 95', requestFields: ['full_percent', 'settings.full_percent'] },
    ],
    build(values) {
      const delayMs = durationOf(values, 'delay');
      const [target, source, moves, full] = ['target', 'source', 'moves', 'full'].map((name) => numberOf(values, name));
      const rate = optionalSize(values, 'rate');
      return [call(methods.updateRepairSettings, {
        settings: {
          rebuildDelayMs: BigInt(delayMs), learnersPerTargetDevice: target, learnersPerSourceDevice: source,
          rebalanceMovesPerDevice: moves, bytesPerSecondPerServer: rate, fullPercent: full,
        },
        updateMask: { paths: ['rebuild_delay_ms', 'learners_per_target_device', 'learners_per_source_device',
          'rebalance_moves_per_device', 'bytes_per_second_per_server', 'full_percent'] },
      }, tessera('rebuild', 'settings', '--delay', commandDuration(delayMs), '--per-target', target, '--per-source', source,
        '--rebalance-per-device', moves, '--rate', exactSize(rate), '--full-percent', full))];
    },
  };
}

export function pauseCopies(what: 'rebuild' | 'rebalance', pause: boolean): Action {
  const verb = pause ? 'Pause' : 'Resume';
  const field = what === 'rebuild' ? 'rebuildPaused' : 'rebalancePaused';
  return {
    title: `${verb} ${what}`, submit: `${verb} ${what}`, done: `${what === 'rebuild' ? 'Rebuild' : 'Rebalance'} ${pause ? 'paused' : 'resumed'}`,
    danger: pause && what === 'rebuild', method: methods.updateRepairSettings, fields: [],
    intro: pause ? 'Nothing new begins; what has begun is finished.' : 'It goes on.',
    build: () => [call(methods.updateRepairSettings, {
      settings: { [field]: pause }, updateMask: { paths: [`${what}_paused`] },
    }, tessera(what, pause ? 'pause' : 'resume'))],
  };
}

export function scrubPool(pool: StoragePool): Action {
  return {
    title: `Scrub ${pool.name}`, submit: 'Start scrub', done: `Scrubbing ${pool.name}`, method: ScrubService.method.startScrub,
    intro: 'All copies are read and compared with their checksums and with each other; what is bad is repaired.',
    fields: [{ name: 'rate', label: 'Bytes a second for each device', kind: 'size', requestFields: ['bytes_per_second'],
      hint: 'Such as 64MiB; empty: as the pool is set' }],
    build(values) {
      const rate = optionalSize(values, 'rate');
      return [call(ScrubService.method.startScrub, { poolId: pool.poolId, bytesPerSecond: rate },
        tessera('scrub', 'start', '--pool', pool.name, ...(rate ? ['--rate', exactSize(rate)] : [])))];
    },
  };
}

export function scrubSchedule(pool: StoragePool, settings: ScrubSettings): Action {
  return {
    title: `Scrub schedule of ${pool.name}`, submit: 'Save schedule', done: 'Schedule saved',
    method: ScrubService.method.updateScrubSettings,
    fields: [
      { name: 'interval', label: 'Each device is gone through once in', kind: 'duration', required: true,
        initial: settings.intervalMs ? exactDuration(settings.intervalMs) : '0m', hint: 'Such as 7d; 0m: never by itself',
        requestFields: ['interval_ms', 'settings.interval_ms'] },
      { name: 'rate', label: 'Bytes a second for each device at most', kind: 'size', required: true,
        initial: exactSize(settings.bytesPerSecond), requestFields: ['bytes_per_second', 'settings.bytes_per_second'] },
    ],
    build(values) {
      const intervalMs = durationOf(values, 'interval');
      const rate = sizeOf(values, 'rate');
      return [call(ScrubService.method.updateScrubSettings, {
        settings: { poolId: pool.poolId, intervalMs: BigInt(intervalMs), bytesPerSecond: rate },
        updateMask: { paths: ['interval_ms', 'bytes_per_second'] },
      }, tessera('scrub', 'settings', '--pool', pool.name, '--interval', intervalMs ? commandDuration(intervalMs) : '0m',
        '--rate', exactSize(rate)))];
    },
  };
}

export function poolThresholds(pool: StoragePool): Action {
  const policy = pool.capacityPolicy;
  return {
    title: `Thresholds of ${pool.name}`, submit: 'Save thresholds', done: 'Thresholds saved',
    method: TopologyService.method.updateStoragePool,
    fields: [
      { name: 'warn', label: 'Warning from this percentage used', kind: 'number', initial: String(policy?.warnPercent || 80),
        requestFields: ['warn_percent', 'capacity_policy.warn_percent'] },
      { name: 'critical', label: 'Critical from', kind: 'number', initial: String(policy?.criticalPercent || 90),
        requestFields: ['critical_percent', 'capacity_policy.critical_percent'] },
      { name: 'overcommit', label: 'Over-commit at most (percent)', kind: 'number', hint: '100 or more; empty: no limit',
        initial: policy?.overcommitLimitPercent ? String(policy.overcommitLimitPercent) : '',
        requestFields: ['overcommit_limit_percent', 'capacity_policy.overcommit_limit_percent'] },
    ],
    build(values) {
      const [warnPercent, criticalPercent, overcommitLimitPercent] =
        ['warn', 'critical', 'overcommit'].map((name) => numberOf(values, name));
      return [call(TopologyService.method.updateStoragePool, {
        poolId: pool.poolId, capacityPolicy: { warnPercent, criticalPercent, overcommitLimitPercent },
        updateMask: { paths: ['capacity_policy.warn_percent', 'capacity_policy.critical_percent',
          'capacity_policy.overcommit_limit_percent'] },
      }, tessera('pool', 'set', pool.name, '--warn', warnPercent, '--critical', criticalPercent,
        '--overcommit-limit', overcommitLimitPercent))];
    },
  };
}
