// Lines over time (uPlot). What it shows stands in words beside it, for screen readers and as a legend.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import { onThemeChange } from '../store/theme';
import { describeSeries, type ChartData } from './history';

export interface ChartSeries {
  label: string;
  /** 1 to 6: which of the style's colours. */
  colour: number;
  dashed?: boolean;
}

interface Props {
  title: string;
  series: ChartSeries[];
  data: ChartData;
  format(value: number): string;
  /** Its figures are bytes: the axis goes by powers of two. */
  binary?: boolean;
  height?: number;
  /** Charts of one group show the same moment under the pointer. */
  group?: string;
  /** The range, in seconds; without it that of the data. */
  range?: [number, number];
  /** Called when a range was dragged. */
  onZoom?: (fromMs: number, untilMs: number) => void;
}

/** 1, 2, 5, 10, … 512 of each unit from byte to pebibyte. */
const binarySteps = Array.from({ length: 6 }, (_, unit) => [1, 2, 5, 10, 20, 50, 100, 200, 256, 512].map((step) => step * 1024 ** unit)).flat();

const colourOf = (element: Element, name: string) => getComputedStyle(element).getPropertyValue(name).trim() || '#888';

export function TimeChart({ title, series, data, format, binary, height = 170, group, range, onZoom }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [index, setIndex] = useState<number | null>(null);
  const latest = useRef({ format, binary, onZoom, range });
  latest.current = { format, binary, onZoom, range };
  const shape = series.map(({ label, colour, dashed }) => `${label}/${colour}/${dashed}`).join();

  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element), data, element);
    };
    const options = (host: HTMLElement): uPlot.Options => {
      const axis = { stroke: colourOf(host, '--muted'), font: '11px system-ui, sans-serif',
        grid: { stroke: colourOf(host, '--line'), width: 1 }, ticks: { show: false } };
      return {
        width: Math.max(120, host.clientWidth), height, legend: { show: false }, padding: [8, 8, 0, 0],
        cursor: { sync: group ? { key: group } : undefined, drag: { x: latest.current.onZoom !== undefined, y: false, setScale: false },
          points: { size: 6 } },
        scales: {
          x: { range: (_plot, min, max) => latest.current.range ?? [min, max] },
          y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.1 : 4] },
        },
        axes: [
          { ...axis, space: 70, size: 26, gap: 6, values: timeLabels },
          { ...axis, size: 70, space: 34, ...(latest.current.binary ? { incrs: binarySteps } : {}), values: (_plot, splits) => splits.map((value) => latest.current.format(value)) },
        ],
        series: [{}, ...series.map(({ label, colour, dashed }) => ({
          label, stroke: colourOf(host, `--series-${colour}`), width: 1.6, dash: dashed ? [5, 4] : undefined,
          points: { show: false }, spanGaps: false,
        }))],
        hooks: {
          setCursor: [(self) => setIndex(self.cursor.idx ?? null)],
          setSelect: [(self) => {
            const { left, width } = self.select;
            if (width > 4) latest.current.onZoom?.(1000 * self.posToVal(left, 'x'), 1000 * self.posToVal(left + width, 'x'));
            self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          }],
        },
      };
    };
    draw();
    const resized = new ResizeObserver(() => {
      const width = Math.max(120, element.clientWidth);
      if (plot.current && plot.current.width !== width) plot.current.setSize({ width, height });
    });
    resized.observe(element);
    const stop = onThemeChange(draw);
    return () => {
      resized.disconnect();
      stop();
      plot.current?.destroy();
      plot.current = null;
    };
    // Data comes by the effect below; the rest is read when it is drawn.
  }, [shape, height, group]);

  useEffect(() => {
    plot.current?.setData(data);
  }, [data, range?.[0], range?.[1]]);

  const [times, ...columns] = data;
  const words = useMemo(() => series.map(({ label }, number) => describeSeries(label, columns[number] ?? [], format)).join(' '), [data, shape]);
  const at = index ?? times.length - 1;
  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{title}</span>
        <span class="legend" aria-hidden="true">
          {index !== null && times[index] !== undefined && <span class="legend-time">{new Date(times[index] * 1000).toLocaleTimeString('en-GB')}</span>}
          {series.map(({ label, colour, dashed }, number) => {
            const value = columns[number]?.[at];
            return (
              <span key={label} class="legend-entry">
                <svg width="16" height="8" class={`series-${colour}`}>
                  <line x1="0" y1="4" x2="16" y2="4" stroke="currentColor" stroke-width="2" stroke-dasharray={dashed ? '4 3' : undefined} />
                </svg>
                {label} <b>{value === null || value === undefined ? '–' : format(value)}</b>
              </span>
            );
          })}
        </span>
      </figcaption>
      <p class="hidden">{title}. {words}</p>
      <div ref={place} class="chart-place" style={{ height: `${height}px` }} aria-hidden="true">
        {times.length === 0 && <span class="chart-empty">No figures in this time</span>}
      </div>
    </figure>
  );
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const precise = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });

/** Days where the range has days, seconds where it has only minutes. */
function timeLabels(_plot: uPlot, splits: number[]): string[] {
  const span = (splits.at(-1) ?? 0) - (splits[0] ?? 0);
  const step = (splits[1] ?? 0) - (splits[0] ?? 0);
  return splits.map((seconds) => {
    const date = new Date(seconds * 1000);
    if (step >= 86_400) return day.format(date);
    if (span > 86_400 && date.getHours() === 0 && date.getMinutes() === 0) return day.format(date);
    return step < 60 ? precise.format(date) : clock.format(date);
  });
}
