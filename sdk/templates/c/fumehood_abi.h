/* The contract in the canonical ABI of the component model, as far as `fumehood.h` uses it: what is imported and
 * exported, and how records and variants lie in memory. Memory for what comes in is wasi-libc's to give (`cabi_realloc`).
 * Included by `fumehood.h` only. */

#define FH_IMPORT(interface, function) __attribute__((import_module(interface), import_name(function)))
#define FH_EXPORT(name) __attribute__((export_name(name)))
#define FH_TOOLS "fumehood:tool/tools@0.1.0#"
#define FH_TYPES "wasi:http/types@0.2.12"

/* ---- Exports ---- */

typedef struct { uint8_t some; fh_text value; } fh_option_text;

typedef struct {
  fh_text name;
  fh_option_text title;
  fh_text description, input_schema;
  fh_option_text output_schema;
  uint8_t effect, read_only, destructive, open_world;
} fh_definition;
_Static_assert(sizeof(fh_definition) == 52, "as in types.wit");

typedef struct { void *at; size_t size; } fh_list;

static fh_text fh_plain(const char *text) { return (fh_text){text, strlen(text)}; }

FH_EXPORT(FH_TOOLS "definitions") fh_list *fh_definitions(void) {
  static fh_list list;
  size_t count = 0;
  while (fh_tools[count].name) count++;
  fh_definition *all = calloc(count, sizeof *all);
  if (!all) abort();
  for (size_t i = 0; i < count; i++) {
    const fh_tool *tool = &fh_tools[i];
    all[i] = (fh_definition){
      .name = fh_plain(tool->name), .description = fh_plain(tool->description), .input_schema = fh_plain(tool->input_schema),
      .effect = (uint8_t)tool->effect, .read_only = tool->read_only, .destructive = tool->destructive, .open_world = tool->open_world,
    };
    if (tool->title) all[i].title = (fh_option_text){1, fh_plain(tool->title)};
  }
  list = (fh_list){all, count};
  return &list;
}

/* One piece of content: a text. The largest other case is a blob, of 16 bytes. */
typedef struct { uint8_t kind; fh_text text; uint32_t rest[2]; } fh_content;
_Static_assert(sizeof(fh_content) == 20, "as in types.wit");

/* `result<output, failure>`. */
typedef struct {
  uint8_t failed;
  union {
    struct { fh_list content; fh_option_text structured; uint8_t is_error; } output;
    struct { uint8_t kind; union { fh_text message; struct { fh_text message; uint8_t known; uint64_t after_ms; } retry; }; } failure;
  };
} fh_outcome;
_Static_assert(sizeof(fh_outcome) == 40, "as in types.wit");

FH_EXPORT(FH_TOOLS "call")
fh_outcome *fh_call(const char *id, size_t id_size, const char *tool, size_t tool_size, const char *arguments, size_t arguments_size,
                    const char *key, size_t key_size, int64_t deadline_ms, int32_t has_locale, const char *locale, size_t locale_size) {
  static fh_outcome outcome;
  static fh_content content;
  fh_result result = fh_fail(FH_NOT_FOUND, "there is no tool %.*s", (int)tool_size, tool);
  (void)id, (void)id_size, (void)key, (void)key_size, (void)deadline_ms, (void)has_locale, (void)locale, (void)locale_size;
  for (const fh_tool *known = fh_tools; known->name; known++) {
    if (strlen(known->name) == tool_size && !memcmp(known->name, tool, tool_size)) {
      result = known->run((fh_text){arguments, arguments_size});
    }
  }
  memset(&outcome, 0, sizeof outcome);
  if (result.ok) {
    content = (fh_content){.kind = 0, .text = result.text};
    outcome.output.content = (fh_list){&content, 1};
    if (result.structured.size) outcome.output.structured = (fh_option_text){1, result.structured};
    return &outcome;
  }
  outcome.failed = 1;
  outcome.failure.kind = (uint8_t)result.kind;
  outcome.failure.message = result.message;
  if (result.kind == FH_UNAVAILABLE && result.after_ms >= 0) {
    outcome.failure.retry.known = 1;
    outcome.failure.retry.after_ms = (uint64_t)result.after_ms;
  }
  return &outcome;
}

/* ---- Imports ---- */

FH_IMPORT(FH_TYPES, "[constructor]fields") int32_t fh_fields_new(void);
FH_IMPORT(FH_TYPES, "[method]fields.get") void fh_fields_get(int32_t fields, const char *name, size_t size, fh_list *values);
FH_IMPORT(FH_TYPES, "[constructor]outgoing-request") int32_t fh_request_new(int32_t headers);
FH_IMPORT(FH_TYPES, "[method]outgoing-request.set-scheme")
int32_t fh_request_scheme(int32_t request, int32_t some, int32_t scheme, const char *other, size_t size);
FH_IMPORT(FH_TYPES, "[method]outgoing-request.set-authority")
int32_t fh_request_authority(int32_t request, int32_t some, const char *authority, size_t size);
FH_IMPORT(FH_TYPES, "[method]outgoing-request.set-path-with-query")
int32_t fh_request_path(int32_t request, int32_t some, const char *path, size_t size);
FH_IMPORT(FH_TYPES, "[method]future-incoming-response.subscribe") int32_t fh_future_subscribe(int32_t future);
FH_IMPORT(FH_TYPES, "[method]incoming-response.status") int32_t fh_response_status(int32_t response);
FH_IMPORT(FH_TYPES, "[method]incoming-response.headers") int32_t fh_response_headers(int32_t response);
FH_IMPORT("wasi:io/poll@0.2.12", "[method]pollable.block") void fh_block(int32_t pollable);

