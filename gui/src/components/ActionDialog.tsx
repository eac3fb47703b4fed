// The dialog of any action: form, typed confirmation, the same by command, errors next to their fields, and what is
// shown once.
import type { Message } from '@bufbuild/protobuf';
import { useMemo, useRef, useState } from 'preact/hooks';
import { callMethod } from '../api/clients';
import { initialValues, requestFieldsOf, type Action, type Call, type Secret } from '../api/actions/action';
import { describeError, type Problem } from '../api/errors';
import { useStore } from '../store/store';
import { ProblemBox, Progress } from './basics';
import { Commands } from './Commands';
import { Dialog } from './Dialog';
import { openAction, say, type OpenAction } from './dialogs';
import { FieldInput } from './FieldInput';

export function ActionDialogs() {
  const open = useStore(openAction);
  return open && <ActionDialog key={open.number} open={open} />;
}

interface Failure {
  subject: string;
  problem: Problem;
}

/** Makes the calls one after the other; one that fails does not keep the others from being made. */
async function makeCalls(calls: Call[], onProgress: (done: number) => void) {
  const answers: Message[] = [];
  const failures: Failure[] = [];
  for (const [index, { method, request, subject }] of calls.entries()) {
    try {
      answers.push(await callMethod(method, request));
    } catch (error) {
      failures.push({ subject: subject ?? '', problem: describeError(error) });
    }
    onProgress(index + 1);
  }
  return { answers, failures };
}

/** Errors of the request's fields by the form's fields, and those that no field takes. */
function errorsByField(action: Action, problem: Problem | undefined) {
  const errors = new Map<string, string>();
  const rest: string[] = [];
  for (const [name, text] of problem?.fields ?? []) {
    const field = action.fields.find((one) => one.name === name || requestFieldsOf(one).includes(name));
    if (field) errors.set(field.name, text);
    else rest.push(`${name}: ${text}`);
  }
  return { errors, rest };
}

function ActionDialog({ open: { action, onDone } }: { open: OpenAction }) {
  const [values, setValues] = useState(() => initialValues(action));
  const [typed, setTyped] = useState('');
  const [failures, setFailures] = useState<Failure[]>([]);
  const [progress, setProgress] = useState<{ done: number; of: number } | null>(null);
  const [secret, setSecret] = useState<Secret | null>(null);
  const form = useRef<HTMLFormElement>(null);
  const calls = useMemo(() => {
    try {
      return action.build(values);
    } catch {
      return null;
    }
  }, [action, values]);
  const close = () => openAction.set(null);
  const busy = progress !== null;
  const confirmed = action.typedName === undefined || typed === action.typedName;
  const { errors, rest } = errorsByField(action, failures[0]?.problem);

  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy || !confirmed) return;
    let wanted: Call[];
    try {
      wanted = action.build(values);
    } catch (error) {
      fail([{ subject: '', problem: describeError(error) }]);
      return;
    }
    setFailures([]);
    setProgress({ done: 0, of: wanted.length });
    const { answers, failures: failed } = await makeCalls(wanted, (done) => setProgress({ done, of: wanted.length }));
    setProgress(null);
    if (answers.length > 0) onDone?.(answers);
    if (failed.length > 0) return fail(failed);
    if (action.done) say(action.done);
    const shown = answers[0] && action.secret?.(answers[0]);
    if (shown) setSecret(shown);
    else close();
  };
  const fail = (failed: Failure[]) => {
    setFailures(failed);
    requestAnimationFrame(() => form.current?.querySelector<HTMLElement>('[aria-invalid]')?.focus());
  };

  if (secret) return <SecretDialog secret={secret} onClose={close} />;
  return (
    <Dialog title={action.title} onClose={close} busy={busy}>
      <form ref={form} onSubmit={(event) => void submit(event)} noValidate>
        <div class="dialog-body">
          {action.intro && <p>{action.intro}</p>}
          {action.fields.map((field) => (
            <FieldInput key={field.name} field={field} value={values[field.name] ?? ''} error={errors.get(field.name)}
              disabled={busy} onChange={(value) => setValues((now) => ({ ...now, [field.name]: value }))} />
          ))}
          {action.typedName !== undefined && (
            <div class="field">
              <label for="typed-name">Type <strong>{action.typedName}</strong> to confirm</label>
              <input id="typed-name" type="text" autocomplete="off" spellcheck={false} value={typed} disabled={busy}
                onInput={(event) => setTyped(event.currentTarget.value)} />
            </div>
          )}
          <Failures failures={failures} covered={errors.size > 0 && rest.length === 0} rest={rest} />
          {progress && <Progress percent={progress.of > 1 ? (100 * progress.done) / progress.of : null} label={action.title} />}
          <Commands calls={calls} />
        </div>
        <footer class="dialog-foot">
          <button type="button" onClick={close} disabled={busy}>Cancel</button>
          <button type="submit" class={action.danger ? 'danger' : 'primary'} disabled={busy || !confirmed}>
            {busy ? 'Working…' : action.submit}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** What failed. An error whose every word stands next to a field already is said to screen readers only. */
function Failures({ failures, covered, rest }: { failures: Failure[]; covered: boolean; rest: string[] }) {
  if (failures.length === 0) return null;
  if (failures.length === 1 && failures[0]) {
    const { subject, problem } = failures[0];
    if (covered) return <p class="hidden" role="alert">{[...problem.fields.values()].join(' ')}</p>;
    const message = [subject && `${subject}: `, problem.message, rest.length > 0 ? ` ${rest.join(' ')}` : ''].join('');
    return <ProblemBox problem={{ ...problem, message }} />;
  }
  return (
    <div class="problem" role="alert">
      <p><strong>{failures.length} calls failed; the others are done.</strong></p>
      <ul>{failures.map(({ subject, problem }) => <li key={subject}><strong>{subject}</strong>: {problem.message}</li>)}</ul>
    </div>
  );
}

function SecretDialog({ secret, onClose }: { secret: Secret; onClose(): void }) {
  return (
    <Dialog title={secret.label} onClose={onClose}>
      <div class="dialog-body">
        <p>{secret.note}</p>
        <div class="field">
          <label for="secret">{secret.label}</label>
          <input id="secret" type="text" readOnly value={secret.value} onFocus={(event) => event.currentTarget.select()} />
        </div>
      </div>
      <footer class="dialog-foot"><button type="button" class="primary" onClick={onClose}>Done</button></footer>
    </Dialog>
  );
}
