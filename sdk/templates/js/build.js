// Makes weather.wasm, or the file that COMPONENT names, of `main.js`: QuickJS with the program already loaded, so that a call begins
// where the program is. Whole, or not at all.
//
// The program is loaded while it is built, on a host that has no `wasi:http` and mistakes the one that is imported.
// So there it goes by another name, of the same length, and gets its own back at the end.
import { cp, mkdtemp, readFile, readdir, rename as move, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { componentize } from "componentize-qjs";

const NAME = "wasi:";
const MEANWHILE = "wasj:";
// The interpreter imports the newest version for itself; an import has a name of its own.
const VERSION = [/\b0\.2\.12\b/g, "0.2.11"];

const rename = (text) => text.replaceAll(NAME, MEANWHILE).replaceAll(...VERSION);

const folder = await mkdtemp(join(tmpdir(), "wit-"));
try {
  await cp("wit", folder, { recursive: true });
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.path, entry.name);
    if (entry.isFile()) await writeFile(file, rename(await readFile(file, "utf8")));
  }
  const { component } = await componentize({
    witPath: folder,
    world: "component",
    jsPath: "main.js",
    jsSource: rename(await readFile("main.js", "utf8")),
    moduleRoot: ".",
    sync: true,
  });
  for (let at; (at = component.indexOf(MEANWHILE)) >= 0; ) component.write(NAME, at);
  const file = process.env.COMPONENT ?? "weather.wasm";
  await writeFile(`${file}.partial`, component);
  await move(`${file}.partial`, file);
  console.log(`weather.wasm: ${component.length} bytes`);
} finally {
  await rm(folder, { recursive: true, force: true });
}
