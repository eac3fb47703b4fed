import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { initialValues, type Values } from '../../src/api/actions/action';
import { createVolume } from '../../src/api/actions/volume_actions';
import { createSilence } from '../../src/api/actions/people_actions';
import { snapshotVolumes, timestampName } from '../../src/api/actions/snapshot_actions';
import { FieldError } from '../../src/api/errors';
import { create } from '@bufbuild/protobuf';
import { VolumeSchema, type CreateVolumeRequest } from '../../src/gen/tessera/v1/volume_pb';
import { questions, samples } from './samples';

const built = samples.map(([action, values]) => ({ action, calls: action.build({ ...initialValues(action), ...values }) }));

test('Every action makes calls of its method, and says what was done', () => {
  for (const { action, calls } of built) {
    assert.ok(calls.length > 0, action.title);
    for (const call of calls) assert.equal(call.method, action.method, action.title);
    assert.ok(action.done, action.title);
  }
});

test('Every action that takes data away, or asks for a name, is marked as dangerous', () => {
  for (const { action } of built) if (action.typedName !== undefined) assert.ok(action.danger, action.title);
});

test('Every action and every question has its line with the command tessera', () => {
  // The integration tests have the command itself take them apart.
  const lines = [...built.flatMap(({ calls }) => calls), ...questions].map(({ method, cli }) => ({ method: method.name, cli }));
  for (const { method, cli } of lines) assert.match(cli, /^tessera [a-z]+ [a-z]+/, method);
  const file = process.env['COMMANDS_FILE'];
  if (file) writeFileSync(file, `${lines.map(({ cli }) => cli).join('\n')}\n`);
});

test('A form that is wrong names the field that is wrong, and what would be right', () => {
  const wrong = (values: Values) => {
    const action = createVolume([]);
    try {
      action.build({ ...initialValues(action), ...values });
    } catch (error) {
      assert.ok(error instanceof FieldError);
      return [error.field, error.message];
    }
    return assert.fail('nothing was wrong');
  };
  assert.deepEqual(wrong({ size: '1GiB' }), ['name', 'Give a name.']);
  assert.equal(wrong({ name: 'a' })[0], 'size');
  assert.match(wrong({ name: 'a', size: 'big' })[1] ?? '', /write 512MiB, 10GiB/);
  assert.equal(wrong({ name: 'a', size: '1GiB', iops: 'many' })[0], 'iops');
  assert.equal(wrong({ name: 'a', size: '1GiB', bandwidth: 'much' })[0], 'bandwidth');
});

test('What is left empty is no limit', () => {
  const action = createVolume([]);
  const [call] = action.build({ ...initialValues(action), name: 'a', size: '1GiB' });
  const request = call?.request as CreateVolumeRequest;
  assert.deepEqual([request.sizeBytes, request.iopsLimit, request.bandwidthLimitBytes, request.burstSeconds], [1n << 30n, 0, 0n, 0]);
  assert.equal(call?.cli, 'tessera volume create a --size 1GiB');
});

test('Lines for people, tokens and alerts say the same as their requests', () => {
  const linesOf = (service: string) => built.flatMap(({ calls }) => calls).filter(({ method }) => method.parent.name === service).map(({ cli }) => cli);
  assert.deepEqual(linesOf('AuthService'), [
    'tessera user create eve --role viewer', 'tessera user create eve.b-1 --role admin', 'tessera user set otto --role viewer', 'tessera user set otto --role operator',
    'tessera user set otto --lock', 'tessera user set otto --unlock', 'tessera user set otto --reset-password', 'tessera user delete otto', 'tessera session end 3',
    `tessera user token create --role viewer --for 90d 'nightly report'`, `tessera user token create --role admin --for 90m -- '-o json of Otto’s'`,
    'tessera user token revoke 2',
  ]);
  assert.deepEqual(linesOf('AlertService'), [
    `tessera alert ack 12 --comment 'on it'`, 'tessera alert ack 12', `tessera alert silence --rule part-down --subject sds/3 --for 1h --comment 'moving racks'`,
    `tessera alert silence --rule part-down --for 3d --comment '-- until Monday'`, `tessera alert silence --subject sds/3 --for 90s --comment 'new disks'`,
    'tessera alert unsilence 2', 'tessera alert reload',
  ]);
});

test('A silence of everything is refused before it is sent', () => {
  const action = createSilence();
  assert.throws(() => action.build({ ...initialValues(action), comment: 'quiet' }), FieldError);
});

test('Snapshots of more volumes than one moment can have are refused before they are sent', () => {
  const volumes = Array.from({ length: 65 }, (_, index) => create(VolumeSchema, { volumeId: BigInt(index + 1), name: `v${index}` }));
  const action = snapshotVolumes(volumes, 0);
  assert.throws(() => action.build(initialValues(action)), /At most 64/);
});

test('A proposed snapshot name is short enough and tells the time in UTC', () => {
  assert.equal(timestampName(Date.UTC(2026, 10, 29, 23, 31, 7)), '20261129T233107Z');
  const action = snapshotVolumes([create(VolumeSchema, { volumeId: 1n, name: 'a'.repeat(63) })], 0);
  assert.ok((initialValues(action)['name'] ?? '').length <= 63);
});
