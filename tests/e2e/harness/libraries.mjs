// The third-party clients that the end-to-end tests use, for tests in other folders: a package is found from the folder
// of the file that names it, and these are installed here only.

export { default as axios } from 'axios';
export { default as mysql } from 'mysql2/promise';
export { io } from 'socket.io-client';
export { default as WebSocket } from 'ws';
