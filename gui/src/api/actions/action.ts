// What a person can do, as data: the form, the calls it makes, and the same in words for a shell. Pure: the dialog
// draws it, the tests try every command line.
import { create, type DescMessage, type DescMethodUnary, type Message, type MessageInitShape, type MessageShape }
  from '@bufbuild/protobuf';
import { parseDuration, parseSize } from '../../components/format';
import { FieldError } from '../errors';

export interface Field {
  name: string;
  label: string;
  kind: 'text' | 'size' | 'duration' | 'number' | 'select' | 'checkbox' | 'password' | 'textarea';
  hint?: string;
  /** What it starts with; a checkbox "yes" or "". */
  initial?: string;
  options?: { value: string; label: string }[];
  required?: boolean;
  /** The request's fields that errors about this one name; its own name in snake case unless given. */
  requestFields?: string[];
  autoComplete?: string;
  /** Fields of a half or a third of the dialog's width stand side by side. */
  width?: 'half' | 'third';
}

export type Values = Readonly<Record<string, string>>;

export interface Call {
  method: DescMethodUnary;
  request: Message;
  /** The line with the command `tessera`. */
  cli: string;
  /** What the call is about, where an action makes several. */
  subject?: string;
}

/** What an answer holds that is never shown again. */
export interface Secret {
  label: string;
  value: string;
  note: string;
}

export interface Action {
  title: string;
  intro?: string;
  /** The button that does it: a verb. */
  submit: string;
  danger?: boolean;
  /** Data is lost by it: this has to be typed first. */
  typedName?: string;
  fields: Field[];
  /** Whose access option says who may do it. */
  method: DescMethodUnary;
  /** Throws FieldError. */
  build(values: Values): Call[];
  done?: string;
  secret?(answer: Message): Secret | null;
}

/** A call with a typed request. */
export function call<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>, request: MessageInitShape<I>, cli: string, subject?: string,
): Call {
  return { method, request: create(method.input, request), cli, subject };
}

/** Reads an answer as what its method answers. */
export function answerOf<O extends DescMessage>(_method: DescMethodUnary<DescMessage, O>, answer: Message): MessageShape<O> {
  return answer as MessageShape<O>;
}

export function required(values: Values, name: string, what: string): string {
  const value = (values[name] ?? '').trim();
  if (value === '') throw new FieldError(name, `Give ${what}.`);
  return value;
}

export function sizeOf(values: Values, name: string): bigint {
  const bytes = parseSize(required(values, name, 'a size, such as 10GiB'));
  if (bytes === null) throw new FieldError(name, 'This is no size: write 512MiB, 10GiB or 1.5TiB (binary), or 10GB (decimal).');
  return bytes;
}

/** As sizeOf, and 0 for nothing. */
export function optionalSize(values: Values, name: string): bigint {
  const text = (values[name] ?? '').trim();
  return text === '' || text === '0' ? 0n : sizeOf(values, name);
}

export function durationOf(values: Values, name: string): number {
  const ms = parseDuration(required(values, name, 'a time, such as 30m'));
  if (ms === null) throw new FieldError(name, 'This is no time: write 90s, 30m, 12h or 7d.');
  return ms;
}

/** A whole number, 0 for nothing. */
export function numberOf(values: Values, name: string): number {
  const text = (values[name] ?? '').trim();
  if (text === '') return 0;
  if (!/^\d{1,9}$/.test(text)) throw new FieldError(name, 'This is no whole number.');
  return Number(text);
}

export const isChecked = (values: Values, name: string) => values[name] === 'yes';

/** "sizeBytes" of a form as "size_bytes" of a request. */
export function requestFieldsOf(field: Field): string[] {
  return field.requestFields ?? [field.name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)];
}

/** What a form starts with. */
export function initialValues(action: Action): Record<string, string> {
  return Object.fromEntries(action.fields.map((field) =>
    [field.name, field.initial ?? (field.kind === 'select' ? field.options?.[0]?.value ?? '' : '')]));
}
