// The double's services: what MGMT and MDM answer, as far as pages can tell. It checks roles by the same option.
import { Code, ConnectError, createContextKey, type ConnectRouter, type HandlerContext } from '@connectrpc/connect';
import { create } from '@bufbuild/protobuf';
import { AlertSeverity, AlertService, AlertState } from '../../src/gen/tessera/v1/alert_pb';
import { AuditService } from '../../src/gen/tessera/v1/audit_pb';
import { Role } from '../../src/gen/tessera/v1/access_pb';
import { AuthService, SessionSchema, type User } from '../../src/gen/tessera/v1/auth_pb';
import { ConsoleService, WatchConsoleResponseSchema, type WatchConsoleResponse } from '../../src/gen/tessera/v1/console_pb';
import { ClusterVerdict, EventSeverity, HealthService, VolumeVerdict } from '../../src/gen/tessera/v1/health_pb';
import { LatencyService } from '../../src/gen/tessera/v1/latency_pb';
import { OperationService, OperationState } from '../../src/gen/tessera/v1/operation_pb';
import { PlacementService } from '../../src/gen/tessera/v1/placement_pb';
import { RepairService } from '../../src/gen/tessera/v1/repair_pb';
import { SnapshotScheduleService } from '../../src/gen/tessera/v1/schedule_pb';
import { ScrubService } from '../../src/gen/tessera/v1/scrub_pb';
import { TopologyService } from '../../src/gen/tessera/v1/topology_pb';
import { ComponentKind, ComponentState } from '../../src/gen/tessera/v1/types_pb';
import { UsageService } from '../../src/gen/tessera/v1/usage_pb';
import { VolumeKind, VolumeService, type Volume } from '../../src/gen/tessera/v1/volume_pb';
import { BadRequestSchema, ErrorInfoSchema } from '../../src/gen/google/rpc/error_details_pb';
import { explainLatency } from './latency';
import { ms, type World } from './world';

export interface Sessions {
  userOf(secret: string): User | undefined;
  begin(user: User): string;
  end(secret: string): void;
}

/** The session's secret of a call, from its cookie. */
export const secretKey = createContextKey('');

export function fieldError(field: string, description: string): ConnectError {
  return new ConnectError(`${field}: ${description}`, Code.InvalidArgument, undefined, [
    { desc: BadRequestSchema, value: { fieldViolations: [{ field, description }] } },
    { desc: ErrorInfoSchema, value: { reason: 'INVALID_FIELD', domain: 'tessera' } }]);
}

export function reasonError(code: Code, reason: string, message: string): ConnectError {
  return new ConnectError(message, code, undefined, [{ desc: ErrorInfoSchema, value: { reason, domain: 'tessera' } }]);
}

/** Messages to those who watch. */
export class Hub {
  private watchers = new Set<{ queue: WatchConsoleResponse[]; wake: () => void }>();
  private broken = new AbortController();
  opened = 0;

  get open(): number {
    return this.watchers.size;
  }

  send(change: WatchConsoleResponse['change']): void {
    for (const watcher of this.watchers) {
      watcher.queue.push(create(WatchConsoleResponseSchema, { timeMs: ms(), change }));
      watcher.wake();
    }
  }

  /** Ends all streams as a server that dies does. */
  cut(): void {
    this.broken.abort();
    this.broken = new AbortController();
    for (const watcher of this.watchers) watcher.wake();
  }

  async *watch(first: WatchConsoleResponse, signal: AbortSignal, alive: () => boolean): AsyncGenerator<WatchConsoleResponse> {
    const watcher = { queue: [first], wake: () => {} };
    const broken = this.broken.signal;
    this.watchers.add(watcher);
    this.opened += 1;
    const abort = () => watcher.wake();
    signal.addEventListener('abort', abort);
    try {
      while (!signal.aborted) {
        if (broken.aborted) throw new ConnectError('the server is shutting down', Code.Unavailable);
        if (!alive()) throw reasonError(Code.Unauthenticated, 'SESSION_EXPIRED', 'the session is over');
        const next = watcher.queue.shift();
        if (next) yield next;
        else await new Promise<void>((resolve) => { watcher.wake = resolve; });
      }
    } finally {
      this.watchers.delete(watcher);
      signal.removeEventListener('abort', abort);
    }
  }
}

