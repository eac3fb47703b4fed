// What the double of MGMT and MDM knows: a small cluster, with knobs that tests turn.
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { AlertSchema, AlertSeverity, AlertState, type Alert } from '../../src/gen/tessera/v1/alert_pb';
import { Role } from '../../src/gen/tessera/v1/access_pb';
import { UserSchema, type User } from '../../src/gen/tessera/v1/auth_pb';
import { GetOverviewResponseSchema, type GetOverviewResponse } from '../../src/gen/tessera/v1/console_pb';
import { OperationKind, OperationSchema, OperationState, type Operation } from '../../src/gen/tessera/v1/operation_pb';
import { PlacementGroupSchema, ReplicaRole, type PlacementGroup } from '../../src/gen/tessera/v1/placement_pb';
import { RepairSettingsSchema } from '../../src/gen/tessera/v1/repair_pb';
import { CapacityState, DeviceUse, RedundancyState, TopologySchema, type Topology } from '../../src/gen/tessera/v1/topology_pb';
import { ComponentKind, ComponentState } from '../../src/gen/tessera/v1/types_pb';
import { MappingMode, VolumeKind, VolumeSchema, type Volume } from '../../src/gen/tessera/v1/volume_pb';

const gib = 1n << 30n;
export const ms = (ago = 0) => BigInt(Date.now() - ago);

const kinds = { servers: 5, groups: 64 };

export class World {
  users: (User & { password: string })[] = [];
  volumes: Volume[] = [];
  alerts: Alert[] = [];
  operations: Operation[] = [];
  groups: PlacementGroup[] = [];
  repair = create(RepairSettingsSchema, { rebuildDelayMs: 600_000n, learnersPerTargetDevice: 4, learnersPerSourceDevice: 4,
    rebalanceMovesPerDevice: 1, fullPercent: 85 });
  serverStates = new Map<bigint, ComponentState>();
  mdmAnswers = true;
  /** Volumes by name that are mapped, and that nobody reads or writes. */
  idleVolumes = new Set(['mail']);
  /** Clients that say nothing of what requests take. */
  silentClients = new Set<bigint>();
  private nextId = 100n;

  constructor() {
    this.addUser('ada', 'correct horse', Role.ADMIN);
    this.addUser('otto', 'correct horse', Role.OPERATOR);
    this.addUser('vera', 'correct horse', Role.VIEWER);
    for (let id = 1n; id <= BigInt(kinds.servers); id += 1n) this.serverStates.set(id, ComponentState.ONLINE);
    for (let index = 0; index < kinds.groups; index += 1) this.groups.push(this.group(index));
    this.fill();
  }

  addUser(userName: string, password: string, role: Role, passwordChangeRequired = false): User {
    const user = create(UserSchema, { userId: BigInt(this.users.length + 1), userName, role, passwordChangeRequired,
      createdMs: ms(9e8), lastSignInMs: ms(4e6) });
    this.users.push(Object.assign(user, { password }));
    return user;
  }

  newId(): bigint {
    this.nextId += 1n;
    return this.nextId;
  }

  addVolume(init: MessageInitShape<typeof VolumeSchema> & { name: string }): Volume {
    const id = this.newId();
    const volume = create(VolumeSchema, { volumeId: id, vtreeId: id, poolId: 1n, poolName: 'pool1', sizeBytes: 10n * gib, chunkBytes: 1 << 20,
      createdMs: ms(), kind: VolumeKind.VOLUME, generation: 1n, ...init } as MessageInitShape<typeof VolumeSchema>);
    this.volumes.push(volume);
    return volume;
  }

  map(volume: Volume, sdcId: bigint, mode = MappingMode.READ_WRITE): void {
    volume.mappings.push({ $typeName: 'tessera.v1.VolumeMapping', volumeId: volume.volumeId, volumeName: volume.name, sdcId, sdcName: `sdc${sdcId}`, mode,
      attached: true, nbdUris: [`nbd://192.0.2.${sdcId}:10809/${volume.name}`, `nbd+unix:///${volume.name}?socket=/run/tessera/nbd.sock`],
      iopsLimit: 0, bandwidthLimitBytes: 0n, burstSeconds: 0, writer: false });
  }

  raise(severity: AlertSeverity, rule: string, subject: string, summary: string, remedy: string, ago = 60_000, detail = ''): Alert {
    const alert = create(AlertSchema, { alertId: this.newId(), rule, subject, subjectName: subject, severity, state: AlertState.ACTIVE,
      summary, detail, remedy, raisedMs: ms(ago), lastSeenMs: ms() });
    this.alerts.push(alert);
    return alert;
  }

