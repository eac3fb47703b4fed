// Work that takes long, servers in maintenance, and how copies are made.
import { changeRepairSettings, enterMaintenance, exitMaintenance, drainSds, pauseCopies, scrubSchedule } from '../api/actions/repair_actions';
import { operations, repair, scrub, topology } from '../api/clients';
import { ActionButton } from '../components/ActionButton';
import { Age, Badge, Empty, Facts, Loaded, PageHead, Panel } from '../components/basics';
import { formatBytes, formatDuration, formatRate } from '../components/format';
import { OperationList } from '../components/OperationList';
import { ComponentBadge, OperationBadge } from '../components/states';
import { Table } from '../components/Table';
import { RepairService } from '../gen/tessera/v1/repair_pb';
import { ScrubService } from '../gen/tessera/v1/scrub_pb';
import { hasEnded, liveOperations } from '../store/live';
import { onPoll, usePools } from '../store/objects';
import { operationTitle, progressInWords } from '../store/operations';
import { readPages } from '../store/pages';
import { useResource } from '../store/resource';
import { useStore } from '../store/store';

const methods = RepairService.method;

export function OperationsPage() {
  return (
    <>
      <PageHead title="Operations" />
      <Running />
      <div class="columns"><Settings /><Scrubs /></div>
      <Servers />
      <Ended />
    </>
  );
}

function Running() {
  const live = useStore(liveOperations);
  const running = [...live.values()].filter((one) => !hasEnded(one));
  return (
    <Panel title="Running">
      {running.length === 0 ? <Empty title="Nothing runs.">Rebuilds begin by themselves when copies are missing.</Empty> : <OperationList operations={running} />}
    </Panel>
  );
}

