// The dialog that makes a sandbox.

import { api } from '../api';
import { formDialog } from '../dialog';
import { field, h, select } from '../dom';
import type { NewSandbox } from '../types';
import { readEnv } from './env';

const MIB = 1024 * 1024;

export async function createSandboxDialog(created: (name: string) => void): Promise<void> {
  const known = h('datalist', { id: 'images' }, h('option', { value: 'host' }));
  // A name can be typed without the list.
  void api.images().then((images) => known.append(...images.map((image) => h('option', { value: image.name }))), () => {});

  const name = h('input', {
    name: 'name', required: true, pattern: '[a-z0-9]([a-z0-9\\-]*[a-z0-9])?', maxlength: 63, autofocus: true, autocomplete: 'off',
    spellcheck: 'false', autocapitalize: 'off', title: 'small letters, digits and hyphens',
  });
  const image = h('input', { name: 'image', list: 'images', autocomplete: 'off', spellcheck: 'false', placeholder: 'host' });
  const driver = select('driver', [
    ['oci', 'oci – container'], ['qemu', 'qemu – virtual machine'], ['docker', 'docker – container engine'],
  ]);
  const memory = h('input', { name: 'memory', type: 'number', min: 16, step: 1, placeholder: 'no limit' });
  const cpus = h('input', { name: 'cpus', type: 'number', min: 0.1, step: 0.1, placeholder: 'no limit' });
  const disk = h('input', { name: 'disk', type: 'number', min: 64, step: 1, placeholder: 'default' });
  const user = h('input', { name: 'user', autocomplete: 'off', spellcheck: 'false', placeholder: 'as the image says' });
  const network = select('network', [['', 'Default'], ['none', 'None'], ['host', 'The host’s']]);
  const env = h('textarea', { name: 'env', rows: 3, spellcheck: 'false', placeholder: 'NAME=value' });

  const diskField = field('Disk (MiB)', disk, 'Of a virtual machine.');
  const onlyMachines = () => {
    diskField.hidden = driver.value !== 'qemu';
  };
  driver.addEventListener('change', onlyMachines);
  onlyMachines();

  formDialog(
    'New sandbox',
    [
      known,
      field('Name', name),
      h('div', { class: 'pair' }, field('Driver', driver), field('Image', image, 'A name, a path of the host, or “host”.')),
      h('div', { class: 'pair' }, field('Memory (MiB)', memory), field('CPUs', cpus)),
      h('details', {}, h('summary', {}, 'More'), h('div', { class: 'stack' },
        h('div', { class: 'pair' }, field('Login user', user), field('Network', network)),
        diskField,
        field('Environment', env, 'One variable a line.'))),
    ],
    'Create',
    async () => {
      const sandbox: NewSandbox = { name: name.value, driver: driver.value };
      if (image.value.trim()) sandbox.image = image.value.trim();
      if (user.value.trim()) sandbox.user = user.value.trim();
      if (memory.value) sandbox.memory_bytes = Math.round(memory.valueAsNumber * MIB);
      if (cpus.value) sandbox.cpus = cpus.valueAsNumber;
      if (disk.value && driver.value === 'qemu') sandbox.disk_bytes = Math.round(disk.valueAsNumber * MIB);
      if (network.value) sandbox.network = network.value;
      const variables = readEnv(env.value);
      if (variables.length > 0) sandbox.env = variables;
      await api.createSandbox(sandbox);
      created(sandbox.name);
    },
  );
}