  private group(index: number): PlacementGroup {
    const devices = kinds.servers * 2;
    const first = BigInt((index * 7) % devices) + 1n;
    const second = ((first + 1n + BigInt(index % 4) * 2n) % BigInt(devices)) + 1n;
    return create(PlacementGroupSchema, { placementGroupId: 65536n + BigInt(index), epoch: 1n,
      replicas: [first, second].map((deviceId) => ({ deviceId, sdsId: (deviceId + 1n) / 2n, role: ReplicaRole.IN_SYNC })) });
  }

  private fill(): void {
    const names = ['db-main', 'db-replica', 'mail', 'web-assets', 'ci-cache', 'vm-alpine-01', 'vm-alpine-02', 'backup-staging', 'registry', 'metrics'];
    names.forEach((name, index) => {
      const volume = this.addVolume({ name, sizeBytes: BigInt(2 + index * 6) * gib, createdMs: ms(8.64e7 * (index + 1)),
        ...(index === 0 ? { iopsLimit: 5000, bandwidthLimitBytes: 200n << 20n, labels: { team: 'orders' } } : {}) });
      if (index < 6) this.map(volume, BigInt(1 + (index % 2)));
    });
    const main = this.volumes[0];
    if (!main) return;
    for (let day = 3; day > 0; day -= 1) {
      const snapshot = this.addVolume({ name: `db-main-nightly-${day}`, kind: VolumeKind.SNAPSHOT, parentId: main.volumeId, parentName: main.name,
        sizeBytes: main.sizeBytes, createdMs: ms(8.64e7 * day) });
      if (day === 2) this.addVolume({ name: 'db-test', parentId: snapshot.volumeId, parentName: snapshot.name, sizeBytes: main.sizeBytes, createdMs: ms(9e7) });
    }
  }

  /** Server 3 is gone: its copies are missing, an alert is up, a rebuild runs. */
  degrade(): void {
    this.serverStates.set(3n, ComponentState.OFFLINE);
    for (const group of this.groups) {
      for (const replica of group.replicas) if (replica.sdsId === 3n) replica.role = ReplicaRole.OUT_OF_SYNC;
    }
    this.raise(AlertSeverity.ERROR, 'part-down', 'sds/3', 'SDS sds3 does not answer', 'Look at whether its process and host run; start it again.', 95_000,
      'Last heard of 2 minutes ago. 26 placement groups have one copy left.');
    this.raise(AlertSeverity.WARNING, 'pool-filling', 'pool/1', 'Pool pool1 is full in about 9 days', 'Add devices, or delete what is not needed.', 7.2e6,
      'It grew by 38 GiB a day over the last week.');
    this.operations.push(create(OperationSchema, { operationId: this.newId(), kind: OperationKind.REBUILD, state: OperationState.RUNNING,
      subject: 'device 5 of sds3', poolId: 1n, sdsId: 3n, deviceId: 5n, startedMs: ms(80_000), placementGroupsDone: 9, placementGroupsTotal: 26,
      placementGroupsRunning: 4, bytesDone: 41n * gib, bytesTotal: 118n * gib, bytesPerSecond: 310n << 20n, etaMs: 260_000n }));
    for (let i = 1; i < 4; i += 1) {
      this.operations.push(create(OperationSchema, { operationId: this.newId(), kind: OperationKind.SCRUB, state: OperationState.SUCCEEDED,
        subject: 'pool pool1', poolId: 1n, startedMs: ms(8.64e7 * i + 3e6), endedMs: ms(8.64e7 * i), bytesDone: 310n * gib, bytesTotal: 310n * gib,
        devicesDone: 10, devicesTotal: 10 }));
    }
  }

  active(): Alert[] {
    return this.alerts.filter(({ state }) => state !== AlertState.RESOLVED).sort((a, b) => b.severity - a.severity);
  }

