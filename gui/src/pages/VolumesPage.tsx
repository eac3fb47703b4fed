// All volumes: find, sort, choose several, and what can be done with them.
import { useMemo, useState } from 'preact/hooks';
import { deleteVolumes, purgeVolume, restoreVolume, snapshotVolumes } from '../api/actions/snapshot_actions';
import { createVolume } from '../api/actions/volume_actions';
import { ActionButton } from '../components/ActionButton';
import { Age, Empty, Loaded, PageHead, Tabs } from '../components/basics';
import { formatBytes } from '../components/format';
import { SearchBox } from '../components/SearchBox';
import { VerdictBadge } from '../components/states';
import { Table, type Column } from '../components/Table';
import { VolumeMenu } from '../components/VolumeMenu';
import { VolumeVerdict, type VolumeHealth } from '../gen/tessera/v1/health_pb';
import { VolumeKind, VolumeService, type Volume } from '../gen/tessera/v1/volume_pb';
import { serverNow } from '../store/clock';
import { useClients, usePools, useVolumeHealth, useVolumes } from '../store/objects';
import { linkTo, setQuery, useRoute } from '../store/router';
import { Schedules } from './Schedules';

const methods = VolumeService.method;

export function VolumesPage() {
  const { query } = useRoute();
  const tab = query.get('tab') ?? 'volumes';
  const pools = usePools();
  return (
    <>
      <PageHead title="Volumes">
        <ActionButton primary method={methods.createVolume} action={() => createVolume(pools.value ?? [])}>Create volume</ActionButton>
      </PageHead>
      <Tabs label="Kinds of volumes" current={tab} tabs={[
        { id: 'volumes', label: 'Volumes', href: linkTo(['volumes']) },
        { id: 'snapshots', label: 'Snapshots', href: linkTo(['volumes'], { tab: 'snapshots' }) },
        { id: 'schedules', label: 'Schedules', href: linkTo(['volumes'], { tab: 'schedules' }) },
        { id: 'trash', label: 'Trash', href: linkTo(['volumes'], { tab: 'trash' }) },
      ]} />
      {tab === 'schedules' ? <Schedules /> : tab === 'trash' ? <Trash /> : <VolumeList key={tab} snapshots={tab === 'snapshots'} />}
    </>
  );
}

function VolumeList({ snapshots }: { snapshots: boolean }) {
  const { query } = useRoute();
  const search = query.get('search') ?? '';
  // Beyond the bound of what is kept here, the server searches.
  const [server, setServer] = useState('');
  const volumes = useVolumes(server, false);
  const health = useVolumeHealth();
  const clients = useClients();
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const verdicts = useMemo(() => new Map(health.value?.items.map((one) => [one.volumeId, one]) ?? []), [health.value]);
  const all = volumes.value?.items ?? [];
  const shown = useMemo(() => {
    const wanted = search.trim().toLowerCase();
    return all.filter((volume) => (volume.kind === VolumeKind.SNAPSHOT) === snapshots && matches(volume, wanted));
  }, [all, search, snapshots]);
  const picked = useMemo(() => shown.filter(({ volumeId }) => chosen.has(String(volumeId))), [shown, chosen]);
  const clear = () => setChosen(new Set());
  const columns = columnsOf(snapshots, verdicts, (volume) => <VolumeMenu volume={volume} clients={clients.value ?? []} />);
  return (
    <Loaded of={volumes} lines={10}>
      {({ truncated }) => (
        <>
          <div class="toolbar">
            <SearchBox label={snapshots ? 'Search snapshots' : 'Search volumes'} value={search} onChange={(text) => {
              setQuery({ search: text });
              if (truncated || server) setServer(text.trim());
            }} />
            <span class="muted" role="status">{shown.length.toLocaleString('en-US')} shown</span>
            <div class="actions">
              {picked.length > 0 && <span class="muted">{picked.length} chosen</span>}
              {!snapshots && (
                <ActionButton method={methods.createSnapshots} disabled={picked.length === 0} why="Choose volumes first" onDone={clear}
                  action={() => snapshotVolumes(picked, serverNow())}>Snapshot chosen</ActionButton>
              )}
              <ActionButton danger method={methods.deleteVolume} disabled={picked.length === 0} why="Choose some first" onDone={clear}
                action={() => deleteVolumes(picked)}>Delete chosen</ActionButton>
            </div>
          </div>
          {truncated && <p class="muted">More than can be shown: search by name to narrow them down.</p>}
          <Table caption={snapshots ? 'Snapshots' : 'Volumes'} columns={columns} rows={shown} keyOf={(volume) => String(volume.volumeId)}
            nameOf={(volume) => volume.name} sortedBy="name" selection={{ chosen, onChange: setChosen }}
            empty={<Empty title={search ? `Nothing is called “${search}”.` : snapshots ? 'There are no snapshots yet.' : 'There are no volumes yet.'}>
              {!search && !snapshots && 'Create one, map it to a client, and it is a block device there.'}</Empty>} />
        </>
      )}
    </Loaded>
  );
}

