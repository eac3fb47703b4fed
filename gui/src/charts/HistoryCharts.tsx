// Charts of one subject over one range, read from MGMT's history and again at each poll while the range ends now.
import { useMemo } from 'preact/hooks';
import { consoleClient } from '../api/clients';
import type { HistorySeries } from '../gen/tessera/v1/console_pb';
import type { ComponentKind } from '../gen/tessera/v1/types_pb';
import { Empty, Loaded } from '../components/basics';
import { serverNow } from '../store/clock';
import { onPoll } from '../store/objects';
import { useResource } from '../store/resource';
import { colourFor, figureName, formatFor, type ChartSpec } from './figures';
import { alignSeries } from './history';
import { TimeChart } from './TimeChart';

export interface Subject {
  kind: ComponentKind;
  componentId: bigint;
  volumeId: bigint;
}

/** A range that ends now (`spanMs`), or one between two moments. */
export type Range = { spanMs: number } | { fromMs: number; untilMs: number };

const noPoll = () => () => {};

export function HistoryCharts({ subject, range, specs, extra = [], onZoom, height, points = 300 }: {
  subject: Subject; range: Range; specs: ChartSpec[]; onZoom?: (fromMs: number, untilMs: number) => void; height?: number;
  /** Figures besides those of `specs`, with their units. */
  extra?: { figure: string; unit: string }[]; points?: number;
}) {
  const all = useMemo(() => [
    ...specs,
    ...extra.map(({ figure, unit }): ChartSpec => ({ id: figure, title: figureName(figure), format: formatFor(unit), binary: unit.startsWith('bytes'),
      figures: [{ figure, label: figureName(figure) }] })),
  ], [specs, extra]);
  const figures = useMemo(() => all.flatMap((spec) => spec.figures.map(({ figure }) => figure)).slice(0, 50), [all]);
  const live = 'spanMs' in range;
  const key = `history ${subject.kind} ${subject.componentId} ${subject.volumeId} ${figures.join()} ${JSON.stringify(range)}`;
  const history = useResource(key, async (signal) => {
    const untilMs = live ? serverNow() : range.untilMs;
    const fromMs = live ? untilMs - range.spanMs : range.fromMs;
    const answer = await consoleClient.queryHistory({
      series: figures.map((figure) => ({ ...subject, figure })), points,
      fromMs: BigInt(Math.floor(fromMs)), untilMs: live ? 0n : BigInt(Math.ceil(untilMs)),
    }, { signal });
    return { ...answer, fromMs, untilMs };
  }, live ? onPoll : noPoll);
  return (
    <Loaded of={history} lines={6}>
      {({ series, stepMs, fromMs, untilMs }) => {
        const byFigure = new Map(series.map((one, index) => [figures[index] ?? '', one]));
        const drawn = all.filter((spec) => spec.figures.some(({ figure }) => (byFigure.get(figure)?.timeMs.length ?? 0) > 0));
        if (drawn.length === 0) return <Empty title="No figures in this time yet">History begins with MGMT’s first poll.</Empty>;
        return (
          <div class="charts">
            {drawn.map((spec) => (
              <Chart key={spec.id} spec={spec} byFigure={byFigure} stepMs={Number(stepMs)} range={[fromMs / 1000, untilMs / 1000]}
                onZoom={onZoom} height={height} />
            ))}
          </div>
        );
      }}
    </Loaded>
  );
}

function Chart({ spec, byFigure, stepMs, range, onZoom, height }: {
  spec: ChartSpec; byFigure: Map<string, HistorySeries>; stepMs: number; range: [number, number];
  onZoom?: (fromMs: number, untilMs: number) => void; height?: number;
}) {
  const there = spec.figures.flatMap((figure, position) => {
    const points = byFigure.get(figure.figure);
    return points ? [{ ...figure, points, colour: colourFor(figure.figure, position) }] : [];
  });
  const data = useMemo(() => alignSeries(there.map(({ points }) => points), stepMs), [byFigure]);
  return (
    <TimeChart title={spec.title} series={there} data={data} format={spec.format} binary={spec.binary} group="history" range={range} onZoom={onZoom}
      height={height} />
  );
}
