// Snapshots by schedule.
import { createSchedule, deleteSchedule, pauseSchedule, runSchedule } from '../api/actions/schedule_actions';
import { schedules } from '../api/clients';
import { ActionButton } from '../components/ActionButton';
import { Age, Badge, Empty, Loaded } from '../components/basics';
import { formatDuration } from '../components/format';
import { Table } from '../components/Table';
import { SnapshotScheduleService, type SnapshotSchedule } from '../gen/tessera/v1/schedule_pb';
import { onPoll, useVolumes } from '../store/objects';
import { readPages } from '../store/pages';
import { useResource } from '../store/resource';

const methods = SnapshotScheduleService.method;

function retentionInWords({ retention }: SnapshotSchedule): string {
  const parts: [number | undefined, string][] = [
    [retention?.keepLast, 'newest'], [retention?.keepHourly, 'hours'], [retention?.keepDaily, 'days'],
    [retention?.keepWeekly, 'weeks'], [retention?.keepMonthly, 'months'],
  ];
  return parts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`).join(', ') || 'all';
}

export function Schedules() {
  const list = useResource('schedules', (signal) => readPages(10_000, async (pageToken) => {
    const answer = await schedules.listSnapshotSchedules({ pageSize: 1000, pageToken }, { signal });
    return { items: answer.schedules, nextPageToken: answer.nextPageToken };
  }), onPoll);
  const volumes = useVolumes('', false);
  const nameOf = (id: bigint) => volumes.value?.items.find(({ volumeId }) => volumeId === id)?.name ?? String(id);
  return (
    <>
      <div class="toolbar">
        <div class="actions">
          <ActionButton method={methods.createSnapshotSchedule} action={() => createSchedule(volumes.value?.items ?? [])} onDone={list.reload}>Create schedule</ActionButton>
        </div>
      </div>
      <Loaded of={list}>
        {({ items }) => (
          <Table caption="Snapshot schedules" rows={items} keyOf={({ scheduleId }) => String(scheduleId)} sortedBy="name" columns={[
            { id: 'name', head: 'Name', sort: ({ name }) => name, cell: ({ name }) => name },
            { id: 'state', head: 'State', cell: ({ paused, lastError }) => paused ? <Badge tone="neutral">paused</Badge>
              : lastError ? <span title={lastError}><Badge tone="error">last run failed: {lastError}</Badge></span> : <Badge tone="ok">on</Badge> },
            { id: 'every', head: 'Every', align: 'right', sort: ({ intervalSeconds }) => intervalSeconds, cell: ({ intervalSeconds }) => formatDuration(intervalSeconds * 1000) },
            { id: 'volumes', head: 'Volumes', cell: ({ volumeIds, volumeLabel }) => [...volumeIds.slice(0, 3).map(nameOf), volumeIds.length > 3 && `${volumeIds.length - 3} more`, volumeLabel && `with label ${volumeLabel}`].filter(Boolean).join(', ') },
            { id: 'keeps', head: 'Keeps', cell: retentionInWords },
            { id: 'last', head: 'Last run', sort: ({ lastRunMs }) => lastRunMs, cell: ({ lastRunMs }) => <Age ms={lastRunMs} /> },
            { id: 'next', head: 'Next run', sort: ({ nextRunMs }) => nextRunMs, cell: ({ nextRunMs }) => <Age ms={nextRunMs} never="paused" /> },
            { id: 'actions', head: 'Actions', cell: (one) => (
              <span class="row-actions">
                <ActionButton quiet method={methods.runSnapshotSchedule} action={() => runSchedule(one)} label={`Run now: ${one.name}`} onDone={list.reload}>Run now</ActionButton>
                <ActionButton quiet method={methods.updateSnapshotSchedule} action={() => pauseSchedule(one)} onDone={list.reload}
                  label={`${one.paused ? 'Resume' : 'Pause'} ${one.name}`}>{one.paused ? 'Resume' : 'Pause'}</ActionButton>
                <ActionButton quiet method={methods.deleteSnapshotSchedule} action={() => deleteSchedule(one)} label={`Delete ${one.name}`} onDone={list.reload}>Delete</ActionButton>
              </span>
            ) },
          ]} empty={<Empty title="There are no schedules yet.">A schedule makes snapshots at fixed times, and deletes old ones.</Empty>} />
        )}
      </Loaded>
    </>
  );
}
