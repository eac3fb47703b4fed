// A button that begins an action. Who may not do it sees it, and why not, and can't press it.
import type { DescMethod, Message } from '@bufbuild/protobuf';
import { mayCall, roleFor } from '../store/access';
import { useRole } from '../store/session';
import type { Action } from '../api/actions/action';
import { start } from './dialogs';

interface Props {
  /** Its access option says who may. */
  method: DescMethod;
  action: () => Action;
  children: string;
  onDone?: (answers: Message[]) => void;
  primary?: boolean;
  danger?: boolean;
  quiet?: boolean;
  disabled?: boolean;
  /** Why it is disabled. */
  why?: string;
  label?: string;
}

export function ActionButton({ method, action, children, onDone, primary, danger, quiet, disabled, why, label }: Props) {
  const allowed = mayCall(useRole(), method);
  const title = allowed ? (disabled ? why : undefined) : `Needs the role ${roleFor(method)}`;
  return (
    <button type="button" data-change="" class={primary ? 'primary' : danger ? 'danger' : quiet ? 'quiet' : ''} title={title}
      aria-label={label} disabled={!allowed || disabled} onClick={() => start(action(), onDone)}>
      {children}
    </button>
  );
}
