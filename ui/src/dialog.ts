// Modal dialogs: the browser's own, so that Esc closes them and the focus comes back.

import { type Child, button, h, unique } from './dom';

interface Shown {
  dialog: HTMLDialogElement;
  close: () => void;
}

/** Shows `content` under a heading. It is taken out of the document when it closes, and all that it showed with it. */
export function showDialog(title: string, content: Child[], closed: () => void = () => {}): Shown {
  const heading = h('h2', { id: unique('dialog') }, title);
  const dialog = h('dialog', { 'aria-labelledby': heading.id }, heading, ...content);
  dialog.addEventListener('close', () => {
    dialog.remove();
    closed();
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, close: () => dialog.close() };
}

/** Asks before something that cannot be taken back. */
export function confirmDialog(question: { title: string; text: string; action: string }): Promise<boolean> {
  return new Promise((resolve) => {
    let answer = false;
    const cancel = button('Cancel', () => shown.close(), { autofocus: true });
    const go = button(question.action, () => {
      answer = true;
      shown.close();
    }, { class: 'danger' });
    const shown = showDialog(
      question.title,
      [h('p', {}, question.text), h('div', { class: 'actions' }, cancel, go)],
      () => resolve(answer),
    );
  });
}

/** A form in a dialog. `submit` may throw an error, whose message is then shown in it. */
export function formDialog(
  title: string,
  content: Child[],
  action: string,
  submit: (form: HTMLFormElement) => Promise<void>,
): Shown {
  const problem = h('p', { class: 'problem', role: 'alert', hidden: true });
  const send = h('button', { type: 'submit', class: 'primary' }, action);
  const form = h(
    'form',
    { on: { submit: (event) => void run(event) } },
    ...content,
    problem,
    h('div', { class: 'actions' }, button('Cancel', () => shown.close()), send),
  );
  async function run(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    send.disabled = true;
    problem.hidden = true;
    try {
      await submit(form);
      shown.close();
    } catch (error) {
      problem.textContent = error instanceof Error ? error.message : String(error);
      problem.hidden = false;
    } finally {
      send.disabled = false;
    }
  }
  const shown = showDialog(title, [form]);
  return shown;
}
