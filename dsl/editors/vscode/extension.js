// Starts `headstart lsp` for pipeline files.
const { workspace, window } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = async function () {
  const command = workspace.getConfiguration("headstart").get("path");
  const server = { command, args: ["lsp"] };
  client = new LanguageClient("headstart", "Headstart", server, {
    documentSelector: [{ language: "pllm" }],
    // Files that are imported, and those that patterns match.
    synchronize: { fileEvents: workspace.createFileSystemWatcher("**/*") },
  });
  try {
    await client.start();
  } catch (e) {
    window.showErrorMessage(
      `Headstart: cannot start \`${command} lsp\` (${e.message}). Set "headstart.path" to the headstart command.`,
    );
  }
};

exports.deactivate = () => client?.stop();