function matches(volume: Volume, wanted: string): boolean {
  return wanted === '' || volume.name.toLowerCase().includes(wanted) || volume.parentName.toLowerCase().includes(wanted)
    || volume.mappings.some(({ sdcName }) => sdcName.toLowerCase().includes(wanted))
    || Object.entries(volume.labels).some(([key, value]) => `${key}=${value}`.toLowerCase().includes(wanted));
}

function columnsOf(snapshots: boolean, verdicts: Map<bigint, VolumeHealth>, menu: Column<Volume>['cell']): Column<Volume>[] {
  const verdictOf = (volume: Volume) => verdicts.get(volume.volumeId)?.verdict ?? VolumeVerdict.UNSPECIFIED;
  return [
    { id: 'name', head: 'Name', sort: ({ name }) => name,
      cell: (volume) => <a href={linkTo(['volumes', volume.volumeId])}>{volume.name}</a> },
    { id: 'size', head: 'Size', align: 'right', sort: ({ sizeBytes }) => sizeBytes, cell: ({ sizeBytes }) => formatBytes(sizeBytes) },
    { id: 'pool', head: 'Pool', sort: ({ poolName }) => poolName, cell: ({ poolName }) => poolName },
    { id: 'health', head: 'Health', sort: verdictOf, cell: (volume) => <VerdictBadge verdict={verdictOf(volume)} /> },
    snapshots
      ? { id: 'of', head: 'Of', sort: ({ parentName }) => parentName, cell: (volume) => volume.parentName
          ? <a href={linkTo(['volumes', volume.parentId])}>{volume.parentName}</a> : <span class="muted">gone</span> }
      : { id: 'clients', head: 'Clients', sort: ({ mappings }) => mappings.map(({ sdcName }) => sdcName).join(),
          cell: ({ mappings }) => mappings.length === 0 ? <span class="muted">none</span> : mappings.map(({ sdcName }) => sdcName).join(', ') },
    { id: 'created', head: 'Created', sort: ({ createdMs }) => createdMs, cell: ({ createdMs }) => <Age ms={createdMs} /> },
    { id: 'actions', head: 'Actions', cell: menu },
  ];
}

function Trash() {
  const volumes = useVolumes('', true);
  return (
    <Loaded of={volumes}>
      {({ items }) => (
        <Table caption="Volumes in the trash" rows={items} keyOf={(volume) => String(volume.volumeId)} sortedBy="until" columns={[
          { id: 'name', head: 'Name', sort: ({ name }) => name, cell: ({ name }) => name },
          { id: 'size', head: 'Size', align: 'right', sort: ({ sizeBytes }) => sizeBytes, cell: ({ sizeBytes }) => formatBytes(sizeBytes) },
          { id: 'until', head: 'Deleted for ever', sort: ({ trashedUntilMs }) => trashedUntilMs, cell: ({ trashedUntilMs }) => <Age ms={trashedUntilMs} /> },
          { id: 'actions', head: 'Actions', cell: (volume) => (
            <span class="row-actions">
              <ActionButton method={methods.restoreVolume} action={() => restoreVolume(volume)} label={`Restore ${volume.name}`} onDone={volumes.reload}>Restore</ActionButton>
              <ActionButton danger method={methods.deleteVolume} action={() => purgeVolume(volume)} label={`Delete ${volume.name} for ever`} onDone={volumes.reload}>Delete for ever</ActionButton>
            </span>
          ) },
        ]} empty={<Empty title="The trash is empty.">What is deleted stays here for a while, and can be restored.</Empty>} />
      )}
    </Loaded>
  );
}
