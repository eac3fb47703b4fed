import assert from 'node:assert/strict';
import { create } from '@bufbuild/protobuf';
import { test } from 'node:test';
import { grpcurl, quote, tessera } from '../../src/api/commands';
import { AuthService, SignInRequestSchema } from '../../src/gen/tessera/v1/auth_pb';
import { ListVolumesRequestSchema, VolumeService } from '../../src/gen/tessera/v1/volume_pb';

test('Words that a shell would take apart are quoted', () => {
  assert.equal(quote('db-main_1.x'), 'db-main_1.x');
  assert.equal(quote(''), `''`);
  assert.equal(quote('two words'), `'two words'`);
  assert.equal(quote(`it's $HOME`), `'it'\\''s $HOME'`);
  assert.equal(quote('a;b'), `'a;b'`);
});

test('Words that are not given are left out of a tessera line', () => {
  assert.equal(tessera('volume', 'create', 'a', undefined, '--size', '1GiB'), 'tessera volume create a --size 1GiB');
});

test('A grpcurl line says plaintext only where the console is without TLS, and no data where there are none', () => {
  const request = create(ListVolumesRequestSchema);
  assert.equal(grpcurl(VolumeService.method.listVolumes, request, false),
    'grpcurl -plaintext -H "authorization: Bearer $TESSERA_TOKEN" $TESSERA_MGMT tessera.v1.VolumeService/ListVolumes');
  assert.doesNotMatch(grpcurl(VolumeService.method.listVolumes, request, true), /plaintext/);
});

test('Passwords never stand in a grpcurl line', () => {
  const line = grpcurl(AuthService.method.signIn, create(SignInRequestSchema, { userName: 'ada', password: 'correct horse' }), true);
  assert.doesNotMatch(line, /horse/);
  assert.match(line, /"password":"\*\*\*"/);
});
