// Where the time of a volume's requests goes. Its clients are asked when this appears, when the choice changes, and by
// the button: an answer costs them time, so nothing polls.
import { answerOf } from '../api/actions/action';
import { explainLatency, latencyChoiceOf, latencyOperations, latencyWindows, queryWord, requestsInWords } from '../api/actions/latency_question';
import { callMethod } from '../api/clients';
import { LatencyOperation, LatencyService, LatencyStage, type ExplainLatencyResponse, type LatencyCause, type LatencyExample } from '../gen/tessera/v1/latency_pb';
import type { Volume } from '../gen/tessera/v1/volume_pb';
import { serverNow } from '../store/clock';
import { linkTo, setQuery, useRoute } from '../store/router';
import { useResource, type Resource } from '../store/resource';
import { Age, Empty, Loaded, Panel } from './basics';
import { Commands } from './Commands';
import { formatBytes, formatCount, formatDuration, formatMicros, formatPercent, words } from './format';
import { Table, type Column } from './Table';

interface Answer {
  response: ExplainLatencyResponse;
  /** When it came, by the server's clock. */
  atMs: number;
}

export function VolumeLatency({ volume }: { volume: Volume }) {
  const choice = latencyChoiceOf(useRoute().query);
  const question = explainLatency(volume, choice);
  const answer = useResource<Answer>(`latency ${volume.volumeId} ${choice.windowS} ${choice.operation}`, async (signal) => ({
    response: answerOf(LatencyService.method.explainLatency, await callMethod(question.method, question.request, signal)),
    atMs: serverNow(),
  }));
  return (
    <Panel title="Where the time goes" actions={<span class="muted" role="status">{answer.loading ? 'Asking the clients…' : ''}</span>}>
      <div class="toolbar">
        <div class="segments" role="group" aria-label="How far back">
          {latencyWindows.map(({ label, windowS }) => (
            <button key={label} type="button" aria-pressed={windowS === choice.windowS} onClick={() => setQuery({ window: String(windowS) })}>{label}</button>
          ))}
        </div>
        <label>Requests <select value={queryWord(choice.operation)} onChange={(event) => setQuery({ operation: event.currentTarget.value })}>
          {latencyOperations.map(({ label, operation }) => (
            <option key={label} value={queryWord(operation)} selected={operation === choice.operation}>{label}</option>
          ))}
        </select></label>
        <div class="actions"><button type="button" onClick={answer.reload}>Refresh</button></div>
      </div>
      <Outcome answer={answer} volume={volume} />
      <Commands calls={[question]} />
    </Panel>
  );
}

/** That nobody has the volume mapped is no fault: there is nothing to be asked. */
function Outcome({ answer, volume }: { answer: Resource<Answer>; volume: Volume }) {
  if (answer.problem?.code === 'FAILED_PRECONDITION') return <Empty title={answer.problem.message} />;
  return <Loaded of={answer}>{(found) => <Explanation answer={found} volume={volume} />}</Loaded>;
}

function Explanation({ answer: { response, atMs }, volume }: { answer: Answer; volume: Volume }) {
  const { summaries, causes, replicaLags, slowest, silentSdcIds } = response;
  const covered = formatDuration(response.coveredMs);
  const [worst] = causes;
  return (
    <>
      {silentSdcIds.length > 0 && (
        <p class="notice"><span>Without clients that did not answer: {silentSdcIds.map((id) => clientName(volume, id)).join(', ')}.</span></p>
      )}
      <p class="muted">The last {covered}, asked <Age ms={atMs} />.</p>
      {summaries.length === 0 ? <Empty title={`No requests in the last ${covered}.`} /> : (
        <>
          {worst && <p class="verdict info"><span><strong>{worst.sentence}</strong> What to do: {worst.advice}.</span></p>}
          <h3>What requests took</h3>
          <Table caption="What requests took" rows={summaries} keyOf={({ operation }) => String(operation)} columns={[
            { id: 'requests', head: 'Requests', cell: ({ operation }) => <strong>{requestsInWords(operation)}</strong> },
            { id: 'samples', head: 'Answered', align: 'right', cell: ({ samples }) => formatCount(samples) },
            { id: 'mean', head: 'Mean', align: 'right', cell: ({ meanMicros }) => formatMicros(meanMicros) },
            { id: 'p50', head: 'p50', align: 'right', cell: ({ p50Micros }) => formatMicros(p50Micros) },
            { id: 'p99', head: 'p99', align: 'right', cell: ({ p99Micros }) => formatMicros(p99Micros) },
            { id: 'max', head: 'Slowest', align: 'right', cell: ({ maxMicros }) => formatMicros(maxMicros) },
            { id: 'best', head: 'Best case', align: 'right', cell: ({ bestCaseMicros }) => formatMicros(bestCaseMicros) },
          ]} />
          <h3>Causes</h3>
          <p class="hint">Each has its share of all time beyond the best case, in which each stage takes the least that it took in any answer.</p>
          <Causes caption="Causes" causes={causes} empty="All requests took what they take at best." />
          {replicaLags.length > 0 && (
            <>
              <h3>Replicas that writes waited for</h3>
              <p class="hint">When the others had answered. The share is of all time, and overlaps with the causes above.</p>
              <Causes caption="Replicas that writes waited for" causes={replicaLags} empty="" />
            </>
          )}
          <h3>Slowest requests</h3>
          <Slowest examples={slowest} names={namesOf(response)} atMs={atMs} />
        </>
      )}
    </>
  );
}

