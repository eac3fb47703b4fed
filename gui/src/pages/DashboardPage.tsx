// The cluster at a glance: the verdict, what needs attention, space, IO, what runs.
import { charts } from '../charts/figures';
import { HistoryCharts } from '../charts/HistoryCharts';
import { AlertList } from '../components/AlertList';
import { Age, Badge, Empty, PageHead, Panel, Skeleton, StackedBar } from '../components/basics';
import { formatBytes, formatCount, formatMicros, formatOperations, formatPercent, formatRate } from '../components/format';
import { OperationList } from '../components/OperationList';
import { kindName, partLetter, partTone, partWords, severityTone } from '../components/states';
import { AlertSeverity } from '../gen/tessera/v1/alert_pb';
import type { ClusterFigures, GetOverviewResponse, MonitoredComponent } from '../gen/tessera/v1/console_pb';
import { ComponentKind } from '../gen/tessera/v1/types_pb';
import { activeAlerts, hasEnded, liveOperations, useOverview } from '../store/live';
import { linkTo } from '../store/router';
import { useStore } from '../store/store';

const cluster = { kind: ComponentKind.UNSPECIFIED, componentId: 0n, volumeId: 0n };
const shownCharts = charts.filter(({ id }) => id === 'io' || id === 'bytes' || id === 'latency');
const lastMinutes = { spanMs: 15 * 60_000 };

export function DashboardPage() {
  const overview = useOverview();
  return (
    <>
      <PageHead title="Dashboard" />
      {overview === null ? <Skeleton lines={8} /> : <Dashboard overview={overview} />}
    </>
  );
}

function Dashboard({ overview }: { overview: GetOverviewResponse }) {
  const figures = overview.figures;
  return (
    <div class="dashboard">
      <p class={`verdict ${severityTone[overview.worst] ?? 'neutral'}`} role="status">
        <Badge tone={severityTone[overview.worst] ?? 'neutral'}>{overview.worst === AlertSeverity.UNSPECIFIED ? 'OK' : AlertSeverity[overview.worst]?.toLowerCase()}</Badge>
        <span>{overview.verdict}</span>
        <span class="muted verdict-age">polled <Age ms={overview.polledMs} /></span>
      </p>
      {figures && <Tiles figures={figures} />}
      <div class="columns">
        <Attention />
        <Panel title="Running operations" actions={<a href={linkTo(['operations'])}>All operations</a>}><Running /></Panel>
      </div>
      {figures && <Space figures={figures} />}
      <Panel title="Last 15 minutes" actions={<a href={linkTo(['monitoring'])}>Monitoring</a>}>
        <HistoryCharts subject={cluster} range={lastMinutes} specs={shownCharts} height={150} points={120} />
      </Panel>
      <Parts components={overview.components} />
    </div>
  );
}

function Tiles({ figures }: { figures: ClusterFigures }) {
  const tiles: [string, string, string][] = [
    ['Reads', formatOperations(figures.readsPerSecond), `${formatRate(figures.readBytesPerSecond)} · ${latency(figures.readLatencyP50Micros, figures.readLatencyP99Micros)}`],
    ['Writes', formatOperations(figures.writesPerSecond), `${formatRate(figures.writeBytesPerSecond)} · ${latency(figures.writeLatencyP50Micros, figures.writeLatencyP99Micros)}`],
    ['Volumes', formatCount(figures.volumes), volumesInWords(figures)],
    ['Used', formatPercent(figures.usedBytes, figures.capacityBytes), `${formatBytes(figures.usedBytes)} of ${formatBytes(figures.capacityBytes)}`],
  ];
  return (
    <dl class="tiles">
      {tiles.map(([name, value, more]) => (
        <div key={name} class="tile"><dt>{name}</dt><dd><strong>{value}</strong><span class="muted">{more}</span></dd></div>
      ))}
    </dl>
  );
}

function latency(p50: bigint, p99: bigint): string {
  return p99 === 0n ? 'idle' : `p50 ${formatMicros(p50)}, p99 ${formatMicros(p99)}`;
}

function volumesInWords(figures: ClusterFigures): string {
  const parts = [
    figures.volumesUnavailable > 0n && `${formatCount(figures.volumesUnavailable)} unavailable`,
    figures.volumesDegraded > 0n && `${formatCount(figures.volumesDegraded)} degraded`,
  ].filter(Boolean);
  return [...(parts.length > 0 ? parts : ['all with all copies']), `${formatCount(figures.snapshots)} snapshots`].join(', ');
}

function Attention() {
  const alerts = useStore(activeAlerts);
  const worstFirst = [...alerts.values()].sort((a, b) => b.severity - a.severity || Number(b.raisedMs - a.raisedMs)).slice(0, 6);
  return (
    <Panel title="What needs attention" actions={<a href={linkTo(['alerts'])}>All alerts</a>}>
      {worstFirst.length === 0 ? <Empty title="Nothing needs attention." /> : <AlertList alerts={worstFirst} brief />}
    </Panel>
  );
}

function Running() {
  const operations = useStore(liveOperations);
  const running = [...operations.values()].filter((one) => !hasEnded(one)).slice(0, 6);
  if (running.length === 0) return <Empty title="Nothing is being copied or checked." />;
  return <OperationList operations={running} />;
}

function Space({ figures }: { figures: ClusterFigures }) {
  const whole = Number(figures.capacityBytes);
  const used = Number(figures.usedBytes);
  return (
    <Panel title="Capacity">
      <StackedBar label="Capacity" whole={whole} parts={[{ label: 'Used', value: used, kind: 'used' }]} />
      <p class="bar-legend">
        <span><i class="swatch used" />Used {formatBytes(used)}</span>
        <span><i class="swatch" />Free {formatBytes(Math.max(0, whole - used))}</span>
        <span class="muted">Promised to clients {formatBytes(figures.provisionedBytes)} before copies</span>
        {figures.rebuildRemainingBytes > 0n && <span class="muted">To be copied {formatBytes(figures.rebuildRemainingBytes)}</span>}
      </p>
    </Panel>
  );
}

function Parts({ components }: { components: MonitoredComponent[] }) {
  if (components.length === 0) return null;
  return (
    <Panel title="Parts" actions={<a href={linkTo(['health'])}>Health</a>}>
      <ul class="parts">
        {components.map((part) => (
          <li key={`${part.kind}/${part.componentId}`}>
            <a class={`part ${partTone(part)}`} href={linkTo(['monitoring'], { subject: `${part.kind}/${part.componentId}` })}
              title={[part.address, part.softwareVersion, ...part.problems, part.pollError].filter(Boolean).join('\n')}>
              <span class="letter" aria-hidden="true">{partLetter(part)}</span>
              <span>{part.name || kindName(part.kind)}</span>
              <span class="muted">{partWords(part)}</span>
            </a>
          </li>
        ))}
      </ul>
    </Panel>
  );
}