export function registerServices(router: ConnectRouter, world: World, sessions: Sessions, hub: Hub): void {
  const caller = (context: HandlerContext) => sessions.userOf(context.values.get(secretKey));
  const setSession = (context: HandlerContext, secret: string) =>
    context.responseHeader.set('set-cookie', `tessera-session=${secret}; HttpOnly; SameSite=Strict; Path=/${secret ? '' : '; Max-Age=0'}`);
  const objects = () => hub.send({ case: 'objects', value: { $typeName: 'tessera.v1.ObjectsChanged', topology: false, volumes: true } });
  const find = (id: bigint, name = ''): Volume => {
    const found = world.volumes.find((volume) => (id > 0n ? volume.volumeId === id : volume.name === name));
    if (!found || found.trashedUntilMs > 0n) throw new ConnectError(`there is no volume ${id || name}`, Code.NotFound);
    return found;
  };

  router.service(AuthService, {
    signIn({ userName, password }, context) {
      const user = world.users.find((one) => one.userName === userName && one.password === password && !one.locked);
      if (!user) throw reasonError(Code.Unauthenticated, 'SIGN_IN_FAILED', 'the name or the password is wrong');
      const secret = sessions.begin(user);
      setSession(context, secret);
      return { user, session: sessionOf(user, 1n) };
    },
    signOut(_request, context) {
      sessions.end(context.values.get(secretKey));
      setSession(context, '');
      return {};
    },
    getCurrentUser: (_request, context) => ({ user: caller(context), session: sessionOf(caller(context), 1n) }),
    changePassword({ oldPassword, newPassword }, context) {
      const user = world.users.find(({ userId }) => userId === caller(context)?.userId);
      if (!user || user.password !== oldPassword) throw reasonError(Code.Unauthenticated, 'SIGN_IN_FAILED', 'the present password is wrong');
      if (newPassword.length < 10) throw fieldError('new_password', 'must have 10 to 128 bytes');
      user.password = newPassword;
      user.passwordChangeRequired = false;
      return {};
    },
    listUsers: () => ({ users: world.users }),
    createUser({ userName, role }) {
      const user = world.addUser(userName, 'made-up-word-17', role, true);
      return { user, oneTimePassword: 'made-up-word-17' };
    },
    listSessions: (_request, context) => ({ sessions: [sessionOf(caller(context), 1n), sessionOf(world.users[1], 2n)] }),
    listApiTokens: () => ({ apiTokens: [{ apiTokenId: 1n, userId: 1n, userName: 'ada', description: 'nightly report', role: Role.VIEWER,
      createdMs: ms(9e8), expiresMs: ms(-4e9), lastUsedMs: ms(3e6) }] }),
    createApiToken: ({ description, role }, context) => ({ secret: 'token.2.0123456789abcdef', apiToken: { apiTokenId: 2n, userName: caller(context)?.userName, description, role } }),
  });

  router.service(AlertService, {
    listAlerts: ({ includeResolved, severityMin }) => ({ alerts: world.alerts.filter(({ state, severity }) =>
      (includeResolved || state !== AlertState.RESOLVED) && severity >= severityMin) }),
    acknowledgeAlert({ alertId, comment }, context) {
      const alert = world.alerts.find((one) => one.alertId === alertId);
      if (!alert) throw new ConnectError('there is no such alert', Code.NotFound);
      Object.assign(alert, { state: AlertState.ACKNOWLEDGED, comment, acknowledgedBy: caller(context)?.userName ?? '', acknowledgedMs: ms() });
      hub.send({ case: 'alert', value: alert });
      return { alert };
    },
    listSilences: () => ({ silences: [{ silenceId: 1n, rule: 'pool-filling', startsMs: ms(1e6), endsMs: ms(-5e6), createdBy: 'otto', comment: 'new devices are on their way' }] }),
    listAlertRules: () => ({ rules: [
      { rule: 'part-down', severity: AlertSeverity.ERROR, condition: 'answers == 0', raiseAfterMs: 0n, resolveAfterMs: 10_000n, summary: '{name} does not answer', remedy: 'Look at whether its process and host run.' },
      { rule: 'pool-filling', severity: AlertSeverity.WARNING, condition: 'days_until_full < 14', raiseAfterMs: 3_600_000n, resolveAfterMs: 3_600_000n, summary: 'Pool fills', remedy: 'Add devices.', fromFile: true }] }),
  });

  router.service(AuditService, {
    listAuditEntries: ({ userName }) => ({ entries: [
      { auditId: 3n, timeMs: ms(60_000), userName: 'ada', credential: 'session.1', peer: '192.0.2.44', method: 'tessera.v1.VolumeService/CreateVolume', requestJson: '{"name":"db-main","sizeBytes":"2147483648"}', result: 'OK' },
      { auditId: 2n, timeMs: ms(400_000), userName: 'otto', credential: 'session.2', peer: '192.0.2.45', method: 'tessera.v1.AuthService/CreateUser', requestJson: '{"userName":"eve","role":"ROLE_ADMIN"}', result: 'PERMISSION_DENIED', errorMessage: 'needs the role admin' },
      { auditId: 1n, timeMs: ms(900_000), userName: 'ada', credential: 'none', peer: '192.0.2.44', method: 'tessera.v1.AuthService/SignIn', requestJson: '{"userName":"ada","password":"***"}', result: 'OK' },
    ].filter((entry) => !userName || entry.userName === userName) }),
    verifyAuditLog: () => ({ entries: 3n, lastHash: new Uint8Array(32).fill(0xab) }),
  });

  router.service(ConsoleService, {
    getOverview: () => world.overview(),
    watchConsole: (_request, context) => hub.watch(create(WatchConsoleResponseSchema, { timeMs: ms(), change: { case: 'overview', value: world.overview() } }),
      context.signal, () => caller(context) !== undefined),
    listSeries: () => ({ series: [
      ...seriesOf(ComponentKind.UNSPECIFIED, 0n, 'cluster', 0n), ...seriesOf(ComponentKind.SDS, 1n, 'sds1', 0n), ...seriesOf(ComponentKind.SDC, 1n, 'sdc1', 0n),
      ...world.volumes.slice(0, 20).flatMap(({ volumeId, name }) => seriesOf(ComponentKind.UNSPECIFIED, 0n, name, volumeId).slice(0, 4))] }),
    queryHistory({ series, fromMs, untilMs, points }) {
      const until = Number(untilMs) || Date.now();
      const step = Math.max(10_000, Math.ceil((until - Number(fromMs)) / (points || 300) / 10_000) * 10_000);
      const times: bigint[] = [];
      for (let at = Math.ceil(Number(fromMs) / step) * step; at < until; at += step) times.push(BigInt(at));
      return { stepMs: BigInt(step), series: series.map((key) => {
        const mean = times.map((at) => valueAt(key.figure, Number(at)));
        return { key, timeMs: times, mean, maximum: mean.map((value) => value * 1.3) };
      }) };
    },
    getSettings: () => ({ softwareVersion: '1.0.0', databaseBytes: 84n << 20n, databaseLimitBytes: 1n << 30n, settings: [
      { name: 'listen', value: '127.0.0.1:5000', source: 'default', description: 'Where the console is served.' },
      { name: 'poll-interval', value: '10000', source: 'file', description: 'Milliseconds between two polls.' },
      { name: 'notification-config', value: '', source: 'default', description: 'Where alerts are sent.' }] }),
  });

  router.service(HealthService, {
    getClusterHealth() {
      const missing = [...world.serverStates.values()].some((state) => state !== ComponentState.ONLINE);
      return { verdict: missing ? ClusterVerdict.DEGRADED : ClusterVerdict.OK, healthyPlacementGroups: missing ? 38 : 64, degradedPlacementGroups: missing ? 26 : 0,
        causes: missing ? [{ code: 'sds_offline', message: 'Server sds3 is offline' }] : [] };
    },
    listVolumeHealth() {
      const missing = [...world.serverStates.values()].some((state) => state !== ComponentState.ONLINE);
      return { volumes: world.volumes.map(({ volumeId, name }) => missing
        ? { volumeId, name, verdict: VolumeVerdict.SINGLE_COPY, rebuilding: true, percent: 35, etaMs: 260_000n, cause: 'sds3 is offline', action: 'Wait for the rebuild, or start sds3 again', placementGroups: 64, placementGroupsAffected: 26 }
        : { volumeId, name, verdict: VolumeVerdict.HEALTHY, percent: 100, placementGroups: 64 }) };
    },
    listEvents: ({ afterEventId, pageSize }) => ({ events: Array.from({ length: 40 }, (_, index) => ({ eventId: BigInt(index + 1), timeMs: ms((40 - index) * 50_000),
      severity: index % 9 === 0 ? EventSeverity.WARNING : EventSeverity.INFO, code: index % 9 === 0 ? 'replica_removed' : 'volume_mapped',
      message: index % 9 === 0 ? `Placement group ${index} goes on without device 5` : `Volume vm-${index} is mapped to sdc1`, kind: ComponentKind.SDS, componentId: 3n }))
      .filter(({ eventId }) => eventId > afterEventId).slice(0, pageSize || 100) }),
  });

  router.service(LatencyService, { explainLatency: (request) => explainLatency(world, find(request.volumeId, request.volumeName), request) });

  router.service(OperationService, {
    listOperations: () => ({ operations: world.operations }),
    cancelOperation({ operationId }) {
      const operation = world.operations.find((one) => one.operationId === operationId);
      if (!operation) throw new ConnectError('there is no such operation', Code.NotFound);
      operation.state = OperationState.CANCELLED;
      hub.send({ case: 'operation', value: operation });
      return { operation };
    },
  });

  router.service(PlacementService, { listPlacementGroups: () => ({ placementGroups: world.groups }) });
  router.service(RepairService, {
    getRepairSettings: () => ({ settings: world.repair }),
    updateRepairSettings({ settings }) {
      Object.assign(world.repair, settings);
      return { settings: world.repair };
    },
    enterMaintenance() {
      throw reasonError(Code.FailedPrecondition, 'MAINTENANCE_UNSAFE', '12 placement groups of pool1 could not be used while sds1 is away');
    },
  });
  router.service(ScrubService, { listScrubSettings: () => ({ settings: [{ poolId: 1n, intervalMs: 604_800_000n, bytesPerSecond: 67_108_864n }] }) });
  router.service(SnapshotScheduleService, { listSnapshotSchedules: () => ({ schedules: [{ scheduleId: 1n, name: 'nightly', volumeIds: world.volumes.slice(0, 2).map(({ volumeId }) => volumeId),
    intervalSeconds: 86_400, retention: { keepDaily: 7, keepWeekly: 4 }, lastRunMs: ms(4e7), nextRunMs: ms(-4.6e7) }] }) });
  router.service(TopologyService, {
    getTopology: () => ({ topology: world.topology() }),
    listSdss: () => ({ sdss: world.topology().protectionDomains[0]?.sdss ?? [] }),
    listSdcs: () => ({ sdcs: world.topology().sdcs }),
    listStoragePools: () => ({ pools: world.topology().protectionDomains[0]?.pools.flatMap(({ pool }) => pool ?? []) ?? [] }),
  });
  router.service(UsageService, { getUsage: ({ volumeId }) => ({ pools: [{ poolId: 1n, vtrees: [{ volumes: [{ volumeId, logicalBytes: 1n << 30n, uniqueBytes: 300n << 20n }] }] }] }) });

  router.service(VolumeService, {
    getVolume: ({ volumeId, name }) => ({ volume: find(volumeId, name) }),
    listVolumes({ pageSize, pageToken, nameContains, trashed }) {
      const all = world.volumes.filter((volume) => volume.name.includes(nameContains) && (volume.trashedUntilMs > 0n) === trashed);
      const from = Number(pageToken || 0);
      const size = pageSize || 100;
      return { volumes: all.slice(from, from + size), nextPageToken: from + size < all.length ? String(from + size) : '' };
    },
    createVolume({ name, sizeBytes }) {
      if (world.volumes.some((volume) => volume.name === name)) throw new ConnectError(`a volume is called '${name}' already`, Code.AlreadyExists);
      if (!/^[\w.-]{1,63}$/.test(name)) throw fieldError('name', `'${name}' is no name: 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.'`);
      if (sizeBytes % 4096n !== 0n) throw fieldError('size_bytes', 'must be a multiple of 4,096');
      const volume = world.addVolume({ name, sizeBytes });
      objects();
      return { volume };
    },
    updateVolume({ volumeId, volume, updateMask, allowShrink }) {
      const found = find(volumeId);
      if (updateMask?.paths.includes('size_bytes') && volume) {
        if (volume.sizeBytes < found.sizeBytes && !allowShrink) throw new ConnectError('a smaller size loses what lies beyond it: allow_shrink says that it is meant', Code.OutOfRange);
        found.sizeBytes = volume.sizeBytes;
      }
      if (updateMask?.paths.includes('name') && volume) found.name = volume.name;
      objects();
      return { volume: found };
    },
    mapVolume({ volumeId, sdcName }) {
      const volume = find(volumeId);
      world.map(volume, BigInt(sdcName.replace('sdc', '')));
      objects();
      return { mapping: volume.mappings.at(-1) };
    },
    unmapVolume({ volumeId, sdcId }) {
      const volume = find(volumeId);
      volume.mappings = volume.mappings.filter((one) => one.sdcId !== sdcId);
      objects();
      return {};
    },
    createSnapshots({ sources }) {
      const snapshots = sources.map(({ volumeId, snapshotName }) => {
        const volume = find(volumeId);
        return world.addVolume({ name: snapshotName, kind: VolumeKind.SNAPSHOT, parentId: volumeId, parentName: volume.name, sizeBytes: volume.sizeBytes });
      });
      objects();
      return { snapshots };
    },
    deleteVolume({ volumeId, keepMs }) {
      const volume = find(volumeId);
      if (volume.mappings.length > 0) throw new ConnectError(`volume ${volume.name} is mapped to ${volume.mappings[0]?.sdcName}`, Code.FailedPrecondition);
      if (world.volumes.some(({ kind, parentId }) => kind === VolumeKind.SNAPSHOT && parentId === volumeId)) throw reasonError(Code.FailedPrecondition, 'HAS_SNAPSHOTS', `volume ${volume.name} has snapshots: delete these first`);
      if (keepMs > 0n) volume.trashedUntilMs = ms() + keepMs;
      else world.volumes = world.volumes.filter((one) => one !== volume);
      objects();
      return {};
    },
  });
}