  overview(): GetOverviewResponse {
    const wave = (scale: number) => scale * (1 + 0.2 * Math.sin(Date.now() / 20_000));
    const worst = this.active()[0];
    const missing = [...this.serverStates.values()].some((state) => state !== ComponentState.ONLINE);
    const component = (kind: ComponentKind, componentId: bigint, name: string, state = ComponentState.ONLINE) => {
      const answers = state === ComponentState.ONLINE && (kind !== ComponentKind.MDM || this.mdmAnswers);
      return { kind, componentId, name, state, answers, lastAnswerMs: ms(answers ? 1000 : 120_000), pollError: answers ? '' : 'deadline exceeded after 2 s', pollMicros: 900n,
        softwareVersion: '1.0.0', uptimeMs: 3_000_000n, address: `192.0.2.${componentId}:7000` };
    };
    return create(GetOverviewResponseSchema, {
      verdict: worst ? `${worst.summary}. All data can be read and written.` : 'All data has its copies. 5 servers, 2 clients.',
      worst: worst?.severity ?? AlertSeverity.UNSPECIFIED, clusterName: 'amber', polledMs: ms(2000), nowMs: ms(), mdmAnswers: this.mdmAnswers, mdmAnsweredMs: ms(this.mdmAnswers ? 2000 : 65_000),
      figures: {
        capacityBytes: 9600n * gib, usedBytes: 5210n * gib, provisionedBytes: 7400n * gib, volumes: BigInt(this.volumes.filter(({ kind }) => kind !== VolumeKind.SNAPSHOT).length),
        snapshots: BigInt(this.volumes.filter(({ kind }) => kind === VolumeKind.SNAPSHOT).length), volumesHealthy: 8n, volumesDegraded: missing ? 6n : 0n,
        readsPerSecond: wave(11_400), writesPerSecond: wave(4200), readBytesPerSecond: wave(180e6), writeBytesPerSecond: wave(66e6),
        readLatencyP50Micros: 310n, readLatencyP99Micros: 1840n, writeLatencyP50Micros: 620n, writeLatencyP99Micros: 3900n,
        rebuildRemainingBytes: missing ? 77n * gib : 0n,
      },
      components: [
        component(ComponentKind.MDM, 1n, 'mdm'), component(ComponentKind.MGMT, 1n, 'mgmt'),
        ...[...this.serverStates].map(([id, state]) => component(ComponentKind.SDS, id, `sds${id}`, state)),
        component(ComponentKind.SDC, 1n, 'sdc1'), component(ComponentKind.SDC, 2n, 'sdc2'),
      ],
      alerts: this.active(), operations: this.operations.filter(({ state }) => state === OperationState.RUNNING),
    });
  }

  topology(): Topology {
    const devicesOf = (sdsId: bigint) => [sdsId * 2n - 1n, sdsId * 2n].map((deviceId) => ({
      deviceId, sdsId, poolId: 1n, use: DeviceUse.NORMAL, state: this.serverStates.get(sdsId) ?? ComponentState.ONLINE,
      placementGroups: this.groups.filter(({ replicas }) => replicas.some((replica) => replica.deviceId === deviceId)).length,
      description: { path: `/dev/nvme${deviceId % 2n}n1`, deviceUuid: `5d0c7a1e-0000-4000-8000-00000000000${deviceId % 10n}`, capacityBytes: 960n * gib,
        usedBytes: (420n + 23n * deviceId) * gib },
    }));
    const sdss = [...this.serverStates].map(([sdsId, state]) => ({
      sdsId, name: `sds${sdsId}`, protectionDomainId: 1n, faultSetId: sdsId <= 4n ? (sdsId + 1n) / 2n : 0n, state, softwareVersion: '1.0.0',
      endpoints: { data: `192.0.2.${sdsId}:7100`, management: `192.0.2.${sdsId}:7000` }, lastHeartbeatMs: ms(state === ComponentState.ONLINE ? 1200 : 120_000), devices: devicesOf(sdsId),
    }));
    const missing = sdss.some(({ state }) => state !== ComponentState.ONLINE);
    const volumes = this.volumes.map((volume) => ({ volume, replicas: sdss.flatMap(({ devices, state }) => devices.map(({ deviceId, sdsId, placementGroups }) => ({
      deviceId, sdsId, inSync: state === ComponentState.ONLINE ? placementGroups : 0, outOfSync: state === ComponentState.ONLINE ? 0 : placementGroups, learning: 0 }))) }));
    return create(TopologySchema, {
      clusterUuid: '6f5c8d1e-8c5b-4c4b-9d35-0a51c1a0a001', version: 7n,
      protectionDomains: [{
        protectionDomain: { protectionDomainId: 1n, name: 'domain1' },
        faultSets: [{ faultSetId: 1n, protectionDomainId: 1n, name: 'rack-a' }, { faultSetId: 2n, protectionDomainId: 1n, name: 'rack-b' }],
        sdss, pools: [{ volumes, devices: sdss.flatMap(({ devices }) => devices), pool: {
          poolId: 1n, protectionDomainId: 1n, name: 'pool1', replicaCount: 2, minReplicas: 1, chunkBytes: 1 << 20, placementGroupCount: kinds.groups,
          redundancy: missing ? RedundancyState.SINGLE_COPY : RedundancyState.HEALTHY,
          capacity: { rawCapacityBytes: 9600n * gib, rawUsedBytes: 5210n * gib, rawDataBytes: 5090n * gib, provisionedBytes: 7400n * gib, availableBytes: 2100n * gib,
            overcommitPercent: 154, usedPercent: 55, state: CapacityState.NORMAL },
          capacityPolicy: { warnPercent: 80, criticalPercent: 90 },
        } }],
      }],
      sdcs: [1n, 2n].map((sdcId) => ({ sdcId, name: `sdc${sdcId}`, state: ComponentState.ONLINE, softwareVersion: '1.0.0', lastHeartbeatMs: ms(900),
        nbdUris: [`nbd://192.0.2.${sdcId}:10809`], mappings: this.volumes.flatMap(({ mappings }) => mappings.filter((one) => one.sdcId === sdcId)) })),
    });
  }
}
