import assert from 'node:assert/strict';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { test } from 'node:test';
import { describeError } from '../../src/api/errors';
import { RecentState } from '../../src/api/recent';
import { isSessionOver } from '../../src/api/transport';
import { Role } from '../../src/gen/tessera/v1/access_pb';
import { AlertSchema, AlertState } from '../../src/gen/tessera/v1/alert_pb';
import { AuthService } from '../../src/gen/tessera/v1/auth_pb';
import { WatchConsoleResponseSchema } from '../../src/gen/tessera/v1/console_pb';
import { OperationSchema, OperationState } from '../../src/gen/tessera/v1/operation_pb';
import { PlacementGroupSchema, ReplicaRole } from '../../src/gen/tessera/v1/placement_pb';
import { TopologyService } from '../../src/gen/tessera/v1/topology_pb';
import { VolumeSchema, VolumeService } from '../../src/gen/tessera/v1/volume_pb';
import { BadRequestSchema, ErrorInfoSchema } from '../../src/gen/google/rpc/error_details_pb';
import { mayCall, roleFor } from '../../src/store/access';
import { newestEvents } from '../../src/store/events';
import { descendantsOf } from '../../src/store/family';
import { withAlert, withOperation } from '../../src/store/live';
import { percentOf, progressInWords } from '../../src/store/operations';
import { readPages } from '../../src/store/pages';
import { groupInWords, groupState, lastCopies } from '../../src/store/redundancy';
import { linkTo, parseRoute, subjectLink } from '../../src/store/router';
import { createStore } from '../../src/store/store';

test('A store tells its listeners of changes, and of nothing else', () => {
  const store = createStore(1);
  let heard = 0;
  const stop = store.subscribe(() => { heard += 1; });
  store.set(1);
  store.set(2);
  store.update((value) => value + 1);
  stop();
  store.set(9);
  assert.equal(heard, 2);
});

test('An address is taken apart and put together again, whatever is in it', () => {
  const hash = linkTo(['volumes', 'a/b c'], { search: 'x&y=1', tab: '' });
  const { path, query } = parseRoute(hash);
  assert.deepEqual(path, ['volumes', 'a/b c']);
  assert.deepEqual([...query], [['search', 'x&y=1']]);
  assert.deepEqual(parseRoute('').path, []);
  assert.deepEqual(parseRoute('#/volumes/%E0%A4%A').path, ['volumes', '%E0%A4%A']);
});

test('Who may call what is read from the API: admins everything, operators volumes, viewers what only looks', () => {
  const { createVolume, listVolumes } = VolumeService.method;
  assert.deepEqual([Role.ADMIN, Role.OPERATOR, Role.VIEWER, Role.NEWCOMER, Role.UNSPECIFIED].map((role) => mayCall(role, createVolume)), [true, true, false, false, false]);
  assert.ok(mayCall(Role.VIEWER, listVolumes));
  assert.ok(!mayCall(Role.OPERATOR, AuthService.method.createUser));
  assert.ok(mayCall(Role.NEWCOMER, AuthService.method.changePassword));
  assert.equal(roleFor(createVolume), 'operator');
  assert.equal(roleFor(TopologyService.method.updateStoragePool), 'admin');
});

test('An error says what happened, its code and reason, what to do, and which field is wrong', () => {
  const error = new ConnectError('size_bytes: must be a multiple of 4,096', Code.InvalidArgument, undefined, [
    { desc: BadRequestSchema, value: { fieldViolations: [{ field: 'size_bytes', description: 'must be a multiple of 4,096' }] } },
    { desc: ErrorInfoSchema, value: { reason: 'INVALID_FIELD' } }]);
  const problem = describeError(error);
  assert.equal(problem.message, 'Size_bytes: must be a multiple of 4,096.');
  assert.equal(problem.reason, 'INVALID_ARGUMENT · INVALID_FIELD');
  assert.equal(problem.fields.get('size_bytes'), 'must be a multiple of 4,096');
  const locked = new ConnectError('too many wrong tries', Code.ResourceExhausted, undefined, [
    { desc: ErrorInfoSchema, value: { reason: 'SIGN_IN_LOCKED', metadata: { retry_after_s: '40' } } }]);
  assert.match(describeError(locked).remedy, /^Wait 40 seconds/);
});

test('Every code has something to do', () => {
  for (const code of Object.values(Code).filter((one): one is Code => typeof one === 'number' && one !== Code.Canceled)) {
    assert.notEqual(describeError(new ConnectError('x', code)).remedy, '', Code[code]);
  }
});

test('A wrong password ends no session; any other UNAUTHENTICATED does', () => {
  const wrong = new ConnectError('wrong', Code.Unauthenticated, undefined, [{ desc: ErrorInfoSchema, value: { reason: 'SIGN_IN_FAILED' } }]);
  assert.ok(!isSessionOver(wrong));
  assert.ok(isSessionOver(new ConnectError('over', Code.Unauthenticated)));
  assert.ok(!isSessionOver(new ConnectError('no', Code.PermissionDenied)));
});

test('A page that joins late is told the newest overview and what changed after it, once each', () => {
  const recent = new RecentState();
  const overview = (name: string) => create(WatchConsoleResponseSchema, { change: { case: 'overview', value: { clusterName: name } } });
  const alert = (id: bigint, summary: string) => create(WatchConsoleResponseSchema, { change: { case: 'alert', value: { alertId: id, summary } } });
  recent.note(alert(1n, 'before'));
  recent.note(overview('a'));
  recent.note(alert(2n, 'old'));
  recent.note(alert(2n, 'new'));
  recent.note(create(WatchConsoleResponseSchema, { change: { case: 'heartbeat', value: {} } }));
  assert.deepEqual(recent.messages().map(({ change }) => change.case === 'alert' ? change.value.summary : change.case), ['overview', 'new']);
  for (let id = 0n; id < 2000n; id += 1n) recent.note(alert(id, 'x'));
  assert.equal(recent.messages().length, 501);
});