function sessionOf(user: User | undefined, sessionId: bigint) {
  return create(SessionSchema, { sessionId, userId: user?.userId, userName: user?.userName, peer: '192.0.2.44', userAgent: 'Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0',
    createdMs: ms(4e6), lastUsedMs: ms(1000), expiresMs: ms(-4e7), current: sessionId === 1n });
}

const figures: [string, string][] = [['reads_per_second', 'operations per second'], ['writes_per_second', 'operations per second'],
  ['read_bytes_per_second', 'bytes per second'], ['write_bytes_per_second', 'bytes per second'], ['read_latency_p50_micros', 'microseconds'],
  ['read_latency_p99_micros', 'microseconds'], ['write_latency_p50_micros', 'microseconds'], ['write_latency_p99_micros', 'microseconds'],
  ['used_bytes', 'bytes'], ['capacity_bytes', 'bytes'], ['errors_per_second', 'operations per second']];

function seriesOf(kind: ComponentKind, componentId: bigint, name: string, volumeId: bigint) {
  return figures.map(([figure, unit]) => ({ key: { kind, componentId, volumeId, figure }, name, unit }));
}

function valueAt(figure: string, at: number): number {
  const wave = 1 + 0.25 * Math.sin(at / 90_000) + 0.1 * Math.sin(at / 17_000);
  const base: Record<string, number> = { reads_per_second: 11_400, writes_per_second: 4200, read_bytes_per_second: 180e6, write_bytes_per_second: 66e6,
    read_latency_p50_micros: 310, read_latency_p99_micros: 1840, write_latency_p50_micros: 620, write_latency_p99_micros: 3900 };
  if (figure === 'capacity_bytes') return 9600 * 2 ** 30;
  if (figure === 'used_bytes') return (5000 + at / 1e10) * 2 ** 30;
  return (base[figure] ?? 0) * wave;
}
