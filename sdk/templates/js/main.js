// What the component exports. It is apart from `tool.js` so that the tests run without the imports.
import handler from "wasi:http/outgoing-handler@0.2.12";
import types from "wasi:http/types@0.2.12";
import random from "wasi:random/random@0.2.12";

import { httpOver, randomOver, serve } from "./fumehood.js";
import { forecast } from "./tool.js";

// The interpreter was started while it was built, so its own numbers would be the same in each call.
Math.random = randomOver(random);

export const tools = serve([forecast], { http: httpOver(handler, types) });
