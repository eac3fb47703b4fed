// Every action of the console with a filled-in form, and every question.
import { create } from '@bufbuild/protobuf';
import type { Action, Call, Values } from '../../src/api/actions/action';
import { explainLatency, latencyOperations, latencyWindows } from '../../src/api/actions/latency_question';
import * as people from '../../src/api/actions/people_actions';
import * as repair from '../../src/api/actions/repair_actions';
import * as schedule from '../../src/api/actions/schedule_actions';
import * as snapshot from '../../src/api/actions/snapshot_actions';
import * as volume from '../../src/api/actions/volume_actions';
import { Role } from '../../src/gen/tessera/v1/access_pb';
import { AlertSchema, SilenceSchema } from '../../src/gen/tessera/v1/alert_pb';
import { ApiTokenSchema, SessionSchema, UserSchema } from '../../src/gen/tessera/v1/auth_pb';
import { OperationSchema } from '../../src/gen/tessera/v1/operation_pb';
import { RepairSettingsSchema } from '../../src/gen/tessera/v1/repair_pb';
import { SnapshotScheduleSchema } from '../../src/gen/tessera/v1/schedule_pb';
import { ScrubSettingsSchema } from '../../src/gen/tessera/v1/scrub_pb';
import { DeviceSchema, SdcSchema, SdsSchema, StoragePoolSchema } from '../../src/gen/tessera/v1/topology_pb';
import { VolumeKind, VolumeMappingSchema, VolumeSchema } from '../../src/gen/tessera/v1/volume_pb';

const one = create(VolumeSchema, { volumeId: 7n, name: 'db-main', sizeBytes: 10n << 30n });
const two = create(VolumeSchema, { volumeId: 8n, name: 'mail', sizeBytes: 10n << 30n });
const shot = create(VolumeSchema, { volumeId: 9n, name: 'db-main-1', kind: VolumeKind.SNAPSHOT, parentId: 7n });
const sds = create(SdsSchema, { sdsId: 3n, name: 'sds3' });
const pool = create(StoragePoolSchema, { poolId: 1n, name: 'pool1', replicaCount: 2 });
const device = create(DeviceSchema, { deviceId: 5n });
const user = create(UserSchema, { userId: 2n, userName: 'otto', role: Role.OPERATOR });
const plan = create(SnapshotScheduleSchema, { scheduleId: 4n, name: 'nightly' });
const limits = { iops: '5000', bandwidth: '200MiB', burst: '3' };