test('An alert that is resolved leaves the active ones, any other change stays among them', () => {
  const alert = create(AlertSchema, { alertId: 1n, state: AlertState.ACTIVE });
  const one = withAlert(new Map(), alert);
  const two = withAlert(one, create(AlertSchema, { alertId: 1n, state: AlertState.ACKNOWLEDGED }));
  assert.equal(two.get(1n)?.state, AlertState.ACKNOWLEDGED);
  assert.equal(withAlert(two, create(AlertSchema, { alertId: 1n, state: AlertState.RESOLVED })).size, 0);
});

test('Of operations that ended while one looked the newest fifty stay', () => {
  let present: ReturnType<typeof withOperation> = new Map();
  present = withOperation(present, create(OperationSchema, { operationId: 999n, state: OperationState.RUNNING }));
  for (let id = 1n; id <= 80n; id += 1n) present = withOperation(present, create(OperationSchema, { operationId: id, state: OperationState.SUCCEEDED }));
  assert.equal(present.size, 51);
  assert.ok(present.has(999n) && present.has(80n) && !present.has(30n));
});

test('An operation is never at 100 percent before it has ended, and never beyond', () => {
  const running = (done: bigint, total: bigint) => percentOf(create(OperationSchema, { state: OperationState.RUNNING, bytesDone: done, bytesTotal: total }));
  assert.equal(running(50n, 100n), 50);
  assert.equal(running(150n, 100n), 99);
  assert.equal(percentOf(create(OperationSchema, { state: OperationState.RUNNING })), null);
  assert.equal(percentOf(create(OperationSchema, { state: OperationState.SUCCEEDED })), 100);
  assert.match(progressInWords(create(OperationSchema, { state: OperationState.RUNNING, bytesDone: 1n << 30n, bytesTotal: 4n << 30n, bytesPerSecond: 1n << 20n, etaMs: 60_000n })),
    /1.GiB of 4.GiB \(25.%\) · 1.MiB\/s · done in about 60.s/);
});

test('Pages are read to the last one or to the bound, and it is said when there are more', async () => {
  const read = (pages: number) => async (token: string) => {
    const page = Number(token || 0);
    return { items: [page * 2, page * 2 + 1], nextPageToken: page + 1 < pages ? String(page + 1) : '' };
  };
  assert.deepEqual(await readPages(100, read(3)), { items: [0, 1, 2, 3, 4, 5], truncated: false });
  assert.deepEqual(await readPages(3, read(3)), { items: [0, 1, 2], truncated: true });
  assert.deepEqual(await readPages(4, read(2)), { items: [0, 1, 2, 3], truncated: false });
});

test('The newest events are found in few calls, wherever the log begins and ends', async () => {
  for (const [first, last] of [[1, 0], [1, 1], [1, 7], [90_000, 190_000], [5, 5000]] as const) {
    let calls = 0;
    const found = await newestEvents(100, async (after, count) => {
      calls += 1;
      const from = Math.max(first, Number(after) + 1);
      return Array.from({ length: Math.max(0, Math.min(count, last - from + 1)) }, (_, index) => ({ eventId: BigInt(from + index) }));
    });
    assert.equal(Number(found.at(-1)?.eventId ?? 0), last, `${first} to ${last}`);
    assert.equal(found.length, Math.min(100, last - first + 1));
    assert.ok(calls < 60, `${calls} calls`);
  }
});

test('A placement group with one copy in sync is at risk, and so is the server that has it', () => {
  const group = (...roles: [bigint, ReplicaRole][]) => create(PlacementGroupSchema, { placementGroupId: 65_536n + 12n,
    replicas: roles.map(([sdsId, role]) => ({ sdsId, deviceId: sdsId * 10n, role })) });
  const whole = group([1n, ReplicaRole.IN_SYNC], [2n, ReplicaRole.IN_SYNC]);
  const ill = group([1n, ReplicaRole.IN_SYNC], [2n, ReplicaRole.LEARNER]);
  assert.deepEqual([groupState(whole, 2), groupState(ill, 2), groupState(whole, 3), groupState(ill, 1)], ['ok', 'error', 'warning', 'ok']);
  assert.deepEqual([...lastCopies([whole, ill, ill], 2)], [[1n, 2]]);
  assert.deepEqual([...lastCopies([ill], 1)], []);
  assert.equal(groupInWords(ill), 'Placement group 12: in sync on device 10; catching up on 20');
});

test('A volume’s relatives are a tree, oldest first, and a circle does not hang it', () => {
  const volume = (volumeId: bigint, parentId: bigint, createdMs = volumeId) => create(VolumeSchema, { volumeId, parentId, createdMs });
  const root = volume(1n, 0n);
  const tree = descendantsOf(root, [root, volume(3n, 1n), volume(2n, 1n), volume(4n, 3n), volume(9n, 0n)]);
  assert.deepEqual(tree.map(({ volume: one }) => one.volumeId), [2n, 3n]);
  assert.deepEqual(tree[1]?.children.map(({ volume: one }) => one.volumeId), [4n]);
  const circle = [volume(5n, 6n), volume(6n, 5n)];
  assert.equal(descendantsOf(volume(5n, 6n), circle).length, 1);
});

test('What an alert is about leads to its page', () => {
  assert.equal(subjectLink('volume/7'), '#/volumes/7');
  assert.equal(subjectLink('sds/3'), '#/topology?show=sds%2F3');
  assert.equal(subjectLink('cluster'), '#/health');
});
