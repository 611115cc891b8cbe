// Images that sandboxes can be made of by name.

import { api } from '../api';
import { formDialog } from '../dialog';
import { button, field, h } from '../dom';
import { bytes } from '../format';
import { pageHead } from '../frame';
import { notice } from '../notice';
import { poll } from '../poll';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { Image } from '../types';
import { failureLine } from './parts';
import { removeButton } from './remove-button';

const EVERY_MS = 15_000;

export function imagesPage(): Page {
  const failure = failureLine();
  const list = table<Image>('Images', [
    { title: 'Name', cell: (image) => h('strong', { class: 'break' }, image.name) },
    { title: 'For', cell: (image) => image.platform },
    { title: 'Size', cell: (image) => bytes(image.size), kind: 'numeric' },
    { title: 'Digest', cell: (image) => h('code', { class: 'break' }, image.digest), kind: 'wide' },
    { title: 'Added', cell: (image) => time(image.added_at) },
    { title: 'Actions', cell: (image) => can('admin') ? h('div', { class: 'buttons' }, removal(image)) : null, kind: 'act' },
  ], (image) => image.name, 'There is no image. A sandbox can be made of “host” without one.');
  const refresh = poll(EVERY_MS, () => failure.guard(async () => list.show(await api.images())));

  function removal(image: Image): HTMLElement {
    return removeButton({
      kind: 'image',
      name: image.name,
      text: `“${image.name}” is removed from the store.`,
      remove: () => api.removeImage(image.name),
      removed: () => refresh.now(),
    });
  }

  const pull = can('admin') && button('Pull an image', () => pullDialog(() => refresh.now()), { class: 'primary' });
  return {
    title: 'Images',
    view: h('section', {}, pageHead('Images', 'From registries and files, for the drivers oci and qemu.', pull), failure.view, list.view),
    leave: refresh.stop,
  };
}

function pullDialog(pulled: () => void): void {
  const name = h('input', {
    name: 'name', required: true, autocomplete: 'off', spellcheck: 'false', autofocus: true, placeholder: 'docker.io/library/debian:12',
  });
  formDialog('Pull an image', [field('Name', name, 'It may take minutes; leave this open.')], 'Pull', async () => {
    await api.pullImage(name.value.trim());
    notice('The image was pulled.');
    pulled();
  });
}
