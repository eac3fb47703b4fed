// The same call as a line for a shell: with the command `tessera`, and with grpcurl.
import { toJson, type DescMethodUnary, type Message } from '@bufbuild/protobuf';

/** A word as a shell takes it. */
export function quote(word: string): string {
  if (word !== '' && /^[A-Za-z0-9_./:=@%+,-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** "tessera volume create a --size 1GiB"; words that are undefined are left out. */
export function tessera(...words: (string | number | bigint | undefined)[]): string {
  const given = words.filter((word) => word !== undefined).map((word) => quote(String(word)));
  return ['tessera', ...given].join(' ');
}

/** The grpcurl line of a call to MGMT. Secrets in it are replaced by a variable's name. */
export function grpcurl(method: DescMethodUnary, request: Message, tls: boolean): string {
  const json = JSON.stringify(hideSecrets(toJson(method.input, request)));
  return [
    'grpcurl', ...(tls ? [] : ['-plaintext']), '-H "authorization: Bearer $TESSERA_TOKEN"',
    ...(json === '{}' ? [] : ['-d', quote(json)]),
    '$TESSERA_MGMT', `${method.parent.typeName}/${method.name}`,
  ].join(' ');
}

function hideSecrets(value: unknown): unknown {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) =>
    [name, /password$/i.test(name) && typeof inner === 'string' ? '***' : hideSecrets(inner)]));
}
