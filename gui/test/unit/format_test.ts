import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exactDuration, exactSize, formatAge, formatBytes, formatCount, formatDuration, formatMicros, formatPercent, parseDuration, parseSize, words }
  from '../../src/components/format';
import { RedundancyState } from '../../src/gen/tessera/v1/topology_pb';

const plain = (text: string) => text.replaceAll('\u00a0', ' ');

test('Sizes are written with at most one digit behind the point, and never part from their unit', () => {
  assert.equal(formatBytes(0n), '0\u00a0B');
  const cases: [bigint | number, string][] = [[1023, '1023 B'], [1024, '1 KiB'], [1536, '1.5 KiB'], [10n << 30n, '10 GiB'],
    [(3n << 40n) + (1n << 39n), '3.5 TiB'], [1n << 60n, '1 EiB'], [1000, '1000 B'], [123_456_789, '118 MiB']];
  for (const [bytes, text] of cases) assert.equal(plain(formatBytes(bytes)), text);
});

test('A size that is typed means what it means to the command tessera', () => {
  const cases: [string, bigint | null][] = [['10GiB', 10n << 30n], ['1.5 TiB', 3n << 39n], ['10GB', 10_000_000_000n], ['512M', 512n << 20n], ['4096', 4096n],
    ['', null], ['GiB', null], ['-1GiB', null], ['10 gib', null], ['1.3B', null], ['1e9', null], ['10GiB!', null]];
  for (const [text, bytes] of cases) assert.equal(parseSize(text), bytes, text);
});

test('A size that stands in a command is exact', () => {
  for (const bytes of [0n, 1n, 4096n, 4097n, 1n << 20n, (1n << 30n) + 4096n, 10n << 30n, 7n << 50n]) {
    assert.equal(parseSize(exactSize(bytes)), bytes, exactSize(bytes));
  }
  assert.equal(exactSize(10n << 30n), '10GiB');
});

test('A duration that stands in a command is exact', () => {
  for (const ms of [0, 1, 1000, 90_000, 3_600_000, 86_400_000, 604_800_000]) assert.equal(parseDuration(exactDuration(ms)), ms);
  assert.equal(exactDuration(5_400_000), '90m');
  for (const text of ['', '10', 'm', '-5m', '1y']) assert.equal(parseDuration(text), null, text);
});

test('Ages are said in words, for the past and for the future', () => {
  const now = 1_800_000_000_000;
  const cases: [number, string][] = [[0, 'now'], [20_000, '20 s ago'], [600_000, '10 min ago'], [3 * 3.6e6 + 1_200_000, '3 h 20 min ago'],
    [2.5 * 8.64e7, '2 d 12 h ago'], [-3 * 3.6e6, 'in 3 h']];
  for (const [ago, text] of cases) assert.equal(plain(formatAge(now - ago, now)), text);
});

test('Latencies, counts and durations keep few digits', () => {
  assert.equal(plain(formatMicros(350)), '350 µs');
  assert.equal(plain(formatMicros(1234)), '1.2 ms');
  assert.equal(plain(formatMicros(45_600)), '46 ms');
  assert.equal(plain(formatMicros(2_500_000)), '2.5 s');
  assert.equal(formatCount(1234), '1,234');
  assert.equal(plain(formatCount(1_250_000)), '1.3 M');
  assert.equal(plain(formatDuration(89_000)), '89 s');
});

test('A share that is there is never shown as nothing, and of nothing there is no share', () => {
  assert.equal(plain(formatPercent(1, 1000)), '< 1 %');
  assert.equal(plain(formatPercent(374, 1000)), '37 %');
  assert.equal(plain(formatPercent(0, 1000)), '0 %');
  assert.equal(formatPercent(1, 0), '–');
});

test('States are said in words', () => {
  assert.equal(words(RedundancyState, RedundancyState.SINGLE_COPY), 'single copy');
  assert.equal(words(RedundancyState, 0), 'unknown');
  assert.equal(words(RedundancyState, 99), '99');
});
