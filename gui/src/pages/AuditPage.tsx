// Who did what, from where, with what result.
import { useState } from 'preact/hooks';
import { audit } from '../api/clients';
import { describeError, type Problem } from '../api/errors';
import { Age, Badge, Empty, PageHead, ProblemBox, Skeleton } from '../components/basics';
import { Table } from '../components/Table';
import { serverNow } from '../store/clock';
import { usePaged } from '../store/paged';

const spans = [{ value: '0', label: 'At any time' }, { value: '3600000', label: 'Last hour' }, { value: '86400000', label: 'Last day' },
  { value: '604800000', label: 'Last week' }];

export function AuditPage() {
  const [userName, setUserName] = useState('');
  const [method, setMethod] = useState('');
  const [span, setSpan] = useState('0');
  const [failedOnly, setFailedOnly] = useState(false);
  const list = usePaged(`audit ${userName} ${method} ${span} ${failedOnly}`, async (pageToken, signal) => {
    const answer = await audit.listAuditEntries({
      pageSize: 100, pageToken, userName: userName.trim(), methodContains: method.trim(), failedOnly,
      fromMs: span === '0' ? 0n : BigInt(Math.floor(serverNow() - Number(span))),
    }, { signal });
    return { items: answer.entries, nextPageToken: answer.nextPageToken };
  });
  return (
    <>
      <PageHead title="Audit"><button type="button" onClick={list.reload}>Read again</button></PageHead>
      <Verification />
      <div class="toolbar">
        <label>User <input type="text" value={userName} onChange={(event) => setUserName(event.currentTarget.value)} /></label>
        <label>Method contains <input type="text" value={method} placeholder="DeleteVolume" onChange={(event) => setMethod(event.currentTarget.value)} /></label>
        <label>Done <select onChange={(event) => setSpan(event.currentTarget.value)}>{spans.map(({ value, label }) => <option key={value} value={value}>{label}</option>)}</select></label>
        <label class="check"><input type="checkbox" checked={failedOnly} onChange={(event) => setFailedOnly(event.currentTarget.checked)} /><span>Only what failed</span></label>
      </div>
      {list.problem && <ProblemBox problem={list.problem} onRetry={list.reload} />}
      {list.items === null ? !list.problem && <Skeleton lines={8} /> : (
        <Table caption="Audit entries" rows={list.items} keyOf={({ auditId }) => String(auditId)} pageSize={100} columns={[
          { id: 'id', head: 'No.', align: 'right', sort: ({ auditId }) => auditId, cell: ({ auditId }) => String(auditId) },
          { id: 'time', head: 'When', sort: ({ timeMs }) => timeMs, cell: ({ timeMs }) => <Age ms={timeMs} /> },
          { id: 'user', head: 'Who', sort: ({ userName: one }) => one, cell: ({ userName: one, credential }) => <span title={credential}>{one}</span> },
          { id: 'peer', head: 'From', sort: ({ peer }) => peer, cell: ({ peer }) => peer },
          { id: 'method', head: 'What', sort: ({ method: one }) => one, cell: ({ method: one }) => <span title={one}>{one.split('/').at(-1)}</span> },
          { id: 'request', head: 'Request', cell: ({ requestJson }) => <code class="wrap">{requestJson}</code> },
          { id: 'result', head: 'Result', sort: ({ result }) => result, cell: ({ result, errorMessage }) => result === 'OK' ? <Badge tone="ok">OK</Badge>
            : <span title={errorMessage}><Badge tone="error">{result}</Badge> <span class="muted">{errorMessage}</span></span> },
        ]} empty={<Empty title="No entry fits." />} />
      )}
      {list.more && <button type="button" disabled={list.loading} onClick={list.loadMore}>Older ones</button>}
    </>
  );
}

/** Walks the chain of hashes when asked to. */
function Verification() {
  const [found, setFound] = useState<{ text: string; whole: boolean } | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const verify = async () => {
    setBusy(true);
    setProblem(null);
    try {
      const answer = await audit.verifyAuditLog({});
      const hash = [...answer.lastHash].map((byte) => byte.toString(16).padStart(2, '0')).join('');
      setFound(answer.problem ? { text: answer.problem, whole: false } : { whole: true,
        text: `All ${answer.entries.toLocaleString('en-US')} entries are whole. Newest hash, to be kept elsewhere: ${hash}` });
    } catch (error) {
      setProblem(describeError(error));
    }
    setBusy(false);
  };
  return (
    <div class="toolbar" role="status">
      <button type="button" disabled={busy} onClick={() => void verify()}>{busy ? 'Verifying…' : 'Verify the log'}</button>
      {found && <span class="wrap"><Badge tone={found.whole ? 'ok' : 'critical'}>{found.whole ? 'whole' : 'altered'}</Badge> {found.text}</span>}
      {problem && <ProblemBox problem={problem} />}
    </div>
  );
}