function Causes({ caption, causes, empty }: { caption: string; causes: LatencyCause[]; empty: string }) {
  const columns: Column<LatencyCause>[] = [
    { id: 'share', head: 'Share', sort: ({ share }) => share, cell: ({ share }) => (
      <span class="share">
        <span class="bar" aria-hidden="true"><span class="bar-part used" style={{ width: `${Math.min(100, 100 * share)}%` }} /></span>
        <strong>{formatPercent(share, 1)}</strong>
      </span>
    ) },
    { id: 'cause', head: 'Cause', sort: causeName, cell: (cause) => (
      <span class="cause"><strong>{causeName(cause)}</strong> <span>{cause.sentence}</span> <span class="muted">What to do: {cause.advice}.</span></span>
    ) },
    { id: 'where', head: 'Where', sort: whereOf, cell: (cause) => <Where cause={cause} /> },
    { id: 'mean', head: 'Mean', align: 'right', sort: ({ meanMicros }) => meanMicros, cell: ({ meanMicros }) => formatMicros(meanMicros) },
    { id: 'p99', head: 'p99', align: 'right', sort: ({ p99Micros }) => p99Micros, cell: ({ p99Micros }) => formatMicros(p99Micros) },
  ];
  return (
    <Table caption={caption} rows={causes} columns={columns} sortedBy="share" descending pageSize={10}
      keyOf={({ operation, stage, sdsId, deviceId }) => `${operation}/${stage}/${sdsId}/${deviceId}`} empty={<Empty title={empty} />} />
  );
}

function Where({ cause }: { cause: LatencyCause }) {
  if (cause.sdsId === 0n) return <>client</>;
  return (
    <span class="where">
      <a href={linkTo(['topology'], { show: `sds/${cause.sdsId}` })}>{serverName(cause)}</a>
      {cause.deviceId > 0n && <span class="path">{cause.devicePath || `device ${cause.deviceId}`}</span>}
    </span>
  );
}

function Slowest({ examples, names, atMs }: { examples: LatencyExample[]; names: ReadonlyMap<bigint, string>; atMs: number }) {
  const rows = examples.map((example, index) => ({ example, index }));
  return (
    <Table caption="Slowest requests" rows={rows} keyOf={({ index }) => String(index)} columns={[
      { id: 'took', head: 'Took', align: 'right', cell: ({ example }) => <strong>{formatMicros(example.totalMicros)}</strong> },
      { id: 'what', head: 'Request', cell: ({ example }) => exampleInWords(example) },
      { id: 'when', head: 'When', cell: ({ example }) => <Age ms={atMs - Number(example.ageMs)} /> },
      { id: 'stages', head: 'Of it', cell: ({ example }) => (
        <ul class="stages">
          {[...example.stages].sort((a, b) => Number(b.micros - a.micros)).map(({ stage, sdsId, deviceId, micros }) => (
            <li key={`${stage}/${sdsId}/${deviceId}`}>
              {stageName(stage)} {formatMicros(micros)}{sdsId > 0n && <span class="muted"> at {names.get(sdsId) ?? `server ${sdsId}`}</span>}
            </li>
          ))}
        </ul>
      ) },
    ]} empty={<Empty title="None is remembered." />} />
  );
}

function exampleInWords({ operation, lengthBytes, offsetBytes }: LatencyExample): string {
  const kind = words(LatencyOperation, operation);
  return lengthBytes === 0n ? kind : `${kind} of ${formatBytes(lengthBytes)} at ${formatBytes(offsetBytes)}`;
}

const stageName = (stage: LatencyStage) => words(LatencyStage, stage);
/** "Writes: journal". */
const causeName = ({ operation, stage }: LatencyCause) => `${requestsInWords(operation)}: ${stageName(stage)}`;
const serverName = ({ sdsId, sdsName }: LatencyCause) => sdsName || `server ${sdsId}`;
const whereOf = (cause: LatencyCause) => cause.sdsId === 0n ? '' : `${serverName(cause)} ${cause.devicePath}`;

/** Servers by id: examples have ids alone. */
function namesOf({ causes, replicaLags }: ExplainLatencyResponse): Map<bigint, string> {
  return new Map([...causes, ...replicaLags].filter(({ sdsName }) => sdsName !== '').map(({ sdsId, sdsName }) => [sdsId, sdsName]));
}

function clientName({ mappings }: Volume, id: bigint): string {
  return mappings.find(({ sdcId }) => sdcId === id)?.sdcName ?? `client ${id}`;
}
