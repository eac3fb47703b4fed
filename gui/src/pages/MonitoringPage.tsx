// Figures over time of the cluster, of any part, of any volume.
import { useMemo } from 'preact/hooks';
import { consoleClient } from '../api/clients';
import { charts } from '../charts/figures';
import { HistoryCharts, type Range, type Subject } from '../charts/HistoryCharts';
import { Empty, Loaded, PageHead } from '../components/basics';
import { formatTime } from '../components/format';
import { kindName } from '../components/states';
import type { SeriesInfo } from '../gen/tessera/v1/console_pb';
import { ComponentKind } from '../gen/tessera/v1/types_pb';
import { readPages } from '../store/pages';
import { useResource } from '../store/resource';
import { setQuery, useRoute } from '../store/router';

const spans: [string, number][] = [
  ['15 min', 900_000], ['1 h', 3_600_000], ['6 h', 21_600_000], ['1 day', 86_400_000], ['7 days', 604_800_000],
  ['30 days', 2_592_000_000], ['1 year', 31_536_000_000],
];
const known = new Set(charts.flatMap(({ figures }) => figures.map(({ figure }) => figure)));

interface Entry {
  id: string;
  name: string;
  group: string;
  subject: Subject;
  figures: { figure: string; unit: string }[];
}

/** "2/3" for a part, "volume/7" for a volume, "cluster". */
function idOf({ kind, componentId, volumeId }: Subject): string {
  if (volumeId > 0n) return `volume/${volumeId}`;
  return kind === ComponentKind.UNSPECIFIED ? 'cluster' : `${kind}/${componentId}`;
}

/** What there are figures of, the cluster first. */
export function subjectsOf(series: readonly SeriesInfo[]): Entry[] {
  const found = new Map<string, Entry>();
  for (const { key, name, unit } of series) {
    if (!key) continue;
    const subject = { kind: key.kind, componentId: key.componentId, volumeId: key.volumeId };
    const id = idOf(subject);
    const group = key.volumeId > 0n ? 'Volumes' : key.kind === ComponentKind.UNSPECIFIED ? '' : `${kindName(key.kind)}s`;
    const entry = found.get(id) ?? { id, name: id === 'cluster' ? 'Whole cluster' : name || id, group, subject, figures: [] };
    entry.figures.push({ figure: key.figure, unit });
    found.set(id, entry);
  }
  return [...found.values()].sort((a, b) => a.group.localeCompare(b.group) || a.name.localeCompare(b.name, 'en', { numeric: true }));
}

export function MonitoringPage() {
  const series = useResource('series', (signal) => readPages(20_000, async (pageToken) => {
    const answer = await consoleClient.listSeries({ pageSize: 10_000, pageToken }, { signal });
    return { items: answer.series, nextPageToken: answer.nextPageToken };
  }));
  return (
    <>
      <PageHead title="Monitoring" />
      <Loaded of={series} lines={8}>
        {({ items }) => items.length === 0
          ? <Empty title="There are no figures yet.">History begins with MGMT’s first poll.</Empty> : <Explorer series={items} />}
      </Loaded>
    </>
  );
}

function Explorer({ series }: { series: SeriesInfo[] }) {
  const { query } = useRoute();
  const subjects = useMemo(() => subjectsOf(series), [series]);
  const chosen = subjects.find(({ id }) => id === (query.get('subject') ?? 'cluster')) ?? subjects[0];
  const span = Number(query.get('span') ?? 3_600_000);
  const from = Number(query.get('from') ?? 0);
  const until = Number(query.get('until') ?? 0);
  const range: Range = useMemo(() => (from && until ? { fromMs: from, untilMs: until } : { spanMs: span }), [span, from, until]);
  const extra = useMemo(() => chosen?.figures.filter(({ figure }) => !known.has(figure)).sort((a, b) => a.figure.localeCompare(b.figure)) ?? [], [chosen]);
  if (!chosen) return <Empty title="There are no figures yet." />;
  const groups = [...new Set(subjects.map(({ group }) => group))];
  return (
    <>
      <div class="toolbar">
        <label>Of <select value={chosen.id} onChange={(event) => setQuery({ subject: event.currentTarget.value })}>
          {groups.map((group) => {
            const options = subjects.filter((one) => one.group === group).map(({ id, name }) => <option key={id} value={id} selected={id === chosen.id}>{name}</option>);
            return group ? <optgroup key={group} label={group}>{options}</optgroup> : options;
          })}
        </select></label>
        <div class="segments" role="group" aria-label="Range">
          {spans.map(([label, ms]) => (
            <button key={label} type="button" aria-pressed={!from && ms === span} onClick={() => setQuery({ span: String(ms), from: '', until: '' })}>{label}</button>
          ))}
        </div>
        {from > 0 && (
          <span class="muted">{formatTime(from)} to {formatTime(until)} <button type="button" onClick={() => setQuery({ from: '', until: '' })}>Back to live</button></span>
        )}
        {from === 0 && <span class="muted wide-only">Drag across a chart to zoom in</span>}
      </div>
      <HistoryCharts subject={chosen.subject} range={range} specs={charts} extra={extra} height={200}
        onZoom={(fromMs, untilMs) => setQuery({ from: String(Math.floor(fromMs)), until: String(Math.ceil(untilMs)) })} />
    </>
  );
}
