// A collector of traces: OTLP over HTTP, protobuf (opentelemetry-proto, `collector/trace/v1/trace_service.proto`). It reads the
// bytes by the wire format alone, so that the gateway's library is not held against itself.

import { once } from 'node:events';
import http from 'node:http';
import { freePort } from './processes.mjs';

/** Keeps every span it is sent. */
export class Collector {
  /** `{service, name, kind, traceId, spanId, parentId, begin, end, attributes, failed}`; ids in hex, times in nanoseconds. */
  spans = [];
  /** Every request's bytes, as they came. */
  bytes = [];

  static async start(port) {
    const collector = new Collector();
    collector.port = port ?? (await freePort());
    collector.url = `http://127.0.0.1:${collector.port}`;
    collector.server = http.createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const isTraces = request.method === 'POST' && request.url === '/v1/traces' && request.headers['content-type'] === 'application/x-protobuf';
      if (isTraces) collector.#take(Buffer.concat(chunks));
      response.writeHead(isTraces ? 200 : 404, { 'content-type': 'application/x-protobuf' }).end();
    });
    collector.server.listen(collector.port, '127.0.0.1');
    await once(collector.server, 'listening');
    return collector;
  }

  async stop() {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  #take(bytes) {
    this.bytes.push(bytes);
    for (const resource of all(bytes, 1)) {
      const { 'service.name': service } = attributes(first(resource, 1), 1);
      for (const span of all(resource, 2).flatMap((scope) => all(scope, 2))) {
        this.spans.push({
          service,
          traceId: first(span, 1).toString('hex'),
          spanId: first(span, 2).toString('hex'),
          parentId: first(span, 4)?.toString('hex') ?? '',
          name: first(span, 5).toString(),
          kind: Number(first(span, 6) ?? 0),
          begin: first(span, 7),
          end: first(span, 8),
          attributes: attributes(span, 9),
          failed: Number(first(first(span, 15) ?? Buffer.alloc(0), 3) ?? 0) === 2,
        });
      }
    }
  }
}

/** The values of a field of a message: bytes as a Buffer, numbers as a BigInt. */
function all(message, field) {
  const values = [];
  let at = 0;
  const varint = () => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = message[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const key = Number(varint());
    let value;
    if ((key & 7) === 0) value = varint();
    else if ((key & 7) === 1) value = message.readBigUInt64LE((at += 8) - 8);
    else if ((key & 7) === 5) value = BigInt(message.readUInt32LE((at += 4) - 4));
    else if ((key & 7) === 2) {
      const length = Number(varint());
      value = message.subarray(at, (at += length));
    } else throw new Error(`no such wire type: ${key & 7}`);
    if (key >> 3 === field) values.push(value);
  }
  return values;
}

function first(message, field) {
  return all(message, field)[0];
}

/** Texts and whole numbers by name. */
function attributes(message, field) {
  return Object.fromEntries(
    all(message, field).map((pair) => {
      const value = first(pair, 2);
      return [first(pair, 1).toString(), first(value, 1)?.toString() ?? Number(first(value, 3))];
    }),
  );
}
