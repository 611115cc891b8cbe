import { describe, expect, it } from 'vitest';
import { type OpenApi, bodySchema, byTag, shape } from './openapi';

const DOCUMENT: OpenApi = {
  info: { title: 'a', version: '1' },
  paths: {
    '/things': {
      post: { tags: ['things'], requestBody: { content: { 'application/json': { schema: { $ref: '#/components/schemas/Thing' } } } } },
      get: { tags: ['things'] },
    },
    '/else': { delete: {} },
  },
  components: {
    schemas: {
      Thing: {
        type: 'object',
        required: ['name'],
        properties: {
          name: { type: 'string', description: 'What it is called.\nMore.' },
          parts: { type: 'array', items: { $ref: '#/components/schemas/Thing' } },
          kind: { enum: ['a', 'b'] },
          at: { type: ['string', 'null'], format: 'date-time' },
          env: { type: 'object', additionalProperties: { type: 'string' } },
        },
      },
    },
  },
};

describe('the document of the API', () => {
  it('is sorted by tag, in its own order', () => {
    const tags = byTag(DOCUMENT);
    expect([...tags.keys()]).toEqual(['things', 'other']);
    expect(tags.get('things')?.map((entry) => `${entry.method} ${entry.path}`)).toEqual(['GET /things', 'POST /things']);
  });

  it('has schemas that can be read, and ends where one holds itself', () => {
    const schema = bodySchema(DOCUMENT.paths['/things']?.['post']?.requestBody);
    const text = shape(schema, DOCUMENT);
    expect(text).toContain('  name: string  // What it is called.\n');
    expect(text).toContain('kind?: "a" | "b"');
    expect(text).toContain('at?: string (date-time) | null');
    expect(text).toContain('[name]: string');
    expect(text).toContain('…');
    expect(shape(undefined, DOCUMENT)).toBe('anything');
  });
});