/* `result<HANDLE, error-code>`, whose cases are numbered as in `wit/deps/http.wit`. */
typedef struct { uint8_t failed; union { int32_t handle; struct { uint8_t code; uint64_t payload[3]; } error; }; } fh_sent;
_Static_assert(sizeof(fh_sent) == 40, "as in http.wit");

FH_IMPORT("wasi:http/outgoing-handler@0.2.12", "handle")
void fh_handle(int32_t request, int32_t has_options, int32_t options, fh_sent *sent);

/* `option<result<result<HANDLE, error-code>>>`. */
typedef struct { uint8_t some; struct { uint8_t taken; fh_sent answer; } it; } fh_answered;
_Static_assert(sizeof(fh_answered) == 56, "as in http.wit");

FH_IMPORT(FH_TYPES, "[method]future-incoming-response.get") void fh_future_get(int32_t future, fh_answered *answered);

/* `result<HANDLE>`, and `result<list<u8>, stream-error>`. */
typedef struct { uint8_t failed; int32_t handle; } fh_taken;
typedef struct { uint8_t failed; union { fh_list bytes; struct { uint8_t closed; int32_t error; } error; }; } fh_read;

FH_IMPORT(FH_TYPES, "[method]incoming-response.consume") void fh_response_consume(int32_t response, fh_taken *body);
FH_IMPORT(FH_TYPES, "[method]incoming-body.stream") void fh_body_stream(int32_t body, fh_taken *stream);
FH_IMPORT("wasi:io/streams@0.2.12", "[method]input-stream.blocking-read")
void fh_stream_read(int32_t stream, uint64_t most, fh_read *read);

/* ---- HTTP ---- */

static fh_result fh_refused(fh_text host, int code) {
  enum { DNS_TIMEOUT = 0, IP_PROHIBITED = 4, LIMIT_REACHED = 11, REQUEST_DENIED = 15, RESPONSE_TIMEOUT = 33 };
  if (code == REQUEST_DENIED || code == IP_PROHIBITED) {
    return fh_fail(FH_DENIED, "the request to %.*s was denied (error %d of wasi:http)", FH_SHOW(host), code);
  }
  if ((code >= DNS_TIMEOUT && code <= LIMIT_REACHED) || code == RESPONSE_TIMEOUT) {
    return fh_fail(FH_UNAVAILABLE, "%.*s cannot be reached (error %d of wasi:http)", FH_SHOW(host), code);
  }
  return fh_fail(FH_FAILED, "the request to %.*s failed (error %d of wasi:http)", FH_SHOW(host), code);
}

static int64_t fh_retry_after(int32_t response) {
  fh_list values;
  fh_fields_get(fh_response_headers(response), "retry-after", strlen("retry-after"), &values);
  if (!values.size) return -1;
  const fh_list *first = values.at;
  double seconds = fh_json_number((fh_text){first->at, first->size}, -1);
  return seconds >= 0 && seconds < 1e9 ? (int64_t)(seconds * 1000) : -1;
}

/* The body, or none of it with a failure. */
static bool fh_body(int32_t response, fh_text host, size_t most, fh_answer *answer) {
  fh_taken body, stream;
  fh_response_consume(response, &body);
  if (!body.failed) fh_body_stream(body.handle, &stream);
  if (body.failed || stream.failed) abort();
  char *at = NULL;
  for (size_t size = 0;;) {
    fh_read read;
    fh_stream_read(stream.handle, 65536, &read);
    if (read.failed && read.error.closed) return answer->body = (fh_text){at ? at : "", size}, true;
    if (read.failed) return answer->failure = fh_fail(FH_FAILED, "the answer of %.*s breaks off", FH_SHOW(host)), false;
    if (read.bytes.size > most - size) {
      return answer->failure = fh_fail(FH_FAILED, "the answer of %.*s is longer than %zu bytes", FH_SHOW(host), most), false;
    }
    if (!read.bytes.size) continue;
    at = realloc(at, size + read.bytes.size);
    if (!at) abort();
    memcpy(at + size, read.bytes.at, read.bytes.size);
    size += read.bytes.size;
  }
}

fh_answer fh_http_get(const char *url, size_t most) {
  fh_answer answer = {.retry_after_ms = -1};
  bool secure = !strncmp(url, "https://", 8);
  const char *authority = url + (secure ? 8 : 7), *path = strchr(authority, '/');
  if ((!secure && strncmp(url, "http://", 7)) || !path) {
    return answer.failure = fh_fail(FH_INVALID_ARGUMENTS, "%s is no URL", url), answer;
  }
  fh_text host = {authority, (size_t)(path - authority)};
  int32_t request = fh_request_new(fh_fields_new());
  if (fh_request_scheme(request, 1, secure ? 1 : 0, NULL, 0) || fh_request_authority(request, 1, host.at, host.size) ||
      fh_request_path(request, 1, path, strlen(path))) {
    return answer.failure = fh_fail(FH_INVALID_ARGUMENTS, "%s is no URL", url), answer;
  }
  fh_sent sent;
  fh_handle(request, 0, 0, &sent);
  if (!sent.failed) {
    fh_answered answered;
    fh_block(fh_future_subscribe(sent.handle));
    fh_future_get(sent.handle, &answered);
    sent = answered.it.answer;
  }
  if (sent.failed) return answer.failure = fh_refused(host, sent.error.code), answer;
  if (fh_body(sent.handle, host, most, &answer)) {
    answer.status = fh_response_status(sent.handle);
    answer.retry_after_ms = fh_retry_after(sent.handle);
  }
  return answer;
}
