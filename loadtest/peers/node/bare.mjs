// What a WebSocket costs where nothing is built on it: the `ws` library alone. GET /heap answers the bytes of JavaScript
// heap in use, after a garbage collection (node --expose-gc).

import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const server = createServer((_request, response) => {
  global.gc();
  response.end(String(process.memoryUsage().heapUsed));
});
new WebSocketServer({ server, perMessageDeflate: false });
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 });
