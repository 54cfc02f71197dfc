"use strict";
byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const answer = await fetch("/api/login", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({user: form.user.value, password: form.password.value}),
  });
  if (answer.ok) location.assign("/");
  else byId("said").textContent = sentence(await answer.json());
});
