// The API's own document, to be read.

import { api } from '../api';
import { type Child, fill, h } from '../dom';
import { pageHead } from '../frame';
import { type Entry, type OpenApi, bodySchema, byTag, shape } from '../openapi';
import type { Page } from '../router';
import { failureLine } from './parts';

export function referencePage(): Page {
  const failure = failureLine();
  const body = h('div', {}, h('p', { class: 'empty', role: 'status' }, 'Loading…'));
  void failure.guard(async () => {
    const document = await api.document();
    fill(body, ...[...byTag(document)].map(([tag, entries]) =>
      h('section', {}, h('h2', {}, tag), ...entries.map((entry) => operation(entry, document)))));
  });
  return {
    title: 'API',
    view: h('section', {},
      pageHead('API', 'Everything below /api/v1. Send an API key as “Authorization: Bearer …”.'),
      failure.view,
      h('p', { class: 'links' }, h('a', { href: '/api/v1/openapi.json', target: '_blank', rel: 'noopener' }, 'The OpenAPI document')),
      body),
  };
}

function operation({ method, path, operation }: Entry, document: OpenApi): HTMLElement {
  const said = (operation.summary ?? operation.description ?? '').split('\n')[0] ?? '';
  const parts: Child[] = [];
  if (operation.description && operation.description !== said) parts.push(h('p', {}, operation.description));
  if (operation.parameters?.length) {
    parts.push(h('h3', {}, 'Parameters'), h('ul', {}, ...operation.parameters.map((parameter) => h('li', {},
      h('code', {}, parameter.name), ` (${parameter.in}${parameter.required ? '' : ', may be left out'}): `,
      shape(parameter.schema, document), parameter.description ? ` – ${parameter.description}` : ''))));
  }
  const body = bodySchema(operation.requestBody);
  if (body) parts.push(h('h3', {}, 'Body'), h('pre', { tabindex: 0 }, shape(body, document)));
  for (const [status, response] of Object.entries(operation.responses ?? {})) {
    if (!status.startsWith('2')) continue;
    const schema = bodySchema(response);
    parts.push(h('h3', {}, `Answer ${status}`), schema ? h('pre', { tabindex: 0 }, shape(schema, document))
      : h('p', {}, response.description || 'No content.'));
  }
  return h('details', { class: 'operation' },
    h('summary', {}, h('code', {}, `${method} ${path}`), ' ', said), ...parts);
}
