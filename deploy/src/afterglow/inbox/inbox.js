// Shows new mail without a reload by hand, and empties the inbox.
const list = document.getElementById("list");

async function look() {
  try {
    const answer = await fetch("/api/version");
    const { version } = await answer.json();
    if (version !== list.dataset.version) location.reload();
  } catch {
    // the catcher is restarting; the next look will tell
  }
}

document.getElementById("clear").addEventListener("click", async () => {
  await fetch("/api/messages", { method: "DELETE" });
  location.reload();
});
setInterval(look, 2000);
