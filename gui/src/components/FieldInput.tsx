// One field of a form, with its label, hint and error tied to it for screen readers.
import type { Field } from '../api/actions/action';

export function FieldInput({ field, value, error, onChange, disabled }: {
  field: Field; value: string; error: string | undefined; onChange(value: string): void; disabled: boolean;
}) {
  const id = `field-${field.name}`;
  const described = [field.hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(' ') || undefined;
  const common = { id, disabled, 'aria-describedby': described, 'aria-invalid': error ? true : undefined, required: field.required };
  const change = (event: { currentTarget: { value: string } }) => onChange(event.currentTarget.value);
  if (field.kind === 'checkbox') {
    return (
      <div class="field">
        <label class="check" for={id}>
          <input {...common} type="checkbox" checked={value === 'yes'}
            onChange={(event) => onChange(event.currentTarget.checked ? 'yes' : '')} />
          <span>{field.label}</span>
        </label>
        {error && <p class="field-error" id={`${id}-error`}>{error}</p>}
      </div>
    );
  }
  return (
    <div class={`field ${field.width ?? ''}`}>
      <label for={id}>{field.label}</label>
      {field.kind === 'select' ? (
        <select {...common} onChange={change}>
          {field.options?.map((option) => (
            <option key={option.value} value={option.value} selected={option.value === value}>{option.label}</option>
          ))}
        </select>
      ) : field.kind === 'textarea' ? (
        <textarea {...common} rows={3} value={value} onInput={change} />
      ) : (
        <input {...common} type={field.kind === 'password' ? 'password' : 'text'} value={value} spellcheck={false}
          autocomplete={field.autoComplete ?? 'off'} autocapitalize="off"
          inputMode={field.kind === 'number' ? 'numeric' : undefined} onInput={change} />
      )}
      {field.hint && <p class="hint" id={`${id}-hint`}>{field.hint}</p>}
      {error && <p class="field-error" id={`${id}-error`}>{error}</p>}
    </div>
  );
}
