// Alerts: those that hold now, those of the past, what is silenced, and the rules.
import { useState } from 'preact/hooks';
import { createSilence, deleteSilence, reloadRules } from '../api/actions/people_actions';
import { alerts } from '../api/clients';
import { ActionButton } from '../components/ActionButton';
import { AlertList } from '../components/AlertList';
import { Age, Badge, Empty, Loaded, PageHead, ProblemBox, Skeleton, Tabs } from '../components/basics';
import { formatDuration, words } from '../components/format';
import { SeverityBadge } from '../components/states';
import { Table } from '../components/Table';
import { AlertService, AlertSeverity, AlertState } from '../gen/tessera/v1/alert_pb';
import { serverNow } from '../store/clock';
import { activeAlerts, onAlertChanged, useOverview } from '../store/live';
import { usePaged } from '../store/paged';
import { useResource } from '../store/resource';
import { linkTo, subjectLink, useRoute } from '../store/router';
import { useStore } from '../store/store';

const methods = AlertService.method;

export function AlertsPage() {
  const tab = useRoute().query.get('tab') ?? 'active';
  return (
    <>
      <PageHead title="Alerts">
        <ActionButton method={methods.createSilence} action={() => createSilence()}>Silence</ActionButton>
      </PageHead>
      <Tabs label="Kinds of alerts" current={tab} tabs={[
        { id: 'active', label: 'Active', href: linkTo(['alerts']) },
        { id: 'history', label: 'History', href: linkTo(['alerts'], { tab: 'history' }) },
        { id: 'silences', label: 'Silences', href: linkTo(['alerts'], { tab: 'silences' }) },
        { id: 'rules', label: 'Rules', href: linkTo(['alerts'], { tab: 'rules' }) },
      ]} />
      {tab === 'history' ? <History /> : tab === 'silences' ? <Silences /> : tab === 'rules' ? <Rules /> : <Active />}
    </>
  );
}

function Active() {
  const overview = useOverview();
  const active = useStore(activeAlerts);
  const worstFirst = [...active.values()].sort((a, b) => b.severity - a.severity || Number(b.raisedMs - a.raisedMs));
  if (overview === null) return <Skeleton />;
  return (
    <div aria-live="polite">
      {worstFirst.length === 0 ? <Empty title="No alerts are active.">They turn up here by themselves.</Empty> : <AlertList alerts={worstFirst} />}
    </div>
  );
}

const spans = [{ value: '0', label: 'At any time' }, { value: '86400000', label: 'Last day' }, { value: '604800000', label: 'Last week' },
  { value: '2592000000', label: 'Last 30 days' }];

function History() {
  const [severity, setSeverity] = useState(AlertSeverity.UNSPECIFIED);
  const [rule, setRule] = useState('');
  const [subject, setSubject] = useState('');
  const [span, setSpan] = useState('0');
  const list = usePaged(`alerts ${severity} ${rule} ${subject} ${span}`, async (pageToken, signal) => {
    const answer = await alerts.listAlerts({
      pageSize: 100, pageToken, includeResolved: true, severityMin: severity, rule: rule.trim(), subject: subject.trim(),
      fromMs: span === '0' ? 0n : BigInt(Math.floor(serverNow() - Number(span))),
    }, { signal });
    return { items: answer.alerts, nextPageToken: answer.nextPageToken };
  }, (listener) => onAlertChanged(listener));
  return (
    <>
      <div class="toolbar">
        <label>Severity <select onChange={(event) => setSeverity(Number(event.currentTarget.value))}>
          {[AlertSeverity.UNSPECIFIED, AlertSeverity.WARNING, AlertSeverity.ERROR, AlertSeverity.CRITICAL].map((one) => (
            <option key={one} value={one}>{one === 0 ? 'All' : `${words(AlertSeverity, one)} and worse`}</option>))}
        </select></label>
        <label>Raised <select onChange={(event) => setSpan(event.currentTarget.value)}>
          {spans.map(({ value, label }) => <option key={value} value={value}>{label}</option>)}</select></label>
        <label>Rule <input type="text" value={rule} placeholder="part-down" onChange={(event) => setRule(event.currentTarget.value)} /></label>
        <label>Subject <input type="text" value={subject} placeholder="sds/3" onChange={(event) => setSubject(event.currentTarget.value)} /></label>
      </div>
      {list.problem && <ProblemBox problem={list.problem} onRetry={list.reload} />}
      {list.items === null ? !list.problem && <Skeleton /> : (
        <Table caption="Alerts of the past" rows={list.items} keyOf={({ alertId }) => String(alertId)} pageSize={100} columns={[
          { id: 'severity', head: 'Severity', sort: ({ severity: one }) => one, cell: ({ severity: one }) => <SeverityBadge severity={one} /> },
          { id: 'summary', head: 'Alert', cell: (alert) => <a href={subjectLink(alert.subject)}>{alert.summary}</a> },
          { id: 'rule', head: 'Rule', sort: ({ rule: one }) => one, cell: ({ rule: one }) => <code>{one}</code> },
          { id: 'state', head: 'State', sort: ({ state }) => state, cell: ({ state }) => words(AlertState, state) },
          { id: 'raised', head: 'Raised', sort: ({ raisedMs }) => raisedMs, cell: ({ raisedMs }) => <Age ms={raisedMs} /> },
          { id: 'lasted', head: 'Lasted', align: 'right', cell: ({ raisedMs, resolvedMs }) => resolvedMs > 0n ? formatDuration(resolvedMs - raisedMs) : 'still' },
          { id: 'by', head: 'Taken care of by', cell: ({ acknowledgedBy, comment }) => <span title={comment}>{acknowledgedBy || <span class="muted">nobody</span>}</span> },
        ]} empty={<Empty title="No alert fits." />} />
      )}
      {list.more && <button type="button" disabled={list.loading} onClick={list.loadMore}>Older ones</button>}
    </>
  );
}

