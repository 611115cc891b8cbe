import { defineConfig } from 'vite';

// The gateway embeds `dist` and serves it under a policy without `unsafe-inline` and without `data:`, so nothing is inlined.
export default defineConfig({
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: true,
  },
  // Development: `npm run mock` serves the API on 8099.
  server: { proxy: { '/api': { target: 'http://127.0.0.1:8099', ws: true } } },
});
