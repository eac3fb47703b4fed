// One volume: who has it, its snapshots, where it lies, how it is doing, where the time of its requests goes.
import { useMemo, useState } from 'preact/hooks';
import { cloneSnapshot, deleteVolumes, rollbackVolume, snapshotVolumes } from '../api/actions/snapshot_actions';
import { limitVolume, mapVolume, renameVolume, resizeVolume, unmapVolume } from '../api/actions/volume_actions';
import { usage } from '../api/clients';
import { describeError, type Problem } from '../api/errors';
import { charts } from '../charts/figures';
import { HistoryCharts } from '../charts/HistoryCharts';
import { ActionButton } from '../components/ActionButton';
import { Age, Badge, Empty, Facts, Loaded, PageHead, Panel, ProblemBox, Tabs } from '../components/basics';
import { formatBytes, formatCount, formatRate, words } from '../components/format';
import { SnapshotTree } from '../components/SnapshotTree';
import { VerdictBadge } from '../components/states';
import { Table } from '../components/Table';
import { VolumeLatency } from '../components/VolumeLatency';
import { VolumePlacement } from '../components/VolumePlacement';
import type { VolumeHealth } from '../gen/tessera/v1/health_pb';
import type { VolumeUsage } from '../gen/tessera/v1/usage_pb';
import { ComponentKind } from '../gen/tessera/v1/types_pb';
import { MappingMode, Provisioning, VolumeKind, VolumeService, type Volume } from '../gen/tessera/v1/volume_pb';
import { serverNow } from '../store/clock';
import { useClients, useVolume, useVolumeHealth, useVolumes } from '../store/objects';
import { goTo, linkTo, useRoute } from '../store/router';

const methods = VolumeService.method;
const lastHour = { spanMs: 3_600_000 };
const shownCharts = charts.filter(({ id }) => id !== 'capacity' && id !== 'rebuild');

export function VolumePage({ volumeId }: { volumeId: bigint }) {
  const volume = useVolume(volumeId);
  const trail = { label: 'Volumes', href: linkTo(['volumes']) };
  return (
    <>
      {volume.value === null && <PageHead title={`Volume ${volumeId}`} trail={trail} />}
      <Loaded of={volume}>{(found) => found ? <Details volume={found} /> : <Empty title="There is no such volume." />}</Loaded>
    </>
  );
}

function Details({ volume }: { volume: Volume }) {
  const tab = useRoute().query.get('tab') === 'latency' ? 'latency' : 'overview';
  const clients = useClients();
  const family = useVolumes('', false);
  const health = useVolumeHealth();
  const mine = health.value?.items.find(({ volumeId }) => volumeId === volume.volumeId);
  const snapshots = useMemo(() => family.value?.items.filter(({ parentId, kind }) =>
    parentId === volume.volumeId && kind === VolumeKind.SNAPSHOT) ?? [], [family.value, volume.volumeId]);
  const isSnapshot = volume.kind === VolumeKind.SNAPSHOT;
  const mapped = volume.mappings.length > 0;
  const leave = () => goTo(['volumes']);
  return (
    <>
      <PageHead title={volume.name} trail={{ label: 'Volumes', href: linkTo(['volumes']) }}>
        {isSnapshot
          ? <ActionButton primary method={methods.cloneVolume} action={() => cloneSnapshot(volume)}>Clone</ActionButton>
          : <ActionButton primary method={methods.mapVolume} action={() => mapVolume(volume, clients.value ?? [])}>Map</ActionButton>}
        {!isSnapshot && (
          <>
            <ActionButton method={methods.createSnapshots} action={() => snapshotVolumes([volume], serverNow())}>Snapshot</ActionButton>
            <ActionButton method={methods.updateVolume} action={() => resizeVolume(volume)}>Resize</ActionButton>
            <ActionButton method={methods.updateVolume} action={() => limitVolume(volume)}>Limits</ActionButton>
            <ActionButton method={methods.rollbackVolume} action={() => rollbackVolume(volume, snapshots)}
              disabled={mapped || snapshots.length === 0} why={mapped ? 'Unmap it first' : 'It has no snapshots'}>Roll back</ActionButton>
          </>
        )}
        <ActionButton method={methods.updateVolume} action={() => renameVolume(volume)} disabled={mapped} why="Unmap it first">Rename</ActionButton>
        <ActionButton danger method={methods.deleteVolume} action={() => deleteVolumes([volume])} onDone={leave}
          disabled={mapped || (!isSnapshot && snapshots.length > 0)} why={mapped ? 'Unmap it first' : 'Delete its snapshots first'}>Delete</ActionButton>
      </PageHead>
      {mine?.cause && <p class="verdict warning"><VerdictBadge verdict={mine.verdict} /><span>{mine.cause}. {mine.action}</span></p>}
      <Tabs label={`Parts of ${volume.name}`} current={tab} tabs={[
        { id: 'overview', label: 'Overview', href: linkTo(['volumes', volume.volumeId]) },
        { id: 'latency', label: 'Where the time goes', href: linkTo(['volumes', volume.volumeId], { tab: 'latency' }) },
      ]} />
      {tab === 'latency' ? <VolumeLatency volume={volume} />
        : <Overview volume={volume} family={family.value?.items ?? []} snapshots={snapshots} health={mine} />}
    </>
  );
}

