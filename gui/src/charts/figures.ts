// Figures that have history: what they are called, how they are written, and which belong onto one chart.
import { formatBytes, formatCount, formatMicros, formatOperations, formatRate } from '../components/format';

export interface ChartSpec {
  id: string;
  title: string;
  figures: { figure: string; label: string; dashed?: boolean }[];
  /** Its figures are bytes. */
  binary?: boolean;
  format(value: number): string;
}

/** Charts of the cluster, a part or a volume; a chart is shown when any of its figures has history. */
export const charts: ChartSpec[] = [
  { id: 'io', title: 'IO operations', format: formatOperations, figures: [
    { figure: 'reads_per_second', label: 'Reads' }, { figure: 'writes_per_second', label: 'Writes' }] },
  { id: 'bytes', title: 'Throughput', format: formatRate, binary: true, figures: [
    { figure: 'read_bytes_per_second', label: 'Read' }, { figure: 'write_bytes_per_second', label: 'Written' }] },
  { id: 'latency', title: 'Latency', format: formatMicros, figures: [
    { figure: 'read_latency_p50_micros', label: 'Read p50', dashed: true }, { figure: 'read_latency_p99_micros', label: 'Read p99' },
    { figure: 'write_latency_p50_micros', label: 'Write p50', dashed: true }, { figure: 'write_latency_p99_micros', label: 'Write p99' }] },
  { id: 'capacity', title: 'Capacity', format: formatBytes, binary: true, figures: [
    { figure: 'used_bytes', label: 'Used' }, { figure: 'capacity_bytes', label: 'Capacity', dashed: true }] },
  { id: 'rebuild', title: 'To be copied', format: formatBytes, binary: true, figures: [{ figure: 'rebuild_remaining_bytes', label: 'Left' }] },
];

/** The colour of a chart's nth figure: reads and writes keep theirs on every chart. */
export function colourFor(figure: string, position: number): number {
  if (figure.startsWith('read')) return 1;
  if (figure.startsWith('write')) return 2;
  return 3 + (position % 4);
}

/** A name for a figure that no chart above has. */
export function figureName(figure: string): string {
  const text = figure.replace(/_(bytes|micros|ms)$/, '').replaceAll('_per_second', ' per second').replaceAll('_', ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** How a figure is written, by the unit that the server says. */
export function formatFor(unit: string): (value: number) => string {
  switch (unit) {
    case 'bytes': return formatBytes;
    case 'bytes per second': return formatRate;
    case 'operations per second': return formatOperations;
    case 'microseconds': return formatMicros;
    default: return formatCount;
  }
}
