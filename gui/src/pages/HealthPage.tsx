// How safe the data is: the MDM's verdict, volumes that lack copies, parts, and what happened.
import { health } from '../api/clients';
import { Age, Badge, Empty, Facts, Loaded, PageHead, Panel, Progress, type Tone } from '../components/basics';
import { formatDuration, words } from '../components/format';
import { EventBadge, kindName, PartBadge, VerdictBadge } from '../components/states';
import { Table } from '../components/Table';
import type { MonitoredComponent } from '../gen/tessera/v1/console_pb';
import { ClusterVerdict, VolumeVerdict } from '../gen/tessera/v1/health_pb';
import { useOverview } from '../store/live';
import { newestEvents } from '../store/events';
import { onPoll, useVolumeHealth } from '../store/objects';
import { useResource } from '../store/resource';
import { linkTo } from '../store/router';

const clusterTone: Record<ClusterVerdict, Tone> = {
  [ClusterVerdict.UNSPECIFIED]: 'neutral', [ClusterVerdict.OK]: 'ok', [ClusterVerdict.DEGRADED]: 'warning', [ClusterVerdict.UNAVAILABLE]: 'critical',
};

/** So many of the newest events are shown. */
const eventLimit = 500;

export function HealthPage() {
  return (
    <>
      <PageHead title="Health" />
      <Verdict />
      <Volumes />
      <Parts />
      <Events />
    </>
  );
}

function Verdict() {
  const verdict = useResource('cluster health', (signal) => health.getClusterHealth({}, { signal }), onPoll);
  return (
    <Panel title="The MDM’s verdict">
      <Loaded of={verdict}>
        {(found) => (
          <>
            <Facts facts={[
              ['Verdict', <Badge tone={clusterTone[found.verdict]}>{words(ClusterVerdict, found.verdict)}</Badge>],
              ['Placement groups with all copies', found.healthyPlacementGroups],
              ['With some copy missing', found.degradedPlacementGroups],
              ['That can’t be reached', found.unavailablePlacementGroups],
            ]} />
            {found.causes.length > 0 && (
              <ul class="causes" aria-label="Causes">{found.causes.map((cause) => <li key={cause.code + cause.message}>{cause.message} <code>{cause.code}</code></li>)}</ul>
            )}
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function Parts() {
  const components = useOverview()?.components ?? [];
  return (
    <Panel title="Parts">
      <Table<MonitoredComponent> caption="Parts" rows={components} keyOf={(part) => `${part.kind}/${part.componentId}`} columns={[
        { id: 'name', head: 'Part', sort: ({ name }) => name, cell: (part) => <><strong>{part.name}</strong> <span class="muted">{kindName(part.kind)}</span></> },
        { id: 'state', head: 'State', sort: ({ state }) => state, cell: (part) => (
          <span title={[...part.problems, part.pollError].filter(Boolean).join('\n')}><PartBadge part={part} /></span>) },
        { id: 'answer', head: 'Answered', cell: (part) => <><Age ms={part.lastAnswerMs} />{!part.answers && part.pollError && <span class="part-problem">{part.pollError}</span>}</> },
        { id: 'problems', head: 'Problems', cell: ({ problems }) => problems.length > 0 ? problems.join('; ') : <span class="muted">none</span> },
        { id: 'up', head: 'Up', align: 'right', sort: ({ uptimeMs }) => uptimeMs, cell: ({ uptimeMs }) => formatDuration(uptimeMs) },
      ]} empty={<Empty title="No part was heard of yet." />} />
    </Panel>
  );
}

function Volumes() {
  const volumes = useVolumeHealth();
  return (
    <Panel title="Volumes that lack copies">
      <Loaded of={volumes}>
        {({ items }) => {
          const ill = items.filter(({ verdict }) => verdict !== VolumeVerdict.HEALTHY);
          return (
            <Table caption="Volumes that lack copies" rows={ill} keyOf={({ volumeId }) => String(volumeId)} sortedBy="verdict" descending columns={[
              { id: 'name', head: 'Volume', sort: ({ name }) => name, cell: ({ volumeId, name }) => <a href={linkTo(['volumes', volumeId])}>{name}</a> },
              { id: 'verdict', head: 'Verdict', sort: ({ verdict }) => verdict, cell: ({ verdict }) => <VerdictBadge verdict={verdict} /> },
              { id: 'cause', head: 'Why', cell: ({ cause, unreadableBlocks }) => `${cause}${unreadableBlocks > 0n ? ` ${unreadableBlocks} blocks can’t be read` : ''}` },
              { id: 'action', head: 'What to do', cell: ({ action }) => action || <span class="muted">nothing</span> },
              { id: 'progress', head: 'Copied', cell: ({ percent, rebuilding, etaMs, name }) => (
                <span class="narrow-progress"><Progress percent={percent} label={`Copies of ${name}`} />
                  <span class="muted">{percent} %{rebuilding && etaMs > 0n && `, about ${formatDuration(etaMs)} more`}</span></span>) },
            ]} empty={<Empty title={items.length === 0 ? 'There are no volumes yet.' : `All ${items.length.toLocaleString('en-US')} volumes and snapshots have all their copies.`} />} />
          );
        }}
      </Loaded>
    </Panel>
  );
}

function Events() {
  const events = useResource('events', (signal) => newestEvents(eventLimit, async (afterEventId, pageSize) =>
    (await health.listEvents({ afterEventId, pageSize }, { signal })).events));
  return (
    <Panel title="What happened" actions={<button type="button" onClick={events.reload}>Read again</button>}>
      <Loaded of={events}>
        {(found) => (
          <Table caption="Events" rows={found} keyOf={({ eventId }) => String(eventId)} sortedBy="time" descending pageSize={25} columns={[
            { id: 'time', head: 'When', sort: ({ eventId }) => eventId, cell: ({ timeMs }) => <Age ms={timeMs} /> },
            { id: 'severity', head: 'Weight', sort: ({ severity }) => severity, cell: ({ severity }) => <EventBadge severity={severity} /> },
            { id: 'message', head: 'What', cell: ({ message }) => message },
            { id: 'code', head: 'Code', sort: ({ code }) => code, cell: ({ code }) => <code>{code}</code> },
            { id: 'about', head: 'About', cell: ({ kind, componentId }) => `${kindName(kind)}${componentId > 0n ? ` ${componentId}` : ''}` },
          ]} empty={<Empty title="Nothing has happened yet." />} />
        )}
      </Loaded>
    </Panel>
  );
}
