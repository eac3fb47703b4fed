// History as charts want it, and in words. Pure.
import type { HistorySeries } from '../gen/tessera/v1/console_pb';

/** Columns: the times in seconds, then one for each series; null where a series has no point. */
export type ChartData = [number[], ...(number | null)[][]];

/** Puts series of one step onto one time axis. A gap of more than two steps is shown as one. */
export function alignSeries(series: readonly HistorySeries[], stepMs: number): ChartData {
  const times = [...new Set(series.flatMap(({ timeMs }) => timeMs.map(Number)))].sort((a, b) => a - b);
  const axis: number[] = [];
  for (const time of times) {
    const last = axis.at(-1);
    if (last !== undefined && stepMs > 0 && time - last > 2.5 * stepMs) axis.push(last + stepMs);
    axis.push(time);
  }
  const columns = series.map(({ timeMs, mean }) => {
    const byTime = new Map(timeMs.map((time, index) => [Number(time), mean[index] ?? null]));
    return axis.map((time) => byTime.get(time) ?? null);
  });
  return [axis.map((time) => time / 1000), ...columns];
}

/** "Reads: now 1,200 IO/s, mean 1,100, at most 2,300." for who can't see the chart. */
export function describeSeries(label: string, values: readonly (number | null)[], format: (value: number) => string): string {
  const known = values.filter((value): value is number => value !== null);
  const last = known.at(-1);
  if (last === undefined) return `${label}: no figures.`;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  return `${label}: now ${format(last)}, mean ${format(mean)}, at least ${format(Math.min(...known))}, at most ${format(Math.max(...known))}.`;
}
