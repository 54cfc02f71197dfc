"use strict";
// What every page of the service needs: its words, asking the service, making elements.

const words = JSON.parse(document.body.dataset.words);
const byId = (id) => document.getElementById(id);

// why a request was refused, in the language of the page
function sentence(said) {
  const template = words[`refused_${said.code}`];
  return template === undefined ? said.error : template.replace(/\{(\w+)\}/g, (_, name) => said.values[name] ?? "");
}

async function ask(method, path, body, keepalive = false) {
  const headers = {"X-CSRF-Token": document.body.dataset.csrf};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {method, headers, body: body === undefined ? undefined : JSON.stringify(body), keepalive});
  if (answer.status === 401) location.assign("/login");
  const said = await answer.json().catch(() => ({error: answer.statusText}));
  if (!answer.ok) throw Object.assign(new Error(sentence(said) || answer.statusText), {status: answer.status});
  return said;
}

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