function Settings() {
  const settings = useResource('repair settings', async (signal) => (await repair.getRepairSettings({}, { signal })).settings ?? null, onPoll);
  return (
    <Panel title="Rebuild and rebalance">
      <Loaded of={settings}>
        {(found) => found && (
          <>
            <Facts facts={[
              ['Rebuild', found.rebuildPaused ? <Badge tone="warning">paused</Badge> : <Badge tone="ok">on</Badge>],
              ['Rebalance', found.rebalancePaused ? <Badge tone="warning">paused</Badge> : <Badge tone="ok">on</Badge>],
              ['A lost copy is made anew after', formatDuration(found.rebuildDelayMs)],
              ['Placement groups at a time, onto and from a device', `${found.learnersPerTargetDevice}, ${found.learnersPerSourceDevice}`],
              ['Rate for each server', found.bytesPerSecondPerServer > 0n ? formatRate(found.bytesPerSecondPerServer) : 'no limit'],
              ['Devices are full at', `${found.fullPercent} %`],
            ]} />
            <div class="actions">
              <ActionButton method={methods.updateRepairSettings} action={() => changeRepairSettings(found)} onDone={settings.reload}>Change</ActionButton>
              <ActionButton method={methods.updateRepairSettings} action={() => pauseCopies('rebuild', !found.rebuildPaused)} onDone={settings.reload}>
                {found.rebuildPaused ? 'Resume rebuild' : 'Pause rebuild'}</ActionButton>
              <ActionButton method={methods.updateRepairSettings} action={() => pauseCopies('rebalance', !found.rebalancePaused)} onDone={settings.reload}>
                {found.rebalancePaused ? 'Resume rebalance' : 'Pause rebalance'}</ActionButton>
            </div>
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function Scrubs() {
  const pools = usePools();
  const settings = useResource('scrub settings', async (signal) => (await scrub.listScrubSettings({}, { signal })).settings, onPoll);
  return (
    <Panel title="Scrub schedules">
      <Loaded of={settings}>
        {(found) => (
          <Table caption="Scrub schedules" rows={found} keyOf={({ poolId }) => String(poolId)} columns={[
            { id: 'pool', head: 'Pool', cell: ({ poolId }) => pools.value?.find((pool) => pool.poolId === poolId)?.name ?? String(poolId) },
            { id: 'every', head: 'Every', align: 'right', cell: ({ intervalMs }) => intervalMs > 0n ? formatDuration(intervalMs) : 'never' },
            { id: 'rate', head: 'Rate for each device', align: 'right', cell: ({ bytesPerSecond }) => formatRate(bytesPerSecond) },
            { id: 'actions', head: 'Actions', cell: (one) => {
              const pool = pools.value?.find(({ poolId }) => poolId === one.poolId);
              return pool && <ActionButton quiet method={ScrubService.method.updateScrubSettings} action={() => scrubSchedule(pool, one)} onDone={settings.reload}
                label={`Change scrub schedule of ${pool.name}`}>Change</ActionButton>;
            } },
          ]} empty={<Empty title="There is no pool yet." />} />
        )}
      </Loaded>
    </Panel>
  );
}

function Servers() {
  const servers = useResource('servers', (signal) => readPages(10_000, async (pageToken) => {
    const answer = await topology.listSdss({ pageSize: 1000, pageToken }, { signal });
    return { items: answer.sdss, nextPageToken: answer.nextPageToken };
  }), onPoll);
  return (
    <Panel title="Servers: maintenance and drain">
      <Loaded of={servers}>
        {({ items }) => (
          <Table caption="Servers" rows={items} keyOf={({ sdsId }) => String(sdsId)} sortedBy="name" columns={[
            { id: 'name', head: 'Server', sort: ({ name }) => name, cell: ({ name }) => <strong>{name}</strong> },
            { id: 'state', head: 'State', sort: ({ state }) => state, cell: ({ state }) => <ComponentBadge state={state} /> },
            { id: 'maintenance', head: 'Maintenance', cell: ({ maintenanceUntilMs, maintenanceReason }) => maintenanceUntilMs > 0n
              ? <>ends <Age ms={maintenanceUntilMs} />{maintenanceReason && `: ${maintenanceReason}`}</> : <span class="muted">no</span> },
            { id: 'used', head: 'Used', align: 'right', cell: ({ devices }) => formatBytes(devices.reduce((sum, { description }) => sum + (description?.usedBytes ?? 0n), 0n)) },
            { id: 'actions', head: 'Actions', cell: (sds) => (
              <span class="row-actions">
                {sds.maintenanceUntilMs > 0n
                  ? <ActionButton quiet method={methods.exitMaintenance} action={() => exitMaintenance(sds)} onDone={servers.reload} label={`End maintenance of ${sds.name}`}>End maintenance</ActionButton>
                  : <ActionButton quiet method={methods.enterMaintenance} action={() => enterMaintenance(sds)} onDone={servers.reload} label={`Maintenance of ${sds.name}`}>Maintenance</ActionButton>}
                <ActionButton quiet method={methods.startDrain} action={() => drainSds(sds)} label={`Drain ${sds.name}`}>Drain</ActionButton>
              </span>) },
          ]} empty={<Empty title="There is no server yet." />} />
        )}
      </Loaded>
    </Panel>
  );
}

/** Counts operations that ended while one looks, so that the list below is read again then. */
const onEnded = (listener: () => void) => {
  let before = [...liveOperations.get().values()].filter(hasEnded).length;
  return liveOperations.subscribe(() => {
    const now = [...liveOperations.get().values()].filter(hasEnded).length;
    if (now !== before) listener();
    before = now;
  });
};

function Ended() {
  const list = useResource('ended operations', (signal) => readPages(2000, async (pageToken) => {
    const answer = await operations.listOperations({ pageSize: 1000, pageToken }, { signal });
    return { items: answer.operations.filter(hasEnded), nextPageToken: answer.nextPageToken };
  }), onEnded);
  return (
    <Panel title="Ended">
      <Loaded of={list}>
        {({ items }) => (
          <Table caption="Operations that have ended" rows={items} keyOf={({ operationId }) => String(operationId)} sortedBy="ended" descending pageSize={25} columns={[
            { id: 'what', head: 'Operation', sort: operationTitle, cell: operationTitle },
            { id: 'state', head: 'Result', sort: ({ state }) => state, cell: ({ state }) => <OperationBadge state={state} /> },
            { id: 'ended', head: 'Ended', sort: ({ endedMs }) => endedMs, cell: ({ endedMs }) => <Age ms={endedMs} /> },
            { id: 'took', head: 'Took', align: 'right', cell: ({ startedMs, endedMs }) => formatDuration(endedMs - startedMs) },
            { id: 'did', head: 'Did', cell: progressInWords },
          ]} empty={<Empty title="No operation has ended yet." />} />
        )}
      </Loaded>
    </Panel>
  );
}
