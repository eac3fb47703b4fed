// Signing in, and the first password of one's own.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Field } from '../api/actions/action';
import { describeError, type Problem } from '../api/errors';
import { ProblemBox } from '../components/basics';
import { FieldInput } from '../components/FieldInput';
import type { User } from '../gen/tessera/v1/auth_pb';
import { changePassword, signIn, signOut } from '../store/session';
import { say } from '../components/dialogs';

const signInFields: Field[] = [
  { name: 'userName', label: 'Name', kind: 'text', required: true, autoComplete: 'username' },
  { name: 'password', label: 'Password', kind: 'password', required: true, autoComplete: 'current-password' },
];

export function SignInPage({ expired }: { expired: boolean }) {
  return (
    <main class="lone">
      <Brand />
      <h1>Sign in</h1>
      {expired && <p role="status">Your session is over. After signing in you are back where you were.</p>}
      <PlainForm fields={signInFields} submit="Sign in" onSubmit={(values) => signIn(values['userName'] ?? '', values['password'] ?? '')} />
    </main>
  );
}

const passwordFields = (oldLabel: string): Field[] => [
  { name: 'oldPassword', label: oldLabel, kind: 'password', required: true, autoComplete: 'current-password' },
  { name: 'newPassword', label: 'New password', kind: 'password', required: true, autoComplete: 'new-password', hint: '10 to 128 bytes' },
  { name: 'again', label: 'New password again', kind: 'password', required: true, autoComplete: 'new-password' },
];

export function NewcomerPage({ user }: { user: User }) {
  return (
    <main class="lone">
      <Brand />
      <h1>Choose a password</h1>
      <p>{user.userName}, the password that you signed in with was made by somebody else. Choose one that only you know.</p>
      <PasswordForm oldLabel="Present password" />
      <button type="button" class="quiet" onClick={() => void signOut()}>Sign out</button>
    </main>
  );
}

export function PasswordForm({ oldLabel = 'Present password', onDone }: { oldLabel?: string; onDone?: () => void }) {
  return (
    <PlainForm fields={passwordFields(oldLabel)} submit="Change password" onSubmit={async (values) => {
      if (values['newPassword'] !== values['again']) return 'The two new passwords differ: type the same twice.';
      await changePassword(values['oldPassword'] ?? '', values['newPassword'] ?? '');
      say('Password changed');
      onDone?.();
    }} />
  );
}

function Brand() {
  return <p class="brand"><img src="favicon.svg" alt="" width="28" height="28" />Tessera</p>;
}

/** A form outside of a dialog. `onSubmit` answers what is wrong, throws what the server says, or nothing. */
function PlainForm({ fields, submit, onSubmit }: {
  fields: Field[]; submit: string; onSubmit(values: Record<string, string>): Promise<string | void>;
}) {
  const [values, setValues] = useState<Record<string, string>>({});
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => form.current?.querySelector('input')?.focus(), []);
  const send = async (event: Event) => {
    event.preventDefault();
    const empty = fields.find(({ name }) => !values[name]);
    if (empty) {
      setProblem({ message: `${empty.label} is empty.`, code: '', reason: '', remedy: '', fields: new Map([[empty.name, 'Fill this in.']]) });
      return;
    }
    setBusy(true);
    setProblem(null);
    try {
      const wrong = await onSubmit(values);
      if (wrong) setProblem({ message: wrong, code: '', reason: '', remedy: '', fields: new Map() });
    } catch (error) {
      setProblem(describeError(error));
    }
    setBusy(false);
  };
  const errorOf = (name: string) => problem?.fields.get(name) ?? problem?.fields.get(name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
  return (
    <form ref={form} class="plain-form" onSubmit={(event) => void send(event)} noValidate>
      {fields.map((field) => (
        <FieldInput key={field.name} field={field} value={values[field.name] ?? ''} error={errorOf(field.name)} disabled={busy}
          onChange={(value) => setValues((now) => ({ ...now, [field.name]: value }))} />
      ))}
      {problem && <ProblemBox problem={problem} />}
      <button type="submit" class="primary" disabled={busy}>{busy ? 'Working…' : submit}</button>
    </form>
  );
}
