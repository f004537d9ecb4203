// Compiles one Tolk program: a JSON object on stdin, a JSON object on stdout.
//
// node tolk.js DIRECTORY     (DIRECTORY is the dist folder of @ton/tolk-js)
//
// request    {entry: "worker.tolk", files: {"worker.tolk": "…", …}}
// answer     {version, code} (code: base64 bag of cells) or {error: "…"}
"use strict";

const path = require("path");

async function compile(directory, { entry, files }) {
  const compiler = require(path.join(directory, "index.js"));
  const result = await compiler.runTolkCompiler({
    entrypointFileName: entry,
    fsReadCallback: (name) => {
      if (!Object.hasOwn(files, name)) throw new Error(`there is no source file ${name}`);
      return files[name];
    },
    optimizationLevel: 2,
  });
  if (result.status === "error") return { error: result.message };
  return { version: await compiler.getTolkCompilerVersion(), code: result.codeBoc64 };
}

let text = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (piece) => (text += piece));
process.stdin.on("end", () => {
  compile(process.argv[2], JSON.parse(text))
    .catch((error) => ({ error: String((error && error.message) || error) }))
    .then((answer) => process.stdout.write(JSON.stringify(answer) + "\n"));
});