function Silences() {
  const silences = useResource('silences', async (signal) => (await alerts.listSilences({}, { signal })).silences, (listener) => onAlertChanged(listener));
  return (
    <Loaded of={silences}>
      {(items) => (
        <Table caption="Silences" rows={items} keyOf={({ silenceId }) => String(silenceId)} columns={[
          { id: 'rule', head: 'Rule', cell: ({ rule }) => rule ? <code>{rule}</code> : 'all' },
          { id: 'subject', head: 'Subject', cell: ({ subject }) => subject || 'all' },
          { id: 'ends', head: 'Ends', sort: ({ endsMs }) => endsMs, cell: ({ endsMs }) => <Age ms={endsMs} /> },
          { id: 'by', head: 'By', cell: ({ createdBy }) => createdBy },
          { id: 'why', head: 'Why', cell: ({ comment }) => comment },
          { id: 'actions', head: 'Actions', cell: (silence) => (
            <ActionButton quiet method={methods.deleteSilence} action={() => deleteSilence(silence)} onDone={silences.reload}
              label={`End silence of ${silence.rule || silence.subject}`}>End</ActionButton>) },
        ]} empty={<Empty title="Nothing is silenced.">A silence keeps alerts from being sent out while somebody works.</Empty>} />
      )}
    </Loaded>
  );
}

function Rules() {
  const rules = useResource('rules', async (signal) => (await alerts.listAlertRules({}, { signal })).rules);
  return (
    <>
      <div class="toolbar"><div class="actions">
        <ActionButton method={methods.reloadAlertRules} action={reloadRules} onDone={rules.reload}>Reload rules</ActionButton>
      </div></div>
      <Loaded of={rules}>
        {(items) => (
          <Table caption="Alert rules" rows={items} keyOf={({ rule }) => rule} sortedBy="rule" columns={[
            { id: 'rule', head: 'Rule', sort: ({ rule }) => rule, cell: ({ rule, fromFile, disabled }) => (
              <><code>{rule}</code> {disabled && <Badge tone="neutral">off</Badge>}{fromFile && <span class="muted"> from the rules file</span>}</>) },
            { id: 'severity', head: 'Severity', sort: ({ severity }) => severity, cell: ({ severity }) => <SeverityBadge severity={severity} /> },
            { id: 'condition', head: 'Condition', cell: ({ condition }) => <code class="wrap">{condition}</code> },
            { id: 'after', head: 'Raised after', align: 'right', cell: ({ raiseAfterMs }) => formatDuration(raiseAfterMs) },
            { id: 'resolve', head: 'Resolved after', align: 'right', cell: ({ resolveAfterMs }) => formatDuration(resolveAfterMs) },
            { id: 'remedy', head: 'What to do', cell: ({ remedy }) => remedy },
          ]} empty={<Empty title="There are no rules." />} />
        )}
      </Loaded>
    </>
  );
}
