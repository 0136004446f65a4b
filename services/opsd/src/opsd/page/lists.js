// The tables of containers and pods.

import { age, bytes, cores, imageName } from "./format.js";
import { badge, containerState, lasted, podName, podState, troubled } from "./states.js";
import { h, say } from "./dom.js";
import { filters } from "./filters.js";
import { sparkline } from "./chart.js";
import { store } from "./store.js";
import { Table } from "./table.js";

const text = (value) => (cell) => (row) => say(cell, value(row));
const last = (values) => values?.at(-1) ?? -1;

const CONTAINER_STATES = {
  all: () => true,
  running: (container) => container.state === "running",
  ended: (container) => container.state === "exited",
  attention: troubled,
};

const POD_STATES = { all: () => true, ready: (pod) => pod.state === "ready", "not ready": (pod) => pod.state !== "ready", failed: (pod) => pod.state === "failed" };

function stated(state) {
  return (cell) => {
    const show = badge(cell);
    return (row) => show(state(row));
  };
}

/** On a narrow screen the pod stands behind the name. */
function named(cell) {
  const [name, pod] = [document.createTextNode(""), h("span.inpod")];
  cell.append(name, pod);
  return (row) => {
    if (name.data !== row.name) name.data = row.name;
    say(pod, podName(row.pod));
  };
}

/** A line and its present value; `read` takes the row and gives its history. */
function used(read, format, bound) {
  return (cell) => {
    const line = sparkline(72, 18);
    const value = h("b");
    cell.append(value, line.element);
    return (row) => {
      const values = read(row);
      say(value, values?.length ? format(values.at(-1)) : "");
      line.draw(values, Math.max(bound, ...(values ?? [])));
    };
  };
}

export function containers(params) {
  const cpu = (row) => store.useOf(row)?.cpu;
  const memory = (row) => store.useOf(row)?.memory;
  const table = new Table({
    href: (row) => `#/containers/${row.id}`,
    sort: { id: "age", down: false },
    empty: "No container fits.",
    columns: [
      { id: "state", title: "State", width: "112px", middle: "104px", narrow: "100px", sort: (row) => containerState(row)[0], make: stated(containerState) },
      { id: "name", title: "Name", width: "minmax(90px,1.4fr)", narrow: "minmax(0,1fr)", sort: (row) => row.name, make: named },
      { id: "pod", title: "Pod", width: "minmax(100px,1.6fr)", middle: "minmax(70px,1.4fr)", sort: (row) => podName(row.pod), make: text((row) => podName(row.pod)), wide: true },
      { id: "image", title: "Image", width: "minmax(100px,1.6fr)", middle: "minmax(70px,1.4fr)", sort: (row) => row.image, make: text((row) => imageName(row.image)), wide: true },
      { id: "node", title: "Node", width: "minmax(70px,0.8fr)", sort: (row) => row.node, make: text((row) => row.node), wide: true },
      { id: "cpu", title: "CPU", width: "140px", middle: "56px", down: true, number: true, wide: true, sort: (row) => last(cpu(row)), make: used(cpu, cores, 50) },
      { id: "memory", title: "Memory", width: "152px", middle: "74px", down: true, number: true, wide: true, sort: (row) => last(memory(row)), make: used(memory, bytes, 1 << 20) },
      { id: "age", title: "Since", width: "62px", middle: "58px", narrow: "52px", number: true, sort: (row) => -(row.finished || row.started || row.created), make: text(lasted) },
    ],
  });
  const words = (row) => `${row.name} ${row.id} ${podName(row.pod)} ${row.image} ${row.node} ${containerState(row)[0]}`;
  return list("Containers", "containers", params, table, () => store.containers, CONTAINER_STATES, words);
}

export function pods(params) {
  const cpu = (row) => store.useOfPod(row.id)?.cpu;
  const memory = (row) => store.useOfPod(row.id)?.memory;
  const table = new Table({
    href: (row) => `#/pods/${row.id}`,
    sort: { id: "age", down: false },
    empty: "No pod fits.",
    columns: [
      { id: "state", title: "State", width: "112px", middle: "92px", narrow: "92px", sort: (row) => row.state, make: stated(podState) },
      { id: "name", title: "Pod", width: "minmax(120px,2fr)", middle: "minmax(80px,2fr)", narrow: "minmax(0,2fr)", sort: (row) => `${row.namespace}/${row.name}`, make: text((row) => `${row.namespace}/${row.name}`) },
      { id: "members", title: "Containers", width: "minmax(70px,1fr)", middle: "minmax(68px,0.6fr)", narrow: "minmax(0,1fr)", sort: (row) => -store.members(row.id).length, make: dots },
      { id: "ips", title: "Address", width: "minmax(110px,1fr)", middle: "minmax(84px,1fr)", sort: (row) => row.ips[0] ?? "", make: text((row) => (row.host_network ? "host network" : row.ips.join(" "))), wide: true },
      { id: "handler", title: "Handler", width: "84px", middle: "52px", sort: (row) => row.handler, make: text((row) => row.handler || "default"), wide: true },
      { id: "node", title: "Node", width: "minmax(70px,0.8fr)", middle: "minmax(50px,0.8fr)", sort: (row) => row.node, make: text((row) => row.node), wide: true },
      { id: "cpu", title: "CPU", width: "140px", middle: "56px", down: true, number: true, wide: true, sort: (row) => last(cpu(row)), make: used(cpu, cores, 50) },
      { id: "memory", title: "Memory", width: "152px", middle: "74px", down: true, number: true, wide: true, sort: (row) => last(memory(row)), make: used(memory, bytes, 1 << 20) },
      { id: "age", title: "Age", width: "62px", middle: "46px", narrow: "46px", number: true, sort: (row) => -row.created, make: text((row) => age(store.now() - row.created)) },
    ],
  });
  const words = (row) => `${row.namespace}/${row.name} ${row.id} ${row.ips.join(" ")} ${row.node} ${row.handler}`;
  return list("Pods", "pods", params, table, () => store.pods, POD_STATES, words);
}

function dots(cell) {
  let shown = "";
  return (row) => {
    const tones = store.members(row.id).map((each) => containerState(each)[1]);
    if (tones.join() === shown) return;
    shown = tones.join();
    cell.replaceChildren(...tones.map((tone) => h(`i.dot.${tone}`)));
  };
}

function list(title, path, params, table, rows, states, words) {
  const bar = filters({ path, params, choices: { state: Object.keys(states) } });
  const element = h("div.list", {}, bar.element, table.element);
  const update = () => {
    const { q = "", state = "all" } = bar.values();
    const wanted = q.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = states[state] ?? states.all;
    const found = [...rows().values()].filter((row) => fits(row) && wanted.every((word) => words(row).toLowerCase().includes(word)));
    bar.count(found.length, rows().size);
    table.set(found);
  };
  bar.onchange = update;
  return { element, update, title, focus: bar.focus, move: (step) => table.move(step), chosen: () => table.chosen() };
}
