// The parts of the gateway's OpenAPI document that a reader needs, and a schema as text.

export interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  enum?: unknown[];
  const?: unknown;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
  additionalProperties?: boolean | Schema;
}

interface Content {
  content?: Record<string, { schema?: Schema }>;
}

export interface Operation {
  tags?: string[];
  summary?: string;
  description?: string;
  parameters?: { name: string; in: string; required?: boolean; description?: string; schema?: Schema }[];
  requestBody?: Content;
  responses?: Record<string, Content & { description?: string }>;
}

export interface OpenApi {
  info: { title: string; version: string; description?: string };
  paths: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, Schema> };
}

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
/** Deeper than any of our own; a schema may hold itself. */
const DEEPEST = 6;

export interface Entry {
  method: string;
  path: string;
  operation: Operation;
}

/** The operations by tag, in the order of the document. */
export function byTag(document: OpenApi): Map<string, Entry[]> {
  const tags = new Map<string, Entry[]>();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of METHODS) {
      const operation = methods[method];
      if (!operation) continue;
      const tag = operation.tags?.[0] ?? 'other';
      const entries = tags.get(tag) ?? [];
      entries.push({ method: method.toUpperCase(), path, operation });
      tags.set(tag, entries);
    }
  }
  return tags;
}

/** The schema of a JSON body, if there is one. */
export function bodySchema(content: Content | undefined): Schema | undefined {
  return Object.entries(content?.content ?? {}).find(([kind]) => kind.includes('json'))?.[1].schema;
}

/** A schema as a person would write it down: `{ name: string, labels?: string[] }`. */
export function shape(schema: Schema | undefined, document: OpenApi, indent = '', depth = 0): string {
  if (!schema) return 'anything';
  if (depth > DEEPEST) return '…';
  if (schema.$ref) {
    const name = schema.$ref.slice(schema.$ref.lastIndexOf('/') + 1);
    const found = document.components?.schemas?.[name];
    return found ? shape(found, document, indent, depth + 1) : name;
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return choices.map((choice) => shape(choice, document, indent, depth + 1)).join(' | ');
  if (schema.allOf) return schema.allOf.map((part) => shape(part, document, indent, depth + 1)).join(' & ');
  const types = Array.isArray(schema.type) ? schema.type : [schema.type ?? (schema.properties ? 'object' : 'anything')];
  return types.map((type) => one(type, schema, document, indent, depth)).join(' | ');
}

function one(type: string, schema: Schema, document: OpenApi, indent: string, depth: number): string {
  if (type === 'array') {
    const items = shape(schema.items, document, indent, depth + 1);
    return items.includes(' | ') ? `(${items})[]` : `${items}[]`;
  }
  if (type !== 'object') return schema.format && type !== 'null' ? `${type} (${schema.format})` : type;
  const inner = `${indent}  `;
  const lines = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const optional = schema.required?.includes(name) ? '' : '?';
    const about = property.description ? `  // ${property.description.split('\n')[0]}` : '';
    return `${inner}${name}${optional}: ${shape(property, document, inner, depth + 1)}${about}`;
  });
  if (typeof schema.additionalProperties === 'object') {
    lines.push(`${inner}[name]: ${shape(schema.additionalProperties, document, inner, depth + 1)}`);
  }
  return lines.length > 0 ? `{\n${lines.join('\n')}\n${indent}}` : '{}';
}