export const samples: [Action, Values][] = [
  [volume.createVolume([pool]), { name: 'new', size: '10GiB' }],
  [volume.createVolume([pool]), { name: 'new', size: '1.5TiB', provisioning: 'thick', ...limits }],
  [volume.mapVolume(one, [create(SdcSchema, { sdcId: 1n, name: 'sdc1' })]), { mode: 'read', ...limits }],
  [volume.mapVolume(one, [create(SdcSchema, { sdcId: 1n, name: 'sdc1' })]), { mode: 'shared' }],
  [volume.unmapVolume(one, create(VolumeMappingSchema, { sdcId: 1n, sdcName: 'sdc1' })), { force: 'yes' }],
  [volume.resizeVolume(one), { size: '5GiB', shrink: 'yes' }],
  [volume.limitVolume(one), limits],
  [volume.limitVolume(one), {}],
  [volume.renameVolume(one), { name: 'db-old' }],
  [snapshot.snapshotVolumes([one], 1_796_000_000_000), {}],
  [snapshot.snapshotVolumes([one, two], 1_796_000_000_000), {}],
  [snapshot.cloneSnapshot(shot), { name: 'copy' }],
  [snapshot.rollbackVolume(one, [shot]), {}],
  [snapshot.rollbackVolume(one, [shot], shot), { unsafe: 'yes' }],
  [snapshot.deleteVolumes([one]), { keep: '7d' }],
  [snapshot.deleteVolumes([shot]), { keep: '0s' }],
  [snapshot.deleteVolumes([one, two]), { keep: '12h' }],
  [snapshot.restoreVolume(one), { name: 'db-main' }],
  [snapshot.restoreVolume(one), { name: 'db-again' }],
  [snapshot.purgeVolume(one), {}],
  [repair.enterMaintenance(sds), { duration: '90m', reason: 'new power supply', force: 'yes' }],
  [repair.exitMaintenance(sds), {}],
  [repair.drainSds(sds), {}],
  [repair.drainDevice(device, 'device 5'), {}],
  [repair.removeDevice(device, 'device 5'), {}],
  [repair.cancelOperation(create(OperationSchema, { operationId: 11n })), {}],
  [repair.changeRepairSettings(create(RepairSettingsSchema, { rebuildDelayMs: 600_000n, learnersPerTargetDevice: 4, learnersPerSourceDevice: 4, rebalanceMovesPerDevice: 1, fullPercent: 85 })), { rate: '100MiB' }],
  [repair.pauseCopies('rebuild', true), {}], [repair.pauseCopies('rebuild', false), {}],
  [repair.pauseCopies('rebalance', true), {}], [repair.pauseCopies('rebalance', false), {}],
  [repair.scrubPool(pool), { rate: '64MiB' }],
  [repair.scrubSchedule(pool, create(ScrubSettingsSchema, { poolId: 1n, intervalMs: 604_800_000n, bytesPerSecond: 67_108_864n })), {}],
  [repair.scrubSchedule(pool, create(ScrubSettingsSchema, { poolId: 1n, intervalMs: 0n, bytesPerSecond: 67_108_864n })), {}],
  [repair.poolThresholds(pool), { overcommit: '300' }],
  [schedule.createSchedule([one, two]), { name: 'hourly', volumes: 'db-main, mail', label: 'team=orders', weekly: '4', consistent: 'yes' }],
  [schedule.pauseSchedule(plan), {}], [schedule.pauseSchedule(create(SnapshotScheduleSchema, { ...plan, paused: true })), {}],
  [schedule.runSchedule(plan), {}], [schedule.deleteSchedule(plan), {}],
  [people.createUser(), { userName: 'eve' }], [people.createUser(), { userName: 'eve.b-1', role: String(Role.ADMIN) }],
  [people.changeRole(user), { role: String(Role.VIEWER) }], [people.changeRole(user), {}],
  [people.lockUser(user), {}], [people.lockUser(create(UserSchema, { ...user, locked: true })), {}],
  [people.resetPassword(user), {}], [people.deleteUser(user), {}],
  [people.endSession(create(SessionSchema, { sessionId: 3n, userName: 'otto' })), {}],
  [people.createToken(Role.OPERATOR), { description: 'nightly report' }],
  [people.createToken(Role.ADMIN), { description: '-o json of Otto’s', role: String(Role.ADMIN), lifetime: '90m' }],
  [people.revokeToken(create(ApiTokenSchema, { apiTokenId: 2n, description: 'nightly report' })), {}],
  [people.acknowledgeAlert(create(AlertSchema, { alertId: 12n, summary: 'SDS sds3 does not answer' })), { comment: 'on it' }],
  [people.acknowledgeAlert(create(AlertSchema, { alertId: 12n })), {}],
  [people.createSilence('part-down', 'sds/3'), { comment: 'moving racks' }],
  [people.createSilence('part-down'), { comment: '-- until Monday', duration: '3d' }], [people.createSilence('', 'sds/3'), { comment: 'new disks', duration: '90s' }],
  [people.deleteSilence(create(SilenceSchema, { silenceId: 2n })), {}],
  [people.reloadRules(), {}],
];

/** Every question that a page asks by itself and shows as commands. */
export const questions: Call[] = latencyWindows.flatMap(({ windowS }) => latencyOperations.map(({ operation }) => explainLatency(one, { windowS, operation })));
