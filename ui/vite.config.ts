import { readFileSync } from 'node:fs';
import { type Plugin, defineConfig } from 'vite';

/** The licences of what ends up in `dist`; minified code has lost its notices. */
function licenses(): Plugin {
  return {
    name: 'licenses',
    apply: 'build',
    generateBundle() {
      const read = (path: string) => readFileSync(new URL(path, import.meta.url), 'utf8');
      const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> };
      const texts = Object.entries(dependencies).map(([name, version]) => `${name} ${version}\n\n${read(`node_modules/${name}/LICENSE`)}`);
      this.emitFile({ type: 'asset', fileName: 'assets/licenses.txt', source: texts.join('\n\n----\n\n') });
    },
  };
}

// The gateway embeds `dist` and serves it under a policy without `unsafe-inline` and without `data:`, so nothing is inlined.
export default defineConfig({
  plugins: [licenses()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // Development: `npm run mock` serves the API on 8099.
  server: { proxy: { '/api': { target: 'http://127.0.0.1:8099', ws: true } } },
});
