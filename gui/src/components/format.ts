// Figures as people read them. No state; bigint and number alike.

/** A figure and its unit stay on one line. */
const gap = '\u00a0';
const binary = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** "1.5 GiB": as the command `tessera` writes it. */
export function formatBytes(bytes: bigint | number): string {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1024 && unit + 1 < binary.length) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Number.isInteger(value) ? 0 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)}${gap}${binary[unit]}`;
}

/** "12.3 MiB/s". */
export const formatRate = (bytes: bigint | number) => `${formatBytes(Math.round(Number(bytes)))}/s`;

/** "1,234" or "12.3 k". */
export function formatCount(value: bigint | number): string {
  const number = Number(value);
  if (number < 10 && !Number.isInteger(number)) return number.toFixed(1);
  if (Math.abs(number) < 100_000) return Math.round(number).toLocaleString('en-US');
  if (Math.abs(number) < 1e6) return `${(number / 1e3).toFixed(0)}${gap}k`;
  return `${(number / 1e6).toFixed(number < 1e8 ? 1 : 0)}${gap}M`;
}

/** "1,200 IO/s". */
export const formatOperations = (perSecond: number) => `${formatCount(perSecond)}${gap}IO/s`;

/** "350 µs", "1.2 ms", "3.4 s". */
export function formatMicros(micros: bigint | number): string {
  const value = Number(micros);
  if (value < 1000) return `${Math.round(value)}${gap}µs`;
  if (value < 1e6) return `${(value / 1e3).toFixed(value < 1e4 ? 1 : 0)}${gap}ms`;
  return `${(value / 1e6).toFixed(value < 1e7 ? 1 : 0)}${gap}s`;
}

/** "42 s", "5 min", "3 h 20 min", "12 d 4 h". */
export function formatDuration(ms: bigint | number): string {
  const seconds = Math.max(0, Math.round(Number(ms) / 1000));
  if (seconds < 90) return `${seconds}${gap}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes}${gap}min`;
  if (minutes < 48 * 60) return joined(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  const hours = Math.round(minutes / 60);
  return joined(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function joined(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large}${gap}${largeUnit}` : `${large}${gap}${largeUnit}${gap}${small}${gap}${smallUnit}`;
}

/** How long ago, or in how long, `timeMs` is: "20 s ago", "in 3 h". */
export function formatAge(timeMs: bigint | number, nowMs: number): string {
  const ago = nowMs - Number(timeMs);
  if (Math.abs(ago) < 1500) return 'now';
  return ago > 0 ? `${formatDuration(ago)} ago` : `in ${formatDuration(-ago)}`;
}

const absolute = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'long' });
/** "29 Nov 2026, 23:31:07 CET". */
export const formatTime = (timeMs: bigint | number) => absolute.format(Number(timeMs));

/** 37.4 of 100 is "37 %"; what is there but rounds to nothing is "< 1 %". */
export function formatPercent(part: bigint | number, whole: bigint | number): string {
  const of = Number(whole);
  if (of <= 0) return '–';
  const percent = (100 * Number(part)) / of;
  return percent > 0 && percent < 1 ? `<${gap}1${gap}%` : `${Math.round(percent)}${gap}%`;
}

const units: Record<string, number> = {
  '': 1, B: 1, K: 2 ** 10, KiB: 2 ** 10, M: 2 ** 20, MiB: 2 ** 20, G: 2 ** 30, GiB: 2 ** 30, T: 2 ** 40, TiB: 2 ** 40,
  PiB: 2 ** 50, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, PB: 1e15,
};

/** "10GiB" or "1.5 TiB" in bytes; null when it is no size. The same forms as the command `tessera` takes. */
export function parseSize(text: string): bigint | null {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$/.exec(text);
  const factor = match ? units[match[2] ?? ''] : undefined;
  if (!match || factor === undefined) return null;
  const bytes = Number(match[1]) * factor;
  return bytes <= 1e18 && Number.isInteger(bytes) ? BigInt(bytes) : null;
}

/** A size so that parseSize gives it back exactly: "10GiB", "4097B". */
export function exactSize(bytes: bigint): string {
  for (let power = 5; power > 0; power -= 1) {
    const factor = 1n << BigInt(10 * power);
    if (bytes > 0n && bytes % factor === 0n) return `${bytes / factor}${binary[power]}`;
  }
  return bytes === 0n ? '0' : `${bytes}B`;
}

const durations: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, min: 6e4, h: 3.6e6, d: 8.64e7 };

/** "30m", "1.5 h", "7d" in milliseconds; null when it is no duration. */
export function parseDuration(text: string): number | null {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*$/.exec(text);
  const factor = match ? durations[match[2] ?? ''] : undefined;
  return match && factor !== undefined ? Math.round(Number(match[1]) * factor) : null;
}

/** A duration so that parseDuration gives it back exactly: "90m", "7d". */
export function exactDuration(ms: bigint | number): string {
  return withUnit(Number(ms), [['d', 8.64e7], ['h', 3.6e6], ['m', 6e4], ['s', 1e3]]);
}

/** The same for the command `tessera`, whose greatest unit is the hour: "168h". */
export function commandDuration(ms: bigint | number): string {
  return withUnit(Number(ms), [['h', 3.6e6], ['m', 6e4], ['s', 1e3]]);
}

function withUnit(value: number, units: [string, number][]): string {
  for (const [unit, factor] of units) {
    if (value > 0 && value % factor === 0) return `${value / factor}${unit}`;
  }
  return value === 0 ? '0s' : `${value}ms`;
}

/** COMPONENT_STATE_ONLINE of an enum without its prefix, in words: "online", "single copy". */
export function words(enumeration: Record<number, string>, value: number): string {
  const name = enumeration[value];
  if (name === undefined) return String(value);
  return name === 'UNSPECIFIED' ? 'unknown' : name.toLowerCase().replaceAll('_', ' ');
}
