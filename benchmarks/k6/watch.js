// 200 users, each watching a key of its own and setting it: the time from the set to `changed`.
//
//   k6 run -e NUN_URL=ws://127.0.0.1:3012/ -e NUN_DATABASE=demo -e NUN_TOKEN=demo-token watch.js
//
// or `python -m benchmarks k6`, which starts a node for it.

import { check } from "k6";
import { Counter, Trend } from "k6/metrics";
import ws from "k6/ws";

const URL = __ENV.NUN_URL || "ws://127.0.0.1:3012/";
const DATABASE = __ENV.NUN_DATABASE || "demo";
const TOKEN = __ENV.NUN_TOKEN || "demo-token";
const USERS = Number(__ENV.USERS || 200);
const SECONDS = Number(__ENV.SECONDS || 30);
const PAUSE_MS = Number(__ENV.PAUSE_MS || 100);

const timeToChanged = new Trend("time_to_changed", true);
const changes = new Counter("changes");
const errors = new Counter("errors");

export const options = {
  vus: USERS,
  duration: `${SECONDS}s`,
  thresholds: {
    errors: ["count==0"],
    time_to_changed: ["p(99)<50"],
    checks: ["rate==1"],
  },
};

export default function () {
  const key = `k6-${__VU}`;
  const response = ws.connect(URL, null, (socket) => {
    let sent = 0;
    let turn = 0;
    let expected = "";

    const setNext = () => {
      turn += 1;
      expected = `changed ${key} ${turn}`;
      sent = Date.now();
      socket.send(`set ${key} ${turn}`);
    };

    socket.on("open", () => {
      socket.send(`use-db ${DATABASE} ${TOKEN};watch ${key}`);
      socket.setTimeout(setNext, 200);
      socket.setTimeout(() => socket.close(), SECONDS * 1000);
    });

    socket.on("message", (message) => {
      const text = message.trimEnd();
      if (text.startsWith("error")) {
        errors.add(1);
      } else if (text === expected) {
        timeToChanged.add(Date.now() - sent);
        changes.add(1);
        socket.setTimeout(setNext, PAUSE_MS);
      }
    });

    socket.on("error", () => errors.add(1));
  });
  check(response, { "upgraded to WebSocket": (r) => r && r.status === 101 });
}
