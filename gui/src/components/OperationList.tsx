// Operations with how far they are.
import { OperationKind, OperationService, type Operation } from '../gen/tessera/v1/operation_pb';
import { cancelOperation } from '../api/actions/repair_actions';
import { hasEnded } from '../store/live';
import { operationTitle, percentOf, progressInWords } from '../store/operations';
import { ActionButton } from './ActionButton';
import { Age, Progress } from './basics';
import { OperationBadge } from './states';

export function OperationList({ operations }: { operations: Operation[] }) {
  return (
    <ul class="operations" aria-label="Operations">
      {operations.map((operation) => <OperationItem key={String(operation.operationId)} operation={operation} />)}
    </ul>
  );
}

function OperationItem({ operation }: { operation: Operation }) {
  const title = operationTitle(operation);
  const percent = percentOf(operation);
  const cancellable = operation.kind === OperationKind.DRAIN || operation.kind === OperationKind.SCRUB;
  return (
    <li class="operation">
      <div class="operation-head">
        <OperationBadge state={operation.state} />
        <strong>{title}</strong>
        <span class="muted">began <Age ms={operation.startedMs} /></span>
        {cancellable && !hasEnded(operation) && (
          <ActionButton method={OperationService.method.cancelOperation} action={() => cancelOperation(operation)} quiet
            label={`Cancel ${title}`}>Cancel</ActionButton>
        )}
      </div>
      <Progress percent={percent} label={title} />
      <p class="figures">{progressInWords(operation)}</p>
      {operation.lastError && <p class="remedy">{operation.lastError}{operation.retries > 0 && ` (${operation.retries} retries)`}</p>}
    </li>
  );
}
