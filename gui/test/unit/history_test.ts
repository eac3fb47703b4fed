import assert from 'node:assert/strict';
import { create } from '@bufbuild/protobuf';
import { test } from 'node:test';
import { alignSeries, describeSeries } from '../../src/charts/history';
import { HistorySeriesSchema } from '../../src/gen/tessera/v1/console_pb';

const series = (times: number[], mean: number[]) => create(HistorySeriesSchema, { timeMs: times.map(BigInt), mean, maximum: mean });

test('Series with different points share one time axis, with nothing where they have nothing', () => {
  const [times, first, second] = alignSeries([series([10_000, 20_000], [1, 2]), series([20_000, 30_000], [5, 6])], 10_000);
  assert.deepEqual(times, [10, 20, 30]);
  assert.deepEqual(first, [1, 2, null]);
  assert.deepEqual(second, [null, 5, 6]);
});

test('A time without any points is a gap and not a line across it', () => {
  const [times, values] = alignSeries([series([10_000, 20_000, 90_000], [1, 2, 3])], 10_000);
  assert.deepEqual(times, [10, 20, 30, 90]);
  assert.deepEqual(values, [1, 2, null, 3]);
});

test('No points are no trouble', () => {
  assert.deepEqual(alignSeries([series([], [])], 10_000), [[], []]);
  assert.equal(describeSeries('Reads', [null, null], String), 'Reads: no figures.');
});

test('A series is described by its newest, mean, least and greatest figure', () => {
  assert.equal(describeSeries('Reads', [null, 1, 5, 3], (value) => `${value}/s`), 'Reads: now 3/s, mean 3/s, at least 1/s, at most 5/s.');
});
