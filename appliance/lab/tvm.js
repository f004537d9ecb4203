// One TVM in one process: a request a line on stdin, an answer a line on stdout, both JSON. Cells are base64 bags.
//
// node tvm.js DIRECTORY     (DIRECTORY holds emulator-emscripten.js and emulator-emscripten.wasm.js of @ton/sandbox)
//
// requests   {id, op: "config", config}                                      the configuration dictionary, first
//            {id, op: "transaction", account, message, now, lt, seed, libraries, previous_blocks, ignore_signatures}
//            {id, op: "get_method", code, data, address, balance, now, method_id, stack, gas_limit, seed, libraries}
// answers    {id, ok: …} or {id, error: "…"}
//
// The process ends when stdin closes, and when its parent is gone: nothing outlives a killed parent.
"use strict";

const path = require("path");
const readline = require("readline");

const LOG_LINES = 20;
const parent = process.ppid;
setInterval(() => process.ppid === parent || process.exit(0), 1000).unref();

const directory = process.argv[2];
const createModule = require(path.join(directory, "emulator-emscripten.js"));
const { EmulatorEmscriptenWasm } = require(path.join(directory, "emulator-emscripten.wasm.js"));

const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");

function machine(module, log) {
  let config = null;
  let emulator = 0;

  const write = (text) => {
    const size = module.lengthBytesUTF8(text) + 1;
    const pointer = module._malloc(size);
    module.stringToUTF8(text, pointer, size);
    return pointer;
  };

  // Calls an exported function; strings go to the heap of the module and are freed, its answer too.
  const call = (name, ...values) => {
    const owned = [];
    const passed = values.map((value) => {
      if (typeof value !== "string") return value;
      owned.push(write(value));
      return owned[owned.length - 1];
    });
    log.length = 0;
    const pointer = module[name](...passed);
    const result = JSON.parse(module.UTF8ToString(pointer));
    [...owned, pointer].forEach((each) => module._free(each));
    if (result.fail) throw new Error(result.message || log.join("; ") || "the emulator failed without a reason");
    return result.output;
  };

  const configured = () => {
    if (config === null) throw new Error("no configuration was set");
  };

  return {
    config: (request) => {
      if (emulator) module._destroy_emulator(emulator);
      config = request.config;
      const pointer = write(config);
      emulator = module._create_emulator(pointer, 0);
      module._free(pointer);
      if (!emulator) {
        config = null;
        throw new Error(log.join("; ") || "the configuration is not valid");
      }
      return {};
    },
    transaction: (request) => {
      configured();
      const parameters = {
        utime: request.now,
        lt: request.lt,
        rand_seed: request.seed,
        ignore_chksig: request.ignore_signatures,
        debug_enabled: false,
      };
      if (request.previous_blocks) parameters.prev_blocks_info = request.previous_blocks;
      return call(
        "_emulate_with_emulator",
        emulator,
        request.libraries || 0,
        request.account,
        request.message,
        JSON.stringify(parameters),
      );
    },
    get_method: (request) => {
      configured();
      const parameters = {
        code: request.code,
        data: request.data,
        verbosity: 0,
        libs: request.libraries || "",
        address: request.address,
        unixtime: request.now,
        balance: request.balance,
        rand_seed: request.seed,
        gas_limit: request.gas_limit,
        method_id: request.method_id,
        debug_enabled: false,
      };
      return call("_run_get_method", JSON.stringify(parameters), request.stack, config);
    },
  };
}

async function main() {
  const log = [];
  const module = await createModule({
    wasmBinary: Buffer.from(EmulatorEmscriptenWasm, "base64"),
    print: () => undefined, // stdout carries answers only
    printErr: (line) => log.length < LOG_LINES && log.push(line),
  });
  const operations = machine(module, log);
  answer({ ready: true });
  readline
    .createInterface({ input: process.stdin, crlfDelay: Infinity })
    .on("line", (line) => {
      let id = null;
      try {
        const request = JSON.parse(line);
        id = request.id;
        if (!Object.hasOwn(operations, request.op)) throw new Error(`unknown operation ${request.op}`);
        answer({ id, ok: operations[request.op](request) });
      } catch (error) {
        answer({ id, error: String((error && error.message) || error) });
      }
    })
    .on("close", () => process.exit(0));
}

main().catch((error) => {
  answer({ id: null, error: String((error && error.stack) || error) });
  process.exit(1);
});