function Overview({ volume, family, snapshots, health }: {
  volume: Volume; family: Volume[]; snapshots: Volume[]; health: VolumeHealth | undefined;
}) {
  const isSnapshot = volume.kind === VolumeKind.SNAPSHOT;
  const mapped = volume.mappings.length > 0;
  return (
    <>
      <div class="columns">
        <Panel title="About">
          <Facts facts={[
            ['Health', health ? <VerdictBadge verdict={health.verdict} /> : <span class="muted">not known</span>],
            ['Kind', isSnapshot ? 'snapshot' : volume.parentId ? 'clone' : 'volume'],
            ['Size', formatBytes(volume.sizeBytes)],
            ['Pool', volume.poolName],
            ['Space', volume.provisioning === Provisioning.THICK ? 'thick: set aside' : 'thin: taken when written'],
            ['Limits', limitsInWords(volume)],
            ...(volume.parentId ? [['Made from', volume.parentName ? <a href={linkTo(['volumes', volume.parentId])}>{volume.parentName}</a> : 'a snapshot that is gone'] as [string, preact.ComponentChildren]] : []),
            ...(volume.expiresMs ? [['Deletes itself', <Age ms={volume.expiresMs} />] as [string, preact.ComponentChildren]] : []),
            ...(volume.lockedUntilMs ? [['Locked until', <Age ms={volume.lockedUntilMs} />] as [string, preact.ComponentChildren]] : []),
            ...(volume.overBudget ? [['Budget', <Badge tone="error">over its {formatBytes(volume.byteBudget)}</Badge>] as [string, preact.ComponentChildren]] : []),
            ['Created', <Age ms={volume.createdMs} />],
            ...Object.entries(volume.labels).map(([key, value]) => [`Label ${key}`, value] as [string, string]),
          ]} />
          <Usage volumeId={volume.volumeId} />
        </Panel>
        <Panel title="Snapshots and clones">
          <SnapshotTree volume={volume} family={family}
            actions={(snapshot) => isSnapshot ? null : (
              <ActionButton quiet method={methods.rollbackVolume} action={() => rollbackVolume(volume, snapshots, snapshot)} disabled={mapped}
                why="Unmap it first" label={`Roll back to ${snapshot.name}`}>Roll back</ActionButton>
            )} />
        </Panel>
      </div>
      <Panel title="Mappings"><Mappings volume={volume} /></Panel>
      <Panel title="Last hour" actions={<a href={linkTo(['monitoring'], { subject: `volume/${volume.volumeId}` })}>Monitoring</a>}>
        <HistoryCharts subject={{ kind: ComponentKind.UNSPECIFIED, componentId: 0n, volumeId: volume.volumeId }} range={lastHour} specs={shownCharts} />
      </Panel>
      <Panel title="Where it lies"><VolumePlacement volume={volume} /></Panel>
    </>
  );
}

function limitsInWords(volume: Volume): string {
  const parts = [
    volume.iopsLimit > 0 && `${formatCount(volume.iopsLimit)} IO/s`,
    volume.bandwidthLimitBytes > 0n && formatRate(volume.bandwidthLimitBytes),
  ].filter(Boolean);
  if (parts.length === 0) return 'none';
  return `${parts.join(', ')}, bursts of ${volume.burstSeconds || 1} s`;
}

function Mappings({ volume }: { volume: Volume }) {
  return (
    <Table caption={`Mappings of ${volume.name}`} rows={volume.mappings} keyOf={({ sdcId }) => String(sdcId)} sortedBy="client" columns={[
      { id: 'client', head: 'Client', sort: ({ sdcName }) => sdcName, cell: ({ sdcName }) => sdcName },
      { id: 'mode', head: 'Mode', cell: ({ mode, writer }) => `${words(MappingMode, mode || MappingMode.READ_WRITE)}${writer ? ', has the right to write' : ''}` },
      { id: 'attached', head: 'Offered', cell: ({ attached }) => attached ? <Badge tone="ok">yes</Badge> : <Badge tone="warning">not yet</Badge> },
      { id: 'uris', head: 'NBD', cell: ({ nbdUris }) => nbdUris.map((uri) => <code key={uri} class="block">{uri}</code>) },
      { id: 'actions', head: 'Actions', cell: (mapping) => (
        <ActionButton quiet method={methods.unmapVolume} action={() => unmapVolume(volume, mapping)} label={`Unmap from ${mapping.sdcName}`}>Unmap</ActionButton>
      ) },
    ]} empty={<Empty title="Nobody has it mapped." />} />
  );
}

/** Counted only when asked for: it costs the servers time. */
function Usage({ volumeId }: { volumeId: bigint }) {
  const [found, setFound] = useState<VolumeUsage | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const count = async () => {
    setBusy(true);
    setProblem(null);
    try {
      const { pools } = await usage.getUsage({ volumeId });
      setFound(pools.flatMap(({ vtrees }) => vtrees.flatMap(({ volumes }) => volumes)).find((one) => one.volumeId === volumeId) ?? null);
    } catch (error) {
      setProblem(describeError(error));
    }
    setBusy(false);
  };
  return (
    <>
      {found && <Facts facts={[['Holds', formatBytes(found.logicalBytes)], ['Alone (what its deletion gives back)', formatBytes(found.uniqueBytes)]]} />}
      {problem && <ProblemBox problem={problem} />}
      <button type="button" disabled={busy} onClick={() => void count()}>{busy ? 'Counting…' : found ? 'Count again' : 'Count what it takes'}</button>
    </>
  );
}
